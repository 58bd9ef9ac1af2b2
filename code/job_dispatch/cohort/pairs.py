"""Pairs: a derived asset and the raw one that it was made from, in one job."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from job_dispatch.cohort.duplicates import latest
from job_dispatch.cohort.excluding import is_excluded
from job_dispatch.left_out import LeftOut
from job_dispatch.messages import RequestError, counted, logger, warn_listing
from job_dispatch.metadata.records import Filter, MetadataSource, Record, asset_of, value_of
from job_dispatch.model import Asset, Group
from job_dispatch.request.exclusions import Exclusions

DERIVED, RAW = "derived", "raw"
FIELDS = ("@raw", "data_description.data_level", "@created")
KIND = "without its raw asset"
_NAMES_A_QUERY = 500

Found = tuple[Asset, Record]


class Paired(NamedTuple):
    """Groups that hold pairs, and by the `_id` of each derived asset those of its raw ones."""

    groups: list[Group]
    partners: Mapping[str, tuple[str, ...]]


def with_raw(
    metadata: MetadataSource,
    groups: Sequence[Group],
    records: Mapping[str, Record],
    fields: Sequence[str],
    skip_errors: bool,
    exclusions: Exclusions,
    left_out: LeftOut,
) -> Paired:
    """Return the groups with each derived asset followed by its raw one.

    Raw assets among them are left out: they come with what was made from them. So are pairs whose raw asset
    is excluded.

    Parameters
    ----------
    records : dict
        The records of all assets of the groups by `_id`, with `FIELDS`.
    fields : sequence of str
        What to read of the records of raw assets.

    Raises
    ------
    RequestError
        A derived asset has no raw one and `skip_errors` is false, or none has one.
    """
    assets = {asset.record_id: asset for group in groups for asset in group.assets}
    raw = [asset for asset in assets.values() if _is_raw(records[asset.record_id])]
    if raw:
        left_out.add("raw, taken with what was made from it", *raw)
        logger.info("--with_raw=1: %s that were selected by themselves left out", counted(len(raw), "raw asset"))
    alone = {asset.record_id for asset in raw}
    derived = [asset for asset in assets.values() if asset.record_id not in alone]
    known = _by_name(metadata, (name for asset in derived for name in _raw_names(records[asset.record_id])), fields)
    partners, missing = {}, {}
    for asset in derived:
        names = _raw_names(records[asset.record_id])
        found = [raw for name in names for raw in _raw_assets(name, known, frozenset())]
        if reason := _reason(names, found):
            missing[asset.record_id] = (asset, reason)
        else:
            partners[asset.record_id] = tuple(dict.fromkeys(raw for raw in found if raw is not None))
    _report(missing.values(), len(derived), skip_errors, left_out)
    excluded = {raw for raw, record in known.values() if is_excluded(record, exclusions)}
    torn = [one for one, raws in partners.items() if not excluded.isdisjoint(raws)]
    reason = f"its raw asset is excluded by {exclusions.place}"
    left_out.add("excluded", *(assets[one] for one in torn), reason=reason)
    for one in torn:
        del partners[one]
    paired = [replace(group, assets=tuple(_with_partners(group, partners))) for group in groups]
    ids = {derived: tuple(one.record_id for one in raws) for derived, raws in partners.items()}
    return Paired([group for group in paired if group.assets], ids)


def may_lack_files(partners: Mapping[str, Sequence[str]], with_files: set[str]) -> set[str]:
    """Return the assets, by `_id`, that need no matching file since another one of their pair has some."""
    pairs = [(derived, *raws) for derived, raws in partners.items()]
    return {member for pair in pairs if not with_files.isdisjoint(pair) for member in pair}


def whole(
    groups: Sequence[Group], partners: Mapping[str, Sequence[str]], located: frozenset[str], left_out: LeftOut
) -> list[Group]:
    """Return the groups without pairs of which one asset could not be located."""
    kept = {one: raws for one, raws in partners.items() if located.issuperset((one, *raws))}
    members = {member for one, raws in kept.items() for member in (one, *raws)}
    torn = {asset for group in groups for asset in group.assets if asset.record_id in located.difference(members)}
    left_out.add("without the other asset of its pair", *sorted(torn, key=lambda asset: asset.name))
    found = []
    for group in groups:
        raws = {raw for asset in group.assets for raw in kept.get(asset.record_id, ())}
        assets = tuple(one for one in group.assets if one.record_id in kept or one.record_id in raws)
        if assets:
            found.append(replace(group, assets=assets))
    return found


def _is_raw(record: Record) -> bool:
    return value_of(record, "data_description.data_level") == "raw" and not _raw_names(record)


def _raw_names(record: Record) -> list[str]:
    value = value_of(record, "@raw")
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str) and one]


def _by_name(metadata: MetadataSource, names: Iterable[str], fields: Sequence[str]) -> dict[str, Found]:
    """Return the assets of these names, and of those that they were made from, as far as there are records."""
    known: dict[str, Found] = {}
    asked: set[str] = set()
    while wanted := list(dict.fromkeys(name for name in names if name not in asked)):
        asked.update(wanted)
        new = []
        for record in _read(metadata, wanted, fields):
            found = (asset_of(record), record)
            name = record["name"]
            known[name] = max(known.get(name, found), found, key=latest)
            new.append(record)
        names = [name for record in new if not _is_origin(record) for name in _raw_names(record)]
    return known


def _read(metadata: MetadataSource, names: Sequence[str], fields: Sequence[str]) -> Iterator[Record]:
    step = _NAMES_A_QUERY if metadata.is_database else len(names)
    for start in range(0, len(names), step):
        query: Filter = {"name": {"$in": list(names[start : start + step])}}
        for page in metadata.find(query, fields):
            yield from page


def _is_origin(record: Record) -> bool:
    return value_of(record, "data_description.data_level") != DERIVED or not _raw_names(record)


def _raw_assets(name: str, known: Mapping[str, Found], through: frozenset[str]) -> Iterator[Asset | None]:
    """Yield what an asset of this name was made from in the first place: itself where that is raw; None if unknown."""
    if name not in known or name in through:
        yield None
        return
    asset, record = known[name]
    if _is_origin(record):
        yield asset
        return
    for further in _raw_names(record):
        yield from _raw_assets(further, known, through | {name})


def _reason(names: Sequence[str], found: Sequence[Asset | None]) -> str:
    if not names:
        return "its record names no raw asset"
    return f"no record of its raw asset {', '.join(names)}" if None in found else ""


def _with_partners(group: Group, partners: Mapping[str, Sequence[Asset]]) -> Iterator[Asset]:
    there: set[str] = set()
    for asset in group.assets:
        if asset.record_id not in partners:
            continue
        yield replace(asset, role=DERIVED)
        for raw in partners[asset.record_id]:
            if raw.record_id not in there:
                there.add(raw.record_id)
                yield replace(raw, role=RAW)


def _report(missing: Iterable[tuple[Asset, str]], number: int, skip_errors: bool, left_out: LeftOut) -> None:
    told = list(missing)
    for asset, reason in told:
        left_out.add(KIND, asset, reason=reason)
    if not number:
        raise RequestError("--with_raw=1: no derived asset is selected; raw ones come with what was made from them")
    if not told:
        return
    headline = f"--with_raw=1: {len(told):,} of {counted(number, 'derived asset')} {KIND}"
    details = [f"{asset.name}: {reason}" for asset, reason in told]
    if len(told) == number:
        raise RequestError(headline, details)
    if not skip_errors:
        raise RequestError(f"{headline}; go on without them by --skip_errors=1", details)
    warn_listing(f"{headline}; skipped:", details)

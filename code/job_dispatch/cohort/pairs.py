"""Pairs: a derived asset and the raw one that it was made from, in one job."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from job_dispatch.cohort.duplicates import latest
from job_dispatch.cohort.excluding import is_excluded
from job_dispatch.messages import RequestError, carrying, counted, logger, warn_listing
from job_dispatch.metadata.records import Filter, MetadataSource, Record, asset_of, value_of
from job_dispatch.model import Asset, Group, Reason, Skipped
from job_dispatch.request.exclusions import Exclusions

DERIVED, RAW = "derived", "raw"
FIELDS = ("@raw", "data_description.data_level", "@created")
_NAMES_A_QUERY = 500

Found = tuple[Asset, Record]


class Paired(NamedTuple):
    """Groups that hold pairs, by the `_id` of each derived asset those of its raw ones, and what is in no pair."""

    groups: list[Group]
    partners: Mapping[str, tuple[str, ...]]
    skipped: list[Skipped]


def with_raw(
    metadata: MetadataSource,
    groups: Sequence[Group],
    records: Mapping[str, Record],
    fields: Sequence[str],
    skip_errors: bool,
    exclusions: Exclusions,
) -> Paired:
    """Return the groups with each derived asset followed by its raw one.

    Raw assets among them are skipped: they come with what was made from them. So are pairs whose raw asset
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
    raw = {asset.record_id: asset for asset in assets.values() if _is_raw(records[asset.record_id])}
    if raw:
        logger.info("--with_raw=1: %s that were selected by themselves skipped", counted(len(raw), "raw asset"))
    derived = [asset for asset in assets.values() if asset.record_id not in raw]
    known = _by_name(metadata, (name for asset in derived for name in _raw_names(records[asset.record_id])), fields)
    partners, missing = {}, []
    for asset in derived:
        names = _raw_names(records[asset.record_id])
        found = [raw for name in names for raw in _raw_assets(name, known, frozenset())]
        if reason := _reason(names, found):
            missing.append(Skipped.asset(Reason.NO_RAW, asset, reason))
        else:
            partners[asset.record_id] = tuple(dict.fromkeys(raw for raw in found if raw is not None))
    skipped = [*(Skipped.asset(Reason.RAW_OF_A_PAIR, asset) for asset in raw.values()), *missing]
    with carrying(skipped):
        _report(missing, len(derived), skip_errors)
    excluded = {raw for raw, record in known.values() if is_excluded(record, exclusions)}
    torn = [one for one, raws in partners.items() if not excluded.isdisjoint(raws)]
    detail = f"its raw asset is excluded by {exclusions.place}"
    skipped += [Skipped.asset(Reason.EXCLUDED, assets[one], detail) for one in torn]
    for one in torn:
        del partners[one]
    paired = [replace(group, assets=tuple(_with_partners(group, partners))) for group in groups]
    ids = {derived: tuple(one.record_id for one in raws) for derived, raws in partners.items()}
    return Paired([group for group in paired if group.assets], ids, skipped)


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


def _report(missing: Sequence[Skipped], number: int, skip_errors: bool) -> None:
    if not number:
        raise RequestError("--with_raw=1: no derived asset is selected; raw ones come with what was made from them")
    if not missing:
        return
    have = "has" if len(missing) == 1 else "have"
    headline = f"--with_raw=1: {len(missing):,} of {counted(number, 'derived asset')} {have} no raw asset"
    details = [f"{one.name}: {one.detail}" for one in missing]
    if len(missing) == number:
        raise RequestError(headline, details)
    if not skip_errors:
        raise RequestError(f"{headline}; --skip_errors=1 skips them", details)
    warn_listing(f"{headline}; skipped:", details)

"""Pairs: a derived asset and the raw one that it was made from, in one job."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from job_dispatch.messages import RequestError, carrying, counted, logger, warn_listing
from job_dispatch.metadata.records import (
    LEVEL,
    Filter,
    MetadataSource,
    Record,
    asset_of,
    known_as,
    latest_of_asset,
    level_of,
    value_of,
)
from job_dispatch.model import Asset, Group, Reason, Skipped
from job_dispatch.request.fields import Query
from job_dispatch.request.selection import Exclusions

DERIVED, RAW = "derived", "raw"
FIELDS = ("@raw", LEVEL, "@created")
_NAMES_A_QUERY = 500

Found = tuple[Asset, Record]
Known = Mapping[str, Sequence[Found]]


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
    partners, missing, by_bucket = {}, [], []
    for asset in derived:
        origins = origins_of(asset, records[asset.record_id], known)
        by_bucket += origins.by_bucket
        if reason := origins.reason:
            missing.append(Skipped.asset(Reason.NO_RAW, asset, reason))
        else:
            partners[asset.record_id] = tuple(origins.raw.values())
    if by_bucket:
        headline = (
            "--with_raw=1: several assets have the name of a raw one; that in the bucket of the derived is taken:"
        )
        warn_listing(headline, by_bucket)
    skipped = [*(Skipped.asset(Reason.RAW_OF_A_PAIR, asset) for asset in raw.values()), *missing]
    with carrying(skipped):
        _report(missing, len(derived), skip_errors)
    excluded = {
        raw.record_id: place
        for same in known.values()
        for raw, record in same
        if (place := exclusions.place_of(*known_as(record)))
    }
    torn = {one: excluded[raw.record_id] for one, raws in partners.items() for raw in raws if raw.record_id in excluded}
    skipped += [
        Skipped.asset(Reason.EXCLUDED, assets[one], f"its raw asset is excluded by {place}")
        for one, place in torn.items()
    ]
    for one in torn:
        del partners[one]
    paired = [replace(group, assets=tuple(_with_partners(group, partners))) for group in groups]
    ids = {derived: tuple(one.record_id for one in raws) for derived, raws in partners.items()}
    return Paired([group for group in paired if group.assets], ids, skipped)


def _is_raw(record: Record) -> bool:
    return level_of(record) == RAW and not _raw_names(record)


def _raw_names(record: Record) -> list[str]:
    """Return the names, or locations, of what an asset was made from, each once."""
    value = value_of(record, "@raw")
    names = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str) and one]
    return list(dict.fromkeys(name.rstrip("/") for name in names))


def _by_name(metadata: MetadataSource, names: Iterable[str], fields: Sequence[str]) -> Known:
    """Return the assets of these names, and of those that they were made from, as far as there are records.

    Of an asset that is registered twice there is one record.
    """
    known: dict[str, dict[str, Found]] = {}
    asked: set[str] = set()
    while wanted := list(dict.fromkeys(name for name in map(_name_in, names) if name not in asked)):
        asked.update(wanted)
        further: list[str] = []
        for record in _read(metadata, wanted, fields):
            found = (asset_of(record), record)
            same = known.setdefault(record["name"], {})
            same[found[0].location] = max(same.get(found[0].location, found), found, key=latest_of_asset)
            further += () if _is_origin(record) else _raw_names(record)
        names = further
    return {name: list(same.values()) for name, same in known.items()}


def _name_in(text: str) -> str:
    """Return the name that a name or a location gives."""
    return text.rpartition("/")[2] if "://" in text else text


def _read(metadata: MetadataSource, names: Sequence[str], fields: Sequence[str]) -> Iterator[Record]:
    step = _NAMES_A_QUERY if metadata.is_database else len(names)
    for start in range(0, len(names), step):
        query: Filter = {"name": {"$in": list(names[start : start + step])}}
        for page in metadata.find(Query.of(query), fields):
            yield from page


def _is_origin(record: Record) -> bool:
    return level_of(record) != DERIVED or not _raw_names(record)


@dataclass
class Origins:
    """What an asset was made from in the first place: raw assets by `_id`, or why they are not known.

    `by_bucket` has a line for each asset that was chosen by its bucket.
    """

    raw: dict[str, Asset]
    by_bucket: list[str]
    reason: str = ""


def origins_of(asset: Asset, record: Record, known: Known) -> Origins:
    """Follow what an asset was made from to the raw assets, each name once.

    A name without a record is no fault where it begins with that of a raw asset that was found: it is one of those
    between the two.
    """
    names = _raw_names(record)
    found = Origins({}, [])
    if not names:
        found.reason = "its record names no raw asset"
        return found
    left, missing = list(names), []
    seen = set(left)
    while left:
        name = left.pop(0)
        same = _named(name, known)
        near = [one for one in same if _bucket(one[0]) == _bucket(asset)] if len(same) > 1 else same
        if not near:
            missing.append(name)
        if len(near) != 1 and same:
            places = ", ".join(sorted(one.location for one, _ in same))
            found.reason = f"several assets are named {_name_in(name)}: {places}"
            return found
        for source, source_record in near:
            if len(same) > 1:
                found.by_bucket.append(f"{asset.name}: {source.location}")
            if _is_origin(source_record):
                found.raw[source.record_id] = source
            else:
                further = [one for one in _raw_names(source_record) if one not in seen]
                seen.update(further)
                left += further
    roots = tuple(f"{raw.name}_" for raw in found.raw.values())
    missing = [name for name in missing if not (roots and _name_in(name).startswith(roots))]
    if missing:
        found.reason = f"no record of its raw asset {', '.join(missing)}"
    elif not found.raw:
        found.reason = f"no raw asset is behind {', '.join(names)}"
    return found


def _named(text: str, known: Known) -> Sequence[Found]:
    """Return the assets that a name or a location means."""
    same = known.get(_name_in(text), ())
    return [one for one in same if one[0].location == text] if "://" in text else same


def _bucket(asset: Asset) -> str:
    return asset.location.partition("://")[2].partition("/")[0]


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

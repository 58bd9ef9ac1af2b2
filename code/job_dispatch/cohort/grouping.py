"""Which of the selected records count, and which are analysed together: the latest, groups, pairs of derived and raw.

It works on the projected records, so that DocDB and a catalog behave the same and no answer is too large.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

from job_dispatch.frames import is_number
from job_dispatch.messages import RequestError, carrying, counted, logger, skip_or_refuse, warn_listing
from job_dispatch.metadata.diagnosis import known_fields, suggestion
from job_dispatch.metadata.records import (
    LEVEL,
    Filter,
    Found,
    MetadataSource,
    Record,
    asset_of,
    batches,
    known_as,
    latest_of_asset,
    level_of,
    read,
    value_at,
    value_of,
)
from job_dispatch.model import Asset, Group, Reason, Skipped
from job_dispatch.request import fields
from job_dispatch.request.fields import LONG_AGO, Query, instant, of_number
from job_dispatch.request.flags import Settings
from job_dispatch.request.json_text import is_unicode
from job_dispatch.request.selection import Exclusions, Selection

_DATES_IN_NAMES = re.compile(r"\d{4}-\d{2}-\d{2}(?:_\d{2}-\d{2}-\d{2})?")
DERIVED, RAW = "derived", "raw"
PAIR_FIELDS = ("@raw", LEVEL, "@created")
_NAMES_A_QUERY = 500

Known = Mapping[str, Sequence[Found]]
# The number of a record, and its values by field; where lists are unwound there are several of one record.
_Row = tuple[int, dict[str, Any]]


class Arranged(NamedTuple):
    """Groups in the order of their values, the assets skipped, and how often an asset is in a further group."""

    groups: list[Group]
    without_value: list[Asset]
    not_latest: list[Asset]
    in_several: int


def grouped(
    metadata: MetadataSource, selection: Selection, found: Sequence[Found], asked: Settings
) -> tuple[list[Group], list[Skipped]]:
    """Return the groups, and the assets that are in none; the log reports what was skipped and chosen.

    Raises RequestError if no record has a value of a field, or none is left.
    """
    assets, records = [asset for asset, _ in found], [record for _, record in found]
    examples = selection.query.filter if selection.query and not selection.table else {"_id": assets[0].record_id}
    names = asked.grouping_fields
    if without_value := [name for name in names if all(value_of(record, name) is None for record in records)]:
        _refuse_unknown(metadata, examples, without_value, asked.drop_null_groups)
    groups, no_value, not_latest, in_several = arrange(assets, records, asked)
    skipped = [Skipped.asset(Reason.NO_VALUE, asset) for asset in no_value]
    skipped += [Skipped.asset(Reason.NOT_LATEST, asset) for asset in not_latest]
    if no_value:
        named = ", ".join(dict.fromkeys((*asked.group_by, *asked.filter_by)))
        headline = f"{counted(len(no_value), 'record')} without a value of {named} skipped:"
        warn_listing(headline, [asset.name for asset in no_value])
    with carrying(skipped):
        if not groups:
            raise RequestError("no record has a value of every field to group by; --drop_null_groups=0 keeps them all")
        if wrong := next((group for group in groups if not is_unicode(group.metadata)), None):
            raise RequestError(f"--group_by: a value of the asset {wrong.assets[0]} holds text with a lone surrogate")
    if not_latest:
        logger.info("%s skipped: not the latest by %s", counted(len(not_latest), "record"), asked.filter_latest)
    if asked.group_by:
        logger.info("%s of %s", counted(len(groups), "group"), counted(len(assets), "record"))
    if in_several:
        logger.info("unwinding put assets into more than one group %s", counted(in_several, "time"))
    return groups, skipped


def _refuse_unknown(metadata: MetadataSource, examples: Filter, without_value: Sequence[str], drop_nulls: bool) -> None:
    """Refuse fields of which no record has a value, except those that are null where null is a value."""
    known = known_fields(metadata, examples)
    if unknown := [field for field in without_value if known.keys().isdisjoint(fields.paths(field))]:
        details = [f"{field}   {suggestion(field, known)}".rstrip() for field in unknown]
        raise RequestError("no selected record has a value of these fields; correct their names", details)
    if drop_nulls:
        details = [f"{field}   is null in every record" for field in without_value]
        raise RequestError("no selected record has a value of these fields; --drop_null_groups=0 keeps nulls", details)


def arrange(assets: Sequence[Asset], records: Sequence[Record], asked: Settings) -> Arranged:
    """Return the groups that the assets fall into; `records` are theirs, in the same order."""
    names = asked.grouping_fields
    rows = [(number, {name: value_of(record, name) for name in names}) for number, record in enumerate(records)]
    with_value = _without_nulls(rows, (*asked.group_by, *asked.filter_by)) if asked.drop_null_groups else rows
    latest = with_value
    if asked.filter_latest is not None:
        latest = _latest(with_value, assets, records, asked.filter_latest, asked.filter_by)
    unwound = latest
    spread = dict.fromkeys((*asked.unwind_list_fields, *(name for name in asked.group_by if name in fields.SPREAD)))
    for name in sorted(spread, key=lambda name: name.count(".")):  # what is above spreads first
        unwound = list(_unwound(unwound, name, names))
    if asked.drop_null_groups:  # an empty list, or a null in a list, is no value either
        unwound = _without_nulls(unwound, asked.group_by)

    def left_out(before: Sequence[_Row], after: Sequence[_Row]) -> list[Asset]:
        kept = {number for number, _ in after}
        return [assets[number] for number in dict.fromkeys(number for number, _ in before) if number not in kept]

    if asked.group_by:
        groups = _groups(unwound, assets, asked.group_by)
    else:
        groups = [Group((assets[number],)) for number, _ in latest]
    return Arranged(
        groups,
        left_out(rows, with_value) + left_out(latest, unwound),
        left_out(with_value, latest),
        sum(len(group.assets) for group in groups) - len({number for number, _ in unwound}),
    )


def _without_nulls(rows: Iterable[_Row], names: Sequence[str]) -> list[_Row]:
    return [row for row in rows if all(row[1][name] is not None for name in names)]


def _latest(
    rows: Sequence[_Row], assets: Sequence[Asset], records: Sequence[Record], field: str, keys: Sequence[str]
) -> list[_Row]:
    """Keep the row with the greatest value for each key; rows where a key is null are all kept.

    Of several with that value it is the one whose record was made last, then the one with the latest date in its name,
    then the one with the greatest `_id`. A warning reports choices that a user must know about.
    """
    ranked = _without_nulls(rows, keys)
    kept = {number for number, _ in rows} - {number for number, _ in ranked}
    ties, mixed, as_dates = 0, [], []
    for same_key in _by_key(ranked, keys):
        values = {number: row[field] for number, row in same_key}
        if any(map(instant, values.values())):
            dates = {number: of_number(value) for number, value in values.items() if is_number(value)}
            as_dates += [f"{assets[number].name}: {values[number]} is {date}" for number, date in dates.items() if date]
            values |= {number: f"{date.isoformat()}" for number, date in dates.items() if date}
        ranks = {number: _rank(value) for number, value in values.items()}
        greatest = max(ranks.values())
        same = [number for number, rank in ranks.items() if rank == greatest]
        newest = max(same, key=lambda number: _made(assets[number], records[number])) if len(same) > 1 else same[0]
        kept.add(newest)
        ties += len(same) > 1
        if len({kind for kind, _ in ranks.values() if kind}) > 1:
            shown = ", ".join(f"{assets[number].name} has {value!r}" for number, value in values.items())
            mixed.append(f"{assets[newest].name} is taken: {shown}")
    flag = f"--filter_latest={field}"
    if as_dates:
        warn_listing(f"{flag}: numbers beside dates are read as seconds or milliseconds since 1970:", as_dates)
    if mixed:
        number = counted(len(mixed), "choice")
        warn_listing(f"{flag}: {number} between values that cannot be compared:", mixed)
    if ties:
        logger.warning(
            "%s: %s between records with the same value: the one that was created last, then the one with the latest"
            " date in its name, is taken",
            flag,
            counted(ties, "choice"),
        )
    return [row for row in rows if row[0] in kept]


def _made(asset: Asset, record: Record) -> tuple[datetime, datetime, str]:
    """Return what orders records with the same value: when each was made, the last date in its name, its `_id`."""
    created = next((date for name in ("created", "_created") if (date := instant(record.get(name)))), LONG_AGO)
    named = (instant(date) for date in _DATES_IN_NAMES.findall(asset.name)[-1:])
    return created, next(named, None) or LONG_AGO, asset.record_id


def _unwound(rows: Iterable[_Row], field: str, names: Sequence[str]) -> Iterator[_Row]:
    """Spread the lists of a field, one row an element; an empty list keeps its row, with null."""
    below = {name: paths for name in names if (paths := _below(name, field))}
    for number, values in rows:
        value = values[field]
        for element in (value or [None]) if isinstance(value, list) else [value]:
            spread = {**values, field: element}
            for name, paths in below.items():
                found = (value_at(element, path) for path in paths)
                spread[name] = next((one for one in found if one is not None), None)
            yield number, spread


def _below(name: str, field: str) -> list[str]:
    """Return the paths from a field down to another, none where one of them does not lead through it."""
    above = [f"{path}." for path in fields.paths(field)]
    down = [[path.removeprefix(one) for one in above if path.startswith(one)] for path in fields.paths(name)]
    return list(dict.fromkeys(path for found in down for path in found)) if all(down) else []


def _groups(rows: Iterable[_Row], assets: Sequence[Asset], names: Sequence[str]) -> list[Group]:
    names = list(dict.fromkeys(names))
    plain = [name.removeprefix("@").replace(".", "__") for name in names]
    written = [
        short if plain.count(short) == 1 else name.replace(".", "__") for name, short in zip(names, plain, strict=True)
    ]
    found = []
    for alike in _by_key(rows, names):
        values = [alike[0][1][name] for name in names]
        members = tuple(assets[number] for number in sorted({number for number, _ in alike}))
        order = [(_rank(value), _canonical(value)) for value in values]
        found.append((order, Group(members, dict(zip(written, values, strict=True)))))
    return [group for _, group in sorted(found, key=lambda one: one[0])]


def _by_key(rows: Iterable[_Row], names: Sequence[str]) -> Iterable[list[_Row]]:
    """Return the rows with the same values together; lists and objects are compared as text, dates as instants."""

    def key(value: Any, name: str) -> str:
        moment = instant(value) if name == fields.INSTANT else None
        return _canonical(value) if moment is None else f"{moment.astimezone(UTC)}"

    found: dict[tuple[str, ...], list[_Row]] = {}
    for row in rows:
        found.setdefault(tuple(key(row[1][name], name) for name in names), []).append(row)
    return found.values()


def _canonical(value: Any) -> str:
    return json.dumps(_with_whole_numbers(value), sort_keys=True, separators=(",", ":"))


def _with_whole_numbers(value: Any) -> Any:
    """Return a value in which 1.0 is 1 at every depth, since they are the same in MongoDB."""
    if isinstance(value, list):
        return [_with_whole_numbers(one) for one in value]
    if isinstance(value, dict):
        return {key: _with_whole_numbers(one) for key, one in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _rank(value: Any) -> tuple[int, Any]:
    """Return what orders values of any kind: missing, numbers, text, dates; a list counts as its greatest element."""
    if isinstance(value, list):
        return max(map(_rank, value), default=(0, 0))
    if value is None:
        return 0, 0
    if isinstance(value, int | float):
        return 1, value
    if moment := instant(value):
        return 3, moment
    return 2, value if isinstance(value, str) else _canonical(value)


# Pairs


def with_raw(
    metadata: MetadataSource,
    groups: Sequence[Group],
    records: Mapping[str, Record],
    fields: Sequence[str],
    skip_errors: bool,
    exclusions: Exclusions,
) -> tuple[list[Group], Mapping[str, Sequence[str]], list[Skipped]]:
    """Put each derived asset and its raw one into the same group; all records are by `_id`, with `PAIR_FIELDS`.

    Raw assets among them are skipped: they come with what was made from them. So are pairs whose raw asset
    is excluded. Return the groups, by the `_id` of each derived asset those of its raw ones, and what is skipped.
    Raises RequestError if a derived asset has no raw one and `skip_errors` is false, or none has one.
    """
    assets = {asset.record_id: asset for group in groups for asset in group.assets}
    raw = {key: one for key, one in assets.items() if level_of(records[key]) == RAW and not _raw_names(records[key])}
    if raw:
        logger.info("--with_raw=1: %s that were selected by themselves skipped", counted(len(raw), "raw asset"))
    derived = [asset for key, asset in assets.items() if key not in raw]
    known = _by_name(metadata, (name for asset in derived for name in _raw_names(records[asset.record_id])), fields)
    partners: dict[str, tuple[Asset, ...]] = {}
    missing, by_bucket = [], []
    for asset in derived:
        origins = origins_of(asset, records[asset.record_id], known)
        by_bucket += origins.by_bucket
        if origins.reason:
            missing.append(Skipped.asset(Reason.NO_RAW, asset, origins.reason))
        else:
            partners[asset.record_id] = tuple(origins.raw.values())
    if by_bucket:
        headline = "several assets have the name of a raw one; that in the bucket of the derived is taken:"
        warn_listing(f"--with_raw=1: {headline}", by_bucket)
    skipped = [*(Skipped.asset(Reason.RAW_OF_A_PAIR, asset) for asset in raw.values()), *missing]
    with carrying(skipped):
        if not derived:
            raise RequestError("--with_raw=1: no derived asset is selected; raw ones come with what was made from them")
        if missing:
            of = f"{len(missing):,} of {counted(len(derived), 'derived asset')}"
            headline = f"--with_raw=1: {of} {'has' if len(missing) == 1 else 'have'} no raw asset"
            details = [f"{one.name}: {one.detail}" for one in missing]
            skip_or_refuse(headline, details, skip_errors, len(missing) < len(derived))
    found = (one for same in known.values() for one in same)
    places = {one[0].record_id: exclusions.place_of(*known_as(one)) for one in found}
    for key in list(partners):
        if place := next(filter(None, (places[one.record_id] for one in partners[key])), ""):
            skipped.append(Skipped.asset(Reason.EXCLUDED, assets[key], f"its raw asset is excluded by {place}"))
            del partners[key]
    paired = [replace(group, assets=tuple(_with_partners(group, partners))) for group in groups]
    ids = {key: tuple(one.record_id for one in raws) for key, raws in partners.items()}
    return [group for group in paired if group.assets], ids, skipped


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
        for batch in batches(metadata, wanted, _NAMES_A_QUERY):
            for record in read(metadata, Query.of({"name": {"$in": batch}}), fields):
                found = (asset_of(record), record)
                same = known.setdefault(record["name"], {})
                same[found[0].location] = max(same.get(found[0].location, found), found, key=latest_of_asset)
                further += () if _is_origin(record) else _raw_names(record)
        names = further
    return {name: list(same.values()) for name, same in known.items()}


def _name_in(text: str) -> str:
    """Return the name that a name or a location gives."""
    return text.rpartition("/")[2] if "://" in text else text


def _is_origin(record: Record) -> bool:
    return level_of(record) != DERIVED or not _raw_names(record)


@dataclass
class Origins:
    """What an asset was made from in the first place: raw assets by `_id`, or the `reason` why they are not known.

    `by_bucket` has a line for each asset that was chosen by its bucket.
    """

    raw: dict[str, Asset] = field(default_factory=dict)
    by_bucket: list[str] = field(default_factory=list)
    reason: str = ""


def origins_of(asset: Asset, record: Record, known: Known) -> Origins:
    """Follow what an asset was made from to the raw assets, each name once.

    A name without a record is no fault where it begins with that of a raw asset that was found: it is one of those
    between the two.
    """
    names = _raw_names(record)
    if not names:
        return Origins(reason="its record names no raw asset")
    found = Origins()
    left, missing, seen = list(names), [], set(names)
    while left:
        name = left.pop(0)
        same = known.get(_name_in(name), ())
        if "://" in name:
            same = [one for one in same if one[0].location == name]
        near = [one for one in same if _bucket(one[0]) == _bucket(asset)] if len(same) > 1 else same
        if not near:
            missing.append(name)
        if len(near) != 1 and same:
            places = ", ".join(sorted(one.location for one, _ in same))
            return replace(found, reason=f"several assets are named {_name_in(name)}: {places}")
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

"""Which of the selected records count, and which are analysed together: drop nulls, latest, unwind, group.

It works on the projected records, so that DocDB and a catalog behave the same and no answer is too large.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from job_dispatch.messages import RequestError, carrying, counted, logger, warn_listing
from job_dispatch.metadata.diagnosis import known_fields, suggestion
from job_dispatch.metadata.records import Filter, MetadataSource, Record, value_at, value_of
from job_dispatch.model import Asset, Group, Grouping, Reason, Skipped
from job_dispatch.request import fields
from job_dispatch.request.fields import LONG_AGO, instant, is_number, of_number
from job_dispatch.request.json_text import is_unicode
from job_dispatch.request.selection import Selection

_DATES_IN_NAMES = re.compile(r"\d{4}-\d{2}-\d{2}(?:_\d{2}-\d{2}-\d{2})?")


@dataclass(frozen=True)
class Remarks:
    """What a user must know about the choice of the latest records.

    Parameters
    ----------
    ties : int
        How many choices `created` or the date in the name decided, since the values of the field are the same.
    mixed : sequence of str
        Choices between values that cannot be compared, each with these and the records.
    numbers : sequence of str
        Assets whose number was read as a date, since others have dates.
    """

    ties: int = 0
    mixed: Sequence[str] = ()
    numbers: Sequence[str] = ()


@dataclass(frozen=True)
class Arranged:
    """Groups in the order of their values, the assets skipped, and how often an asset is in a further group."""

    groups: list[Group]
    without_value: list[Asset]
    not_latest: list[Asset]
    in_several: int
    remarks: Remarks = Remarks()


def grouped(
    metadata: MetadataSource, selection: Selection, found: Sequence[tuple[Asset, Record]], grouping: Grouping
) -> tuple[list[Group], list[Skipped]]:
    """Return the groups, and the assets that are in none; the log reports what was skipped and chosen.

    Raises
    ------
    RequestError
        No record has a value of a field, or none is left.
    """
    assets, records = [asset for asset, _ in found], [record for _, record in found]
    examples = selection.query.filter if selection.query and not selection.table else {"_id": assets[0].record_id}
    without_value = [field for field in grouping.fields if all(value_of(record, field) is None for record in records)]
    _refuse_unknown(metadata, examples, without_value, grouping.drop_nulls)
    arranged = arrange(assets, records, grouping)
    skipped = [Skipped.asset(Reason.NO_VALUE, asset) for asset in arranged.without_value]
    skipped += [Skipped.asset(Reason.NOT_LATEST, asset) for asset in arranged.not_latest]
    if arranged.without_value:
        named = ", ".join(dict.fromkeys((*grouping.group_by, *grouping.filter_by)))
        headline = f"{counted(len(arranged.without_value), 'record')} without a value of {named} skipped:"
        warn_listing(headline, [asset.name for asset in arranged.without_value])
    with carrying(skipped):
        if not arranged.groups:
            raise RequestError("no record has a value of every field to group by; --drop_null_groups=0 keeps them all")
        for group in arranged.groups:
            if not is_unicode(group.metadata):
                raise RequestError(
                    f"--group_by: a value of the asset {group.assets[0]} holds text with a lone surrogate"
                )
    if arranged.not_latest:
        number = counted(len(arranged.not_latest), "record")
        logger.info("%s skipped: not the latest by %s", number, grouping.filter_latest)
    _log_remarks(arranged.remarks, grouping)
    if grouping.group_by:
        logger.info("%s of %s", counted(len(arranged.groups), "group"), counted(len(assets), "record"))
    if arranged.in_several:
        logger.info("unwinding put assets into more than one group %s", counted(arranged.in_several, "time"))
    return arranged.groups, skipped


def _log_remarks(remarks: Remarks, grouping: Grouping) -> None:
    flag = f"--filter_latest={grouping.filter_latest}"
    if remarks.numbers:
        warn_listing(f"{flag}: numbers beside dates are read as seconds or milliseconds since 1970:", remarks.numbers)
    if remarks.mixed:
        headline = f"{flag}: {counted(len(remarks.mixed), 'choice')} between values that cannot be compared:"
        warn_listing(headline, remarks.mixed)
    if remarks.ties:
        logger.warning(
            "%s: %s between records with the same value: the one that was created last, then the one with the latest"
            " date in its name, is taken",
            flag,
            counted(remarks.ties, "choice"),
        )


def _refuse_unknown(metadata: MetadataSource, examples: Filter, without_value: Sequence[str], drop_nulls: bool) -> None:
    """Refuse fields of which no record has a value, except those that are null where null is a value."""
    if not without_value:
        return
    known = known_fields(metadata, examples)
    if unknown := [field for field in without_value if known.keys().isdisjoint(fields.paths(field))]:
        details = [f"{field}   {suggestion(field, known)}".rstrip() for field in unknown]
        raise RequestError("no selected record has a value of these fields; correct their names", details)
    if drop_nulls:
        details = [f"{field}   is null in every record" for field in without_value]
        raise RequestError("no selected record has a value of these fields; --drop_null_groups=0 keeps nulls", details)


def arrange(assets: Sequence[Asset], records: Sequence[Record], grouping: Grouping) -> Arranged:
    """Return the groups that the assets fall into; `records` are theirs, in the same order."""
    # One row a record, one column a field; the index is the record's number.
    numbers = pd.RangeIndex(len(records))
    columns = {field: _column([value_of(record, field) for record in records], numbers) for field in grouping.fields}
    table = pd.DataFrame(columns, index=numbers)
    with_value = table
    if grouping.drop_nulls:
        with_value = table[table[_columns(grouping.group_by + grouping.filter_by)].notna().all(axis=1)]
    latest, remarks = with_value, Remarks()
    if grouping.filter_latest is not None:
        latest, remarks = _latest(with_value, assets, records, grouping.filter_latest, grouping.filter_by)
    without_value = [assets[number] for number in table.index.difference(with_value.index)]
    not_latest = [assets[number] for number in with_value.index.difference(latest.index)]
    if not grouping.group_by:
        return Arranged([Group((assets[number],)) for number in latest.index], without_value, not_latest, 0, remarks)
    unwound = latest
    spread = dict.fromkeys((*grouping.unwind, *(field for field in grouping.group_by if field in fields.SPREAD)))
    for field in sorted(spread, key=lambda field: field.count(".")):  # what is above spreads first
        unwound = _unwound(unwound, field)
    if grouping.drop_nulls:  # an empty list, or a null in a list, is no value either
        unwound = unwound[unwound[_columns(grouping.group_by)].notna().all(axis=1)]
    without_value += [assets[number] for number in latest.index.difference(unwound.index)]
    groups = _groups(unwound, assets, grouping.group_by)
    in_several = sum(len(group.assets) for group in groups) - unwound.index.nunique()
    return Arranged(groups, without_value, not_latest, in_several, remarks)


def _columns(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _latest(
    table: pd.DataFrame, assets: Sequence[Asset], records: Sequence[Record], field: str, keys: Sequence[str]
) -> tuple[pd.DataFrame, Remarks]:
    """Keep the row with the greatest value for each key; rows where a key is null are all kept.

    Of several with that value it is the one whose record was made last, then the one with the latest date in its name,
    then the one with the greatest `_id`.
    """
    is_null = table[_columns(keys)].isna().any(axis=1)
    ranked = table[~is_null]
    column = dict(zip(ranked.index, ranked[field], strict=True))
    kept, ties, mixed, as_dates = set(table.index[is_null]), 0, [], []
    for rows in _keys(ranked, keys).groupby(_columns(keys), sort=False).indices.values():
        numbers = [int(ranked.index[row]) for row in rows]
        values = {number: column[number] for number in numbers}
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
    return table.loc[sorted(kept)], Remarks(ties, mixed, as_dates)


def _made(asset: Asset, record: Record) -> tuple[datetime, datetime, str]:
    """Return what orders records with the same value: when each was made, the last date in its name, its `_id`."""
    created = next((date for name in ("created", "_created") if (date := instant(record.get(name)))), LONG_AGO)
    named = instant(_DATES_IN_NAMES.findall(asset.name)[-1]) if _DATES_IN_NAMES.search(asset.name) else None
    return created, named or LONG_AGO, asset.record_id


def _unwound(table: pd.DataFrame, field: str) -> pd.DataFrame:
    """Spread the lists of a field, one row an element; an empty list keeps its row, with null."""
    lists = [value if isinstance(value, list) else [value] for value in table[field]]
    spread = table.copy()
    spread[field] = _column(lists, table.index)
    spread = spread.explode(field)
    elements = [None if value is None or value != value else value for value in spread[field]]
    spread[field] = _column(elements, spread.index)
    for column in spread.columns:
        if below := _below(column, field):
            values = [next(_found(element, below), None) for element in elements]
            spread[column] = _column(values, spread.index)
    return spread


def _below(name: str, field: str) -> list[str]:
    """Return the paths from a field down to another, none where one of them does not lead through it."""
    above = [f"{path}." for path in fields.paths(field)]
    down = [[path.removeprefix(one) for one in above if path.startswith(one)] for path in fields.paths(name)]
    return list(dict.fromkeys(path for found in down for path in found)) if all(down) else []


def _found(element: object, paths: Sequence[str]) -> Iterator[Any]:
    return (value for path in paths if (value := value_at(element, path)) is not None)


def _column(values: list[Any], index: pd.Index[int]) -> pd.Series[Any]:
    """Return a column that keeps its values as they are: without dtype object 1 would become 1.0."""
    return pd.Series(values, index=index, dtype=object)


def _groups(table: pd.DataFrame, assets: Sequence[Asset], names: Sequence[str]) -> list[Group]:
    grouped = _keys(table, names).groupby(_columns(names), sort=False).indices
    found = []
    for rows in grouped.values():
        values = {name: table[name].iloc[rows[0]] for name in names}
        numbers = sorted({int(table.index[row]) for row in rows})
        plain = Counter(map(fields.plain, values))
        metadata = {
            fields.plain(name) if plain[fields.plain(name)] == 1 else name.replace(".", "__"): value
            for name, value in values.items()
        }
        order = [(_rank(value), _canonical(value)) for value in values.values()]
        found.append((order, Group(tuple(assets[number] for number in numbers), metadata)))
    return [group for _, group in sorted(found, key=lambda one: one[0])]


def _keys(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return the values as text that is the same for the same value, since lists and objects cannot be hashed."""
    keys = {name: _column([_key(value, name) for value in table[name]], table.index) for name in _columns(names)}
    return pd.DataFrame(keys, index=table.index)


def _key(value: Any, name: str) -> str:
    moment = instant(value) if fields.is_instant(name) else None
    return _canonical(value) if moment is None else f"{moment.astimezone(UTC)}"


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

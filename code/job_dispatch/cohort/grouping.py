"""Which of the selected records count, and which are analysed together: drop nulls, latest, unwind, group.

It works on the projected records, so that DocDB and a catalog behave the same and no answer is too large.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any

import pandas as pd

from job_dispatch.metadata.records import Record, value_at, value_of
from job_dispatch.model import Asset, Group, Grouping
from job_dispatch.request import fields


@dataclass(frozen=True)
class Arranged:
    """Groups in the order of their values, the assets left out, and how often one stands in a further group."""

    groups: list[Group]
    without_value: list[Asset]
    not_latest: list[Asset]
    in_several: int


def fields_without_value(records: Sequence[Record], grouping: Grouping) -> list[str]:
    """Return the fields of a grouping that no record has."""
    return [field for field in grouping.fields if all(value_of(record, field) is None for record in records)]


def arrange(assets: Sequence[Asset], records: Sequence[Record], grouping: Grouping) -> Arranged:
    """Return the groups that the assets fall into; `records` are theirs, in the same order."""
    # One row a record, one column a field; the index is the record's number.
    numbers = pd.RangeIndex(len(records))
    columns = {field: _column([value_of(record, field) for record in records], numbers) for field in grouping.fields}
    table = pd.DataFrame(columns, index=numbers)
    with_value = table
    if grouping.drop_nulls:
        with_value = table[table[_columns(grouping.group_by + grouping.filter_by)].notna().all(axis=1)]
    latest = with_value
    if grouping.filter_latest is not None:
        record_ids = [asset.record_id for asset in assets]
        latest = _latest(with_value, record_ids, grouping.filter_latest, grouping.filter_by)
    without_value = [assets[number] for number in table.index.difference(with_value.index)]
    not_latest = [assets[number] for number in with_value.index.difference(latest.index)]
    if not grouping.group_by:
        return Arranged([Group((assets[number],)) for number in latest.index], without_value, not_latest, 0)
    unwound = latest
    spread = dict.fromkeys((*grouping.unwind, *(field for field in grouping.group_by if field in fields.SPREAD)))
    for field in sorted(spread, key=lambda field: field.count(".")):  # what is above spreads first
        unwound = _unwound(unwound, field)
    if grouping.drop_nulls:  # an empty list, or a null in a list, is no value either
        unwound = unwound[unwound[_columns(grouping.group_by)].notna().all(axis=1)]
    without_value += [assets[number] for number in latest.index.difference(unwound.index)]
    groups = _groups(unwound, assets, grouping.group_by)
    in_several = sum(len(group.assets) for group in groups) - unwound.index.nunique()
    return Arranged(groups, without_value, not_latest, in_several)


def _columns(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _latest(table: pd.DataFrame, record_ids: Sequence[str], field: str, keys: Sequence[str]) -> pd.DataFrame:
    """Keep the row with the greatest value for each key; rows where a key is null are all kept."""
    is_null = table[_columns(keys)].isna().any(axis=1)
    ranked = table[~is_null]
    ids = [record_ids[number] for number in ranked.index]
    order = sorted(range(len(ids)), key=list(zip(map(_rank, ranked[field]), ids, strict=True)).__getitem__)
    newest = _keys(ranked, keys).iloc[order].drop_duplicates(keep="last").index
    return table.loc[sorted({*newest, *table.index[is_null]})]


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
        metadata = {fields.plain(name): value for name, value in values.items()}
        order = [(_rank(value), _canonical(value)) for value in values.values()]
        found.append((order, Group(tuple(assets[number] for number in numbers), metadata)))
    return [group for _, group in sorted(found, key=lambda one: one[0])]


def _keys(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return the values as text that is the same for the same value, since lists and objects cannot be hashed."""
    keys = {name: _column([_key(value, name) for value in table[name]], table.index) for name in _columns(names)}
    return pd.DataFrame(keys, index=table.index)


def _key(value: Any, name: str) -> str:
    moment = fields.instant(value) if fields.is_instant(name) else None
    return _canonical(value) if moment is None else f"{moment.astimezone(UTC)}"


def _canonical(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # as in MongoDB, 1.0 and 1 are the same value
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _rank(value: Any) -> tuple[int, Any]:
    """Return what orders values of any kind: missing, numbers, text, dates; a list counts as its greatest element."""
    if isinstance(value, list):
        return max(map(_rank, value), default=(0, 0))
    if value is None:
        return 0, 0
    if isinstance(value, int | float):
        return 1, value
    if isinstance(value, str):
        moment = fields.instant(value)
        return (2, value) if moment is None else (3, moment)
    return 2, _canonical(value)

"""Which records the rows of a table ask for."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from job_dispatch.messages import RequestError, counted, logger, warn_listing
from job_dispatch.metadata.left_out import LeftOut
from job_dispatch.metadata.records import (
    ASSET_FIELDS,
    Asset,
    Filter,
    MetadataSource,
    Record,
    asset_of,
    code_ocean_ids,
    id_filter,
)
from job_dispatch.request import json_text
from job_dispatch.request.selection import Query
from job_dispatch.request.tables import Key, Row, Table

_KEYS_A_QUERY = 500

Found = list[tuple[Asset, Record]]
Read = Callable[[Filter, Callable[[Record], bool]], Iterator[Record]]


@dataclass(frozen=True)
class Fitting:
    """The records that fit a table.

    Parameters
    ----------
    found : list of (Asset, Record)
        Each record once, in the order of the rows; those that fit one row by name, then `_id`.
    parameters : dict
        By record id, the different parameters of its rows, in their order.
    """

    found: Found
    parameters: dict[str, list[Mapping[str, Any]]]


def find(
    read: Read,
    metadata: MetadataSource,
    table: Table,
    query: Query | None,
    skip_errors: bool,
    left_out: LeftOut,
) -> Fitting:
    """Return the records that fit a row of a table and, where there is one, match a query.

    Raises
    ------
    RequestError
        Rows have no record and `skip_errors` is false, or no row has one.
    """
    found = _by_key(read, metadata, table.keys, query)
    without = [key for key, records in found.items() if not records]
    not_queried: list[Key] = []
    if query is not None and without:
        # Told apart from what is in no record at all.
        known = _by_key(_reading(metadata), metadata, dict.fromkeys(without), None)
        not_queried = [key for key in without if known[key]]
        without = [key for key in without if not known[key]]
    for key in without:
        left_out.add_asked("without a record", key.column, key.value)
    for key in not_queried:
        left_out.add_asked("not selected by the query", key.column, key.value)
    if without:
        _report_missing(metadata, table, without, skip_errors)
    if not_queried:
        number = counted(len(not_queried), table.noun)
        logger.info("%s: %s left out: not selected by the query as well", table.file_name, number)
    if shared := [f"{key}: {len(records)} records" for key, records in found.items() if len(records) > 1]:
        warn_listing(f"{table.file_name}: {table.noun}s with several records, all of which are taken:", shared)
    if not any(found.values()):
        raise RequestError(f"no record fits both {table.file_name} and the query", [f"query: {query}"])
    return _fitting(found, table.keys)


def _fitting(found: Mapping[Key, Mapping[str, Record]], rows: Mapping[Key, Sequence[Row]]) -> Fitting:
    unique: dict[str, tuple[Asset, Record]] = {}
    parameters: dict[str, dict[str, Mapping[str, Any]]] = {}
    for key, records in found.items():
        asset_id = key.value if key.column == "asset_id" else None
        assets = [(asset_of(record, asset_id), record) for record in records.values()]
        for asset, record in sorted(assets, key=lambda one: (one[0].name, one[0].record_id)):
            unique.setdefault(asset.record_id, (asset, record))
            different = parameters.setdefault(asset.record_id, {})
            for row in rows[key]:
                different.setdefault(json_text.compact(row.parameters), row.parameters)
    return Fitting(list(unique.values()), {one: list(different.values()) for one, different in parameters.items()})


def _reading(metadata: MetadataSource) -> Read:
    def read(query: Filter, keep: Callable[[Record], bool]) -> Iterator[Record]:
        for page in metadata.find(query, ASSET_FIELDS):
            yield from filter(keep, page)

    return read


def _by_key(
    read: Read, metadata: MetadataSource, keys: Iterable[Key], query: Query | None
) -> dict[Key, dict[str, Record]]:
    """Return, for each key, the records that fit it, by their ids."""
    found: dict[Key, dict[str, Record]] = {key: {} for key in keys}
    columns = tuple(dict.fromkeys(key.column for key in found))

    def fits(record: Record) -> bool:
        return any(key in found for key in _keys_of(record, columns))

    for part in _filters(metadata, list(found), query):
        for record in read(part, fits):
            for key in _keys_of(record, columns):
                if key in found:
                    found[key].setdefault(record["_id"], record)
    return found


def _filters(metadata: MetadataSource, keys: Sequence[Key], query: Query | None) -> Iterator[Filter]:
    """Yield filters that together find all records for the keys, and maybe others."""
    asked = {} if query is None else query.filter
    if metadata.may_name_local_files:
        yield asked  # a catalog is read as a whole for each question: one is enough
        return
    for start in range(0, len(keys), _KEYS_A_QUERY):
        wanted = _filter(keys[start : start + _KEYS_A_QUERY])
        yield {"$and": [asked, wanted]} if asked else wanted


def _filter(keys: Sequence[Key]) -> Filter:
    values: dict[str, list[str]] = {}
    for key in keys:
        values.setdefault(key.column, []).append(key.value)
    parts = [_column_filter(column, wanted) for column, wanted in values.items()]
    return parts[0] if len(parts) == 1 else {"$or": parts}


def _column_filter(column: str, values: Sequence[str]) -> Filter:
    if column == "asset_id":
        return id_filter(values)
    if column == "location":
        return {"location": {"$in": [address for value in values for address in (value, f"{value}/")]}}
    return {{"name": "name", "docdb_record_id": "_id"}[column]: {"$in": list(values)}}


def _keys_of(record: Record, columns: Sequence[str]) -> Iterator[Key]:
    """Yield all that may be written into these columns to ask for a record."""
    for column in columns:
        for value in dict.fromkeys(_values_of(record, column)):
            yield Key(column, value)


def _values_of(record: Record, column: str) -> Iterator[str]:
    if column == "asset_id":
        yield from code_ocean_ids(record)
    elif column == "docdb_record_id":
        yield record["_id"]
    elif column == "name":
        if isinstance(name := record.get("name"), str):
            yield name
    elif isinstance(location := record.get("location"), str):
        location = location.rstrip("/")
        yield location
        # A catalog may name folders relative to itself.
        parts = location.removeprefix("file://").split("/") if location.startswith("file://") else []
        yield from ("/".join(parts[start:]) for start in range(1, len(parts)))


def _report_missing(metadata: MetadataSource, table: Table, missing: Sequence[Key], skip_errors: bool) -> None:
    values = [key.value for key in missing]
    known = dict(_other_meanings(metadata, values))
    details = [f"{value}{known.get(value, '')}" for value in values]
    headline = f"{table.file_name}: {len(missing):,} of {counted(len(table.keys), table.noun)} without a record"
    if len(missing) == len(table.keys):
        raise RequestError(f"{headline}; correct the {table.noun}s", details)
    if not skip_errors:
        raise RequestError(f"{headline}; correct the {table.noun}s, or go on without them by --skip_errors=1", details)
    warn_listing(f"{headline}; skipped:", details)


def _other_meanings(metadata: MetadataSource, missing: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield, for ids that are a record's name or `_id` by mistake, what to write instead."""
    for start in range(0, len(missing), _KEYS_A_QUERY):
        values = list(missing[start : start + _KEYS_A_QUERY])
        named = {"$or": [{field: {"$in": values}} for field in ("name", "_id")]}
        for record in itertools.chain.from_iterable(metadata.find(named, ASSET_FIELDS)):
            asset_id = asset_of(record).asset_id
            remedy = f"; its asset_id is {asset_id}" if asset_id else ", which has no asset_id"
            yield record["_id"], f" (the _id of a record{remedy})"
            yield str(record.get("name")), f" (the name of an asset{remedy})"

"""Which records the rows of a table select, and suggestions for rows without one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from job_dispatch.failures import advice
from job_dispatch.messages import (
    LISTED_AT_MOST,
    Progress,
    RequestError,
    carrying,
    counted,
    logger,
    skip_or_refuse,
    warn_listing,
)
from job_dispatch.metadata.records import (
    ASSET_FIELDS,
    ID_FIELDS,
    Filter,
    Found,
    MetadataSource,
    Record,
    asset_of,
    code_ocean_ids,
    projection,
    read,
    value_at,
)
from job_dispatch.model import Reason, Skipped
from job_dispatch.request import json_text
from job_dispatch.request.fields import NAMES, Query, any_of, sessions_of
from job_dispatch.request.tables import Key, Row, Table

[SUBJECT_FIELD] = NAMES["@subject"]
SESSION_FIELDS = NAMES["@session"]
_FIELDS_OF_COLUMN = {
    "asset_id": tuple(f"{field}.Code Ocean" for field in ID_FIELDS),
    "name": ("name",),
    "docdb_record_id": ("_id",),
    "location": ("location",),
    "subject_id": (SUBJECT_FIELD,),
}
_OBJECT_ID = re.compile(r"[0-9a-f]{24}")
_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,17}")
_HALF_AT_MOST = 300
_ALIKE = 0.8
# What decides which rows a record fits.
FIELDS = (*ASSET_FIELDS, SUBJECT_FIELD, *SESSION_FIELDS)
# For each query the server reads all records where a field has no index; a body of 2,000 ids has 160 kB.
_KEYS_A_QUERY = 2_000


class Fitting(NamedTuple):
    """The records that fit a table.

    `found` has each record once, in the order of the rows; those that fit one row by name, then `_id`. `parameters`
    has, by record id, the different ones of its rows, in their order. `skipped` are rows without a record, and records
    that a row asks for and the query does not select.
    """

    found: list[Found]
    parameters: Mapping[str, Sequence[Mapping[str, Any]]]
    skipped: Sequence[Skipped] = ()


def find(
    metadata: MetadataSource,
    table: Table,
    query: Query | None,
    fields: Sequence[str],
    skip_errors: bool,
    shown: Progress,
) -> Fitting:
    """Return the records that fit a row of a table and, where there is one, match a query.

    Raises RequestError if rows have no record and `skip_errors` is false, or no row has one.
    """
    found = _by_key(metadata, table.keys, query, fields, shown)
    without = [key for key, records in found.items() if not records]
    skipped: list[Skipped] = []
    if query is not None and without:
        # Told apart from what is in no record at all.
        known = _by_key(metadata, without, None, FIELDS)
        not_queried = [key for key in without if known[key]]
        without = [key for key in without if not known[key]]
        others = (asset_of(record) for key in not_queried for record in known[key].values())
        skipped += [Skipped.asset(Reason.NOT_IN_QUERY, asset) for asset in others]
        if not_queried:
            number = counted(len(not_queried), table.noun)
            logger.info("%s: %s skipped: not selected by the query", table.file_name, number)
    skipped += [Skipped.row(key.column, str(key)) for key in without]
    with carrying(skipped):
        if without:
            hints = _hints(metadata, without)
            details = [f"line {table.keys[key][0].line}: {key}{hints.get(key, '')}" for key in without]
            of = f"{len(without):,} of {counted(len(table.keys), table.noun)}"
            is_any_left = len(without) < len(table.keys)
            skip_or_refuse(f"{table.file_name}: {of} without a record", details, skip_errors, is_any_left)
        if not any(found.values()):
            raise RequestError(f"no record fits both {table.file_name} and the query", [f"query: {query}"])
    if shared := [f"{key}: {len(records)} records" for key, records in found.items() if len(records) > 1]:
        warn_listing(f"{table.file_name}: {table.noun}s with several records, all of which are taken:", shared)
    return _fitting(found, table.keys, skipped)


def _fitting(
    found: Mapping[Key, Mapping[str, Record]], rows: Mapping[Key, Sequence[Row]], skipped: Sequence[Skipped]
) -> Fitting:
    unique: dict[str, Found] = {}
    rows_of: dict[str, list[Row]] = {}
    for key, records in found.items():
        assets = [(asset_of(record), record) for record in records.values()]
        for asset, record in sorted(assets, key=lambda one: (one[0].name, one[0].record_id)):
            unique.setdefault(asset.record_id, (asset, record))
            rows_of.setdefault(asset.record_id, []).extend(rows[key])
    parameters = {one: json_text.distinct([row.parameters for row in its]) for one, its in rows_of.items()}
    return Fitting(list(unique.values()), parameters, skipped)


def _by_key(
    metadata: MetadataSource,
    keys: Iterable[Key],
    query: Query | None,
    fields: Sequence[str],
    shown: Progress | None = None,
) -> dict[Key, dict[str, Record]]:
    """Return, for each key, the records that fit it, by their ids."""
    found: dict[Key, dict[str, Record]] = {key: {} for key in keys}
    columns = tuple(dict.fromkeys(key.column for key in found))
    for part in _queries(metadata, list(found), query):
        for record in read(metadata, part, fields, shown):
            for key in _keys_of(record, columns):
                if key in found:
                    found[key].setdefault(record["_id"], record)
    return found


def _queries(metadata: MetadataSource, keys: Sequence[Key], query: Query | None) -> Iterator[Query]:
    """Yield queries that together find all records for the keys, and maybe others."""
    if not metadata.is_database:
        yield query or Query.of({})  # each query reads all records, so one is enough
        return
    for start in range(0, len(keys), _KEYS_A_QUERY):
        values: dict[str, dict[str, None]] = {}
        for key in keys[start : start + _KEYS_A_QUERY]:
            values.setdefault(key.column, {})[key.value] = None
        wanted = Query.of(any_of([_column_filter(column, list(wanted)) for column, wanted in values.items()]))
        yield wanted if query is None else Query.all_of([query, wanted])


def _column_filter(column: str, values: list[str]) -> Filter:
    if column == "docdb_record_id":
        return record_id_filter(values)
    if column == "location":
        values = [address for value in values for address in (value, f"{value}/")]
    return any_of([{field: {"$in": values}} for field in _FIELDS_OF_COLUMN[column]])


def record_id_filter(values: Sequence[str]) -> Filter:
    """Ask for ids as text, and for what else may be written so: numbers, and ObjectIds in MongoDB's extended JSON.

    A server that does not read extended JSON finds nothing by `$eq` with an object, where `$in` would be a mistake.
    """
    numbers = [int(value) for value in values if _NUMBER.fullmatch(value)]
    object_ids = [{"_id": {"$eq": {"$oid": value}}} for value in values if _OBJECT_ID.fullmatch(value)]
    return any_of([{"_id": {"$in": [*values, *numbers]}}, *object_ids])


def _keys_of(record: Record, columns: Sequence[str]) -> Iterator[Key]:
    """Yield all values of these columns by which a row selects a record."""
    for column in columns:
        sessions = list(_sessions(record)) if column == "subject_id" else [""]
        for value in _values_of(record, column):
            yield from (Key(column, value, session) for session in sessions)


def _values_of(record: Record, column: str) -> Iterator[str]:
    """Yield what a record holds of a column."""
    if column == "asset_id":
        yield from code_ocean_ids(record)
    elif column == "location" and isinstance(location := record.get("location"), str):
        yield location.rstrip("/")
        if location.startswith("file://"):  # a catalog may name folders relative to itself
            parts = location.removeprefix("file://").rstrip("/").split("/")
            yield from ("/".join(parts[start:]) for start in range(1, len(parts)))
    elif column != "location":
        [field] = _FIELDS_OF_COLUMN[column]
        if isinstance(value := value_at(record, field), str):
            yield value


def _sessions(record: Record) -> Iterator[str]:
    """Yield all forms in which a row may give the session of a record."""
    for field in SESSION_FIELDS:
        if isinstance(start := value_at(record, field), str):
            yield from sessions_of(start)


# Suggestions for rows without a record


def _hints(metadata: MetadataSource, missing: Sequence[Key]) -> dict[Key, str]:
    """Return suggestions for the first keys, as far as there are any.

    At most three requests; a failure does not end the run.
    """
    asked = list(missing[:LISTED_AT_MOST])
    ids = (key for key in asked if key.column == "docdb_record_id" and metadata.is_database)
    object_id = " (if that is an ObjectId which the gateway cannot be asked for, ask for it by name)"
    found = {key: object_id for key in ids if _OBJECT_ID.fullmatch(key.value)}
    for look in (_alike, _other_sessions, _other_meanings):  # the surest last
        found |= advice(lambda: dict(look(metadata, asked)), found)  # noqa: B023 - called at once
    return found


def _alike(metadata: MetadataSource, missing: Sequence[Key]) -> Iterator[tuple[Key, str]]:
    """Yield the most similar of the values that share a first or second half: one wrong character leaves one."""
    halves: dict[str, list[str]] = {}
    for key in missing:
        half = len(key.value) // 2
        if 2 <= half <= _HALF_AT_MOST:
            start, end = re.escape(key.value[:half]), re.escape(key.value[-half:])
            halves.setdefault(key.column, []).append(f"^{start}|{end}$")
    parts: list[Filter] = [
        {field: {"$regex": "|".join(pieces), "$options": "i"}}
        for column, pieces in halves.items()
        for field in _FIELDS_OF_COLUMN[column]
    ]
    records = _first_page(metadata, {"$or": parts}) if parts else []
    known = {
        column: {value.casefold(): value for record in records for value in _values_of(record, column)}
        for column in halves
    }
    for key in missing:
        values = known.get(key.column, {})
        for near in difflib.get_close_matches(key.value.casefold(), values, n=1, cutoff=_ALIKE):
            if values[near] != key.value:
                yield key, f" (did you mean {values[near]}?)"


def _other_sessions(metadata: MetadataSource, missing: Sequence[Key]) -> Iterator[tuple[Key, str]]:
    """Yield the nearest session of the same subject."""
    asked = [key for key in missing if key.session]
    known: dict[str, set[str]] = {}
    for record in _first_page(metadata, {SUBJECT_FIELD: {"$in": [key.value for key in asked]}}) if asked else ():
        for subject in _values_of(record, "subject_id"):
            known.setdefault(subject, set()).update(_sessions(record))
    for key in asked:
        comparable = [one for one in known.get(key.value, ()) if len(one) == len(key.session)]
        moment = datetime.fromisoformat(key.session)
        if comparable:
            near = min(comparable, key=lambda one: (abs(datetime.fromisoformat(one) - moment), one))
            yield key, f" (did you mean {near}?)"


def _other_meanings(metadata: MetadataSource, missing: Sequence[Key]) -> Iterator[tuple[Key, str]]:
    """Yield, for ids that are a record's name or `_id` by mistake, what to write instead."""
    asked = {key.value: key for key in missing if key.column == "asset_id"}
    query = {"$or": [{field: {"$in": list(asked)}} for field in ("name", "_id")]}
    for record in _first_page(metadata, query) if asked else ():
        asset_id = asset_of(record).asset_id
        remedy = f"; its asset_id is {asset_id}" if asset_id else ", which has no asset_id"
        for column, meaning in (("name", "the name of an asset"), ("docdb_record_id", "the _id of a record")):
            for value in _values_of(record, column):
                if value in asked:
                    yield asked[value], f" ({meaning}{remedy})"


def _first_page(metadata: MetadataSource, query: Filter) -> list[Record]:
    return next(metadata.find(Query.of(query), projection(FIELDS)), [])

"""The columns by which a table asks for records: where records hold them, and how they are asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from job_dispatch.metadata.records import ID_FIELDS, Filter, Record, code_ocean_ids, id_filter, value_at
from job_dispatch.request.fields import NAMES
from job_dispatch.request.tables import Key, sessions_of

[SUBJECT_FIELD] = NAMES["@subject"]
SESSION_FIELDS = NAMES["@session"]
FIELDS = {
    "asset_id": tuple(f"{field}.Code Ocean" for field in ID_FIELDS),
    "name": ("name",),
    "docdb_record_id": ("_id",),
    "location": ("location",),
    "subject_id": (SUBJECT_FIELD,),
}
OBJECT_ID = re.compile(r"[0-9a-f]{24}")
_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,17}")


def filter_of(keys: Sequence[Key]) -> Filter:
    """Return a filter for all records that fit a key; others may match, of another session."""
    values: dict[str, list[str]] = {}
    for key in keys:
        values.setdefault(key.column, []).append(key.value)
    parts = [_column_filter(column, list(dict.fromkeys(wanted))) for column, wanted in values.items()]
    return parts[0] if len(parts) == 1 else {"$or": parts}


def _column_filter(column: str, values: Sequence[str]) -> Filter:
    if column == "asset_id":
        return id_filter(values)
    if column == "location":
        values = [address for value in values for address in (value, f"{value}/")]
    if column == "docdb_record_id":
        return _record_id_filter(values)
    [field] = FIELDS[column]
    return {field: {"$in": list(values)}}


def _record_id_filter(values: Sequence[str]) -> Filter:
    """Ask for ids as text, and for what else may be written so: numbers, and ObjectIds in MongoDB's extended JSON.

    A server that does not read extended JSON finds nothing by `$eq` with an object, where `$in` would be a mistake.
    """
    numbers = [int(value) for value in values if _NUMBER.fullmatch(value)]
    object_ids = [{"_id": {"$eq": {"$oid": value}}} for value in values if OBJECT_ID.fullmatch(value)]
    known: Filter = {"_id": {"$in": [*values, *numbers]}}
    return {"$or": [known, *object_ids]} if object_ids else known


def keys_of(record: Record, columns: Sequence[str]) -> Iterator[Key]:
    """Yield all that a row may say in these columns to ask for a record."""
    for column in columns:
        for value in dict.fromkeys(values_of(record, column)):
            if column != "subject_id":
                yield Key(column, value)
                continue
            for session in dict.fromkeys(sessions(record)):
                yield Key(column, value, session)


def values_of(record: Record, column: str) -> Iterator[str]:
    """Yield what a record holds of a column."""
    if column == "asset_id":
        yield from code_ocean_ids(record)
    elif column == "location" and isinstance(location := record.get("location"), str):
        yield from _addresses(location.rstrip("/"))
    elif column != "location":
        [field] = FIELDS[column]
        if isinstance(value := value_at(record, field), str):
            yield value


def _addresses(location: str) -> Iterator[str]:
    yield location
    if location.startswith("file://"):
        # A catalog may name folders relative to itself.
        parts = location.removeprefix("file://").split("/")
        yield from ("/".join(parts[start:]) for start in range(1, len(parts)))


def sessions(record: Record) -> Iterator[str]:
    """Yield what a row may say to ask for the session of a record."""
    for field in SESSION_FIELDS:
        if isinstance(start := value_at(record, field), str):
            yield from sessions_of(start)

"""Which records the rows of a table ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from job_dispatch.cohort.row_keys import SESSION_FIELDS, SUBJECT_FIELD, filter_of, keys_of
from job_dispatch.left_out import LeftOut
from job_dispatch.messages import RequestError, counted, logger, warn_listing
from job_dispatch.metadata.records import ASSET_FIELDS, Filter, MetadataSource, Record, asset_of
from job_dispatch.model import Asset
from job_dispatch.request import json_text
from job_dispatch.request.query import Query
from job_dispatch.request.tables import Key, Row, Table

# What must be known of a record to tell which rows it fits.
FIELDS = (*ASSET_FIELDS, SUBJECT_FIELD, *SESSION_FIELDS)
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
        for key in not_queried:
            left_out.add("not selected by the query", *map(asset_of, known[key].values()))
    for key in without:
        left_out.add_asked("without a record", key.column, str(key))
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
        for page in metadata.find(query, FIELDS):
            yield from filter(keep, page)

    return read


def _by_key(
    read: Read, metadata: MetadataSource, keys: Iterable[Key], query: Query | None
) -> dict[Key, dict[str, Record]]:
    """Return, for each key, the records that fit it, by their ids."""
    found: dict[Key, dict[str, Record]] = {key: {} for key in keys}
    columns = tuple(dict.fromkeys(key.column for key in found))

    def fits(record: Record) -> bool:
        return any(key in found for key in keys_of(record, columns))

    for part in _filters(metadata, list(found), query):
        for record in read(part, fits):
            for key in keys_of(record, columns):
                if key in found:
                    found[key].setdefault(record["_id"], record)
    return found


def _filters(metadata: MetadataSource, keys: Sequence[Key], query: Query | None) -> Iterator[Filter]:
    """Yield filters that together find all records for the keys, and maybe others."""
    asked = {} if query is None else query.filter
    if not metadata.is_database:
        yield asked  # each query reads all records, so one is enough
        return
    for start in range(0, len(keys), _KEYS_A_QUERY):
        wanted = filter_of(keys[start : start + _KEYS_A_QUERY])
        yield {"$and": [asked, wanted]} if asked else wanted


def _report_missing(metadata: MetadataSource, table: Table, missing: Sequence[Key], skip_errors: bool) -> None:
    from job_dispatch.cohort import nearest

    known = nearest.hints(metadata, missing)
    details = [f"line {table.keys[key][0].line}: {key}{known.get(key, '')}" for key in missing]
    headline = f"{table.file_name}: {len(missing):,} of {counted(len(table.keys), table.noun)} without a record"
    if len(missing) == len(table.keys):
        raise RequestError(f"{headline}; correct the {table.noun}s", details)
    if not skip_errors:
        raise RequestError(f"{headline}; correct the {table.noun}s, or go on without them by --skip_errors=1", details)
    warn_listing(f"{headline}; skipped:", details)

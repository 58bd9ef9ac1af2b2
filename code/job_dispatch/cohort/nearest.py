"""What somebody may have meant by a row of a table that fits no record."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial

from job_dispatch.cohort.row_keys import FIELDS, OBJECT_ID, SESSION_FIELDS, SUBJECT_FIELD, sessions, values_of
from job_dispatch.failures import advice
from job_dispatch.messages import LISTED_AT_MOST
from job_dispatch.metadata.records import ASSET_FIELDS, Filter, MetadataSource, Record, asset_of, projection
from job_dispatch.request.tables import Key

_HALF_AT_MOST = 300
_ALIKE = 0.8


def hints(metadata: MetadataSource, missing: Sequence[Key]) -> dict[Key, str]:
    """Return, for those of the first keys that it can tell about, what they are or may have been meant to be.

    A failure to find out is no failure of the run. At most three requests.
    """
    asked = list(missing[:LISTED_AT_MOST])
    found: dict[Key, str] = {}
    for look in (_object_ids, _alike, _other_sessions, _other_meanings):  # the surest last
        found |= advice(partial(_found_by, look, metadata, asked), found)
    return found


def _found_by(
    look: Callable[[MetadataSource, Sequence[Key]], Iterator[tuple[Key, str]]],
    metadata: MetadataSource,
    missing: Sequence[Key],
) -> dict[Key, str]:
    return dict(look(metadata, missing))


def _object_ids(metadata: MetadataSource, missing: Sequence[Key]) -> Iterator[tuple[Key, str]]:
    """Yield, for ids that may be ObjectIds, that not each gateway lets ask for these."""
    for key in missing:
        if key.column == "docdb_record_id" and OBJECT_ID.fullmatch(key.value) and metadata.is_database:
            yield key, " (if that is an ObjectId which the gateway cannot be asked for, ask for it by name)"


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
        for field in FIELDS[column]
    ]
    if not parts:
        return
    records = _first_page(metadata, {"$or": parts})
    known = {
        column: {value.casefold(): value for record in records for value in values_of(record, column)}
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
    if not asked:
        return
    known: dict[str, set[str]] = {}
    for record in _first_page(metadata, {SUBJECT_FIELD: {"$in": [key.value for key in asked]}}):
        for subject in values_of(record, "subject_id"):
            known.setdefault(subject, set()).update(sessions(record))
    for key in asked:
        comparable = [one for one in known.get(key.value, ()) if len(one) == len(key.session)]
        moment = datetime.fromisoformat(key.session)
        if comparable:
            near = min(comparable, key=lambda one: (abs(datetime.fromisoformat(one) - moment), one))
            yield key, f" (did you mean {near}?)"


def _other_meanings(metadata: MetadataSource, missing: Sequence[Key]) -> Iterator[tuple[Key, str]]:
    """Yield, for ids that are a record's name or `_id` by mistake, what to write instead."""
    asked = {key.value: key for key in missing if key.column == "asset_id"}
    if not asked:
        return
    for record in _first_page(metadata, {"$or": [{field: {"$in": list(asked)}} for field in ("name", "_id")]}):
        asset_id = asset_of(record).asset_id
        remedy = f"; its asset_id is {asset_id}" if asset_id else ", which has no asset_id"
        for column, meaning in (("name", "the name of an asset"), ("docdb_record_id", "the _id of a record")):
            for value in values_of(record, column):
                if value in asked:
                    yield asked[value], f" ({meaning}{remedy})"


def _first_page(metadata: MetadataSource, query: Filter) -> list[Record]:
    return next(metadata.find(query, projection([*ASSET_FIELDS, SUBJECT_FIELD, *SESSION_FIELDS])), [])

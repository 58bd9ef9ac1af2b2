"""What there is to select: assets counted by what selects them, without making any job."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from job_dispatch.cohort import quality_control, table_rows
from job_dispatch.cohort.quality_control import Quality
from job_dispatch.cohort.table_rows import SESSION_FIELDS, SUBJECT_FIELD
from job_dispatch.messages import RequestError, progress
from job_dispatch.metadata.diagnosis import explain_nothing
from job_dispatch.metadata.records import (
    ASSET_FIELDS,
    LEVEL,
    MetadataSource,
    Record,
    asset_of,
    id_filter,
    level_in,
    projection,
    read,
    text_of,
    value_at,
    values_in,
)
from job_dispatch.model import Asset
from job_dispatch.request.fields import DAY, NAMES, Query
from job_dispatch.request.selection import Selection

if TYPE_CHECKING:
    from job_dispatch.metadata.docdb import Records

[_PROJECT] = NAMES["@project"]
_MODALITIES = NAMES["@modality"]
_FIELDS = (*ASSET_FIELDS, _PROJECT, LEVEL, SUBJECT_FIELD, *_MODALITIES, *SESSION_FIELDS, *quality_control.FIELDS)
_DAY_LENGTH = 10
_SAMPLED = 2_000
_EXAMPLES = 5
_SAMPLING_SECONDS = 60.0
# A batch of which less than this part is new shows that little is left to be seen.
_NEW_OF_BATCH = 10
# What only records of API version v2 have.
_V2_FIELDS = ("acquisition", "other_identifiers")
VERSIONS = ("v1", "v2")
_PATHS_AT_MOST = 5_000
_VALUES_AT_MOST = 1_000
_VALUE_LENGTH = 80
# What names a record, and texts of so many records that all differ.
_NAMES = frozenset(("_id", "name", "location"))
_UNIQUE_FROM = 20
Value = str | int | float | bool
_Distinct = tuple[bool, Value]
# Records of which anything was judged.
_JUDGED = {"$or": [{f"quality_control.{part}.0": {"$exists": True}} for part in ("evaluations", "metrics")]}


class FieldUse(NamedTuple):
    """A field: in how many of the records of each version it has a value, and its most frequent values."""

    path: str
    records: tuple[int, int]
    values: list[tuple[Value, int]]


class FieldUses:
    """The fields of records, counted as they come; `sampled` are the records seen of each version."""

    def __init__(self) -> None:
        self.sampled = [0, 0]
        # By path, how many records of each version have a value, and the values: True and 1 are two, 1 and 1.0 one.
        self._fields: dict[str, tuple[list[int], Counter[_Distinct]]] = {}

    def add(self, records: Iterable[Record]) -> None:
        """Count the fields of more records."""
        for record in records:
            version = _version(record)  # 0 for v1, 1 for v2
            self.sampled[version] += 1
            found: dict[str, set[_Distinct]] = {}
            for path, value in values_in(record):
                if isinstance(value, str | int | float):
                    found.setdefault(path, set()).add((isinstance(value, bool), value))
            for path, values in found.items():
                if path not in self._fields and len(self._fields) >= _PATHS_AT_MOST:
                    continue
                numbers, counts = self._fields.setdefault(path, ([0, 0], Counter()))
                numbers[version] += 1
                for one in values:  # of thousands only the first come count, which are no frequent ones
                    is_short = not isinstance(one[1], str) or len(one[1]) <= _VALUE_LENGTH
                    if is_short and (one in counts or len(counts) < _VALUES_AT_MOST):
                        counts[one] += 1

    def uses(self, fields: int, values: int) -> list[FieldUse]:
        """Return so many fields, the most frequent first, each with so many of its values; no unique ones.

        A field of numbers that all differ has none that is frequent: one is shown as an example.
        """
        shown = ((-sum(numbers), path) for path, (numbers, _) in self._fields.items() if not self._is_unique(path))
        found = []
        for _, path in sorted(shown)[:fields]:
            (v1, v2), counts = self._fields[path]
            top = sorted(counts.items(), key=lambda item: (-item[1], str(item[0][1])))[:values]
            if len(counts) > values and top[0][1] == 1:
                top = top[:1]
            found.append(FieldUse(path, (v1, v2), [(value, number) for (_, value), number in top]))
        return found

    @property
    def unique(self) -> int:
        """How many fields are left out since each record has another text there, so that none selects a cohort."""
        return sum(map(self._is_unique, self._fields))

    def _is_unique(self, path: str) -> bool:
        _, values = self._fields[path]
        return path in _NAMES or (
            len(values) >= _UNIQUE_FROM
            and values.total() == len(values)
            and all(isinstance(value, str) for _, value in values)
        )

    def __len__(self) -> int:
        return len(self._fields) - self.unique


class Cell(NamedTuple):
    """What assets have in common; texts are empty where a record says nothing.

    `modalities` are sorted abbreviations, `day` is `YYYY-MM-DD` on the session's own clock, `quality` the verdict on
    each modality that was judged.
    """

    project: str
    modalities: tuple[str, ...]
    level: str
    day: str
    subject: str
    quality: tuple[tuple[str, str], ...] = ()


@dataclass
class Overview:
    """What there is, counted: assets by what they have in common, and `fields` and `examples` of a sample of records.

    `spellings` is how records write each level: `raw data` counts as `raw`. `endings` of files in the examples come
    with how often each occurs, and whether as stores; it is empty where nobody looked.
    """

    cells: Counter[Cell] = field(default_factory=Counter)
    spellings: dict[str, set[str]] = field(default_factory=dict)
    fields: FieldUses = field(default_factory=FieldUses)
    examples: list[Asset] = field(default_factory=list)
    endings: list[tuple[str, int, bool]] = field(default_factory=list)

    @property
    def total(self) -> int:
        """The number of assets."""
        return self.cells.total()

    def level(self, value: object) -> str:
        """Return the level that a value names, and remember how it is written."""
        level = level_in(value)
        if level:
            self.spellings.setdefault(level, set()).add(str(value))
        return level

    def spelled(self, level: str) -> list[str]:
        """Return the values of the field that count as a level."""
        return sorted(self.spellings.get(level, {level}))


def describe(metadata: MetadataSource, selection: Selection, quality: Quality) -> Overview:
    """Return what a selection holds; one of neither query nor table holds everything. RequestError if there is nothing.

    DocDB counts itself; only records of which quality control judged something are read, since its rule is none that
    a database could count by. Of a catalog and of a table all records are read.
    """
    overview = Overview()
    query = selection.query or Query.of({})
    if excluded := sorted(selection.exclusions.assets):
        known_as = [id_filter(excluded), {"name": {"$in": excluded}}, {"_id": {"$in": excluded}}]
        query = Query.all_of([query, Query.of({"$nor": known_as})])
    database = cast("Records", metadata) if metadata.is_database and selection.table is None else None
    if database is not None and database.can_count(query):
        _count_there(database, query, quality, overview)
    else:
        ids = []
        with progress("reading metadata", "records") as shown:
            fields = projection((*_FIELDS, *table_rows.FIELDS))
            if selection.table is None:
                records = read(metadata, query, fields, shown)
            else:
                asked = query if query.filter else None
                fitting = table_rows.find(metadata, selection.table, asked, fields, True, shown)
                records = (record for _, record in fitting.found)
            for record in filter(quality.takes, records):
                overview.cells[_judged(_cell(record, overview), record, quality)] += 1
                ids.append(record["_id"])
        if selection.table is not None:
            query = Query.of({"_id": {"$in": ids[:_SAMPLED]}})
    if not overview.total:
        raise RequestError("there is nothing to describe: no record matches", explain_nothing(metadata, query.filter))
    for batch in _sample(metadata, query, min(_SAMPLED, overview.total)):
        taken = list(filter(quality.takes, batch))
        overview.fields.add(taken)
        overview.examples += map(asset_of, taken[: _EXAMPLES - len(overview.examples)])
    return overview


def _count_there(metadata: Records, query: Query, quality: Quality, overview: Overview) -> None:
    """Count in the database as if nothing had been judged there, and then anew what was."""
    only_judged = quality.flag == "pass"
    if not only_judged:
        start: Any = ""
        for path in reversed(SESSION_FIELDS):
            start = {"$ifNull": [f"${path}", start]}
        modalities = {f"modality{number}": f"${path}" for number, path in enumerate(_MODALITIES)}
        fields = {"project": f"${_PROJECT}", "level": f"${LEVEL}", "subject": f"${SUBJECT_FIELD}", **modalities}
        for key, number in metadata.count_by(query, {**fields, "day": {"$substrCP": [start, 0, _DAY_LENGTH]}}):
            level = overview.level(key.get("level"))
            found = [key.get(name) for name in modalities]
            overview.cells[_cell_of(key.get("project"), found, level, key.get("day"), key.get("subject"))] += number
    for record in read(metadata, Query.all_of([query, Query.of(_JUDGED)]), projection(_FIELDS)):
        cell = _cell(record, overview)
        if not only_judged:
            overview.cells[cell] -= 1
        if quality.takes(record):
            overview.cells[_judged(cell, record, quality)] += 1
    overview.cells = +overview.cells


def _cell(record: Record, overview: Overview) -> Cell:
    starts = (value_at(record, path) for path in SESSION_FIELDS)
    start = next((value for value in starts if value is not None), "")
    return _cell_of(
        value_at(record, _PROJECT),
        [value_at(record, path) for path in _MODALITIES],
        overview.level(value_at(record, LEVEL)),
        text_of(start)[:_DAY_LENGTH],
        value_at(record, SUBJECT_FIELD),
    )


def _cell_of(project: object, modalities: Iterable[object], level: str, day: object, subject: object) -> Cell:
    lists = (value if isinstance(value, list) else [value] for value in modalities)
    named = tuple(sorted({value for values in lists for value in values if isinstance(value, str) and value}))
    day = text_of(day) if DAY.fullmatch(text_of(day)) else ""
    return Cell(text_of(project), named, level, day, text_of(subject))


def _judged(cell: Cell, record: Record, quality: Quality) -> Cell:
    return cell._replace(quality=tuple(sorted(quality_control.by_modality(record, quality.now).items())))


def _sample(metadata: MetadataSource, query: Query, size: int) -> Iterator[list[Record]]:
    """Yield records drawn at random, each once, in batches that the source can answer; fewer where time is up."""
    deadline = time.monotonic() + _SAMPLING_SECONDS
    seen: set[str] = set()
    while len(seen) < size and (left := deadline - time.monotonic()) > 0:
        batch = {str(record["_id"]): record for record in metadata.sample(query, size - len(seen), left)}
        new = [record for record_id, record in batch.items() if record_id not in seen]
        seen.update(batch)
        yield new
        if len(new) < len(batch) / _NEW_OF_BATCH:
            return


def _version(record: Record) -> int:
    """Return 0 for a record in the shape of API version v1, 1 for v2."""
    description = record.get("data_description")
    names = description if isinstance(description, dict) else {}
    has_v2_field = any(record.get(field) is not None for field in _V2_FIELDS)
    return int("modalities" in names or ("modality" not in names and has_v2_field))

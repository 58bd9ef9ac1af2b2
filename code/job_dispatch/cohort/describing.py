"""What there is to select: assets counted by what selects them, without making any job."""

from __future__ import annotations

import itertools
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from job_dispatch.cohort import quality_control, table_rows
from job_dispatch.cohort.field_uses import FieldUses
from job_dispatch.cohort.quality_control import Wanted
from job_dispatch.cohort.row_keys import SESSION_FIELDS, SUBJECT_FIELD
from job_dispatch.left_out import LeftOut
from job_dispatch.messages import RequestError
from job_dispatch.metadata.records import (
    ASSET_FIELDS,
    Filter,
    MetadataSource,
    Record,
    asset_of,
    id_filter,
    projection,
    value_at,
)
from job_dispatch.model import Asset
from job_dispatch.request.fields import NAMES, all_of
from job_dispatch.request.query import Query
from job_dispatch.request.selection import Selection

[_PROJECT] = NAMES["@project"]
LEVEL = "data_description.data_level"
_MODALITIES = NAMES["@modality"]
_FIELDS = (*ASSET_FIELDS, _PROJECT, LEVEL, SUBJECT_FIELD, *_MODALITIES, *SESSION_FIELDS, *quality_control.FIELDS)
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_MONTH_LENGTH, _DAY_LENGTH = 7, 10
_SAMPLED = 2_000
_EXAMPLES = 5
_SAMPLING_SECONDS = 60.0
# A batch of which less than this part is new shows that little is left to be seen.
_NEW_OF_BATCH = 10
# Records of which anything was judged.
_JUDGED = {
    "$or": [{f"quality_control.{part}.0": {"$exists": True}} for part in ("evaluations", "metrics")],
}


@runtime_checkable
class _Counting(Protocol):
    """A source of records that counts them itself, where it can evaluate the whole query."""

    def can_count(self, query: Filter) -> bool: ...

    def count_by(self, query: Filter, keys: Mapping[str, Any]) -> Iterator[tuple[Record, int]]:
        """Yield each combination of the values of expressions, and how many records have it."""
        ...


class Cell(NamedTuple):
    """What assets have in common; texts are empty where a record says nothing.

    `modalities` are sorted abbreviations, `month` is `YYYY-MM` on the session's own clock, `quality` the verdict on
    each modality that was judged.
    """

    project: str
    modalities: tuple[str, ...]
    level: str
    month: str
    quality: tuple[tuple[str, str], ...]


@dataclass
class Cohort:
    """What there is, counted.

    Parameters
    ----------
    cells : Counter of Cell
        Assets by what they have in common.
    subjects, days : Counter of str
        Assets by subject, and by day (`YYYY-MM-DD`) on the session's own clock; "" where unknown.
    fields : FieldUses
        Which fields a sample of the records has.
    examples : list of Asset
        A few assets of the sample.
    endings : list of (str, int, bool)
        Endings of files in the examples, how often each occurs, and whether as stores; empty where nobody looked.
    """

    cells: Counter[Cell] = field(default_factory=Counter)
    subjects: Counter[str] = field(default_factory=Counter)
    days: Counter[str] = field(default_factory=Counter)
    fields: FieldUses = field(default_factory=FieldUses)
    examples: list[Asset] = field(default_factory=list)
    endings: list[tuple[str, int, bool]] = field(default_factory=list)

    @property
    def total(self) -> int:
        """The number of assets."""
        return self.cells.total()

    def add(self, traits: _Traits, quality: tuple[tuple[str, str], ...], number: int) -> None:
        """Count assets more, or less."""
        cell = Cell(traits.project, traits.modalities, traits.level, traits.day[:_MONTH_LENGTH], quality)
        self.cells[cell] += number
        self.subjects[traits.subject] += number
        self.days[traits.day] += number


class _Traits(NamedTuple):
    project: str
    modalities: tuple[str, ...]
    level: str
    day: str
    subject: str


def describe(metadata: MetadataSource, selection: Selection, wanted: Wanted) -> Cohort:
    """Return what a selection holds; one of neither query nor table holds everything.

    DocDB counts itself; only records of which quality control judged something are read, since its rule is none that
    a database could count by. Of a catalog and of a table all records are read.

    Parameters
    ----------
    metadata : MetadataSource
    selection : Selection
    wanted : Wanted
        What quality control must say; its flag is empty where that does not matter.

    Raises
    ------
    RequestError
        There is nothing.
    ServiceError
        The source of records fails.
    """
    cohort = Cohort()
    query = _query(selection)
    if selection.table is None and isinstance(metadata, _Counting) and metadata.can_count(query):
        _count_there(metadata, metadata, query, wanted, cohort)
    else:
        ids = []
        for record in _records(metadata, selection):
            if wanted.takes(record):
                cohort.add(_traits(record), _quality(record, wanted), 1)
                ids.append(record["_id"])
        if selection.table is not None:
            query = {"_id": {"$in": ids[:_SAMPLED]}}
    if not cohort.total:
        from job_dispatch.metadata.diagnosis import explain_nothing

        raise RequestError("there is nothing to describe: no record matches", explain_nothing(metadata, query))
    for batch in _sample(metadata, query, min(_SAMPLED, cohort.total)):
        taken = list(filter(wanted.takes, batch))
        cohort.fields.add(taken)
        cohort.examples += map(asset_of, taken[: _EXAMPLES - len(cohort.examples)])
    return cohort


def _query(selection: Selection) -> dict[str, Any]:
    """Return the query without the assets that are left out."""
    excluded = sorted(selection.exclusions.assets)
    known_as = [id_filter(excluded), {"name": {"$in": excluded}}, {"_id": {"$in": excluded}}]
    asked = selection.query.filter if selection.query else {}
    return all_of([asked, {"$nor": known_as}] if excluded else [asked])


def _records(metadata: MetadataSource, selection: Selection) -> Iterable[Record]:
    fields = projection((*_FIELDS, *table_rows.FIELDS))

    def read(query: Filter, keep: Any = lambda record: True) -> Iterator[Record]:
        return filter(keep, itertools.chain.from_iterable(metadata.find(query, fields)))

    query = _query(selection)
    if selection.table is None:
        return read(query)
    fitting = table_rows.find(read, metadata, selection.table, Query(query) if query else None, True, LeftOut())
    return (record for _, record in fitting.found)


def _count_there(source: _Counting, metadata: MetadataSource, query: Filter, wanted: Wanted, cohort: Cohort) -> None:
    """Count in the database, and then anew what was judged there."""
    only_judged = wanted.flag == "pass"
    if not only_judged:
        _count_unjudged(source, query, cohort)
    judged = {"$and": [query, _JUDGED]} if query else _JUDGED
    for record in itertools.chain.from_iterable(metadata.find(judged, projection(_FIELDS))):
        traits = _traits(record)
        if not only_judged:
            cohort.add(traits, (), -1)
        if wanted.takes(record):
            cohort.add(traits, _quality(record, wanted), 1)
    for counts in (cohort.cells, cohort.subjects, cohort.days):
        for key in [key for key, number in counts.items() if number <= 0]:
            del counts[key]


def _count_unjudged(source: _Counting, query: Filter, cohort: Cohort) -> None:
    """Count everything as if nothing had been judged: crossed, and subjects and days apart."""
    start: Any = ""
    for path in reversed(SESSION_FIELDS):
        start = {"$ifNull": [f"${path}", start]}
    month, day = ({"$substrCP": [start, 0, length]} for length in (_MONTH_LENGTH, _DAY_LENGTH))
    modalities = {f"modality{number}": f"${path}" for number, path in enumerate(_MODALITIES)}
    for key, number in source.count_by(
        query, {"project": f"${_PROJECT}", "level": f"${LEVEL}", "month": month, **modalities}
    ):
        listed = [key.get(name) for name in modalities]
        cell = Cell(
            _text(key.get("project")), _modalities(listed), _text(key.get("level")), _month(key.get("month")), ()
        )
        cohort.cells[cell] += number
    for key, number in source.count_by(query, {"subject": f"${SUBJECT_FIELD}"}):
        cohort.subjects[_text(key.get("subject"))] += number
    for key, number in source.count_by(query, {"day": day}):
        cohort.days[_day(key.get("day"))] += number


def _traits(record: Record) -> _Traits:
    starts = [value_at(record, path) for path in SESSION_FIELDS]
    start = next((value for value in starts if value is not None), "")
    return _Traits(
        _text(value_at(record, _PROJECT)),
        _modalities([value_at(record, path) for path in _MODALITIES]),
        _text(value_at(record, LEVEL)),
        _day(start[:_DAY_LENGTH] if isinstance(start, str) else ""),
        _text(value_at(record, SUBJECT_FIELD)),
    )


def _quality(record: Record, wanted: Wanted) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(quality_control.by_modality(record, wanted.now).items()))


def _modalities(found: Iterable[object]) -> tuple[str, ...]:
    lists = (value if isinstance(value, list) else [value] for value in found)
    return tuple(sorted({value for values in lists for value in values if isinstance(value, str) and value}))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _month(value: object) -> str:
    return _text(value) if _DAY.fullmatch(f"{value}-01") else ""


def _day(value: object) -> str:
    return _text(value) if _DAY.fullmatch(_text(value)) else ""


def _sample(metadata: MetadataSource, query: Filter, size: int) -> Iterator[list[Record]]:
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

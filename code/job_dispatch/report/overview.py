"""What a description shows: the values that assets have, how many have each, and what selects it.

It is text for a terminal, and a page that composes the command for what one clicks and needs nothing beside itself.
"""

from __future__ import annotations

import calendar
import contextlib
import json
import math
import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from job_dispatch import pages
from job_dispatch.cohort import quality_control
from job_dispatch.cohort.describing import VERSIONS, Cell, FieldUse, Overview
from job_dispatch.messages import RequestError, ServiceError, counted, logger, printable
from job_dispatch.metadata.records import LEVEL
from job_dispatch.report import charts, writing
from job_dispatch.request.fields import NAMES
from job_dispatch.request.flags import Settings, panel_labels, text_of
from job_dispatch.request.selection import read_query

_TOP = 10
_FIELDS = 30
_VALUES = 3
_WIDTH = 60
NAME = "describe.html"
_MARK = '<meta name="generator" content="analysis job dispatcher, description">'
_PAGE_BYTES = 2_000_000
# The flags that the page composes itself.
COMPOSED = {
    *("subject", "project", "modality", "from", "to", "qc", "docdb_query"),
    *("use_data_asset_csv", "describe", "report_directory"),
}
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_VALUE_CHARACTERS = 200


@dataclass(frozen=True)
class Row:
    """A value, how many assets have it, and the flag or query that selects them; empty where nothing does."""

    value: str
    number: int
    flag: str


@dataclass(frozen=True)
class Trait:
    """What assets are counted by: its name, its values with the most frequent first (of times the latest first).

    `unknown` assets have none. `remark` says what else there is to know.
    """

    name: str
    rows: Sequence[Row]
    unknown: int
    remark: str = ""


def traits(overview: Overview, modalities: Sequence[str]) -> list[Trait]:
    """Return everything that assets are counted by; `modalities` are those on whose quality control counts."""
    projects, levels, days, months, subjects, spread, verdicts = (Counter[str]() for _ in range(7))
    for cell, number in overview.cells.items():
        projects[cell.project] += number
        levels[cell.level] += number
        days[cell.day] += number
        months[cell.day[:7]] += number
        subjects[cell.subject] += number
        verdicts[quality_control.together(cell.quality, modalities)] += number
        for modality in cell.modalities or ("",):
            spread[modality] += number
    return [
        _trait("project", projects, lambda value: _list_flag("project", value)),
        _trait("modality", spread, lambda value: _list_flag("modality", value)),
        _trait("level", levels, lambda value: query_flag(LEVEL, _one_of(overview.spelled(value)))),
        _quality_control(verdicts),
        _trait("month", months, _month_flags, is_time=True),
        _trait("day", days, lambda day: f"--from={day} --to={day}", is_time=True),
        _trait("subject", subjects, lambda value: _list_flag("subject", value)),
        _endings(overview),
    ]


def _trait(name: str, counts: Mapping[str, int], flag: Callable[[str], str], is_time: bool = False) -> Trait:
    ordered = sorted(counts, reverse=True) if is_time else sorted(counts, key=lambda value: (-counts[value], value))
    return Trait(name, [Row(value, counts[value], flag(value)) for value in ordered if value], counts.get("", 0))


def _endings(overview: Overview) -> Trait:
    rows = [
        Row(f"{ending} (stores)" if is_store else ending, number, f"--file_extension={shlex.quote(ending)}")
        for ending, number, is_store in overview.endings
        if ending
    ]
    remark = f"Of the files and stores in {counted(len(overview.examples), 'asset')} looked at."
    return Trait("ending", rows, sum(number for ending, number, _ in overview.endings if not ending), remark)


def _quality_control(verdicts: Counter[str]) -> Trait:
    passed, failed = verdicts[quality_control.PASS], verdicts[quality_control.FAIL]
    rows = [Row("pass", passed, "--qc=pass"), Row("not_fail", verdicts.total() - failed, "--qc=not_fail")]
    told = (quality_control.PASS, quality_control.PENDING, quality_control.FAIL, quality_control.NONE)
    remark = ", ".join(f"{verdict}: {verdicts[verdict]:,}" for verdict in told)
    return Trait("qc", rows, 0, remark)


def _month_flags(month: str) -> str:
    year, number = map(int, month.split("-"))
    days = calendar.monthrange(year, number)[1] if year and 1 <= number <= 12 else 31
    return f"--from={month}-01 --to={month}-{days:02d}"


def _list_flag(name: str, value: str) -> str:
    """Return a flag that takes several values; a JSON list where the value would be taken for several."""
    is_plain = "," not in value and value == value.strip() and not value.startswith("[")
    return f"--{name}={shlex.quote(value if is_plain else json.dumps([value], ensure_ascii=False))}"


def _one_of(values: Sequence[str]) -> object:
    return values[0] if len(values) == 1 else {"$in": values}


def query_flag(path: str, value: object) -> str:
    """Return the query for records with a value at a path, or with what an operator takes."""
    return f"--docdb_query={shlex.quote(json.dumps({path: value}, ensure_ascii=False))}"


def shares(use: FieldUse, sampled: Sequence[int]) -> list[str]:
    """Return in how many per cent of the records of each version a field has a value."""
    return [f"{100 * number / of:.0f}%" if of else "" for number, of in zip(use.records, sampled, strict=True)]


def sampled(overview: Overview, shown: int) -> str:
    """Return sentences on the records whose fields were looked at, and on the fields that are not shown."""
    parts = [
        f"{number:,} {version}" for number, version in zip(overview.fields.sampled, VERSIONS, strict=True) if number
    ]
    number, unique = sum(overview.fields.sampled), overview.fields.unique
    total = counted(overview.total, "record")
    of = f"all {total}" if number >= overview.total else f"a random sample of {number:,} of {total}"
    sentences = [f"Of {of} ({', '.join(parts)})."]
    if unique:
        sentences.append(f"Not shown: {counted(unique, 'field')} that differ in every record, such as _id.")
    if (more := len(overview.fields) - shown) > 0:
        sentences.append(f"{counted(more, 'rarer field')} more.")
    return " ".join(sentences)


def lines(overview: Overview, source: str, modalities: Sequence[str]) -> Iterator[str]:
    """Yield the description line by line."""
    yield f"{counted(overview.total, 'asset')} in {source}"
    for trait in traits(overview, modalities):
        if not trait.rows:
            continue
        rows = [(printable(row.value, _WIDTH), f"{row.number:,}", printable(row.flag)) for row in trait.rows[:_TOP]]
        if more := trait.rows[_TOP:]:
            rows.append((f"{len(more):,} more", "", ""))
        if trait.unknown:
            rows.append(("(unknown)", f"{trait.unknown:,}", ""))
        yield ""
        yield from _table([(trait.name, "files" if trait.name == "ending" else "assets", "selected by"), *rows])
        if trait.remark:
            yield trait.remark
    yield ""
    yield from _fields(overview)


def _fields(overview: Overview) -> Iterator[str]:
    rows = [("field", *VERSIONS, "records", "with the most frequent values, selected by")]
    for use in overview.fields.uses(_FIELDS, _VALUES):
        values = [(f"{number:,}", printable(query_flag(use.path, value))) for value, number in use.values]
        v1, v2 = shares(use, overview.fields.sampled)
        first, *further = values or [("", "")]
        rows.append((printable(use.path, _WIDTH), v1, v2, *first))
        rows += [("", "", "", *one) for one in further]
    yield from _table(rows)
    yield sampled(overview, _FIELDS)


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Align columns: the first and the last to the left, numbers between them to the right."""
    first, *middle, _ = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *numbers, last in rows:
        right = [number.rjust(width) for number, width in zip(numbers, middle, strict=True)]
        yield "   ".join([name.ljust(first), *right, last]).rstrip()


# Rows of each trait, subjects, fields, values of a field, and whether subjects are counted together with all else: the
# first with which the page is small enough are taken.
_SIZES = (
    (1_000, 3_000, 400, 5, True),
    (300, 1_000, 100, 3, True),
    (300, 1_000, 100, 3, False),
    (40, 40, 30, 2, False),
)
# JavaScript counts no further in whole numbers.
_LARGEST = 2**53


@dataclass(frozen=True)
class Base:
    """What was selected already, which the page's command keeps; flags by their names.

    `command` is the command without what selects, one element an argument; `query` the filter of `--docdb_query`;
    `table` the value of `--use_data_asset_csv`, `0` where no table selects. `flags` are `subject`, `project`,
    `modality`, `from`, `to` and `qc`, as far as they were given.
    """

    command: Sequence[str]
    query: Mapping[str, Any] | None
    flags: Mapping[str, Any]
    table: str


def base(settings: Settings, command: Sequence[str]) -> Base:
    """Return what a run's flags select; `command` has the other flags."""
    query = read_query(settings.docdb_query, settings.input_directory).filter if settings.docdb_query else None
    flags = {
        "subject": list(settings.subject),
        "project": list(settings.project),
        "modality": list(settings.modality),
        "from": str(settings.from_ or ""),
        "to": str(settings.to or ""),
        "qc": settings.qc,
    }
    given = {name: value for name, value in flags.items() if value}
    return Base(command, query, given, text_of(settings.use_data_asset_csv))


def write(directory: Path, text: str, overwrite: bool) -> None:
    """Write the page into a report directory; somebody else's file of its name is replaced only if that is wanted."""
    path = directory / NAME
    if not overwrite and os.path.lexists(path) and _MARK.encode() not in writing.content(path)[:1_000]:
        raise RequestError(f"{path}: not a page that a description wrote; remove it, or replace it by --overwrite=1")
    try:
        writing.replace(directory, {NAME: text}, overwrite=True)  # the files of a report are not touched
    except OSError as error:
        raise ServiceError(f"--report_directory: cannot write into {directory}: {error.strerror}") from error
    logger.info("description in %s", path)


def render(overview: Overview, base: Base, source: str) -> str:
    """Return the page as HTML, less than 2 MB of UTF-8; where it would be larger it shows fewer values."""
    modalities = base.flags.get("modality", [])
    writable = [replace(one, rows=_writable(one.rows)) for one in traits(overview, modalities)]
    contents = (_contents(overview, writable, base, source, size) for size in _SIZES)
    return pages.render("report/overview.html.j2", _PAGE_BYTES, contents)


def _contents(
    overview: Overview, traits: Sequence[Trait], base: Base, source: str, size: tuple[int, int, int, int, bool]
) -> dict[str, Any]:
    rows, subjects, fields, values_of_field, by_subject = size
    listed = {one.name: one.rows[: subjects if one.name == "subject" else rows] for one in traits}
    values = {name: [row.value for row in shown] for name, shown in listed.items()}
    days = sorted(row.value for one in traits if one.name == "day" for row in one.rows)
    dated: dict[str, date] = {}
    for day in days:
        with contextlib.suppress(ValueError):  # whatever a record has
            dated[day] = date.fromisoformat(day)
    time = charts.timeline(dated.values()) if dated else None
    data = {
        **_crossed(overview.cells, {**values, "day": days}, by_subject),
        "values": values,
        "days": days,
        "columns": [time.places[dated[day]] if day in dated else None for day in days] if time else [],
        "names": time.names if time else [],
        "subjects": [row.number for row in listed["subject"]],
        "base": asdict(base),
        "labels": {name: label for name, label in sorted(panel_labels().items()) if name in COMPOSED},
        "levelField": LEVEL,
        "levelSpellings": {level: overview.spelled(level) for level in values["level"]},
        "sessionFields": NAMES["@session"],
    }
    uses = overview.fields.uses(fields, values_of_field)
    return {
        "mark": Markup(_MARK),
        "total": counted(overview.total, "asset"),
        "source": source,
        "finished": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S UTC}",
        "sections": [(one, listed[one.name]) for one in traits],
        "time": time,
        "data": pages.script_json(data),
        "versions": VERSIONS,
        "fields": [_field(use, overview.fields.sampled) for use in uses],
        "sampled": sampled(overview, len(uses)),
    }


def _field(use: FieldUse, sampled: Sequence[int]) -> dict[str, Any]:
    """Return a field as a row of the page: in how many records it is, and its values with what selects each."""
    frequent = [(str(value), number, query_flag(use.path, value)) for value, number in use.values]
    return {"path": use.path, "shares": shares(use, sampled), "frequent": frequent}


def _writable(rows: Sequence[Row]) -> list[Row]:
    """Leave out values that no command line or page could hold: they are in no name that people give."""
    return [row for row in rows if len(row.value) <= _VALUE_CHARACTERS and row.value.isprintable()]


def _crossed(cells: Counter[Cell], values: Mapping[str, Sequence[str]], by_subject: bool) -> dict[str, Any]:
    """Return all cells in few bytes: the parts that they are made of, and one number for each combination.

    A cell's number counts up the combinations of the indexes of its parts. The numbers are in order, each as its
    distance from the one before, in base 36, with the number of assets behind a colon where that is not 1.
    Values that the page does not show have the index of the empty text, as have all subjects without `by_subject`.
    """
    sets, qualities = sorted({cell.modalities for cell in cells}), sorted({cell.quality for cell in cells})
    parts: dict[str, Sequence[object]] = {
        "project": ["", *values["project"]],
        "modalities": sets,
        "level": ["", *values["level"]],
        "day": ["", *values["day"]],
        "quality": qualities,
        "subject": ["", *values["subject"]],
    }
    by_subject = by_subject and math.prod(map(len, parts.values())) < _LARGEST
    if not by_subject:
        del parts["subject"]
    indexes = {name: {value: index for index, value in enumerate(part)} for name, part in parts.items()}
    numbers: Counter[int] = Counter()
    for cell, assets in cells.items():
        number = 0
        for name, index in indexes.items():
            number = number * len(index) + index.get(getattr(cell, name), 0)
        numbers[number] += assets
    tokens, before = [], 0
    for number, assets in sorted(numbers.items()):
        tokens.append(_base36(number - before) + (f":{_base36(assets)}" if assets > 1 else ""))
        before = number
    return {
        "sizes": list(map(len, indexes.values())),
        "sets": sets,
        "qualities": qualities,
        "bySubject": by_subject,
        "cells": " ".join(tokens),
    }


def _base36(number: int) -> str:
    text = _DIGITS[number % 36]
    while number := number // 36:
        text = _DIGITS[number % 36] + text
    return text

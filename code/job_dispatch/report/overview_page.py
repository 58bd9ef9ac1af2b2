"""The page of a description: what there is, and the command for what one clicks; it needs nothing beside itself."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from job_dispatch.cohort.describing import VERSIONS, Cell, FieldUse, Overview
from job_dispatch.messages import RequestError, ServiceError, counted, logger
from job_dispatch.metadata.records import LEVEL
from job_dispatch.pages import templates
from job_dispatch.report import charts, files
from job_dispatch.report import overview as shown
from job_dispatch.request.fields import NAMES
from job_dispatch.request.flags import Settings, panel_labels, text_of
from job_dispatch.request.selection import read_query

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
class _Size:
    """How much the page shows: rows of each trait and of subjects, fields, values of a field, and how it counts.

    With `by_subject` it can count subjects together with everything else.
    """

    rows: int
    subjects: int
    fields: int
    values: int
    by_subject: bool = True


# The first with which the page is small enough is taken.
_SIZES = (
    _Size(1_000, 3_000, 400, 5),
    _Size(300, 1_000, 100, 3),
    _Size(300, 1_000, 100, 3, by_subject=False),
    _Size(40, 40, 30, 2, by_subject=False),
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
    """Write the page into a report directory; somebody else's file of its name is replaced only if that is wanted.

    Raises
    ------
    RequestError
        There is such a file.
    ServiceError
        The page cannot be written.
    """
    path = directory / NAME
    if not overwrite and os.path.lexists(path) and not _is_ours(path):
        raise RequestError(f"{path}: not a page that a description wrote; remove it, or replace it by --overwrite=1")
    try:
        files.replace(directory, {NAME: text}, overwrite=True)  # the files of a report are not touched
    except OSError as error:
        raise ServiceError(f"--report_directory: cannot write into {directory}: {error.strerror}") from error
    logger.info("description in %s", path)


def _is_ours(path: Path) -> bool:
    try:
        return not path.is_symlink() and path.is_file() and _MARK.encode() in path.read_bytes()[:1_000]
    except OSError:
        return False


def render(overview: Overview, base: Base, source: str) -> str:
    """Return the page as HTML, less than 2 MB of UTF-8; where it would be larger it shows fewer values."""
    template = templates.template("report/overview.html.j2")
    traits = [replace(one, rows=_writable(one.rows)) for one in shown.traits(overview, base.flags.get("modality", []))]
    pages = (template.render(_contents(overview, traits, base, source, size)) for size in _SIZES)
    return templates.first_below(_PAGE_BYTES, pages)


def _contents(
    overview: Overview, traits: Sequence[shown.Trait], base: Base, source: str, size: _Size
) -> dict[str, Any]:
    listed = {one.name: one.rows[: size.subjects if one.name == "subject" else size.rows] for one in traits}
    values = {name: [row.value for row in rows] for name, rows in listed.items()}
    days = sorted(row.value for one in traits if one.name == "day" for row in one.rows)
    dated = {day: date.fromisoformat(day) for day in days if _is_date(day)}
    time = charts.timeline(dated.values()) if dated else None
    data = {
        **_crossed(overview.cells, {**values, "day": days}, size.by_subject),
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
    uses = overview.fields.uses(size.fields, size.values)
    return {
        "mark": Markup(_MARK),
        "total": counted(overview.total, "asset"),
        "source": source,
        "finished": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S UTC}",
        "sections": [(one, listed[one.name]) for one in traits],
        "time": time,
        "data": templates.script_json(data),
        "versions": VERSIONS,
        "fields": [_field(use, overview.fields.sampled) for use in uses],
        "sampled": shown.sampled(overview, len(uses)),
    }


def _is_date(day: str) -> bool:
    try:
        return bool(date.fromisoformat(day))
    except ValueError:
        return False


def _field(use: FieldUse, sampled: Sequence[int]) -> dict[str, Any]:
    """Return a field as a row of the page: in how many records it is, and its values with what selects each."""
    frequent = [(str(value), number, shown.query_flag(use.path, value)) for value, number in use.values]
    return {"path": use.path, "shares": shown.shares(use, sampled), "frequent": frequent}


def _writable(rows: Sequence[shown.Row]) -> list[shown.Row]:
    """Leave out values that no command line or page could hold: they are in no name that people give."""
    return [row for row in rows if len(row.value) <= _VALUE_CHARACTERS and row.value.isprintable()]


def _crossed(cells: Counter[Cell], values: Mapping[str, Sequence[str]], by_subject: bool) -> dict[str, Any]:
    """Return all cells in few bytes: the parts that they are made of, and one number for each combination.

    A cell's number counts up the combinations of the indexes of its parts. The numbers are in order, each as its
    distance from the one before, in base 36, with the number of assets behind a colon where that is not 1.
    Values that the page does not show have the index of the empty text, as have all subjects without `by_subject`.
    """
    project, level, day, subject = (
        {"": 0, **{value: number for number, value in enumerate(values[name], 1)}}
        for name in ("project", "level", "day", "subject")
    )
    sets = {one: number for number, one in enumerate(sorted({cell.modalities for cell in cells}))}
    qualities = {one: number for number, one in enumerate(sorted({cell.quality for cell in cells}))}
    sizes = [len(project), len(sets), len(level), len(day), len(qualities)]
    by_subject = by_subject and math.prod(sizes) * len(subject) < _LARGEST
    if by_subject:
        sizes.append(len(subject))
    numbers: Counter[int] = Counter()
    for cell, assets in cells.items():
        parts = [
            project.get(cell.project, 0),
            sets[cell.modalities],
            level.get(cell.level, 0),
            day.get(cell.day, 0),
            qualities[cell.quality],
            subject.get(cell.subject, 0),
        ]
        number = 0
        for size, part in zip(sizes, parts, strict=False):  # without the last, where subjects do not count
            number = number * size + part
        numbers[number] += assets
    tokens, before = [], 0
    for number, assets in sorted(numbers.items()):
        tokens.append(_base36(number - before) + (f":{_base36(assets)}" if assets > 1 else ""))
        before = number
    return {
        "sizes": sizes,
        "sets": list(sets),
        "qualities": list(qualities),
        "bySubject": by_subject,
        "cells": " ".join(tokens),
    }


def _base36(number: int) -> str:
    text = _DIGITS[number % 36]
    while number := number // 36:
        text = _DIGITS[number % 36] + text
    return text

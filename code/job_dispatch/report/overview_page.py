"""The page of a description: what there is, and the command for what one clicks; it needs nothing beside itself."""

from __future__ import annotations

import functools
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from jinja2 import Template
from markupsafe import Markup

from job_dispatch.cohort.describing import VERSIONS, Cell, Overview
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
COMPOSED = frozenset(
    (
        "subject",
        "project",
        "modality",
        "from",
        "to",
        "qc",
        "docdb_query",
        "use_data_asset_csv",
        "describe",
        "report_directory",
    )
)
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

    Parameters
    ----------
    command : sequence of str
        The command without what selects, one element an argument.
    query : mapping or None
        The filter of `--docdb_query`.
    flags : mapping of str to str or list of str
        `subject`, `project`, `modality`, `from`, `to` and `qc`, as far as they were given.
    table : str
        The value of `--use_data_asset_csv`; `0` where no table selects.
    """

    command: Sequence[str]
    query: Mapping[str, Any] | None
    flags: Mapping[str, Any]
    table: str


def base(settings: Settings, command: Sequence[str]) -> Base:
    """Return what a run's flags select; `command` has the other flags."""
    query = read_query(settings.docdb_query, settings.input_directory).filter if settings.docdb_query else None
    lists = {name: list(getattr(settings, name)) for name in ("subject", "project", "modality")}
    texts = {
        "from": f"{settings.from_ or ''}",
        "to": f"{settings.to or ''}",
        "qc": settings.qc or "",
    }
    flags = {name: value for name, value in {**lists, **texts}.items() if value}
    return Base(command, query, flags, text_of(settings.use_data_asset_csv))


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
    """Return the page as HTML, at most 2 MB of UTF-8; where it would be larger it shows fewer values."""
    modalities = base.flags.get("modality", [])
    traits = [replace(one, rows=_writable(one.rows)) for one in shown.traits(overview, modalities)]
    text = ""
    for size in _SIZES:
        text = _template().render(
            _contents(overview, traits, base, source, f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S UTC}", size)
        )
        if len(text.encode()) <= _PAGE_BYTES:
            break
    return text


def _contents(
    overview: Overview, traits: Sequence[shown.Trait], base: Base, source: str, finished: str, size: _Size
) -> dict[str, Any]:
    sections = [_Section(one, one.rows[: size.subjects if one.name == "subject" else size.rows]) for one in traits]
    values = {section.trait.name: [row.value for row in section.rows] for section in sections}
    counts = {one.name: [row.number for row in one.rows] for one in traits}
    days = sorted(row.value for one in traits if one.name == "day" for row in one.rows)
    dated = {day: date.fromisoformat(day) for day in days if _is_date(day)}
    time = charts.timeline(dated.values()) if dated else None
    data = {
        **_crossed(overview.cells, {**values, "day": days}, size.by_subject),
        "values": values,
        "days": days,
        "columns": [time.places[dated[day]] if day in dated else None for day in days] if time else [],
        "names": time.names if time else [],
        "subjects": counts["subject"][: size.subjects],
        "base": {"query": base.query, "flags": base.flags, "table": base.table, "command": list(base.command)},
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
        "finished": finished,
        "sections": sections,
        "time": time,
        "data": templates.script_json(data),
        "versions": VERSIONS,
        "fields": [_Field(use, overview.fields.sampled) for use in uses],
        "sampled": shown.sampled(overview) + shown.left_out(overview, len(overview.fields) - len(uses)),
    }


def _is_date(day: str) -> bool:
    try:
        return bool(date.fromisoformat(day))
    except ValueError:
        return False


@dataclass(frozen=True)
class _Section:
    """A trait and those of its values that are shown; endings cannot be ticked."""

    trait: shown.Trait
    rows: Sequence[shown.Row]

    @property
    def is_chosen_from(self) -> bool:
        return self.trait.name != "ending"

    @property
    def first(self) -> str:
        """The earliest of days; the latest ones are listed first."""
        return self.trait.rows[-1].value

    @property
    def last(self) -> str:
        return self.trait.rows[0].value

    @property
    def more(self) -> int:
        return len(self.trait.rows) - len(self.rows)


class _Field:
    """A field as a row of the page."""

    def __init__(self, use: Any, sampled: Sequence[int]) -> None:
        self.path = use.path
        self.shares = shown.shares(use, sampled)
        self.values = [(str(value), number, shown.query_flag(use.path, value)) for value, number in use.values]


def _writable(rows: Sequence[shown.Row]) -> list[shown.Row]:
    """Leave out values that no command line or page could hold: they are in no name that people give."""
    return [row for row in rows if len(row.value) <= _VALUE_CHARACTERS and row.value.isprintable()]


def _crossed(cells: Counter[Cell], values: Mapping[str, Sequence[str]], by_subject: bool) -> dict[str, Any]:
    """Return all cells in few bytes: the parts that they are made of, and one number for each combination.

    A cell's number counts up the combinations of the indexes of its parts. The numbers are in order, each as its
    distance from the one before, in base 36, with the number of assets behind a colon where that is not 1.
    Values that the page does not show have the index of the empty text, as have all subjects without `by_subject`.
    """
    known = {
        name: {"": 0, **{value: number + 1 for number, value in enumerate(values[name])}}
        for name in ("project", "level", "day", "subject")
    }
    sets = {one: number for number, one in enumerate(sorted({cell.modalities for cell in cells}))}
    qualities = {one: number for number, one in enumerate(sorted({cell.quality for cell in cells}))}
    sizes = [len(known["project"]), len(sets), len(known["level"]), len(known["day"]), len(qualities)]
    by_subject = by_subject and math.prod(sizes) * len(known["subject"]) < _LARGEST
    if by_subject:
        sizes.append(len(known["subject"]))
    numbers: Counter[int] = Counter()
    for cell, assets in cells.items():
        parts = [
            known["project"].get(cell.project, 0),
            sets[cell.modalities],
            known["level"].get(cell.level, 0),
            known["day"].get(cell.day, 0),
            qualities[cell.quality],
        ]
        if by_subject:
            parts.append(known["subject"].get(cell.subject, 0))
        number = 0
        for part, size in zip(parts, sizes, strict=True):
            number = number * size + part
        numbers[number] += assets
    tokens, before = [], 0
    for number in sorted(numbers):
        assets = numbers[number]
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


@functools.cache
def _template() -> Template:
    return templates.template("report/overview.html.j2", number=lambda number: f"{number:,}")

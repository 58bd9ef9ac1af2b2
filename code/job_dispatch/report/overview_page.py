"""The page of a description: what there is, and the command for what one clicks; it needs nothing beside itself."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Template
from markupsafe import Markup

from job_dispatch.cohort.describing import VERSIONS, Cell, Overview
from job_dispatch.messages import PANEL_LABELS, RequestError, ServiceError, counted, logger
from job_dispatch.metadata.records import LEVEL
from job_dispatch.pages import templates
from job_dispatch.report import files
from job_dispatch.report import overview as shown
from job_dispatch.request.fields import NAMES
from job_dispatch.request.flags import Settings, text_of
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
    """How much the page shows: rows of each trait and of subjects, fields, values of a field."""

    rows: int
    subjects: int
    fields: int
    values: int


# The first with which the page is small enough is taken.
_SIZES = (_Size(1_000, 3_000, 400, 5), _Size(400, 1_000, 200, 5), _Size(150, 300, 100, 3), _Size(40, 40, 30, 2))


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
    data = {
        **_crossed(overview.cells, values),
        "values": values,
        "subjects": [row.number for section in sections if section.trait.name == "subject" for row in section.rows],
        "base": {"query": base.query, "flags": base.flags, "table": base.table, "command": list(base.command)},
        "labels": {name: PANEL_LABELS[name] for name in sorted(COMPOSED)},
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
        "data": templates.script_json(data),
        "versions": VERSIONS,
        "fields": [_Field(use, overview.fields.sampled) for use in uses],
        "more_fields": len(overview.fields) - len(uses),
        "sampled": shown.sampled(overview),
    }


@dataclass(frozen=True)
class _Section:
    """A trait and those of its values that are shown; days and endings only tell, months can be chosen."""

    trait: shown.Trait
    rows: Sequence[shown.Row]

    @property
    def is_chosen_from(self) -> bool:
        return self.trait.name not in ("day", "ending")

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


def _crossed(cells: Counter[Cell], values: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return all cells in few bytes: the parts that they are made of, and one number for each combination.

    A cell's number counts up the combinations of the indexes of its parts. The numbers are told in order, each by
    its distance from the one before, in base 36, with the number of assets behind a colon where that is not 1.
    Values that the page does not show have the index of the empty text.
    """
    known = {name: {"": 0, **{value: number + 1 for number, value in enumerate(values[name])}} for name in _SHOWN}
    sets = sorted({cell.modalities for cell in cells})
    qualities = sorted({cell.quality for cell in cells})
    set_numbers = {one: number for number, one in enumerate(sets)}
    quality_numbers = {one: number for number, one in enumerate(qualities)}
    sizes = [len(known["project"]), len(sets), len(known["level"]), len(known["month"]), len(qualities)]
    numbers: Counter[int] = Counter()
    for cell, assets in cells.items():
        parts = (
            known["project"].get(cell.project, 0),
            set_numbers[cell.modalities],
            known["level"].get(cell.level, 0),
            known["month"].get(cell.month, 0),
            quality_numbers[cell.quality],
        )
        numbers[
            functools.reduce(lambda number, part: number * part[0] + part[1], zip(sizes, parts, strict=True), 0)
        ] += assets
    tokens, before = [], 0
    for number in sorted(numbers):
        assets = numbers[number]
        tokens.append(_base36(number - before) + (f":{_base36(assets)}" if assets > 1 else ""))
        before = number
    return {"sizes": sizes, "sets": sets, "qualities": qualities, "cells": " ".join(tokens)}


_SHOWN = ("project", "level", "month")


def _base36(number: int) -> str:
    text = _DIGITS[number % 36]
    while number := number // 36:
        text = _DIGITS[number % 36] + text
    return text


@functools.cache
def _template() -> Template:
    return templates.template("report/overview.html.j2", number=lambda number: f"{number:,}")

"""The report of a run as one HTML page that needs nothing beside itself."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from jinja2 import Template

from job_dispatch.messages import counted, with_unit
from job_dispatch.pages import parameter_table, templates
from job_dispatch.report import charts

_PAGE_BYTES = 1_000_000
# Rows of a table and files of a job: the first pair with which the page is small enough is taken.
_ROWS_AND_FILES = ((1_000, 20), (1_000, 5), (1_000, 2), (1_000, 1), (700, 1), (400, 1), (100, 1), (10, 1))
_VALUES_OF_TRAIT = 300
_BLOCK_CHARACTERS_PER_ROW = 150
_BARS = 12
_SETS_OPEN = 10


@dataclass(frozen=True)
class Folder:
    """A worker folder: the number of its jobs and their bytes, None where those are unknown."""

    name: str
    jobs: int
    size: int | None


@dataclass(frozen=True)
class JobRow:
    """A job as a row: files are None where none were listed, bytes None where unknown."""

    worker: str
    file: str
    assets: tuple[str, ...]
    files: tuple[str, ...] | None
    size: int | None
    parameter_set: str
    group: str


@dataclass(frozen=True)
class Skipped:
    """An asset or id that no job analyses, and the reason; ids are empty where they are not known."""

    name: str
    reason: str
    asset_id: str = ""
    record_id: str = ""


@dataclass(frozen=True)
class Page:
    """What the page tells; text may come from records, whatever it holds.

    Attributes
    ----------
    headline : str
        The run in one sentence.
    is_preview : bool
        Nothing was written.
    finished : str
        When, with the time zone.
    versions : mapping of str to str
        Version of each package.
    source : str
        Where the records came from.
    selection : str
        The query as indented JSON, or which ids were asked for.
    command : str
        Shell text that runs it again.
    folders : sequence of Folder
        In their order.
    assets_by : mapping of str to sequence of (str, int)
        By the name of a trait, its values with the number of assets, in the order to show. The values of `day` are
        ISO dates; others are counted beside the picture.
    funnel : sequence of (str, int)
        How many are left after each step.
    skipped, jobs : sequence
        The first of them; 1,000 are shown at most.
    skipped_total, jobs_total : int
        How many there are.
    fixed_parameters : mapping of str to object
        In every job.
    parameter_sets : sequence of mapping of str to object
        One of them in each job.
    details : sequence of str
        What ended a run that failed, beside the headline.
    seconds : sequence of (str, float)
        How long each step took.
    folder : str
        The folder in which the command was given.
    has_failed : bool
        No job was written; the headline says why.
    """

    headline: str
    is_preview: bool
    finished: str
    versions: Mapping[str, str]
    source: str
    selection: str
    command: str
    folders: Sequence[Folder]
    assets_by: Mapping[str, Sequence[tuple[str, int]]]
    funnel: Sequence[tuple[str, int]]
    skipped: Sequence[Skipped]
    skipped_total: int
    fixed_parameters: Mapping[str, object]
    parameter_sets: Sequence[Mapping[str, object]]
    jobs: Sequence[JobRow]
    jobs_total: int
    details: Sequence[str] = ()
    seconds: Sequence[tuple[str, float]] = ()
    folder: str = ""
    has_failed: bool = False


def render(page: Page) -> str:
    """Return the page as HTML, less than 1 MB of UTF-8.

    Tables show their first 1,000 rows and each job its first 20 files, fewer where the page would be larger.
    """
    text = ""
    for rows, files in _ROWS_AND_FILES:
        text = _template().render(_contents(page, rows, files))
        if len(text.encode()) < _PAGE_BYTES:
            break
    return text


def _contents(page: Page, rows: int, files: int) -> dict[str, Any]:
    block = rows * _BLOCK_CHARACTERS_PER_ROW
    return {
        "page": page,
        "selection": templates.lines(page.selection, block),
        "command": templates.lines(page.command, block),
        "work": _work(page.folders),
        "folders": page.folders[:rows],
        "traits": [
            _trait(name, values, min(rows, _VALUES_OF_TRAIT)) for name, values in page.assets_by.items() if values
        ],
        "funnel": list(_funnel(page.funnel)),
        "details": page.details[:rows],
        "skipped": page.skipped[:rows],
        "fixed": [
            (".".join(path), parameter_table.shown(value))
            for path, value in parameter_table.flat(page.fixed_parameters)
        ],
        "sets_open": _SETS_OPEN,
        "sets": parameter_table.table(page.parameter_sets, rows),
        "jobs": page.jobs[:rows],
        "files_shown": files,
        "has": {
            "asset_ids": any(one.asset_id for one in page.skipped),
            "record_ids": any(one.record_id for one in page.skipped),
            "files": any(job.files is not None for job in page.jobs),
            "sizes": any(job.size is not None for job in page.jobs),
            "sets": any(job.parameter_set for job in page.jobs),
            "groups": any(job.group for job in page.jobs),
        },
    }


@functools.cache
def _template() -> Template:
    return templates.template("report/page.html.j2", counted=counted, number=_number, unit=with_unit)


def _number(number: int) -> str:
    return f"{number:,}"


@dataclass(frozen=True)
class _Work:
    """Jobs and bytes of the worker folders: how they spread, and pictures where folders can be compared."""

    jobs: str
    sizes: str
    charts: Sequence[charts.Chart]
    is_ranked: bool
    unknown: int


def _work(folders: Sequence[Folder]) -> _Work:
    jobs = [(folder.name, folder.jobs) for folder in folders]
    sizes = [(folder.name, folder.size) for folder in folders]
    known = [size for _, size in sizes if size is not None]
    is_ranked = len(folders) > charts.SINGLE_COLUMNS
    draw = charts.ranked if is_ranked else _worker_chart
    drawn = []
    if len(folders) > 1:
        drawn.append(draw("Jobs of each worker folder", jobs, _number))
        if known:
            drawn.append(draw("Bytes of each worker folder", sizes, with_unit))
    return _Work(
        jobs=_spread([number for _, number in jobs], _number, " jobs") if jobs else "",
        sizes=_spread(known, with_unit, "") if known else "",
        charts=drawn,
        is_ranked=is_ranked,
        unknown=len(folders) - len(known),
    )


def _worker_chart(title: str, values: Sequence[tuple[str, int | None]], text: Callable[[int], str]) -> charts.Chart:
    return charts.columns(title, values, text, "worker")


def _spread(amounts: Sequence[int], text: Callable[[int], str], unit: str) -> str:
    low, middle, high = min(amounts), round(statistics.median(amounts)), max(amounts)
    unit = unit.removesuffix("s") if high == 1 else unit
    if len(amounts) == 1:
        return f"{text(low)}{unit}"
    return f"{text(low)}{unit} each" if low == high else f"{text(low)} to {text(high)}{unit}, median {text(middle)}"


@dataclass(frozen=True)
class _Bar:
    name: str
    number: int
    percent: str


@dataclass(frozen=True)
class _Trait:
    """Assets by one of their traits: bars for the first values, or columns on a scale of time; the rest as a table."""

    name: str
    number: int
    bars: Sequence[_Bar]
    chart: charts.Chart | None
    remarks: Sequence[str]
    table: Sequence[tuple[str, int]]


def _trait(name: str, values: Sequence[tuple[str, int]], rows: int) -> _Trait:
    days = {day: number for value, number in values if (day := _day(value))} if name == "day" else {}
    if len(days) > 1:
        period, columns = charts.by_period(days)
        undated = sum(number for value, number in values if not _day(value))
        remarks = [f"Each column is a {period}."] if period != "day" else []
        remarks += [f"{counted(undated, 'asset')} of unknown day not drawn."] if undated else []
        title = f"Assets by {period}"
        return _Trait(name, len(values), [], charts.columns(title, columns, _number, ""), remarks, values[:rows])
    most = max(number for _, number in values)
    bars = [_Bar(value, number, f"{100 * number / max(1, most):.1f}%") for value, number in values[:_BARS]]
    return _Trait(name, len(values), bars, None, [], values[_BARS:rows])


def _day(value: str) -> date | None:
    try:
        return date.fromisoformat(value)
    except ValueError:
        return None


@dataclass(frozen=True)
class _Step:
    label: str
    number: int
    percent: str
    remark: str
    is_own_scale: bool


def _funnel(steps: Sequence[tuple[str, int]]) -> Iterator[_Step]:
    """Draw all steps on one scale; one that grows counts something else, and begins a scale of its own."""
    scale = max((number for _, number in steps[:1]), default=0)
    before, were_jobs = None, False
    for label, number in steps:
        grows, are_jobs = number > scale, label.startswith("jobs")
        remark = ""
        if grows:
            scale = number
            remark = (
                f"{number // before:,} × {before:,}, on a scale of its own"
                if before and number % before == 0
                else "on a scale of its own"
            )
        elif before is not None and number < before and are_jobs == were_jobs:
            remark = f"{before - number:,} {'left off' if are_jobs else 'fewer'}"
        yield _Step(label, number, f"{100 * number / max(1, scale):.1f}%", remark, grows)
        before, were_jobs = number, are_jobs

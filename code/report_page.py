"""The report of a run as one HTML page that needs nothing beside itself."""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import itertools
import json
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from messages import counted, printable

_PAGE_BYTES = 1_000_000
# Rows of a table and files of a job: the first pair with which the page is small enough is taken.
_ROWS_AND_FILES = ((1_000, 20), (1_000, 5), (1_000, 2), (1_000, 1), (700, 1), (400, 1), (100, 1), (10, 1))
_VALUES_OF_TRAIT = 300
_CELLS_OF_SETS = 3_000
_VALUE_WIDTH = 500
_BLOCK_CHARACTERS_PER_ROW = 150
_BARS = 12
_PLOT_HEIGHT = 160
# Beyond this a column is thinner than a gap between two would be on a telephone.
_SINGLE_COLUMNS = 120
_PERIODS = 100
# HTML cannot carry these (a lone surrogate stands for a byte that is not UTF-8).
_NOT_IN_HTML = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


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
    """An asset or id that no job analyses, and the reason."""

    name: str
    reason: str


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


def render(page: Page) -> str:
    """Return the page as HTML, less than 1 MB of UTF-8.

    Tables show their first 1,000 rows and each job its first 20 files, fewer where the page would be larger.
    """
    template = _environment().get_template("report.html.j2")
    text = ""
    for rows, files in _ROWS_AND_FILES:
        text = template.render(_contents(page, rows, files))
        if len(text.encode()) < _PAGE_BYTES:
            break
    return text


def _contents(page: Page, rows: int, files: int) -> dict[str, Any]:
    block = rows * _BLOCK_CHARACTERS_PER_ROW
    return {
        "page": page,
        "selection": _block(page.selection, block),
        "command": _block(page.command, block),
        "work": _work(page.folders),
        "folders": page.folders[:rows],
        "traits": [
            _trait(name, values, min(rows, _VALUES_OF_TRAIT)) for name, values in page.assets_by.items() if values
        ],
        "funnel": list(_funnel(page.funnel)),
        "skipped": page.skipped[:rows],
        "fixed": [(".".join(path), _cut(_value(value))) for path, value in _flat(page.fixed_parameters)],
        "sets": _parameter_table(page.parameter_sets, rows),
        "jobs": page.jobs[:rows],
        "files_shown": files,
        "has": {
            "files": any(job.files is not None for job in page.jobs),
            "sizes": any(job.size is not None for job in page.jobs),
            "sets": any(job.parameter_set for job in page.jobs),
            "groups": any(job.group for job in page.jobs),
        },
    }


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).resolve().parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"counted": counted, "hash": _hash, "number": _number, "unit": _unit}
    return environment


def _shown(value: object) -> object:
    """Escape what does not print in text that the template shows; markup is the template's own."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _block(text: str, limit: int) -> Markup:
    """Return text of several lines as markup, cut where it is endless."""
    safe = _NOT_IN_HTML.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text[:limit])
    rest = f"\n… (cut here; {len(text):,} characters in all)" if len(text) > limit else ""
    return escape(safe + rest)


def _hash(text: str) -> str:
    """Return a text's hash as the Content-Security-Policy writes it."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _number(number: int) -> str:
    return f"{number:,}"


def _unit(size: int) -> str:
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 999.5:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:,.3g} PB" if amount < 999.5 else f"{amount:,.0f} PB"


@dataclass(frozen=True)
class _Column:
    x: str
    width: str
    y: str
    height: str
    title: str
    is_known: bool


@dataclass(frozen=True)
class _Label:
    x: str
    anchor: str
    text: str


@dataclass(frozen=True)
class _Chart:
    """A column chart: across in percent of its width, down in pixels, so that text keeps its size.

    `outline` is one path instead of `columns`, in a box one wide for each column and 1,000 high.
    """

    title: str
    description: str
    height: int
    ticks: Sequence[tuple[str, str]]
    labels: Sequence[_Label]
    columns: Sequence[_Column]
    outline: Markup
    number: int


def _chart(title: str, values: Sequence[tuple[str, int | None]], text: Callable[[int], str], noun: str) -> _Chart:
    """Draw a column for each named value; `text` tells a value in words."""
    known = [value for _, value in values if value is not None]
    ticks = _ticks(max(known, default=0))
    top = ticks[-1]
    is_outline = len(values) > _SINGLE_COLUMNS
    longest = max(len(_short(name)) for name, _ in values)
    slot = min(100 / len(values), max(14.0, 2.5 * longest))
    low, high = (text(value) for value in (min(known), max(known)))
    return _Chart(
        title=title,
        description=f"{counted(len(values), 'column')}, from {low} to {high}.",
        height=_PLOT_HEIGHT,
        ticks=[(f"{_PLOT_HEIGHT * (1 - tick / top):.1f}", text(tick)) for tick in ticks],
        labels=_labels([name for name, _ in values], slot, longest),
        columns=[] if is_outline else list(_columns(values, slot, top, text, noun)),
        outline=_outline([value for _, value in values], top) if is_outline else Markup(),
        number=len(values),
    )


def _round_step(most: int, at_most: int) -> int:
    """Return the least of 1, 2, 5, 10, 20, 50 … that fits at most `at_most` times into `most`."""
    sizes: Iterator[int] = (factor * 10**power for power in itertools.count() for factor in (1, 2, 5))
    return next(size for size in sizes if size * at_most >= most)


def _ticks(most: int) -> list[int]:
    """Return 0 and one to four equal round steps, the last of them not below `most`."""
    step = _round_step(most, 4)
    return [step * number for number in range(max(1, -(-most // step)) + 1)]


def _columns(
    values: Sequence[tuple[str, int | None]], slot: float, top: int, text: Callable[[int], str], noun: str
) -> Iterator[_Column]:
    width = slot * (0.72 if len(values) <= 60 else 0.85)
    for number, (name, value) in enumerate(values):
        if value == 0:
            continue
        height = 12.0 if value is None else max(1.0, _PLOT_HEIGHT * value / top)
        yield _Column(
            x=f"{slot * number + (slot - width) / 2:.2f}%",
            width=f"{width:.2f}%",
            y=f"{_PLOT_HEIGHT - height:.1f}",
            height=f"{height:.1f}",
            title=f"{noun} {name}: {'size unknown' if value is None else text(value)}".strip(),
            is_known=value is not None,
        )


def _outline(values: Sequence[int | None], top: int) -> Markup:
    steps = "".join(f"V{round(1000 * (1 - (value or 0) / top))}h1" for value in values)
    return Markup(f"M0 1000{steps}V1000z")


def _labels(names: Sequence[str], slot: float, longest: int) -> list[_Label]:
    """Label as many columns as fit on a telephone, in round steps; none reaches beyond the edges."""
    step = _round_step(len(names), max(2, min(8, 32 // longest)))
    labels = []
    for index in range(0, len(names), step):
        left, right = slot * index, slot * (index + 1)
        if longest > 4 and left < 10:
            x, anchor = left, "start"
        elif right > 90:
            x, anchor = right, "end"
        else:
            x, anchor = (left + right) / 2, "middle"
        labels.append(_Label(f"{x:.2f}%", anchor, _short(names[index])))
    return labels


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:17]}…"


@dataclass(frozen=True)
class _Work:
    """Jobs and bytes of the worker folders: how they spread, and pictures where folders can be compared."""

    jobs: str
    sizes: str
    charts: Sequence[_Chart]
    is_ranked: bool
    unknown: int


def _work(folders: Sequence[Folder]) -> _Work:
    jobs = [(folder.name, folder.jobs) for folder in folders]
    sizes = [(folder.name, folder.size) for folder in folders]
    known = [size for _, size in sizes if size is not None]
    is_ranked = len(folders) > _SINGLE_COLUMNS
    draw = _ranked_chart if is_ranked else _worker_chart
    charts = []
    if len(folders) > 1:
        charts.append(draw("Jobs of each worker folder", jobs, _number))
        if known:
            charts.append(draw("Bytes of each worker folder", sizes, _unit))
    return _Work(
        jobs=_spread([number for _, number in jobs], _number, " jobs") if jobs else "",
        sizes=_spread(known, _unit, "") if known else "",
        charts=charts,
        is_ranked=is_ranked,
        unknown=len(folders) - len(known),
    )


def _worker_chart(title: str, values: Sequence[tuple[str, int | None]], text: Callable[[int], str]) -> _Chart:
    return _chart(title, values, text, "worker")


def _ranked_chart(title: str, values: Sequence[tuple[str, int | None]], text: Callable[[int], str]) -> _Chart:
    """Draw folders from the largest to the smallest: in their order, many of them are nothing but noise."""
    ranked = sorted(((name, value) for name, value in values if value is not None), key=lambda one: -one[1])
    labels = [_Label("0%", "start", "largest"), _Label("50%", "middle", "median"), _Label("100%", "end", "smallest")]
    return dataclasses.replace(_chart(title, ranked, text, "worker"), labels=labels)


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
    chart: _Chart | None
    remarks: Sequence[str]
    table: Sequence[tuple[str, int]]


def _trait(name: str, values: Sequence[tuple[str, int]], rows: int) -> _Trait:
    days = {day: number for value, number in values if (day := _day(value))} if name == "day" else {}
    if len(days) > 1:
        period, columns = _periods(days)
        undated = sum(number for value, number in values if not _day(value))
        remarks = [f"Each column is a {period}."] if period != "day" else []
        remarks += [f"{counted(undated, 'asset')} of unknown day not drawn."] if undated else []
        title = f"Assets by {period}"
        return _Trait(name, len(values), [], _chart(title, columns, _number, ""), remarks, values[:rows])
    most = max(number for _, number in values)
    bars = [_Bar(value, number, f"{100 * number / max(1, most):.1f}%") for value, number in values[:_BARS]]
    return _Trait(name, len(values), bars, None, [], values[_BARS:rows])


def _day(value: str) -> date | None:
    try:
        return date.fromisoformat(value)
    except ValueError:
        return None


# Of each period its name, the running number of the one that holds a day, and how that one is written.
_CALENDAR: tuple[tuple[str, Callable[[date], int], Callable[[int], str]], ...] = (
    ("day", date.toordinal, lambda number: date.fromordinal(number).isoformat()),
    # Day 1 of the calendar is a Monday.
    (
        "week, named by its Monday",
        lambda day: (day.toordinal() - 1) // 7,
        lambda number: date.fromordinal(7 * number + 1).isoformat(),
    ),
    ("month", lambda day: 12 * day.year + day.month - 1, lambda number: f"{number // 12}-{number % 12 + 1:02}"),
    ("year", lambda day: day.year, str),
)


def _periods(days: Mapping[date, int]) -> tuple[str, list[tuple[str, int | None]]]:
    """Count by the shortest period of which not too many lie between the first day and the last, empty ones too."""
    first, last = min(days), max(days)
    period, place, name = next(
        (one for one in _CALENDAR if one[1](last) - one[1](first) < _PERIODS),
        _CALENDAR[-1],
    )
    counts = Counter[int]()
    for day, number in days.items():
        counts[place(day)] += number
    return period, [(name(number), counts[number]) for number in range(place(first), place(last) + 1)]


@dataclass(frozen=True)
class _Step:
    label: str
    number: int
    percent: str
    remark: str
    is_own_scale: bool


def _funnel(steps: Sequence[tuple[str, int]]) -> Iterator[_Step]:
    """Draw all steps on one scale but one that grows, which counts something else."""
    most = max((number for _, number in steps[:1]), default=0)
    before = None
    for label, number in steps:
        grows = number > most
        remark = ""
        if grows:
            remark = (
                f"{number // before:,} × {before:,}, on a scale of its own"
                if before and number % before == 0
                else "on a scale of its own"
            )
        elif before is not None and number < before and label != "jobs":
            remark = f"{before - number:,} fewer"
        yield _Step(label, number, "100%" if grows else f"{100 * number / max(1, most):.1f}%", remark, grows)
        before = number


@dataclass(frozen=True)
class _Sets:
    """Parameter sets as a table: names, which of them differ, and the rows that are shown of all."""

    names: Sequence[str]
    differs: Sequence[bool]
    rows: Sequence[Sequence[str | None]]
    total: int


_Path = tuple[str, ...]


def _parameter_table(sets: Sequence[Mapping[str, object]], rows: int) -> _Sets:
    """Lay out the sets, one a row; a value is None where a set lacks the parameter."""
    flat = [{path: _value(value) for path, value in _flat(one)} for one in sets]
    paths = list(dict.fromkeys(path for one in flat for path in one))
    shown = min(rows, max(10, _CELLS_OF_SETS // max(1, len(paths))))
    return _Sets(
        names=[".".join(path) for path in paths],
        differs=[len({one.get(path) for one in flat}) > 1 for path in paths],
        rows=[[_cut(one.get(path)) for path in paths] for one in flat[:shown]],
        total=len(sets),
    )


def _flat(parameters: Mapping[str, object], parents: _Path = ()) -> Iterator[tuple[_Path, object]]:
    for name, value in parameters.items():
        path = (*parents, str(name))
        if isinstance(value, Mapping) and value:
            yield from _flat(value, path)
        else:
            yield path, value


def _value(value: object) -> str:
    """Write a value as JSON; text without quotes where it cannot be taken for something else."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
    if isinstance(value, str) and value == value.strip() and not _is_json(value):
        return value
    return text


def _cut(text: str | None) -> str | None:
    return None if text is None else printable(text, _VALUE_WIDTH)


def _is_json(text: str) -> bool:
    try:
        json.loads(text or "0")
    except ValueError:
        return False
    return True

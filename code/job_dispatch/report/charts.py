"""Drawing the report's pictures: where each bar, tick and label is, for the page's template to write as SVG.

Of libraries, plotly (4.8 MB), bokeh (1.3 MB) and Vega-Lite (0.9 MB) fill or burst the page; the SVG of matplotlib,
pygal and vl-convert has fixed colours and text that shrinks with the page: neither dark mode nor telephones.

Positions across are in percent and heights in pixels, so that text keeps its size. Many bars are one path.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

from markupsafe import Markup

from job_dispatch.messages import counted, with_unit

_PLOT_HEIGHT = 150
# With more folders, single bars are noise: they are drawn from the largest to the smallest.
_SINGLE_BARS = 100
_PERIODS = 100
_SUBJECTS = 40
_ROW_HEIGHT = 15
_WIDEST = 12.5
# What a character takes of the width of a picture, on a laptop and on a telephone.
_CHARACTER, _CHARACTER_ON_TELEPHONE = 1.4, 3.1


class Label(NamedTuple):
    """A text below the bars; `is_minor` where a telephone has no room for it."""

    x: str
    anchor: str
    text: str
    is_minor: bool = False


class Folder(NamedTuple):
    """A worker folder: the number of its jobs and their bytes, None where those are unknown."""

    name: str
    jobs: int
    size: int | None


def work(folders: Sequence[Folder]) -> dict[str, Any]:
    """Return how jobs and bytes spread over the folders, drawn where jobs differ, and where bytes are known."""
    jobs = [folder.jobs for folder in folders]
    sizes = [folder.size for folder in folders]
    known = [size for size in sizes if size is not None]
    drawn = []
    if len(set(jobs)) > 1:
        drawn.append(_by_folder("Jobs per worker folder", folders, jobs, "{:,}".format))
    if len(folders) > 1 and known:
        drawn.append(_by_folder("Bytes per worker folder", folders, sizes, with_unit))
    return {
        "jobs": _spread(jobs, "{:,}".format, " job" if max(jobs) == 1 else " jobs") if jobs else "",
        "sizes": _spread(known, with_unit, "") if known else "",
        "charts": drawn,
        "unknown": len(folders) - len(known),
    }


def _spread(amounts: Sequence[int], text: Callable[[int], str], unit: str) -> str:
    low, middle, high = min(amounts), round(statistics.median(amounts)), max(amounts)
    if len(amounts) == 1:
        return f"{text(low)}{unit}"
    return f"{text(low)}{unit} each" if low == high else f"{text(low)} to {text(high)}{unit}, median {text(middle)}"


def _by_folder(
    title: str, folders: Sequence[Folder], values: Sequence[int | None], text: Callable[[int], str]
) -> dict[str, Any]:
    """Draw a bar for each folder whose value is known; `text` writes a value."""
    pairs = enumerate(zip(folders, values, strict=True))
    bars = [(folder.name, value, place) for place, (folder, value) in pairs if value is not None]
    low, high = (extreme(value for _, value, _ in bars) for extreme in (min, max))
    ticks = _ticks(high)
    if len(folders) > _SINGLE_BARS:
        ranked = sorted(bars, key=lambda one: -one[1])
        bars = [(name, value, place) for place, (name, value, _) in enumerate(ranked)]
        slot, labels = 100 / len(bars), [Label("0%", "start", "largest"), Label("100%", "end", "smallest")]
    else:
        slot, labels = 100 / len(folders), _folder_labels([folder.name for folder in folders])
    return {
        "title": title,
        "description": f"{counted(len(bars), 'bar')}, from {text(low)} to {text(high)}.",
        "height": _PLOT_HEIGHT,
        "ticks": [(f"{_PLOT_HEIGHT * (1 - tick / ticks[-1]):.1f}", text(tick)) for tick in ticks],
        "labels": labels,
        "bars": [
            {
                "x": f"{slot * (place + 0.1):.2f}%",
                "width": f"{slot * 0.8:.2f}%",
                "y": f"{_PLOT_HEIGHT * (1 - value / ticks[-1]):.1f}",
                "height": f"{_PLOT_HEIGHT * value / ticks[-1]:.1f}",
                "title": f"worker {name}: {text(value)}",
            }
            for name, value, place in bars
            if value
        ],
    }


def _round_step(most: int, at_most: int) -> int:
    """Return the least of 1, 2, 5, 10, 20, 50 … that fits at most `at_most` times into `most`."""
    sizes: Iterator[int] = (factor * 10**power for power in itertools.count() for factor in (1, 2, 5))
    return next(size for size in sizes if size * at_most >= most)


def _ticks(most: int) -> list[int]:
    """Return 0 and one to four equal round steps, the last of them not below `most`."""
    step = _round_step(most, 4)
    return [step * number for number in range(max(1, -(-most // step)) + 1)]


def _folder_labels(names: Sequence[str]) -> list[Label]:
    """Label as many bars as a telephone has room for, in round steps; none leaves the picture."""
    texts = [name if len(name) <= 14 else f"{name[:13]}…" for name in names]
    step = _round_step(len(names), max(1, min(10, 32 // max(map(len, texts)))))
    labels = []
    for index in range(0, len(names), step):
        x, text = 100 * (index + 0.5) / len(names), texts[index]
        half = len(text) * _CHARACTER_ON_TELEPHONE / 2
        anchor = "middle" if len(text) <= 2 else "start" if x < half else "end" if x + half > 100 else "middle"
        labels.append(Label(f"{x:.2f}%", anchor, text))
    return labels


class _Period(NamedTuple):
    """A span of the calendar: the running number of the one that has a day, and its first day."""

    name: str
    place: Callable[[date], int]
    first: Callable[[int], date]
    text: Callable[[date], str]


def _day_text(day: date) -> str:
    return f"{day.day} {day:%b} {day.year}"


_MONTH = _Period(
    "month",
    lambda day: 12 * day.year + day.month - 1,
    lambda number: date(number // 12, number % 12 + 1, 1),
    lambda day: f"{day:%b} {day.year}",
)
_CALENDAR = (
    _Period("day", date.toordinal, date.fromordinal, _day_text),
    # Day 1 of the calendar is a Monday.
    _Period(
        "week",
        lambda day: (day.toordinal() - 1) // 7,
        lambda number: date.fromordinal(7 * number + 1),
        lambda day: f"week of {_day_text(day)}",
    ),
    _MONTH,
    _Period("year", lambda day: day.year, lambda number: date(number, 1, 1), lambda day: str(day.year)),
)


class Session(NamedTuple):
    """What the matrix draws of an asset: its subject, its day and whether it is skipped."""

    subject: str
    day: date
    is_skipped: bool


@dataclass(frozen=True)
class Timeline:
    """Days in the columns of a picture: the shortest period of which not too many are needed.

    `width` is what the columns take of the picture's width, `names` are their periods, `places` the column of each day.
    """

    period: str
    span: str
    columns: int
    width: str
    labels: Sequence[Label]
    names: Sequence[str]
    places: Mapping[date, int]


def timeline(days: Iterable[date]) -> Timeline:
    """Lay out days, of which there must be one."""
    ordered = sorted(set(days))
    first, last = ordered[0], ordered[-1]
    period = next((one for one in _CALENDAR if one.place(last) - one.place(first) < _PERIODS), _CALENDAR[-1])
    start = period.place(first)
    number = period.place(last) - start + 1
    slot = min(_WIDEST, 100 / number)
    return Timeline(
        period=period.name,
        span=" to ".join(dict.fromkeys(_day_text(day) for day in (first, last))),
        columns=number,
        width=f"{slot * number:.2f}%",
        labels=_time_labels(period, start, number, slot),
        names=[period.text(period.first(start + column)) for column in range(number)],
        places={day: period.place(day) - start for day in ordered},
    )


def matrix(sessions: Sequence[Session]) -> dict[str, Any]:
    """Draw assets by subject (down) and time (across), skipped ones in a colour of their own; above, both added up.

    Only the subjects with the most assets are drawn. The paths are in a box ten times as wide as there are columns; the
    bars are 1,000 high, each row of subjects 10.
    """
    time = timeline(one.day for one in sessions)
    by_column: dict[int, list[int]] = {column: [0, 0] for column in range(time.columns)}
    by_subject: dict[str, list[int]] = {}
    by_cell: dict[tuple[str, int], list[int]] = {}
    for one in sessions:
        column = time.places[one.day]
        for counts in (
            by_column[column],
            by_subject.setdefault(one.subject, [0, 0]),
            by_cell.setdefault((one.subject, column), [0, 0]),
        ):
            counts[one.is_skipped] += 1
    ranked = sorted(by_subject.items(), key=lambda item: (-sum(item[1]), item[0]))
    rows = {subject: row for row, (subject, _) in enumerate(ranked[:_SUBJECTS])}
    shown = {(rows[subject], column): counts for (subject, column), counts in by_cell.items() if subject in rows}
    most = max(sum(counts) for counts in by_column.values())
    heights = {place: -(-8 * skipped // (done + skipped)) for place, (done, skipped) in shown.items()}
    return {
        "time": time,
        "rows": [(row, subject, sum(by_subject[subject])) for subject, row in rows.items()],
        "more": len(ranked) - len(rows),
        "most": most,
        "bars": _bars([(0, done) for done, _ in by_column.values()], most),
        "skipped_bars": _bars([(done, skipped) for done, skipped in by_column.values()], most),
        "cells": _cells((place, 0, 8) for place, (done, _) in shown.items() if done),
        "skipped_cells": _cells((place, 8 - height, height) for place, height in heights.items() if height),
        "height": _ROW_HEIGHT * len(rows),
        # For the script, by row and column; the bars are in row -1.
        "data": {
            "names": time.names,
            "counts": {f"{row},{column}": counts for (row, column), counts in shown.items()}
            | {f"-1,{column}": counts for column, counts in by_column.items() if any(counts)},
        },
    }


def _bars(values: Sequence[tuple[int, int]], most: int) -> Markup:
    """Return bars from a base to a height, of which `most` fills the plot."""
    drawn = []
    for column, (base, number) in enumerate(values):
        if number:
            bottom, height = 1000 - round(1000 * base / most), round(1000 * number / most)
            drawn.append(f"M{10 * column + 1} {bottom}v{-height}h8v{height}z")
    return Markup("".join(drawn))


def _cells(cells: Iterable[tuple[tuple[int, int], int, int]]) -> Markup:
    drawn = [f"M{10 * column + 1} {10 * row + 1 + top}h8v{height}h-8z" for (row, column), top, height in cells]
    return Markup("".join(drawn))


def _time_labels(period: _Period, start: int, number: int, slot: float) -> list[Label]:
    """Label days at their Mondays, longer periods at the first of their months, as densely as there is room."""
    firsts = [period.first(start + column) for column in range(number)]
    is_daily = period.name == "day"
    places = [day.toordinal() - 1 if is_daily else _MONTH.place(day) for day in firsts]
    # Each is a multiple of the one before, so that a telephone shows some of the labels of a laptop.
    steps = (1, 7, 14, 28, 56) if is_daily else (1, 3, 6, 12, 24, 120, 240, 1200)
    longest = 6 if is_daily else 4

    def ticks(character: float) -> list[int]:
        """Return the first column of each span of the shortest length that leaves room for the labels."""
        found: list[int] = []
        for step in steps:
            spans = [place // step for place in places]
            found = [column for column in range(1, number) if spans[column] != spans[column - 1]]
            if places[0] % step == 0:
                found.insert(0, 0)
            if all((after - before) * slot >= character * longest for before, after in itertools.pairwise(found)):
                break
        return [column for column in found if slot * column <= 100 - character * longest]

    wide = ticks(_CHARACTER) or [0]
    narrow = ticks(_CHARACTER_ON_TELEPHONE) or wide[:1]
    labels = []
    for column in wide:
        day = firsts[column]
        text = f"{day.day} {day:%b}" if is_daily else f"{day.year}" if day.month == 1 else f"{day:%b}"
        labels.append(Label(f"{slot * column:.2f}%", "start", text, column not in narrow))
    return labels

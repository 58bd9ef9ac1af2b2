"""Drawing column charts: where each column, tick and label stands, for the page's template to write as SVG.

Of libraries, plotly (4.8 MB), bokeh (1.3 MB) and Vega-Lite (0.9 MB) fill or burst the page; the SVG of matplotlib,
pygal and vl-convert has fixed colours and text that shrinks with the page: neither dark mode nor telephones.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from markupsafe import Markup

from job_dispatch.messages import counted

_PLOT_HEIGHT = 160
# Beyond this a column is thinner than a gap between two would be on a telephone.
SINGLE_COLUMNS = 120
_PERIODS = 100


@dataclass(frozen=True)
class Column:
    """One column and the words that it shows when pointed at."""

    x: str
    width: str
    y: str
    height: str
    title: str
    is_known: bool


@dataclass(frozen=True)
class Label:
    """A text below the columns."""

    x: str
    anchor: str
    text: str


@dataclass(frozen=True)
class Chart:
    """A column chart: across in percent of its width, down in pixels, so that text keeps its size.

    `outline` is one path instead of `columns`, in a box one wide for each column and 1,000 high.
    """

    title: str
    description: str
    height: int
    ticks: Sequence[tuple[str, str]]
    labels: Sequence[Label]
    columns: Sequence[Column]
    outline: Markup
    number: int


def columns(title: str, values: Sequence[tuple[str, int | None]], text: Callable[[int], str], noun: str) -> Chart:
    """Draw a column for each named value; `text` tells a value in words."""
    known = [value for _, value in values if value is not None]
    ticks = _ticks(max(known, default=0))
    top = ticks[-1]
    is_outline = len(values) > SINGLE_COLUMNS
    longest = max(len(_short(name)) for name, _ in values)
    slot = min(100 / len(values), max(14.0, 2.5 * longest))
    low, high = (text(value) for value in (min(known), max(known)))
    return Chart(
        title=title,
        description=f"{counted(len(values), 'column')}, from {low} to {high}.",
        height=_PLOT_HEIGHT,
        ticks=[(f"{_PLOT_HEIGHT * (1 - tick / top):.1f}", text(tick)) for tick in ticks],
        labels=_labels([name for name, _ in values], slot, longest),
        columns=[] if is_outline else list(_drawn(values, slot, top, text, noun)),
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


def _drawn(
    values: Sequence[tuple[str, int | None]], slot: float, top: int, text: Callable[[int], str], noun: str
) -> Iterator[Column]:
    width = slot * (0.72 if len(values) <= 60 else 0.85)
    for number, (name, value) in enumerate(values):
        if value == 0:
            continue
        height = 12.0 if value is None else max(1.0, _PLOT_HEIGHT * value / top)
        yield Column(
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


def _labels(names: Sequence[str], slot: float, longest: int) -> list[Label]:
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
        labels.append(Label(f"{x:.2f}%", anchor, _short(names[index])))
    return labels


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:17]}…"


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


def by_period(days: Mapping[date, int]) -> tuple[str, list[tuple[str, int | None]]]:
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


def ranked(title: str, values: Sequence[tuple[str, int | None]], text: Callable[[int], str]) -> Chart:
    """Draw folders from the largest to the smallest: in their order, many of them are nothing but noise."""
    ranked = sorted(((name, value) for name, value in values if value is not None), key=lambda one: -one[1])
    labels = [Label("0%", "start", "largest"), Label("50%", "middle", "median"), Label("100%", "end", "smallest")]
    return dataclasses.replace(columns(title, ranked, text, "worker"), labels=labels)

"""A description on the terminal: what there is, and what selects it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from job_dispatch.cohort.describing import Cohort
from job_dispatch.cohort.field_uses import VERSIONS
from job_dispatch.messages import counted, printable
from job_dispatch.report import cohort as shown

_TOP = 10
_FIELDS = 30
_VALUES = 3
_WIDTH = 60


def lines(cohort: Cohort, source: str, modalities: Sequence[str]) -> Iterator[str]:
    """Yield the description line by line."""
    yield f"{counted(cohort.total, 'asset')} in {source}"
    for trait in shown.traits(cohort, modalities):
        if not trait.rows:
            continue
        rows = [(_cut(row.value), f"{row.number:,}", printable(row.flag)) for row in trait.rows[:_TOP]]
        if more := trait.rows[_TOP:]:
            rows.append((f"{len(more):,} more", "", ""))
        if trait.unknown:
            rows.append(("(unknown)", f"{trait.unknown:,}", ""))
        yield ""
        yield from _table([(trait.name, "files" if trait.name == "ending" else "assets", "selected by"), *rows])
        if trait.remark:
            yield trait.remark
    yield ""
    yield from _fields(cohort)


def _fields(cohort: Cohort) -> Iterator[str]:
    rows = [("field", *VERSIONS, "records", "with the most frequent values, selected by")]
    for use in cohort.fields.uses(_FIELDS, _VALUES):
        values = [(f"{number:,}", printable(shown.query_flag(use.path, value))) for value, number in use.values]
        v1, v2 = shown.shares(use, cohort.fields.sampled)
        rows.append((_cut(use.path), v1, v2, *(values[0] if values else ("", ""))))
        rows += [("", "", "", *further) for further in values[1:]]
    yield from _table(rows)
    more = len(cohort.fields) - _FIELDS
    yield shown.sampled(cohort) + (f" {more:,} further fields: see the page." if more > 0 else "")


def _cut(text: str) -> str:
    return printable(text, _WIDTH)


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Align columns: the first and the last to the left, numbers between them to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    last = len(widths) - 1
    for row in rows:
        cells = [
            cell if number == last else cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "   ".join(cells).rstrip()

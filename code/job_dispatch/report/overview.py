"""What a description shows: the values that assets have, how many have each, and what selects it."""

from __future__ import annotations

import calendar
import json
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from job_dispatch.cohort import quality_control
from job_dispatch.cohort.describing import VERSIONS, FieldUse, Overview
from job_dispatch.messages import counted, printable
from job_dispatch.metadata.records import LEVEL

_TOP = 10
_MONTH_LENGTH = 7
_FIELDS = 30
_VALUES = 3
_WIDTH = 60


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
        months[cell.day[:_MONTH_LENGTH]] += number
        subjects[cell.subject] += number
        verdicts[_verdict(cell.quality, modalities)] += number
        for modality in cell.modalities or ("",):
            spread[modality] += number
    return [
        _trait("project", projects, lambda value: _list_flag("project", value)),
        _trait("modality", spread, lambda value: _list_flag("modality", value)),
        _trait("level", levels, lambda value: query_flag(LEVEL, _one_of(overview.spelled(value)))),
        _quality_control(verdicts),
        _by_time("month", months, _month_flags),
        _by_time("day", days, lambda day: f"--from={day} --to={day}"),
        _trait("subject", subjects, lambda value: _list_flag("subject", value)),
        _endings(overview),
    ]


def _trait(name: str, counts: Mapping[str, int], flag: Any) -> Trait:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rows = [Row(value, number, flag(value)) for value, number in ordered if value]
    return Trait(name, rows, counts.get("", 0))


def _endings(overview: Overview) -> Trait:
    rows = [
        Row(f"{ending}{' (stores)' * is_store}", number, f"--file_extension={shlex.quote(ending)}")
        for ending, number, is_store in overview.endings
        if ending
    ]
    remark = f"Of the files and stores in {counted(len(overview.examples), 'asset')} looked at."
    return Trait("ending", rows, sum(number for ending, number, _ in overview.endings if not ending), remark)


def _by_time(name: str, counts: Mapping[str, int], flag: Any) -> Trait:
    rows = [Row(value, counts[value], flag(value)) for value in sorted(counts, reverse=True) if value]
    return Trait(name, rows, counts.get("", 0))


def _verdict(quality: Iterable[tuple[str, str]], modalities: Sequence[str]) -> str:
    wanted = {modality.casefold() for modality in modalities}
    return quality_control.worst(
        verdict for modality, verdict in quality if not wanted or modality.casefold() in wanted
    )


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


def sampled(overview: Overview) -> str:
    """Return a sentence on the records whose fields were looked at."""
    parts = [
        f"{number:,} {version}" for number, version in zip(overview.fields.sampled, VERSIONS, strict=True) if number
    ]
    number = sum(overview.fields.sampled)
    if number >= overview.total:
        return f"Of all {counted(number, 'record')} ({', '.join(parts)})."
    return f"Of a random sample of {number:,} of {counted(overview.total, 'record')} ({', '.join(parts)})."


def left_out(overview: Overview, more: int) -> str:
    """Return sentences on the fields that are not shown."""
    unique, texts = overview.fields.unique, []
    if unique:
        texts.append(f" Not shown: {counted(unique, 'field')} that differ in every record, such as _id.")
    if more > 0:
        texts.append(f" {counted(more, 'rarer field')} more.")
    return "".join(texts)


def lines(overview: Overview, source: str, modalities: Sequence[str]) -> Iterator[str]:
    """Yield the description line by line."""
    yield f"{counted(overview.total, 'asset')} in {source}"
    for trait in traits(overview, modalities):
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
    yield from _fields(overview)


def _fields(overview: Overview) -> Iterator[str]:
    rows = [("field", *VERSIONS, "records", "with the most frequent values, selected by")]
    for use in overview.fields.uses(_FIELDS, _VALUES):
        values = [(f"{number:,}", printable(query_flag(use.path, value))) for value, number in use.values]
        v1, v2 = shares(use, overview.fields.sampled)
        rows.append((_cut(use.path), v1, v2, *(values[0] if values else ("", ""))))
        rows += [("", "", "", *further) for further in values[1:]]
    yield from _table(rows)
    more = len(overview.fields) - _FIELDS
    yield sampled(overview) + left_out(overview, more)


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

"""What a description shows: the values that assets have, how many have each, and what selects it."""

from __future__ import annotations

import calendar
import json
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

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

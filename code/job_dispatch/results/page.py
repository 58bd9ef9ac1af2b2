"""`results.html`: how the jobs of a results folder stand and what they returned, as one page to look at."""

from __future__ import annotations

import base64
import json
import os
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from job_dispatch import pages
from job_dispatch.frames import is_number
from job_dispatch.messages import counted, printable
from job_dispatch.results import records, status
from job_dispatch.results.gathering import PICTURES, Results, Row, Status, duration

NAME = "results.html"
_PAGE_BYTES = 9_500_000
# Of more jobs, the first; the first of these numbers with which the page is small enough is taken.
_ROWS = (20_000, 10_000, 5_000, 1_000)
_COLUMNS_BYTES = 6_000_000
_TEXT = 160
_VALUES_SHOWN = 6
_DIGITS = 6
_PICTURES = 20_000
_EMBEDDED_BYTES, _PICTURE_BYTES = 2_000_000, 300_000
_REASONS, _JOBS_OF_REASON = 12, 3
_LOG_CHARACTERS = 8_000
_SHOWN = ("status", "asset", "seconds", "reason", "job")
_UNSHOWN = ("peak_memory", "start", "host", "project", "modality")
_TERMINAL_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

_Column = dict[str, Any]


def write(results: Results) -> Path:
    """Write `results.html` and return its path; it needs only pictures that are too many to embed."""
    path = results.folder / NAME
    with records.whole(path) as file:
        file.write(render(results))
    return path


def render(results: Results) -> str:
    """Return the page as HTML, less than 10 MB of UTF-8: with very many jobs it shows the first ones."""
    contents = (_contents(results, results.rows[:number]) for number in _ROWS)
    return pages.render("results/page.html.j2", _PAGE_BYTES, contents)


def _contents(results: Results, rows: Sequence[Row]) -> dict[str, Any]:
    failures = list(_failures(results))
    columns, left_out = _fitting(_columns(rows))
    remarks = []
    if len(rows) < len(results.rows):
        remarks.append(f"The first {len(rows):,} of {len(results.rows):,} jobs; table.csv has all.")
    if left_out:
        remarks.append(f"Columns only in table.csv: {', '.join(left_out)}.")
    names, pictures = _pictures(rows)
    values = [column for column in columns if column["part"] == "values" and column["kind"] == "number"]
    data = {
        "rows": len(rows),
        "columns": columns,
        "names": names,
        "pictures": pictures,
        "folders": {
            number: _address(row.folder, results) for number, row in enumerate(rows) if quote(row.job) != row.job
        },
        "logs": {
            number: _address(row.log, results)
            for number, row in enumerate(rows)
            if row.status in (Status.FAILED, Status.RUNNING)
        },
    }
    return {
        "headline": _headline(results),
        "moment": f"{datetime.now(UTC):%Y-%m-%d %H:%M UTC}",
        "states": list(_states(results)),
        "facts": list(_facts(results)),
        "failures": failures[:_REASONS],
        "more_failures": max(0, len(failures) - _REASONS),
        "remarks": remarks,
        "example": f"{values[0]['label']}>1" if values else "seconds>60",
        "data": pages.script_json(data),
    }


def _headline(results: Results) -> str:
    done, total = len(results.of(Status.DONE)), len(results.rows)
    if done == total:
        return f"{counted(total, 'job')} done" if total == 1 else f"All {total:,} jobs are done"
    others = ", ".join(f"{number:,} {name}" for name, number in results.counts.items() if number and name != "done")
    return f"{done:,} of {counted(total, 'job')} done, {others}"


def _states(results: Results) -> Iterator[dict[str, Any]]:
    """Yield each status with the part of the bar that it has."""
    begin, total = 0, len(results.rows)
    for name, number in results.counts.items():
        yield {
            "name": name,
            "number": number,
            "begin": f"{100 * begin / total:.3f}",
            "percent": f"{100 * number / total:.3f}",
            "changed": results.changed if name == Status.LEFT.value else 0,
        }
        begin += number


def _facts(results: Results) -> Iterator[tuple[str, str]]:
    if seconds := results.seconds:
        yield "Time per job", f"median {duration(statistics.median(seconds))}, longest {duration(max(seconds))}"
        yield "Computing", f"{duration(sum(seconds))} in all"
    if (rest := status.estimate(results)) is not None:
        yield "Left", str(rest)


def _failures(results: Results) -> Iterator[dict[str, Any]]:
    """Yield the reasons, the most frequent first, with their first jobs; those that differ in numbers only are one."""
    by_reason: dict[str, list[Row]] = defaultdict(list)
    for row in results.of(Status.FAILED):
        by_reason[re.sub(r"\d+", "0", row.reason)].append(row)
    for place, rows in enumerate(sorted(by_reason.values(), key=len, reverse=True)):
        shown = rows[:_JOBS_OF_REASON] if place < _REASONS else []
        yield {"reason": rows[0].reason, "number": len(rows), "jobs": [_failed_job(row, results) for row in shown]}


def _failed_job(row: Row, results: Results) -> dict[str, Any]:
    log = _TERMINAL_CODES.sub("", row.log_end())
    return {
        "row": row,
        "folder": _address(row.folder, results),
        "log": pages.lines(log, _LOG_CHARACTERS),
        "log_file": _address(row.log, results) if row.log.exists() else "",
    }


def _address(path: Path, results: Results) -> str:
    """Return the address of a file relative to the page."""
    return f"./{quote(os.fsencode(path.relative_to(results.folder)))}"


def _columns(rows: Sequence[Row]) -> Iterator[_Column]:
    """Yield the columns in the order of the table."""
    reasons = [f"changed since it was done: {row.changed}" if row.changed else row.failure for row in rows]
    yield _column("status", "status", "own", "text", [row.status.value for row in rows])
    yield _column("subject", "subject", "traits", "text", [row.subject for row in rows])
    yield _column("session", "session", "traits", "session", [row.session for row in rows])
    yield _column("asset", "asset", "traits", "text", [row.assets for row in rows])
    for trait in ("project", "modality"):
        yield _column(trait, trait, "traits", "text", [getattr(row, trait) for row in rows])
    yield from _named("group", [row.group for row in rows])
    yield from _named("parameters", [row.parameters for row in rows])
    yield _column("seconds", "time", "own", "seconds", [row.seconds for row in rows])
    yield _column("reason", "reason", "own", "text", reasons)
    yield from _named("values", [row.values for row in rows])
    yield _column("peak_memory", "memory", "own", "bytes", [row.peak_memory for row in rows])
    yield _column("attempts", "attempts", "own", "number", [row.attempts for row in rows])
    yield _column("start", "start", "own", "session", [row.start for row in rows])
    yield _column("host", "host", "own", "text", [row.host for row in rows])
    yield _column("job", "job", "own", "text", [row.job for row in rows])


def _named(part: str, mappings: Sequence[Mapping[str, Any]]) -> Iterator[_Column]:
    for name, values in pages.named(mappings):
        kind = "number" if all(one is None or is_number(one) for one in values) else "text"
        yield _column(f"{part}.{name}", name, part, kind, values)


def _column(id_: str, label: str, part: str, kind: str, values: Sequence[Any]) -> _Column:
    """Lay out a column: its values one by one, as indexes into a list, or once for all jobs."""
    cells = [_cell(value, kind) for value in values]
    distinct = set(cells)
    is_same = len(distinct) == 1 and len(cells) > 1
    column = pages.column(printable(label, _TEXT), kind, cells[:1] if is_same else cells)
    column |= {"id": id_, "part": part, "varies": len(distinct - {None}) > 1}
    return column | {"same": True} if is_same else column


def _cell(value: Any, kind: str) -> str | int | float | None:
    if value is None or value == "":
        return None
    if kind in ("text", "session"):
        return printable(value if isinstance(value, str) else pages.shown(value), _TEXT)
    if not abs(value) < 1e300:  # infinite, or not a number
        return None
    # A browser counts no further than 2⁵³.
    return int(value) if isinstance(value, int) and abs(value) < 2**53 else float(f"{value:.{_DIGITS}g}")


def _fitting(columns: Iterable[_Column]) -> tuple[list[_Column], list[str]]:
    """Return the columns that fit into the page, and the labels of the others: those of a job's own come first."""
    listed = [column for column in columns if column["values"] != [None]]
    size, fitting = 0, set()
    for column in sorted(listed, key=lambda one: one["part"] not in ("own", "traits")):
        bytes_ = len(json.dumps(column, separators=(",", ":")))
        if size + bytes_ <= _COLUMNS_BYTES:
            size += bytes_
            fitting.add(column["id"])
    values = [column["id"] for column in listed if column["part"] == "values"][:_VALUES_SHOWN]
    kept = [{**column, "shown": _is_shown(column, values)} for column in listed if column["id"] in fitting]
    return kept, [column["label"] for column in listed if column["id"] not in fitting]


def _is_shown(column: _Column, values: Sequence[str]) -> bool:
    """Tell whether the table shows a column before somebody chooses columns."""
    if column["part"] == "values":
        return column["id"] in values
    return column["id"] in _SHOWN or (column["varies"] and column["id"] not in _UNSHOWN)


def _pictures(rows: Sequence[Row]) -> tuple[list[str], list[list[Any]]]:
    """Return names of pictures, and each picture: its job, its name, its path where that is not the name, its bytes.

    Small ones are embedded, as many as the page has room for; the page shows the others from where they are.
    """
    names: dict[str, int] = {}
    found: list[list[Any]] = []
    room = _EMBEDDED_BYTES
    for number, row in enumerate(rows):
        for path in row.pictures():
            relative = path.relative_to(row.folder)
            name, address = printable(str(relative), _TEXT), quote(os.fsencode(relative))
            size = path.stat().st_size
            embedded = None
            if size <= min(room, _PICTURE_BYTES):
                room -= size
                text = base64.b64encode(path.read_bytes()).decode()
                embedded = f"data:image/{PICTURES[path.suffix.lower()]};base64,{text}"
            one = [number, names.setdefault(name, len(names)), None if address == name else address, embedded]
            found.append(one if embedded else one[:3] if one[2] else one[:2])
        if len(found) >= _PICTURES:
            break
    return list(names), found

"""How a run stands: its counts, failures and durations, how long the rest will take, and the table of all jobs."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job_dispatch.frames import is_number, no_formula
from job_dispatch.messages import counted
from job_dispatch.results import records
from job_dispatch.results.gathering import Results, Row, Status, duration, since_1970

if TYPE_CHECKING:
    import pandas as pd

_JOBS_AT_MOST, _FAILED_OF_SUMMARY = 20, 5
TABLE, PARQUET = "table.csv", "table.parquet"
_OWN = ("job", "status", *records.TRAITS, *records.LISTS)
_LAST = ("seconds", "attempts", "reason")


@dataclass(frozen=True)
class Estimate:
    """How long the jobs that are left will take: seconds, give or take `spread`, with so many workers.

    `basis` is `size` if it goes by the bytes of inputs, else `count`.
    """

    seconds: float
    spread: float
    workers: int
    basis: str

    def __str__(self) -> str:
        workers = counted(self.workers, "worker")
        return f"about {duration(self.seconds)} ± {duration(self.spread)} with {workers}"


@dataclass(frozen=True, repr=False)
class RunStatus:
    """How a run stands; it shows what `job-dispatch status` prints.

    Attributes
    ----------
    results : Results
        All jobs, with what became of them.
    """

    results: Results

    @property
    def counts(self) -> dict[str, int]:
        """How many jobs are done, failed, running and left."""
        return self.results.counts

    @property
    def failed(self) -> list[Row]:
        """The jobs that failed, with `reason`, `where` and `log`."""
        return self.results.of(Status.FAILED)

    @property
    def estimate(self) -> Estimate | None:
        """How long the jobs that are left will take; None if that is not known."""
        return estimate(self.results)

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per job, as `read_results` does."""
        return frame(self.results)

    def __repr__(self) -> str:
        return "\n".join(lines(self.results))

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>"


def estimate(results: Results) -> Estimate | None:
    """Estimate how long what is left will take; None if nothing is left, or nothing is done to go by.

    By the bytes of inputs where all are known, else by the mean duration. The spread is one standard error of the
    sum that is predicted, from the residuals of the jobs that are done.
    """
    done = [row for row in results.of(Status.DONE) if row.seconds is not None]
    left = results.of(Status.LEFT) + results.of(Status.RUNNING)
    if not done or not left:
        return None
    by_size = all(row.input_bytes for row in (*done, *left))
    weights = {row.job: float(row.input_bytes or 0) if by_size else 1.0 for row in (*done, *left)}
    known, missing = (sum(weights[row.job] for row in rows) for rows in (done, left))
    rate = sum(row.seconds or 0.0 for row in done) / known
    residuals = [(row.seconds or 0.0) - rate * weights[row.job] for row in done]
    variance = sum(one**2 for one in residuals) / (len(done) - 1) if len(done) > 1 else (rate * known) ** 2
    spread = math.sqrt(variance * (len(left) + len(done) * (missing / known) ** 2))
    starts = [since_1970(row.start) for row in results.of(Status.RUNNING) if row.start]
    elapsed = sum(max(0.0, time.time() - start) for start in starts)
    workers = min(results.workers, len(left))
    seconds = max(rate * missing - elapsed, 0.0) / workers
    return Estimate(seconds, spread / workers, workers, "size" if by_size else "count")


def as_json(results: Results) -> str:
    """Return the status for programs."""
    rest, seconds = estimate(results), results.seconds
    value: dict[str, Any] = {
        "folder": str(results.folder.absolute()),
        "jobs": len(results.rows),
        **results.counts,
        "changed": results.changed,
        "seconds": {
            "median": statistics.median(seconds) if seconds else None,
            "longest": max(seconds, default=None),
            "sum": round(sum(seconds), 3),
        },
        "estimate": None if rest is None else asdict(rest),
        "failures": [
            {
                "job": row.job,
                "assets": row.asset_name,
                "reason": row.reason,
                "where": row.where,
                "attempts": row.attempts,
                "log": str(row.log),
            }
            for row in results.of(Status.FAILED)
        ],
        "in_progress": [
            {"job": row.job, "assets": row.asset_name, "host": row.host, "since": row.start}
            for row in results.of(Status.RUNNING)
        ],
    }
    return json.dumps(value, indent=4)


def lines(results: Results) -> Iterator[str]:
    """Yield the status for people."""
    total = len(results.rows)
    yield f"{counted(total, 'job')} in {results.folder}"
    for status, number in results.counts.items():
        line = f"  {status:<8} {number:>7,}  {100 * number / total:5.1f} %"
        is_noted = status == Status.LEFT.value and results.changed
        yield f"{line}  ({results.changed:,} with another input or analysis than before)" if is_noted else line
    for row in results.of(Status.RUNNING)[:_JOBS_AT_MOST]:
        yield f"running  {row.job} ({row.assets}) on {row.host} since {row.start}"
    failed = results.of(Status.FAILED)
    if failed:
        yield "failed"
    for row in failed[:_JOBS_AT_MOST]:
        yield f"  {row.job} ({row.assets})"
        yield f"    {row.failure}; {counted(row.attempts, 'attempt')}; log: {row.log}"
    if len(failed) > _JOBS_AT_MOST:
        yield f"  … and {len(failed) - _JOBS_AT_MOST:,} more"
    if seconds := results.seconds:
        longest = max(seconds)
        job = next(row.job for row in results.rows if row.seconds == longest)
        yield (
            f"time     median {duration(statistics.median(seconds))} per job, longest {duration(longest)} ({job}),"
            f" {duration(sum(seconds))} of computing in all"
        )
    if (rest := estimate(results)) is not None:
        basis = "by the size of inputs" if rest.basis == "size" else "by the number of jobs"
        yield f"left     {rest}, {basis}"


def summary(results: Results) -> list[str]:
    """Return the paragraph at the end of a run."""
    counts = ", ".join(f"{number:,} {status}" for status, number in results.counts.items() if number)
    failed = results.of(Status.FAILED)
    shown = [f"  {row.job} ({row.assets}): {row.failure}" for row in failed[:_FAILED_OF_SUMMARY]]
    more = len(failed) - len(shown)
    return [f"{counts} of {counted(len(results.rows), 'job')}", *shown, *([f"  … and {more:,} more"] if more else [])]


def write_table(results: Results) -> Path:
    """Write `table.csv`, and `table.parquet` if pyarrow is installed; return the path of the first."""
    columns = _columns(results)
    path = results.folder / TABLE
    with records.whole(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(map(_cell, columns))
        writer.writerows(map(_cell, row) for row in zip(*columns.values(), strict=True))
    if importlib.util.find_spec("pyarrow") is not None:
        _write_parquet(columns, results.folder / PARQUET)
    return path


def _write_parquet(columns: Mapping[str, Sequence[Any]], path: Path) -> None:
    """Write numbers as numbers; a column that mixes them with other things is text, as in the CSV."""
    import pyarrow  # type: ignore[import-not-found, import-untyped, unused-ignore]
    import pyarrow.parquet  # type: ignore[import-not-found, import-untyped, unused-ignore]

    arrays = {
        title: cells if all(one is None or is_number(one) for one in cells) else list(map(_cell, cells))
        for title, cells in columns.items()
    }
    pyarrow.parquet.write_table(pyarrow.table(arrays), path)


def frame(results: Results) -> pd.DataFrame:
    """Return the table as a data frame, in which values are as the analysis returned them.

    `session` is a date-time in UTC, and `day` a date; both are missing where a job has several sessions.
    """
    import pandas as pd  # takes half a second to load

    cells: dict[str, Any] = {}
    for title, values in _columns(results, "day").items():
        cells[title] = _numbers(values)
        if title == "session":
            starts = pd.Series(values, dtype=str)
            cells[title] = pd.to_datetime(starts, utc=True, format="ISO8601", errors="coerce")
            cells["day"] = [_day(start) for start in values]
    return pd.DataFrame(cells).astype({"seconds": float})


def _numbers(cells: list[Any]) -> list[Any]:
    """Return infinite numbers, which JSON has as text, as numbers again if all others are numbers."""
    others = {repr(one) for one in cells if not is_number(one)}
    if not others <= {"None", "'inf'", "'-inf'"} or not any(map(is_number, cells)):
        return cells
    return [float(one) if isinstance(one, str) else one for one in cells]


def _day(start: str) -> date | None:
    try:
        return datetime.fromisoformat(start).date()
    except ValueError:  # of several sessions
        return None


def _columns(results: Results, *others: str) -> dict[str, list[Any]]:
    """Return the cells of each column by its title: what the analysis calls a value, unless another column has that."""
    rows = [_row(row) for row in results.rows]
    names = [*_OWN]
    for part in ("group.", "parameters.", "values."):
        names += dict.fromkeys(name for row in rows for name in row if name.startswith(part))
    names += _LAST
    taken = {*names, *others}
    titles = {name: name if (bare := name.removeprefix("values.")) in taken else bare for name in names}
    return {title: [row.get(name) for row in rows] for name, title in titles.items()}


def _row(row: Row) -> dict[str, Any]:
    lists = {name: "; ".join(getattr(row, name)) for name in records.LISTS}
    own = {name: getattr(row, name) for name in ("job", *records.TRAITS, "seconds", "attempts")}
    parts = {"group": row.group, "parameters": row.parameters, "values": row.values}
    named = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
    return own | lists | named | {"status": row.status.value, "reason": row.failure}


def _cell(value: Any) -> str:
    if not isinstance(value, str):
        return "" if value is None else json.dumps(value, ensure_ascii=False)
    try:
        float(value)  # -inf is no formula
    except ValueError:
        return no_formula(value)
    return value

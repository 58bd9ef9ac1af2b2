"""How a run stands: counts, failures, durations, and how long the rest will take."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from job_dispatch.messages import counted
from job_dispatch.results import table
from job_dispatch.results.gathering import Results, Row, failed_lines
from job_dispatch.results.states import Status, duration, seconds_since_1970

if TYPE_CHECKING:
    import pandas as pd

_FAILED_AT_MOST = 20


@dataclass(frozen=True)
class Estimate:
    """How long the jobs that are left will take: seconds, give or take `spread`, with so many workers.

    `basis` is `size` if it goes by the bytes of inputs, else `count`.
    """

    seconds: float
    spread: float
    workers: int
    basis: str


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
        return table.frame(self.results)

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
    elapsed = sum(_elapsed(row) for row in results.of(Status.RUNNING))
    workers = min(results.workers, len(left))
    seconds = max(rate * missing - elapsed, 0.0) / workers
    return Estimate(seconds, spread / workers, workers, "size" if by_size else "count")


def _elapsed(row: Row) -> float:
    return max(0.0, time.time() - seconds_since_1970(row.start)) if row.start else 0.0


def as_json(results: Results) -> str:
    """Return the status for programs."""
    rest = estimate(results)
    seconds = [row.seconds for row in results.rows if row.seconds is not None]
    value: dict[str, Any] = {
        "folder": str(results.folder.absolute()),
        "jobs": len(results.rows),
        **results.counts,
        "changed": sum(1 for row in results.rows if row.changed),
        "seconds": {
            "median": statistics.median(seconds) if seconds else None,
            "longest": max(seconds, default=None),
            "sum": round(sum(seconds), 3),
        },
        "estimate": None if rest is None else vars(rest) | {},
        "failures": [
            {
                "job": row.job,
                "assets": list(row.asset_name),
                "reason": row.reason,
                "where": row.where,
                "attempts": row.attempts,
                "log": str(row.log),
            }
            for row in results.of(Status.FAILED)
        ],
        "in_progress": [
            {"job": row.job, "assets": list(row.asset_name), "host": row.host, "since": row.start}
            for row in results.of(Status.RUNNING)
        ],
    }
    return json.dumps(value, indent=4)


def lines(results: Results) -> Iterator[str]:
    """Yield the status for people."""
    total = len(results.rows)
    changed = sum(1 for row in results.rows if row.changed)
    yield f"{counted(total, 'job')} in {results.folder}"
    for status, number in results.counts.items():
        line = f"  {status:<8} {number:>7,}  {100 * number / total:5.1f} %"
        is_noted = status == Status.LEFT.value and changed
        yield f"{line}  ({changed:,} with another input or analysis than before)" if is_noted else line
    for row in results.of(Status.RUNNING)[:_FAILED_AT_MOST]:
        yield f"running  {row.job} ({'; '.join(row.asset_name)}) on {row.host} since {row.start}"
    failed = results.of(Status.FAILED)
    if failed:
        yield "failed"
    for row in failed[:_FAILED_AT_MOST]:
        where = f" ({row.where})" if row.where else ""
        yield f"  {row.job} ({'; '.join(row.asset_name)})"
        yield f"    {row.reason}{where}; {counted(row.attempts, 'attempt')}; log: {row.log}"
    if len(failed) > _FAILED_AT_MOST:
        yield f"  … and {len(failed) - _FAILED_AT_MOST:,} more"
    yield from _time_lines(results)


def _time_lines(results: Results) -> Iterator[str]:
    timed = [row for row in results.rows if row.seconds is not None]
    if timed:
        longest = max(timed, key=lambda row: row.seconds or 0.0)
        total = sum(row.seconds or 0.0 for row in timed)
        median = statistics.median(row.seconds or 0.0 for row in timed)
        yield (
            f"time     median {duration(median)} per job, longest {duration(longest.seconds or 0.0)}"
            f" ({longest.job}), {duration(total)} of computing in all"
        )
    if (rest := estimate(results)) is not None:
        basis = "by the size of inputs" if rest.basis == "size" else "by the number of jobs"
        yield (
            f"left     about {duration(rest.seconds)} ± {duration(rest.spread)}"
            f" with {counted(rest.workers, 'worker')}, {basis}"
        )


def summary(results: Results) -> list[str]:
    """Return the paragraph at the end of a run."""
    counts = ", ".join(f"{number:,} {status}" for status, number in results.counts.items() if number)
    return [f"{counts} of {counted(len(results.rows), 'job')}", *(f"  {line}" for line in failed_lines(results, 5))]

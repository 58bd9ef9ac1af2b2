"""Running jobs on this machine: which ones, so many at a time, each minded by a process of its own."""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path

from job_dispatch import stopping
from job_dispatch.messages import RequestError, counted, is_terminal, logger
from job_dispatch.results import claims, job_files, minding, provenance, records, states
from job_dispatch.results.job_files import JobFile
from job_dispatch.results.minding import Order, Outcome
from job_dispatch.results.records import Record

_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_TO_END = 5.0


class Only(Enum):
    """Which jobs to run."""

    OPEN = "all that are not done"
    FAILED = "failed"
    NEW = "new"
    ALL = "all"


@dataclass(frozen=True)
class Ran:
    """What a run did, in the order in which its jobs ended."""

    outcomes: Sequence[Outcome]
    seconds: float

    def of(self, status: str) -> list[Outcome]:
        """Return the outcomes with a status."""
        return [one for one in self.outcomes if one.status == status]


def run(order: Order, places: Sequence[Path], only: Only, workers: int) -> Ran:
    """Run the jobs of some folders, `workers` at a time.

    Parameters
    ----------
    order : Order
    places : sequence of pathlib.Path
        Output folders of a dispatch, worker folders, or job files.
    only : Only
    workers : int

    Raises
    ------
    RequestError
        There are no jobs, or the analysis cannot be imported or has no function `analyse`.
    """
    found = job_files.find(places)
    records.write_note(order.results, places, order.analysis, order.given)
    wanted = list(_wanted(order, found, only))
    logger.info("%s to run, %s already done", counted(len(wanted), "job"), f"{len(found) - len(wanted):,}")
    order = replace(order, run=secrets.token_hex(8), code=provenance.code(order.analysis))
    stopping.note(run=order.run, results=str(order.results.absolute()))
    claims.folder(order.results).mkdir(parents=True, exist_ok=True)
    minding.prepare()
    began = time.monotonic()
    shown = _Shown(len(wanted), workers)
    outcomes = []
    for outcome in _each(order, wanted, workers):
        if outcome.status == "refused":
            raise RequestError(outcome.reason)
        outcomes.append(outcome)
        shown.add(outcome)
    shown.close()
    return Ran(outcomes, time.monotonic() - began)


def _wanted(order: Order, found: Sequence[JobFile], only: Only) -> Iterator[tuple[JobFile, Record | None]]:
    """Yield the jobs to run, each with the record of its last run."""
    current = states.Current(order.analysis, order.given)
    held = claims.read_all(order.results)
    for job in found:
        state = states.state(order.results, job.name, job, held.get(job.name), current)
        is_wanted = {
            Only.OPEN: state.status is not states.Status.DONE,
            Only.FAILED: state.status is states.Status.FAILED,
            Only.NEW: state.status is states.Status.LEFT,
            Only.ALL: True,
        }[only]
        if is_wanted:
            is_running = state.status is states.Status.RUNNING
            yield job, records.read(order.results / job.name) if is_running else state.record


def _each(order: Order, jobs: Sequence[tuple[JobFile, Record | None]], workers: int) -> Iterator[Outcome]:
    """Run jobs and yield each outcome; if the caller stops early, the jobs that run are ended."""
    lifeline, living = os.pipe()
    waiting = iter(jobs)
    minders: dict[int, tuple[JobFile, int]] = {}
    try:
        while True:
            while len(minders) < workers and (following := next(waiting, None)) is not None:
                pid, answer = _start(order, *following, lifeline, living)
                minders[pid] = (following[0], answer)
            if not minders:
                return
            pid, status = os.wait()
            if pid not in minders:
                continue
            job, answer = minders.pop(pid)
            yield _outcome(job, answer, status)
    finally:
        os.close(living)
        for pid, (_, answer) in minders.items():
            os.waitpid(pid, 0)
            os.close(answer)
        os.close(lifeline)


def _start(order: Order, job: JobFile, last: Record | None, lifeline: int, living: int) -> tuple[int, int]:
    """Fork the process that minds a job; return its id and a pipe that gives the outcome."""
    answer, telling = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.close(telling)
        return pid, answer
    try:
        os.setsid()  # Ctrl-C in the terminal reaches the run, not this
        os.close(living)
        os.close(answer)
        outcome = minding.mind(order, job, last, lifeline)
        if outcome is not None:
            os.write(telling, json.dumps(asdict(outcome)).encode())
    except BaseException as error:  # a full disk, …
        outcome = Outcome(job.name, "failed", f"its record cannot be written: {error}")
        os.write(telling, json.dumps(asdict(outcome)).encode())
    os._exit(0)


def _outcome(job: JobFile, answer: int, status: int) -> Outcome:
    with open(answer, "rb") as file:
        told = file.read()
    if told:
        return Outcome(**json.loads(told))
    return Outcome(job.name, "failed", f"its process was killed (signal {os.WTERMSIG(status)})")


class _Shown:
    """A line that tells how far a run is: on a terminal after each job, else every ten seconds."""

    def __init__(self, total: int, workers: int) -> None:
        self._total, self._workers = total, workers
        self._done = self._failed = 0
        self._began = self._told = time.monotonic()

    def add(self, outcome: Outcome) -> None:
        """Count a job that has ended."""
        if outcome.status == "taken":
            self._total -= 1
        self._done += outcome.status == "done"
        self._failed += outcome.status == "failed"
        now = time.monotonic()
        if is_terminal():
            print(f"\r\x1b[K{self._line(now)}", end="", file=sys.stderr, flush=True)
        elif now - self._told >= _SECONDS_BETWEEN_LINES:
            self._told = now
            logger.info("%s", self._line(now))

    def _line(self, now: float) -> str:
        ended = self._done + self._failed
        left = self._total - ended
        seconds = left * (now - self._began) / max(ended, 1)
        return f"{self._done:,} done, {self._failed:,} failed, {left:,} left, about {states.duration(seconds)}"

    def close(self) -> None:
        """Take the line off the terminal."""
        if is_terminal():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def wait_for_the_end(results: Path, run: str) -> None:
    """Wait until the jobs of a run that was stopped have ended."""
    end = time.monotonic() + _SECONDS_TO_END
    while time.monotonic() < end:
        held = [claim for claim in claims.read_all(results).values() if claim.run == run]
        if not any(claims.is_alive(results, claim) for claim in held):
            return
        time.sleep(0.02)

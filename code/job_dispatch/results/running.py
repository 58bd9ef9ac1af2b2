"""Running jobs on this machine: which ones, so many at a time, each minded by a process of its own."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from job_dispatch import stopping
from job_dispatch.messages import RequestError, counted, logger
from job_dispatch.results import claims, minding, records
from job_dispatch.results.gathering import Current, Status, state
from job_dispatch.results.minding import Order, Outcome
from job_dispatch.results.records import JobFile, Record

_SECONDS_TO_END = 5.0
# Which jobs are run, by their status: "open" ones by default.
_WANTED = {
    "open": {Status.FAILED, Status.RUNNING, Status.LEFT},
    "failed": {Status.FAILED},
    "new": {Status.LEFT},
    "all": set(Status),
}
ToRun = tuple[JobFile, Record | None]


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def jobs_to_run(order: Order) -> list[ToRun]:
    """Return the jobs that are to be run, each with the record of its last run; a RequestError if there are no jobs."""
    found = records.find_jobs(order.places)
    records.write_note(order.results, order.places, order.analysis, order.given)
    current, held = Current(order.analysis, order.given), claims.read_all(order.results)
    wanted: list[ToRun] = []
    for job in found:
        now = state(order.results, job.name, job, held.get(job.name), current)
        if now.status in _WANTED[order.only]:
            is_running = now.status is Status.RUNNING
            wanted.append((job, records.read(order.results / job.name) if is_running else now.record))
    logger.info("%s of %s to run", f"{len(wanted):,}", counted(len(found), "job"))
    return wanted


def run(order: Order, jobs: Sequence[ToRun]) -> Iterator[Outcome]:
    """Run jobs, `order.workers` at a time, and yield each outcome.

    A RequestError is raised if the analysis cannot be imported or has no function `analyse`, or the catalog lacks a
    record.
    """
    order = replace(order, code=records.code_of(order.analysis), records=_records(order.catalog, jobs))
    stopping.note(run=order.run, results=str(order.results.absolute()))
    claims.folder(order.results).mkdir(parents=True, exist_ok=True)
    minding.prepare()
    for outcome in _each(order, jobs):
        if outcome.status == "refused":
            raise RequestError(outcome.reason)
        yield outcome


def _records(catalog: Path | None, jobs: Sequence[ToRun]) -> dict[str, Any]:
    """Return the whole records of all assets by `_id`."""
    if catalog is None:
        return {}
    from job_dispatch.metadata.catalog import Catalog  # its engine of queries takes 0.1 s
    from job_dispatch.request.fields import Query

    wanted = {one for job, _ in jobs for one in job.content.get("docdb_record_id", ())}
    pages = Catalog(catalog).find(Query.of({"_id": {"$in": sorted(wanted)}}), None)
    found = {record["_id"]: record for page in pages for record in page}
    if missing := len(wanted - found.keys()):
        raise RequestError(
            f"{catalog}: no record of {missing:,} of {counted(len(wanted), 'asset')};"
            " give the catalog that --save_catalog wrote for these jobs"
        )
    return found


def _each(order: Order, jobs: Sequence[ToRun]) -> Iterator[Outcome]:
    """Run jobs and yield each outcome; if the caller stops early, the jobs that run are ended."""
    lifeline, living = os.pipe()
    waiting = iter(jobs)
    minders: dict[int, int] = {}
    try:
        while True:
            while len(minders) < order.workers and (following := next(waiting, None)) is not None:
                pid, answer = _start(order, *following, lifeline, living)
                minders[pid] = answer
            if not minders:
                return
            pid, _ = os.wait()
            if pid not in minders:
                continue
            with open(minders.pop(pid), "rb") as file:  # noqa: PTH123 - a Path takes no descriptor
                told = file.read()
            yield Outcome(**json.loads(told)) if told else Outcome("failed")
    finally:
        os.close(living)
        for pid, answer in minders.items():
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
    except BaseException as error:  # a full disk, …
        logger.warning("%s: its record cannot be written: %s", job.name, error)
    else:
        if outcome is not None:
            os.write(telling, json.dumps(asdict(outcome)).encode())
    finally:
        os._exit(0)


def wait_for_the_end(results: Path, run: str) -> None:
    """Wait until the jobs of a run that was stopped have ended."""
    end = time.monotonic() + _SECONDS_TO_END
    while time.monotonic() < end:
        held = [claim for claim in claims.read_all(results).values() if claim.run == run]
        if not any(claims.is_alive(results, claim) for claim in held):
            return
        time.sleep(0.02)

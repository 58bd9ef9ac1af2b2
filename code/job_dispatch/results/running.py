"""Running jobs on this machine: which ones, so many at a time, each in a process of its own that another one minds.

The minder holds the claim on the job, keeps its log within bounds, ends it after its time, and writes its record.
It never runs code of the user, so whatever the job does (crash, `os._exit`, fork, fill the memory) leaves a record.
If the run that started it ends, it ends the job and leaves no record: the job is to be run again.
"""

from __future__ import annotations

import collections
import contextlib
import json
import math
import os
import secrets
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Self

from job_dispatch import stopping
from job_dispatch.messages import DispatchError, RequestError, counted, logger
from job_dispatch.results import analysis, claims, records
from job_dispatch.results.claims import Claim
from job_dispatch.results.gathering import Current, Status, state
from job_dispatch.results.records import JobFile, Record

_LOG_HALF = 5_000_000
_READ_AT_ONCE = 1 << 16
_SECONDS_UNTIL_A_LOOK = 0.05
_SECONDS_TO_END = 5.0
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
# Which jobs are run, by their status: "open" ones by default.
_WANTED = {
    "open": {Status.FAILED, Status.RUNNING, Status.LEFT},
    "failed": {Status.FAILED},
    "new": {Status.LEFT},
    "all": set(Status),
}
ToRun = tuple[JobFile, Record | None]


@dataclass(frozen=True)
class Order:
    """How to run jobs.

    `places` hold the job files, of which `only` says which are run: `open` (all that are not done), `failed`, `new` or
    `all`. `given` are the parameters of `--set`, and `minutes` is what a job may take. `attempt` counts if no earlier
    one is known. `run` identifies the run in its claims. `code` is the address and the version of the analysis, and
    `records` are those of the catalog by `_id`, for `job.metadata`.
    """

    analysis: Path
    places: Sequence[Path]
    results: Path
    workers: int
    only: str = "open"
    given: Mapping[str, Any] = field(default_factory=dict)
    minutes: float | None = None
    attempt: int = 1
    catalog: Path | None = None
    run: str = field(default_factory=lambda: secrets.token_hex(8))
    code: Mapping[str, str] = field(default_factory=dict)
    records: Mapping[str, Any] = field(default_factory=dict)


class Outcome(NamedTuple):
    """What became of a job: `done`, `failed`, `taken` by another process, or `refused` for a reason: none can run."""

    status: str
    reason: str = ""


class _Ended(NamedTuple):
    """How the process of a job ended; the peak memory is in bytes."""

    status: int
    seconds: float
    peak_memory: int
    is_late: bool


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
    from job_dispatch.results import job  # noqa: F401 - here, so that no job waits for pydantic

    _prctl(0, 0)
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
            yield Outcome(*json.loads(told)) if told else Outcome("failed")
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
        outcome = _mind(order, job, last, lifeline)
    except BaseException as error:  # a full disk, …
        logger.warning("%s: its record cannot be written: %s", job.name, error)
    else:
        if outcome is not None:
            os.write(telling, json.dumps(outcome).encode())
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


def _mind(order: Order, job: JobFile, last: Record | None, lifeline: int) -> Outcome | None:
    """Run one job in a child of this process and write its record; return None if the run that started this has ended.

    If its record is not the last one that the run knew, another run has run it meanwhile, and it is left alone. The run
    holds the other end of the lifeline, a pipe; when that closes, the job is ended.
    """
    claim = claims.take(order.results, job.name, order.run)
    if claim is None:
        return Outcome("taken")
    outcome = _run_and_record(order, job, last, lifeline, claim)
    claims.release(order.results, claim)
    return outcome


def _run_and_record(order: Order, job: JobFile, last: Record | None, lifeline: int, claim: Claim) -> Outcome | None:
    folder, hidden = order.results / job.name, claims.folder(order.results)
    earlier = records.read(folder)
    if earlier != last:
        return Outcome("taken")
    log, answer = hidden / f"{job.name}.log", hidden / f"{job.name}.answer"
    answer.unlink(missing_ok=True)
    start = datetime.now(UTC)
    with _Log(log) as file:
        ended = _run_job(order, job, claim, lifeline, file, answer)
    told = _told(answer)
    if ended is None or not claims.beat(order.results, claim):
        return None
    if told.get("refused"):
        return Outcome("refused", told["refused"])
    records.remove(folder)
    log.replace(folder / records.LOG)
    failure = _failure(ended, told, order)
    record = {
        **records.about(job.name, job.content),
        "parameters": analysis.plain(analysis.merged(job.content, order.given)),
        "start": start.isoformat(timespec="milliseconds"),
        "end": (start + timedelta(seconds=ended.seconds)).isoformat(timespec="milliseconds"),
        "seconds": round(ended.seconds, 3),
        "peak_memory_bytes": ended.peak_memory,
        "host": claim.host,
        "attempt": max(claim.attempt, order.attempt, earlier.get("attempt", 0) + 1 if earlier else 1),
        "input": job.fingerprint,
        "input_bytes": job.input_bytes,
        "job_file": job.digest,
        "set": dict(order.given),
        **(failure or {"values": told["values"]}),
        "files": told.get("files") or analysis.own_files(order.analysis),
        "versions": told.get("versions", {}),
    }
    if failure is None:
        records.write(folder / records.PROCESSING, records.processing(record, order.analysis, order.code))
    records.write(folder / (records.FAILED if failure else records.DONE), record)
    return Outcome("failed" if failure else "done")


def _failure(ended: _Ended, told: Mapping[str, Any], order: Order) -> dict[str, Any] | None:
    """Return why a job failed, None if it did not."""
    if ended.is_late:
        return {"reason": f"took longer than --timeout={order.minutes:g} minutes"}
    if "error" in told:
        return {"reason": told["error"], "where": told.get("where", "")}
    if os.WIFSIGNALED(ended.status):
        number = signal.Signals(os.WTERMSIG(ended.status))
        if number == signal.SIGKILL:
            return {"reason": f"killed ({number.name}), most likely because memory ran out", "signal": number.name}
        return {"reason": f"crashed ({number.name}); {records.LOG} shows where", "signal": number.name}
    if "values" in told:
        return None
    code = os.WEXITSTATUS(ended.status)
    return {"reason": f"the process ended with exit code {code} before analyse returned", "exit_code": code}


def _told(answer: Path) -> dict[str, Any]:
    """Return what the job's process wrote last, and remove it."""
    try:
        told: dict[str, Any] = json.loads(answer.read_bytes())
    except (FileNotFoundError, ValueError):
        told = {}
    answer.unlink(missing_ok=True)
    return told


def _run_job(order: Order, job: JobFile, claim: Claim, lifeline: int, log: _Log, answer: Path) -> _Ended | None:
    """Run the job to its end; return None if the run that started this has ended, or has lost the claim."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # what the job leaves running comes to this process, to be ended
    output, printing = os.pipe()
    begun = time.monotonic()
    minder = os.getpid()
    child = os.fork()
    if child == 0:
        _be_the_job(order, job, printing, answer, minder)
    os.close(printing)
    watched = [os.pidfd_open(child)] if hasattr(os, "pidfd_open") else []
    status, usage = None, None
    next_beat = begun + claims.SECONDS_BETWEEN_BEATS
    is_late, end = False, begun + 60 * order.minutes if order.minutes else math.inf
    try:
        while status is None:
            deadline = next_beat if is_late else min(next_beat, end)
            if not watched:
                deadline = min(deadline, time.monotonic() + _SECONDS_UNTIL_A_LOOK)
            wait = max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([output, lifeline, *watched], [], [], wait)
            if lifeline in ready:
                return None
            if output in ready:
                log.write(os.read(output, _READ_AT_ONCE))
            now = time.monotonic()
            if now >= end and not is_late:
                is_late = True
                _kill(os.killpg, child)
                _kill(os.kill, child)
            if now >= next_beat:
                next_beat = now + claims.SECONDS_BETWEEN_BEATS
                if not claims.beat(order.results, claim):
                    return None
            ended, found, used = os.wait4(child, os.WNOHANG)
            if ended:
                status, usage = found, used
        seconds = time.monotonic() - begun
    finally:
        if status is None:
            _kill(os.kill, child)
        _end_descendants(child)
        while select.select([output], [], [], 0)[0] and (text := os.read(output, _READ_AT_ONCE)):
            log.write(text)
        for descriptor in (output, *watched):
            os.close(descriptor)
    unit = 1 if sys.platform == "darwin" else 1024
    return _Ended(status, seconds, usage.ru_maxrss * unit if usage else 0, is_late)


def _kill(function: Callable[[int, int], None], number: int) -> None:
    """Kill a process or a group of them, if it is still there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        function(number, signal.SIGKILL)


def _end_descendants(group: int) -> None:
    """Kill whatever the job has left running, also in sessions of their own."""
    _kill(os.killpg, group)
    while left := _descendants(os.getpid()):
        for pid in left:
            _kill(os.kill, pid)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, 0)


def _descendants(pid: int) -> list[int]:
    try:
        children = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # gone, or a system without this
        return []
    return [one for child in children for one in (child, *_descendants(child))]


class _Log:
    """A log file that keeps the first and the last 5 MB of what is written."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self._left = _LOG_HALF
        self._end: collections.deque[bytes] = collections.deque()
        self._end_bytes = self._dropped = 0

    def write(self, text: bytes) -> None:
        first, rest = text[: self._left], text[self._left :]
        self._left -= len(first)
        with contextlib.suppress(OSError):  # a full disk must not end the job
            self._file.write(first)
        if rest:
            self._end.append(rest)
            self._end_bytes += len(rest)
        while self._end and self._end_bytes - len(self._end[0]) >= _LOG_HALF:
            self._dropped += len(self._end[0])
            self._end_bytes -= len(self._end.popleft())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            if self._dropped:
                self._file.write(f"\n… {self._dropped:,} bytes are left out here …\n".encode())
            self._file.write(b"".join(self._end))
        self._file.close()


def _prctl(option: int, value: int) -> None:
    """Ask Linux for something of a process: https://man7.org/linux/man-pages/man2/prctl.2.html."""
    if sys.platform.startswith("linux"):
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _be_the_job(order: Order, job: JobFile, printing: int, answer: Path, minder: int) -> NoReturn:
    """Run the analysis on the job in a process of its own, write what came of it, and end this process."""
    try:
        os.setpgid(0, 0)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != minder:
            os._exit(1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (printing, 1), (printing, 2)):
            os.dup2(source, target)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        folder = order.results.absolute() / job.name
        told = analysis.work(order.analysis, job.content, order.given, folder, order.records)
        records.write(answer, told)
        sys.stdout.flush()
        sys.stderr.flush()
    except DispatchError as error:
        records.write(answer, {"refused": str(error)})
    except BaseException:
        with contextlib.suppress(BaseException):
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(1)
    os._exit(0)

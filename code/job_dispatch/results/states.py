"""In which of four states a job is: done, failed, running or left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

from job_dispatch.results import analysis, claims, records
from job_dispatch.results.claims import Claim
from job_dispatch.results.job_files import JobFile
from job_dispatch.results.records import Record


class Status(Enum):
    """Each job has exactly one of these."""

    DONE = "done"
    FAILED = "failed"
    RUNNING = "running"
    LEFT = "left"


@dataclass(frozen=True)
class State:
    """The state of a job, and the record or the claim that it follows from.

    `changed` names what changed since the job was done: its input, the analysis or its parameters; else "".
    """

    status: Status
    record: Record | None = None
    claim: Claim | None = None
    changed: str = ""


class Current:
    """What a job would be run with now: compared with what it was run with."""

    def __init__(self, path: Path | None, given: Mapping[str, Any]) -> None:
        self._path, self._given = path, dict(given)
        self._hashes: dict[str, str] = {}

    def change(self, record: Mapping[str, Any], job: JobFile | None) -> str:
        """Return what changed since a record was written, "" if nothing did."""
        if job is not None and not job.is_as_in(record):
            return "input"
        if self._path is None:
            return ""
        if record.get("set", self._given) != self._given:
            return "--set"
        changed = [name for name, known in record.get("files", {}).items() if self._hash(name) != known]
        return changed[0] if changed else ""

    def _hash(self, name: str) -> str:
        if name not in self._hashes:
            path = self._path.resolve().parent / name if self._path else Path(name)
            self._hashes[name] = analysis.sha256(path) if path.is_file() else ""
        return self._hashes[name]


def state(results: Path, name: str, job: JobFile | None, claim: Claim | None, current: Current) -> State:
    """Return the state of a job.

    Parameters
    ----------
    results : pathlib.Path
    name : str
    job : JobFile or None
        Its job file, None if that is not there any more.
    claim : Claim or None
        The claim on it as it was read before.
    current : Current
    """
    if claim is not None and claims.is_alive(results, claim):
        return State(Status.RUNNING, claim=claim)
    record = records.read(results / name)
    if record is None:
        # Its process was killed, unless it has given the claim back meanwhile.
        was_killed = claim is not None and claims.read(results, name) is not None
        return State(Status.FAILED, claim=claim) if was_killed else State(Status.LEFT)
    if record["status"] == "failed":
        return State(Status.FAILED, record)
    changed = current.change(record, job)
    return State(Status.LEFT if changed else Status.DONE, record, changed=changed)


def duration(seconds: float) -> str:
    """Return a duration as people say it: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def moment(seconds: float) -> str:
    """Return a moment in seconds since 1970 as an ISO 8601 time in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def seconds_since_1970(moment: str) -> float:
    """Return an ISO 8601 time as seconds since 1970."""
    return datetime.fromisoformat(moment).timestamp()

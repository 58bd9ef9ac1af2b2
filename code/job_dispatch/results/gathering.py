"""All jobs of a results folder, each done, failed, running or left: what `status`, the table and the page show."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

from job_dispatch.messages import RequestError
from job_dispatch.results import claims, records
from job_dispatch.results.analysis import merged, plain
from job_dispatch.results.claims import Claim
from job_dispatch.results.records import JobFile, Record

FOLDER = Path("analysis_results")
PICTURES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".svg": "svg+xml", ".gif": "gif", ".webp": "webp"}
# The columns of a dispatcher's `jobs.csv` that a job file has as well.
_LISTED = {
    "asset names": "asset_name",
    "asset ids": "asset_id",
    "record ids": "docdb_record_id",
    "locations": "s3_location",
    "files": "file_location",
    "subjects": "subject",
    "projects": "project",
}
_LOG_END_BYTES, _LOG_END_LINES = 8_000, 20
_KILLED = "killed: its process is gone without a record"


class Status(Enum):
    """Each job has exactly one of these."""

    DONE = "done"
    FAILED = "failed"
    RUNNING = "running"
    LEFT = "left"


@dataclass(frozen=True)
class State:
    """The status of a job, and the record or the claim that it follows from.

    `changed` names what changed since the job was done: its input, the analysis or its parameters; else "".
    """

    status: Status
    record: Record | None = None
    claim: Claim | None = None
    changed: str = ""


class Current:
    """The analysis and the `--set` that jobs would be run with now: compared with those that they were run with."""

    def __init__(self, analysis: Path | None, given: Mapping[str, Any]) -> None:
        self._analysis, self._given = analysis, dict(given)
        self._hashes: dict[str, str] = {}

    def change(self, record: Record, job: JobFile | None) -> str:
        """Return what changed since a record was written, "" if nothing did."""
        if job is not None and not job.is_as_in(record):
            return "input"
        if self._analysis is None:
            return ""
        if record.get("set", self._given) != self._given:
            return "--set"
        folder = self._analysis.resolve().parent
        for name, known in record.get("files", {}).items():
            if name not in self._hashes:
                path = folder / name
                self._hashes[name] = records.sha256(path) if path.is_file() else ""
            if self._hashes[name] != known:
                return str(name)
        return ""


def state(results: Path, name: str, job: JobFile | None, claim: Claim | None, current: Current) -> State:
    """Return the state of a job; its job file may be gone, and its claim is the one that was read before."""
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


@dataclass(frozen=True)
class Row:
    """One job and what became of it; texts are empty where something is unknown.

    The `folder` with what the job wrote may not exist. `subject`, `session`, `project` and `modality` are those of its
    assets, joined by "; " without repeats. The `values` are what `analyse` returned. The `start` is an ISO 8601 time in
    UTC, and `peak_memory` in bytes. It was never run if `attempts` is 0. `reason` and `where` say in one line why it
    failed and where in the user's file. `changed` is what changed since it was done (`input`, a file of the analysis,
    or `--set`), so that it is left.
    """

    job: str
    status: Status
    folder: Path
    asset_name: tuple[str, ...] = ()
    asset_id: tuple[str, ...] = ()
    docdb_record_id: tuple[str, ...] = ()
    s3_location: tuple[str, ...] = ()
    file_location: tuple[str, ...] = ()
    subject: str = ""
    session: str = ""
    project: str = ""
    modality: str = ""
    group: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    start: str = ""
    host: str = ""
    seconds: float | None = None
    peak_memory: int | None = None
    attempts: int = 0
    reason: str = ""
    where: str = ""
    changed: str = ""
    input_bytes: int | None = None

    @property
    def assets(self) -> str:
        """The names of its assets as one text."""
        return "; ".join(self.asset_name)

    @property
    def failure(self) -> str:
        """Why and where it failed; "" else."""
        return f"{self.reason} ({self.where})" if self.where else self.reason

    @property
    def log(self) -> Path:
        """The file with what it printed: until its record is written, it is among the claims."""
        kept = self.folder / records.LOG
        return kept if kept.exists() else claims.folder(self.folder.parent) / f"{self.job}.log"

    def log_end(self) -> str:
        """Return the last lines of what it printed."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - _LOG_END_BYTES))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-_LOG_END_LINES:])

    def pictures(self) -> list[Path]:
        """Return the pictures that it wrote, by path."""
        if self.status is not Status.DONE:
            return []
        return sorted(
            Path(folder, name)
            for folder, _, names in os.walk(self.folder)
            for name in names
            if name.lower().endswith(tuple(PICTURES))
        )


@dataclass(frozen=True)
class Results:
    """All jobs of a results folder, in the order of assets, parameters and names.

    `workers` is how many jobs ran at a time, as far as the records tell.
    """

    folder: Path
    rows: tuple[Row, ...]
    workers: int = 1

    def of(self, status: Status) -> list[Row]:
        """Return the jobs with a status."""
        return [row for row in self.rows if row.status is status]

    @property
    def counts(self) -> dict[str, int]:
        """How many jobs have each status."""
        return {status.value: len(self.of(status)) for status in Status}

    @property
    def changed(self) -> int:
        """How many jobs are left since something changed."""
        return sum(1 for row in self.rows if row.changed)

    @property
    def seconds(self) -> list[float]:
        """How long each job took of which that is known."""
        return [row.seconds for row in self.rows if row.seconds is not None]

    @property
    def exit_code(self) -> int:
        """0: all done; 4: some failed; 3: none failed, some left or running."""
        if self.of(Status.FAILED):
            return 4
        return 0 if len(self.of(Status.DONE)) == len(self.rows) else 3


def gather(place: Path = FOLDER) -> Results:
    """Return all jobs of a results folder: those with a record, those that run, and those that nobody has started.

    It is the folder that `job-dispatch run` wrote, or one that the Nextflow pipeline published, with `analysis_results`
    and `jobs.csv` in it. A RequestError is raised if there is no such folder, or no job in it.
    """
    folder = place / FOLDER if (place / FOLDER).is_dir() else place
    if not folder.is_dir():
        raise RequestError(f"{place}: no such folder; give the one that `job-dispatch run` wrote")
    note = records.read_note(folder)
    given = note.get("set", {})
    files: dict[str, JobFile] = {}
    for noted in note.get("jobs", []):
        with contextlib.suppress(RequestError):  # removed or emptied since
            files |= {job.name: job for job in records.find_jobs([Path(noted)])}
    held = claims.read_all(folder)
    listed = _listed(folder.parent / "jobs.csv")
    with os.scandir(folder) as entries:
        folders = [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    current = Current(Path(note["analysis"]) if note else None, given)
    rows = []
    for name in dict.fromkeys([*files, *held, *listed, *folders]):
        found = state(folder, name, files.get(name), held.get(name), current)
        if found.status is Status.LEFT and found.record is None and name not in files and name not in listed:
            continue  # a folder of something else
        rows.append(_row(folder / name, found, files.get(name), listed.get(name, {}), given))
    if not rows:
        raise RequestError(f"{place}: no job in it; give the folder that `job-dispatch run` wrote")
    rows.sort(key=lambda row: (row.asset_name, json.dumps(dict(row.parameters), sort_keys=True), row.job))
    return Results(folder, tuple(rows), _workers(rows))


def _listed(path: Path) -> dict[str, dict[str, Any]]:
    """Return what `jobs.csv` of a dispatcher's report lists, by job."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.DictReader(file) if row.get("file name")]
    except (OSError, ValueError, csv.Error):  # it is somebody else's, or not UTF-8
        return {}
    return {
        row["file name"].removesuffix(".json"): {
            field: row[title].split("; ") for title, field in _LISTED.items() if row.get(title)
        }
        for row in rows
    }


def _row(folder: Path, found: State, job: JobFile | None, listed: Mapping[str, Any], given: Mapping[str, Any]) -> Row:
    """Return a job as its record tells it; without one, as its job file or the table of a dispatch does."""
    record, claim = found.record or {}, found.claim
    if not record:
        content = job.content if job is not None else listed
        record = {"parameters": plain(merged(content, given)), **records.about(folder.name, content), "attempt": 0}
        if found.status is Status.FAILED:
            record["reason"] = _KILLED
    if claim is not None:
        start = datetime.fromtimestamp(claim.since, UTC).isoformat(timespec="seconds")
        record = {**record, "start": start, "host": claim.host, "attempt": claim.attempt}
    assets: dict[str, Any] = {
        **{name: tuple(record.get(name) or ()) for name in records.LISTS},
        **{name: record.get(name, "") for name in records.TRAITS},
    }
    is_to_run = found.record is None or found.changed
    return Row(
        folder.name,
        found.status,
        folder,
        **assets,
        group=record.get("group_metadata") or {},
        parameters=record.get("parameters") or {},
        values=record.get("values") or {} if found.status is Status.DONE else {},
        start=record.get("start", "")
        if claim is None
        else f"{datetime.fromtimestamp(claim.since, UTC):%Y-%m-%dT%H:%M:%S+00:00}",
        host=record.get("host", ""),
        seconds=record.get("seconds"),
        peak_memory=record.get("peak_memory_bytes"),
        attempts=record.get("attempt", 1),
        reason=record.get("reason", ""),
        where=record.get("where", ""),
        changed=found.changed,
        input_bytes=job.input_bytes if job is not None and is_to_run else record.get("input_bytes"),
    )


def duration(seconds: float) -> str:
    """Return a duration as people say it: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def since_1970(moment: str) -> float:
    """Return an ISO 8601 time as seconds since 1970."""
    return datetime.fromisoformat(moment).timestamp()


def _workers(rows: list[Row]) -> int:
    """Return how many jobs ran at the same time at most."""
    moments: list[tuple[float, int]] = []
    for row in rows:
        if row.start and row.seconds is not None:
            start = since_1970(row.start)
            moments += [(start, 1), (start + row.seconds, -1)]
    return max(1, max(itertools.accumulate(change for _, change in sorted(moments)), default=1))

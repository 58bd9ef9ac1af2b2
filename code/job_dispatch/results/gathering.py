"""All jobs of a results folder, with what became of them: what `status`, the table and the page show."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from job_dispatch.messages import RequestError
from job_dispatch.results import claims, job_files, records, states
from job_dispatch.results.analysis import merged, plain
from job_dispatch.results.claims import Claim
from job_dispatch.results.job_files import JobFile
from job_dispatch.results.states import Status

FOLDER = Path("analysis_results")
_PICTURES = (".png", ".jpg", ".jpeg", ".svg", ".gif", ".webp")
_LOG_END_BYTES, _LOG_END_LINES = 8_000, 20
_KILLED = "killed: its process is gone without a record"


@dataclass(frozen=True)
class Row:
    """One job and what became of it.

    Attributes
    ----------
    job : str
    status : Status
    folder : pathlib.Path
        What the job wrote; it may not exist.
    asset_name, asset_id, docdb_record_id, s3_location, file_location : tuple of str
    subject, session, project, modality : str
        Those of its assets, joined by "; " without repeats; "" if unknown.
    group, parameters, values : mapping
        The values are what `analyse` returned.
    start, host : str
        "" if unknown. The start is an ISO 8601 time in UTC.
    seconds : float or None
    peak_memory : int or None
        In bytes.
    attempts : int
        0 if it was never run.
    reason, where : str
        Why it failed, in one line, and where in the user's file; "" else.
    changed : str
        What changed since it was done (`input`, a file of the analysis, or `--set`), so that it is left; "" else.
    input_bytes : int or None
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
            if name.lower().endswith(_PICTURES)
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
    def exit_code(self) -> int:
        """0: all done; 4: some failed; 3: none failed, some left or running."""
        if self.of(Status.FAILED):
            return 4
        return 0 if len(self.of(Status.DONE)) == len(self.rows) else 3


def gather(place: Path = FOLDER) -> Results:
    """Return all jobs of a results folder: those with a record, those that run, and those that nobody has started.

    Parameters
    ----------
    place : pathlib.Path
        The folder that `job-dispatch run` wrote, or one that the Nextflow pipeline published, with `analysis_results`
        and `jobs.csv` in it.

    Raises
    ------
    RequestError
        There is no such folder, or no job in it.
    """
    folder = place / FOLDER if (place / FOLDER).is_dir() else place
    if not folder.is_dir():
        raise RequestError(f"{place}: no such folder; give the one that `job-dispatch run` wrote")
    note = records.read_note(folder)
    files = {job.name: job for job in _noted_files(note)}
    held = claims.read_all(folder)
    listed = _listed(folder.parent / "jobs.csv")
    with os.scandir(folder) as entries:
        with_records = [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    current = states.Current(Path(note["analysis"]) if note else None, note.get("set", {}))
    rows = []
    for name in dict.fromkeys([*files, *held, *listed, *with_records]):
        state = states.state(folder, name, files.get(name), held.get(name), current)
        if state.status is Status.LEFT and state.record is None and name not in files and name not in listed:
            continue  # a folder of something else
        rows.append(_row(folder, name, state, files.get(name), listed.get(name, {}), note.get("set", {})))
    if not rows:
        raise RequestError(f"{place}: no job in it; give the folder that `job-dispatch run` wrote")
    rows.sort(key=lambda row: (row.asset_name, json.dumps(dict(row.parameters), sort_keys=True), row.job))
    return Results(folder, tuple(rows), _workers(rows))


def _noted_files(note: Mapping[str, Any]) -> list[JobFile]:
    """Return the job files in the folders of a note that are still there."""
    places = [Path(place) for place in note.get("jobs", []) if Path(place).exists()]
    found = []
    for place in places:
        try:
            found += job_files.find([place])
        except RequestError:  # emptied since
            continue
    return found


def _listed(path: Path) -> dict[str, dict[str, Any]]:
    """Return what `jobs.csv` of a dispatcher's report lists, by job."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.DictReader(file) if row.get("file_name")]
    except OSError:
        return {}
    return {
        row["file_name"].removesuffix(".json"): {
            field: row[field].split("; ") for field in records.LISTS if row.get(field)
        }
        for row in rows
    }


def _row(
    folder: Path,
    name: str,
    state: states.State,
    job: JobFile | None,
    listed: Mapping[str, Any],
    given: Mapping[str, Any],
) -> Row:
    record = state.record
    if record is None:
        content = job.content if job is not None else listed
        record = {"parameters": plain(merged(content, given)), **records.about(name, content)}
    is_of_record = state.record is not None
    is_to_run = not is_of_record or bool(state.changed)
    claim: Claim | None = state.claim
    return Row(
        name,
        state.status,
        folder / name,
        asset_name=tuple(record.get("asset_name") or ()),
        asset_id=tuple(record.get("asset_id") or ()),
        docdb_record_id=tuple(record.get("docdb_record_id") or ()),
        s3_location=tuple(record.get("s3_location") or ()),
        file_location=tuple(record.get("file_location") or ()),
        subject=record.get("subject", ""),
        session=record.get("session", ""),
        project=record.get("project", ""),
        modality=record.get("modality", ""),
        group=record.get("group_metadata") or {},
        parameters=record.get("parameters") or {},
        values=record.get("values") or {} if state.status is Status.DONE else {},
        start=record.get("start", "") if claim is None else states.moment(claim.since),
        host=record.get("host", "") if claim is None else claim.host,
        seconds=record.get("seconds"),
        peak_memory=record.get("peak_memory_bytes"),
        attempts=claim.attempt if claim is not None else record.get("attempt", 1 if is_of_record else 0),
        reason=_KILLED if state.status is Status.FAILED and not is_of_record else record.get("reason", ""),
        where=record.get("where", ""),
        changed=state.changed,
        input_bytes=job.input_bytes if job is not None and is_to_run else record.get("input_bytes"),
    )


def _workers(rows: list[Row]) -> int:
    """Return how many jobs ran at the same time at most."""
    moments: list[tuple[float, int]] = []
    for row in rows:
        if row.start and row.seconds is not None:
            start = states.seconds_since_1970(row.start)
            moments += [(start, 1), (start + row.seconds, -1)]
    at_once = most = 0
    for _, change in sorted(moments):
        at_once += change
        most = max(most, at_once)
    return max(most, 1)


def failed_lines(results: Results, at_most: int) -> Iterator[str]:
    """Yield a line per failed job: its name, assets and reason."""
    failed = results.of(Status.FAILED)
    for row in failed[:at_most]:
        where = f" ({row.where})" if row.where else ""
        yield f"{row.job} ({'; '.join(row.asset_name)}): {row.reason}{where}"
    if len(failed) > at_most:
        yield f"… and {len(failed) - at_most:,} more"

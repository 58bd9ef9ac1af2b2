"""The tables of a report: `jobs.csv` and `skipped.csv`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence

from job_dispatch.jobs.building import Job
from job_dispatch.report.dispatched import Dispatch

JOB_COLUMNS = (
    "worker",
    "file name",
    "asset names",
    "asset ids",
    "record ids",
    "locations",
    "files",
    "bytes",
    "parameter set",
    "group",
    "subjects",
    "sessions",
    "projects",
)
SKIPPED_COLUMNS = ("name", "asset id", "record id", "location", "reason", "job")


def jobs_csv(run: Dispatch) -> str:
    """Return all jobs in the order of their worker folders; several values of a cell are separated by `; `."""
    return _csv(JOB_COLUMNS, (_cells(worker, job) for worker, jobs in run.folder_jobs() for job in jobs))


def skipped_csv(run: Dispatch) -> str:
    """Return all that no job analyses, and the jobs that are left out, in the order in which that was found out."""
    rows = ([one.name, one.asset_id, one.record_id, one.location, one.detail, one.job] for one in run.skipped)
    return _csv(SKIPPED_COLUMNS, (list(map(_no_formula, row)) for row in rows))


def as_json(value: object) -> str:
    """Return a value as JSON; nothing for None."""
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def writable(text: str) -> str:
    """Return text in which what UTF-8 cannot hold is escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def _cells(worker: str, job: Job) -> Iterator[str]:
    assets = job.group.assets
    yield worker
    yield f"{job.name}.json"
    yield _joined(asset.name for asset in assets)
    yield _joined(asset.asset_id for asset in assets)
    yield _joined(asset.record_id for asset in assets)
    yield _joined(asset.location for asset in assets)
    yield _joined(file.address for file in job.files or ())
    yield "" if job.size is None else str(job.size)
    yield _no_formula(as_json(job.parameter_set))
    yield _no_formula(as_json(job.group.metadata))
    yield _joined(asset.subject for asset in assets)
    yield _joined(asset.day for asset in assets)
    yield _joined(asset.project for asset in assets)


def _joined(values: Iterable[str]) -> str:
    return _no_formula("; ".join(values))


def _no_formula(cell: str) -> str:
    """Keep a spreadsheet from taking text for a formula."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def _csv(header: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    text = io.StringIO()
    # All cells are quoted: before 3.13 Python leaves one with a lone carriage return as it is, which breaks the row.
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return writable(text.getvalue())

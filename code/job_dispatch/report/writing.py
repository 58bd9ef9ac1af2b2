"""The report of a run: a page to look at, tables of its jobs and of what it left out, a manifest for machines."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from job_dispatch.jobs.building import Job
from job_dispatch.messages import DispatchError, ServiceError, logger
from job_dispatch.report import files, manifest, page
from job_dispatch.report.dispatched import Dispatch
from job_dispatch.report.files import FAILED, JOBS, MANIFEST, PAGE, SKIPPED

_JOB_COLUMNS = (
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
_SKIPPED_COLUMNS = ("name", "asset id", "record id", "location", "reason", "job")


def write(run: Dispatch, directory: Path, command: Sequence[str], version: str) -> None:
    """Write `report.html`, `jobs.csv`, `skipped.csv` and `manifest.json`; remove the report of an earlier failed run.

    Raises
    ------
    RequestError
        Files are in the way that no report has written.
    ServiceError
        They cannot be written.
    """
    finished = datetime.now(UTC)
    versions = manifest.versions(version)
    texts = {
        JOBS: _jobs_csv(run),
        SKIPPED: _skipped_csv(run),
        PAGE: page.render(page.of(run, versions, command, finished)),
    }
    hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    summed_up = manifest.of(run, command, versions, finished, hashes)
    texts[MANIFEST] = summed_up.model_dump_json(indent=4) + "\n"
    try:
        files.replace(directory, texts, run.settings.overwrite)
        if run.error is None:
            files.remove(directory / FAILED)
    except OSError as error:
        state = "nothing else is written" if run.settings.dry_run or run.error else "the jobs are written"
        raise ServiceError(
            f"--report_directory: {state}, but no report: cannot write into {directory}: {error.strerror}"
        ) from error
    number = len(run.skipped)
    logger.info(
        "report in %s%s",
        directory / PAGE,
        f"; {SKIPPED} in the same folder lists what was skipped ({number:,})" * bool(number),
    )


def write_failure(run: Dispatch, directory: Path, command: Sequence[str], version: str) -> None:
    """Write the report of a run that failed, and let its error name the file with all details.

    It has a folder of its own: the report of an earlier run, which `--exclude` may need, stays as it is.
    """
    error = run.error
    if error is None:
        return
    try:
        write(run, directory / FAILED, command, version)
    except DispatchError as unwritten:
        logger.warning("%s", unwritten.headline)
        return
    is_told_by_table = len(run.skipped) >= len(error.details)
    error.all_details_in = str(directory / FAILED / (SKIPPED if is_told_by_table else MANIFEST))


def _jobs_csv(run: Dispatch) -> str:
    """Return all jobs in the order of their worker folders; several values of a cell are separated by `; `."""
    return _csv(_JOB_COLUMNS, (_cells(worker, job) for worker, jobs in run.folder_jobs() for job in jobs))


def _skipped_csv(run: Dispatch) -> str:
    """Return all that no job analyses, and the jobs that are left out, in the order in which that was found out."""
    rows = ([one.name, one.asset_id, one.record_id, one.location, one.detail, one.job] for one in run.skipped)
    return _csv(_SKIPPED_COLUMNS, (list(map(_no_formula, row)) for row in rows))


def _as_json(value: object) -> str:
    """Return a value as JSON; nothing for None."""
    return "" if value is None else json.dumps(value, ensure_ascii=False)


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
    yield _no_formula(_as_json(job.parameter_set))
    yield _no_formula(_as_json(job.group.metadata))
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
    return manifest.writable(text.getvalue())

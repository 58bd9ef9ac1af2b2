"""The report of a run: a page to look at, tables of its jobs and of what it left out, a manifest for machines."""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
import io
import json
import platform
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from job_dispatch.frames import no_formula
from job_dispatch.jobs.building import Job
from job_dispatch.messages import DispatchError, ServiceError, logger
from job_dispatch.model import Asset, Skipped
from job_dispatch.report import files, page
from job_dispatch.report.dispatched import Dispatch
from job_dispatch.report.files import FAILED, JOBS, MANIFEST, PAGE, SKIPPED

_DEPENDENCIES = ("aind-data-access-api", "boto3", "obstore", "pandas", "pydantic")


def _of_assets(field: str) -> Callable[[str, Job], str]:
    return lambda _, job: "; ".join(getattr(asset, field) for asset in job.group.assets)


def _json(value: object) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False)


# What each cell of a table holds; several values are separated by `; `.
_JOB_COLUMNS: Mapping[str, Callable[[str, Job], str]] = {
    "worker": lambda worker, _: worker,
    "file name": lambda _, job: f"{job.name}.json",
    "asset names": _of_assets("name"),
    "asset ids": _of_assets("asset_id"),
    "record ids": _of_assets("record_id"),
    "locations": _of_assets("location"),
    "files": lambda _, job: "; ".join(file.address for file in job.files or ()),
    "bytes": lambda _, job: "" if job.size is None else str(job.size),
    "parameter set": lambda _, job: _json(job.parameter_set),
    "group": lambda _, job: _json(job.group.metadata),
    "subjects": _of_assets("subject"),
    "sessions": _of_assets("day"),
    "projects": _of_assets("project"),
}
_SKIPPED_COLUMNS = {
    "name": "name",
    "asset id": "asset_id",
    "record id": "record_id",
    "location": "location",
    "reason": "detail",
    "job": "job",
}


def write(run: Dispatch, directory: Path, command: Sequence[str], version: str) -> None:
    """Write `report.html`, `jobs.csv`, `skipped.csv` and `manifest.json`; remove the report of an earlier failed run.

    A RequestError is raised if files are in the way that no report has written, and a ServiceError if one cannot be
    written.
    """
    finished = datetime.now(UTC)
    dependencies = {name: importlib.metadata.version(name) for name in _DEPENDENCIES}
    versions = {"aind-analysis-job-dispatch": version, "python": platform.python_version(), **dependencies}
    jobs = ((worker, job) for worker, jobs in run.folder_jobs() for job in jobs)
    texts = {
        JOBS: _csv(_JOB_COLUMNS, ([cell(*one) for cell in _JOB_COLUMNS.values()] for one in jobs)),
        SKIPPED: _csv(
            _SKIPPED_COLUMNS, ([getattr(one, name) for name in _SKIPPED_COLUMNS.values()] for one in run.skipped)
        ),
        PAGE: page.render(page.of(run, versions, command, finished)),
    }
    texts[MANIFEST] = _manifest(run, command, versions, finished, texts)
    try:
        files.replace(directory, texts, run.settings.overwrite)
        if run.error is None:
            files.remove(directory / FAILED)
    except OSError as error:
        state = "nothing else is written" if run.settings.dry_run or run.error else "the jobs are written"
        raise ServiceError(
            f"--report_directory: {state}, but no report: cannot write into {directory}: {error.strerror}"
        ) from error
    skipped = f"; {SKIPPED} in the same folder lists what was skipped ({len(run.skipped):,})" if run.skipped else ""
    logger.info("report in %s%s", directory / PAGE, skipped)


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


def _manifest(
    run: Dispatch, command: Sequence[str], versions: Mapping[str, str], finished: datetime, texts: Mapping[str, str]
) -> str:
    """Return what a run did, for machines; `texts` are the files beside the manifest."""
    query, table, left_off, error = run.selection.query, run.selection.table, run.jobs.left_off, run.error
    content = {
        "is_preview": run.settings.dry_run,
        "error": error.headline if error else None,
        "error_details": error.details if error else [],
        "source": run.settings.source,
        "query": query.filter if query else None,
        "asset_ids": table.values("asset_id") if table else None,
        # How many are left after each step, and worker folders.
        "counts": {**dict(run.funnel), "worker folders": len(run.folders.shares)},
        "left_out": run.skipped_by_reason(),
        # Jobs that a cap left off: an upper bound, unless it is exact.
        "left_off": left_off.number if left_off else 0,
        "left_off_is_exact": left_off.is_exact if left_off else True,
        "assets": [
            _ids(one) | {"subject": one.subject, "session": one.day, "project": one.project} for one in run.analysed
        ],
        "skipped": [_ids(one) | {"reason": one.detail, "job": one.job} for one in run.skipped],
        "versions": versions,
        "command": command,
        "started": run.started.isoformat().replace("+00:00", "Z"),
        "finished": finished.isoformat().replace("+00:00", "Z"),
        "seconds": {step: round(seconds, 3) for step, seconds in run.seconds.items()},
        "sha256": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()},
    }
    text = json.dumps(content, indent=4, ensure_ascii=False)
    # What UTF-8 cannot hold is written as in the tables.
    return re.sub(r"[\ud800-\udfff]", lambda found: rf"\\u{ord(found[0]):x}", text) + "\n"


def _ids(one: Asset | Skipped) -> dict[str, str]:
    return {name: getattr(one, name) for name in ("name", "asset_id", "record_id", "location")}


def _csv(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    text = io.StringIO()
    # All cells are quoted: before 3.13 Python leaves one with a lone carriage return as it is, which breaks the row.
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(map(no_formula, row) for row in rows)
    return text.getvalue().encode("utf-8", "backslashreplace").decode()

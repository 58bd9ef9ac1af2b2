"""The report of a run: a page to look at, tables of its jobs and of what it left out, a manifest for machines."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from job_dispatch.messages import DispatchError, ServiceError, logger
from job_dispatch.report import files, manifest, page
from job_dispatch.report.dispatched import Dispatch
from job_dispatch.report.files import FAILED, JOBS, MANIFEST, PAGE, SKIPPED
from job_dispatch.report.manifest import Manifest, ManifestAsset, ManifestItem
from job_dispatch.report.tables import jobs_csv, skipped_csv, writable


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
        JOBS: jobs_csv(run),
        SKIPPED: skipped_csv(run),
        PAGE: page.render(page.of(run, versions, command, finished)),
    }
    hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    summed_up = _manifest(run, command, versions, finished, hashes)
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
        f"; {SKIPPED} beside it names all that was left out ({number:,})" * bool(number),
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


def _manifest(
    run: Dispatch, command: Sequence[str], versions: dict[str, str], finished: datetime, hashes: dict[str, str]
) -> Manifest:
    analysed = {asset.record_id: asset for job in run.jobs.planned for asset in job.group.assets}
    query, table = run.selection.query, run.selection.table
    left_off, error = run.jobs.left_off, run.error
    return Manifest(
        is_preview=run.settings.dry_run,
        error=None if error is None else writable(error.headline),
        error_details=[] if error is None else list(map(writable, error.details)),
        source=writable(run.settings.source),
        query=None if query is None else query.filter,
        asset_ids=None if table is None else table.values("asset_id"),
        counts={**dict(run.funnel), "worker folders": len(run.folders.shares)},
        left_out=dict(run.skipped_by_reason()),
        left_off=left_off.number if left_off else 0,
        left_off_is_exact=left_off is None or left_off.is_exact,
        assets=[
            ManifestAsset(
                name=writable(one.name),
                asset_id=one.asset_id,
                record_id=one.record_id,
                location=one.location,
                subject=writable(one.subject),
                session=writable(one.day),
                project=writable(one.project),
            )
            for one in analysed.values()
        ],
        skipped=[
            ManifestItem(
                name=writable(one.name),
                asset_id=writable(one.asset_id),
                record_id=writable(one.record_id),
                location=writable(one.location),
                reason=writable(one.detail),
                job=one.job,
            )
            for one in run.skipped
        ],
        versions=versions,
        command=[writable(argument) for argument in command],
        started=run.started,
        finished=finished,
        seconds={step: round(seconds, 3) for step, seconds in run.seconds.items()},
        sha256=hashes,
    )

"""The report of a run: a page to look at, tables of its jobs and of what it left out, a manifest for machines."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from job_dispatch.messages import DispatchError, ServiceError, logger
from job_dispatch.report import contents, files, manifest, page
from job_dispatch.report.account import Account
from job_dispatch.report.files import JOBS, MANIFEST, PAGE, SKIPPED
from job_dispatch.report.manifest import Manifest, ManifestAsset, ManifestItem
from job_dispatch.report.tables import jobs_csv, skipped_csv, writable


def write(account: Account, directory: Path, command: Sequence[str], version: str) -> None:
    """Write `report.html`, `jobs.csv`, `skipped.csv` and `manifest.json`.

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
        JOBS: jobs_csv(account),
        SKIPPED: skipped_csv(account),
        PAGE: page.render(contents.of(account, versions, command, finished)),
    }
    hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    summed_up = _manifest(account, command, versions, finished, hashes)
    texts[MANIFEST] = summed_up.model_dump_json(indent=4) + "\n"
    try:
        files.replace(directory, texts, account.settings.overwrite)
    except OSError as error:
        state = "nothing else is written" if account.settings.dry_run or account.error else "the jobs are written"
        raise ServiceError(
            f"--report_directory: {state}, but no report: cannot write into {directory}: {error.strerror}"
        ) from error
    number = len(account.left_out.items)
    logger.info(
        "report in %s%s",
        directory / PAGE,
        f"; {SKIPPED} beside it names all that was left out ({number:,})" * bool(number),
    )


def write_failure(account: Account, directory: Path, command: Sequence[str], version: str) -> None:
    """Write the report of a run that failed, and let its error say where the whole of it stands."""
    error = account.error
    if error is None:
        return
    try:
        write(account, directory, command, version)
    except DispatchError as unwritten:
        logger.warning("%s", unwritten.headline)
        return
    is_told_by_table = len(account.left_out.items) >= len(error.details)
    error.all_details_in = str(directory / (SKIPPED if is_told_by_table else MANIFEST))


def _manifest(
    account: Account, command: Sequence[str], versions: dict[str, str], finished: datetime, hashes: dict[str, str]
) -> Manifest:
    analysed = {asset.record_id: asset for job in account.plan.jobs for asset in job.group.assets}
    query, table = account.selection.query, account.selection.table
    left_off, error = account.plan.left_off, account.error
    return Manifest(
        is_preview=account.settings.dry_run,
        error=None if error is None else writable(error.headline),
        error_details=[] if error is None else list(map(writable, error.details)),
        source=writable(account.source),
        query=None if query is None else query.filter,
        asset_ids=None if table is None else table.values("asset_id"),
        counts={**dict(account.funnel), "worker folders": len(account.shares)},
        left_out=dict(account.left_out.counts()),
        left_off=left_off.number if left_off else 0,
        left_off_is_exact=left_off is None or left_off.is_exact,
        assets=[
            ManifestAsset(
                name=writable(one.name), asset_id=one.asset_id, record_id=one.record_id, location=one.location
            )
            for one in analysed.values()
        ],
        skipped=[
            ManifestItem(**{name: writable(value) for name, value in item._asdict().items() if name != "kind"})
            for item in account.left_out.items
        ],
        versions=versions,
        command=[writable(argument) for argument in command],
        started=account.started,
        finished=finished,
        seconds={step: round(seconds, 3) for step, seconds in account.seconds.items()},
        sha256=hashes,
    )

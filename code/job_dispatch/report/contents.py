"""What the report page tells of a run."""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from job_dispatch.jobs.building import Job
from job_dispatch.report import page
from job_dispatch.report.dispatched import Dispatch
from job_dispatch.report.tables import as_json

_ROWS_AT_MOST = 1_000
_TIME = "%Y-%m-%d %H:%M:%S UTC"


def of(run: Dispatch, versions: dict[str, str], command: Sequence[str], finished: datetime) -> page.Page:
    """Return what the page shows; of what can be very many, the first."""
    loads = [(worker, jobs, [job.size for job in jobs]) for worker, jobs in run.folder_jobs()]
    rows = list(itertools.islice(((worker, job) for worker, jobs, _ in loads for job in jobs), _ROWS_AT_MOST))
    skipped = run.skipped
    return page.Page(
        headline=run.headline,
        is_preview=run.settings.dry_run,
        finished=finished.strftime(_TIME),
        versions=versions,
        source=run.settings.source,
        selection=_selection(run),
        command=_shell(command),
        folders=[page.Folder(worker, len(jobs), _all(sizes)) for worker, jobs, sizes in loads],
        assets_by={
            "project": run.assets_by("project"),
            "subject": run.assets_by("subject"),
            "day": sorted(run.assets_by("day")),
        },
        funnel=run.funnel,
        skipped=[
            page.Skipped(one.known_as, one.detail, one.asset_id, one.record_id) for one in skipped[:_ROWS_AT_MOST]
        ],
        skipped_total=len(skipped),
        details=run.error.details if run.error else (),
        seconds=list(run.seconds.items()),
        folder=str(Path.cwd()),
        has_failed=run.error is not None,
        fixed_parameters=run.parameters.fixed or {},
        parameter_sets=run.parameters.sets,
        jobs=[_row(worker, job) for worker, job in rows],
        jobs_total=len(run.jobs.planned),
    )


def _row(worker: str, job: Job) -> page.JobRow:
    return page.JobRow(
        worker=worker,
        file=f"{job.name}.json",
        assets=tuple(asset.name for asset in job.group.assets),
        files=None if job.files is None else tuple(_within_assets(job, file.address) for file in job.files),
        size=job.size,
        parameter_set=as_json(job.parameter_set),
        group=as_json(job.group.metadata),
    )


def _within_assets(job: Job, address: str) -> str:
    """Return an address relative to the asset that it lies in."""
    for asset in job.group.assets:
        if address.startswith(f"{asset.location}/"):
            return address.removeprefix(f"{asset.location}/")
    return address


def _all(sizes: Sequence[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def _selection(run: Dispatch) -> str:
    query, table = run.selection.query, run.selection.table
    parts = [str(table)] if table is not None else []
    return "\nand ".join([*parts, *([json.dumps(query.filter, indent=4, ensure_ascii=False)] if query else [])])


def _shell(command: Sequence[str]) -> str:
    program, flags = shlex.join(command[:2]), map(shlex.quote, command[2:])
    return " \\\n    ".join([program, *flags])

"""The report of a run: a page to look at, a table of its jobs, and a manifest for machines."""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from job_dispatch.jobs.building import Job
from job_dispatch.jobs.output_folder import HIDDEN
from job_dispatch.messages import RequestError, ServiceError, logger
from job_dispatch.report.account import Account

if TYPE_CHECKING:
    from job_dispatch.report import page

_DEPENDENCIES = ("aind-data-access-api", "boto3", "obstore", "pandas", "pydantic")
_NAME_BYTES = 255
_ROWS_AT_MOST = 1_000
_TIME = "%Y-%m-%d %H:%M:%S UTC"


class ManifestItem(BaseModel):
    """What was left out, and why."""

    name: str = Field(description="Name of an asset, or a data asset id without a record")
    reason: str


class Manifest(BaseModel):
    """What a run did, for machines: `manifest.json`."""

    is_preview: bool = Field(description="Whether it was a dry run, which writes no jobs")
    source: str = Field(description="Where the metadata records came from")
    query: dict[str, Any] | None = Field(description="The query; null where a table alone selected")
    asset_ids: list[str] | None = Field(description="The data asset ids of the table; null where there is none")
    counts: dict[str, int] = Field(description="How many are left after each step, and worker folders")
    left_off: int = Field(description="Jobs that a cap left off; 0 where there is none or it cut nothing")
    left_off_is_exact: bool = Field(description="Otherwise `left_off` is an upper bound")
    skipped: list[ManifestItem]
    versions: dict[str, str] = Field(description="Of the dispatcher and its main dependencies")
    command: list[str] = Field(description="The command line, one element an argument")
    started: datetime
    finished: datetime
    jobs_csv_sha256: str = Field(description="SHA-256 of jobs.csv beside this file, in hexadecimal")


def check_directory(report: Path, output: Path) -> None:
    """Refuse a report directory in which a pipeline would take the report for work.

    Raises
    ------
    RequestError
        It is the output folder, contains it, or lies in it other than hidden and directly below.
    """
    inner, outer = (Path(os.path.realpath(path)) for path in (report, output))
    is_hidden = inner.parent == outer and inner.name.startswith(".") and not inner.name.startswith(HIDDEN)
    if not is_hidden and (inner.is_relative_to(outer) or outer.is_relative_to(inner)):
        raise RequestError(
            f"--report_directory: {report}: every visible entry of the output folder becomes a worker in a pipeline;"
            f" choose a folder apart from {output}, or a hidden one directly below it such as {output / '.report'}"
        )
    try:
        existing = next(path for path in (inner, *inner.parents) if os.path.lexists(path))
    except OSError as error:
        raise RequestError(f"--report_directory: {report}: {error.strerror}") from None
    if not existing.is_dir():
        raise RequestError(f"--report_directory: not a folder: {existing}")
    if not os.access(existing, os.W_OK | os.X_OK) or len(os.fsencode(inner.name)) > _NAME_BYTES:
        raise RequestError(f"--report_directory: {report} cannot be made or written; choose another folder")


def write(account: Account, directory: Path, command: Sequence[str], version: str, started: datetime) -> None:
    """Write `report.html`, `jobs.csv` and `manifest.json`.

    Raises
    ------
    ServiceError
        They cannot be written.
    """
    from job_dispatch.report import page

    finished = datetime.now(UTC)
    jobs_csv = _writable(_jobs_csv(account))
    versions = {"aind-analysis-job-dispatch": version, "python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in _DEPENDENCIES}
    manifest = Manifest(
        is_preview=account.settings.dry_run,
        source=_writable(account.source),
        query=None if account.selection.query is None else account.selection.query.filter,
        asset_ids=None if account.selection.table is None else account.selection.table.values("asset_id"),
        counts={**dict(account.funnel), "worker folders": len(account.shares)},
        left_off=account.plan.left_off.number if account.plan.left_off else 0,
        left_off_is_exact=account.plan.left_off is None or account.plan.left_off.is_exact,
        skipped=[ManifestItem(name=_writable(name), reason=_writable(reason)) for name, reason in account.skipped],
        versions=versions,
        command=[_writable(argument) for argument in command],
        started=started,
        finished=finished,
        jobs_csv_sha256=hashlib.sha256(jobs_csv.encode()).hexdigest(),
    )
    html = page.render(_page(account, versions, command, finished))
    texts = {"jobs.csv": jobs_csv, "manifest.json": manifest.model_dump_json(indent=4) + "\n", "report.html": html}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (directory / f".{name}.unfinished").write_text(text, encoding="utf-8")
        for name in texts:
            (directory / f".{name}.unfinished").replace(directory / name)
    except OSError as error:
        state = "nothing else is written" if account.settings.dry_run else "the jobs are written"
        raise ServiceError(
            f"--report_directory: {state}, but no report: cannot write into {directory}: {error.strerror}"
        ) from error
    logger.info("report in %s", directory / "report.html")


def _writable(text: str) -> str:
    """Return text in which what UTF-8 cannot hold is escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def _jobs_csv(account: Account) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["worker", "file name", "asset names", "files", "bytes", "parameter set", "group"])
    for worker, jobs in account.folder_jobs():
        for job in jobs:
            cells = [
                "; ".join(asset.name for asset in job.group.assets),
                "" if job.files is None else "; ".join(file.address for file in job.files),
            ]
            size = "" if job.size is None else str(job.size)
            more = [_json(job.parameter_set), _json(job.group.metadata)]
            writer.writerow([worker, f"{job.name}.json", *map(_no_formula, cells), size, *map(_no_formula, more)])
    return text.getvalue()


def _no_formula(cell: str) -> str:
    """Keep a spreadsheet from taking text for a formula."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def _json(value: object) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _page(account: Account, versions: dict[str, str], command: Sequence[str], finished: datetime) -> page.Page:
    from job_dispatch.report import page

    loads = [(worker, jobs, [job.size for job in jobs]) for worker, jobs in account.folder_jobs()]
    rows = [(worker, job) for worker, jobs, _ in loads for job in jobs]
    skipped = account.skipped
    return page.Page(
        headline=account.headline,
        is_preview=account.settings.dry_run,
        finished=finished.strftime(_TIME),
        versions=versions,
        source=account.source,
        selection=_selection(account),
        command=_shell(command),
        folders=[page.Folder(worker, len(jobs), _all(sizes)) for worker, jobs, sizes in loads],
        assets_by={
            "project": account.assets_by("project"),
            "subject": account.assets_by("subject"),
            "day": sorted(account.assets_by("day")),
        },
        funnel=account.funnel,
        skipped=[page.Skipped(name, reason) for name, reason in skipped[:_ROWS_AT_MOST]],
        skipped_total=len(skipped),
        fixed_parameters=account.parameters.fixed or {},
        parameter_sets=account.parameters.sets,
        jobs=[_row(worker, job) for worker, job in rows[:_ROWS_AT_MOST]],
        jobs_total=len(rows),
    )


def _row(worker: str, job: Job) -> page.JobRow:
    from job_dispatch.report import page

    return page.JobRow(
        worker=worker,
        file=f"{job.name}.json",
        assets=tuple(asset.name for asset in job.group.assets),
        files=None if job.files is None else tuple(_within_assets(job, file.address) for file in job.files),
        size=job.size,
        parameter_set=_json(job.parameter_set),
        group=_json(job.group.metadata),
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


def _selection(account: Account) -> str:
    query, table = account.selection.query, account.selection.table
    parts = [str(table)] if table is not None else []
    return "\nand ".join([*parts, *([json.dumps(query.filter, indent=4, ensure_ascii=False)] if query else [])])


def _shell(command: Sequence[str]) -> str:
    program, flags = shlex.join(command[:2]), map(shlex.quote, command[2:])
    return " \\\n    ".join([program, *flags])

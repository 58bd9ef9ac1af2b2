"""The manifest: what a run did, for machines."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field

from job_dispatch.report.dispatched import Dispatch

_DEPENDENCIES = ("aind-data-access-api", "boto3", "obstore", "pandas", "pydantic")


def writable(text: str) -> str:
    """Return text in which what UTF-8 cannot hold is escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


Text = Annotated[str, BeforeValidator(writable)]


class ManifestAsset(BaseModel):
    """A data asset that jobs analyse."""

    name: Text
    asset_id: Text = Field(description="Code Ocean data asset id; empty where the record has none")
    record_id: Text = Field(description="_id of its metadata record")
    location: Text
    subject: Text = Field(description="Empty if the record has none, as are session and project")
    session: Text = Field(description="Day of its session, or of its record, as YYYY-MM-DD")
    project: Text


class ManifestItem(BaseModel):
    """What was left out, and why, as far as it is known."""

    name: Text = Field(description="Name of an asset; empty where no record is known")
    asset_id: Text
    record_id: Text
    location: Text
    reason: Text
    job: str = Field(description="Name of the job, where it is a job that was left out; else empty")


class Manifest(BaseModel):
    """What a run did: `manifest.json`."""

    is_preview: bool = Field(description="Whether it was a dry run, which writes no jobs")
    error: str | None = Field(description="What ended the run before any job was written; null where it went well")
    error_details: list[Text]
    source: Text = Field(description="Where the metadata records came from")
    query: dict[str, Any] | None = Field(description="The query; null where assets were selected by a table alone")
    asset_ids: list[str] | None = Field(description="The data asset ids of the table; null without a table")
    counts: dict[str, int] = Field(description="How many are left after each step, and worker folders")
    left_out: dict[str, int] = Field(description="How many assets, rows or jobs were left out, by kind")
    left_off: int = Field(description="Jobs that a cap left off; 0 where there is none or it cut nothing")
    left_off_is_exact: bool = Field(description="Otherwise `left_off` is an upper bound")
    assets: list[ManifestAsset] = Field(description="What is analysed, in the order of the jobs")
    skipped: list[ManifestItem]
    versions: dict[str, str] = Field(description="Of the dispatcher and its main dependencies")
    command: list[Text] = Field(description="The command line, one element an argument")
    started: datetime
    finished: datetime
    seconds: dict[str, float] = Field(description="How long each step took")
    sha256: dict[str, str] = Field(description="SHA-256 of each file that was written beside this one, in hexadecimal")


def versions(own: str) -> dict[str, str]:
    """Return the versions of the dispatcher, of Python and of the main dependencies."""
    dependencies = {name: importlib.metadata.version(name) for name in _DEPENDENCIES}
    return {"aind-analysis-job-dispatch": own, "python": platform.python_version(), **dependencies}


def of(
    run: Dispatch, command: Sequence[str], versions: dict[str, str], finished: datetime, hashes: dict[str, str]
) -> Manifest:
    """Return what a run did; `hashes` are those of the files beside the manifest."""
    analysed = {asset.record_id: asset for job in run.jobs.planned for asset in job.group.assets}
    query, table = run.selection.query, run.selection.table
    left_off, error = run.jobs.left_off, run.error
    return Manifest(
        is_preview=run.settings.dry_run,
        error=None if error is None else writable(error.headline),
        error_details=[] if error is None else list(error.details),
        source=run.settings.source,
        query=None if query is None else query.filter,
        asset_ids=None if table is None else table.values("asset_id"),
        counts={**dict(run.funnel), "worker folders": len(run.folders.shares)},
        left_out=dict(run.skipped_by_reason()),
        left_off=left_off.number if left_off else 0,
        left_off_is_exact=left_off is None or left_off.is_exact,
        assets=[
            ManifestAsset(
                name=one.name,
                asset_id=one.asset_id,
                record_id=one.record_id,
                location=one.location,
                subject=one.subject,
                session=one.day,
                project=one.project,
            )
            for one in analysed.values()
        ],
        skipped=[
            ManifestItem(
                name=one.name,
                asset_id=one.asset_id,
                record_id=one.record_id,
                location=one.location,
                reason=one.detail,
                job=one.job,
            )
            for one in run.skipped
        ],
        versions=versions,
        command=list(command),
        started=run.started,
        finished=finished,
        seconds={step: round(seconds, 3) for step, seconds in run.seconds.items()},
        sha256=hashes,
    )

"""The manifest: what a run did, for machines."""

from __future__ import annotations

import importlib.metadata
import platform
from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

_DEPENDENCIES = ("aind-data-access-api", "boto3", "obstore", "pandas", "pydantic")


class ManifestAsset(BaseModel):
    """A data asset that jobs analyse."""

    name: str
    asset_id: str = Field(description="Code Ocean data asset id; empty where the record has none")
    record_id: str = Field(description="_id of its metadata record")
    location: str
    subject: str = Field(description="Empty if the record has none, as are session and project")
    session: str = Field(description="Day of its session, or of its record, as YYYY-MM-DD")
    project: str


class ManifestItem(BaseModel):
    """What was left out, and why, as far as it is known."""

    name: str = Field(description="Name of an asset; empty where no record is known")
    asset_id: str
    record_id: str
    location: str
    reason: str
    job: str = Field(description="Name of the job, where it is a job that was left out; else empty")


class Manifest(BaseModel):
    """What a run did: `manifest.json`."""

    is_preview: bool = Field(description="Whether it was a dry run, which writes no jobs")
    error: str | None = Field(description="What ended the run before any job was written; null where it went well")
    error_details: list[str]
    source: str = Field(description="Where the metadata records came from")
    query: dict[str, Any] | None = Field(description="The query; null where assets were selected by a table alone")
    asset_ids: list[str] | None = Field(description="The data asset ids of the table; null without a table")
    counts: dict[str, int] = Field(description="How many are left after each step, and worker folders")
    left_out: dict[str, int] = Field(description="How many assets, rows or jobs were left out, by kind")
    left_off: int = Field(description="Jobs that a cap left off; 0 where there is none or it cut nothing")
    left_off_is_exact: bool = Field(description="Otherwise `left_off` is an upper bound")
    assets: list[ManifestAsset] = Field(description="What is analysed, in the order of the jobs")
    skipped: list[ManifestItem]
    versions: dict[str, str] = Field(description="Of the dispatcher and its main dependencies")
    command: list[str] = Field(description="The command line, one element an argument")
    started: datetime
    finished: datetime
    seconds: dict[str, float] = Field(description="How long each step took")
    sha256: dict[str, str] = Field(description="SHA-256 of each file that was written beside this one, in hexadecimal")


def versions(own: str) -> dict[str, str]:
    """Return the versions of the dispatcher, of Python and of the main dependencies."""
    dependencies = {name: importlib.metadata.version(name) for name in _DEPENDENCIES}
    return {"aind-analysis-job-dispatch": own, "python": platform.python_version(), **dependencies}

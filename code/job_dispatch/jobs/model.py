"""The job file: what one analysis has to do."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

# They do not change what a job computes.
_NOT_OF_THE_INPUT = ("query", "analysis_code")
# They do not decide a job's name.
_NOT_OF_THE_WORK = (
    "asset_id",
    "docdb_record_id",
    "query",
    "analysis_code",
    "subject",
    "session",
    "project",
    "modality",
    "file_version",
)


class AnalysisDispatchModel(BaseModel):
    """One job, as the analysis wrapper reads it.

    Lists that describe assets have one entry per asset, in the same order. The wrapper loads the file
    with the model of the same name in the PyPI package `analysis-pipeline-utils`.
    """

    model_config = ConfigDict(frozen=True)

    s3_location: list[str] = Field(description="Base location of each asset: s3://bucket/prefix or file:///folder")
    asset_id: list[str] = Field(
        default_factory=list,
        description='Code Ocean data asset id of each asset; "" where its record has none',
    )
    asset_name: list[str] = Field(description="Name of each asset")
    docdb_record_id: list[str] = Field(description="_id of each asset's metadata record")
    asset_role: list[str] | None = Field(
        default=None, description="derived or raw for each asset, if pairs were asked for"
    )
    subject: list[str] | None = Field(default=None, description="Subject of each asset")
    session: list[str] | None = Field(default=None, description="Start of the session of each asset")
    project: list[str] | None = Field(default=None, description="Project of each asset")
    modality: list[list[str]] | None = Field(default=None, description="Abbreviated modalities of each asset")
    file_location: list[str] | None = Field(default=None, description="Files to analyse, if files were asked for")
    file_version: list[dict[str, Any] | None] | None = Field(
        default=None,
        description="What is known of each file's version: size and etag in S3, size and modified locally, else null",
    )
    fixed_parameters: dict[str, Any] | None = Field(default=None, description="Parameters that every job shares")
    distributed_parameters: dict[str, Any] | None = Field(
        default=None, description="The one parameter set that this job runs"
    )
    group_metadata: dict[str, Any] | None = Field(
        default=None, description="Fields and values that the assets of a group share; dots in names as __"
    )
    query: str | None = Field(default=None, description="Metadata query that selected the assets, as compact JSON")
    analysis_code: dict[str, Any] | None = Field(
        default=None, description="Code that will run the job, and the fixed parameters where the wrapper takes them"
    )

    @field_validator("distributed_parameters", mode="before")
    @classmethod
    def _accept_list_of_one(cls, value: object) -> object:
        """Early job files hold the set as a list of one."""
        if isinstance(value, list) and len(value) == 1:
            return value[0]
        return value

    def to_json(self) -> str:
        """Return the text of the job file: JSON indented by 4, without keys that are null."""
        # `exclude_none` would leave out nulls inside parameters as well.
        return self.model_dump_json(indent=4, exclude={name for name, value in self if value is None})

    def uuid(self) -> uuid.UUID:
        """Return the job's name: a UUID version 5 of the work alone: assets, files, parameters and group.

        Not of the query, nor of the code: the same work that is asked for in other words has the same name. Assets
        count by location and name, since one may have several ids.
        """
        content = {name: value for name, value in self if value is not None and name not in _NOT_OF_THE_WORK}
        return uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(content, sort_keys=True, separators=(",", ":")))


def fingerprint(content: Mapping[str, Any]) -> str:
    """Return the hash of what in a job file decides the result of the job, the versions of its files included."""
    decisive = {name: value for name, value in content.items() if name not in _NOT_OF_THE_INPUT}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

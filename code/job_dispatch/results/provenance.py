"""`processing.json`: how a result was made, as `Processing` of aind-data-schema 2.x describes it."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from job_dispatch.results import analysis

_DESCRIBED_BY = "https://raw.githubusercontent.com/AllenNeuralDynamics/aind-data-schema/main/src/aind_data_schema/core/processing.py"
_GIT_SECONDS = 10


def code(path: Path) -> dict[str, str]:
    """Return the address and the version of an analysis file.

    In a Git repository they are the address of its origin, without credentials, and the commit, if the file is as
    committed; else the file and its SHA-256.
    """
    url, version = path.resolve().as_uri(), f"sha256:{analysis.sha256(path)}"
    if origin := _git(path, "remote", "get-url", "origin"):
        url = re.sub(r"(?<=://)[^/@]*@", "", origin)
    commit = _git(path, "rev-parse", "HEAD")
    if commit and _git(path, "status", "--porcelain", "--", path.name) == "" and _git(path, "ls-files", path.name):
        version = commit
    return {"url": url, "version": version}


def _git(path: Path, *arguments: str) -> str | None:
    """Return what Git prints in the folder of a file, None if it fails."""
    command = ["git", "-C", str(path.resolve().parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def processing(record: Mapping[str, Any], path: Path, code: Mapping[str, str]) -> dict[str, Any]:
    """Return the description of the one process that made a result.

    Parameters
    ----------
    record : mapping
        The record of the job.
    path : pathlib.Path
        The analysis file.
    code : mapping
        Its address and version.
    """
    inputs = record.get("file_location") or record.get("s3_location") or ()
    return {
        "object_type": "Processing",
        "describedBy": _DESCRIBED_BY,
        "schema_version": "2.0.0",
        "data_processes": [
            {
                "object_type": "Data process",
                "process_type": "Analysis",
                "name": path.stem,
                "stage": "Analysis",
                "code": {
                    "object_type": "Code",
                    "url": code["url"],
                    "name": path.name,
                    "version": code["version"],
                    "run_script": path.name,
                    "language": "Python",
                    "language_version": platform.python_version(),
                    "input_data": [{"object_type": "Data asset", "url": location} for location in inputs],
                    "parameters": record["parameters"],
                },
                "experimenters": [],
                "start_date_time": record["start"],
                "end_date_time": record["end"],
                "output_parameters": record["values"],
            }
        ],
    }

"""`processing.json` is what the released schema of the Allen Institute reads."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from tests.conftest import CODE
from tests.results.conftest import Desk

# Environments of the released wrappers, with schemas 2.6.0 and 2.9.2; `make test` sets them up.
SCHEMAS = sorted(CODE.parent.glob(".venv-wrapper-*/bin/python"))
READ = """
import sys
from aind_data_schema.core.processing import Processing
[process] = Processing.model_validate_json(open(sys.argv[1]).read()).data_processes
print(process.code.url, process.code.version, process.code.input_data[0].url, process.code.parameters.model_dump())
print((process.end_date_time - process.start_date_time).total_seconds() > 0, process.process_type, process.name)
"""


@pytest.mark.skipif(not SCHEMAS, reason="no environment with a released schema; `make test` sets it up")
@pytest.mark.parametrize("python", SCHEMAS, ids=lambda path: path.parent.parent.name)
@pytest.mark.long
def test_the_released_schema_reads_where_a_result_comes_from(desk: Desk, python: Path) -> None:
    job = desk.job("a", distributed_parameters={"threshold": 0.5}, file_location=["s3://bucket/a/x.nwb"])
    assert desk.run().code == 0
    done = subprocess.run(
        [python, "-W", "ignore", "-c", READ, desk.place(job) / "processing.json"],
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = done.stdout.splitlines()
    version = "sha256:" + hashlib.sha256((desk.folder / "analysis.py").read_bytes()).hexdigest()
    url = (desk.folder / "analysis.py").as_uri()
    assert first == f"{url} {version} s3://bucket/a/x.nwb {{'how': '', 'threshold': 0.5}}"
    assert second == "True Analysis analysis"


def test_an_analysis_in_a_git_repository_is_named_by_its_address_without_credentials_and_its_commit(
    desk: Desk,
) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        command = ["git", "-C", str(desk.folder), *identity, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "-q")
    git("remote", "add", "origin", "https://me:secret@example.org/lab/analysis.git")
    git("add", "analysis.py")
    git("commit", "-qm", "first")
    job = desk.job("a")
    assert desk.run().code == 0
    [process] = json.loads((desk.place(job) / "processing.json").read_text())["data_processes"]
    assert process["code"]["url"] == "https://example.org/lab/analysis.git"
    assert process["code"]["version"] == git("rev-parse", "HEAD")

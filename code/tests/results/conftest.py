"""A desk with jobs and an analysis, on which the verbs are run as commands."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

COMMAND = (sys.executable, "-c", "from job_dispatch.main import run; run()")
# What each job does stands in its parameter `how`, which is Python code.
ANALYSIS = """
import os, signal, subprocess, sys, time
from pathlib import Path

def analyse(job, parameters, results):
    with open("started.txt", "a") as file:
        file.write(job.asset_name[0] + "\\n")
    values = {"letters": len(job.asset_name[0])}
    exec(parameters.get("how", ""))
    return values
"""


@dataclass
class Ended:
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """Its line of an error."""
        [line] = [line for line in self.stderr.splitlines() if line.startswith("error: ")]
        return line


@dataclass(frozen=True)
class Desk:
    """A folder with `analysis.py`, and jobs in `results/0`."""

    folder: Path

    def job(self, asset: str, how: str = "", **fields: Any) -> str:
        """Write the file of a job and return its name."""
        return write_job(self.folder / "results" / "0", asset, how, **fields)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=self.folder,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def call(self, *arguments: str) -> Ended:
        return ended(self.start(*arguments))

    def run(self, *arguments: str) -> Ended:
        """Run the jobs in `results`."""
        return self.call("run", "analysis.py", "results", *arguments)

    def status(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self.call("status", "--json").stdout)
        return loaded

    def counts(self) -> dict[str, int]:
        """Return how many jobs have each status, without those of which there are none."""
        status = self.status()
        return {name: status[name] for name in ("done", "failed", "running", "left") if status[name]}

    def place(self, job: str) -> Path:
        return self.folder / "analysis_results" / job

    def record(self, job: str) -> dict[str, Any]:
        """Return the one record of a job."""
        [path] = [self.place(job) / name for name in ("job.json", "failed.json") if (self.place(job) / name).exists()]
        loaded: dict[str, Any] = json.loads(path.read_text())
        return loaded

    def log(self, job: str) -> str:
        return (self.place(job) / "log.txt").read_text()

    def started(self) -> list[str]:
        """Return the assets whose analysis was started, in that order."""
        path = self.folder / "started.txt"
        return path.read_text().splitlines() if path.exists() else []

    def table(self) -> list[dict[str, str]]:
        with (self.folder / "analysis_results" / "table.csv").open(newline="") as file:
            return list(csv.DictReader(file))


def write_job(folder: Path, asset: str, how: str = "", **fields: Any) -> str:
    """Write the file of a job that does what some Python code says, and return its name."""
    name = str(uuid.uuid5(uuid.NAMESPACE_URL, asset))
    content = {
        "s3_location": [f"file:///data/{asset}"],
        "asset_name": [asset],
        "docdb_record_id": [f"id-{asset}"],
        "fixed_parameters": {"how": how},
        **fields,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(content))
    return name


def ended(process: subprocess.Popen[str]) -> Ended:
    stdout, stderr = process.communicate(timeout=120)
    assert "Traceback" not in stderr
    return Ended(process.returncode, stdout, stderr)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    (tmp_path / "analysis.py").write_text(ANALYSIS)
    return Desk(tmp_path)

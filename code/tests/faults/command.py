"""The command that the tests of this folder run, and what a user sees of a run.

By default it is that of this checkout. `FAULTS_COMMAND` names the interpreter and the script of another version, such
as `/old/.venv/bin/python /old/code/run_capsule.py`. So each test judges the fault alone (jobs that are missing, a
traceback, no end), and neither words nor flags that an older version lacks.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conftest import CODE
from tests.results.conftest import write_job

Record = dict[str, Any]
COMMAND = shlex.split(os.environ.get("FAULTS_COMMAND", "")) or [sys.executable, str(CODE / "run_capsule.py")]
# The checkout that the script is in.
ROOT = Path(COMMAND[-1]).resolve().parent.parent
# How long a run may take that ends; the machine may be busy.
SECONDS = 120
# What a user sees of an exception that nobody has expected.
_CRASH = re.compile(r"Traceback|panicked|never retrieved|unexpected [A-Z]\w+:.*")
# Executed before the script. Storage is asked once, since several tries take half a minute and are no part of any
# promise here; and a log shows every second how far a listing is.
_IMPATIENT = """
from job_dispatch import messages
from job_dispatch.storage import access
access.TRIES, access.RETRY_SECONDS = 1, 3
messages._SECONDS_BETWEEN_LINES = 1.0
"""


@dataclass(frozen=True)
class Ended:
    """A run that has ended, or was ended since it had not by itself."""

    code: int | None
    """None: it had not ended in time."""
    stdout: str
    stderr: str
    jobs: list[dict[str, Any]]
    """Contents of all job files."""
    names: list[str]
    """Names of all jobs, sorted."""

    @property
    def files(self) -> set[str]:
        """The files of all jobs."""
        return {file for job in self.jobs for file in job.get("file_location") or ()}

    @property
    def assets(self) -> list[str]:
        """The names of the assets that have a job, sorted; once for each job."""
        return sorted(name for job in self.jobs for name in job["asset_name"])

    @property
    def locations(self) -> list[str]:
        """The locations of the assets that have a job, sorted."""
        return sorted(place for job in self.jobs for place in job["s3_location"])

    @property
    def error(self) -> str:
        """Its line of an error; empty where it has none."""
        return next((line for line in self.stderr.splitlines() if line.startswith("error: ")), "")


@dataclass(frozen=True)
class Desk:
    """A folder with `data` and `results`, and a catalog of records beside them."""

    folder: Path
    environment: dict[str, str]
    before: list[str] = field(default_factory=list)
    """Lines of Python that are executed before the command."""

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def put(self, path: str, content: str | bytes = "x") -> Path:
        """Write a file below the input directory."""
        place = self.data / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)
        return place

    def catalog(self, records: Iterable[Record]) -> Path:
        path = self.folder / "catalog.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        return path

    def be_impatient(self) -> None:
        """Let the command ask storage once."""
        self.before.append(_IMPATIENT)

    def _script(self) -> Path:
        """Return the command's script, or one that executes some lines before it."""
        script = Path(COMMAND[-1])
        if not self.before:
            return script
        patched = self.folder / "before.py"
        beginning = f"import runpy, sys\nsys.path.insert(0, {str(script.parent)!r})\n"
        end = f"runpy.run_path({str(script)!r}, run_name='__main__')\n"
        patched.write_text("\n".join([beginning, *self.before, end]), encoding="utf-8")
        return patched

    def words(self, records: Iterable[Record] | None, *flags: str) -> list[str]:
        """Return the command on a catalog of these records, or on DocDB."""
        source = [] if records is None else [f"--metadata_catalog={self.catalog(records)}"]
        places = [f"--input_directory={self.data}", f"--output_directory={self.results}"]
        return [*COMMAND[:-1], str(self._script()), *places, *source, *flags]

    def start(
        self, records: Iterable[Record] | None, *flags: str, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start the command; all records are wanted unless a flag selects some."""
        selects = any(flag.startswith(("--docdb_query", "--use_data_asset_csv")) for flag in flags)
        words = self.words(records, *([] if selects else ["--docdb_query={}"]), *flags)
        return self._start(words, env or {})

    def run(
        self,
        records: Iterable[Record] | None,
        *flags: str,
        env: Mapping[str, str] | None = None,
        seconds: float = SECONDS,
    ) -> Ended:
        """Run the command; one that takes longer than some seconds is killed."""
        return self.ended(self.start(records, *flags, env=env), seconds)

    def ended(self, process: subprocess.Popen[str], seconds: float = SECONDS) -> Ended:
        """Wait for the end of a run, and read what it left."""
        code: int | None
        try:
            stdout, stderr = process.communicate(timeout=seconds)
            code = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            stdout, stderr = process.communicate()
            code = None
        found = sorted(self.results.glob("[0-9]*/*.json"))
        jobs = [json.loads(path.read_text(encoding="utf-8")) for path in found]
        return Ended(code, stdout, stderr, jobs, sorted(path.stem for path in found))

    def job(self, asset: str, how: str = "", **fields: Any) -> str:
        """Write a job for the analysis of an asset, and return its name."""
        return write_job(self.results / "0", asset, how, **fields)

    def write_analysis(self) -> Path:
        """Write the file of the analysis."""
        path = self.folder / "analysis.py"
        path.write_text(_ANALYSIS, encoding="utf-8")
        return path

    def start_analysis(self) -> subprocess.Popen[str]:
        """Start the analysis of the jobs, which leaves its results in the folder `analysis_results`."""
        # Version 0.2.0 has a script for it, which takes a folder of jobs.
        script = ROOT / "pipeline" / "run_analysis.py"
        words = [COMMAND[0], str(script)] if script.exists() else [*COMMAND, "run"]
        return self._start([*words, str(self.write_analysis()), str(self.results / "0")], {})

    def analyse(self) -> Ended:
        """Run the analysis of the jobs to its end."""
        return self.ended(self.start_analysis())

    def collect(self) -> Ended:
        """Collect the results of all jobs in `table.csv`."""
        script = ROOT / "pipeline" / "collect.py"
        old = [COMMAND[0], str(script), "analysis_results"]
        return self.ended(self._start(old if script.exists() else [*COMMAND, "collect"], {}))

    def done(self) -> list[str]:
        """Return the names of the jobs that are done, sorted."""
        return sorted(path.parent.name for path in self.folder.glob("analysis_results/*/job.json"))

    def table(self) -> list[list[str]]:
        """Return the rows of the table of all jobs, its header first."""
        [path] = [path for name in ("", "analysis_results") for path in (self.folder / name).glob("table.csv")]
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.reader(file))

    def _start(self, words: Sequence[str], changes: Mapping[str, str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            words,
            env={**self.environment, **changes},
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.folder,
            start_new_session=True,
        )


# What each job does is its parameter `how`, which is Python code.
_ANALYSIS = """
import os, sys

def analyse(job, parameters, results):
    values = {"letters": len(job.asset_name[0])}
    exec(parameters.get("how", ""))
    return values
"""


def assert_no_crash(ended: Ended) -> None:
    """A run ends in time, and a user sees no exception."""
    assert ended.code is not None, f"it does not end:\n{ended.stderr[-2000:]}"
    assert not _CRASH.search(ended.stderr), ended.stderr[-2000:]


def assert_refused(ended: Ended) -> None:
    """A run ends with a sentence, and without a job."""
    assert_no_crash(ended)
    assert ended.code != 0
    assert ended.error, ended.stderr
    assert ended.jobs == []


def assert_whole(ended: Ended, files: Iterable[str]) -> None:
    """A run ends well, and its jobs have exactly these files."""
    assert_no_crash(ended)
    assert ended.code == 0, ended.stderr
    assert ended.files == set(files), ended.stderr


def assert_whole_or_refused(ended: Ended, files: Iterable[str]) -> None:
    """The promise of a listing: all jobs, or none and a sentence."""
    if ended.code == 0:
        assert_whole(ended, files)
    else:
        assert_refused(ended)


def assert_one_is_skipped(ended: Ended, asset: str, others: Iterable[str]) -> None:
    """One failure ended one asset, which the log names, and all others have jobs."""
    assert_no_crash(ended)
    assert ended.code == 0, ended.stderr
    assert sorted(set(ended.assets)) == sorted(others)
    assert asset in ended.stderr

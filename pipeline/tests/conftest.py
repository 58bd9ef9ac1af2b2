"""Real runs of the pipeline with Nextflow, in labs of a catalog, parameters and a small analysis."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster
from cluster import running as running_cluster
from packages import MissingError

TESTS = Path(__file__).resolve().parent
PIPELINE = TESTS.parent
ROOT = PIPELINE.parent
EXAMPLE = ROOT / "data" / "example"
# A run takes seconds; this only ends what hangs, before pytest itself does.
SECONDS_AT_MOST = 500
# Nextflow asks Slurm as often as tests need; users leave that alone.
ON_SLURM = """
process.queue = 'test'
executor {
    pollInterval = '300 ms'
    queueStatInterval = '1 sec'
    exitReadTimeout = '10 sec'
    submitRateLimit = '100/1sec'
}
"""

# Returns something of each job, and goes wrong as the environment says: WRONG is `asset=how`, several with blanks.
ANALYSIS = """
import os
import signal


def analyse(job, parameters, results):
    (results / "picture.txt").write_text(job.asset_name[0])
    how = dict(pair.split("=") for pair in os.environ.get("WRONG", "").split()).get(job.asset_name[0])
    if how == "raise":
        raise ValueError("no licks in this session")
    if how == "exit":
        raise SystemExit("the analysis left by itself")
    if how == "list":
        return [1, 2]
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return {"letters": len(job.asset_name[0]), "doubled": 2 * parameters.get("threshold", 0)}


def summarise(jobs, results):
    if os.environ.get("WRONG_SUMMARY"):
        raise KeyError("letters")
    (results / "summary.txt").write_text(" ".join(job["asset_name"][0] for job in jobs))
"""


@dataclass(frozen=True)
class Task:
    """One line of Nextflow's trace."""

    process: str
    tag: str
    status: str
    exit: str


@dataclass(frozen=True)
class Finished:
    """What a run of Nextflow left."""

    returncode: int
    output: str
    tasks: Sequence[Task]

    def ran(self, *processes: str) -> list[Task]:
        """Return the tasks of these processes that were not cached."""
        return [task for task in self.tasks if task.process in processes and task.status != "CACHED"]

    @property
    def analysed(self) -> list[Task]:
        """All tasks that ran an analysis."""
        return self.ran("ANALYSE", "ANALYSE_GROUP")

    @property
    def last_line(self) -> str:
        """The last line, but for a warning that Nextflow may print about its own end."""
        return [line for line in self.output.rstrip().splitlines() if not line.startswith("WARN:")][-1]


@dataclass
class Lab:
    """A folder in which somebody starts the pipeline: a catalog, parameters, an analysis."""

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    engine: Sequence[str] = field(default_factory=lambda: os.environ.get("PIPELINE_ENGINE", "").split())
    """Options of Nextflow that choose where tasks run."""

    def __post_init__(self) -> None:
        (self.folder / "input").mkdir(parents=True)
        (self.folder / "analysis.py").write_text(ANALYSIS)
        self.parameters({"threshold": 1}, {"threshold": 2})

    def assets(self, *names: str) -> None:
        """Make the catalog one of these assets."""
        records = [{"_id": f"id of {name}", "name": name, "location": f"assets/{name}"} for name in names]
        (self.folder / "input" / "catalog.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in records))

    def parameters(self, *sets: Mapping[str, Any]) -> None:
        """Make these the distributed parameters."""
        text = json.dumps({"fixed_parameters": {"cutoff": 0.5}, "distributed_parameters": sets})
        (self.folder / "input" / "analysis_parameters.json").write_text(text)

    def command(self, *flags: str, query: str | None = "{}") -> list[str]:
        """Return the command of a run over what the query selects from the catalog."""
        given = ["--input_files=input", "--analysis=analysis.py", "--metadata_catalog=catalog.jsonl"]
        return [
            *(str(TESTS / "nextflow"), "run", str(PIPELINE / "main.nf"), "-ansi-log", "false", *self.engine, *given),
            *([] if query is None else [f"--docdb_query={query}"]),
            *flags,
        ]

    def run(self, *flags: str, query: str | None = "{}", **environment: str) -> Finished:
        """Run the pipeline, going on from earlier runs in this lab."""
        return self.nextflow(self.command("-resume", *flags, query=query), **environment)

    def nextflow(self, command: Sequence[str], **environment: str) -> Finished:
        """Run a command of Nextflow and read its trace."""
        trace = self.folder / f"trace-{time.monotonic_ns()}.txt"
        returncode, output = ended([*command, "-with-trace", str(trace)], self.folder, self.variables(**environment))
        return Finished(returncode, output, tasks(trace))

    def dispatch(self, *arguments: str, returncode: int = 0) -> str:
        """Run a verb of `job-dispatch` in the lab and return what it prints."""
        command = [str(Path(sys.executable).parent / "job-dispatch"), *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=self.variables(), capture_output=True, text=True, timeout=120
        )
        assert done.returncode == returncode, done.stderr
        return done.stdout

    def variables(self, **environment: str) -> dict[str, str]:
        """Return the environment of a run, in which `python` is this interpreter."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "LC_ALL": "C.UTF-8", **self.environment, **environment}

    @property
    def results(self) -> Path:
        return self.folder / "results"

    @property
    def all_rows(self) -> list[dict[str, str]]:
        """The rows of the table."""
        with (self.results / "table.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    @property
    def rows(self) -> list[dict[str, str]]:
        """The rows of the table of jobs that are done."""
        return [row for row in self.all_rows if row["status"] == "done"]

    @property
    def reasons(self) -> dict[str, str]:
        """Why jobs failed, by asset, as the table tells it."""
        return {row["asset_name"]: row["reason"] for row in self.all_rows if row["status"] == "failed"}

    @property
    def analysed_assets(self) -> list[str]:
        """The assets of the jobs that are done, one per job."""
        return [row["asset_name"] for row in self.rows]

    @property
    def published(self) -> set[str]:
        """The names of the jobs whose results are there."""
        return {path.name for path in (self.results / "analysis_results").iterdir() if path.is_dir()}


def ended(command: Sequence[str], folder: Path, environment: Mapping[str, str], **user: Any) -> tuple[int, str]:
    """Run a command and return exit code and output; what takes too long is ended with all that it started."""
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **user,
    ) as process:
        try:
            output, _ = process.communicate(timeout=SECONDS_AT_MOST)
        except BaseException:
            process.terminate()  # Nextflow then ends what it has submitted
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=30)
            process.kill()
            raise
    return process.returncode, output


def tasks(trace: Path) -> list[Task]:
    if not trace.exists():
        return []
    with trace.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [Task(row["process"], row["tag"], row["status"], row["exit"]) for row in rows]


def succeeded(finished: Finished) -> Finished:
    assert finished.returncode == 0, finished.output
    return finished


def failed(finished: Finished) -> Finished:
    assert finished.returncode == 1, finished.output
    return finished


@pytest.fixture(scope="session", autouse=True)
def nextflow() -> None:
    """Have Nextflow ready, and the dispatcher where a run finds it."""
    assert (Path(sys.executable).parent / "job-dispatch").exists(), "install the project: pip install -e code[dev]"
    # Tests that run side by side fetch it once.
    with Path(tempfile.gettempdir(), f"nextflow-{os.geteuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            returncode, output = ended([str(TESTS / "nextflow"), "-version"], TESTS, os.environ)
        except subprocess.TimeoutExpired:
            returncode, output = 1, "its download does not end"
    if returncode != 0:
        pytest.skip(f"Nextflow cannot be had here: {output.strip()}")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A Slurm of one node that takes jobs."""
    with contextlib.ExitStack() as stack:
        try:
            cluster = stack.enter_context(running_cluster())
        except MissingError as error:
            pytest.skip(str(error))
        yield cluster


@pytest.fixture(scope="session", autouse=True)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let all labs run their tasks on Slurm where `make slurm-test ALL=1` asks for it."""
    if os.environ.get("PIPELINE_ON_SLURM"):
        cluster: Cluster = request.getfixturevalue("cluster")
        configuration = tmp_path_factory.mktemp("slurm") / "test.config"
        configuration.write_text(ON_SLURM)
        os.environ.update(cluster.environment, PIPELINE_ENGINE=f"-profile slurm -c {configuration}")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A lab of its own, with three assets."""
    lab = Lab(tmp_path / "lab")
    lab.assets("a", "c", "e")
    return lab

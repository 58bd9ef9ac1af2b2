"""The pipeline on a real Slurm of one node: `make slurm-test`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster import Cluster
from conftest import (
    ANALYSIS,
    EXAMPLE,
    ON_SLURM,
    PIPELINE,
    ROOT,
    SECONDS_AT_MOST,
    TESTS,
    Finished,
    Lab,
    failed,
    succeeded,
)

# Goes wrong as the name of the asset says, each time that it is tried, but for `grows`, which needs more memory.
ENDINGS = """
import os
import time
from pathlib import Path


def analyse(job, parameters, results):
    name = job.asset_name[0]
    if name in ("grows", "hungry"):
        held = bytearray(450_000_000 if name == "grows" else 2_000_000_000)
        held[::4096] = bytes(len(held[::4096]))
        time.sleep(5)
    if name == "cancelled" and "MENDED" not in os.environ:
        Path(os.environ["STARTED"] + ".part").write_text(os.environ["SLURM_JOB_ID"])
        os.rename(os.environ["STARTED"] + ".part", os.environ["STARTED"])
        time.sleep(600)
    if name == "slow":
        time.sleep(600)
    if name.startswith("waits"):
        time.sleep(5)
    return {"letters": len(name)}
"""


@pytest.fixture
def lab(cluster: Cluster, tmp_path: Path) -> Lab:
    """A lab of its own, which runs its tasks on the cluster."""
    (tmp_path / "test.config").write_text(ON_SLURM)
    engine = ["-profile", "slurm", "-c", str(tmp_path / "test.config")]
    lab = Lab(tmp_path / "lab", cluster.environment, engine)
    lab.assets("a", "c", "e")
    lab.parameters({"threshold": 1})
    return lab


def configure(lab: Lab, text: str) -> None:
    path = Path(lab.engine[-1])
    path.write_text(f"{path.read_text()}\n{text}\n")


def sentences(finished: Finished) -> list[str]:
    return [line for line in finished.output.splitlines() if line.startswith("error: ")]


def test_what_is_ended_for_its_time_is_tried_again_and_told_as_that(lab: Lab) -> None:
    lab.assets("slow")
    (lab.folder / "analysis.py").write_text(ENDINGS)
    configure(lab, "process { withName: ANALYSE { time = '1 min' } }")
    done = failed(lab.run())
    assert causes(done) == {"slow": "it reached its time limit of 1m; give it more (process.time)"}
    assert len(done.analysed) == 3


def test_the_example_runs_where_jobs_get_no_environment_and_again_without_an_analysis(lab: Lab) -> None:
    configure(lab, f"process.beforeScript = 'source {Path(sys.executable).parent / 'activate'}'")
    command: Sequence[str] = [
        *(str(TESTS / "nextflow"), "run", str(PIPELINE / "main.nf"), "-resume", "-ansi-log", "false", *lab.engine),
        *(f"--input_files={EXAMPLE}", f"--analysis={PIPELINE / 'example' / 'reward_response.py'}"),
        *("--metadata_catalog=catalog.jsonl", '--docdb_query={"name": {"$regex": "^behavior_.*_processed_"}}'),
        "--file_extension=.nwb",
    ]
    first = succeeded(lab.nextflow(command, SBATCH_EXPORT="NONE"))
    assert len(first.analysed) == len(lab.rows) > 0
    assert len(list((lab.results / "analysis_summary").glob("*.png"))) == 1
    assert succeeded(lab.nextflow(command, SBATCH_EXPORT="NONE")).analysed == []


def test_a_submission_that_slurm_refuses_ends_the_run_with_what_it_said(lab: Lab) -> None:
    configure(lab, "process { withName: ANALYSE { memory = '999 GB' } }")
    done = failed(lab.run())
    [sentence] = sentences(done)
    assert "the cluster refused the job: sbatch: error: " in sentence
    assert "Requested node configuration is not available" in sentence
    assert sentence.endswith("; check queue, memory and time in the configuration")


def test_what_is_ended_for_its_memory_gets_more_of_it_and_a_cancelled_job_is_left(lab: Lab, cluster: Cluster) -> None:
    lab.assets("grows", "hungry", "cancelled", *(f"waits {number}" for number in range(4)))
    (lab.folder / "analysis.py").write_text(ENDINGS)
    configure(lab, "process { withName: ANALYSE { memory = { 300.MB * task.attempt } } }")
    stopped = threading.Event()
    cancelling = threading.Thread(target=cancel, args=(cluster, lab, stopped))
    cancelling.start()
    try:
        done = failed(lab.run(STARTED=str(lab.folder / "started")))
    finally:
        stopped.set()
        cancelling.join()
    assert causes(done) == {
        "hungry": "it used more than its 900 MB of memory; give it more (process.memory)",
        "cancelled": "it was cancelled on the cluster; -resume runs it again",
    }
    assert done.last_line == "error: 2 failed, 5 jobs are done; -resume tries again only what failed"
    assert sorted(lab.analysed_assets) == ["grows", *(f"waits {number}" for number in range(4))]
    # The same sentence is wherever somebody looks.
    folder = lab.results / "analysis_results"
    records = [json.loads(path.read_text()) for path in folder.glob("*/failed.json")]
    assert {record["asset_name"][0]: record["reason"] for record in records} == causes(done) == lab.reasons
    status = lab.dispatch("status", "results", returncode=4)
    page = (folder / "results.html").read_text()
    assert all(sentence in text for sentence in causes(done).values() for text in (status, page))
    # More memory is no other work: only what failed runs.
    configure(lab, "process { withName: ANALYSE { memory = 3.GB } }")
    again = succeeded(lab.run(MENDED="1"))
    assert len(again.analysed) == 2
    assert len(lab.analysed_assets) == 7


def test_a_job_whose_node_is_lost_is_tried_again_and_told_as_that(lab: Lab, cluster: Cluster) -> None:
    lab.assets("slow")
    (lab.folder / "analysis.py").write_text(ENDINGS)
    stopped = threading.Event()
    losing = threading.Thread(target=lose_its_node, args=(cluster, stopped))
    losing.start()
    try:
        done = failed(lab.run())
    finally:
        stopped.set()
        losing.join()
    assert causes(done) == {"slow": "its node was lost; -resume runs it again"}
    assert len(done.analysed) == 3


def lose_its_node(cluster: Cluster, stopped: threading.Event) -> None:
    """Take the node away from each job that runs an analysis."""
    while not stopped.wait(0.5):
        if any(text.startswith("RUNNING nf-ANALYSE") for text in cluster.jobs().values()):
            cluster.set_node("DOWN")
            cluster.wait_until(lambda: not cluster.jobs(), "the jobs of a lost node do not end")
            cluster.set_node("RESUME")


def causes(finished: Finished) -> dict[str, str]:
    """What the run's last lines say of each asset."""
    lines = [line.partition("): ") for line in sentences(finished)[:-1]]
    return {line[0].partition("(")[2]: line[2] for line in lines}


def cancel(cluster: Cluster, lab: Lab, stopped: threading.Event) -> None:
    """Cancel a job that waits for a processor, and the one of the asset `cancelled` once it runs."""
    pending_is_cancelled = running_is_cancelled = False
    while not stopped.wait(0.1) and not (pending_is_cancelled and running_is_cancelled):
        waiting = [number for number, text in cluster.jobs().items() if text.startswith("PENDING nf-ANALYSE")]
        if waiting and not pending_is_cancelled:
            cluster.ask("scancel", waiting[-1])
            pending_is_cancelled = True
        if (lab.folder / "started").exists() and not running_is_cancelled:
            cluster.ask("scancel", (lab.folder / "started").read_text())
            running_is_cancelled = True


def test_a_controller_that_is_away_at_submission_is_waited_for(lab: Lab, cluster: Cluster) -> None:
    folder = lab.folder / "bin"
    folder.mkdir()
    (folder / "job-dispatch").write_text(
        f'#!/bin/bash\n{Path(sys.executable).parent / "job-dispatch"} "$@" || exit\n'
        f"touch {lab.folder}/dispatched\nuntil [ -e {lab.folder}/away ]; do sleep 0.1; done\n"
    )
    (folder / "job-dispatch").chmod(0o755)

    # The daemons end with the thread that starts them, so the run has the other one.
    with ThreadPoolExecutor(1) as other:
        ran = other.submit(lab.run, PATH=f"{folder}{os.pathsep}{lab.variables()['PATH']}")
        cluster.wait_until((lab.folder / "dispatched").exists, "nothing is dispatched", SECONDS_AT_MOST)
        cluster.stop_controller()
        (lab.folder / "away").touch()
        time.sleep(45)
        cluster.start_controller()
        succeeded(ran.result())
    assert lab.analysed_assets == ["a", "c", "e"]


def test_a_nextflow_that_was_killed_goes_on_where_it_was(lab: Lab, cluster: Cluster) -> None:
    gate = lab.folder / "gate"
    waiting = "    import time\n    while job.asset_name[0] == 'e' and not os.path.exists(os.environ['GATE']):\n"
    (lab.folder / "analysis.py").write_text(
        ANALYSIS.replace("    (results /", f"{waiting}        time.sleep(0.1)\n    (results /", 1)
    )
    with (lab.folder / "output.txt").open("w") as output:
        process = subprocess.Popen(
            lab.command(),
            cwd=lab.folder,
            env=lab.variables(GATE=str(gate)),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        cluster.wait_until(lambda: recorded(lab) == 2, "no job is done", SECONDS_AT_MOST)
        cluster.wait_until(lambda: "RUNNING" in str(cluster.jobs()), "no job is left", SECONDS_AT_MOST)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert "RUNNING" in str(cluster.jobs()), "Slurm's jobs go on"
    gate.touch()
    done = succeeded(lab.run(GATE=str(gate)))
    assert len(done.analysed) == 1
    assert lab.analysed_assets == ["a", "c", "e"]


def recorded(lab: Lab) -> int:
    """Count the jobs that Nextflow has recorded as done: there a task has the number that names its folder."""
    record = b"".join(path.read_bytes() for path in lab.folder.glob(".nextflow/cache/*/db/*.log"))
    done = [path.parents[2] for path in (lab.folder / "work").glob("*/*/analysis_results/*/job.json")]
    return sum(bytes.fromhex(f"{folder.parent.name}{folder.name}") in record for folder in done)


# Without Nextflow: the script of docs/run-on-slurm.md.


@dataclass(frozen=True)
class Desk:
    """A folder of the project, as somebody uses it on the cluster: its environment, an analysis and jobs."""

    folder: Path
    cluster: Cluster

    def dispatch(self, *assets: str) -> None:
        """Dispatch a job per asset, one worker folder each."""
        records = [{"_id": name, "name": name, "location": name} for name in assets]
        catalog = self.folder / "catalog.jsonl"
        catalog.write_text("".join(f"{json.dumps(one)}\n" for one in records))
        self.run(
            "job-dispatch",
            f"--metadata_catalog={catalog}",
            "--docdb_query={}",
            "--output_directory=my_jobs",
            f"--num_parallel_workers={len(assets)}",
            f"--input_directory={self.folder}",
            "--overwrite=1",
        )

    def run(self, *command: str, returncode: int = 0) -> str:
        variables = {
            **os.environ,
            **self.cluster.environment,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        done = subprocess.run(command, cwd=self.folder, env=variables, capture_output=True, text=True, timeout=120)
        assert done.returncode == returncode, done.stdout + done.stderr
        return done.stdout

    def submit(self, *options: str) -> None:
        """Submit the script as the page says, and wait until all of it has ended."""
        self.run("bash", "-c", COMMAND.replace("sbatch ", f"sbatch {' '.join(options)} ", 1))
        self.cluster.wait_until(lambda: not self.cluster.jobs(), "the array does not end", SECONDS_AT_MOST)

    def counts(self, returncode: int) -> dict[str, int]:
        status = json.loads(self.run("job-dispatch", "status", "--json", returncode=returncode))
        return {name: status[name] for name in ("done", "failed", "running", "left") if status[name]}


PAGE = (ROOT / "docs" / "run-on-slurm.md").read_text()
[SCRIPT] = re.findall(r"```sh\n(#!/bin/bash\n#SBATCH.*?)```", PAGE, re.DOTALL)
[COMMAND] = re.findall(r"```sh\n(sbatch .*?)\n```", PAGE)


@pytest.fixture
def desk(cluster: Cluster, tmp_path: Path) -> Desk:
    activate = tmp_path / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.write_text(f"PATH={Path(sys.executable).parent}:$PATH\n")
    (tmp_path / "analyse.sh").write_text(SCRIPT)
    (tmp_path / "my_analysis.py").write_text(ARRAY)
    return Desk(tmp_path, cluster)


ARRAY = """
import os
import time


def analyse(job, parameters, results):
    name = job.asset_name[0]
    if not os.path.exists("mended"):
        if name == "raises":
            raise ValueError("no licks")
        if name == "hungry":
            held = bytearray(2_000_000_000)
            held[::4096] = bytes(len(held[::4096]))
            time.sleep(600)
        if name == "slow":
            open("started", "w").close()
            time.sleep(600)
    return {"letters": len(name)}
"""


def test_the_array_script_runs_every_folder_also_more_than_fifty(desk: Desk) -> None:
    desk.dispatch(*(f"asset-{number:02}" for number in range(53)))
    desk.submit("--mem=1G")
    assert desk.counts(0) == {"done": 53}


def test_what_an_array_left_is_run_by_submitting_it_again(desk: Desk) -> None:
    desk.dispatch("raises", "hungry", "slow", "fine")
    ending = threading.Thread(target=end_the_slow_one, args=(desk,))
    ending.start()
    desk.submit("--mem=1G")
    ending.join()
    # What is ended for its time gets a signal first: it is left, unless Slurm has killed it before it could say so.
    counts = desk.counts(4)
    assert counts["done"] == 1
    assert counts["failed"] + counts.get("left", 0) == 3
    (desk.folder / "mended").touch()
    desk.submit("--mem=1G")
    assert desk.counts(0) == {"done": 4}
    desk.run("job-dispatch", "collect")
    assert len((desk.folder / "analysis_results" / "table.csv").read_text().splitlines()) == 5


def end_the_slow_one(desk: Desk) -> None:
    """Let Slurm end it for its time, which it takes at least a minute for by itself."""
    desk.cluster.wait_until((desk.folder / "started").exists, "the slow job does not run", SECONDS_AT_MOST)
    for number, text in desk.cluster.jobs().items():
        if text.startswith("RUNNING"):
            desk.cluster.ask("scontrol", "update", f"JobId={number}", "TimeLimit=1")


def test_an_array_over_a_folder_that_is_not_there_fails_and_names_it(desk: Desk) -> None:
    (desk.folder / "my_jobs").mkdir()
    (desk.folder / "my_jobs" / "0").mkdir()
    desk.submit("--mem=1G", "--job-name=wrong")
    [output] = desk.folder.glob("slurm-*.out")
    assert "my_jobs/0: no job files (*.json) in it" in output.read_text()

"""The pipeline on a real Slurm of one node: `make slurm-test`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from cluster import Cluster, MissingError, install, running
from conftest import ANALYSIS, EXAMPLE, PIPELINE, SECONDS_AT_MOST, TESTS, Finished, Lab, failed, succeeded

# Nextflow asks Slurm as often as tests need; users leave that alone.
CONFIGURATION = """
process.queue = 'test'
executor {
    pollInterval = '300 ms'
    queueStatInterval = '1 sec'
    exitReadTimeout = '10 sec'
    submitRateLimit = '100/1sec'
}
"""
# Goes wrong as the name of the asset says, each time that it is tried, but for `grows`, which needs more memory.
ENDINGS = """
import time


def analyse(job, parameters, results):
    name = job.asset_name[0]
    if name in ("grows", "hungry"):
        held = bytearray(450_000_000 if name == "grows" else 2_000_000_000)
        held[::4096] = bytes(len(held[::4096]))
        time.sleep(5)
    if name in ("slow", "cancelled"):
        time.sleep(600)
    if name.startswith("waits"):
        time.sleep(5)
    return {"letters": len(name)}
"""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    try:
        install()
    except MissingError as error:
        pytest.skip(str(error))
    with running() as cluster:
        yield cluster


@pytest.fixture
def lab(cluster: Cluster, tmp_path: Path) -> Lab:
    """A lab of its own, which runs its tasks on the cluster."""
    (tmp_path / "test.config").write_text(CONFIGURATION)
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


def test_the_example_runs_there_and_again_without_an_analysis(lab: Lab) -> None:
    command: Sequence[str] = [
        *(str(TESTS / "nextflow"), "run", str(PIPELINE / "main.nf"), "-resume", "-ansi-log", "false", *lab.engine),
        *(f"--input_files={EXAMPLE}", f"--analysis={PIPELINE / 'example' / 'reward_response.py'}"),
        *("--metadata_catalog=catalog.jsonl", '--docdb_query={"name": {"$regex": "^behavior_.*_processed_"}}'),
        "--file_extension=.nwb",
    ]
    first = succeeded(lab.nextflow(command))
    assert len(first.analysed) == len(lab.rows) > 0
    assert len(list((lab.results / "analysis_summary").glob("*.png"))) == 1
    assert succeeded(lab.nextflow(command)).analysed == []


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
    cancelling = threading.Thread(target=cancel, args=(cluster, stopped))
    cancelling.start()
    try:
        done = failed(lab.run())
    finally:
        stopped.set()
        cancelling.join()
    assert causes(done) == {
        "hungry": "it used more than its 900 MB of memory; give it more (process.memory)",
        "cancelled": "it was cancelled on the cluster; -resume runs it again",
    }
    assert done.last_line == "error: 2 failed, 5 jobs are done; -resume tries again only what failed"
    assert sorted(lab.analysed_assets) == ["grows", *(f"waits {number}" for number in range(4))]


def test_what_is_ended_for_its_time_is_tried_again_and_told_as_that(lab: Lab) -> None:
    lab.assets("slow")
    (lab.folder / "analysis.py").write_text(ENDINGS)
    configure(lab, "process { withName: ANALYSE { time = '1 min' } }")
    done = failed(lab.run())
    assert causes(done) == {"slow": "it reached its time limit of 1m; give it more (process.time)"}
    assert len(done.analysed) == 3


def causes(finished: Finished) -> dict[str, str]:
    """What the run's last lines say of each asset."""
    lines = [line.partition("): ") for line in sentences(finished)[:-1]]
    return {line[0].partition("(")[2]: line[2] for line in lines}


def cancel(cluster: Cluster, stopped: threading.Event) -> None:
    """Cancel a job that waits for a processor, and the one of the asset `cancelled` once it runs."""
    pending_is_cancelled = running_is_cancelled = False
    while not stopped.wait(0.1) and not (pending_is_cancelled and running_is_cancelled):
        jobs = {number: text for number, text in cluster.jobs().items() if "ANALYSE" in text}
        waiting = [number for number, text in jobs.items() if text.startswith("PENDING")]
        if waiting and not pending_is_cancelled:
            cluster.ask("scancel", waiting[-1])
            pending_is_cancelled = True
        for number, text in jobs.items():
            folder = cluster.ask("squeue", "--noheader", f"--jobs={number}", "--format=%Z").strip()
            files = [path.read_text() for path in Path(folder).glob("jobs/*.json")] if folder else []
            if text.startswith("RUNNING") and any('"cancelled"' in file for file in files):
                cluster.ask("scancel", number)
                running_is_cancelled = True


def test_a_controller_that_is_away_at_submission_is_waited_for(lab: Lab, cluster: Cluster) -> None:
    folder = lab.folder / "bin"
    folder.mkdir()
    (folder / "job-dispatch").write_text(
        f'#!/bin/bash\n{Path(sys.executable).parent / "job-dispatch"} "$@" || exit\n'
        f"touch {lab.folder}/dispatched\nuntil [ -e {lab.folder}/away ]; do sleep 0.1; done\n"
    )
    (folder / "job-dispatch").chmod(0o755)

    def go_away() -> None:
        cluster.wait_until((lab.folder / "dispatched").exists, "nothing is dispatched", SECONDS_AT_MOST)
        cluster.stop_controller()
        (lab.folder / "away").touch()
        time.sleep(45)
        cluster.start_controller()

    away = threading.Thread(target=go_away)
    away.start()
    try:
        succeeded(lab.run(PATH=f"{folder}{os.pathsep}{lab.variables()['PATH']}"))
    finally:
        (lab.folder / "dispatched").touch()
        away.join()
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
    published = lab.results / "analysis_results"
    try:
        cluster.wait_until(lambda: len(list(published.glob("*/job.json"))) == 2, "no job is done", SECONDS_AT_MOST)
        cluster.wait_until(lambda: "RUNNING" in str(cluster.jobs()), "no job is left", SECONDS_AT_MOST)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert "RUNNING" in str(cluster.jobs()), "Slurm's jobs go on"
    gate.touch()
    done = succeeded(lab.run(GATE=str(gate)))
    assert len(done.analysed) == 1
    assert lab.analysed_assets == ["a", "c", "e"]

"""A run that is started again runs what is not done, and nothing twice."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import pytest

from tests.conftest import wait_until
from tests.results.conftest import Desk, ended


@pytest.mark.long
def test_started_again_it_runs_what_is_not_done(desk: Desk) -> None:
    desk.job("done")
    failed = desk.job("failed", "if not Path('repaired').exists(): raise ValueError")
    assert desk.run().code == 4
    desk.job("new")
    (desk.folder / "repaired").touch()
    (desk.folder / "started.txt").unlink()
    assert desk.run().code == 0
    assert sorted(desk.started()) == ["failed", "new"]
    assert desk.record(failed)["attempt"] == 2
    (desk.folder / "started.txt").unlink()
    assert desk.run().code == 0
    assert desk.started() == []


@pytest.mark.parametrize(
    ("flags", "run"),
    [
        (("--only=failed",), ["failed"]),
        (("--only=new",), ["changed", "new"]),
        (("--again",), ["changed", "done", "failed", "new"]),
        (("--set", "x=1"), ["changed", "done", "failed", "new"]),
    ],
    ids=["failed", "new", "again", "set"],
)
@pytest.mark.long
def test_what_is_run_again_can_be_chosen(desk: Desk, flags: tuple[str, ...], run: list[str]) -> None:
    for asset in ("done", "failed", "changed"):
        desk.job(asset, "raise ValueError" if asset == "failed" else "")
    assert desk.run().code == 4
    desk.job("new")
    desk.job("changed", file_version=[{"size": 1, "etag": "b"}])
    (desk.folder / "started.txt").unlink()
    desk.run(*flags)
    assert sorted(desk.started()) == run


@pytest.mark.parametrize("name", ["analysis.py", "helpers.py"])
@pytest.mark.long
def test_a_changed_analysis_or_module_beside_it_is_new_work(desk: Desk, name: str) -> None:
    (desk.folder / "helpers.py").write_text("NUMBER = 1\n")
    job = desk.job("a", "import helpers; values['number'] = helpers.NUMBER")
    assert desk.run().code == 0
    path = desk.folder / name
    path.write_text(path.read_text().replace("NUMBER = 1", "NUMBER = 2") + "\n")
    status = desk.call("status")
    assert status.code == 3
    assert "(1 with another input or analysis than before)" in status.stdout
    assert desk.run().code == 0
    assert desk.record(job)["values"]["number"] == (2 if name == "helpers.py" else 1)
    assert desk.started() == ["a", "a"]


def test_another_query_or_version_of_the_code_that_will_run_is_no_new_work(desk: Desk) -> None:
    desk.job("a")
    assert desk.run().code == 0
    desk.job("a", query='{"name": "a"}', analysis_code={"url": "", "parameters": {}})
    assert desk.counts() == {"done": 1}


@pytest.mark.long
def test_two_runs_share_the_work_and_no_job_runs_twice(desk: Desk) -> None:
    names = [f"asset-{number}" for number in range(12)]
    for name in names:
        desk.job(name, "time.sleep(0.05)")
    runs = [desk.start("run", "analysis.py", "results", "--workers=2") for _ in range(2)]
    assert {ended(run).code for run in runs} <= {0, 3}
    assert sorted(desk.started()) == sorted(names)
    assert desk.counts() == {"done": 12}


@pytest.mark.long
def test_what_another_run_has_done_meanwhile_is_not_run_again(desk: Desk) -> None:
    assets = {desk.job(asset): asset for asset in ("one", "two")}
    first, second = (assets[job] for job in sorted(assets))
    desk.job(first, "while not Path('go').exists(): time.sleep(0.01)")
    slow = desk.start("run", "analysis.py", "results", "--workers=1")
    wait_until(lambda: desk.started() == [first])
    assert desk.run().code == 3
    assert desk.started() == [first, second]
    (desk.folder / "go").touch()
    assert ended(slow).code == 0
    assert desk.started() == [first, second]
    assert desk.counts() == {"done": 2}


def claim(desk: Desk, job: str, **fields: object) -> Path:
    """Write the claim of a process on another machine."""
    path = desk.folder / "analysis_results" / ".running" / f"{job}.claim"
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {
        "job": job, "host": "node7", "machine": "another", "pid": 1, "started": "1", "since": time.time(), "attempt": 1,
        "run": "r",
    }  # fmt: skip
    path.write_text(json.dumps(values | fields))
    return path


@pytest.mark.long
def test_a_job_that_another_machine_runs_is_skipped_until_it_was_not_heard_of_for_five_minutes(desk: Desk) -> None:
    job = desk.job("held")
    desk.job("free")
    path = claim(desk, job)
    done = desk.run()
    assert done.code == 3
    assert desk.started() == ["free"]
    [running] = desk.status()["in_progress"]
    assert (running["job"], running["host"]) == (job, "node7")

    five_minutes_ago = time.time() - 301
    os.utime(path, (five_minutes_ago, five_minutes_ago))
    status = desk.status()
    assert (status["failed"], status["running"]) == (1, 0)
    assert status["failures"][0]["reason"].startswith("killed: ")
    assert desk.run("--only=failed").code == 0
    assert desk.record(job)["attempt"] == 2


@pytest.mark.long
def test_a_job_whose_process_on_this_machine_is_gone_is_run_again_at_once(desk: Desk) -> None:
    job = desk.job("a", "exec(\"while not Path('go').exists(): time.sleep(0.01)\")")
    process = desk.start("run", "analysis.py", "results")
    wait_until(desk.started)
    held = json.loads((desk.folder / "analysis_results" / ".running" / f"{job}.claim").read_text())
    assert held["host"] == socket.gethostname()
    assert desk.counts() == {"running": 1}
    os.kill(held["pid"], 9)
    assert ended(process).code == 4
    assert desk.counts() == {"failed": 1}
    (desk.folder / "go").touch()
    assert desk.run().code == 0
    assert desk.record(job)["attempt"] == 2


def test_jobs_that_nobody_has_started_count_as_left_also_those_of_a_new_dispatch(desk: Desk) -> None:
    desk.job("a")
    assert desk.run().code == 0
    desk.job("b")
    assert desk.counts() == {"done": 1, "left": 1}
    assert desk.call("status").code == 3


def test_the_folder_of_results_can_be_named(desk: Desk) -> None:
    desk.job("a")
    assert desk.run("--output=elsewhere").code == 0
    assert desk.call("status", "elsewhere").code == 0
    assert not (desk.folder / "analysis_results").exists()


def test_worker_folders_and_job_files_can_be_given_one_by_one(desk: Desk) -> None:
    job = desk.job("a")
    desk.job("b")
    assert desk.call("run", "analysis.py", f"results/0/{job}.json").code == 0
    assert desk.started() == ["a"]
    assert desk.call("run", "analysis.py", "results/0").code == 0
    assert desk.started() == ["a", "b"]


def test_a_job_file_that_was_written_again_with_the_same_work_is_done(desk: Desk) -> None:
    job = desk.job("a")
    assert desk.run().code == 0
    path = desk.folder / "results" / "0" / f"{job}.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=4))
    assert desk.counts() == {"done": 1}

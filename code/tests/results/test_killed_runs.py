"""Killed at any moment, a run leaves jobs that are run again, and never one that only counts as done."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from job_dispatch.results import claims, gathering
from job_dispatch.results.gathering import Status
from tests.results.conftest import ANALYSIS, Desk, ended

# `make kill-test` has 200, twenty in a test, so that none takes long.
KILLS = int(os.environ.get("KILLS", "8"))
KILLS_OF_A_TEST = 20
JOBS = 5
HOW = (
    "time.sleep(0.05); (results / 'half.txt').write_text('x');"
    " time.sleep(0.05); (results / 'whole.txt').write_text('y')"
)


@dataclass(frozen=True)
class Moment:
    """Whom to kill how, and so long after the first job was started (or before, if negative)."""

    target: str
    number: signal.Signals
    seconds: float


def moments(first: int) -> list[Moment]:
    chance = random.Random(first)
    found = []
    for _ in range(first, min(first + KILLS_OF_A_TEST, KILLS)):
        target = chance.choice(["command", "run", "minder", "job", "all"])
        numbers = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT] if target == "command" else [signal.SIGKILL]
        number = chance.choice(numbers)
        found.append(Moment(target, number, chance.uniform(-0.1, 0.5)))
    return found


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def tree(pid: int) -> list[list[int]]:
    """Return the processes below one, by generation: the run, those that mind its jobs, the jobs."""
    found, generation = [], [pid]
    while generation:
        found.append(generation)
        generation = [child for one in generation for child in children(one)]
    return found


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def kill(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def meet(moment: Moment, folder: Path) -> str:
    """Kill a run at a moment, check what it left, and run again; return how the first run ended."""
    folder.mkdir()
    (folder / "analysis.py").write_text(ANALYSIS)
    desk = Desk(folder)
    for number in range(JOBS):
        desk.job(f"asset-{number}", HOW)
    process = desk.start("run", "analysis.py", "results", "--workers=2")
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        if desk.started() if moment.seconds >= 0 else tree(process.pid)[1:]:
            break
        time.sleep(0.005)
    time.sleep(max(moment.seconds, 0))
    generations = tree(process.pid)
    known = [pid for generation in generations for pid in generation]
    place = {"command": 0, "run": 1, "minder": 2, "job": 3}.get(moment.target, 0)
    targets = known if moment.target == "all" else generations[place][:1] if place < len(generations) else []
    for pid in targets:
        kill(pid, moment.number)
    process.communicate(timeout=60)
    while any(map(lives, known)) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(map(lives, known)), moment

    if list((folder / "analysis_results").glob(".jobs.*.json")):
        results = gathering.gather(folder / "analysis_results")
        assert len({row.job for row in results.rows}) == len(results.rows) == JOBS, moment
        for row in results.of(Status.DONE):
            assert (row.folder / "whole.txt").read_text() == "y", moment
            assert not (row.folder / "failed.json").exists(), moment
        assert results.of(Status.RUNNING) == [], moment

    again = ended(desk.start("run", "analysis.py", "results", "--workers=2"))
    assert again.code == 0, (moment, again)
    results = gathering.gather(folder / "analysis_results")
    assert results.counts == {"done": JOBS, "failed": 0, "running": 0, "left": 0}, moment
    for row in results.rows:
        assert {path.name for path in row.folder.iterdir()} == {
            "half.txt", "whole.txt", "job.json", "processing.json", "log.txt",
        }, moment  # fmt: skip
    assert claims.read_all(folder / "analysis_results") == {}, moment
    return "finished" if process.returncode == 0 else "killed"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("first", range(0, KILLS, KILLS_OF_A_TEST))
@pytest.mark.long
def test_a_run_that_is_killed_at_random_moments_is_completed_by_the_next(tmp_path: Path, first: int) -> None:
    chosen = moments(first)
    with ThreadPoolExecutor(4) as pool:
        became = list(pool.map(lambda one: meet(one[1], tmp_path / str(one[0])), enumerate(chosen)))
    # The moments are no proof unless they meet runs at work.
    assert became.count("killed") >= len(became) / 3

"""Several jobs a task: few tasks change with few jobs, and a job that fails takes no other with it."""

from __future__ import annotations

import pytest
from conftest import Lab, failed, succeeded

SIXTY = [f"session-{number:02}" for number in range(60)]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    lab = Lab(tmp_path_factory.mktemp("groups") / "lab")
    lab.parameters({"threshold": 1})
    return lab


def test_few_groups_change_and_failed_jobs_alone_run_again(lab: Lab) -> None:
    lab.assets(*SIXTY)
    broken = failed(lab.run("--jobs_per_task=6", WRONG="session-07=raise session-31=kill"))
    groups = broken.ran("ANALYSE_GROUP")
    assert all(1 <= int(group.tag.split()[0]) <= 6 for group in groups)
    assert sum(int(group.tag.split()[0]) for group in groups) == 60
    # What was left by the groups ran once more, alone: these two, and those that the killed one took with it.
    assert len({task.tag for task in broken.ran("ANALYSE") if task.status == "FAILED"}) == 2
    assert lab.analysed_assets == [name for name in SIXTY if name not in ("session-07", "session-31")]

    mended = succeeded(lab.run("--jobs_per_task=6"))
    assert mended.ran("ANALYSE_GROUP") == []
    assert len(mended.ran("ANALYSE")) == 2
    assert lab.analysed_assets == SIXTY

    lab.assets(*SIXTY, "session-60", "session-61")
    assert len(succeeded(lab.run("--jobs_per_task=6")).analysed) <= 4
    assert lab.analysed_assets == [*SIXTY, "session-60", "session-61"]

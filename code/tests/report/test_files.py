"""A report replaces the files of an earlier report, and nothing of anybody else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from job_dispatch.messages import RequestError
from job_dispatch.report import writing
from tests.conftest import World

NAMES = ("report.html", "jobs.csv", "skipped.csv", "manifest.json")


@pytest.fixture
def report(tmp_path: Path) -> Path:
    folder = tmp_path / "report"
    folder.mkdir()
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() if path.exists() else "dangling" for path in folder.iterdir()}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("flag", ["--dry_run=0", "--dry_run=1"])
def test_a_file_of_somebody_else_is_named_before_any_request_and_stays(
    world: World, report: Path, name: str, flag: str
) -> None:
    (report / name).write_text("mine")
    done = world.call("--docdb_query={}", flag, f"--report_directory={report}")
    assert done.returncode == 2
    assert f"{report} holds files that no report has written, or that were changed since" in done.stderr
    assert done.stderr.endswith(f"  {name}\n")
    assert contents(report) == {name: "mine"}
    assert world.gateway.requests == []
    assert done.folders == {}


def test_with_overwrite_they_are_replaced(world: World, report: Path) -> None:
    for name in NAMES:
        (report / name).write_text("mine")
    assert world.call("--docdb_query={}", "--overwrite=1", f"--report_directory={report}").returncode == 0
    assert set(contents(report)) == set(NAMES)
    assert "mine" not in contents(report).values()


def test_a_report_replaces_an_earlier_one_without_overwrite(world: World, report: Path) -> None:
    flags = ("--docdb_query={}", "--dry_run=1", f"--report_directory={report}")
    assert world.call(*flags).returncode == 0
    (report / "notes.txt").write_text("mine")
    assert world.call(*flags, "--file_extension=.nwb").returncode == 0
    assert "with files" in (report / "manifest.json").read_text()
    assert (report / "notes.txt").read_text() == "mine"
    (report / "skipped.csv").unlink()
    assert world.call(*flags).returncode == 0


def test_a_file_of_a_report_that_somebody_has_changed_is_theirs(world: World, report: Path) -> None:
    flags = ("--docdb_query={}", "--dry_run=1", f"--report_directory={report}")
    assert world.call(*flags).returncode == 0
    (report / "jobs.csv").write_text("with my remarks")
    done = world.call(*flags)
    assert done.returncode == 2
    assert done.stderr.endswith("replaces them\n  jobs.csv\n")
    assert (report / "jobs.csv").read_text() == "with my remarks"


def test_a_manifest_that_agrees_with_no_file_beside_it_is_somebodys(world: World, report: Path) -> None:
    flags = ("--docdb_query={}", "--dry_run=1", f"--report_directory={report}")
    assert world.call(*flags).returncode == 0
    for name in ("report.html", "jobs.csv", "skipped.csv"):
        (report / name).unlink()
    done = world.call(*flags)
    assert done.returncode == 2
    assert done.stderr.endswith("replaces them\n  manifest.json\n")


@pytest.mark.parametrize("name", NAMES)
def test_a_link_is_neither_followed_nor_replaced_without_a_word(world: World, report: Path, name: str) -> None:
    victim = report.parent / "victim"
    victim.write_text("mine")
    (report / name).symlink_to(victim)
    flags = ("--docdb_query={}", "--dry_run=1", f"--report_directory={report}")
    assert world.call(*flags).returncode == 2
    assert (report / name).is_symlink()
    assert world.call(*flags, "--overwrite=1").returncode == 0
    assert victim.read_text() == "mine"
    assert not (report / name).is_symlink()


def test_planted_unfinished_files_are_not_written_through(world: World, report: Path) -> None:
    victim = report.parent / "victim"
    victim.write_text("mine")
    for name in NAMES:
        (report / f".{name}.unfinished").symlink_to(victim)
    assert world.call("--docdb_query={}", f"--report_directory={report}").returncode == 0
    assert victim.read_text() == "mine"
    assert {path.name for path in report.iterdir()} == {*NAMES, *(f".{name}.unfinished" for name in NAMES)}


def test_a_pipe_in_the_place_of_the_manifest_does_not_hold_a_run(world: World, report: Path) -> None:
    os.mkfifo(report / "manifest.json")
    assert world.call("--docdb_query={}", f"--report_directory={report}").returncode == 2


def test_a_report_that_cannot_be_written_whole_leaves_the_earlier_one(
    report: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    writing.replace(report, {"jobs.csv": "first"}, overwrite=True)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        writing.replace(report, {"jobs.csv": "second"}, overwrite=True)
    assert contents(report) == {"jobs.csv": "first"}


def test_files_of_others_that_turn_up_during_a_run_stay(report: Path) -> None:
    (report / "jobs.csv").write_text("mine")
    with pytest.raises(RequestError, match="no report has written"):
        writing.replace(report, {"jobs.csv": "second"}, overwrite=False)
    assert contents(report) == {"jobs.csv": "mine"}

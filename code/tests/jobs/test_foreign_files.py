"""Nothing in an output folder is touched that no run has made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from job_dispatch.jobs.building import Jobs
from job_dispatch.jobs.output_folder import clear, locked, write
from job_dispatch.messages import RequestError, ServiceError
from tests.conftest import World

JOB = f"{uuid.UUID(int=5)}.json"
STAGING = f".dispatch.{16 * 'a1'}"
NO_FURTHER_JOBS = Jobs()


def snapshot(folder: Path) -> dict[str, str]:
    """Return all that lies below a folder: the text of files, the targets of links, the kind of all else."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        elif path.is_file():
            found[name] = path.read_text()
        else:
            found[name] = "folder" if path.is_dir() else "other"
    return found


@pytest.fixture
def output(world: World) -> Path:
    return world.output_directory


def put(path: Path, text: str = "mine") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def linked_staging_folder(output: Path) -> None:
    put(output.parent / "victim" / "new" / "0" / JOB)
    (output / STAGING).symlink_to("../victim")


def linked_worker_folder(output: Path) -> None:
    put(output.parent / "victim" / JOB)
    (output / STAGING / "new").mkdir(parents=True)
    (output / STAGING / "new" / "0").symlink_to("../../../victim")


def linked_job(output: Path) -> None:
    put(output.parent / "victim.json")
    (output / STAGING / "new" / "0").mkdir(parents=True)
    (output / STAGING / "new" / "0" / JOB).symlink_to("../../../../victim.json")


def file_beside_jobs(output: Path) -> None:
    put(output / STAGING / "new" / "0" / "thesis.txt")


def file_beside_worker_folders(output: Path) -> None:
    put(output / STAGING / "old" / "thesis.txt")


def hidden_folder_of_another_program(output: Path) -> None:
    put(output / ".dispatch.d" / "new" / "0" / JOB)


def file_with_the_name_of_a_staging_folder(output: Path) -> None:
    put(output / STAGING)


@pytest.mark.parametrize(
    "plant",
    [
        linked_staging_folder,
        linked_worker_folder,
        linked_job,
        file_beside_jobs,
        file_beside_worker_folders,
        hidden_folder_of_another_program,
        file_with_the_name_of_a_staging_folder,
    ],
    ids=lambda plant: plant.__name__,
)
def test_a_run_and_the_clearing_after_a_kill_neither_follow_links_nor_remove_files_of_others(
    world: World, output: Path, plant: Callable[[Path], None]
) -> None:
    plant(output)
    before = snapshot(output.parent)
    done = world.call("--docdb_query={}")
    assert done.returncode == 0
    clear(output, [])
    assert before.items() <= snapshot(output.parent).items()


def test_what_is_kept_of_a_killed_run_is_named(world: World, output: Path) -> None:
    file_beside_jobs(output)
    done = world.call("--docdb_query={}")
    assert f" WARNING {output}/{STAGING} holds other files than jobs, and is kept\n" in done.stderr


@pytest.mark.parametrize("name", ["3/notes.txt", "3/not-a-uuid.json", "3/.hidden", "3"])
def test_a_killed_run_is_not_undone_while_something_else_is_named_like_a_worker_folder(
    tmp_path: Path, name: str
) -> None:
    put(tmp_path / STAGING / "old" / "0" / JOB)
    put(tmp_path / STAGING / "moves.json", json.dumps({"old": ["0"], "new": ["3"]}))
    (tmp_path / STAGING / "new").mkdir()
    put(tmp_path / name)
    before = snapshot(tmp_path)
    with pytest.raises(RequestError, match="holds entries that are named like worker folders but are not; move them"):
        locked(tmp_path, overwrite=True).__enter__()
    assert not clear(tmp_path, [])
    assert snapshot(tmp_path) == before


def test_a_file_that_turns_up_while_a_run_writes_survives_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with locked(tmp_path, overwrite=False) as folder:
        thesis = put(folder.staging / "new" / "0" / "thesis.txt")
    assert thesis.read_text() == "mine"
    assert caplog.messages == [f"{folder.staging} holds other files than jobs, and is kept"]


def test_a_file_that_turns_up_in_an_earlier_folder_while_it_is_replaced_survives(world: World, output: Path) -> None:
    assert world.call("--docdb_query={}").returncode == 0
    with locked(output, overwrite=True) as folder:
        put(output / "0" / "thesis.txt")
        write(folder, NO_FURTHER_JOBS, [])
    assert (folder.staging / "old" / "0" / "thesis.txt").read_text() == "mine"


def test_a_folder_that_turns_up_where_a_worker_folder_goes_is_not_replaced(tmp_path: Path) -> None:
    with locked(tmp_path, overwrite=False) as folder:
        put(tmp_path / "0" / "thesis.txt")
        (folder.staging / "new" / "0").mkdir()
        with pytest.raises(ServiceError, match="Directory not empty"):
            write(folder, NO_FURTHER_JOBS, [])
    assert snapshot(tmp_path) == {"0": "folder", "0/thesis.txt": "mine"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as two users")
def test_a_killed_run_of_another_user_is_named(tmp_path: Path) -> None:
    output = tmp_path / "results"
    output.mkdir()
    output.chmod(0o777)
    for path in (tmp_path, *list(tmp_path.parents)[:-2]):
        path.chmod(path.stat().st_mode | 0o111)
    (output / STAGING).mkdir(mode=0o700)
    os.seteuid(4_321)
    try:
        with pytest.raises(RequestError, match=f"a run of another user was killed and left {output / STAGING}; ask"):
            locked(output, overwrite=True).__enter__()
    finally:
        os.seteuid(0)
    assert snapshot(output) == {STAGING: "folder"}


def test_moves_that_cannot_be_taken_back_lose_no_earlier_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    earlier = put(tmp_path / "0" / JOB, "of the earlier run")
    rename = os.rename

    def rename_and_squat(source: Path, target: Path) -> None:
        """Take the place of the earlier folder at the moment when it has gone."""
        rename(source, target)
        if source == tmp_path / "0":
            put(tmp_path / "0" / "thesis.txt")

    with locked(tmp_path, overwrite=True) as folder:
        (folder.staging / "new" / "1").mkdir()
        (folder.staging / "new" / "0").mkdir()
        monkeypatch.setattr(os, "rename", rename_and_squat)
        with pytest.raises(RequestError, match=r"/0 is in the place of a worker folder that must be moved back"):
            write(folder, NO_FURTHER_JOBS, [])
        monkeypatch.undo()
    assert (folder.staging / "old" / "0" / JOB).read_text() == "of the earlier run"
    assert (tmp_path / "0" / "thesis.txt").read_text() == "mine"
    assert caplog.messages == [
        f"{folder.staging} keeps the worker folders of an earlier run; the next run moves them back"
    ]

    (tmp_path / "0").rename(tmp_path / "away")
    with locked(tmp_path, overwrite=True):
        assert earlier.read_text() == "of the earlier run"


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_no_file_of_a_run_takes_the_number_of_a_stream_that_was_closed(tmp_path: Path, closed: tuple[int, ...]) -> None:
    """Whoever writes to stderr, which is number 2 for all libraries, would write into that file."""
    script = (
        f"import os; [os.close(number) for number in {closed}]\n"
        "from job_dispatch import stopping\n"
        f"stopping.supervise(lambda: int(os.open({str(tmp_path)!r}, os.O_RDONLY) < 3), lambda noted: '')"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_visible_entries_other_than_worker_folders_are_a_warning(world: World, output: Path) -> None:
    put(output / "figures" / "1.png")
    put(output / ".hidden")
    for flags in ((), ("--overwrite=1",), ("--dry_run=1",)):
        done = world.call("--docdb_query={}", *flags)
        assert done.returncode == 0
        warning = f" WARNING --output_directory: {output} holds other entries than worker folders; in a pipeline,"
        assert f"{warning} each of them becomes a worker:\n  figures\n" in done.stderr


def test_an_output_folder_that_is_or_contains_the_input_folder_is_a_warning(world: World) -> None:
    inside = world.output_directory / "data"
    inside.mkdir()
    assert "contains the input directory" in world.call("--docdb_query={}", f"--input_directory={inside}").stderr
    same = world.call("--docdb_query={}", f"--input_directory={world.output_directory}", "--overwrite=1")
    assert "is the input directory; in a pipeline, its visible entries become workers" in same.stderr
    assert "input directory;" not in world.call("--docdb_query={}", "--overwrite=1").stderr

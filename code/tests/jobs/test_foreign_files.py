"""Nothing is touched in an output folder that no run of this user has made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from job_dispatch.jobs import own_files
from job_dispatch.jobs.output_folder import OutputFolder, clear
from job_dispatch.messages import RequestError, ServiceError
from tests.conftest import Completed, World

JOB = f"{uuid.UUID(int=5)}.json"
EMPTY_JOB = json.dumps({"s3_location": [], "asset_name": [], "docdb_record_id": []})


def snapshot(folder: Path) -> dict[str, str]:
    """Give all that lies below a folder: the text of files, the targets of links, the kind of all else."""
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


def write(path: Path, text: str = "mine") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def refused(done: Completed, sentence: str) -> bool:
    [error] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: --output_directory: ")
    assert error.endswith("; nothing is touched, move it away")
    assert sentence in error
    return done.returncode == 2


def linked_folder(output: Path) -> None:
    write(output.parent / "victim" / "new" / "thesis.txt")
    (output / ".dispatch").symlink_to("../victim")


def linked_new(output: Path) -> None:
    write(output.parent / "victim" / "0" / JOB)
    (output / ".dispatch").mkdir()
    (output / ".dispatch" / "new").symlink_to("../../victim")


def linked_worker(output: Path) -> None:
    write(output.parent / "victim" / JOB)
    (output / ".dispatch" / "new").mkdir(parents=True)
    (output / ".dispatch" / "new" / "0").symlink_to("../../../victim")


def linked_job(output: Path) -> None:
    write(output.parent / "victim.json")
    (output / ".dispatch" / "new" / "0").mkdir(parents=True)
    (output / ".dispatch" / "new" / "0" / JOB).symlink_to("../../../../victim.json")


def dangling_lock(output: Path) -> None:
    (output.parent / "elsewhere").mkdir()
    (output / ".dispatch").mkdir()
    (output / ".dispatch" / "lock").symlink_to("../../elsewhere/lock")


def pipe_as_lock(output: Path) -> None:
    (output / ".dispatch").mkdir()
    os.mkfifo(output / ".dispatch" / "lock")


def folder_as_lock(output: Path) -> None:
    (output / ".dispatch" / "lock").mkdir(parents=True)


def hard_link_as_lock(output: Path) -> None:
    (output / ".dispatch").mkdir()
    (output / ".dispatch" / "lock").hardlink_to(write(output.parent / "diary.txt"))


def linked_journal(output: Path) -> None:
    write(output.parent / "journal.json", json.dumps({"moved": {}}))
    (output / ".dispatch" / "new").mkdir(parents=True)
    (output / ".dispatch" / "old").mkdir()
    (output / ".dispatch" / "journal.json").symlink_to("../../journal.json")


def pipe_as_journal(output: Path) -> None:
    for name in ("new", "old"):
        (output / ".dispatch" / name).mkdir(parents=True)
    os.mkfifo(output / ".dispatch" / "journal.json")


def file_in_the_hidden_folder(output: Path) -> None:
    write(output / ".dispatch" / "notes.txt")


def file_beside_jobs(output: Path) -> None:
    write(output / ".dispatch" / "new" / "0" / JOB, "{}")
    write(output / ".dispatch" / "new" / "0" / "thesis.txt")


def file_beside_workers(output: Path) -> None:
    write(output / ".dispatch" / "old" / "thesis.txt")


def file_as_folder(output: Path) -> None:
    write(output / ".dispatch")


def journal(output: Path, moved: object) -> None:
    for name in ("new", "old"):
        (output / ".dispatch" / name).mkdir(parents=True)
    write(output / ".dispatch" / "journal.json", json.dumps(moved))


def old_journal(output: Path) -> None:
    write(output / "7" / JOB, EMPTY_JOB)
    journal(output, {"new": ["7"]})


def forged_journal(output: Path) -> None:
    write(output / "7" / JOB, EMPTY_JOB)
    journal(output, {"moved": {"7": [f"{uuid.UUID(int=6)}.json"]}})


def journal_of_a_folder_with_more(output: Path) -> None:
    write(output / "7" / JOB, EMPTY_JOB)
    write(output / "7" / "thesis.txt", EMPTY_JOB)
    journal(output, {"moved": {"7": [JOB]}})


def journal_that_leads_away(output: Path) -> None:
    write(output.parent / "7" / JOB)
    journal(output, {"moved": {"../7": [JOB]}})


def journal_of_numbers(output: Path) -> None:
    write(output / "7" / JOB, EMPTY_JOB)
    journal(output, {"moved": {"7": [1, JOB]}})


def deep_journal(output: Path) -> None:
    journal(output, {})
    (output / ".dispatch" / "journal.json").write_text("[" * 100_000)


def text_as_journal(output: Path) -> None:
    write(output / ".dispatch" / "journal.json", "Dear diary")


def text_as_unfinished_journal(output: Path) -> None:
    write(output / ".dispatch" / "journal.json.unfinished", "Dear diary")


def hard_link_as_unfinished_journal(output: Path) -> None:
    (output / ".dispatch").mkdir()
    (output / ".dispatch" / "journal.json.unfinished").hardlink_to(write(output.parent / "diary.txt", "{"))


def folder_as_unfinished_journal(output: Path) -> None:
    write(output / ".dispatch" / "new" / "0" / JOB, "{}")
    (output / ".dispatch" / "journal.json.unfinished").mkdir()


def unreadable_journal_while_folders_wait(output: Path) -> None:
    journal(output, {})
    (output / ".dispatch" / "journal.json").write_text('{"moved"')
    write(output / ".dispatch" / "old" / "3" / JOB)


@pytest.mark.parametrize(
    ("plant", "sentence"),
    [
        (linked_folder, "/.dispatch is a link or a file where a run makes a folder"),
        (linked_new, "/.dispatch/new is a link or a file where a run makes a folder"),
        (linked_worker, "/.dispatch/new/0 holds something else than jobs"),
        (linked_job, "/.dispatch/new/0 holds something else than jobs"),
        (dangling_lock, "/.dispatch/lock is a link, a pipe or a folder where a run makes a file"),
        (pipe_as_lock, "/.dispatch/lock is no regular file where a run makes one"),
        (folder_as_lock, "/.dispatch/lock is a link, a pipe or a folder where a run makes a file"),
        (hard_link_as_lock, "/.dispatch/lock is a hard link where a run makes a file"),
        (linked_journal, "/.dispatch/journal.json is a link, a pipe or a folder where a run makes a file"),
        (pipe_as_journal, "/.dispatch/journal.json is no regular file where a run makes one"),
        (file_in_the_hidden_folder, "/.dispatch/notes.txt was not made by a run"),
        (file_beside_jobs, "/.dispatch/new/0 holds something else than jobs"),
        (file_beside_workers, "/.dispatch/old/thesis.txt holds something else than jobs"),
        (file_as_folder, "/.dispatch is a link or a file where a run makes a folder"),
        (old_journal, "/.dispatch/journal.json is not the journal of a run of this version"),
        (forged_journal, "/7 holds other files than those that a killed run moved there"),
        (journal_of_a_folder_with_more, "/7 holds other files than those that a killed run moved there"),
        (journal_that_leads_away, "/.dispatch/journal.json is not the journal of a run of this version"),
        (journal_of_numbers, "/.dispatch/journal.json is not the journal of a run of this version"),
        (deep_journal, "/.dispatch/journal.json was not made by a run"),
        (text_as_journal, "/.dispatch/journal.json was not made by a run"),
        (text_as_unfinished_journal, "/.dispatch/journal.json.unfinished was not made by a run"),
        (hard_link_as_unfinished_journal, "/.dispatch/journal.json.unfinished is a hard link where a run makes a file"),
        (folder_as_unfinished_journal, "/.dispatch/journal.json.unfinished is no regular file where a run makes one"),
        (unreadable_journal_while_folders_wait, "/.dispatch/journal.json cannot be read"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("overwrite", [0, 1])
def test_what_no_run_has_made_is_named_and_not_touched(
    world: World, output: Path, plant: Callable[[Path], None], sentence: str, overwrite: int
) -> None:
    plant(output)
    before = snapshot(output.parent)
    assert refused(world.call("--docdb_query={}", f"--overwrite={overwrite}"), sentence)
    assert snapshot(output.parent) == before
    assert world.gateway.requests == []


def test_a_file_that_turns_up_while_a_run_writes_survives_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with OutputFolder(tmp_path, overwrite=False) as folder:
        os.close(folder.make_worker_folder("0"))
        thesis = write(tmp_path / ".dispatch" / "new" / "0" / "thesis.txt")
    assert thesis.read_text() == "mine"
    assert caplog.messages == [f"{tmp_path}/.dispatch: what no run has made is left there:"]


def test_a_file_that_turns_up_in_an_earlier_folder_while_it_is_replaced_survives(world: World, output: Path) -> None:
    assert world.call("--docdb_query={}").returncode == 0
    with OutputFolder(output, overwrite=True) as folder:
        write(output / "0" / "thesis.txt")
        folder.commit()
    assert (output / ".dispatch" / "old" / "0" / "thesis.txt").read_text() == "mine"


def test_a_hidden_folder_that_is_replaced_by_a_link_during_a_run_leads_nowhere(tmp_path: Path) -> None:
    output, victim = tmp_path / "results", tmp_path / "victim"
    before = snapshot(victim.parent) if write(victim / "new" / "0" / JOB) else {}
    with OutputFolder(output, overwrite=False) as folder:
        (output / ".dispatch").rename(output / "moved")
        (output / ".dispatch").symlink_to("../victim")
        os.close(folder.make_worker_folder("0"))
        folder.commit()
    assert snapshot(victim) == {name.removeprefix("victim/"): text for name, text in before.items() if "/" in name}
    assert (output / ".dispatch").is_symlink()
    assert (output / "0").is_dir()


def test_an_empty_folder_that_turns_up_where_a_worker_folder_goes_is_not_replaced(tmp_path: Path) -> None:
    with OutputFolder(tmp_path, overwrite=False) as folder:
        os.close(folder.make_worker_folder("0"))
        (tmp_path / "0").mkdir()
        inode = (tmp_path / "0").stat().st_ino
        with pytest.raises(ServiceError, match="File exists"):
            folder.commit()
    assert (tmp_path / "0").stat().st_ino == inode
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


def test_what_belongs_to_another_user_is_named_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".dispatch").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    monkeypatch.setattr(own_files, "_owner_of_new", lambda parent: os.getuid() + 1)
    with pytest.raises(RequestError, match=r"\.dispatch belongs to another user \(\w+\)"):
        OutputFolder(tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == [".dispatch"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of another user")
@pytest.mark.parametrize("name", ["", "/lock", "/journal.json"])
def test_a_folder_lock_or_journal_of_another_user_is_refused(world: World, output: Path, name: str) -> None:
    journal(output, {"moved": {}})
    write(output / ".dispatch" / "lock", "")
    os.chown(f"{output}/.dispatch{name}", 4_321, 4_321)
    before = snapshot(output)
    assert refused(world.call("--docdb_query={}"), f"/.dispatch{name} belongs to another user (number 4321)")
    assert snapshot(output) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as two users")
@pytest.mark.parametrize("name", ["lock", "new"])
def test_what_another_user_lets_nobody_open_is_named_as_that(tmp_path: Path, name: str) -> None:
    write(tmp_path / "lock").chmod(0o644)
    (tmp_path / "new").mkdir(mode=0o700)
    os.chown(tmp_path, 4_321, 4_321)
    with own_files.opened(tmp_path) as folder:
        os.seteuid(4_321)
        try:
            with pytest.raises(RequestError, match="the place belongs to another user"):
                _ = (
                    own_files.open_file(name, folder, "the place", os.O_RDWR)
                    if name == "lock"
                    else (own_files.open_folder(name, folder, "the place"))
                )
        finally:
            os.seteuid(0)


def test_moves_that_cannot_be_taken_back_lose_no_earlier_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    earlier = write(tmp_path / "0" / JOB, "of the earlier run")
    rename = os.rename

    def rename_and_squat(source: str, target: str, **folders: int) -> None:
        """Take the place of the earlier folder at the moment when it has gone."""
        rename(source, target, **folders)
        if source == "0":
            write(tmp_path / "0" / "thesis.txt")

    with OutputFolder(tmp_path, overwrite=True) as folder:
        os.close(folder.make_worker_folder("0"))
        monkeypatch.setattr(os, "rename", rename_and_squat)
        with pytest.raises(RequestError, match="/0 stands where a folder must be moved back"):
            folder.commit()
        monkeypatch.undo()
    assert (tmp_path / ".dispatch" / "old" / "0" / JOB).read_text() == "of the earlier run"
    assert (tmp_path / "0" / "thesis.txt").read_text() == "mine"
    assert caplog.messages == [f"{tmp_path}/.dispatch: what a run could not move back is left there:"]

    (tmp_path / "0").rename(tmp_path / "away")
    with OutputFolder(tmp_path, overwrite=True):
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


def test_where_a_file_system_shows_all_files_as_somebody_elses_its_own_are_recognised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with OutputFolder(tmp_path, overwrite=False) as folder:
        os.close(folder.make_worker_folder("0"))
        folder.commit()
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


def test_clearing_after_a_kill_touches_nothing_that_no_run_has_made(tmp_path: Path) -> None:
    write(tmp_path / ".dispatch" / "new" / "0" / "thesis.txt")
    before = snapshot(tmp_path)
    assert not clear(tmp_path, [])
    assert snapshot(tmp_path) == before


def test_visible_entries_that_are_no_worker_folders_are_a_warning(world: World, output: Path) -> None:
    write(output / "figures" / "1.png")
    write(output / ".hidden")
    for flags in ((), ("--overwrite=1",), ("--dry_run=1",)):
        done = world.call("--docdb_query={}", *flags)
        assert done.returncode == 0
        warning = f" WARNING --output_directory: {output} holds what is no worker folder; in a pipeline each becomes"
        assert f"{warning} a worker:\n  figures\n" in done.stderr


def test_an_output_folder_that_is_or_contains_the_input_folder_is_a_warning(world: World) -> None:
    inside = world.output_directory / "data"
    inside.mkdir()
    assert "contains the input directory" in world.call("--docdb_query={}", f"--input_directory={inside}").stderr
    same = world.call("--docdb_query={}", f"--input_directory={world.output_directory}", "--overwrite=1")
    assert "is the input directory; in a pipeline what lies there becomes a worker" in same.stderr
    assert "input directory;" not in world.call("--docdb_query={}", "--overwrite=1").stderr

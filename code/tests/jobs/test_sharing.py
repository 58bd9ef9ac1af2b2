"""Sharing jobs out, and an output folder that holds all of them or none."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import random
import re
import stat
import uuid
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job_dispatch.jobs import output_folder, sharing
from job_dispatch.jobs.output_folder import locked
from job_dispatch.messages import RequestError, ServiceError
from tests.conftest import World

COUNTS = st.integers(min_value=1, max_value=500)


@given(jobs=COUNTS, folders=COUNTS)
def test_every_job_is_in_exactly_one_folder_in_order(jobs: int, folders: int) -> None:
    shares = sharing.share(jobs, folders, None)
    assert list(itertools.chain.from_iterable(shares)) == list(range(jobs))


@given(jobs=COUNTS, folders=COUNTS)
def test_folders_are_balanced_to_within_one_job_and_none_is_empty(jobs: int, folders: int) -> None:
    sizes = [len(share) for share in sharing.share(jobs, folders, None)]
    assert len(sizes) == min(jobs, folders)
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1


@given(jobs=COUNTS, tasks=COUNTS)
def test_tasks_per_job_decides_the_number_of_folders(jobs: int, tasks: int) -> None:
    sizes = [len(share) for share in sharing.share(jobs, 3, tasks)]
    assert sum(sizes) == jobs
    assert max(sizes) <= tasks
    assert len(sizes) == -(-jobs // tasks)


def test_worker_folders_of_an_earlier_run_are_replaced_whole(world: World) -> None:
    assert world.call("--docdb_query={}").returncode == 0
    done = world.call('--docdb_query={"subject.subject_id": "643634"}', "--overwrite=1")
    assert done.returncode == 0
    assert len(done.jobs) == 2
    assert set(done.folders) == {"0", "1"}


def test_a_failed_run_leaves_the_folders_of_the_run_before(world: World) -> None:
    before = world.call("--docdb_query={}")
    failed = world.call('--docdb_query={"name": "none such"}', "--overwrite=1")
    assert failed.returncode == 2
    assert failed.folders == before.folders


def test_other_entries_of_the_output_folder_are_never_touched(world: World) -> None:
    (world.output_directory / "notes.txt").write_text("mine")
    (world.output_directory / "figures").mkdir()
    world.call("--docdb_query={}")
    done = world.call("--docdb_query={}", "--overwrite=1")
    assert done.returncode == 0
    assert (world.output_directory / "notes.txt").read_text() == "mine"
    assert (world.output_directory / "figures").is_dir()


@pytest.mark.parametrize("name", ["notes.txt", "not-a-uuid.json", ".hidden"])
def test_a_numbered_folder_with_anything_but_jobs_is_refused_even_with_overwrite(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "3"
    folder.mkdir()
    (folder / name).write_text("mine")
    with pytest.raises(RequestError, match="named like worker folders but are not"), locked(tmp_path, overwrite=True):
        pass
    assert (folder / name).read_text() == "mine"


def test_the_output_folder_is_checked_before_the_first_request(world: World) -> None:
    (world.output_directory / "0").mkdir()
    assert world.call("--docdb_query={}").returncode == 2
    assert world.gateway.requests == []


def test_a_disk_that_fills_up_leaves_nothing_and_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []

    def full(folder: Path, *_: object) -> None:
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(folder)

    monkeypatch.setattr(output_folder, "_write_job", full)
    done = world.call("--docdb_query={}")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"error: --output_directory: cannot write into {world.output_directory}: the disk is full;"
        " make room or choose another folder"
    )
    assert list(world.output_directory.iterdir()) == []


def test_moves_that_fail_half_way_are_taken_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before = world.call("--docdb_query={}")
    rename, moves = os.rename, itertools.count()

    def fails_for_new(source: Path, target: Path) -> None:
        if source.name == target.name == "1" and next(moves) == 1:  # first the earlier one is moved out
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fails_for_new)
    failed = world.call('--docdb_query={"subject.subject_id": "643634"}', "--overwrite=1")
    assert failed.returncode == 1
    assert failed.folders == before.folders
    assert {path.name for path in world.output_directory.iterdir()} == set(before.folders)


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("is_moved", [False, True], ids=["before the move", "after the move"])
def test_an_interrupt_among_the_moves_leaves_all_old_folders_or_all_new_ones(
    desk: World, monkeypatch: pytest.MonkeyPatch, number: int, is_moved: bool
) -> None:
    two = '--docdb_query={"subject.subject_id": "774659"}'
    new = desk.call(two).folders
    old = desk.call("--docdb_query={}", "--overwrite=1").folders
    assert (len(old), len(new)) == (3, 2)
    rename, moves = os.rename, itertools.count()

    def interrupted(source: Path, target: Path) -> None:
        is_interrupted = source.name == target.name and next(moves) == number
        if is_moved or not is_interrupted:
            rename(source, target)
        if is_interrupted:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", interrupted)
    with contextlib.suppress(KeyboardInterrupt):
        desk.call(two, "--overwrite=1")
    assert desk.completed(0, "", "").folders in (old, new)


def test_two_runs_never_write_into_one_folder_at_once(tmp_path: Path) -> None:
    with (
        locked(tmp_path, overwrite=False),
        pytest.raises(ServiceError, match="another run is writing into"),
        locked(tmp_path, overwrite=False),
    ):
        pass
    with locked(tmp_path, overwrite=False):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EBADF])
def test_a_file_system_that_cannot_lock_folders_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def without_locks(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", without_locks)
    with locked(tmp_path, overwrite=False):
        pass
    assert caplog.messages == [f"{tmp_path}: this file system cannot lock folders; start no second run there"]


def test_only_its_owner_can_open_the_folder_in_which_a_run_writes(tmp_path: Path) -> None:
    with locked(tmp_path, overwrite=False) as output:
        assert stat.S_IMODE(output.staging.stat().st_mode) == 0o700
        [name] = [path.name for path in tmp_path.iterdir()]
    assert re.fullmatch(r"\.dispatch\.[0-9a-f]{32}", name)


def test_what_a_killed_run_left_is_cleared_by_the_next(world: World) -> None:
    left = world.output_directory / f".dispatch.{16 * '0a'}" / "new" / "0"
    left.mkdir(parents=True)
    (left / f"{uuid.uuid4()}.json").write_text("{")
    done = world.call("--docdb_query={}")
    assert done.returncode == 0
    assert {path.name for path in world.output_directory.iterdir()} == set(done.folders)


def test_an_output_folder_is_made_if_it_is_missing(tmp_path: Path) -> None:
    with locked(tmp_path / "new" / "results", overwrite=False) as output:
        assert output.directory.is_dir()


def test_an_output_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    with pytest.raises(RequestError, match="not a folder"), locked(tmp_path / "results", overwrite=False):
        pass


# Sharing by size

SIZES = st.lists(st.integers(0, 10**12), min_size=1, max_size=200)


@given(sizes=SIZES, folders=COUNTS)
def test_by_size_every_job_is_in_exactly_one_folder_and_none_is_empty(sizes: list[int], folders: int) -> None:
    shares = sharing.share_by_size(sizes, folders, None)
    assert sorted(chain.from_iterable(shares)) == list(range(len(sizes)))
    assert len(shares) == min(folders, len(sizes))
    assert all(shares)


@given(sizes=SIZES, folders=COUNTS)
def test_by_size_the_heaviest_folder_is_at_most_a_third_above_the_least_possible(
    sizes: list[int], folders: int
) -> None:
    shares = sharing.share_by_size(sizes, folders, None)
    heaviest = max(sum(sizes[number] for number in share) for share in shares)
    largest = sorted(sizes, reverse=True)
    # The least possible is at least each of these: the largest job, the mean, and the two that must meet.
    meeting = sum(largest[len(shares) - 1 : len(shares) + 1]) if len(sizes) > len(shares) else 0
    assert heaviest <= 4 / 3 * max(largest[0], sum(sizes) / len(shares), meeting) + largest[0] * 2 / 3


@given(sizes=SIZES, tasks=COUNTS)
def test_by_size_a_folder_still_holds_at_most_tasks_per_job(sizes: list[int], tasks: int) -> None:
    shares = sharing.share_by_size(sizes, 3, tasks)
    assert sorted(chain.from_iterable(shares)) == list(range(len(sizes)))
    assert max(map(len, shares)) <= tasks


def test_heavy_tailed_sizes_are_shared_within_a_twentieth_of_the_least_possible() -> None:
    chance = random.Random(49)
    sizes = [int(1e9 * chance.lognormvariate(0, 2)) for _ in range(500)]
    least_possible = max(max(sizes), sum(sizes) / 50)

    def ratio(shares: sharing.Shares) -> float:
        return max(sum(sizes[number] for number in share) for share in shares) / least_possible

    assert ratio(sharing.share_by_size(sizes, 50, None)) <= 1.05
    assert ratio(sharing.share(len(sizes), 50, None)) > 1.5


def test_a_job_of_unknown_size_weighs_the_median_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert sharing.known_sizes([1, None, 30, 5]) == [1, 5, 30, 5]
    assert caplog.messages == ["--balance=size: 1 job of unknown size counted as the median, 5 bytes"]


def test_where_no_size_is_known_jobs_are_shared_by_count(caplog: pytest.LogCaptureFixture) -> None:
    assert sharing.known_sizes([None, None]) == []
    assert caplog.messages == ["--balance=size: no size is known; balancing by count instead"]


def test_balancing_by_size_puts_a_large_store_on_its_own_and_gives_jobs_the_same_names(world: World) -> None:
    small, store = world.records[1], world.records[0]
    world.s3.put(
        "open-data", [f"{small['location'].removeprefix('s3://open-data/')}/nwb/experiment1_recording1.nwb"], b"1"
    )
    world.s3.put(
        "open-data",
        [f"{store['location'].removeprefix('s3://open-data/')}/nwb/behavior_774659_2025-06-07_14-31-15.nwb/big"],
        b"0123456789" * 10,
    )
    flags = ('--docdb_query={"subject.subject_id": "774659"}', "--file_extension=.nwb", "--num_parallel_workers=2")
    by_count = world.call(*flags)
    by_size = world.call(*flags, "--balance=size", "--overwrite=1")
    assert by_size.returncode == 0
    assert sorted(chain(*by_size.folders.values())) == sorted(chain(*by_count.folders.values()))
    assert [len(names) for names in by_size.folders.values()] == [1, 2]
    assert "1 or 2 jobs and 1 to 100 bytes (1.00 × the least possible) each" in by_size.stdout
    assert "--balance=size: listing all objects of 1 store for their sizes" in by_size.stderr


def test_without_an_extension_an_asset_weighs_what_its_whole_prefix_holds(world: World) -> None:
    world.put(world.records[0], "one")
    key = world.records[3]["location"].removeprefix("s3://open-data/")
    world.s3.put("open-data", [f"{key}/a", f"{key}/b/c"], b"12345")
    done = world.call("--docdb_query={}", "--num_parallel_workers=2", "--balance=size")
    assert done.returncode == 0
    assert "0 to 10 bytes" in done.stdout
    assert "listing all objects of 6 assets for their sizes" in done.stderr


def test_building_sharing_and_writing_tell_how_far_they_are(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("job_dispatch.messages._SECONDS_BETWEEN_LINES", 0.0)
    done = world.call("--docdb_query={}", "--balance=size", "--num_parallel_workers=2")
    for step in ("building jobs", "sharing out", "writing jobs"):
        assert f" INFO    {step}: 17%, 1 of 6 jobs\n" in done.stderr
        assert f" INFO    {step}: 100%, 6 of 6 jobs\n" in done.stderr

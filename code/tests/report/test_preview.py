"""`--dry_run=1`: everything but writing."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import CODE, EXAMPLE, World

QUERY = '--docdb_query={"subject.subject_id": "774659"}'


def test_a_preview_and_then_a_run_with_the_same_flags_have_the_same_jobs_name_by_name(world: World) -> None:
    flags = (QUERY, "--file_extension=.nwb")
    preview = world.call(*flags, "--dry_run=1", "--log_level=DEBUG")
    run = world.call(*flags)
    first = run.folders["0"][0]
    assert f"First job: 0/{first}\n" in preview.stdout
    shown = json.loads(preview.stdout.partition(f"{first}\n")[2].partition("\n\n")[0])
    assert shown == run.jobs[0]
    assert "First job" not in world.call(*flags, "--dry_run=1").stdout


def test_a_preview_touches_nothing_in_the_output_folder(world: World) -> None:
    world.output_directory.rmdir()
    assert world.call(QUERY, "--dry_run=1").returncode == 0
    assert not world.output_directory.exists()


def test_a_preview_shows_assets_files_and_what_is_skipped_and_ends_with_the_jobs_in_one_sentence(world: World) -> None:
    done = world.call(QUERY, "--file_extension=.nwb", "--dry_run=1", "--num_parallel_workers=2")
    assert done.stdout.replace(world.gateway.host, "HOST") == (
        "Assets by project\n"
        "project            assets\n"
        "Behavior Platform       2\n"
        "Ephys Platform          1\n"
        "\n"
        "Assets by subject\n"
        "subject  assets\n"
        "774659        3\n"
        "\n"
        "Files\n"
        "ending  files                       bytes\n"
        ".nwb        3  0 and 1 store not measured\n"
        "\n"
        "Skipped\n"
        "name                                 reason\n"
        "behavior_774659_2025-06-07_14-31-15  without a matching file\n"
        "\n"
        "Selection\n"
        "from        DocDB HOST v1 metadata_index/data_assets\n"
        'by          {"subject.subject_id":"774659"}\n'
        "records     3\n"
        "assets      3\n"
        "with files  2\n"
        "jobs        3\n"
        "\n"
        "Jobs\n"
        "parameter sets               0\n"
        "jobs                         3\n"
        "worker folders               2\n"
        "smallest / median / largest  1 / 2 / 2 jobs\n"
        "\n"
        "Preview: 3 jobs for 2 of 3 assets on 2 workers; nothing was written\n"
    )


def test_without_an_extension_files_and_sizes_read_not_listed(world: World) -> None:
    done = world.call(QUERY, "--dry_run=1")
    assert "any     not listed  not listed\n" in done.stdout


def test_at_level_error_only_the_tables_are_left_for_a_pipe(world: World) -> None:
    done = world.call(QUERY, "--dry_run=1", "--log_level=ERROR")
    assert done.stderr == ""
    assert done.stdout.startswith("Assets by project\n")


def test_worker_folders_that_are_there_already_are_a_warning_and_stay(world: World) -> None:
    before = world.call(QUERY)
    preview = world.call(QUERY, "--dry_run=1")
    assert preview.returncode == 0
    assert preview.folders == before.folders
    assert "holds worker folders of an earlier run; --overwrite=1 replaces them" in preview.stderr


def test_a_preview_ends_as_the_run_would(world: World) -> None:
    assert world.call('--docdb_query={"name": "none such"}', "--dry_run=1").returncode == 2
    (world.output_directory / "3").write_text("not a folder")
    assert world.call(QUERY, "--dry_run=1").returncode == 2


def test_measured_stores_have_a_size_and_folders_their_bytes(world: World) -> None:
    store = f"{world.records[0]['name']}/nwb/behavior_774659_2025-06-07_14-31-15.nwb/big"
    world.s3.put("open-data", [store], b"12345")
    done = world.call(QUERY, "--file_extension=.nwb", "--balance=size", "--dry_run=1", "--num_parallel_workers=1")
    assert ".nwb        3      5\n" in done.stdout
    assert "5 / 5 / 5 bytes\n" in done.stdout


def test_only_the_top_ten_of_many_subjects_are_named_and_the_rest_is_counted(world: World) -> None:
    template = world.records[0]
    world.records[:] = [
        {**template, "_id": f"r{n:02d}", "name": f"n{n:02d}", "subject": {"subject_id": f"{n // 2:02d}"}}
        for n in range(30)
    ]
    done = world.call("--docdb_query={}", "--dry_run=1")
    assert "09            2\n5 more       10\n" in done.stdout


def test_on_a_terminal_the_tables_are_drawn_log_lines_have_short_times_and_the_summary_is_last() -> None:
    command = [
        sys.executable,
        str(CODE / "run_capsule.py"),
        f"--input_directory={EXAMPLE}",
        QUERY,
        "--dry_run=1",
        f"--metadata_catalog={EXAMPLE / 'catalog.jsonl'}",
    ]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=subprocess.DEVNULL)
    os.close(theirs)
    drawn = b""
    while True:
        try:
            drawn += os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
    os.close(ours)
    assert process.wait(30) == 0
    assert "───" in drawn.decode()
    lines = drawn.decode().splitlines()
    assert re.match(r"\d\d:\d\d:\d\d INFO    aind-analysis-job-dispatch ", lines[0])
    assert lines[-1].startswith("Preview: ")


def test_text_from_records_cannot_colour_the_terminal_or_draw_in_the_tables(world: World) -> None:
    world.records[0]["subject"] = {"subject_id": "\x1b[31m[red]red[/red]"}
    done = world.call("--docdb_query={}", "--dry_run=1")
    assert "\x1b" not in done.stdout
    assert "\\x1b[31m[red]red[/red]" in done.stdout


def test_the_first_job_is_named_with_the_folder_that_it_would_be_in(world: World) -> None:
    store = f"{world.records[1]['name']}/nwb/experiment1_recording2.nwb"
    world.s3.put("open-data", [store], b"12345")
    flags = (QUERY, "--file_extension=.nwb", "--balance=size", "--num_parallel_workers=2")
    shown = re.search(r"First job: (\d+)/(\S+)", world.call(*flags, "--dry_run=1", "--log_level=DEBUG").stdout)
    assert shown is not None
    assert shown[2] in world.call(*flags).folders[shown[1]]


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
@pytest.mark.long
def test_a_preview_that_nobody_can_see_is_no_crash(tmp_path: Path, redirection: str) -> None:
    command = [
        sys.executable,
        str(CODE / "run_capsule.py"),
        f"--input_directory={EXAMPLE}",
        QUERY,
        "--dry_run=1",
        f"--metadata_catalog={EXAMPLE / 'catalog.jsonl'}",
        f"--output_directory={tmp_path}",
    ]
    done = subprocess.run(f"{shlex.join(command)} {redirection}", shell=True, stderr=subprocess.PIPE, text=True)
    assert "unexpected" not in done.stderr


@pytest.mark.parametrize("below", ["catalog.jsonl/x", "catalog.jsonl"])
def test_a_preview_refuses_an_output_folder_that_a_run_would_refuse(world: World, tmp_path: Path, below: str) -> None:
    (tmp_path / "catalog.jsonl").touch()
    for flags in ((), ("--dry_run=1",)):
        assert world.call(QUERY, f"--output_directory={tmp_path / below}", *flags).returncode == 2


def test_what_does_not_print_is_escaped_in_the_first_job_too(world: World) -> None:
    world.records[:] = [{**world.records[0], "name": "a\x9b31mb\u202ec\x7fd\u2028e"}]
    done = world.call("--docdb_query={}", "--dry_run=1", "--log_level=DEBUG")
    assert done.returncode == 0
    assert r"a\x9b31mb\u202ec\x7fd\u2028e" in done.stdout.partition("First job: ")[2]
    assert all(line.isprintable() for line in done.stdout.splitlines())

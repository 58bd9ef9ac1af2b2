"""What a file names is left out: the jobs of an earlier run, or assets."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from tests.conftest import DESCRIPTION, World, assert_refused, asset_id
from tests.test_dispatch import succeeded

NAMES = [f"{DESCRIPTION}_processed_a", f"{DESCRIPTION}_processed_b", DESCRIPTION]


def left(world: World, text: str, *flags: str, name: str = "done.csv") -> tuple[list[str], str]:
    """Give the names of the assets that are dispatched without what a file excludes, and the log."""
    (world.input_directory / name).write_text(text)
    done = succeeded(world.call("--docdb_query={}", f"--exclude={name}", "--overwrite=1", *flags))
    return sorted(name for job in done.jobs for name in job["asset_name"]), done.stderr


def test_the_jobs_of_an_earlier_run_are_left_out_by_their_names(desk: World, tmp_path: Path) -> None:
    report = tmp_path / "report"
    (desk.input_directory / "analysis_parameters.json").write_text('{"distributed_parameters": [{"a": 1}, {"a": 2}]}')
    succeeded(desk.call('--docdb_query={"subject.subject_id": "774659"}', f"--report_directory={report}"))
    again = report.with_name("again")
    done = succeeded(
        desk.call("--docdb_query={}", f"--exclude={report}/jobs.csv", "--overwrite=1", f"--report_directory={again}")
    )
    assert [job["asset_name"] for job in done.jobs] == [[NAMES[2]], [NAMES[2]]]
    assert f"--exclude: {report}/jobs.csv: 4 jobs of an earlier run" in done.stderr
    assert "skipped  4: 4 excluded" in done.stdout
    with (again / "skipped.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["reason"] for row in rows} == {f"excluded by {report}/jobs.csv"}
    assert len({row["job"] for row in rows}) == 4


def test_a_run_whose_jobs_are_all_excluded_ends_well(desk: World, tmp_path: Path) -> None:
    report = tmp_path / "report"
    succeeded(desk.call("--docdb_query={}", f"--report_directory={report}"))
    done = desk.call("--docdb_query={}", f"--exclude={report}/jobs.csv", "--overwrite=1")
    assert (done.returncode, done.jobs) == (0, [])
    assert "all 3 jobs are excluded" in done.stdout


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (f"asset_id\n{asset_id(0)}\n{asset_id(77)}\n", "a table of 2 assets by asset_id"),
        (f"subject;Asset ID\n774659;{asset_id(0)}\n;\n", "a table of 1 asset by Asset ID"),
        (f"name,n\n{NAMES[0]},1\n", "a table of 1 asset by name"),
        (f"file_name,asset_id\nsession.nwb,{asset_id(0)}\n", "a table of 1 asset by asset_id"),
        ("docdb_record_id\n00000000-0000-4000-8000-000000000000\n", "a table of 1 asset by docdb_record_id"),
        (f"\ufeff{asset_id(0)}\n\n", "a list of 1 asset, one per line"),
        (f"{NAMES[0]}\nnot-one-of-them\n", "a list of 2 assets, one per line"),
        ("00000000-0000-4000-8000-000000000000", "a list of 1 asset, one per line"),
        (
            f"name,asset id,record id,location,reason,job\n{NAMES[0]},,,,not readable,\n",
            "a table of 1 asset by record id, asset id, name",
        ),
    ],
)
def test_assets_are_left_out_by_any_of_their_names(desk: World, text: str, kind: str) -> None:
    names, log = left(desk, text)
    assert names == sorted(NAMES[1:])
    assert f"{desk.input_directory}/done.csv: {kind}" in log


@pytest.mark.parametrize(
    "cell",
    [
        asset_id(0).upper(),
        f'="{asset_id(0)}"',
        f"'{asset_id(0)}",
        f"https://codeocean.example.org/data-assets/{asset_id(0)}/x",
        f"\u200b{asset_id(0)}\u00a0",
    ],
)
@pytest.mark.parametrize("title", ["asset_id\n", ""])
def test_an_id_is_read_as_in_the_table_of_data_assets(desk: World, title: str, cell: str) -> None:
    assert left(desk, f"{title}{cell}\n")[0] == sorted(NAMES[1:])


def test_a_formula_that_failed_is_named_with_its_line(desk: World) -> None:
    (desk.input_directory / "done.csv").write_text(f"asset_id\n{asset_id(0)}\n#N/A\n")
    done = desk.call("--docdb_query={}", "--exclude=done.csv")
    assert_refused(
        desk,
        done,
        f"error: {desk.input_directory}/done.csv, line 3: its asset_id: a formula failed and left #N/A; correct it,"
        " or clear the cell",
    )


def test_tables_are_read_as_excel_saves_them(desk: World) -> None:
    path = desk.input_directory / "done.xlsx"
    book = openpyxl.Workbook()
    sheet: Any = book.active
    for row in (("Subject", "Asset ID"), (774659, asset_id(0)), (None, None)):
        sheet.append(row)
    book.save(path)
    names = {"--exclude=done.xlsx": path, "--exclude=utf16.csv": desk.input_directory / "utf16.csv"}
    names["--exclude=utf16.csv"].write_text(f"subject\tasset_id\n774659\t{asset_id(0)}\n", encoding="utf-16")
    for flag in names:
        done = succeeded(desk.call("--docdb_query={}", flag, "--overwrite=1"))
        assert sorted(name for job in done.jobs for name in job["asset_name"]) == sorted(NAMES[1:])


def test_of_a_row_only_the_most_certain_name_counts(desk: World) -> None:
    names, _ = left(desk, f"name,asset_id\n{NAMES[1]},{asset_id(0)}\n")
    assert names == sorted(NAMES[1:])


def test_an_asset_is_known_by_each_of_its_ids(desk: World) -> None:
    desk.records[0]["external_links"] = {"Code Ocean": [asset_id(0), asset_id(100)]}
    names, _ = left(desk, asset_id(100))
    assert names == sorted(NAMES[1:])


def test_an_asset_that_is_registered_twice_is_excluded_by_each_of_its_records(desk: World) -> None:
    desk.records.append({**desk.records[0], "_id": "older", "created": "2020-01-01T00:00:00Z"})
    assert left(desk, "older")[0] == sorted(NAMES[1:])
    assert left(desk, desk.records[0]["_id"])[0] == sorted(NAMES[1:])


def test_jobs_of_an_earlier_run_that_are_not_in_this_run_are_counted(desk: World, tmp_path: Path) -> None:
    report = tmp_path / "report"
    succeeded(desk.call("--docdb_query={}", f"--report_directory={report}"))
    flags = ('--docdb_query={"name": {"$regex": "_a$"}}', f"--exclude={report}/jobs.csv", "--overwrite=1")
    log = succeeded(desk.call(*flags)).stderr
    assert f"--exclude: 2 of 3 jobs in {report}/jobs.csv are not jobs of this run" in log


def test_entries_that_match_nothing_are_counted(desk: World) -> None:
    _, log = left(desk, f"{NAMES[0]}\nnot-one-of-them\n{asset_id(77)}\n")
    assert f"--exclude: 2 of 3 entries in {desk.input_directory}/done.csv match no selected asset" in log
    _, log = left(desk, f"{NAMES[0]}\n{asset_id(1)}\n")
    assert "match no selected asset" not in log


def test_groups_are_made_without_the_excluded_and_no_older_one_takes_the_place_of_the_latest(desk: World) -> None:
    names, _ = left(desk, asset_id(1), "--group_by=subject.subject_id")
    assert names == sorted([NAMES[0], NAMES[2]])
    names, _ = left(desk, asset_id(1), "--filter_latest=created", "--filter_by=subject.subject_id")
    assert names == [NAMES[2]]


def test_all_assets_excluded_is_a_run_that_ends_well(desk: World) -> None:
    (desk.input_directory / "all").write_text("\n".join(NAMES))
    done = desk.call("--docdb_query={}", "--exclude=all")
    assert (done.returncode, done.jobs) == (0, [])
    assert "all 3 assets are excluded" in done.stdout


def test_an_excluded_asset_is_not_listed(world: World) -> None:
    world.records[1]["location"] = "s3://no-such-bucket/of-it"
    (world.input_directory / "broken").write_text(world.records[1]["_id"])
    failed = world.call("--docdb_query={}", "--file_extension=.nwb")
    assert failed.returncode != 0
    done = succeeded(world.call("--docdb_query={}", "--file_extension=.nwb", "--exclude=broken"))
    assert not any(world.records[1]["_id"] in job["docdb_record_id"] for job in done.jobs)


def test_a_file_that_names_nothing_leaves_nothing_out(desk: World) -> None:
    assert left(desk, "")[0] == sorted(NAMES)
    assert left(desk, "asset_id\n")[0] == sorted(NAMES)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            "subject,day\n774659,2025-06-07\n",
            ["error: {place}: no column 'asset_id', 'name' or 'docdb_record_id' (columns: subject, day)"],
        ),
        (
            None,
            [
                "error: --exclude: no such file: done.csv; give jobs.csv of an earlier run, or a file of asset ids,"
                " names or record ids",
                "  looked for done.csv",
                "  looked for {place}",
                "  looked for {folder}/input_files/done.csv",
            ],
        ),
    ],
)
def test_what_cannot_be_taken_for_either_is_refused(desk: World, text: str | None, lines: Iterable[str]) -> None:
    path = desk.input_directory / "done.csv"
    if text is not None:
        path.write_text(text)
    done = desk.call("--docdb_query={}", "--exclude=done.csv")
    assert_refused(desk, done, *(line.format(place=path, folder=desk.input_directory) for line in lines))

"""What a file names is left out: the jobs of an earlier run, or assets."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import openpyxl
import pytest

import job_dispatch as jd
from job_dispatch.results.records import JobFile
from tests.conftest import DESCRIPTION, EXAMPLE, World, assert_refused, asset_id
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
    assert "WARNING --exclude" not in done.stderr
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
    assert f"--exclude: 2 of 3 jobs in {report}/jobs.csv match no job of this run" in log


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


@pytest.mark.parametrize("text", ["", "asset_id\n", "file_name,asset_name\n", "job,status\n"])
def test_a_file_that_names_nothing_leaves_nothing_out_and_is_warned_of(desk: World, text: str) -> None:
    names, log = left(desk, text)
    assert names == sorted(NAMES)
    warning = "done.csv excludes nothing: it lists no job that is done, and no asset\n"
    assert f"WARNING --exclude: {desk.input_directory}/{warning}" in log


def test_a_file_of_which_nothing_matches_is_warned_of(desk: World) -> None:
    _, log = left(desk, "not-one-of-them\n")
    assert f"WARNING --exclude: {desk.input_directory}/done.csv excludes nothing: it names no selected asset" in log
    _, log = left(desk, "file_name\n00000000-0000-5000-8000-000000000000.json\n")
    assert f"WARNING --exclude: {desk.input_directory}/done.csv excludes nothing: it names no job of this run" in log


def results_of(world: World, folder: Path, *done: int) -> list[str]:
    """Dispatch, write the records that `job-dispatch run` would write, and return the names of the jobs."""
    succeeded(world.call("--docdb_query={}", "--overwrite=1"))
    files = {path.stem: path for path in world.output_directory.glob("*/*.json")}
    jobs = sorted(files, key=lambda job: json.loads(files[job].read_text())["asset_name"])
    for number, job in enumerate(jobs):
        (folder / job).mkdir(parents=True)
        record = {"job": job, "input": JobFile(files[job]).fingerprint}
        (folder / job / ("job.json" if number in done else "failed.json")).write_text(json.dumps(record))
    return jobs


def test_the_jobs_that_are_done_in_a_folder_of_results_are_left_out_unless_their_input_has_changed(
    desk: World, tmp_path: Path
) -> None:
    results = tmp_path / "published" / "analysis_results"
    results_of(desk, results, 0, 1)
    for folder in (results, results.parent):
        done = succeeded(desk.call("--docdb_query={}", f"--exclude={folder}", "--overwrite=1"))
        assert [job["asset_name"] for job in done.jobs] == [[sorted(NAMES)[2]]]
        assert f"--exclude: {folder}: 2 jobs done, unless the input has changed" in done.stderr

    [changed] = [record for record in desk.records if record["name"] == sorted(NAMES)[0]]
    changed["subject"]["subject_id"] = "774660"  # a job file tells the subject
    done = succeeded(desk.call("--docdb_query={}", f"--exclude={results}", "--overwrite=1"))
    assert sorted(job["asset_name"] for job in done.jobs) == [[sorted(NAMES)[0]], [sorted(NAMES)[2]]]
    assert "--exclude: 1 job that is done has another input now, so not excluded" in done.stderr


def test_a_folder_without_results_leaves_nothing_out_and_is_warned_of(desk: World, tmp_path: Path) -> None:
    results_of(desk, tmp_path / "results")
    done = succeeded(desk.call("--docdb_query={}", f"--exclude={tmp_path / 'results'}", "--overwrite=1"))
    assert len(done.jobs) == 3
    assert f"WARNING --exclude: {tmp_path / 'results'} excludes nothing: no job in it is done" in done.stderr


@pytest.mark.parametrize("as_one", [True, False], ids=["commas", "twice"])
def test_several_files_and_folders_are_given_with_commas_or_one_by_one(
    desk: World, tmp_path: Path, as_one: bool
) -> None:
    jobs = results_of(desk, tmp_path / "results", 0)
    table = tmp_path / "table.csv"
    table.write_text(f"job,status,asset_name\n{jobs[0]},failed,x\n{jobs[1]},done,y\n")
    (desk.input_directory / "assets.txt").write_text(sorted(NAMES)[2])
    values = [str(tmp_path / "results"), str(table), "assets.txt"]
    flags = [f"--exclude={','.join(values)}"] if as_one else [f"--exclude={value}" for value in values]
    done = desk.call("--docdb_query={}", "--overwrite=1", f"--report_directory={tmp_path / 'report'}", *flags)
    assert (done.returncode, done.jobs) == (0, [])
    with (tmp_path / "report" / "skipped.csv").open(newline="") as file:
        places = sorted(row["reason"].removeprefix("excluded by ") for row in csv.DictReader(file))
    assert places == sorted([str(tmp_path / "results"), str(table), f"{desk.input_directory}/assets.txt"])


def test_the_library_leaves_out_what_the_command_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = jd.Catalog(EXAMPLE / "catalog.jsonl")
    jd.write(jd.plan(jd.locate(jd.select(source, subject="643634"), endings=".csv")), "jobs")
    Path("analysis.py").write_text("def analyse(job, parameters, results):\n    pass\n")
    jd.run("analysis.py", "jobs")
    for exclude in ("analysis_results", ["analysis_results/table.csv"], (Path("analysis_results"),)):
        cohort = jd.select(source, subject="643634", exclude=exclude)
        jobs = jd.plan(jd.locate(cohort, endings=".csv"))
        assert len(jobs) == 0
        assert [one.reason.value for one in jobs.skipped] == ["excluded"]


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
                "error: --exclude: no such file: done.csv; give a folder of results, jobs.csv or table.csv, or a file"
                " of asset ids, names or record ids",
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

"""`--report_directory`: a page, a table of jobs and a manifest."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CODE, EXAMPLE, World

GOLDEN = Path(__file__).parent / "golden"
QUERY = '--docdb_query={"subject.subject_id": "774659"}'
TIMES = re.compile(r'("(?:started|finished)": )"[^"]*"')


def report_of_example(directory: Path, *flags: str) -> Path:
    command = [
        sys.executable,
        str(CODE / "run_capsule.py"),
        f"--input_directory={EXAMPLE}",
        QUERY,
        f"--metadata_catalog={EXAMPLE / 'catalog.jsonl'}",
        "--file_extension=.nwb",
        f"--output_directory={directory / 'results'}",
        f"--report_directory={directory / 'report'}",
        *flags,
    ]
    subprocess.run(command, check=True, capture_output=True)
    return directory / "report"


def without_places(text: str, directory: Path) -> str:
    """Put placeholders for the folders, and for the names of jobs, which differ with them, in their order."""
    text = text.replace(str(CODE.parent), "{clone}").replace(str(directory), "{directory}")
    names = dict.fromkeys(re.findall(r"[0-9a-f-]{36}(?=\.json)", text))
    for number, name in enumerate(names, 1):
        text = text.replace(name, f"{{job {number}}}")
    return text


def comparable(report: Path) -> tuple[list[str], dict[str, Any]]:
    """Give the tables and the manifest of a report without times and without the hash of the page, which has them."""
    manifest = json.loads(TIMES.sub(r'\1""', (report / "manifest.json").read_text()))
    manifest["seconds"] = list(manifest["seconds"])
    del manifest["sha256"]["report.html"]
    return [(report / name).read_text() for name in ("jobs.csv", "skipped.csv")], manifest


def table(report: Path, name: str = "jobs.csv") -> list[dict[str, str]]:
    with (report / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of one run, for tests that only read it."""
    return report_of_example(tmp_path_factory.mktemp("example"))


def test_the_table_of_jobs_of_the_example_is_the_golden_one(report: Path) -> None:
    assert without_places((report / "jobs.csv").read_text(), report.parent) == (GOLDEN / "jobs.csv").read_text()


def test_the_manifest_of_the_example_is_the_golden_one(report: Path) -> None:
    manifest = json.loads(
        TIMES.sub(r'\1"{time}"', without_places((report / "manifest.json").read_text(), report.parent))
    )
    manifest["versions"] = dict.fromkeys(manifest["versions"], "{version}")
    manifest["sha256"] = dict.fromkeys(sorted(manifest["sha256"]), "{sha256}")
    manifest["seconds"] = dict.fromkeys(manifest["seconds"], "{seconds}")
    assert manifest == json.loads((GOLDEN / "manifest.json").read_text())


def test_the_manifest_names_the_hash_of_each_file_and_when_the_run_began_and_ended(report: Path) -> None:
    manifest = json.loads((report / "manifest.json").read_text())
    files = ("jobs.csv", "report.html", "skipped.csv")
    assert manifest["sha256"] == {name: hashlib.sha256((report / name).read_bytes()).hexdigest() for name in files}
    started, finished = (datetime.fromisoformat(manifest[name]) for name in ("started", "finished"))
    assert started <= finished
    assert started.tzinfo == UTC


def test_two_runs_with_the_same_input_differ_only_in_times(tmp_path: Path) -> None:
    first = report_of_example(tmp_path, "--overwrite=1")
    tables, manifest = comparable(first)
    again = report_of_example(tmp_path, "--overwrite=1")
    assert comparable(again) == (tables, manifest)


def test_a_preview_has_a_report_too(tmp_path: Path) -> None:
    report = report_of_example(tmp_path, "--dry_run=1")
    assert not (tmp_path / "results").exists()
    assert json.loads((report / "manifest.json").read_text())["is_preview"] is True
    assert {path.name for path in report.iterdir()} == {"jobs.csv", "manifest.json", "report.html", "skipped.csv"}


def test_the_table_has_one_row_a_job_with_its_worker_and_file_name(world: World, tmp_path: Path) -> None:
    done = world.call(QUERY, "--file_extension=.nwb", f"--report_directory={tmp_path / 'report'}")
    rows = table(tmp_path / "report")
    assert [(row["worker"], row["file name"]) for row in rows] == [
        (folder, name) for folder, names in done.folders.items() for name in names
    ]
    assert [row["files"] for row in rows] == [job["file_location"][0] for job in done.jobs]


def test_subject_session_and_project_of_each_asset_are_in_the_table_and_the_manifest(
    world: World, tmp_path: Path
) -> None:
    world.call(QUERY, f"--report_directory={tmp_path / 'report'}")
    rows = table(tmp_path / "report")
    assets = json.loads((tmp_path / "report" / "manifest.json").read_text())["assets"]
    records = {record["name"]: record for record in world.records}
    assert rows
    for row, asset in zip(rows, assets, strict=True):
        record = records[row["asset names"]]
        told = [record["subject"]["subject_id"], "2025-06-01", record["data_description"]["project_name"]]
        assert [row["subjects"], row["sessions"], row["projects"]] == told
        assert [asset["subject"], asset["session"], asset["project"]] == told


@pytest.mark.parametrize("start", ["=1+1", "+1", "-1", "@SUM(A1)"])
def test_no_cell_is_a_formula(world: World, tmp_path: Path, start: str) -> None:
    world.records[:] = [{**world.records[0], "name": start}]
    world.call("--docdb_query={}", f"--report_directory={tmp_path / 'report'}")
    [row] = table(tmp_path / "report")
    assert row["asset names"] == f"'{start}"


def test_everything_skipped_is_in_the_manifest_with_its_reason(world: World, tmp_path: Path) -> None:
    world.records[0]["location"] = None
    world.call(
        "--docdb_query={}", "--file_extension=.nwb", "--skip_errors=1", f"--report_directory={tmp_path / 'report'}"
    )
    skipped = json.loads((tmp_path / "report" / "manifest.json").read_text())["skipped"]
    assert {(one["name"].partition("_")[0], one["reason"]) for one in skipped} == {
        ("behavior", "its record has no location"),
        ("behavior", "without a matching file"),
        ("SmartSPIM", "without a matching file"),
    }


@pytest.mark.parametrize("place", ["", "report", "a/.report", "..", ".dispatch"])
def test_a_report_where_a_pipeline_would_take_it_for_work_is_refused(world: World, place: str) -> None:
    directory = world.output_directory / place
    done = world.call(QUERY, f"--report_directory={directory}")
    assert done.returncode == 2
    assert "every visible entry of the output folder becomes a worker in a pipeline" in done.stderr
    assert world.gateway.requests == []
    assert list(world.output_directory.iterdir()) == []


def test_a_hidden_folder_directly_below_the_output_folder_keeps_the_report(world: World) -> None:
    done = world.call(QUERY, f"--report_directory={world.output_directory / '.report'}")
    assert done.returncode == 0
    assert (world.output_directory / ".report" / "report.html").is_file()
    again = world.call(QUERY, "--overwrite=1", f"--report_directory={world.output_directory / '.report'}")
    assert again.returncode == 0


def test_the_page_tells_how_many_jobs_for_how_many_assets_and_shows_text_as_text(world: World, tmp_path: Path) -> None:
    world.records[0]["name"] = "<img src=x onerror=alert(1)>"
    world.call(QUERY, "--file_extension=.nwb", f"--report_directory={tmp_path / 'report'}")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "3 jobs for 2 of 3 assets on 3 workers" in page
    assert "<img" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page


@pytest.mark.parametrize("name", ["x" * 300, "loop", "file/report"])
def test_a_report_directory_that_cannot_be_is_refused_before_any_request(
    world: World, tmp_path: Path, name: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    done = world.call(QUERY, f"--report_directory={tmp_path / name}")
    assert done.returncode == 2
    assert world.gateway.requests == []
    assert done.folders == {}


def test_a_folder_where_a_report_has_a_file_is_named_before_anything_is_written(world: World, tmp_path: Path) -> None:
    (tmp_path / "report" / "report.html").mkdir(parents=True)
    done = world.call("--docdb_query={}", f"--report_directory={tmp_path / 'report'}", "--overwrite=1")
    assert done.returncode == 2
    assert "holds folders where a report has files; choose another folder\n  report.html\n" in done.stderr
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["report.html"]
    assert world.gateway.requests == []


def test_jobs_can_be_joined_by_asset_ids_record_ids_and_locations(world: World, tmp_path: Path) -> None:
    done = world.call("--docdb_query={}", "--group_by=subject.subject_id", f"--report_directory={tmp_path / 'report'}")
    rows = table(tmp_path / "report")
    for column, field in {
        "asset names": "asset_name",
        "asset ids": "asset_id",
        "record ids": "docdb_record_id",
        "locations": "s3_location",
    }.items():
        assert [row[column] for row in rows] == ["; ".join(job[field]) for job in done.jobs]
    manifest = json.loads((tmp_path / "report" / "manifest.json").read_text())
    assert [one["record_id"] for one in manifest["assets"]] == [
        record_id for job in done.jobs for record_id in job["docdb_record_id"]
    ]


@pytest.mark.parametrize("line_break", ["\n", "\r", "\r\n"])
def test_a_line_break_in_a_name_does_not_break_a_row(world: World, tmp_path: Path, line_break: str) -> None:
    name = f"a{line_break}b"
    world.records[:] = [{**world.records[0], "name": name}, {**world.records[1], "name": name, "location": None}]
    world.call("--docdb_query={}", "--skip_errors=1", f"--report_directory={tmp_path / 'report'}")
    assert [row["asset names"] for row in table(tmp_path / "report")] == [name]
    assert [row["name"] for row in table(tmp_path / "report", "skipped.csv")] == [name]


def test_a_run_that_fails_has_a_report_with_the_reason_and_all_missing_ids(world: World, tmp_path: Path) -> None:
    ids = [f"unknown-{number}" for number in range(50)]
    (world.input_directory / "data_asset_input.csv").write_text("\n".join(["asset_id", *ids]))
    report = tmp_path / "report" / "failed"
    done = world.call("--use_data_asset_csv=1", f"--report_directory={tmp_path / 'report'}")
    assert (done.returncode, done.folders) == (2, {})
    assert done.stderr.endswith(f"  … and 30 more (all in {report / 'skipped.csv'})\n")
    rows = table(report, "skipped.csv")
    assert [(row["asset id"], row["reason"]) for row in rows] == [(one, "without a record") for one in ids]
    reason = "data_asset_input.csv: 50 of 50 ids without a record"
    manifest = json.loads((report / "manifest.json").read_text())
    assert manifest.keys() == json.loads((GOLDEN / "manifest.json").read_text()).keys()
    assert (manifest["error"], len(manifest["error_details"])) == (reason, 50)
    assert f"Stopped: {reason}" in (report / "report.html").read_text()
    assert table(report) == []


def test_a_run_that_fails_names_every_unreadable_asset_with_ids_location_and_reason(
    world: World, tmp_path: Path
) -> None:
    for record in world.records:
        record["location"] = f"s3://no-such-bucket-there/{record['_id']}"
    done = world.call("--docdb_query={}", "--file_extension=.nwb", f"--report_directory={tmp_path / 'report'}")
    assert done.returncode == 1
    rows = table(tmp_path / "report" / "failed", "skipped.csv")
    found = {(row["record id"], row["name"], row["location"]) for row in rows}
    assert found == {(one["_id"], one["name"], one["location"]) for one in world.records}
    assert all("NoSuchBucket" in row["reason"] for row in rows)


def test_a_run_that_fails_while_reading_the_request_has_a_report_too(world: World, tmp_path: Path) -> None:
    (world.input_directory / "analysis_parameters.json").write_text("[]")
    done = world.call("--docdb_query={}", f"--report_directory={tmp_path / 'report'}")
    manifest = json.loads((tmp_path / "report" / "failed" / "manifest.json").read_text())
    assert done.returncode == 2
    assert manifest["error"]
    assert manifest["error"] in done.stderr
    assert manifest["query"] == {}


def test_a_run_that_fails_leaves_the_report_of_an_earlier_one_and_one_that_succeeds_removes_that_of_the_failed(
    world: World, tmp_path: Path
) -> None:
    report = tmp_path / "report"
    query = f"--docdb_query={json.dumps({'_id': world.records[0]['_id']})}"
    flags = (f"--report_directory={report}", "--overwrite=1")
    assert world.call(query, *flags).returncode == 0
    before = {path.name: path.read_bytes() for path in report.iterdir()}
    assert world.call('--docdb_query={"typo": 1}', *flags).returncode == 2
    assert {path.name: path.read_bytes() for path in report.iterdir() if path.is_file()} == before
    assert "Stopped: " in (report / "failed" / "report.html").read_text()

    left = world.call("--docdb_query={}", f"--exclude={report / 'jobs.csv'}", *flags)
    assert left.returncode == 0
    assert len(left.jobs) == len(world.records) - 1
    assert {path.name for path in report.iterdir()} == set(before)


def test_of_the_report_of_a_failed_run_what_was_changed_stays(world: World, tmp_path: Path) -> None:
    report = tmp_path / "report"
    assert world.call('--docdb_query={"typo": 1}', f"--report_directory={report}").returncode == 2
    (report / "failed" / "skipped.csv").write_text("my notes")
    assert world.call("--docdb_query={}", f"--report_directory={report}").returncode == 0
    assert [path.name for path in (report / "failed").iterdir()] == ["skipped.csv"]


def test_text_that_utf8_cannot_hold_is_escaped_in_the_report(world: World, tmp_path: Path) -> None:
    world.records[0]["name"] = "\ud800"
    done = world.call("--docdb_query={}", "--skip_errors=1", f"--report_directory={tmp_path / 'report'}")
    assert done.returncode == 0
    skipped = json.loads((tmp_path / "report" / "manifest.json").read_text())["skipped"]
    assert [one["name"] for one in skipped] == ["\\ud800"]

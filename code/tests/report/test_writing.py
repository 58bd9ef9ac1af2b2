"""`--report_directory`: a page, a table of jobs and a manifest."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from job_dispatch.report.writing import Manifest
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


def table(report: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((report / "jobs.csv").read_text(encoding="utf-8").splitlines()))


def test_the_table_of_jobs_of_the_example_is_the_golden_one(tmp_path: Path) -> None:
    report = report_of_example(tmp_path)
    assert without_places((report / "jobs.csv").read_text(), tmp_path) == (GOLDEN / "jobs.csv").read_text()


def test_the_manifest_of_the_example_is_the_golden_one(tmp_path: Path) -> None:
    report = report_of_example(tmp_path)
    manifest = json.loads(TIMES.sub(r'\1"{time}"', without_places((report / "manifest.json").read_text(), tmp_path)))
    manifest["versions"] = dict.fromkeys(manifest["versions"], "{version}")
    manifest["jobs_csv_sha256"] = "{sha256}"
    assert manifest == json.loads((GOLDEN / "manifest.json").read_text())


def test_the_manifest_meets_its_schema_and_names_the_hash_of_the_table(tmp_path: Path) -> None:
    report = report_of_example(tmp_path)
    manifest = Manifest.model_validate_json((report / "manifest.json").read_text())
    assert manifest.jobs_csv_sha256 == hashlib.sha256((report / "jobs.csv").read_bytes()).hexdigest()
    assert manifest.started <= manifest.finished
    assert manifest.started.utcoffset() is not None


def test_two_runs_with_the_same_input_differ_only_in_times(tmp_path: Path) -> None:
    first = report_of_example(tmp_path, "--overwrite=1")
    texts = [(first / name).read_text() for name in ("jobs.csv", "manifest.json")]
    again = report_of_example(tmp_path, "--overwrite=1")
    assert (again / "jobs.csv").read_text() == texts[0]
    assert TIMES.sub("", (again / "manifest.json").read_text()) == TIMES.sub("", texts[1])


def test_a_preview_has_a_report_too(tmp_path: Path) -> None:
    report = report_of_example(tmp_path, "--dry_run=1")
    assert not (tmp_path / "results").exists()
    assert json.loads((report / "manifest.json").read_text())["is_preview"] is True
    assert {path.name for path in report.iterdir()} == {"jobs.csv", "manifest.json", "report.html"}


def test_the_table_has_one_row_a_job_with_its_worker_and_file_name(world: World, tmp_path: Path) -> None:
    done = world.call(QUERY, "--file_extension=.nwb", f"--report_directory={tmp_path / 'report'}")
    rows = table(tmp_path / "report")
    assert [(row["worker"], row["file name"]) for row in rows] == [
        (folder, name) for folder, names in done.folders.items() for name in names
    ]
    assert [row["files"] for row in rows] == [job["file_location"][0] for job in done.jobs]


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
        ("behavior", "no matching file"),
        ("SmartSPIM", "no matching file"),
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


def test_text_that_utf8_cannot_hold_is_escaped_in_the_report(world: World, tmp_path: Path) -> None:
    world.records[0]["name"] = "\ud800"
    done = world.call("--docdb_query={}", "--skip_errors=1", f"--report_directory={tmp_path / 'report'}")
    assert done.returncode == 0
    skipped = json.loads((tmp_path / "report" / "manifest.json").read_text())["skipped"]
    assert [one["name"] for one in skipped] == ["\\ud800"]

"""With `-resume`, exactly those jobs are analysed that were not analysed before.

All tests share one lab, in which three assets and two parameter sets have been analysed; what a test adds is its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ANALYSIS, Finished, Lab, failed, succeeded

ASSETS = ("a", "c", "e")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lab, Finished]:
    lab = Lab(tmp_path_factory.mktemp("shared") / "lab")
    lab.assets(*ASSETS)
    return lab, lab.run()


@pytest.fixture
def first(shared: tuple[Lab, Finished]) -> Finished:
    """The first run of the lab."""
    return succeeded(shared[1])


@pytest.fixture
def lab(shared: tuple[Lab, Finished]) -> Iterator[Lab]:
    """The lab after its first run."""
    lab, _ = shared
    yield lab
    lab.assets(*ASSETS)
    lab.parameters({"threshold": 1}, {"threshold": 2})
    (lab.folder / "analysis.py").write_text(ANALYSIS)


def test_a_request_becomes_a_table_with_one_row_a_job(first: Finished, lab: Lab) -> None:
    assert len(first.analysed) == 6
    rows = [(row["asset_name"], row["parameters.threshold"], row["doubled"]) for row in lab.rows]
    assert rows == [(asset, str(set_), str(2 * set_)) for asset in ASSETS for set_ in (1, 2)]
    [row, *_] = lab.rows
    assert row["docdb_record_id"] == "id of a"
    assert row["s3_location"] == f"file://{lab.folder}/input/assets/a"
    assert row["parameters.cutoff"] == "0.5"


def test_each_job_leaves_its_results_and_what_made_them(first: Finished, lab: Lab) -> None:
    assert lab.published == {row["job"] for row in lab.rows}
    record = json.loads((lab.results / "analysis_results" / lab.rows[0]["job"] / "job.json").read_text())
    assert record["parameters"] == {"cutoff": 0.5, "threshold": 1}
    assert {"python", "aind-analysis-job-dispatch", "pydantic"} <= record["versions"].keys()
    assert "analysis.py" in record["files"]


def test_the_dispatchers_summary_is_shown_and_its_report_lies_beside_the_table(first: Finished, lab: Lab) -> None:
    assert "jobs     6 of 3 assets × 2 parameter sets" in first.output
    assert {"report.html", "jobs.csv", "manifest.json"} <= {path.name for path in lab.results.iterdir()}
    assert (lab.results / "analysis_summary" / "summary.txt").read_text() == "a a c c e e"


def test_the_same_request_again_analyses_nothing(first: Finished, lab: Lab) -> None:
    again = succeeded(lab.run())
    assert again.analysed == []
    assert len(again.ran("DISPATCH")) == 1
    assert lab.analysed_assets == ["a", "a", "c", "c", "e", "e"]


def test_neither_other_words_nor_another_number_of_workers_analyse_anything(first: Finished, lab: Lab) -> None:
    other_words = '{"name": {"$in": ["e", "c", "a"]}}'
    assert succeeded(lab.run("--num_parallel_workers=2", query=other_words)).analysed == []


def test_with_one_asset_more_exactly_its_jobs_are_analysed(first: Finished, lab: Lab) -> None:
    lab.assets("a", "b", "c", "e")
    analysed = succeeded(lab.run()).analysed
    assert {task.tag for task in analysed} == {row["job"] for row in lab.rows if row["asset_name"] == "b"}
    assert len(analysed) == 2


def test_with_one_parameter_set_more_only_that_is_analysed(first: Finished, lab: Lab) -> None:
    lab.parameters({"threshold": 1}, {"threshold": 1.5}, {"threshold": 2})
    analysed = succeeded(lab.run()).analysed
    assert {task.tag for task in analysed} == {row["job"] for row in lab.rows if row["parameters.threshold"] == "1.5"}
    assert len(analysed) == 3


def test_a_narrower_request_analyses_nothing_and_leaves_nothing_of_the_wider_one(first: Finished, lab: Lab) -> None:
    notes = lab.results / "analysis_results" / "my notes"
    notes.mkdir()
    page = (lab.results / "report.html").read_text()
    assert succeeded(lab.run(query='{"name": "c"}')).analysed == []
    assert lab.analysed_assets == ["c", "c"]
    assert lab.published == {row["job"] for row in lab.rows} | {notes.name}
    assert (lab.results / "report.html").read_text() != page
    assert json.loads((lab.results / "manifest.json").read_text())["query"] == {"name": "c"}
    assert (lab.results / "analysis_summary" / "summary.txt").read_text() == "c c"
    notes.rmdir()


def test_a_changed_analysis_analyses_all_and_its_results_replace_the_old_ones(first: Finished, lab: Lab) -> None:
    (lab.folder / "analysis.py").write_text(ANALYSIS.replace("picture.txt", "drawing.txt"))
    assert len(succeeded(lab.run()).analysed) == 6
    files = {path.name for path in (lab.results / "analysis_results").glob("*/*")}
    assert {"drawing.txt", "job.json", "log.txt"} <= files
    assert "picture.txt" not in files
    # Back again nothing runs, and what is published is once more what the older file made.
    (lab.folder / "analysis.py").write_text(ANALYSIS)
    assert succeeded(lab.run()).analysed == []
    files = {path.name for path in (lab.results / "analysis_results").glob("*/*")}
    assert "drawing.txt" not in files


def test_a_changed_parameter_of_all_jobs_analyses_all(first: Finished, lab: Lab) -> None:
    assert len(succeeded(lab.run("--set=cutoff=0.7")).analysed) == 6
    assert {row["parameters.cutoff"] for row in lab.rows} == {"0.7"}
    parameters = lab.folder / "input" / "analysis_parameters.json"
    parameters.write_text(parameters.read_text().replace("0.5", "0.6"))
    assert len(succeeded(lab.run()).analysed) == 6


def test_a_job_that_fails_stops_no_other_and_alone_runs_again(first: Finished, lab: Lab) -> None:
    lab.assets("a", "e", "f", "g")
    lab.parameters({"threshold": 1})
    broken = failed(lab.run(WRONG="f=raise"))
    assert [(task.status, task.exit) for task in broken.analysed if task.status != "COMPLETED"] == [("FAILED", "4")]
    [job] = [task.tag for task in broken.analysed if task.status == "FAILED"]
    assert f"error: job {job} (f): ValueError: no licks in this session (analysis.py:" in broken.output
    assert broken.last_line == "error: 1 failed, 3 jobs are done; -resume tries again only what failed"
    assert lab.analysed_assets == ["a", "e", "g"]
    record = json.loads((lab.results / "analysis_results" / job / "failed.json").read_text())
    assert record["reason"] == lab.reasons["f"].partition(" (")[0] == "ValueError: no licks in this session"
    counts = json.loads(lab.dispatch("status", "results", "--json", returncode=4))
    assert {name: counts[name] for name in ("done", "failed", "running", "left")} == {
        **{"done": 3, "failed": 1},
        **{"running": 0, "left": 0},
    }
    mended = succeeded(lab.run())
    assert [task.tag for task in mended.analysed] == [job]
    assert lab.analysed_assets == ["a", "e", "f", "g"]


@pytest.mark.parametrize(
    ("flag", "is_shown"),
    [
        ("--dry_run", "Preview: 6 jobs for 3 of 3 assets on 6 workers; nothing was written"),
        ("--describe=1", "3 assets in catalog"),
    ],
)
def test_a_preview_or_a_description_is_shown_and_touches_no_results(
    first: Finished, lab: Lab, flag: str, is_shown: str
) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path(lab.results).rglob("*")}
    # Without the detection of types a switch is a text, as it was written.
    preview = succeeded(lab.run(flag, NXF_DISABLE_PARAMS_TYPE_DETECTION="true"))
    assert [task.process for task in preview.tasks] == ["DISPATCH"]
    assert is_shown in preview.output
    assert {path: path.stat().st_mtime_ns for path in Path(lab.results).rglob("*")} == before

"""`job-dispatch status` and `collect`: each job is in exactly one state, and the table has them all."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from job_dispatch.results import commands
from job_dispatch.results.gathering import Results, Row, Status
from job_dispatch.results.status import estimate
from tests.results.conftest import Desk

GOLDEN = Path(__file__).parents[1] / "report" / "golden"


def test_status_names_failed_jobs_with_asset_reason_place_attempts_and_log(desk: Desk) -> None:
    desk.job("good")
    bad = desk.job("bad", "raise ValueError('no licks')")
    desk.run()
    desk.job("late")
    shown = desk.call("status")
    assert shown.code == 4
    lines = shown.stdout.splitlines()
    assert lines[0] == "3 jobs in analysis_results"
    assert [line.split()[:2] for line in lines[1:5]] == [
        ["done", "1"],
        ["failed", "1"],
        ["running", "0"],
        ["left", "1"],
    ]
    assert f"  {bad} (bad)" in lines
    reason = "ValueError: no licks (analysis.py:9 in analyse)"
    assert f"    {reason}; 1 attempt; log: analysis_results/{bad}/log.txt" in lines
    assert any(line.startswith("time     median ") for line in lines)
    assert any(line.startswith("left     about ") and "with 1 worker, by the number of jobs" in line for line in lines)
    status = desk.status()
    assert status["jobs"] == status["done"] + status["failed"] + status["running"] + status["left"] == 3
    assert status["failures"][0]["assets"] == ["bad"]


def test_damaged_records_and_a_table_of_somebody_else_do_not_end_the_status(desk: Desk) -> None:
    job = desk.job("good")
    desk.run()
    record = desk.place(job) / "job.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"parameters": [1]}))
    (desk.folder / "jobs.csv").write_bytes("file name,é\n".encode("latin-1"))
    shown = desk.call("status")
    assert shown.code == 3, shown.error
    assert shown.stdout.splitlines()[4].split()[:2] == ["left", "1"]


def test_the_table_has_a_row_for_each_job_with_its_state_subject_and_reason(desk: Desk) -> None:
    traits = {"subject": ["7", "7"], "session": ["2025-06-07T14:31:15Z", ""], "project": ["P", "Q"]}
    lists = {"asset_name": ["a", "b"], "s3_location": ["s3://b/a", "s3://b/b"], "docdb_record_id": ["1", "2"]}
    good = desk.job("good", "values['rate'] = 1.5; values['name'] = '=x'", **(lists | traits))
    bad = desk.job("bad", "raise ValueError('no licks')")
    desk.run()
    left = desk.job("left", distributed_parameters={"threshold": 3})
    assert desk.call("collect").code == 4
    rows = {row["job"]: row for row in desk.table()}
    assert {job: row["status"] for job, row in rows.items()} == {good: "done", bad: "failed", left: "left"}
    row = rows[good]
    assert (row["subject"], row["session"], row["project"]) == ("7", "2025-06-07T14:31:15Z", "P; Q")
    assert (row["asset_name"], row["rate"], row["name"]) == ("a; b", "1.5", "'=x")
    assert float(row["seconds"]) > 0
    assert rows[bad]["reason"].startswith("ValueError: no licks")
    assert rows[left]["parameters.threshold"] == "3"


def test_with_pyarrow_there_is_a_table_in_which_numbers_are_numbers(desk: Desk) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    desk.job("a", "values.update(rate=1.5, mixed=1, trace=[1, 2])")
    desk.job("b", "values.update(rate=2, mixed='none', trace=[3])")
    desk.job("c", "raise ValueError('no licks')")
    desk.run()
    table = parquet.read_table(desk.folder / "analysis_results" / "table.parquet").to_pydict()
    assert list(table) == list(desk.table()[0])
    assert table["status"] == ["done", "done", "failed"]
    assert table["rate"] == [1.5, 2.0, None]
    assert table["mixed"] == ["1", "none", ""]
    assert table["trace"] == ["[1, 2]", "[3]", ""]


@pytest.mark.parametrize(
    ("how", "code"), [("", 0), ("raise KeyError('letters')", 1), ("raise SystemExit", 1)], ids=["", "raise", "exit"]
)
@pytest.mark.long
def test_collect_calls_summarise_with_the_records_of_jobs_that_are_done(desk: Desk, how: str, code: int) -> None:
    desk.job("a")
    desk.job("bb")
    desk.job("bad", "raise ValueError")
    desk.run()
    (desk.folder / "summary.py").write_text(
        "def summarise(jobs, results):\n"
        f"    {how}\n"
        "    names = ' '.join(f\"{job['asset_name'][0]}{job['values']['letters']}\" for job in jobs)\n"
        "    (results / 'names.txt').write_text(names)\n"
    )
    process = desk.start("collect", "--summarise=summary.py")
    _, stderr = process.communicate()
    assert process.returncode == (code or 4)
    if code:
        assert "error: summarise over 2 jobs: " in stderr
    else:
        assert (desk.folder / "analysis_summary" / "names.txt").read_text() == "a1 bb2"


def test_status_works_on_what_the_nextflow_pipeline_publishes(desk: Desk) -> None:
    job = desk.job("a")
    desk.run()
    published = desk.folder / "published"
    published.mkdir()
    (desk.folder / "analysis_results").rename(published / "analysis_results")
    for note in (published / "analysis_results").glob(".jobs*"):
        note.unlink()
    # A report as the dispatcher writes it, of two jobs: the one that is done, and another.
    report = (GOLDEN / "jobs.csv").read_text().splitlines()[:3]
    report[1] = report[1].replace("{job 1}", job)
    (published / "jobs.csv").write_text("\n".join(report))
    shown = desk.call("status", "published", "--json")
    assert shown.code == 3
    status = json.loads(shown.stdout)
    assert (status["done"], status["left"]) == (1, 1)
    assert desk.call("collect", "published").code == 3
    with (published / "analysis_results" / "table.csv").open(newline="") as file:
        [left] = [row for row in csv.DictReader(file) if row["status"] == "left"]
    assert left["asset_name"] == next(csv.DictReader([report[0], report[2]]))["asset names"]
    assert left["subject"] == "774659"


def results(done: list[tuple[float, int | None]], left: list[int | None], workers: int = 1) -> Results:
    rows = [
        Row(str(number), Status.DONE, Path(), seconds=seconds, input_bytes=size)
        for number, (seconds, size) in enumerate(done)
    ]
    rows += [Row(f"left-{number}", Status.LEFT, Path(), input_bytes=size) for number, size in enumerate(left)]
    return Results(Path(), tuple(rows), workers)


def test_the_estimate_goes_by_the_size_of_inputs_where_all_are_known() -> None:
    by_size = estimate(results([(10, 100), (30, 300)], [200, 600], workers=2))
    assert by_size is not None
    assert (by_size.seconds, by_size.spread, by_size.basis) == (40.0, 0.0, "size")
    by_count = estimate(results([(10, 100), (30, None)], [200, 600], workers=2))
    assert by_count is not None
    assert (by_count.seconds, by_count.basis) == (20.0, "count")
    # Sample variance 200; two jobs to come and the mean of two: sqrt(200 × (2 + 2²/2)) seconds on one worker.
    assert by_count.spread == pytest.approx((200 * 4) ** 0.5 / 2)


def test_there_is_no_estimate_where_nothing_is_left_or_nothing_is_done() -> None:
    assert estimate(results([(10, 1)], [])) is None
    assert estimate(results([], [1])) is None


def test_an_error_that_nobody_thought_of_is_a_sentence_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> int:
        raise KeyError("job")

    monkeypatch.setitem(commands.VERBS, "status", fail)
    assert commands.main("status", []) == 1
    assert capsys.readouterr().err == "error: unexpected KeyError: 'job'\n"

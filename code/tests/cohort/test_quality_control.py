"""Quality control is judged as the released metadata schemas judge it, and decides which assets are analysed.

The verdicts in `quality_control_cases.jsonl` are not of this code: each line's `judge` names the release of
aind-data-schema and its method, which computed them from the same object, for all modalities together ("") and for
each alone.
"""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from job_dispatch.cohort import quality_control
from job_dispatch.cohort.quality_control import judge
from tests.both_sources import assert_refused, call_both, logged, make_world, record
from tests.conftest import Completed, World
from tests.gateway import Gateway

CASES = [json.loads(line) for line in (Path(__file__).parent / "quality_control_cases.jsonl").read_text().splitlines()]
NOW = datetime(2025, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['judge'][17:20]}: {case['title']}")
def test_the_verdict_is_that_of_the_released_schema(case: dict[str, Any]) -> None:
    verdicts = {
        modalities: judge(case, [one for one in modalities.split(",") if one], NOW) for modalities in case["verdicts"]
    }
    assert verdicts == case["verdicts"]


def test_the_cases_have_each_verdict_of_both_schemas_many_times() -> None:
    for schema in ("aind-data-schema 1.4", "aind-data-schema 2.9"):
        found = [value for case in CASES if case["judge"].startswith(schema) for value in case["verdicts"].values()]
        assert all(found.count(verdict) >= 10 for verdict in ("Pass", "Fail", "Pending"))


@pytest.mark.parametrize(
    "quality",
    [
        None,
        {},
        "text",
        [],
        {"evaluations": []},
        {"metrics": [], "status": {"ecephys": "Pass"}},
        {"evaluations": None, "metrics": "none"},
        {"metrics": [{"modality": {"abbreviation": "behavior"}, "status_history": [{"status": "Fail"}]}]},
        {"evaluations": [{"modality": None, "metrics": [{"status_history": [{"status": "Fail"}]}]}]},
    ],
)
def test_where_nothing_was_judged_of_a_modality_there_is_no_verdict(quality: Any) -> None:
    assert judge({"quality_control": quality}, ["ecephys"], NOW) == quality_control.NONE


@pytest.mark.parametrize("history", [[], None, [{"status": "unknown"}], [{"status": None}], "Pass"])
def test_what_the_schemas_would_refuse_neither_passes_nor_fails(history: Any) -> None:
    for quality in (
        {"metrics": [{"status_history": history}]},
        {"evaluations": [{"metrics": [{"status_history": history}]}]},
    ):
        assert judge({"quality_control": quality}, [], NOW) == quality_control.PENDING


def metrics(**statuses: str) -> dict[str, Any]:
    """Give a v2 quality control with one metric a modality."""
    return {
        "metrics": [
            {
                "name": "drift",
                "modality": {"name": modality, "abbreviation": modality},
                "value": {"large": list(range(100))},
                "status_history": [{"evaluator": "x", "status": status, "timestamp": "2024-05-01T00:00:00Z"}],
                "tags": {"probe": "A"},
            }
            for modality, status in statuses.items()
        ],
        "allow_tag_failures": [],
    }


def evaluations(status: str, allowed: bool = False) -> dict[str, Any]:
    history = [
        {"status": "Pending", "timestamp": "2024-05-01T00:00:00Z"},
        {"status": status, "timestamp": "2024-05-02T00:00:00Z"},
    ]
    return {
        "evaluations": [
            {
                "modality": {"abbreviation": "ecephys"},
                "metrics": [{"name": "drift", "status_history": history}],
                "allow_failed_metrics": allowed,
            }
        ]
    }


@pytest.fixture
def lab(gateway: Gateway, tmp_path: Path) -> World:
    world = make_world(gateway, tmp_path)
    world.records[:] = [
        record("a", quality_control=metrics(ecephys="Pass")),
        record("b", quality_control=metrics(ecephys="Fail")),
        record("c", quality_control=metrics(ecephys="Pending", behavior="Pass")),
        record("d", quality_control=evaluations("Pass")),
        record("e", quality_control=evaluations("Fail")),
        record("f", quality_control=evaluations("Fail", allowed=True)),
        record("g", quality_control=None),
        record("h"),
    ]
    return world


def names(completed: Completed) -> str:
    assert completed.returncode == 0, completed.stderr
    return "".join(sorted(job["asset_name"][0] for job in completed.jobs))


@pytest.mark.parametrize(("flag", "kept"), [("", "abcdefgh"), ("pass", "adf"), ("not_fail", "acdfgh")])
def test_quality_control_decides_on_docdb_and_on_a_catalog(lab: World, flag: str, kept: str) -> None:
    assert names(call_both(lab, "--docdb_query={}", f"--qc={flag}")) == kept


def test_what_is_left_out_is_told_and_named(lab: World, tmp_path: Path) -> None:
    done = call_both(lab, "--docdb_query={}", "--qc=pass", f"--report_directory={tmp_path}/report")
    assert "matched  8 assets\nskipped  5: 5 not passed by quality control;" in done.stdout
    told = "--qc=pass: 5 records skipped (Fail: 2 records, Pending: 1 record, no quality control: 2 records)"
    assert told in logged(done, "INFO")
    with (tmp_path / "report" / "skipped.csv").open() as file:
        reasons = {row["name"]: row["reason"] for row in csv.DictReader(file)}
    assert reasons == {
        "b": "quality control: Fail",
        "c": "quality control: Pending",
        "e": "quality control: Fail",
        "g": "no quality control",
        "h": "no quality control",
    }
    counts = json.loads((tmp_path / "report" / "manifest.json").read_text())["counts"]
    assert [counts[step] for step in ("records", "left by QC", "assets")] == [8, 3, 3]


def test_where_nothing_is_left_the_run_stops_and_says_what_there_is(lab: World) -> None:
    assert_refused(
        lab,
        call_both(lab, '--docdb_query={"name": {"$in": ["b", "c", "g"]}}', "--qc=pass"),
        "error: --qc=pass: quality control leaves none of 3 records",
        "  Fail: 1 record",
        "  Pending: 1 record",
        "  no quality control: 1 record",
    )


def test_a_row_of_a_table_whose_asset_fails_is_left_out_and_not_without_a_record(lab: World) -> None:
    (lab.input_directory / "data_asset_input.csv").write_text("name\ne\na\n")
    done = call_both(lab, "--use_data_asset_csv=1", "--qc=not_fail")
    assert names(done) == "a"
    assert "skipped  1: 1 not passed by quality control;" in done.stdout


def test_the_values_of_metrics_do_not_travel(lab: World) -> None:
    lab.call("--docdb_query={}", "--qc=pass")
    [projected] = [
        stage["$project"] for request in lab.gateway.requests for stage in request.body if "$project" in stage
    ]
    assert "quality_control.metrics.status_history.status" in projected
    assert not {"quality_control", "quality_control.metrics", "quality_control.metrics.value"} & projected.keys()


def test_assets_that_fail_are_not_listed(world: World) -> None:
    for number, one in enumerate(world.records):
        one["quality_control"] = metrics(ecephys="Pass" if number == 2 else "Fail")
    world.records[3]["location"] = "s3://no-such-bucket/at-all"
    done = world.call("--docdb_query={}", "--qc=pass", "--file_extension=.nwb")
    assert [job["docdb_record_id"] for job in done.jobs] == [[world.records[2]["_id"]]]


def test_only_the_modality_that_is_asked_for_is_judged(lab: World) -> None:
    for one in lab.records:
        one["data_description"] = {"modalities": [{"abbreviation": "ecephys"}, {"abbreviation": "behavior"}]}
    assert names(call_both(lab, "--modality=ecephys", "--qc=pass")) == "adf"
    assert names(call_both(lab, "--modality=behavior", "--qc=pass")) == "c"
    assert names(call_both(lab, "--modality=behavior,ecephys", "--qc=pass")) == "adf"
    assert names(call_both(lab, "--modality=behavior", "--qc=not_fail")) == "abcdefgh"

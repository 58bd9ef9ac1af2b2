"""A table selects the same on DocDB and on a catalog, by whatever it names, and gives rows parameters of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from tests.both_sources import assert_refused, call_both, logged, make_world, record
from tests.conftest import BUCKET, Completed, World
from tests.gateway import Gateway, Record

TABLE = "--use_data_asset_csv=1"
MOUSE, OTHER = "774659", "643634"


def session_record(record_id: str, subject: str, start: str, version: str = "v1", **more: Any) -> Record:
    key = "session" if version == "v1" else "acquisition"
    return record(record_id, subject={"subject_id": subject}, **{key: {f"{key}_start_time": start}}, **more)


@pytest.fixture
def lab(gateway: Gateway, tmp_path: Path) -> World:
    world = make_world(gateway, tmp_path)
    world.records[:] = [
        session_record("a_raw", MOUSE, "2025-06-07T14:31:15-07:00"),
        session_record("a_sorted", MOUSE, "2025-06-07T21:31:15Z", "v2"),
        session_record("b_raw", MOUSE, "2025-06-07T23:00:00-07:00"),
        session_record("c_raw", OTHER, "2025-06-07T14:31:15"),
        record("d_without", subject=None, location=f"s3://{BUCKET}/d_without/"),
    ]
    return world


def write(world: World, *lines: str) -> None:
    (world.input_directory / "data_asset_input.csv").write_text("\n".join(lines))


def names(completed: Completed) -> list[str]:
    assert completed.returncode == 0, completed.stderr
    return [job["asset_name"][0] for job in completed.jobs]


def sets(completed: Completed) -> list[tuple[str, Any]]:
    return [(job["asset_name"][0], job.get("distributed_parameters")) for job in completed.jobs]


@pytest.mark.parametrize(
    "rows",
    [
        ["name", "d_without", "a_raw"],
        ["docdb_record_id", "d_without", "a_raw"],
        ["location", f"s3://{BUCKET}/d_without", f"s3://{BUCKET}/a_raw/"],
    ],
    ids=lambda rows: str(rows[0]),
)
def test_names_record_ids_and_locations_select_in_the_order_of_the_table(lab: World, rows: list[str]) -> None:
    write(lab, *rows)
    assert names(call_both(lab, TABLE)) == ["d_without", "a_raw"]


def test_a_relative_location_is_found_in_a_catalog_that_names_its_folders_so(lab: World, tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / "assets" / name).mkdir(parents=True)
    records = [{**record(name), "location": f"assets/{name}"} for name in ("x", "y")]
    write(lab, "location", "assets/y")
    assert names(lab.run_catalog(records, TABLE)) == ["y"]
    write(lab, "location", f"file://{tmp_path}/assets/x/")
    assert names(lab.call(f"--metadata_catalog={lab.catalog}", TABLE, "--overwrite=1")) == ["x"]


@pytest.mark.parametrize(
    ("session", "found"),
    [
        ("2025-06-07", ["a_raw", "b_raw", "a_sorted"]),
        ("2025-06-07 21:31", ["a_raw", "a_sorted"]),
        ("2025-06-07T14:31:15-07:00", ["a_raw", "a_sorted"]),
        ("2025-06-08T06:00Z", ["b_raw"]),
    ],
)
def test_a_session_is_matched_by_the_day_of_its_own_clock_or_by_the_instant(
    lab: World, session: str, found: list[str]
) -> None:
    # a_sorted names its start in UTC, where it is the same day.
    write(lab, "Subject ID;Session", f"{MOUSE};{session}")
    done = call_both(lab, TABLE)
    assert sorted(names(done)) == sorted(found)
    told = [
        line for line in done.stderr.splitlines() if "sessions with several records, all of which are taken:" in line
    ]
    assert len(told) == (len(found) > 1)


def test_a_time_that_names_no_zone_is_utc_in_the_table_and_in_the_record(lab: World) -> None:
    write(lab, "subject_id,session", f"{OTHER},2025-06-07 14:31:15")
    assert names(call_both(lab, TABLE)) == ["c_raw"]
    write(lab, "subject_id,session", f"{OTHER},2025-06-07 16:31:15+02:00")
    assert names(call_both(lab, TABLE)) == ["c_raw"]


def test_what_no_record_fits_is_told_with_its_line_and_the_nearest_that_one_does(lab: World) -> None:
    for number, one in enumerate(lab.records):
        one["external_links"] = {"Code Ocean": [f"50fa9416-4e21-482f-8901-00000000000{number}"]}
    for rows, detail in (
        (["name", "a_raw", "a_sorteb"], "line 3: a_sorteb (did you mean a_sorted?)"),
        (["name", "A_RAW", "b_raw"], "line 2: A_RAW (did you mean a_raw?)"),
        (
            ["asset_id", "50fa9416-4e21-482f-8901-000000000003", "50fa9416-4e21-482f-8902-000000000003"],
            "line 3: 50fa9416-4e21-482f-8902-000000000003 (did you mean 50fa9416-4e21-482f-8901-000000000003?)",
        ),
        (
            ["subject_id,session", f"{OTHER},2025-06-07", f"{MOUSE},2025-06-17"],
            f"line 3: {MOUSE}, 2025-06-17 (did you mean 2025-06-07?)",
        ),
        (
            ["subject_id,session", f"{OTHER},2025-06-07", "774658,2025-06-07"],
            "line 3: 774658, 2025-06-07 (did you mean 774659?)",
        ),
        (["location", f"s3://{BUCKET}/a_raw", "xyz"], "line 3: xyz"),
    ):
        write(lab, *rows)
        done = call_both(lab, TABLE)
        noun = {"asset_id": "id", "subject_id,session": "session"}.get(rows[0], rows[0])
        assert_refused(
            lab,
            done,
            f"error: data_asset_input.csv: 1 of 2 {noun}s without a record; --skip_errors=1 skips them",
            f"  {detail}",
        )


# Parameters of rows


def test_parameters_of_a_row_stand_between_fixed_ones_and_sets_of_which_the_own_value_wins(lab: World) -> None:
    (lab.input_directory / "analysis_parameters.json").write_text(
        json.dumps(
            {
                "fixed_parameters": {"threshold": 0, "bin": 1},
                "distributed_parameters": [{"method": "x"}, {"method": "y", "threshold": 9}],
            }
        )
    )
    write(lab, "name,parameters.threshold,parameters.label", "a_raw,0.5,left", "b_raw,,", "a_raw,0.7,")
    done = call_both(lab, TABLE, "--tasks_per_job=1")
    assert sets(done) == [
        ("a_raw", {"threshold": 0.5, "label": "left", "method": "x"}),
        ("a_raw", {"threshold": 9, "label": "left", "method": "y"}),
        ("a_raw", {"threshold": 0.7, "method": "x"}),
        ("a_raw", {"threshold": 9, "method": "y"}),
        ("b_raw", {"method": "x"}),
        ("b_raw", {"method": "y", "threshold": 9}),
    ]
    assert all(job["fixed_parameters"] == {"threshold": 0, "bin": 1} for job in done.jobs)


def test_rows_have_parameters_without_any_parameters_file(lab: World) -> None:
    write(lab, "name;parameters.threshold", "a_raw;0,5", "b_raw;")
    assert sets(call_both(lab, TABLE, "--tasks_per_job=1")) == [("a_raw", {"threshold": 0.5}), ("b_raw", None)]


def test_rows_of_a_group_with_other_parameters_are_jobs_of_their_own(lab: World) -> None:
    write(lab, "name,parameters.a", "a_raw,1", "b_raw,1", "a_sorted,2", "c_raw,1")
    done = call_both(lab, TABLE, "--group_by=subject.subject_id", "--tasks_per_job=1")
    assert [(job["asset_name"], job["distributed_parameters"], job["group_metadata"]) for job in done.jobs] == [
        (["c_raw"], {"a": 1}, {"subject__subject_id": OTHER}),
        (["a_raw", "b_raw"], {"a": 1}, {"subject__subject_id": MOUSE}),
        (["a_sorted"], {"a": 2}, {"subject__subject_id": MOUSE}),
    ]


def test_rows_are_checked_against_the_schema_and_named_by_their_line(lab: World) -> None:
    (lab.input_directory / "schema.json").write_text(
        json.dumps({"properties": {"a": {"type": "number"}, "m": {}}, "additionalProperties": False})
    )
    parameters = lab.input_directory / "analysis_parameters.json"
    parameters.write_text(json.dumps({"distributed_parameters": [{"m": 1}, {"a": 2}]}))
    write(lab, "# mice", "name,parameters.a,parameters.n", "a_raw,1,", "b_raw,high,", "c_raw,3,4")
    assert_refused(
        lab,
        call_both(lab, TABLE, "--parameter_schema=schema.json"),
        f"error: {parameters} and data_asset_input.csv: parameter sets break the schema"
        f" {lab.input_directory}/schema.json",
        '  line 4, set 1, a: "high" is not of type "number"',
        "  line 5, set 1, n: no such field; known are a, m",
        "  line 5, set 2, n: no such field; known are a, m",
    )


# Together with a query


def test_a_workbook_and_a_query_are_joined_by_and(lab: World) -> None:
    workbook = openpyxl.Workbook()
    for row in (["Subject ID", "Session"], [int(MOUSE), "2025-06-07"], [int(OTHER), "2025-06-07"]):
        workbook.worksheets[0].append(row)
    workbook.save(lab.input_directory / "data_asset_input.xlsx")
    done = call_both(lab, TABLE, '--docdb_query={"name": {"$regex": "^a_"}}', "--tasks_per_job=1")
    assert names(done) == ["a_raw", "a_sorted"]
    assert "skipped  1: 1 not selected by the query;" in done.stdout
    assert any("1 session skipped: not selected by the query" in line for line in logged(done, "INFO"))


@pytest.mark.long
def test_a_table_of_thousands_of_rows_reads_a_catalog_once(lab: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from job_dispatch.metadata.catalog import Catalog

    asked = []
    find = Catalog.find

    def counted(self: Catalog, query: Any, fields: Any) -> Any:
        asked.append(query)
        return find(self, query, fields)

    monkeypatch.setattr(Catalog, "find", counted)
    records = [record(f"r{number:04d}") for number in range(3_000)]
    write(lab, "name", *(one["name"] for one in reversed(records)))
    done = lab.call(f"--metadata_catalog={lab.write_catalog(records)}", TABLE, "--tasks_per_job=1")
    assert names(done) == [one["name"] for one in reversed(records)]
    assert len(asked) == 1


def test_a_table_and_the_flags_that_select_without_a_query_are_joined_by_and(lab: World) -> None:
    write(lab, "name", "a_raw", "b_raw", "c_raw", "a_sorted")
    for flags, found in (
        ((f"--subject={OTHER}",), ["c_raw"]),
        (("--from=2025-06-07", "--to=2025-06-07", f"--subject={MOUSE}"), ["a_raw", "b_raw", "a_sorted"]),
        (("--from=2025-06-08",), None),
    ):
        done = call_both(lab, TABLE, *flags, "--tasks_per_job=1")
        if found is None:
            assert "error: no record fits both data_asset_input.csv and the query" in done.stderr
        else:
            assert names(done) == found


def test_a_pair_has_the_parameters_of_the_row_of_its_derived_asset(lab: World) -> None:
    for number, (derived, raw) in enumerate((("a_sorted", "a_raw"), ("b_sorted", "b_raw"))):
        lab.records.append(session_record(f"{derived}_{number}", MOUSE, "2025-06-07T21:31:15Z"))
        lab.records[-1]["data_description"] = {"input_data_name": raw, "data_level": "derived"}
    write(lab, "name,parameters.a", "a_sorted_0,1", "b_sorted_1,2", "a_sorted_0,3")
    done = call_both(lab, TABLE, "--with_raw=1", "--tasks_per_job=1")
    assert [(job["asset_name"], job["distributed_parameters"]) for job in done.jobs] == [
        (["a_sorted_0", "a_raw"], {"a": 1}),
        (["a_sorted_0", "a_raw"], {"a": 3}),
        (["b_sorted_1", "b_raw"], {"a": 2}),
    ]

"""What cannot be done is said in one block at the end of stderr, with exit code 2, and writes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from job_dispatch.request import flags
from tests.conftest import BUCKET, DESCRIPTION, World, assert_refused, asset_id

NO_PARAMETERS = "none of fixed_parameters, distributed_parameters, parameter_grid, parameter_zip found"
PARAMETERS_FORM = (
    '  expected form: {"fixed_parameters": {"name": value, …},',
    '                  "distributed_parameters": [{"name": value, …}, …],',
    '                  "parameter_grid": {"name": [value, …], …},',
    '                  "parameter_zip": {"name": [value, …], …}}',
)


def write(world: World, name: str, text: str) -> Path:
    path = world.input_directory / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


# Flags


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--worker=3", "unrecognized arguments: --worker=3"),
        ("--docdb_q={}", "unrecognized arguments: --docdb_q={}; did you mean --docdb_query?"),
        ("results", "unrecognized arguments: results"),
        ("--docdb_query", "--docdb_query: expected one argument"),
        ("--num_parallel_workers=0", "--num_parallel_workers: '0' is not a whole number from 1"),
        ("--num_parallel_workers=-3", "--num_parallel_workers: '-3' is not a whole number from 1"),
        ("--num_parallel_workers=2.0", "--num_parallel_workers: '2.0' is not a whole number from 1"),
        ("--num_parallel_workers=٣", "--num_parallel_workers: '٣' is not a whole number from 1"),
        ("--tasks_per_job=0", "--tasks_per_job: '0' is not a whole number from 1"),
        ("--tasks_per_job=-1", "--tasks_per_job: '-1' is not a whole number from 1"),
        ("--max_number_of_tasks_dispatched=0", "--max_number_of_tasks_dispatched: '0' is not a whole number from 1"),
        ("--max_number_of_tasks_dispatched=-1", "--max_number_of_tasks_dispatched: '-1' is not a whole number from 1"),
        ("--split_files=yes", "--split_files: 'yes' is neither 0 nor 1"),
        ("--with_raw=2", "--with_raw: '2' is neither 0 nor 1"),
        ("--overwrite=on", "--overwrite: 'on' is neither 0 nor 1"),
        ("--skip_errors=-1", "--skip_errors: '-1' is neither 0 nor 1"),
        ("--log_level=LOUD", "--log_level: 'LOUD' is none of DEBUG, INFO, WARNING, ERROR"),
        ("--docdb_host=a b", "--docdb_host: not a host name such as api.allenneuraldynamics.org"),
        ("--docdb_host=me:secret@host", "--docdb_host: not a host name such as api.allenneuraldynamics.org"),
        ("--docdb_version=v1/x", "--docdb_version: 'v1/x' is not a name of letters, digits, '_', '-' and '.'"),
        ("--docdb_database=a/b", "--docdb_database: 'a/b' is not a name of letters, digits, '_', '-' and '.'"),
        ("--docdb_collection=a b", "--docdb_collection: 'a b' is not a name of letters, digits, '_', '-' and '.'"),
        ("--file_extension=*", "--file_extension: '*' is not the ending of a file name; give one such as .nwb"),
        ("--file_extension=,", "--file_extension: ',' names no ending; give one such as .nwb"),
        ("--file_extension=a/b", "--file_extension: 'a/b' is not the ending of a file name; give one such as .nwb"),
    ],
)
def test_a_wrong_flag_is_named_with_what_it_takes(desk: World, flag: str, message: str) -> None:
    assert_refused(desk, desk.call("--docdb_query={}", flag), f"error: {message}")


def test_a_count_may_follow_its_flag_after_a_blank_also_where_it_is_negative(desk: World) -> None:
    completed = desk.call("--docdb_query={}", "--tasks_per_job", "-1")

    assert_refused(desk, completed, "error: --tasks_per_job: '-1' is not a whole number from 1")


def test_a_wrong_flag_leaves_the_process_with_2_and_without_the_usage(desk: World) -> None:
    completed = desk.run("--num_parallel_workers=0")

    assert completed.stderr == "error: --num_parallel_workers: '0' is not a whole number from 1\n"
    assert_refused(desk, completed, *completed.stderr.splitlines())


def flags_with_a_value() -> list[str]:
    return [f"--{name}" for name in flags.declared()]


@pytest.mark.parametrize("flag", flags_with_a_value())
@pytest.mark.parametrize("blank", ["", "  "])
def test_a_blank_value_is_the_default_since_an_app_panel_passes_its_empty_fields(
    flag: str, blank: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DOCDB_HOST", raising=False)
    monkeypatch.setenv("DOCDB_VERSION", "  ")

    assert flags.parse([flag, blank], "") == flags.parse([], "")


@pytest.mark.parametrize("flag", ["--docdb_query={}", "--use_data_asset_csv=1"])
def test_a_missing_input_folder_is_said_since_the_parameters_may_be_meant_to_lie_there(desk: World, flag: str) -> None:
    missing = desk.input_directory / "missing"

    completed = desk.call(flag, f"--input_directory={missing}")

    assert_refused(desk, completed, f"error: --input_directory: no such folder: {missing}")
    assert desk.gateway.requests == []


def test_a_host_in_the_environment_that_is_none_is_named_by_its_variable_without_its_password(
    desk: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCDB_HOST", "https://me:secret@host")

    assert_refused(
        desk,
        desk.call("--docdb_query={}", "--docdb_host="),
        "error: environment variable DOCDB_HOST: not a host name such as api.allenneuraldynamics.org",
    )


# Query


def test_neither_query_nor_csv(desk: World) -> None:
    message = (
        "error: no assets selected: give --subject, --project, --modality, --from, --to or --docdb_query,"
        " or --use_data_asset_csv=1 with a CSV of asset ids"
    )

    assert_refused(desk, desk.call(), message)
    assert_refused(desk, desk.call("--docdb_query=", "--use_data_asset_csv="), message)


def test_a_broken_query_is_shown_where_reading_it_stopped(desk: World) -> None:
    completed = desk.run('--docdb_query={"subject.subject_id": "774659"')

    assert_refused(
        desk,
        completed,
        'error: --docdb_query: not readable: expected , or } at line 1, column 32, near: ubject_id": "774659"',
    )


def test_a_broken_query_file_is_named_with_the_line(desk: World) -> None:
    path = write(desk, "query.json", '{\n  "name": "a",\n  "subject.subject_id": ["774659"\n}\n')

    assert_refused(
        desk,
        desk.call("--docdb_query=query.json"),
        f"error: {path}: not readable: expected , or ] at line 4, column 1, near: }}",
    )


def test_a_line_is_counted_from_the_top_of_the_file_blank_lines_too(desk: World) -> None:
    path = write(desk, "query.json", '\n\n{\n  "name": ["a"\n}\n')

    assert_refused(
        desk,
        desk.call("--docdb_query=query.json"),
        f"error: {path}: not readable: expected , or ] at line 5, column 1, near: }}",
    )


def test_a_pipeline_that_does_more_than_select_is_refused_by_its_step(desk: World) -> None:
    assert_refused(
        desk,
        desk.call('--docdb_query=[{"$match": {"subject.subject_id": "774659"}}, {"$sort": {"created": 1}}]'),
        "error: --docdb_query: an aggregation pipeline with the step $sort is not supported;"
        " give the object of its $match alone",
    )


def test_a_missing_query_file_is_named_with_the_places_looked_in(desk: World) -> None:
    completed = desk.run("--docdb_query=query.json")

    assert_refused(
        desk,
        completed,
        "error: --docdb_query: no such file: query.json;"
        " give a query that starts with {, or the path of a file with one",
        "  looked for query.json",
        f"  looked for {desk.input_directory}/query.json",
        f"  looked for {desk.input_directory}/input_files/query.json",
    )


@pytest.mark.parametrize("text", ["774659", '"774659"', "null", "true"])
def test_a_query_file_that_holds_no_object_is_refused_with_an_example(desk: World, text: str) -> None:
    path = write(desk, "query.json", text)

    assert_refused(
        desk,
        desk.call("--docdb_query=query.json"),
        f'error: {path}: no filter found; a query is an object such as {{"subject.subject_id": "774659"}}',
    )


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        pytest.param('{"a": 1, "a": 2}', "the key 'a' occurs twice in one object; keep one of the two", id="twice"),
        pytest.param("{'a': 1, 'a': 2}", "the key 'a' occurs twice in one object; keep one of the two", id="twice, py"),
        pytest.param("{a: 1, a: 2}", "the key 'a' occurs twice in one object; keep one of the two", id="twice, JSON5"),
        pytest.param(
            '{"name": {"$in": ["a"\n "b"]}}', 'a comma is missing between "a" and "b" (line 2)', id="adjacent strings"
        ),
        pytest.param("{1: 'a'}", "the key 1 is not a string; put it in quotes", id="number as key"),
        pytest.param("{None: 'a'}", "the key None is not a string; put it in quotes", id="None as key"),
        pytest.param(
            "{'$in': {'a', 'b'}}", "a set has no place in JSON: {'a', 'b'}; use a list in [ ]", id="set instead of list"
        ),
        pytest.param("{'a': b'x'}", "a bytes string has no place in JSON: b'x'", id="bytes"),
        pytest.param('{"a": NaN}', "a is NaN, which JSON cannot hold", id="NaN"),
        pytest.param('{"a": {"$gt": [0, -Infinity]}}', "a.$gt[1] is infinity, which JSON cannot hold", id="infinity"),
        pytest.param('{"a": 1e999}', "a is infinity, which JSON cannot hold", id="a number too large"),
        pytest.param(
            "{a: '\\d'}", "\\d is not an escape of JSON; write \\\\d for a backslash", id="a backslash JSON5 would drop"
        ),
        pytest.param(
            '{"a": "\\ud800"}', "a is text with a lone surrogate, which JSON cannot hold", id="half of a character"
        ),
        *(
            pytest.param(text, "nested too deep to read; at most 100 levels are accepted", id=f"too deep, {name}")
            for name, text in {
                "a little": '{"a":' * 102 + "1" + "}" * 102,
                "far": "[" * 100_000,
                "Python": "{'a': " * 2_000 + "1" + "}" * 2_000,
            }.items()
        ),
    ],
)
def test_what_json_cannot_hold_is_refused_with_its_reason(desk: World, query: str, problem: str) -> None:
    assert_refused(desk, desk.call(f"--docdb_query={query}"), f"error: --docdb_query: {problem}")


def test_a_query_without_a_match_is_shown_as_it_was_understood(desk: World) -> None:
    completed = desk.call("--docdb_query={'name': 'nobody', }")

    error, condition = completed.stderr.splitlines()[-2:]
    assert error == "error: no record matches the query"
    assert condition.startswith('  name = "nobody"   0 records   values there: ')
    assert_refused(desk, completed, error, condition)


# CSV


def test_no_csv_is_said_with_the_places_looked_in(desk: World) -> None:
    assert_refused(
        desk,
        desk.call("--use_data_asset_csv=1"),
        f"error: --use_data_asset_csv: no data_asset_input.csv (nor .xlsx, .tsv) in {desk.input_directory}"
        " or its input_files/",
    )


def test_two_csv_files_are_listed_instead_of_guessed_between(desk: World) -> None:
    write(desk, "monday.csv", "asset_id\na\n")
    write(desk, "Tuesday.CSV", "asset_id\nb\n")

    assert_refused(
        desk,
        desk.call("--use_data_asset_csv=1"),
        f"error: --use_data_asset_csv: several CSV files in {desk.input_directory};"
        " name the one to use data_asset_input.csv",
        "  Tuesday.CSV",
        "  monday.csv",
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param(
            "id,label\n1,2\n",
            [
                "no column 'asset_id' (columns: id, label)",
                "  'name', 'docdb_record_id', 'location', or 'subject_id' with 'session' can select assets as well",
            ],
            id="no such column",
        ),
        pytest.param("", ["the file is empty; it needs a column 'asset_id'"], id="empty"),
        pytest.param("\ufeff\n \n", ["the file is empty; it needs a column 'asset_id'"], id="blank lines only"),
        pytest.param("# a note\n", ["the file is empty; it needs a column 'asset_id'"], id="comments only"),
        pytest.param("asset_id\n", ["no ids in column 'asset_id'"], id="header only"),
        pytest.param(
            'name,asset_id\na, \nb,""\n',
            ["no ids in column 'asset_id'", "  line 2: a", "  line 3: b"],
            id="blank cells only",
        ),
    ],
)
def test_a_csv_without_ids_is_refused_with_what_it_lacks(desk: World, text: str, problem: list[str]) -> None:
    write(desk, "data_asset_input.csv", text)

    headline, *details = problem
    assert_refused(desk, desk.call("--use_data_asset_csv=1"), f"error: data_asset_input.csv: {headline}", *details)


def test_a_csv_that_is_no_text_is_refused_with_the_remedy(desk: World) -> None:
    (desk.input_directory / "data_asset_input.csv").write_bytes(b"asset_id\na\x81\x8d\n")

    assert_refused(
        desk,
        desk.call("--use_data_asset_csv=1"),
        f"error: {desk.input_directory}/data_asset_input.csv: neither UTF-8, UTF-16 nor Windows-1252 text;"
        " save it as CSV UTF-8 or as .xlsx",
    )


def write_ids(world: World, *ids: str) -> None:
    write(world, "data_asset_input.csv", "".join(f"{line}\n" for line in ("asset_id", *ids)))


def test_ids_without_a_record_are_listed_and_names_and_record_ids_among_them_get_their_asset_id(desk: World) -> None:
    first, _, third = desk.records
    write_ids(desk, asset_id(1), "unknown", first["name"], first["_id"], third["name"])

    assert_refused(
        desk,
        desk.call("--use_data_asset_csv=1"),
        "error: data_asset_input.csv: 4 of 5 ids without a record; --skip_errors=1 skips them",
        "  line 3: unknown",
        f"  line 4: {first['name']} (the name of an asset; its asset_id is {asset_id(0)})",
        f"  line 5: {first['_id']} (the _id of a record; its asset_id is {asset_id(0)})",
        f"  line 6: {third['name']} (the name of an asset, which has no asset_id)",
    )


def test_at_most_20_ids_without_a_record_are_listed_with_a_count_of_the_rest(desk: World) -> None:
    write_ids(desk, asset_id(0), *(f"unknown-{number:04d}" for number in range(1_500)))

    assert_refused(
        desk,
        desk.call("--use_data_asset_csv=1"),
        "error: data_asset_input.csv: 1,500 of 1,501 ids without a record; --skip_errors=1 skips them",
        *(f"  line {number + 3}: unknown-{number:04d}" for number in range(20)),
        "  … and 1,480 more",
    )


def test_skip_errors_goes_on_without_ids_that_have_no_record(desk: World) -> None:
    write_ids(desk, "unknown", asset_id(1))

    completed = desk.call("--use_data_asset_csv=1", "--skip_errors=1")

    assert completed.returncode == 0, completed.stderr
    assert (
        " WARNING data_asset_input.csv: 1 of 2 ids without a record; skipped:\n  line 2: unknown\n" in completed.stderr
    )
    assert "skipped  1: 1 without a record;" in completed.stdout
    assert [job["asset_id"] for job in completed.jobs] == [[asset_id(1)]]


def test_an_id_with_several_records_gives_all_of_them_by_name_with_a_warning(desk: World) -> None:
    desk.records[2]["external_links"] = {"Code Ocean": [asset_id(0)]}
    write_ids(desk, asset_id(1), asset_id(0))

    completed = desk.call("--use_data_asset_csv=1", "--num_parallel_workers=1")

    assert completed.returncode == 0, completed.stderr
    assert (
        " WARNING data_asset_input.csv: ids with several records, all of which are taken:\n"
        f"  {asset_id(0)}: 2 records\n" in completed.stderr
    )
    assert sorted((job["asset_name"][0], job["asset_id"][0]) for job in completed.jobs) == [
        (DESCRIPTION, asset_id(0)),
        (f"{DESCRIPTION}_processed_a", asset_id(0)),
        (f"{DESCRIPTION}_processed_b", asset_id(1)),
    ]


# Parameters


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param(
            '{\n "fixed_parameters": {\n  "cutoff" 0.05\n }\n}',
            'not readable: expected : at line 3, column 12, near:   "cutoff" 0.05',
            id="broken",
        ),
        pytest.param("", "is empty; it must hold an object in { }", id="empty"),
        pytest.param(
            '{"distributed_parameters": [{"a": 1}, {"b": [0, NaN]}]}',
            "distributed_parameters[1].b[1] is NaN, which JSON cannot hold",
            id="NaN",
        ),
        pytest.param(
            "{'fixed_parameters': {'cutoff': nan}}",
            "fixed_parameters.cutoff is NaN, which JSON cannot hold",
            id="NaN of Python",
        ),
        pytest.param(
            "{'fixed_parameters': {'cutoff': -1e999}}",
            "fixed_parameters.cutoff is infinity, which JSON cannot hold",
            id="infinity",
        ),
        pytest.param(
            '{"fixed_parameters": {"a": 1, "a": 1}}',
            "the key 'a' occurs twice in one object; keep one of the two",
            id="key twice",
        ),
    ],
)
def test_an_unreadable_parameters_file_is_named_with_the_place_in_it(desk: World, text: str, problem: str) -> None:
    path = write(desk, "analysis_parameters.json", text)

    assert_refused(desk, desk.call("--docdb_query={}"), f"error: {path}: {problem}")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"distributed_parameters": {"a": 1}}, "distributed_parameters must be a list of objects, not an object"),
        ({"distributed_parameters": "a"}, "distributed_parameters must be a list of objects, not a text"),
        ({"distributed_parameters": [{"a": 1}, 2]}, "distributed_parameters[1] must be an object, not a number"),
        ({"distributed_parameters": [None]}, "distributed_parameters[0] must be an object, not null"),
        ({"fixed_parameters": [{"a": 1}]}, "fixed_parameters must be an object, not a list"),
        ({"fixed_parameters": False}, "fixed_parameters must be an object, not true or false"),
        ({"cutoff": 0.05}, "unknown key 'cutoff'"),
        ({}, NO_PARAMETERS),
        ([{"cutoff": 0.05}], NO_PARAMETERS),
    ],
    ids=json.dumps,
)
def test_parameters_of_another_shape_are_refused_with_the_expected_one(desk: World, value: Any, problem: str) -> None:
    path = write(desk, "analysis_parameters.json", json.dumps(value))

    assert_refused(desk, desk.call("--docdb_query={}"), f"error: {path}: {problem}", *PARAMETERS_FORM)


# Output folder


def test_an_output_folder_that_is_a_file_is_refused_before_the_first_request(desk: World, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("mine", encoding="utf-8")

    completed = desk.call("--docdb_query={}", f"--output_directory={file}")

    assert_refused(desk, completed, f"error: --output_directory: not a folder: {file}")
    assert file.read_text(encoding="utf-8") == "mine"
    assert desk.gateway.requests == []


@pytest.mark.parametrize(
    ("name", "reason"), [("notes.txt/results", "Not a directory"), ("x" * 300, "File name too long")]
)
def test_an_output_folder_that_cannot_be_made_is_refused(desk: World, tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "notes.txt").touch()

    completed = desk.call("--docdb_query={}", f"--output_directory={tmp_path / name}")

    assert_refused(desk, completed, f"error: --output_directory: {tmp_path / name}: {reason}")


def test_an_output_folder_that_a_failed_run_has_made_is_taken_away(desk: World, tmp_path: Path) -> None:
    completed = desk.call('--docdb_query={"name": "nobody"}', f"--output_directory={tmp_path / 'made'}")

    assert completed.returncode == 2
    assert not (tmp_path / "made").exists()


def job_file(folder: Path) -> Path:
    folder.mkdir(parents=True)
    path = folder / "3fbd0e2a-6a1c-5a63-9a39-0f5b6a2c7b11.json"
    path.write_text("{}", encoding="utf-8")
    return path


def test_worker_folders_of_an_earlier_run_are_listed_and_kept(desk: World, tmp_path: Path) -> None:
    output = tmp_path / "earlier"
    kept = [job_file(output / "0"), job_file(output / "1")]

    completed = desk.call("--docdb_query={}", f"--output_directory={output}")

    assert_refused(
        desk,
        completed,
        f"error: --output_directory: {output} holds worker folders of an earlier run; --overwrite=1 replaces them",
        "  0",
        "  1",
    )
    assert sorted(output.rglob("*.json")) == kept
    assert sorted(path.name for path in output.iterdir()) == ["0", "1"]


@pytest.mark.parametrize("overwrite", ["0", "1"])
@pytest.mark.parametrize("foreign", ["2/notes.txt", "2/sub/3fbd0e2a-6a1c-5a63-9a39-0f5b6a2c7b11.json", "2"])
def test_what_is_only_named_like_a_worker_folder_is_never_touched(
    desk: World, tmp_path: Path, overwrite: str, foreign: str
) -> None:
    output = tmp_path / "shared"
    earlier = job_file(output / "0")
    (output / foreign).parent.mkdir(parents=True, exist_ok=True)
    (output / foreign).write_text("mine", encoding="utf-8")
    before = sorted(output.rglob("*"))

    completed = desk.call("--docdb_query={}", f"--output_directory={output}", f"--overwrite={overwrite}")

    assert_refused(
        desk,
        completed,
        f"error: --output_directory: {output} holds entries that are named like worker folders"
        " but are not; move them away or choose another folder",
        "  2",
    )
    assert sorted(output.rglob("*")) == before
    assert (output / foreign).read_text(encoding="utf-8") == "mine"
    assert earlier.is_file()


# Catalog


def test_an_unreadable_catalog_line_is_named_with_its_number(desk: World) -> None:
    desk.catalog.write_text(json.dumps(desk.records[0]) + '\n{"_id": "b",\n', encoding="utf-8")

    completed = desk.call("--docdb_query={}", f"--metadata_catalog={desk.catalog}")

    assert_refused(
        desk,
        completed,
        f"error: {desk.catalog}, line 2: not JSON: Expecting property name enclosed in double quotes"
        " at column 13; a catalog has one record per line, or is one JSON array",
    )


def test_a_missing_catalog_is_named(desk: World) -> None:
    completed = desk.run("--docdb_query={}", f"--metadata_catalog={desk.catalog}")

    assert_refused(desk, completed, f"error: {desk.catalog}: cannot be read: No such file or directory")


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ('{"name": {"$like": "x"}}', "name: unknown operator $like"),
        ('{"name": {"$regex": "("}}', "the regular expression '(' is wrong: missing ) at position 1"),
    ],
)
def test_an_operator_or_pattern_that_the_catalog_cannot_evaluate_is_named(desk: World, query: str, reason: str) -> None:
    completed = desk.call(f"--docdb_query={query}", f"--metadata_catalog={desk.write_catalog(desk.records)}")

    assert_refused(
        desk,
        completed,
        f"error: {desk.catalog}: the catalog cannot evaluate the query: {reason}",
        f"  query: {json.dumps(json.loads(query), separators=(',', ':'))}",
    )


@pytest.mark.parametrize(
    ("location", "problem"),
    [
        (None, "its record has no location"),
        ("  ", "its location is not s3://bucket/prefix:   "),
        ("s3://my bucket/asset", "its location has no bucket name that S3 allows: s3://my bucket/asset"),
        ("http://host/asset", "its location is not s3://bucket/prefix: http://host/asset"),
        ("s3://bucket", "its location is a whole bucket; it must be s3://bucket/prefix: s3://bucket"),
        ("s3://bucket/a/../b", "its location holds '..': s3://bucket/a/../b"),
        ("file:///asset", "its location is a local path, which only a catalog may name: file:///asset"),
    ],
)
def test_a_record_whose_location_cannot_be_used_is_named(desk: World, location: str | None, problem: str) -> None:
    desk.records[1]["location"] = location

    assert_refused(
        desk,
        desk.call("--docdb_query={}"),
        "error: 1 of 3 assets could not be read; --skip_errors=1 skips them",
        f"  {desk.records[1]['name']}: {problem}",
    )


def test_half_a_character_in_a_record_is_the_fault_of_that_asset(desk: World) -> None:
    desk.records[1]["name"] = "half \ud800"

    assert_refused(
        desk,
        desk.call("--docdb_query={}"),
        "error: 1 of 3 assets could not be read; --skip_errors=1 skips them",
        f"  half \\ud800: its record '{desk.records[1]['_id']}' holds text with a lone surrogate",
    )


def test_a_catalog_may_be_named_by_a_path_that_goes_up(desk: World) -> None:
    (desk.input_directory / "sub").mkdir()
    desk.write_catalog([{**desk.records[0], "location": "asset"}])

    completed = desk.call("--docdb_query={}", f"--metadata_catalog={desk.input_directory}/sub/../../catalog.jsonl")

    assert completed.returncode == 0, completed.stderr
    assert [job["s3_location"] for job in completed.jobs] == [[f"file://{desk.catalog.parent}/asset"]]


def test_a_location_in_a_catalog_that_goes_up_is_refused(desk: World) -> None:
    record = {**desk.records[0], "location": "../asset"}

    assert_refused(
        desk,
        desk.call("--docdb_query={}", f"--metadata_catalog={desk.write_catalog([record])}"),
        "error: 1 of 1 asset could not be read",
        f"  {record['name']}: its location holds '..': file://{desk.catalog.parent}/../asset",
    )


def test_skip_errors_goes_on_without_a_record_that_has_no_location(desk: World) -> None:
    del desk.records[1]["location"]

    completed = desk.call("--docdb_query={}", "--skip_errors=1")

    assert completed.returncode == 0, completed.stderr
    assert (
        " WARNING 1 of 3 assets could not be read; skipped:\n"
        f"  {desk.records[1]['name']}: its record has no location\n" in completed.stderr
    )
    assert len(completed.jobs) == 2


# Listing


def test_all_assets_without_a_match_is_an_error_that_names_them(world: World) -> None:
    completed = world.call('--docdb_query={"subject.subject_id": "643634"}', "--file_extension=mp4,_eye.avi")

    assert_refused(
        world,
        completed,
        "error: --file_extension: no asset has a file whose name ends in .mp4 or _eye.avi",
        "  in 2 assets looked at: .zarr 2 (stores), .h5 1, .nwb 1",
        *(f"  {world.records[number]['name']} ({world.records[number]['location']})" for number in (3, 2)),
    )


# What is shown to whom


def test_a_traceback_is_shown_only_where_debug_asks_for_it(desk: World) -> None:
    plain, debug = (desk.run("--docdb_query={", f"--log_level={level}") for level in ("INFO", "DEBUG"))

    last = "error: --docdb_query: not readable: expected a key in quotes"
    assert "Traceback" not in plain.stderr
    assert "Traceback (most recent call last):" in debug.stderr
    for completed in (plain, debug):
        assert completed.returncode == 2
        assert completed.stderr.splitlines()[-1] == f"{last} at line 1, column 2, near: {{"


def test_messages_in_a_capsule_name_the_label_of_the_panel_beside_the_flag(
    desk: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for setting, label in (("", ""), ("a-capsule", ' ("Largest number of jobs")')):
        monkeypatch.setenv("CO_CAPSULE_ID", setting)
        completed = desk.call("--docdb_query={}", "--max_number_of_tasks_dispatched=0")
        assert f"error: --max_number_of_tasks_dispatched{label}: '0' is not" in completed.stderr
    desk.call("--docdb_query={}")
    again = desk.call("--docdb_query={}")
    assert '--overwrite=1 ("Replace earlier jobs") replaces them' in again.stderr
    limited = desk.call("--docdb_query={}", "--max_number_of_tasks_dispatched=1", "--overwrite=1")
    assert ' WARNING --max_number_of_tasks_dispatched=1 ("Largest number of jobs"): ' in limited.stderr


@pytest.mark.parametrize("bucket", [BUCKET, "no-such-bucket"])
@pytest.mark.long
def test_no_secret_is_in_any_log(world: World, bucket: str) -> None:
    secrets = {
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY",
        "AWS_SESSION_TOKEN": "FwoGZXIvYXdzEBYaDExampleToken",
    }
    for record in world.records:
        record["location"] = record["location"].replace(BUCKET, bucket)

    completed = world.run("--docdb_query={}", "--file_extension=.nwb", "--log_level=DEBUG", env=secrets)

    assert completed.returncode == (0 if bucket == BUCKET else 1), completed.stderr
    for secret in [*secrets.values(), "Signature", "Authorization"]:
        assert secret not in completed.stdout + completed.stderr


@pytest.mark.parametrize("cell", ['"' + 20_000 * "," + '"', 20_000 * ","], ids=["in a cell", "as cells"])
@pytest.mark.long
def test_a_row_of_very_many_commas_takes_no_memory_worth_speaking_of(desk: World, cell: str) -> None:
    rows = [f"{asset_id(0)}-{number},note" for number in range(5_000)]
    text = "\n".join(["asset_id,note", *rows, f"{asset_id(0)},{cell}"])
    (desk.input_directory / "data_asset_input.csv").write_text(text)
    catalog = desk.write_catalog(desk.records)

    command = desk.command("--use_data_asset_csv=1", f"--metadata_catalog={catalog}", "--skip_errors=1")
    # A process begins with the peak of the one that starts it, so a small one does.
    script = (
        "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:], capture_output=True).returncode; "
        "print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    told = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True, check=True)
    code, kilobytes = map(int, told.stdout.split())

    assert code in (0, 2)
    assert kilobytes < 500_000  # 1.2 million where each row has as many cells as the longest

"""Flags as people pass them to the public dispatcher mean the same here."""

import gc
import json
from pathlib import Path

import pytest

from job_dispatch.request import flags
from tests.conftest import World
from tests.test_dispatch import succeeded

QUERY = '{"subject.subject_id": "774659"}'


@pytest.mark.parametrize(("text", "is_on"), [("true", True), ("True", True), ("false", False), ("FALSE", False)])
def test_true_and_false_are_what_1_and_0_are(text: str, is_on: bool) -> None:
    settings = flags.parse([f"--split_files={text}", f"--drop_null_groups={text}"], "")
    assert (settings.split_files, settings.drop_null_groups) == (is_on, is_on)


@pytest.mark.parametrize(
    "given",
    [
        ["--group_by=a.b, c"],
        ['--group_by=["a.b", "c"]'],
        ["--group_by=[a.b,c]"],  # what a shell makes of it without quotes
        ["--group_by", "a.b", "--group_by", "c"],
        ["--group_by=a.b", '--group_by=["c", "a.b"]'],
        ["--group_by=", "--group_by=a.b", "--group_by=", "--group_by=c"],
    ],
)
def test_fields_come_as_a_json_list_or_by_one_flag_each_or_with_commas(given: list[str]) -> None:
    assert flags.parse(given, "").group_by == ("a.b", "c")


def test_an_empty_json_list_of_fields_is_no_fields() -> None:
    assert flags.parse(["--group_by=[]"], "").group_by == ()


@pytest.mark.parametrize("text", ["[", "[1]", '["a"', '[["a"]]', "[" * 1_500])
def test_a_list_that_is_no_json_list_of_texts_is_refused_by_name(text: str) -> None:
    gc.collect()  # what earlier tests left must not be finalized where the stack is full
    with pytest.raises(Exception, match=r"--group_by: .* is not a JSON list of texts"):
        flags.parse([f"--group_by={text}"], "")


def test_one_field_may_be_a_json_list_of_one_but_not_of_none() -> None:
    assert flags.parse(['--filter_latest=["created"]', "--filter_by=name"], "").filter_latest == "created"
    with pytest.raises(Exception, match=r"--filter_latest: '\[\]' are no fields; give one"):
        flags.parse(["--filter_latest=[]", "--filter_by=name"], "")


@pytest.mark.parametrize(
    "named",
    [
        "/data/input_query.json",
        "input_files/input_query.json",
        "input_query.json",
        "/data/input_files/input_query.json",
    ],
)
def test_a_query_in_input_files_is_found_however_people_name_it(world: World, named: str) -> None:
    folder = world.input_directory / "input_files"
    folder.mkdir()
    (folder / "input_query.json").write_text(QUERY)
    done = succeeded(world.call(f"--docdb_query={named}"))
    assert {job["query"] for job in done.jobs} == {'{"subject.subject_id":"774659"}'}


def test_a_query_in_the_input_directory_is_found_by_its_whole_name(world: World) -> None:
    (world.input_directory / "input_query.json").write_text(QUERY)
    assert succeeded(world.call(f"--docdb_query={world.input_directory}/input_query.json")).jobs
    assert succeeded(world.call("--docdb_query=/data/input_query.json", "--overwrite=1")).jobs


def test_a_schema_and_a_catalog_are_found_in_input_files(world: World) -> None:
    folder = world.input_directory / "input_files"
    folder.mkdir()
    (folder / "catalog.jsonl").write_text("".join(json.dumps(record) + "\n" for record in world.records))
    (folder / "schema.json").write_text('{"required": ["method"]}')
    flags = ("--docdb_query={}", "--metadata_catalog=catalog.jsonl", "--parameter_schema=schema.json")
    done = succeeded(world.call(*flags))
    assert len(done.jobs) == len(world.records)
    assert "required by" in done.stderr
    assert world.gateway.requests == []


def test_a_switch_without_a_value_is_on() -> None:
    settings = flags.parse(["--dry_run", "--overwrite", "--split_files=0"], "")
    assert (settings.dry_run, settings.overwrite, settings.split_files) == (True, True, False)
    assert flags.parse(["--use_data_asset_csv", "--skip_errors", ""], "").use_data_asset_csv is True


def test_a_table_may_be_named(world: World) -> None:
    (world.input_directory / "cohort 3.csv").write_text(f"name\n{world.records[0]['name']}\n")
    (world.input_directory / "other.csv").write_text("name\nnobody\n")
    done = succeeded(world.call("--use_data_asset_csv=cohort 3.csv"))
    assert [job["asset_name"] for job in done.jobs] == [[world.records[0]["name"]]]
    failed = world.call("--use_data_asset_csv=none.csv")
    assert "error: --use_data_asset_csv: no such file: none.csv; give 1 or the path of a table" in failed.stderr


def test_the_parameters_file_may_be_named(world: World) -> None:
    (world.input_directory / "trial.json").write_text('{"fixed_parameters": {"a": 1}}')
    done = succeeded(world.call("--docdb_query={}", "--analysis_parameters=trial.json"))
    assert {job["fixed_parameters"]["a"] for job in done.jobs} == {1}


def test_flags_that_only_the_public_dispatcher_reads_are_named_in_one_warning(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = ("# secrets", "DOCDB_HOST=example.org", "export GROUP_BY=name", "EMPTY=", "CODEOCEAN_API_TOKEN=secret")
    (tmp_path / ".env").write_text("\n".join(lines))
    monkeypatch.setenv("FILE_EXTENSION", ".nwb")
    monkeypatch.setenv("SPLIT_FILES", "0")
    done = succeeded(world.call("--docdb_query={}", "--split_files=1"))
    start = done.stderr.index("set for the public dispatcher and ignored here:")
    assert done.stderr[start:].splitlines()[1:4] == [
        "  FILE_EXTENSION in the environment; give --file_extension",
        "  GROUP_BY in .env; give --group_by",
        "  CODEOCEAN_API_TOKEN in .env; set it in the environment",
    ]
    assert "SPLIT_FILES" not in done.stderr
    assert "secret" not in done.stderr


def test_without_such_variables_nothing_is_said_of_them(world: World) -> None:
    assert "public dispatcher" not in succeeded(world.call("--docdb_query={}")).stderr

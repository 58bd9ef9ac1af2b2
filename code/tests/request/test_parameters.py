"""Parameter sets: grids, how many there are, and the schema that they must meet."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import logging
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from job_dispatch.jobs import output_folder
from job_dispatch.messages import RequestError
from job_dispatch.request.parameters import FILE_NAME, read_parameters
from tests.both_sources import EVERYTHING, assert_refused, call_both, error_block, logged, make_world, record
from tests.conftest import CODE, World
from tests.gateway import Fault, Gateway, RecordedRequest

FORM = [
    '  expected form: {"fixed_parameters": {"name": value, …},',
    '                  "distributed_parameters": [{"name": value, …}, …],',
    '                  "parameter_grid": {"name": [value, …], …},',
    '                  "parameter_zip": {"name": [value, …], …}}',
]


@pytest.fixture
def desk(gateway: Gateway, tmp_path: Path) -> World:
    """One record and no S3."""
    world = make_world(gateway, tmp_path)
    world.records.append(record("a"))
    return world


def write(desk: World, value: object, name: str = FILE_NAME) -> Path:
    path = desk.input_directory / name
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def sets_of(folder: Path, value: object) -> list[dict[str, Any]]:
    (folder / FILE_NAME).write_text(json.dumps(value), encoding="utf-8")
    return list(read_parameters(folder).sets)


def as_json(values: object) -> str:
    """Tell `1`, `1.0` and `true` apart."""
    return json.dumps(values)


# Grid


def test_every_combination_is_a_set_in_the_order_of_the_file_the_last_field_fastest(tmp_path: Path) -> None:
    grid = {"sorter": ["ks4", "ks2"], "threshold": [9, 3, 6], "whiten": [True]}

    assert sets_of(tmp_path, {"parameter_grid": grid}) == [
        {"sorter": sorter, "threshold": threshold, "whiten": True}
        for sorter in ("ks4", "ks2")
        for threshold in (9, 3, 6)
    ]


def test_each_distributed_set_meets_each_combination(tmp_path: Path) -> None:
    value = {"parameter_grid": {"x": [2, 1], "y": ["a"]}, "distributed_parameters": [{"region": "VISp"}, {}]}

    assert sets_of(tmp_path, value) == [
        {"region": "VISp", "x": 2, "y": "a"},
        {"region": "VISp", "x": 1, "y": "a"},
        {"x": 2, "y": "a"},
        {"x": 1, "y": "a"},
    ]


def test_a_grid_makes_a_job_an_asset_and_combination_with_the_fixed_parameters_in_each(desk: World) -> None:
    desk.records.append(record("b"))
    write(desk, {"fixed_parameters": {"x": 0, "z": 5}, "parameter_grid": {"x": [2, 1], "y": ["a", "b"]}})

    completed = call_both(desk, EVERYTHING)

    expected = [(name, {"x": x, "y": y}) for name in "ab" for x in (2, 1) for y in "ab"]
    assert [(job["asset_name"][0], job["distributed_parameters"]) for job in completed.jobs] == expected
    assert all(job["fixed_parameters"] == {"x": 0, "z": 5} for job in completed.jobs)
    assert "jobs     8 of 2 assets × 4 parameter sets," in completed.stdout


@pytest.mark.parametrize("empty", [{}, None])
def test_an_empty_grid_makes_no_sets(tmp_path: Path, empty: object) -> None:
    assert sets_of(tmp_path, {"parameter_grid": empty}) == []
    assert sets_of(tmp_path, {"parameter_grid": empty, "distributed_parameters": [{"x": 1}]}) == [{"x": 1}]


def test_a_value_repeated_in_a_grid_counts_once_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    grid = {"x": [1, 1.0, True, "1", 1, True], "y": [{"a": 1, "b": 2}, {"b": 2, "a": 1}], "z": [None]}

    found = sets_of(tmp_path, {"parameter_grid": grid})

    y = {"a": 1, "b": 2}
    assert as_json(found) == as_json([{"x": x, "y": y, "z": None} for x in (1, 1.0, True, "1")])
    assert [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING] == [
        f"{tmp_path / FILE_NAME}: parameter_grid.x: 2 repeated values counted once",
        f"{tmp_path / FILE_NAME}: parameter_grid.y: 1 repeated value counted once",
    ]


numbers = st.integers(-3, 3) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.text(max_size=2)
distinct = st.lists(numbers | st.lists(numbers, max_size=2), min_size=1, max_size=5, unique_by=json.dumps)


@given(grid=st.dictionaries(st.text(min_size=1, max_size=3), distinct, min_size=1, max_size=3))
def test_a_grid_of_distinct_values_gives_the_product_of_its_sizes_of_distinct_sets(
    tmp_path_factory: pytest.TempPathFactory, grid: dict[str, list[Any]]
) -> None:
    found = sets_of(tmp_path_factory.getbasetemp(), {"parameter_grid": grid})

    expected = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    assert as_json(found) == as_json(expected)
    assert len(set(map(as_json, found))) == len(expected)


@pytest.mark.parametrize(
    ("value", "problem", "form"),
    [
        ({"parameter_grid": {"x": [1], "y": []}}, "parameter_grid.y is an empty list, which makes no parameter set", 0),
        ({"parameter_grid": {"x": 1}}, "parameter_grid.x must be a list of values, not a number; put it in [ ]", 0),
        ({"parameter_grid": {"x": "ab"}}, "parameter_grid.x must be a list of values, not a text; put it in [ ]", 0),
        ({"parameter_grid": {"x": {"a": 1}}}, "parameter_grid.x must be a list of values, not an object", 0),
        ({"parameter_grid": {"x": None}}, "parameter_grid.x must be a list of values, not null; put it in [ ]", 0),
        ({"parameter_grid": {"x": True}}, "parameter_grid.x must be a list of values, not true or false", 0),
        ({"parameter_grid": [{"x": [1]}]}, "parameter_grid must be an object of field → list of values, not a list", 1),
        (
            {"parameter_grid": {"x": [1]}, "distributed_parameters": [{"y": 1}, {"y": 1, "x": 2}]},
            "distributed_parameters[1] and parameter_grid both have the field x; keep it in one of them",
            0,
        ),
        (
            {"parameter_grid": {name: list(range(101)) for name in "abc"}},
            "1,030,301 parameter sets; at most 1,000,000 can be dispatched",
            0,
        ),
        (
            {"parameter_grid": {"x": list(range(1000))}, "distributed_parameters": [{"y": n} for n in range(1001)]},
            "1,001,000 parameter sets; at most 1,000,000 can be dispatched",
            0,
        ),
        ({"parameter_gird": {"x": [1]}}, "unknown key 'parameter_gird'; did you mean parameter_grid?", 1),
    ],
)
def test_a_grid_of_another_shape_is_named_with_the_remedy_before_anything_is_asked(
    desk: World, value: object, problem: str, form: bool
) -> None:
    path = write(desk, value)

    completed = desk.call(EVERYTHING)

    first, *rest = error_block(completed)
    assert first.startswith(f"error: {path}: {problem}")
    assert rest == [line[:2] + line[2:].replace("                  ", "                ") for line in FORM] * form
    assert_refused(desk, completed, first, *rest)
    assert desk.gateway.requests == []


def test_the_number_of_sets_is_said_before_anything_is_asked_and_that_of_jobs_before_anything_is_written(
    desk: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(desk, {"parameter_grid": {"x": [1, 2, 3], "y": [4, 5]}})
    when_asked: list[str] = []
    when_written: list[str] = []

    def asked(_: RecordedRequest) -> Fault | None:
        when_asked.append(said())
        return None

    write_jobs = output_folder.write

    def written(*args: Any) -> None:
        when_written.append(said())
        write_jobs(*args)

    desk.gateway.faults.append(asked)
    monkeypatch.setattr(output_folder, "write", written)

    assert desk.call(EVERYTHING).returncode == 0
    assert f"6 parameter sets from {path}\n" in when_asked[0]
    assert "jobs for" not in when_asked[0]
    assert "6 jobs for 6 worker folders\n" in when_written[0]


def said() -> str:
    assert isinstance(sys.stderr, io.StringIO)
    return sys.stderr.getvalue()


# Schema


class Window(BaseModel):
    """A part of the model below."""

    start: float
    end: float | None = None


class Analysis(BaseModel):
    """What an analysis wrapper prints as its schema."""

    model_config = ConfigDict(extra="forbid")

    method: Literal["pca", "cca"]
    components: int = Field(gt=0)
    smoothing: float = 0.5
    windows: list[Window] = []


SCHEMA = Analysis.model_json_schema()
GOOD = {"method": "pca", "components": 3}


def call_with_schema(desk: World, parameters: object, schema: object = SCHEMA) -> tuple[Any, Path, Path]:
    place, path = write(desk, parameters), write(desk, schema, "schema.json")
    return desk.call(EVERYTHING, "--parameter_schema=schema.json"), place, path


def test_sets_that_meet_the_schema_pass_without_a_word_and_fixed_parameters_count(desk: World) -> None:
    parameters = {"fixed_parameters": {"method": "cca"}, "parameter_grid": {"components": [1, 2]}}

    completed, _, _ = call_with_schema(desk, parameters)

    assert completed.returncode == 0
    assert len(completed.jobs) == 2
    assert logged(completed, "WARNING") == ["--docdb_query: {} selects every record"]


def test_a_set_wins_over_the_fixed_parameters_before_it_is_validated(desk: World) -> None:
    parameters = {"fixed_parameters": {**GOOD, "components": 0}, "distributed_parameters": [{"components": 1}]}

    assert call_with_schema(desk, parameters)[0].returncode == 0


def test_all_errors_come_at_once_with_set_field_and_value_before_anything_is_asked(desk: World) -> None:
    windows = [{"start": 0}, {"end": "x", "start": 1}, {}]
    sets = [GOOD, {**GOOD, "components": 0, "method": "ica"}, {**GOOD, "smothing": 1, "windows": windows}]

    completed, place, path = call_with_schema(desk, {"distributed_parameters": sets})

    block = error_block(completed)
    assert_refused(desk, completed, *block)
    assert block[0] == f"error: {place}: parameter sets break the schema {path}"
    assert sorted(block[1:3]) == [
        "  set 2, components: 0 is less than or equal to the minimum of 0",
        '  set 2, method: "ica" is not one of "pca" or "cca"',
    ]
    assert sorted(block[3:]) == [
        "  set 3, smothing: no such field; did you mean smoothing?",
        "  set 3, windows.1.end: \"x\" is not valid under any of the schemas listed in the 'anyOf' keyword",
        '  set 3, windows.2: "start" is a required property',
    ]
    assert desk.gateway.requests == []


def test_an_unknown_field_that_is_near_to_no_known_one_is_shown_them_all(desk: World) -> None:
    completed, place, path = call_with_schema(desk, {"fixed_parameters": {**GOOD, "xyz": 1}})

    assert_refused(
        desk,
        completed,
        f"error: {place}: parameter sets break the schema {path}",
        "  set 1, xyz: no such field; known are method, components, smoothing, windows",
    )


def test_twenty_errors_are_shown_and_the_others_counted(desk: World) -> None:
    parameters = {"fixed_parameters": GOOD, "parameter_grid": {"components": [-number for number in range(23)]}}

    completed, _, _ = call_with_schema(desk, parameters)

    assert len(error_block(completed)) == 1 + 20 + 1
    assert error_block(completed)[-1] == "  … and 3 more"


def test_a_missing_required_field_is_a_warning_since_the_wrapper_may_get_it_elsewhere(desk: World) -> None:
    completed, place, path = call_with_schema(desk, {"distributed_parameters": [{"method": "pca"}, {}]})

    assert completed.returncode == 0
    assert len(completed.jobs) == 2
    assert f"{place}: required by {path}, left to the analysis wrapper:" in logged(completed, "WARNING")
    start = completed.stderr.index("left to the analysis wrapper:\n")
    assert sorted(completed.stderr[start:].splitlines()[1:4]) == [
        '  set 1, "components" is a required property',
        '  set 2, "components" is a required property',
        '  set 2, "method" is a required property',
    ]


def test_a_schema_is_met_by_no_parameters_at_all_but_for_a_warning(desk: World) -> None:
    write(desk, SCHEMA, "schema.json")

    completed = desk.call(EVERYTHING, "--parameter_schema=schema.json")

    assert completed.returncode == 0
    assert '  set 1, "method" is a required property' in completed.stderr


def test_a_field_that_a_pattern_of_the_schema_allows_is_no_unknown_one(desk: World) -> None:
    schema = {"properties": {"x": {}}, "patternProperties": {"^probe_": {}}, "additionalProperties": False}

    completed, place, path = call_with_schema(desk, {"fixed_parameters": {"probe_a": 1, "y_1": 2}}, schema)

    assert_refused(
        desk,
        completed,
        f"error: {place}: parameter sets break the schema {path}",
        "  set 1, y_1: no such field; known are x",
    )


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ([SCHEMA], "not a JSON Schema; it must be an object, not a list"),
        ("7", "not a JSON Schema; it must be an object, not a number"),
        (
            {"type": "nosuch"},
            'not a JSON Schema: the schema.type: "nosuch" is not valid under any of the schemas listed in the'
            " 'anyOf' keyword",
        ),
        ({"properties": []}, 'not a JSON Schema: the schema.properties: [] is not of type "object"'),
        (
            {"properties": {"x": {"pattern": "["}}},
            'not a JSON Schema: the schema.properties.x.pattern: "[" is not a "regex"',
        ),
    ],
)
def test_a_file_that_is_no_schema_is_named_with_what_is_wrong(desk: World, schema: object, problem: str) -> None:
    completed, _, path = call_with_schema(desk, {"fixed_parameters": GOOD}, schema)

    assert_refused(desk, completed, f"error: {path}: {problem}")
    assert desk.gateway.requests == []


def test_a_schema_that_is_not_readable_is_named(desk: World) -> None:
    completed, _, path = call_with_schema(desk, {"fixed_parameters": GOOD}, '{"type": ')

    [line] = error_block(completed)
    assert re.match(f"error: {re.escape(str(path))}: not readable", line)
    assert_refused(desk, completed, line)


def test_a_schema_is_found_as_given_or_inside_the_input_directory(desk: World, tmp_path: Path) -> None:
    (desk.input_directory / "schemas").mkdir()
    write(desk, SCHEMA, "schemas/inside.json")
    (tmp_path / "outside.json").write_text(json.dumps(SCHEMA))
    write(desk, {"fixed_parameters": {**GOOD, "components": 0}})

    for name in ("schemas/inside.json", str(tmp_path / "outside.json")):
        completed = desk.call(EVERYTHING, f"--parameter_schema={name}")
        assert error_block(completed)[0].endswith(f"break the schema {desk.input_directory / name}")


def test_a_schema_that_is_not_there_is_named_with_the_places_looked_in(desk: World) -> None:
    assert_refused(
        desk,
        desk.call(EVERYTHING, "--parameter_schema=no.json"),
        "error: --parameter_schema: no such file: no.json; give the path of a JSON Schema file",
        "  looked for no.json",
        f"  looked for {desk.input_directory / 'no.json'}",
        f"  looked for {desk.input_directory / 'input_files' / 'no.json'}",
    )


def other_address(gateway: Gateway) -> str:
    return f"https://{gateway.host}/schema.json"


@pytest.mark.parametrize("where", ["at the top", "in a field", "below nothing"])
def test_a_reference_to_another_address_is_an_error_and_never_a_request(desk: World, where: str) -> None:
    reference = {"$ref": other_address(desk.gateway)}
    schemas: dict[str, object] = {
        "at the top": reference,
        "in a field": {"properties": {"method": reference}},
        "below nothing": {"$ref": "#/$defs/Missing"},
    }

    completed, _, path = call_with_schema(desk, {"fixed_parameters": GOOD}, schemas[where])

    block = error_block(completed)
    assert_refused(desk, completed, *block)
    assert block[0].startswith(f"error: {path}: ")
    assert "unexpected" not in block[0]
    assert desk.gateway.requests == []


TWICE = {"allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]}


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$defs": {"a": TWICE}, "$ref": "#/$defs/a"},
        {"$defs": {"a": {"anyOf": TWICE["allOf"]}}, "$ref": "#/$defs/a"},
    ],
    ids=["itself", "all of it twice", "any of it"],
)
def test_a_schema_that_refers_to_itself_is_met_by_any_set(desk: World, schema: object) -> None:
    completed, _, _ = call_with_schema(desk, {"fixed_parameters": {"x": 1}}, schema)
    assert completed.returncode == 0, completed.stderr


def test_a_signal_ends_a_run_while_a_schema_whose_references_double_at_each_level_never_ends(desk: World) -> None:
    doubled = {f"a{n}": {"allOf": 2 * [{"$ref": f"#/$defs/a{n + 1}"}]} for n in range(60)}
    write(desk, {"fixed_parameters": {"x": 1}})
    write(desk, {"$defs": {**doubled, "a60": {}}, "$ref": "#/$defs/a0"}, "schema.json")
    command = [sys.executable, str(CODE / "run_capsule.py"), EVERYTHING, "--docdb_host=localhost:1"]
    places = [f"--input_directory={desk.input_directory}", f"--output_directory={desk.output_directory}"]
    command += [*places, "--parameter_schema=schema.json"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        for line in run.stderr:
            if "parameter sets from" in line:
                break
        run.terminate()
        last = run.stderr.read().splitlines()[-1]
    assert (run.returncode, last) == (128 + signal.SIGTERM, "error: stopped by SIGTERM; no job is written")


def test_a_pattern_that_would_take_for_ever_is_found_not_to_match(desk: World) -> None:
    text = 60 * "a" + "b"
    schema = {"properties": {"x": {"pattern": "^(a|aa)+$"}}}
    completed, place, path = call_with_schema(desk, {"fixed_parameters": {"x": text}}, schema)
    assert_refused(
        desk,
        completed,
        f"error: {place}: parameter sets break the schema {path}",
        f'  set 1, x: "{text}" does not match "^(a|aa)+$"',
    )


def test_a_pattern_that_goes_back_too_often_is_an_error(desk: World) -> None:
    schema = {"properties": {"x": {"pattern": r"(a|aa)+\1$"}}}
    completed, _, _ = call_with_schema(desk, {"fixed_parameters": {"x": 60 * "a" + "b"}}, schema)
    assert completed.returncode == 2
    assert "  set 1, x: Error executing regex: Max limit for backtracking count exceeded" in completed.stderr


def test_a_pattern_that_is_wrong_is_named(desk: World) -> None:
    schema = {"properties": {"x": {"pattern": "("}}}
    completed, _, path = call_with_schema(desk, {"fixed_parameters": {"x": "a"}}, schema)
    assert completed.returncode == 2
    assert f"error: {path}: " in completed.stderr


def test_a_set_of_60000_values_is_checked(desk: World) -> None:
    schema = {"properties": {"x": {"items": {"$ref": "#/$defs/point"}}}, "$defs": {"point": {"items": {"minimum": 0}}}}
    parameters = {"fixed_parameters": {"x": 20_000 * [[1, 2, 3]]}}
    assert call_with_schema(desk, parameters, schema)[0].returncode == 0


def test_a_number_of_any_size_is_checked_against_a_decimal_rule(desk: World) -> None:
    schema = {"properties": {"x": {"multipleOf": 0.1}}}
    assert call_with_schema(desk, {"fixed_parameters": {"x": 10**400}}, schema)[0].returncode == 0


@given(value=st.recursive(st.none() | numbers, lambda inner: st.lists(inner, max_size=3), max_leaves=5))
def test_a_grid_of_any_other_kind_is_refused_and_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, value: Any
) -> None:
    with contextlib.suppress(RequestError):
        assert len(sets_of(tmp_path_factory.getbasetemp(), {"parameter_grid": {"x": value}})) >= 1

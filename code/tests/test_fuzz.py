"""Whatever a user writes, the run gives jobs or says in one block what is wrong, with exit code 2."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from job_dispatch import main
from job_dispatch.request import flags

# Python warns of some patterns; a run prints that and goes on.
pytestmark = pytest.mark.filterwarnings("ignore")

bounded = settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))

RECORDS = [
    {"_id": "1", "name": "a", "location": "a", "subject": {"subject_id": "1"}, "external_links": {"Code Ocean": ["x"]}},
    {"_id": "2", "name": "b", "location": "b", "subject": None, "tags": ["p", "q"]},
    {"_id": "3", "name": 7, "location": "s3://bucket", "subject": {"subject_id": 2}},
]


@contextmanager
def desk() -> Iterator[Path]:
    """Work in a folder with a catalog, input and output folders and two local assets."""
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        folder = Path(name)
        for path in ("data", "results", "a", "b"):
            (folder / path).mkdir()
        (folder / "a" / "a.nwb").touch()
        (folder / "catalog.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
        yield folder


REPORT = {"report.html", "jobs.csv", "skipped.csv", "manifest.json"}


def assert_dispatched_or_refused(folder: Path, *flags: str) -> None:
    """Run on the catalog: all jobs and 0, or nothing written, one error and 2; never a traceback."""
    before = set(folder.rglob("*"))
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        code = main.main(
            [
                "--input_directory=data",
                "--output_directory=results",
                "--metadata_catalog=catalog.jsonl",
                "--skip_errors=1",
                *flags,
            ]
        )
    said, written = stderr.getvalue(), set(folder.rglob("*")) - before
    assert code in (0, 2), said
    assert "Traceback" not in said
    assert "unexpected " not in said.rpartition("error: ")[2].partition(":")[0]
    lines = said.split("\n")
    if code == 2:
        assert sum(line.startswith("error: ") for line in lines) == 1, said
        # A run that fails has its report as well, if one was asked for.
        assert {path for path in written if path.name not in REPORT and not any(path.rglob("manifest.json"))} == set()
    else:
        assert not any(line.startswith("error: ") for line in lines), said
        assert all(json.loads(path.read_text(encoding="utf-8")) for path in written if path.suffix == ".json")
        assert written or any(sign in stdout.getvalue() for sign in ("Preview: ", "selected by"))


# What an argument can hold: bytes that are no UTF-8 arrive as lone surrogates, a NUL cannot.
character = st.characters(exclude_characters="\0", exclude_categories=["Cs"]) | st.sampled_from("\udc80\udcff")
argument = st.text(character, max_size=30)

# fmt: off
operator = st.sampled_from([
    "$in", "$nin", "$and", "$or", "$nor", "$not", "$regex", "$options", "$exists", "$size", "$type", "$elemMatch",
    "$gt", "$lte", "$ne", "$eq", "$all", "$expr", "$mod", "$where", "$near", "$comment", "$jsonSchema", "$", "$$",
])
# fmt: on
path = st.sampled_from(
    ["_id", "name", "subject", "subject.subject_id", "tags", "tags.0", "a..b", "", ".", "external_links"]
)
scalar = (
    st.none()
    | st.booleans()
    | st.integers(-3, 10**20)
    | st.floats()
    | st.sampled_from(["1", "a", "[", "(", "*", "^a$", "i", "string", "\ud800", "$name"])
    | st.text(max_size=5)
)
value: st.SearchStrategy[Any] = st.recursive(
    scalar,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(operator | path, inner, max_size=3),
    max_leaves=8,
)
query = st.dictionaries(operator | path, value, max_size=3)
json_text = value.map(json.dumps)


def broken(text: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Take a piece out of a text, or put one in."""
    piece = st.sampled_from(
        ["", "{", "}", "[", "]", '"', "'", ",", ":", "\\", "\n", "//", "/*", "NaN", "1e999", "\ufeff"]
    )
    return st.builds(
        lambda whole, start, length, put: (
            whole[: start % (len(whole) + 1)] + put + whole[start % (len(whole) + 1) + length :]
        ),
        text,
        st.integers(0, 1_000),
        st.integers(0, 5),
        piece,
    )


def contents(text: st.SearchStrategy[str]) -> st.SearchStrategy[bytes]:
    """Give what a file may hold that was meant to be such a text."""
    encoding = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"])
    written = st.builds(lambda text, encoding: text.encode(encoding, "replace"), text | broken(text), encoding)
    return written | st.binary(max_size=60)


@bounded
@given(query.map(json.dumps))
@example('{"name": {"$regex": "("}}')
@example('{"$and": {}}')
def test_any_operator_with_any_value_is_evaluated_or_refused(text: str) -> None:
    with desk() as folder:
        assert_dispatched_or_refused(folder, f"--docdb_query={text}")


@bounded
@given(argument | broken(query.map(json.dumps)))
@example("{" * 5_000)
@example("[" * 5_000)
@example('{"a":' * 5_000)
@example('{"a":' + "1" * 5_000 + "}")
@example("x" * 5_000)
@example("{'a': 1, }")
def test_any_query_text_is_read_or_refused(text: str) -> None:
    with desk() as folder:
        assert_dispatched_or_refused(folder, f"--docdb_query={text.replace(chr(0), '')}")


@bounded
@given(contents(query.map(json.dumps)))
def test_any_query_file_is_read_or_refused(content: bytes) -> None:
    with desk() as folder:
        (folder / "data" / "query.json").write_bytes(content)
        assert_dispatched_or_refused(folder, "--docdb_query=query.json")


cell = st.sampled_from(["asset_id", "x", " x ", "name", "", '"', '"x"', '"x', "a", "1", "\0", "é"]) | st.text(
    max_size=4
)
csv = st.lists(st.lists(cell, max_size=4).map(",".join), max_size=5).flatmap(
    lambda rows: st.sampled_from(["\n", "\r\n", "\r", "\n\n"]).map(lambda end: end.join(["asset_id,b", *rows]))
)


@bounded
@given(contents(csv))
@example(b"")
@example(b"asset_id\nx\n" + b'"' * 3)
@example(b"asset_id\n" + b"," * 200 + b"x")
def test_any_csv_is_read_or_refused(content: bytes) -> None:
    with desk() as folder:
        (folder / "data" / "data_asset_input.csv").write_bytes(content)
        assert_dispatched_or_refused(folder, "--use_data_asset_csv=1")


parameters = json_text | st.fixed_dictionaries(
    {}, optional={"fixed_parameters": value, "distributed_parameters": value, "sweep_parameters": value}
).map(json.dumps)


@bounded
@given(contents(parameters))
@example(b'{"fixed_parameters": ' + b"[" * 5_000)
@example(b'{"fixed_parameters": {"a": ' + b"1" * 5_000 + b"}}")
def test_any_parameters_file_is_read_or_refused(content: bytes) -> None:
    with desk() as folder:
        (folder / "data" / "analysis_parameters.json").write_bytes(content)
        assert_dispatched_or_refused(folder, '--docdb_query={"_id": "1"}')


keyword = st.sampled_from(
    ["type", "properties", "required", "$ref", "$schema", "pattern", "enum", "allOf", "minimum", "$id"]
)
schema = st.dictionaries(
    keyword,
    value | st.sampled_from(["object", "#", "#/a", "http://127.0.0.1:9/x", "file:///etc/passwd", "(", "integer"]),
).map(json.dumps)


@bounded
@given(contents(schema))
@example(b'{"$ref": "object"}')
@example(b'{"$ref": "#"}')
@example(b'{"properties": {"a": {"pattern": "("}}}')
def test_any_parameter_schema_is_used_or_refused(content: bytes) -> None:
    with desk() as folder:
        (folder / "data" / "schema.json").write_bytes(content)
        (folder / "data" / "analysis_parameters.json").write_text('{"fixed_parameters": {"a": "1"}}')
        assert_dispatched_or_refused(folder, '--docdb_query={"_id": "1"}', "--parameter_schema=schema.json")


record = st.fixed_dictionaries(
    {"_id": st.sampled_from(["1", "2", "\n"])},
    optional={"name": value, "location": value | st.sampled_from(["a", "s3://b", "s3://b/..", "file://", "\ud800"])},
)
lines = st.lists(record.map(json.dumps) | json_text, max_size=4).map("\n".join)


@bounded
@given(contents(lines))
@example(b'{"_id": "1", "location": "\\ud800"}')
@example(b"[" * 5_000)
@example(b'{"_id": "1", "size": ' + b"1" * 5_000 + b"}")
def test_any_catalog_is_read_or_refused(content: bytes) -> None:
    with desk() as folder:
        (folder / "fuzzed.jsonl").write_bytes(content)
        assert_dispatched_or_refused(folder, "--metadata_catalog=fuzzed.jsonl", "--docdb_query={}")


FLAGS = [f"--{name}" for name in flags.declared()]
# fmt: off
usual = st.sampled_from([
    "0", "1", "2", "-1", "10" * 40, "٣", "", " ", ",", ".nwb", "*.nwb,.h5", "a/b", "\n", "%s", "{}", "x" * 300,
    "subject.subject_id", "tags", "$x", "name,subject", "DEBUG", "INFO", "data", "catalog.jsonl", "no/such",
])
# fmt: on


def is_harmless(flag: str, text: str) -> bool:
    """Keep what a test writes inside its folder; a blank value means the default."""
    return flag != "--output_directory" or not (text.strip() or "/").startswith(("/", "."))


@settings(bounded, max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(FLAGS), usual | argument), max_size=4))
@example([("--output_directory", "catalog.jsonl")])
@example([("--output_directory", "x" * 300)])
@example([("--input_directory", "x" * 300)])
@example([("--parameter_schema", "x" * 300)])
@example([("--group_by", "tags"), ("--unwind_list_fields", "tags")])
@example([("--docdb_query", "no such file"), ("--report_directory", "a/report")])
def test_any_flag_takes_any_value_or_refuses_it(flags: list[tuple[str, str]]) -> None:
    given = [f"{flag}={text}" for flag, text in flags if is_harmless(flag, text)]
    # Whoever asks for DEBUG gets the traceback.
    quiet = [flag for flag in given if "DEBUG" not in flag.upper()]
    with desk() as folder:
        assert_dispatched_or_refused(folder, '--docdb_query={"_id": "1"}', *quiet, "--metadata_catalog=catalog.jsonl")


@bounded
@given(st.lists(argument, min_size=1, max_size=3))
def test_any_word_that_is_no_flag_is_refused(words: list[str]) -> None:
    with desk() as folder:
        harmless = [f"x{word}" for word in words]
        assert_dispatched_or_refused(folder, '--docdb_query={"_id": "1"}', *harmless)


@pytest.mark.parametrize("variable", ["DOCDB_HOST", "DOCDB_VERSION"])
@bounded
@given(text=argument)
def test_any_value_of_a_variable_is_taken_or_refused(variable: str, text: str) -> None:
    with desk() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, variable, text)
        assert_dispatched_or_refused(folder, '--docdb_query={"_id": "1"}')

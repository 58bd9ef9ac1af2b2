"""What people write, in flags and in files, is read as they mean it or refused; never read as something else."""

from __future__ import annotations

import json
import logging
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job_dispatch.messages import DispatchError, RequestError
from job_dispatch.metadata.catalog import Catalog
from job_dispatch.request import flag_values, flags, json_text, parameters, selection, tables
from job_dispatch.request.fields import Query
from job_dispatch.request.parameters import Parameters
from tests.conftest import World

SEED_PARAMETERS = """{
"fixed_parameters": {
"analysis_name": "Unit Quality Filtering",
"analysis_tag": "baseline_v1.0",
"isi_violations_cutoff": 0.05,
},
"distributed_parameters": [
{
"method": "isolation_distance"
},
{
"method": "amplitude_cutoff"
}
]
}
"""


@pytest.fixture(autouse=True)
def _warnings_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING", logger="job_dispatch")


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings, each with its details as further lines."""
    return ["\n".join([record.getMessage(), *details_of(record)]) for record in caplog.records]


def details_of(record: logging.LogRecord) -> list[str]:
    details: list[str] = getattr(record, "details", [])
    return details


# --file_extension


@pytest.mark.parametrize(
    ("text", "endings"),
    [
        ("nwb", (".nwb",)),
        (".nwb", (".nwb",)),
        ("*.nwb", (".nwb",)),
        ("*nwb", (".nwb",)),
        (".nwb/", (".nwb",)),
        ("h5", (".h5",)),
        ("_dff.h5", ("_dff.h5",)),
        ("events.h5", ("events.h5",)),
        (".ome.zarr", (".ome.zarr",)),
        (".NWB", (".NWB",)),
        ("nwb, .zarr ,_dff.h5", (".nwb", ".zarr", "_dff.h5")),
        ("nwb,.nwb,*.nwb", (".nwb",)),
        (",nwb,,", (".nwb",)),
        ("", ()),
    ],
)
def test_an_ending_is_taken_as_it_is_and_only_a_bare_word_gets_its_dot(text: str, endings: tuple[str, ...]) -> None:
    assert flag_values.endings(text) == endings


@pytest.mark.parametrize("text", ["*", "nwb,*", "/", "nwb/*.nwb"])
def test_what_is_no_ending_of_a_file_name_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match=r"is not the ending of a file name; give one such as \.nwb"):
        flag_values.endings(text)


# Query


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [1, 1.0, true, null]}',
        '\n\t {"a": [1, 1.0, true, null]} \n',
        '\ufeff{"a": [1, 1.0, true, null]}',
        ' \ufeff \n{"a": [1, 1.0, true, null]}',
        "{'a': [1, 1.0, True, None]}",
        "{'a': [1, 1.0, True, None,],}",
        "{'a': (1, 1.0, True, None)}",
        "{'a': [1, +1.0, True, None]}  # pasted from a notebook",
        "{'a': [1,  # one\n 1.0, True, None]}",
        '{"a": [1, 1.0, true, null,],}',
        "{a: [1, 1.0, true, null]}",
        '{"a": [1, 1.0, true, null]}  // a remark',
        '/* a remark */ {"a": [1, 1.0, true, null]}',
    ],
)
def test_a_query_is_read_as_json_as_a_python_literal_or_as_json5(text: str, tmp_path: Path) -> None:
    (tmp_path / "query.txt").write_text(text, encoding="utf-8")

    queries = [selection.read_query("query.txt", tmp_path)]
    if text.strip().lstrip("\ufeff").strip().startswith("{"):
        queries.append(selection.read_query(text, tmp_path))

    for query in queries:
        assert repr(query.filter) == "{'a': [1, 1.0, True, None]}"


@pytest.mark.parametrize(
    "text", [r'{"a": "\\d+"}', r"{'a': '\d+'}", r"{'a': '\\d+'}", r"{'a': r'\d+'}", r"{a: '\\d+'}", r'{"a": "\d+"}']
)
def test_the_backslash_of_a_pattern_is_kept(text: str, tmp_path: Path) -> None:
    assert selection.read_query(text, tmp_path) == Query.of({"a": r"\d+"})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r'{"a": "x\/y",}', "x/y"),
        (r'{"a": "\ud83d\ude00",}', "\N{GRINNING FACE}"),
        (r'{"a": "\u00e9\b, }",}', "é\b, }"),
        (r'{"a": "\\d,]",}', r"\d,]"),
    ],
)
def test_a_trailing_comma_leaves_the_escapes_of_json_as_they_are(text: str, value: str, tmp_path: Path) -> None:
    assert selection.read_query(text, tmp_path) == Query.of({"a": value})


def test_a_backslash_that_only_json5_could_read_is_refused_since_it_would_be_dropped(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as refused:
        selection.read_query(r'{"a": "\d+", "b": true}', tmp_path)

    assert str(refused.value) == r"--docdb_query: \d is not an escape of JSON; write \\d for a backslash"


def test_a_backslash_in_a_comment_is_nobodys_business(tmp_path: Path) -> None:
    assert selection.read_query('{"a": true,  // as in C:\\data\n}', tmp_path) == Query.of({"a": True})


@pytest.mark.parametrize("text", ['{"a": ["x" "y"]}', "{'a': ['x'\n'y']}", '{"a": "x"  # one\n "y"}', '{"x" "y"}'])
def test_strings_side_by_side_are_a_missing_comma_and_never_one_string(text: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"""["']x["'] and ["']y["']""") as refused:
        selection.read_query(text, tmp_path)

    assert "xy" not in str(refused.value)


def test_a_number_too_long_to_read_is_said_to_be_that_in_every_spelling(tmp_path: Path) -> None:
    for text in ('{"a": %s}', "{'a': %s}", "{a: %s}"):
        with pytest.raises(RequestError, match="a number has too many digits to read; write it as text in quotes"):
            selection.read_query(text % ("9" * 5_000), tmp_path)


def test_a_query_may_be_far_longer_than_any_path(tmp_path: Path) -> None:
    names = [f"behavior_{number}" for number in range(20_000)]
    query = {"name": {"$in": names}}

    assert selection.read_query(json.dumps(query), tmp_path) == Query.of(query)
    assert selection.read_query(repr(query), tmp_path) == Query.of(query)


def test_a_query_file_is_found_as_given_and_in_the_input_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, here = tmp_path / "data", tmp_path / "here"
    for folder in (data / "queries", here):
        folder.mkdir(parents=True)
    (data / "queries" / "a.json").write_text('{"from": "data"}', encoding="utf-8")
    (data / "b.json").write_text('{"from": "data"}', encoding="utf-8")
    (here / "b.json").write_text('\ufeff{"from": "here"}', encoding="utf-8")
    monkeypatch.chdir(here)

    assert selection.read_query("queries/a.json", data) == Query.of({"from": "data"})
    assert selection.read_query(f"{data}/queries/a.json", here) == Query.of({"from": "data"})
    assert selection.read_query("b.json", data) == Query.of({"from": "here"})
    assert selection.read_query("  b.json\n", data) == Query.of({"from": "here"})


@pytest.mark.parametrize("name", ["x" * 5_000, "a/" * 3_000, "null\0character", "half \ud800", "~"])
def test_a_text_that_can_be_no_path_is_a_missing_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"^--docdb_query: no such file: ") as refused:
        selection.read_query(name, tmp_path)

    assert all(line.isprintable() and len(line) < 2_500 for line in str(refused.value).splitlines())


def test_a_query_for_every_record_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    assert selection.read_selection(flags.parse(["--docdb_query= { } "], "")).query == Query.of({})
    assert logged(caplog) == ["--docdb_query: {} selects every record"]


def test_a_query_for_every_record_beside_a_flag_that_selects_is_not(caplog: pytest.LogCaptureFixture) -> None:
    selected = selection.read_selection(flags.parse(["--docdb_query={}", "--subject=774659"], ""))
    assert selected.query == Query.of({"@subject": "774659"})
    assert logged(caplog) == []


# CSV


def read_csv(folder: Path, content: str | bytes) -> tuple[str, ...]:
    data = content.encode() if isinstance(content, str) else content
    (folder / "data_asset_input.csv").write_bytes(data)
    return tuple(tables.read_table((folder, folder / "input_files")).values("asset_id"))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("asset_id\na\nb\n", id="plain"),
        pytest.param("asset_id\na\nb", id="no line break at the end"),
        pytest.param("\ufeffasset_id\na\nb\n", id="BOM"),
        pytest.param('\ufeff"asset_id"\n"a"\n"b"\n', id="BOM and quotes"),
        pytest.param("asset_id\r\na\r\nb\r\n", id="CRLF"),
        pytest.param("asset_id\ra\rb\r", id="CR"),
        pytest.param("\n\nasset_id\n\na\n \n\nb\n\n", id="blank lines"),
        pytest.param(" asset_id \n  a\nb\t\n", id="spaces"),
        pytest.param(' "asset_id" \n "a" \n " b"\n', id="spaces around and in quotes"),
        pytest.param("name,asset_id,note\nx,a,\ny,b,fine\n", id="extra columns"),
        pytest.param('note,asset_id\n"x, ""y""\nz",a\n,b\n', id="quotes, commas and line breaks in another column"),
        pytest.param("name,asset_id\nx,a\ny\nz,b\n", id="a short row"),
        pytest.param("asset_id,name\n,x\na,y\n,\nb,z\n", id="blank ids"),
        pytest.param("asset_id\na,note\nb,note\n", id="cells beyond the header"),
        pytest.param("asset_id\na,note\nb,note,note\n", id="ever more cells beyond the header"),
    ],
)
def test_a_csv_is_read_as_excel_and_people_write_it(content: str, tmp_path: Path) -> None:
    assert read_csv(tmp_path, content) == ("a", "b")


def test_an_id_is_text_whatever_it_looks_like(tmp_path: Path) -> None:
    ids = ("007", "1e5", "1.0", "NA", "null", "nan", "True", "2024-01-01", "é", "a b", "-")

    assert read_csv(tmp_path, "\n".join(["asset_id", *ids])) == ids


def test_thousands_of_ids_keep_their_order_and_repeated_ones_are_dropped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ids = [f"50fa9416-4e21-482f-8901-{number:012d}" for number in range(20_000)]
    random.Random(0).shuffle(ids)

    assert read_csv(tmp_path, "\n".join(["asset_id", *ids, *ids[:1_500]])) == tuple(ids)
    assert logged(caplog) == ["data_asset_input.csv: 1,500 repeated ids dropped"]


def test_the_csv_is_looked_for_in_three_places_the_named_ones_first(tmp_path: Path) -> None:
    (tmp_path / "input_files").mkdir()
    (tmp_path / "notes.txt").write_text("", encoding="utf-8")
    (tmp_path / "._data.csv").write_bytes(b"\x00\x05")
    for place, found in [
        ("Cohort 3.CSV", "Cohort 3.CSV"),
        ("input_files/data_asset_input.csv", "data_asset_input.csv"),
        ("data_asset_input.csv", "data_asset_input.csv"),
    ]:
        (tmp_path / place).write_text(f"asset_id\n{place}\n", encoding="utf-8")

        table = tables.read_table((tmp_path, tmp_path / "input_files"))
        assert (table.values("asset_id"), table.file_name) == ([place], found)


# Parameters


def read_parameters(folder: Path, text: str) -> Parameters:
    (folder / "analysis_parameters.json").write_text(text, encoding="utf-8")
    return parameters.read_parameters(folder)


def test_the_parameters_of_the_first_page_work_as_printed_with_their_trailing_comma(tmp_path: Path) -> None:
    assert read_parameters(tmp_path, SEED_PARAMETERS) == Parameters(
        {"analysis_name": "Unit Quality Filtering", "analysis_tag": "baseline_v1.0", "isi_violations_cutoff": 0.05},
        ({"method": "isolation_distance"}, {"method": "amplitude_cutoff"}),
    )


def test_no_parameters_file_is_fine(tmp_path: Path) -> None:
    assert parameters.read_parameters(tmp_path) == Parameters(None, ())


def test_the_first_parameters_file_found_wins_and_further_ones_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    places = [tmp_path / "input_files", tmp_path / "analysis_parameters", tmp_path]
    paths = [place / "analysis_parameters.json" for place in places]
    for number, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"fixed_parameters": {"place": number}}), encoding="utf-8")

        assert parameters.read_parameters(tmp_path) == Parameters({"place": number}, ())

    assert logged(caplog) == [
        f"{paths[1]} is used; not read:\n{paths[0]}",
        f"{paths[2]} is used; not read:\n{paths[1]}\n{paths[0]}",
    ]


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        ('{"fixed_parameters": null}', Parameters(None, ())),
        ('{"fixed_parameters": {}}', Parameters({}, ())),
        ('{"distributed_parameters": null}', Parameters(None, ())),
        ('{"distributed_parameters": []}', Parameters(None, ())),
        ('{"distributed_parameters": [{}]}', Parameters(None, ({},))),
        ('{"distributed_parameters": [{}, {"a": 1}]}', Parameters(None, ({}, {"a": 1}))),
        ('{"fixed_parameters": null, "distributed_parameters": [{"a": null}]}', Parameters(None, ({"a": None},))),
        ("{'fixed_parameters': {'a': (1, 2)}}", Parameters({"a": [1, 2]}, ())),
    ],
)
def test_absent_null_and_empty_are_fine_and_an_empty_set_is_a_set(
    text: str, parameters: Parameters, tmp_path: Path
) -> None:
    assert read_parameters(tmp_path, text) == parameters


def test_a_set_that_stands_twice_counts_once_and_1_is_neither_1_point_0_nor_true(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = (
        '{"distributed_parameters": [{"a": 1, "b": 2}, {"a": 1.0}, {"a": true}, {"a": 1}, {"b": 2, "a": 1}, {"a": 1}]}'
    )

    sets = read_parameters(tmp_path, text).sets

    assert [json.dumps(one) for one in sets] == ['{"a": 1, "b": 2}', '{"a": 1.0}', '{"a": true}', '{"a": 1}']
    assert logged(caplog) == [f"{tmp_path}/analysis_parameters.json: 2 repeated parameter sets counted once"]


@pytest.mark.parametrize(
    ("key", "remedy"),
    [("distributed_paramters", "; did you mean distributed_parameters?"), ("note", "")],
)
def test_an_unknown_key_is_refused_with_the_nearest_name(tmp_path: Path, key: str, remedy: str) -> None:
    with pytest.raises(RequestError) as refused:
        read_parameters(tmp_path, json.dumps({"fixed_parameters": {"a": 1}, key: [{}]}))

    assert refused.value.headline == f"{tmp_path}/analysis_parameters.json: unknown key '{key}'{remedy}"


@pytest.mark.parametrize(
    "name",
    [
        "analysis_params.json",
        "Analysis_Parameters.json",
        "analysis_parameter.json",
        "analysis-parameters.json",
        "analysis_parameters (1).json",
        "analysis_parameters.json.txt",
        "analysis_parameters",
        "input_files/analysis_params.json",
        "my_data_asset/analysis_parameters.json",
    ],
)
def test_a_file_with_almost_the_name_of_the_parameters_file_is_named_in_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}")

    with pytest.raises(RequestError) as refused:
        parameters.read_parameters(tmp_path)

    assert refused.value.headline == (
        f"{tmp_path / name}: not read, since the parameters file is called analysis_parameters.json and lies in"
        f" {tmp_path}; rename or move it, or name it by --analysis_parameters"
    )


@pytest.mark.parametrize("name", ["analysis_results.json", "parameters.json", "analysis_parameters.csv", "data.json"])
def test_another_file_is_not_taken_for_the_parameters_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    assert parameters.read_parameters(tmp_path) == Parameters()


def test_a_parameters_file_is_read_by_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "analysis_parameters.json").write_text('{"fixed_parameters": {"a": 1}}')
    (tmp_path / "other.json").write_text('{"fixed_parameters": {"a": 2}}')
    assert parameters.read_parameters(tmp_path, "other.json") == Parameters({"a": 2})
    with pytest.raises(RequestError, match=r"^--analysis_parameters: no such file: none\.json; give the path of a par"):
        parameters.read_parameters(tmp_path, "none.json")


def test_parameters_keep_their_order_and_their_values(tmp_path: Path) -> None:
    text = '{"fixed_parameters": {"z": 1e-05, "a": 12345678901234567890, "m": "é\\u0000", "b": -0.0}}'

    fixed = read_parameters(tmp_path, text).fixed

    assert repr(fixed) == "{'z': 1e-05, 'a': 12345678901234567890, 'm': 'é\\x00', 'b': -0.0}"


# Laws

LAW = settings(max_examples=100, deadline=None)

unicode_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | unicode_text,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(unicode_text, children, max_size=4),
    max_leaves=12,
)
json_objects = st.dictionaries(unicode_text, json_values, max_size=5)


@LAW
@given(json_objects)
def test_json_of_any_value_is_read_unchanged(value: dict[str, Any]) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1)):
        assert repr(json_text.read(text, "query")) == repr(value)


@LAW
@given(json_objects)
def test_a_python_literal_of_any_value_is_read_unchanged(value: dict[str, Any]) -> None:
    assert repr(json_text.read(f"{value!r}", "query")) == repr(value)


@LAW
@given(json_objects)
def test_what_was_read_can_be_written_and_read_again(value: dict[str, Any]) -> None:
    assert repr(json_text.read(json_text.compact(value), "query")) == repr(json.loads(json_text.compact(value)))


PIECES = [
    *"{}[]()'\"\\:,.#/*+-= \n\r\t\0\x0c\ufeff\u00a0\u2028\ud800é0123456789aebfnrtuxdNT_$",
    "//",
    "/*",
    "*/",
    "'''",
]
PIECES += ["true", "null", "True", "None", "NaN", "Infinity", "1e999", "b'x'", "'a'", '"b"', "{'a': ", '{"a": ', "a: "]
# Most texts are broken in the first character; these are broken late.
WELL_FORMED = [
    '{"subject.subject_id": {"$in": ["774659", "643634"]}, "n": [1, -2.5e3, true, null]}',
    "{'a': ['x', 'y'], 'b': (1, None, True), 'c': -1}  # remark",
    '{a: [1, 2,], // remark\n "b": \'\\u00e9\', /* more */ c: {"d": +.5}}',
    SEED_PARAMETERS,
]


@st.composite
def spoilt(draw: st.DrawFn, well_formed: list[str] = WELL_FORMED) -> str:
    """A well-formed text of which a few pieces are replaced."""
    text = draw(st.sampled_from(well_formed))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        length = draw(st.integers(0, 3))
        text = text[:start] + draw(st.sampled_from(["", *PIECES])) + text[start + length :]
    return text


any_text = st.text(max_size=40) | st.lists(st.sampled_from(PIECES), max_size=30).map("".join) | spoilt()


def refusal(read: Callable[[], object]) -> DispatchError | None:
    """The error with which `read` refuses; anything else that it raises fails the test."""
    try:
        read()
    except DispatchError as error:
        return error
    return None


@settings(max_examples=400, deadline=None)
@given(any_text)
def test_any_text_is_refused_or_read_as_what_can_be_written(text: str) -> None:
    refused = refusal(lambda: json_text.read(text, "query"))

    if refused is None:
        written = json_text.compact(json_text.read(text, "query"))
        assert repr(json_text.read(written, "query")) == repr(json.loads(written))
    else:
        assert isinstance(refused, RequestError)
        assert str(refused).startswith("query: ")


def as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


CSVS = ["asset_id\na\nb\n", '\ufeffname,asset_id\r\n"x, y",a\r\n\r\nz,b\r\n', "asset_id,n\na\nb,1,2\n"]
CATALOGS = [
    '{"_id": "a", "name": "x", "location": "s3://bucket/x", "subject": null}\n{"_id": "b", "location": "x"}\n',
    '[{"_id": "a", "name": "x"},\n {"_id": "b", "external_links": {"Code Ocean": ["c"]}}]',
]
READERS: dict[str, tuple[str, list[str], Callable[[Path], object]]] = {
    "query": ("query.json", WELL_FORMED, lambda path: selection.read_query(str(path), path.parent)),
    "CSV": ("data_asset_input.csv", CSVS, lambda path: tables.read_table((path.parent, path.parent / "input_files"))),
    "parameters": ("analysis_parameters.json", WELL_FORMED, lambda path: parameters.read_parameters(path.parent)),
    "catalog": (
        "catalog.jsonl",
        CATALOGS,
        lambda path: list(Catalog(path).find(Query.of({"name": {"$ne": None}}), ("name", "location"))),
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any-bytes")


@pytest.mark.parametrize("kind", READERS)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
@pytest.mark.long
def test_a_file_of_any_bytes_is_read_or_refused_with_exit_code_2(kind: str, folder: Path, data: st.DataObject) -> None:
    name, well_formed, read = READERS[kind]
    content = data.draw(st.binary(max_size=60) | any_text.map(as_bytes) | spoilt(well_formed).map(as_bytes))
    path = folder / kind / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    refused = refusal(lambda: read(path))
    shutil.rmtree(path.parent)

    assert refused is None or (refused.exit_code == 2 and refused.headline)


def test_a_tilde_in_a_path_is_the_home_folder(desk: World, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "query.json").write_text('{"subject.subject_id": "774659"}')
    done = desk.run("--docdb_query=~/query.json", "--report_directory=~/report", env={"HOME": str(tmp_path / "home")})
    assert len(done.jobs) == 2
    assert (tmp_path / "home" / "report" / "report.html").exists()

"""A table of data assets is understood as Excel and colleagues write it, or refused with the line."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import zipfile
from datetime import datetime
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job_dispatch.messages import RequestError
from job_dispatch.request import fields, tables
from job_dispatch.request.tables import Key, Table
from tests.conftest import CODE

ONE, TWO = "25439652-efbf-43dd-aa5d-aebe15ce0770", "b80b82e1-a5c4-4185-abb6-c13aa03ed37e"
BOTH = [Key("asset_id", ONE), Key("asset_id", TWO)]


def read(folder: Path) -> Table:
    return tables.read_table((folder, folder / "input_files"))


def read_text(folder: Path, content: str | bytes, name: str = "data_asset_input.csv") -> Table:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return read(folder)


def write_workbook(path: Path, *rows: list[Any]) -> None:
    workbook = openpyxl.Workbook()
    for row in rows:
        workbook.worksheets[0].append(row)
    workbook.save(path)


def parameters(table: Table) -> list[str]:
    return [json.dumps(row.parameters) for row in table.rows]


def refusal(folder: Path, content: str | bytes) -> str:
    with pytest.raises(RequestError) as refused:
        read_text(folder, content)
    return str(refused.value)


# Encodings, separators, comments


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
def test_any_usual_separator_and_encoding_is_understood(separator: str, encoding: str, tmp_path: Path) -> None:
    lines = [["Mouse", "asset_id"], ["Zoë, brown; 5 g", ONE], ["O\u2019Neill", TWO]]
    text = "\r\n".join(separator.join(f'"{cell}"' for cell in line) for line in lines)
    assert list(read_text(tmp_path, text.encode(encoding)).keys) == BOTH


@pytest.mark.parametrize("first", ["sep=;\r\n", "SEP=;\n", '"sep=;"\n'])
def test_the_first_line_of_excel_may_say_the_separator_and_counts_as_a_line(first: str, tmp_path: Path) -> None:
    table = read_text(tmp_path, f"{first}note, in short;asset_id\na;{ONE}\n")
    assert [(row.line, row.key.value) for row in table.rows] == [(3, ONE)]


def test_the_separator_is_the_one_by_which_a_column_is_known_whatever_stands_more_often(tmp_path: Path) -> None:
    text = f"asset_id;weight, age, sex, room\n{ONE};1,2,3,4\n{TWO};1,2,3,4\n"
    assert list(read_text(tmp_path, text).keys) == BOTH


def test_comments_and_titles_above_the_header_are_passed_over(tmp_path: Path) -> None:
    text = f'# it\'s "the cohort\nCohort 3, spring\n\nasset_id,note\n# {TWO}\n{ONE},"x\n# within a cell\ny"\n{TWO},\n'
    table = read_text(tmp_path, text)
    assert [(row.line, row.key.value) for row in table.rows] == [(6, ONE), (9, TWO)]


@pytest.mark.parametrize("header", ["Asset ID", "ASSET_ID", "asset-id", " assetId ", '"Asset_Id"'])
def test_headers_may_differ_in_case_blanks_and_underscores(header: str, tmp_path: Path) -> None:
    assert list(read_text(tmp_path, f"note;{header}\n;{ONE}\n;{TWO}\n").keys) == BOTH


@pytest.mark.parametrize(
    "cell",
    [
        ONE,
        ONE.upper(),
        f'"{ONE}"',
        f'"""{ONE}"""',
        f"'{ONE}'",
        f"'{ONE}",
        f"\u201c{ONE}\u201d",
        f"\u00a0{ONE}\u200b ",
        f'="{ONE}"',
        f'"=""{ONE}"""',
        f"https://codeocean.example.org/data-assets/{ONE}",
        f"https://codeocean.example.org/data-assets/{ONE.upper()}/behavior_774659_2025-06-07_14-31-15/",
        f"codeocean.example.org/data-assets/{ONE}?tab=metadata",
        f"https://codeocean.example.org/api/v1/data_assets/{ONE}",
    ],
)
def test_an_id_is_read_however_it_was_pasted(cell: str, tmp_path: Path) -> None:
    assert list(read_text(tmp_path, f"asset_id\n{cell}\n").keys) == [Key("asset_id", ONE)]


def test_what_was_understood_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="job_dispatch")
    text = f"# mice\nMouse;Asset ID;parameters.threshold\nZoë;{ONE};0,5\n;{TWO};\n"
    read_text(tmp_path, text.encode("cp1252"))
    assert [record.getMessage() for record in caplog.records] == [
        "data_asset_input.csv: Windows-1252, separated by ';', ids in column 'Asset ID' (line 2), 2 rows,"
        " parameters: threshold"
    ]


# Workbooks


@pytest.mark.parametrize("name", ["data_asset_input.xlsx", "data_asset_input.csv", "cohort.xlsx"])
def test_a_workbook_is_read_under_its_own_name_and_renamed(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="job_dispatch")
    write_workbook(tmp_path / name, ["Cohort 3"], [], ["Mouse", "Asset ID"], ["Zoë", ONE], [], ["# none"], ["x", TWO])
    table = read(tmp_path)
    assert [(row.line, row.key.value) for row in table.rows] == [(4, ONE), (7, TWO)]
    assert caplog.messages == [f"{name}: Excel, sheet 'Sheet', ids in column 'Asset ID' (line 3), 2 rows"]


def test_cells_of_a_workbook_keep_their_kind(tmp_path: Path) -> None:
    write_workbook(
        tmp_path / "data_asset_input.xlsx",
        ["subject_id", "session", *(f"parameters.{name}" for name in "abcdefg")],
        [774659, datetime(2025, 6, 7), 5, 0.5, True, "[1, 2]", "x", None, datetime(2025, 6, 8)],
        ["774659", datetime(2025, 6, 7, 21, 31, 15), 5.0, "0,5", False, "null", " ", "", datetime(2025, 6, 8, 1, 2)],
    )
    table = read(tmp_path)
    assert list(table.keys) == [
        Key("subject_id", "774659", "2025-06-07"),
        Key("subject_id", "774659", "2025-06-07T21:31:15Z"),
    ]
    assert parameters(table) == [
        '{"a": 5, "b": 0.5, "c": true, "d": [1, 2], "e": "x", "g": "2025-06-08"}',
        '{"a": 5, "b": "0,5", "c": false, "d": null, "g": "2025-06-08 01:02"}',
    ]


@pytest.mark.long
def test_a_cell_in_the_last_corner_of_a_sheet_costs_neither_memory_nor_minutes(tmp_path: Path) -> None:
    workbook = openpyxl.Workbook()
    sheet = workbook.worksheets[0]
    sheet["A1"], sheet["A2"], sheet["XFD1048576"] = "asset_id", ONE, "far"
    workbook.save(tmp_path / "data_asset_input.xlsx")
    assert within(tmp_path, 600_000_000) == [ONE]


def test_of_several_sheets_the_first_counts_and_the_others_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="job_dispatch")
    path = tmp_path / "data_asset_input.xlsx"
    workbook = openpyxl.Workbook()
    workbook.worksheets[0].append(["Read me first"])
    workbook.create_sheet("mice").append(["asset_id"])
    workbook.worksheets[1].append([ONE])
    workbook.save(path)
    with pytest.raises(RequestError) as refused:
        read(tmp_path)
    assert str(refused.value).splitlines()[-1] == (
        "  only the first of 2 sheets is read, 'Sheet'; move the one with the table to the front"
    )
    workbook.move_sheet("mice", -1)
    workbook.save(path)
    assert list(read(tmp_path).keys) == BOTH[:1]
    assert caplog.messages == [
        "data_asset_input.xlsx: Excel, sheet 'mice', the first of 2, ids in column 'asset_id' (line 1), 1 row"
    ]


def test_rows_hidden_by_a_filter_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    workbook = openpyxl.Workbook()
    sheet = workbook.worksheets[0]
    for row in (["asset_id"], [ONE], ["of another mouse"], ["and another"], [TWO]):
        sheet.append(row)
    for number in (3, 4):
        sheet.row_dimensions[number].hidden = True
    workbook.save(tmp_path / "data_asset_input.xlsx")
    assert list(read(tmp_path).keys) == BOTH
    assert caplog.messages == [
        "data_asset_input.xlsx: 2 rows are hidden in sheet 'Sheet' and left out; show them in Excel to use them"
    ]


def test_a_merged_cell_counts_for_each_row_that_it_goes_over(tmp_path: Path) -> None:
    workbook = openpyxl.Workbook()
    sheet = workbook.worksheets[0]
    rows = (["Cohort"], ["asset_id", "parameters.t"], ["a", 5], ["b"], ["c"], ["d"], [None, None, "x"])
    for row in rows:
        sheet.append(row)
    sheet.merge_cells("A1:B1")
    sheet.merge_cells("B3:B5")
    workbook.save(tmp_path / "data_asset_input.xlsx")
    table = read(tmp_path)
    assert [(row.key.value, row.parameters) for row in table.rows] == [
        *((name, {"t": 5}) for name in "abc"),
        ("d", {}),
    ]


def test_a_hidden_sheet_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="job_dispatch")
    workbook = openpyxl.Workbook()
    workbook.worksheets[0].append(["asset_id"])
    workbook.worksheets[0].append(["an old one"])
    workbook.worksheets[0].sheet_state = "hidden"
    mice = workbook.create_sheet("mice & more")
    mice.append(["asset_id"])
    mice.append(["hidden"])
    mice.append([ONE])
    mice.row_dimensions[2].hidden = True
    workbook.active = 1
    workbook.save(tmp_path / "data_asset_input.xlsx")
    assert list(read(tmp_path).keys) == BOTH[:1]
    assert caplog.messages[0].startswith("data_asset_input.xlsx: 1 row is hidden in sheet 'mice & more' and left out")
    assert "Excel, sheet 'mice & more', the first visible one of 2, ids in column 'asset_id'" in caplog.messages[1]


def test_a_formula_counts_by_its_result_and_one_that_was_never_computed_is_refused(tmp_path: Path) -> None:
    """openpyxl writes formulas alone; Excel writes their results beside them, of text with the type `str`."""
    path = tmp_path / "data_asset_input.xlsx"
    write_workbook(path, ["asset_id", "parameters.a", "parameters.b", "note"], ['="one"', "=1+1", '=""', "=NOW()"])
    with pytest.raises(RequestError) as refused:
        read(tmp_path)
    assert str(refused.value).splitlines()[1] == (
        '  line 2: its asset_id: the formula ="one" was never computed; save the file in Excel, or write the value'
    )
    results = [("A2", ' t="str"', ONE), ("B2", "", "2"), ("C2", ' t="str"', "")]
    with zipfile.ZipFile(path) as parts:
        held = {part: parts.read(part).decode() for part in parts.namelist()}
    sheet = "xl/worksheets/sheet1.xml"
    for cell, kind, result in results:
        formula = held[sheet].index("<f>", held[sheet].index(f'r="{cell}"'))
        start, end = held[sheet].index("<v", formula), held[sheet].index("</c>", formula)
        held[sheet] = f"{held[sheet][:start]}<v>{result}</v>{held[sheet][end:]}".replace(f'"{cell}"', f'"{cell}"{kind}')
    with zipfile.ZipFile(path, "w") as parts:
        for part, text in held.items():
            parts.writestr(part, text)
    table = read(tmp_path)
    assert list(table.keys) == BOTH[:1]
    assert parameters(table) == ['{"a": 2}']


@pytest.mark.parametrize("name", ["data_asset_input.csv", "data_asset_input.xlsx"])
@pytest.mark.parametrize("content", [b"PK\x03\x04", b"PK\x03\x04 and no more", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"])
def test_a_file_that_only_begins_like_a_workbook_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError, match=rf"^{name}: .*save it (again|as \.xlsx or CSV)"):
        read(tmp_path)


@pytest.mark.long
def test_an_archive_that_is_no_workbook_or_unpacks_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data_asset_input.xlsx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
    with pytest.raises(RequestError, match=r"not a workbook that can be read; save it as \.xlsx or CSV"):
        read(tmp_path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/worksheets/sheet1.xml", b"\0" * 250_000_000)
    with pytest.raises(RequestError, match="its sheets take 250,000,000 bytes; at most 200,000,000 are read"):
        read(tmp_path)


def test_the_named_files_come_first_then_the_only_one_in_the_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "input_files").mkdir()
    (tmp_path / "~$cohort.xlsx").write_bytes(b"open in Excel")
    for name in (
        "cohort.TSV",
        "input_files/data_asset_input.tsv",
        "input_files/data_asset_input.csv",
        "data_asset_input.tsv",
        "data_asset_input.xlsx",
        "data_asset_input.csv",
    ):
        (tmp_path / name).write_text(f"asset_id\tnote\n{name}\tx\n")
        table = read(tmp_path)
        assert (table.values("asset_id"), table.file_name) == ([name], Path(name).name)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"][-1].endswith(
        "data_asset_input.csv is used; not read:"
    )


# What selects


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("Name,weight\nbehavior_1,5\n", [Key("name", "behavior_1")]),
        (f"docdb_record_id\n{ONE.upper()}\n", [Key("docdb_record_id", ONE)]),
        ("location\ns3://bucket/a b/\n", [Key("location", "s3://bucket/a b")]),
        (f"name,asset_id\nx,{ONE}\n", [Key("asset_id", ONE)]),
        (
            f"asset_id,subject_id,session\n{ONE},1,2025-06-07\n,774659.0,2025-06-08\n",
            [Key("asset_id", ONE), Key("subject_id", "774659", "2025-06-08")],
        ),
        (
            "Subject ID,Session\n"
            "1,2025-06-07\n"
            "1,2025-06-07 14:31\n"
            "1,2025-06-07T14:31:15-07:00\n"
            "1,2025-06-07 14:31:15.5 +0200\n",
            [
                Key("subject_id", "1", session)
                for session in (
                    "2025-06-07",
                    "2025-06-07T14:31Z",
                    "2025-06-07T21:31:15Z",
                    "2025-06-07T12:31:15.500000Z",
                )
            ],
        ),
    ],
)
def test_a_column_of_names_record_ids_locations_or_sessions_selects_as_well(
    text: str, keys: list[Key], tmp_path: Path
) -> None:
    assert list(read_text(tmp_path, text).keys) == keys


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        (
            "# x\nAsset ID,asset_id\n1,2\n",
            "data_asset_input.csv, line 2: several columns could be the ids: 'Asset ID' and 'asset_id'; keep one",
        ),
        (
            "name,location\n1,2\n",
            "data_asset_input.csv, line 1: several columns could be the ids: 'name' and 'location';"
            " keep one, or call one 'asset_id'",
        ),
        (
            "subject_id\n1\n",
            "data_asset_input.csv, line 1: a column 'subject_id' needs a column 'session' with a day or a time",
        ),
        (
            "subject_id,session\n1,6/7/2025\n2,2025-06-07\n3,2025-06-31\n4,2025-06-07 25:00\n7.74659E+05,2025-06-07\n",
            "data_asset_input.csv: 4 rows cannot be read; correct them\n"
            "  line 2: '6/7/2025' is neither a day such as 2025-06-07 nor a time such as 2025-06-07T21:31:15Z\n"
            "  line 4: there is no day or time 2025-06-31\n"
            "  line 5: there is no day or time 2025-06-07 25:00\n"
            "  line 6: the subject_id 7.74659E+05 is in scientific notation, which loses digits; format"
            " the column as text in Excel, and write the id again",
        ),
        (
            'asset_id\na\n"b\nc\n"d\n',
            "data_asset_input.csv: 1 row cannot be read; correct them\n"
            "  line 3: its asset_id has several lines; is a quote not closed?",
        ),
        ('asset_id\na\n"b\nc\nd\n', "data_asset_input.csv, line 3: a quote is opened there and never closed"),
        (
            "asset_id,parameters.a,parameters.A,parameters.a\nx,1,2,3\n",
            "data_asset_input.csv, line 1: several columns 'parameters.a'; keep one",
        ),
        (
            "asset_id,parameters.\nx,1\n",
            "data_asset_input.csv, line 1: a column 'parameters.' names no parameter; write its name after the dot",
        ),
        (
            'asset_id,parameters.a\nx,1e999\ny,"{""k"": 1, ""k"": 2}"\n',
            "data_asset_input.csv: 2 rows cannot be read; correct them\n"
            "  line 2: parameters.a: the value is infinity, which JSON cannot hold\n"
            "  line 3: parameters.a: the key 'k' occurs twice in one object; keep one of the two",
        ),
    ],
)
def test_what_cannot_be_understood_is_named_with_its_line(text: str, refused: str, tmp_path: Path) -> None:
    assert refusal(tmp_path, text) == refused


def test_a_formula_that_failed_is_named_with_its_line_and_is_no_comment(tmp_path: Path) -> None:
    text = f"asset_id,parameters.a,note\n{ONE},#DIV/0!,\n#N/A,1,\n{TWO},2,#REF!\n# a comment\n#N/A is one; too\n"
    assert refusal(tmp_path, text) == (
        "data_asset_input.csv: 2 rows cannot be read; correct them\n"
        "  line 2: parameters.a: a formula failed and left #DIV/0!; correct it, or clear the cell\n"
        "  line 3: its asset_id: a formula failed and left #N/A; correct it, or clear the cell"
    )


def test_rows_with_more_cells_than_the_header_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """R's write.table gives the column of row names no title, so that every cell stands one too far to the right."""
    read_text(tmp_path, f'"asset_id"\t"note"\n"1"\t"{ONE}"\t"a"\n"2"\t"{TWO}"\t"b"\n')
    read_text(tmp_path, f"asset_id,note,,\n{ONE},x,,,,\n", "data_asset_input.csv")
    [warned] = [one for one in caplog.records if one.levelname == "WARNING"]
    assert warned.getMessage() == (
        "data_asset_input.csv: 2 rows with more cells than the header;"
        " is a title missing there, or the quotes around a cell?"
    )
    assert warned.__dict__["details"] == [f"line 2: 1, {ONE}, a", f"line 3: 2, {TWO}, b"]


def test_columns_that_are_nearly_called_parameters_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    header = "asset_id,parameters.a,parameter.b,Params_c,parameters: d,parameters,param set of the lab,parametric"
    assert parameters(read_text(tmp_path, f"{header}\nx,1,2,3,4,5,6,7\n")) == ['{"a": 1}']
    [warned] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warned == (
        "data_asset_input.csv, line 1: not taken as parameters: 'parameter.b', 'Params_c', 'parameters: d';"
        " write parameters.NAME"
    )


def test_rows_that_ask_for_nothing_are_named_with_their_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = read_text(tmp_path, f"asset_id,note\n,Cohort 2\n{ONE},\n , \n,\u201cthe end\u201d\n")
    assert list(table.keys) == BOTH[:1]
    [warned] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert warned.getMessage() == "data_asset_input.csv: 2 rows without an id not used:"
    assert warned.details == ["line 2: Cohort 2", "line 5: the end"]  # type: ignore[attr-defined]


# Parameters


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("5", 5),
        ("-0.5e3", -500.0),
        ("true", True),
        ("TRUE", True),
        ("FALSE", False),
        ("null", None),
        ("[1, [2]]", [1, [2]]),
        ('{"a": 1}', {"a": 1}),
        ('"5"', "5"),
        ('="007"', "007"),
        ("007", "007"),
        ("True", True),
        ("False", False),
        ("tRUE", "tRUE"),
        ("None", "None"),
        ("NaN", "NaN"),
        ("[NaN]", "[NaN]"),
        ("x y", "x y"),
        ("0,5", "0,5"),
        ("12345678901234567890", 12345678901234567890),
        ("2025-06-07", "2025-06-07"),
    ],
)
def test_a_cell_that_reads_as_json_is_that_value_and_anything_else_text(cell: str, value: Any, tmp_path: Path) -> None:
    for separator in ("\t", ","):
        quoted = f'"{cell.replace(chr(34), chr(34) * 2)}"'
        table = read_text(tmp_path, f"asset_id{separator}parameters.a\nx{separator}{quoted}\n")
        assert repr(table.rows[0].parameters) == repr({"a": value})


def test_a_blank_cell_is_nothing_and_a_short_row_is_blank_at_its_end(tmp_path: Path) -> None:
    table = read_text(tmp_path, "asset_id,Parameters. min rate ,parameters.b\nx,,1\ny,2\nz\n")
    assert parameters(table) == ['{"b": 1}', '{"min rate": 2}', "{}"]


def test_a_decimal_comma_is_a_number_only_where_a_semicolon_separates(tmp_path: Path) -> None:
    table = read_text(tmp_path, "asset_id;parameters.a\nx;0,5\ny;-1,5E-3\nz;1.234,5\nw;[0,5]\n")
    assert [row.parameters["a"] for row in table.rows] == [0.5, -0.0015, "1.234,5", [0, 5]]


def test_only_rows_with_the_same_values_count_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = read_text(tmp_path, "asset_id,parameters.a\nx,1\nx,2\nx,1\nx,\nx,1.0\n")
    assert [row.parameters.get("a") for row in table.rows] == [1, 2, None, 1.0]
    assert "data_asset_input.csv: 1 repeated id dropped" in caplog.messages


@settings(max_examples=150, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=6,
    )
)
def test_json_of_any_value_in_a_cell_is_that_value(value: Any) -> None:
    assert repr(tables.parameter_value(json.dumps(value), False)) == repr(value)


@settings(max_examples=150, deadline=None)
@given(st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2200, 1, 1), timezones=st.timezones()))
def test_a_session_is_found_by_its_day_and_by_its_time_in_any_zone(start: datetime) -> None:
    said = set(fields.sessions_of(start.isoformat()))
    assert fields.session(start.date().isoformat()) in said
    if start.utcoffset() is not None and start.utcoffset().seconds % 60 == 0:  # type: ignore[union-attr]
        for precision in ("minutes", "seconds", "microseconds"):
            assert fields.session(start.isoformat(timespec=precision)) in said


# Never without end


def within(folder: Path, memory: int, code: int = 0) -> list[str]:
    """Read the table of a folder in a process with so much memory, and give its ids or the last line of the error."""
    program = (
        "import sys, pathlib; from job_dispatch.request import tables; from job_dispatch.messages import RequestError\n"
        "try: print(*tables.read_table([pathlib.Path(sys.argv[1])] * 2).values('asset_id'), sep='\\n')\n"
        "except RequestError as error: print(error); sys.exit(2)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        cwd=CODE,
        capture_output=True,
        text=True,
        timeout=100,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (memory, memory)),
    )
    assert done.returncode == code, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("quote", ['"', ""])
def test_a_cell_of_thousands_of_commas_takes_no_memory(quote: str, tmp_path: Path) -> None:
    rows = "\n".join(f"id-{number}" for number in range(20_000))
    (tmp_path / "data_asset_input.csv").write_text(f"asset_id,note\n{rows}\nx,{quote}{',' * 20_000}{quote}\n")
    assert len(within(tmp_path, 400_000_000)) == 20_001


def test_a_header_of_thousands_of_commas_and_a_cell_without_end_are_refused_in_a_sentence(tmp_path: Path) -> None:
    assert refusal(tmp_path, "," * 20_000) == "data_asset_input.csv: the file is empty; it needs a column 'asset_id'"
    headline, *details = refusal(tmp_path, "a" + ",b" * 20_000).splitlines()
    assert headline.startswith("data_asset_input.csv: no column 'asset_id' (columns: a, b, b")
    assert len(headline) < 2_200
    assert len(details) == 1
    assert refusal(tmp_path, "asset_id\n" + "x" * 200_000) == (
        "data_asset_input.csv, line 2: not a readable CSV: field larger than field limit (131072)"
    )

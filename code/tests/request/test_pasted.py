"""What people paste for a query is taken for what it can only mean, or answered with what to write instead."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job_dispatch.messages import RequestError
from job_dispatch.request import flags, pasted, selection

QUERY: dict[str, Any] = {"subject.subject_id": "774659"}
TEXT = '{"subject.subject_id": "774659"}'


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        f"query = {TEXT}",
        f"query={TEXT}",
        f"filter_query: dict[str, str] = {TEXT}",
        f"const query = {TEXT};",
        f"{TEXT};",
        f"\n{TEXT} ;\n",
        f"```json\n{TEXT}\n```",
        f"```\n{TEXT}\n```\n",
        f"```python\nquery = {TEXT}\n```",
        f"'{TEXT}'",
        f"' {TEXT} '",
        '"{\\"subject.subject_id\\": \\"774659\\"}"',
        "\"{'subject.subject_id': '774659'}\"",
        f"db.data_assets.find({TEXT})",
        f"db.data_assets.find({TEXT});",
        f"db.getCollection('data_assets').find({TEXT})",
        f'db["data_assets"].find({TEXT}, {{"name": 1}})',
        f"cursor = collection.find({TEXT})",
        f"collection.find_one( {TEXT} )",
        f"db.data_assets.countDocuments({TEXT})",
        f'{{"filter": {TEXT}}}',
        f'{{"query": {{"filter": {TEXT}}}}}',
        f'{{"$match": {TEXT}}}',
        f"\ufeffquery = {TEXT}",
    ],
)
def test_what_stands_around_a_query_is_no_part_of_it(tmp_path: Path, text: str) -> None:
    assert selection.read_query(text, tmp_path).filter == QUERY


@pytest.mark.parametrize("text", [f"```json\n{TEXT}\n```", f"query = {TEXT}", f"db.x.find({TEXT})"])
def test_nor_in_a_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "query.txt").write_text(text)

    assert selection.read_query("query.txt", tmp_path).filter == QUERY


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ('{"name": /^behavior/}', {"name": {"$regex": "^behavior"}}),
        ('{"name": /^a\\/b/i}', {"name": {"$regex": "^a/b", "$options": "i"}}),
        ("{name: /x\\d/, a: {$in: [1]}}", {"name": {"$regex": "x\\d"}, "a": {"$in": [1]}}),
        ('{"name": re.compile("^a")}', {"name": {"$regex": "^a"}}),
        ("{'name': re.compile(r'^a\\d', re.IGNORECASE)}", {"name": {"$regex": "^a\\d", "$options": "i"}}),
        ('{"_id": ObjectId("5f0c")}', {"_id": "5f0c"}),
        ("{_id: {$in: [ObjectId('a'), ObjectId('b')]}}", {"_id": {"$in": ["a", "b"]}}),
        ('{"_id": {"$oid": "5f0c"}}', {"_id": "5f0c"}),
        ('{"n": NumberInt(5), "m": NumberLong("-7")}', {"n": 5, "m": -7}),
        ('{"a": "ISODate(\\"2025\\")", "b": \'/x/i\', "c": None}', {"a": 'ISODate("2025")', "b": "/x/i", "c": None}),
        ('{"a": "x /* y", // note\n "b": ObjectId("c")}', {"a": "x /* y", "b": "c"}),
    ],
)
def test_values_of_the_shell_and_of_python_that_can_only_mean_one_thing_are_that(
    tmp_path: Path, text: str, query: object
) -> None:
    assert selection.read_query(text, tmp_path).filter == query


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        ('ISODate("2025-06-07T00:00:00Z")', '"2025-06-07T00:00:00Z"'),
        ('new Date("2025-06-07")', '"2025-06-07"'),
        ("datetime(2025, 6, 7)", '"2025-06-07"'),
        ("datetime.datetime(2025, 6, 7, 14, 31)", '"2025-06-07T14:31:00"'),
        ("ISODate()", '"2025-06-07T14:31:15"'),
        ('{"$date": "2025-06-07T00:00:00Z"}', '"2025-06-07T00:00:00Z"'),
    ],
)
def test_a_date_is_answered_with_the_text_to_write(tmp_path: Path, value: str, remedy: str) -> None:
    with pytest.raises(RequestError) as refused:
        selection.read_query(f'{{"created": {{"$gte": {value}}}}}', tmp_path)

    assert refused.value.headline == (
        f"--docdb_query: dates are text in the metadata: write {remedy} instead of {value}"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            f"db.x.find({TEXT}).limit(5)",
            f"--docdb_query: give the filter alone, that is {TEXT}; not used would be: ).limit(5)",
        ),
        (
            f'{{"filter": {TEXT}, "limit": 5}}',
            "--docdb_query: give the object of filter alone; not used would be: limit",
        ),
        (
            'db.x.aggregate([{"$match": {}}])',
            '--docdb_query: no such file: db.x.aggregate([{"$match": {}}]);'
            " give a query that starts with {, or the path of a file with one",
        ),
    ],
)
def test_what_asks_for_more_than_a_filter_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RequestError) as refused:
        selection.read_query(text, tmp_path)

    assert refused.value.headline == message


@given(st.text(alphabet="{}[]()\"'`;=/.$ \nabdfinqtuxy0", max_size=60))
def test_any_text_is_unwrapped_and_translated_or_told(text: str) -> None:
    for change in (pasted.unwrapped, pasted.translated):
        with contextlib.suppress(pasted.PastedError):
            assert isinstance(change(text), str)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--subjct=774659", "unrecognized arguments: --subjct=774659; did you mean --subject?"),
        ("--docdb-query={}", "unrecognized arguments: --docdb-query={}; did you mean --docdb_query?"),
        ("-subject=1", "unrecognized arguments: -subject=1; did you mean --subject?"),
        ("--zzzzzz", "unrecognized arguments: --zzzzzz"),
        ("subject", "unrecognized arguments: subject"),
    ],
)
def test_a_misspelt_flag_gets_the_nearest_one(argument: str, message: str) -> None:
    with pytest.raises(RequestError) as refused:
        flags.parse([argument], "")

    assert refused.value.headline == message

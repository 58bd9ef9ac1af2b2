"""A local catalog answers as DocDB does, and says which line or which part of a query it cannot take."""

from __future__ import annotations

import gzip
import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from job_dispatch.messages import RequestError
from job_dispatch.metadata.catalog import Catalog
from job_dispatch.request.fields import Query

RECORDS: list[dict[str, Any]] = [
    {"_id": "known", "name": "a", "subject": {"subject_id": "774659", "tags": ["x", {"y": 1}]}},
    {"_id": "other", "name": "b", "subject": {"subject_id": "643634", "tags": []}},
    {"_id": "id is null", "name": "c", "subject": {"subject_id": None}},
    {"_id": "no id", "name": "d", "subject": {}},
    {"_id": "subject is null", "name": "e", "subject": None},
    {"_id": "subject is text", "name": "f", "subject": "774659"},
    {"_id": "no subject", "name": "g"},
]
NO_RECORD = "not a metadata record; it must be an object with an _id that is text"
WITHOUT_ID = ["no id", "subject is null", "subject is text", "no subject"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.jsonl"


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def found(path: Path, query: dict[str, Any]) -> list[str]:
    return [record["_id"] for page in Catalog(path).find(Query.of(query), ()) for record in page]


# Shapes of the file


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('{"_id": "a"}\n{"_id": "b"}\n', id="JSON Lines"),
        pytest.param('{"_id": "a"}\r\n\r\n  \r\n{"_id": "b"}', id="CRLF and blank lines"),
        pytest.param('\ufeff{"_id": "a"}\n{"_id": "b"}\n', id="BOM"),
        pytest.param('{"_id": "a", "note": "\u2028\x85"}\n{"_id": "b"}\n', id="odd separators"),
        pytest.param('[{"_id": "a"}, {"_id": "b"}]', id="array"),
        pytest.param('\n [\n  {\n   "_id": "a"\n  },\n  {"_id": "b"}\n ]\n', id="array over many lines"),
        pytest.param('\ufeff[{"_id": "a"}, {"_id": "b"}]', id="array with BOM"),
    ],
)
def test_json_lines_and_a_json_array_are_catalogs(path: Path, text: str) -> None:
    path.write_bytes(text.encode())

    assert found(path, {}) == ["a", "b"]
    assert found(path, {"_id": "b"}) == ["b"]


@pytest.mark.parametrize("text", ['{"_id": "a"}\n{"_id": "b"}\n', '[{"_id": "a"}, {"_id": "b"}]'])
def test_a_compressed_catalog_is_known_by_its_ending(tmp_path: Path, text: str) -> None:
    path = tmp_path / "catalog.jsonl.gz"
    path.write_bytes(gzip.compress(text.encode()))

    assert found(path, {"_id": "b"}) == ["b"]


def test_a_compressed_catalog_that_is_cut_or_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "catalog.jsonl.gz"
    for content in (gzip.compress(b'{"_id": "a"}\n' * 1_000)[:-9], b'{"_id": "a"}\n'):
        path.write_bytes(content)
        with pytest.raises(RequestError, match=r"catalog\.jsonl\.gz: not a whole gzip file: "):
            found(path, {})


def test_records_that_come_one_by_one_are_kept_outside_of_memory_and_queried_again_and_again() -> None:
    records = ({"_id": f"{number}", "text": 10_000 * "x"} for number in range(5_000))
    tracemalloc.start()
    with Catalog.of(records, "/lab") as catalog:
        for _ in range(2):
            assert catalog.count(Query.of({}), 60) == 5_000
            assert [one["_id"] for page in catalog.find(Query.of({"_id": "7"}), ()) for one in page] == ["7"]
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("text", ["", "\n", "[]"])
def test_a_catalog_without_records_has_none_to_select(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")

    assert found(path, {}) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"_id": "a"}\n\n{"_id": "b"\n',
            ", line 3: not JSON: Expecting ',' delimiter at column 12;"
            " a catalog has one record per line, or is one JSON array",
        ),
        (
            '{\n "_id": "a"\n}\n',
            ", line 1: not JSON: Expecting property name enclosed in double quotes at column 2;"
            " a catalog has one record per line, or is one JSON array",
        ),
        (
            '[\n {"_id": "a"}\n {"_id": "b"}\n]',
            ": not JSON: Expecting ',' delimiter at line 3, column 2;"
            " a catalog has one record per line, or is one JSON array",
        ),
        (
            '{"_id": "a"}\n{"_id": "b", "x": [{"y": 1, "y": 2}]}',
            ", line 2: the key 'y' occurs twice in one object; keep one of the two",
        ),
        (
            '{"_id": "a", "x": "\\u003a", "x": "\\u003a:"}',
            ", line 1: the key 'x' occurs twice in one object; keep one of the two",
        ),
        (
            '[{"_id": "a"}, {"_id": "b", "_id": "c"}]',
            ", record 2: the key '_id' occurs twice in one object; keep one of the two",
        ),
        ('{"_id": "a", "x": -1e999}', ", line 1: x is infinity, which JSON cannot hold"),
        ('[{"_id": "a", "x": 1e999}]', ", record 1: x is infinity, which JSON cannot hold"),
        ('{"_id": "a", "weight": NaN}', ", line 1: weight is NaN, which JSON cannot hold"),
        ('{"_id": "a"}\n' + "[" * 100_000, ", line 2: nested too deep to read"),
        ('{"_id": "a"}\n{"name": "b"}\n', f", line 2: {NO_RECORD}"),
        ('{"_id": "a"}\n{"_id": 2}\n', f", line 2: {NO_RECORD}"),
        ('{"_id": "a"}\n"b"\n', f", line 2: {NO_RECORD}"),
        ('[{"_id": "a"}, null]', f", record 2: {NO_RECORD}"),
    ],
)
def test_an_unreadable_line_is_named_with_its_number(path: Path, text: str, message: str) -> None:
    path.write_text(text, encoding="utf-8")

    with pytest.raises(RequestError, match=f"^{re.escape(f'{path}{message}')}$"):
        found(path, {})


@pytest.mark.parametrize(("array", "place"), [(False, "line"), (True, "record")])
def test_an_id_that_stands_twice_is_named_with_both_places(path: Path, array: bool, place: str) -> None:
    records = [{"_id": "a"}, {"_id": "b"}, {"_id": "a"}]
    if array:
        path.write_text(json.dumps(records), encoding="utf-8")
    else:
        write(path, *records)

    with pytest.raises(RequestError) as refused:
        found(path, {})

    assert str(refused.value) == (f"{path}, {place} 3: the _id a is that of an earlier one; each _id may occur once")


@pytest.mark.parametrize(
    "record", [{"_id": "\ud800"}, {"_id": "a", "name": "\ud800"}, {"_id": "a", "location": "\ud800"}]
)
def test_half_a_character_that_no_job_could_hold_is_named_with_its_line(path: Path, record: dict[str, str]) -> None:
    with pytest.raises(RequestError, match=", line 2: "):
        found(write(path, {"_id": "fine"}, record), {})


def test_a_catalog_of_another_encoding_is_refused_with_the_remedy(path: Path) -> None:
    path.write_bytes('{"_id": "é"}'.encode("latin-1"))

    with pytest.raises(RequestError) as refused:
        found(path, {})

    assert str(refused.value) == f"{path}, line 1: not UTF-8 text (byte 9); save it as UTF-8"


def test_a_folder_is_no_catalog(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r": cannot be read: Is a directory$"):
        Catalog(tmp_path)


# Locations


@pytest.mark.parametrize(
    ("location", "resolved"),
    [
        ("assets/behavior_1", "file://{folder}/assets/behavior_1"),
        ("assets/b é%20#?.nwb", "file://{folder}/assets/b é%20#?.nwb"),
        ("./assets", "file://{folder}/assets"),
        (" assets ", "file://{folder}/ assets "),
        ("/mnt/data/behavior 1", "file:///mnt/data/behavior 1"),
        ("file:///mnt/data/b%20é", "file:///mnt/data/b%20é"),
        ("s3://bucket/b é%20", "s3://bucket/b é%20"),
        ("", ""),
        (None, None),
    ],
)
def test_a_relative_location_is_a_file_url_with_the_path_as_it_is(
    path: Path, location: str | None, resolved: str | None
) -> None:
    write(path, {"_id": "a", "location": location})

    (page,) = Catalog(path).find(Query.of({}), ("location",))

    expected = resolved.format(folder=path.parent) if resolved is not None else None
    assert [dict(record) for record in page] == [{"_id": "a", "location": expected}]


def test_a_location_is_relative_to_the_catalog_and_not_to_where_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lab").mkdir()
    write(tmp_path / "lab" / "catalog.jsonl", {"_id": "a", "location": "assets/x"})
    monkeypatch.chdir(tmp_path)

    (page,) = Catalog(Path("lab/catalog.jsonl")).find(Query.of({}), ("location",))

    assert page[0]["location"] == f"file://{tmp_path}/lab/assets/x"


def test_a_query_for_a_location_asks_for_what_the_file_says(path: Path) -> None:
    write(path, {"_id": "a", "location": "assets/x"}, {"_id": "b"})

    assert found(path, {"location": "assets/x"}) == ["a"]
    assert found(path, {"location": {"$exists": False}}) == ["b"]


# The query language


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        # Below null, text or nothing a path is missing, and what is missing is null.
        ({"subject.subject_id": None}, ["id is null", *WITHOUT_ID]),
        ({"subject.subject_id": {"$eq": None}}, ["id is null", *WITHOUT_ID]),
        ({"subject.subject_id": {"$ne": None}}, ["known", "other"]),
        ({"subject.subject_id": {"$not": {"$eq": None}}}, ["known", "other"]),
        ({"subject.subject_id": {"$in": [None]}}, ["id is null", *WITHOUT_ID]),
        ({"subject.subject_id": {"$nin": [None]}}, ["known", "other"]),
        ({"subject.subject_id": {"$exists": False}}, WITHOUT_ID),
        ({"subject.subject_id": {"$exists": True}}, ["known", "other", "id is null"]),
        ({"subject.subject_id": {"$not": {"$exists": True}}}, WITHOUT_ID),
        ({"subject.subject_id": {"$ne": "774659"}}, ["other", "id is null", *WITHOUT_ID]),
        ({"subject.subject_id": {"$nin": ["774659", "x"]}}, ["other", "id is null", *WITHOUT_ID]),
        ({"subject.subject_id": {"$not": {"$in": ["774659"]}}}, ["other", "id is null", *WITHOUT_ID]),
        ({"subject.subject_id": {"$not": {"$regex": "^77"}}}, ["other", "id is null", *WITHOUT_ID]),
        ({"$nor": [{"subject.subject_id": "774659"}]}, ["other", "id is null", *WITHOUT_ID]),
        ({"subject": None}, ["subject is null", "no subject"]),
        ({"subject": {"$exists": True, "$eq": None}}, ["subject is null"]),
        # Two steps below nothing.
        ({"subject.subject_id.x": {"$exists": False}}, [record["_id"] for record in RECORDS]),
        ({"subject.subject_id.x": {"$ne": None}}, []),
        # Through a list a path finds what any element has.
        ({"subject.tags.y": 1}, ["known"]),
        ({"subject.tags": "x"}, ["known"]),
        ({"subject.tags": []}, ["other"]),
        # What people ask for.
        ({"subject.subject_id": "774659"}, ["known"]),
        ({"subject.subject_id": {"$in": ["774659", "643634"]}}, ["known", "other"]),
        ({"subject.subject_id": {"$regex": "^7{2}"}}, ["known"]),
        ({"name": {"$regex": "^[AB]$", "$options": "i"}}, ["known", "other"]),
        ({"$or": [{"name": "a"}, {"name": "g"}]}, ["known", "no subject"]),
        ({"$and": [{"name": {"$gte": "b"}}, {"name": {"$lt": "d"}}]}, ["other", "id is null"]),
        ({"name": 1}, []),
        ({"name": {"$gt": 1}}, []),
        ({}, [record["_id"] for record in RECORDS]),
    ],
    ids=json.dumps,
)
def test_a_query_selects_what_mongodb_would(path: Path, query: dict[str, Any], ids: list[str]) -> None:
    assert found(write(path, *RECORDS), query) == ids


ARRAYS: list[dict[str, Any]] = [
    {"_id": "empty", "a": []},
    {"_id": "texts", "a": ["x"]},
    {"_id": "nulls", "a": [None]},
    {"_id": "some with b", "a": [{"b": 1}, {"c": 1}]},
    {"_id": "all with b", "a": [{"b": 1}]},
    {"_id": "none with b", "a": [{"c": 1}]},
    {"_id": "b is null", "a": [{"b": None}]},
]


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ({"a.b": None}, ["some with b", "none with b", "b is null"]),
        ({"a.b": {"$ne": None}}, ["empty", "texts", "nulls", "all with b"]),
        ({"a.b": {"$nin": [None]}}, ["empty", "texts", "nulls", "all with b"]),
        ({"a.b": {"$ne": 1}}, ["empty", "texts", "nulls", "none with b", "b is null"]),
        ({"a.b": {"$exists": True}}, ["some with b", "all with b", "b is null"]),
        ({"a.b": {"$exists": False}}, ["empty", "texts", "nulls", "none with b"]),
        ({"a.b": {"$not": {"$eq": None}}}, ["empty", "texts", "nulls", "all with b"]),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_below_a_list_a_path_is_null_only_where_an_object_in_it_lacks_the_key(
    path: Path, query: dict[str, Any], ids: list[str]
) -> None:
    """The expected answers are MongoDB's own: jstests/core/null_query_semantics.js in its repository."""
    assert found(write(path, *ARRAYS), query) == ids


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ({"$like": "x"}, "unknown operator $like"),
        ({"name": {"$like": "x"}}, "name: unknown operator $like"),
        ({"name": {"$in": "a"}}, "name: $in takes a list"),
        ({"$where": "true"}, "$where is not supported; DocDB may know it"),
        ({"$text": {"$search": "a"}}, "$text is not supported; DocDB may know it"),
        ({"$expr": {"$eq": ["$name", "a"]}}, "$expr is not supported; DocDB may know it"),
        ({"name": {"$near": [1, 2]}}, "$near is not supported; DocDB may know it"),
        ({"name": {"$regex": "("}}, "the regular expression '(' is wrong: missing ) at position 1"),
        ({"name": {"$regex": 5}}, "$regex and $options must be text"),
        ({"name": {"$options": "i"}}, "name: $options is only for $regex"),
        (
            {"name": {"$type": "words"}},
            "$type takes names such as string or numbers from MongoDB's list, not 'words'",
        ),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_what_the_catalog_cannot_evaluate_is_named(path: Path, query: dict[str, Any], reason: str) -> None:
    with pytest.raises(RequestError) as refused:
        found(write(path, *RECORDS), query)

    assert refused.value.headline == f"{path}: the catalog cannot evaluate the query: {reason}"
    [detail] = refused.value.details
    assert detail.startswith("query: {")


@pytest.mark.parametrize(
    "query",
    [
        {"absent.field": {"$like": "x"}},
        {"absent": {"$regex": "("}},
        {"absent": {"$in": "a"}},
        {"absent": {"$all": 5}},
        {"absent": {"$elemMatch": {"$like": "x"}}},
        {"absent": {"$not": {"$regex": "("}}},
        {"absent": {"$elemMatch": {"b": {"$like": "x"}}}},
        {"_id": "none", "absent": {"$like": "x"}},
        {"$and": [{"_id": "none"}, {"$or": [{"_id": "known"}, {"absent": {"$like": "x"}}]}]},
        {"_id": "none", "$where": "true"},
    ],
    ids=json.dumps,
)
def test_a_mistake_is_found_even_where_no_record_is_compared_with_it(path: Path, query: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=": the catalog cannot evaluate the query: "):
        found(write(path, *RECORDS), query)


@pytest.mark.parametrize(
    "query",
    [
        {"$and": 5},
        {"$or": []},
        {"$and": [5]},
        {"name": {"$all": 5}},
        {"name": {"$regex": 5}},
        {"name": {"$not": 5}},
        {"name": {"$type": "words"}},
    ],
    ids=json.dumps,
)
def test_a_value_that_an_operator_does_not_take_is_the_querys_fault(path: Path, query: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=": the catalog cannot evaluate the query: "):
        found(write(path, *RECORDS), query)


def test_twenty_thousand_records_are_answered_in_their_order(path: Path) -> None:
    write(path, *({"_id": f"{number:05d}", "n": number % 2} for number in range(20_000)))

    assert found(path, {"n": 1}) == [f"{number:05d}" for number in range(1, 20_000, 2)]

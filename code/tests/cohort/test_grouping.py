"""Which records are taken and which are analysed together, the same from DocDB and from a catalog."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job_dispatch.cohort.grouping import arrange
from job_dispatch.cohort.selecting import select
from job_dispatch.metadata.catalog import Catalog
from job_dispatch.metadata.records import asset_of
from job_dispatch.model import Asset
from job_dispatch.request.flags import Settings
from tests.both_sources import EVERYTHING, call_both, call_catalog, groups, logged, make_world, record
from tests.conftest import BUCKET, S3, World
from tests.gateway import Gateway, Record

BY_SUBJECT = ("--filter_latest=created", "--filter_by=subject")
KEEP_NULLS = "--drop_null_groups=0"
UNWIND = "--unwind_list_fields=tags"

RECORDS = [
    record("a", subject=1, created="2025-06-01T10:00:00Z", tags=["x", "y"]),
    record("b", subject=1, created="2025-06-01T05:00:00-07:00", tags="x"),
    record("c", subject=2, tags=[]),
    record("d", subject=2, created="2025-06-01T11:00:00", tags=["y", "y"]),
    record("e", subject=None, created="2025-06-02", tags=None),
    record("f", created="2025-06-03", tags=["x"]),
]
FILES = {
    "a": ["2.nwb", "1.nwb", "notes.txt"],
    "b": ["deep/er/3.nwb"],
    "c": ["notes.txt"],
    "d": ["notes.txt"],
    "e": ["4.nwb"],
    "f": ["store.nwb/.zgroup"],
}
MATCHES = {"a": ["1.nwb", "2.nwb"], "b": ["deep/er/3.nwb"], "c": [], "d": [], "e": ["4.nwb"], "f": ["store.nwb"]}

TABLE: list[tuple[tuple[str, ...], list[tuple[Any, str]]]] = [
    ((), [(None, one) for one in "abcdef"]),
    ((KEEP_NULLS,), [(None, one) for one in "abcdef"]),
    (("--group_by=subject",), [(1, "ab"), (2, "cd")]),
    (("--group_by=subject", KEEP_NULLS), [(None, "ef"), (1, "ab"), (2, "cd")]),
    (("--group_by=tags",), [([], "c"), ("x", "b"), (["x"], "f"), (["x", "y"], "a"), (["y", "y"], "d")]),
    (BY_SUBJECT, [(None, "b"), (None, "d")]),
    ((*BY_SUBJECT, KEEP_NULLS), [(None, "b"), (None, "d"), (None, "e"), (None, "f")]),
    (("--filter_latest=created", "--filter_by=subject,tags"), [(None, "a"), (None, "b"), (None, "c"), (None, "d")]),
    (("--group_by=subject", *BY_SUBJECT), [(1, "b"), (2, "d")]),
    (("--group_by=subject", *BY_SUBJECT, KEEP_NULLS), [(None, "ef"), (1, "b"), (2, "d")]),
    (("--group_by=tags", UNWIND), [("x", "abf"), ("y", "ad")]),
    (("--group_by=tags", UNWIND, KEEP_NULLS), [(None, "ce"), ("x", "abf"), ("y", "ad")]),
    (("--group_by=tags", UNWIND, *BY_SUBJECT), [("x", "b"), ("y", "d")]),
    (("--group_by=subject", UNWIND), [(1, "ab"), (2, "cd")]),
    (("--group_by=subject,tags", UNWIND), [((1, "x"), "ab"), ((1, "y"), "a"), ((2, "y"), "d")]),
    (("--group_by=tags,subject", UNWIND), [(("x", 1), "ab"), (("y", 1), "a"), (("y", 2), "d")]),
    (
        ("--group_by=tags,subject", UNWIND, KEEP_NULLS),
        [((None, None), "e"), ((None, 2), "c"), (("x", None), "f"), (("x", 1), "ab"), (("y", 1), "a"), (("y", 2), "d")],
    ),
]
SPLIT_NOTE = "--split_files does not apply with --group_by: each job lists all files of its group"


@pytest.fixture
def world(gateway: Gateway, s3: S3, tmp_path: Path) -> World:
    """Six records with files in S3."""
    world = make_world(gateway, tmp_path, s3)
    world.records.extend(RECORDS)
    s3.put(BUCKET, [f"{name}/{path}" for name, paths in FILES.items() for path in paths])
    return world


@pytest.fixture
def desk(gateway: Gateway, tmp_path: Path) -> World:
    """No records and no S3."""
    return make_world(gateway, tmp_path)


def name_of(value: Any) -> str | None:
    return " ".join(value) if isinstance(value, tuple) else None


@pytest.mark.parametrize(("flags", "expected"), TABLE, ids=name_of)
def test_docdb_and_a_catalog_give_the_same_groups_in_the_order_of_their_values(
    world: World, flags: tuple[str, ...], expected: list[tuple[Any, str]]
) -> None:
    assert groups(call_both(world, EVERYTHING, *flags)) == expected


@pytest.mark.parametrize("split", [True, False], ids=["--split_files=1", "--split_files=0"])
@pytest.mark.parametrize(("flags", "expected"), TABLE, ids=name_of)
@pytest.mark.long
def test_a_group_lists_all_its_files_and_only_assets_and_groups_that_have_some(
    world: World, flags: tuple[str, ...], expected: list[tuple[Any, str]], split: bool
) -> None:
    found_in = (EVERYTHING, "--file_extension=nwb", f"--split_files={split:d}", *flags)
    completed = call_both(world, *found_in, orders=(True,))

    is_grouped = any(flag.startswith("--group_by") for flag in flags)
    jobs: list[tuple[Any, str, list[str]]] = []
    for values, ids in expected:
        files = [f"s3://{BUCKET}/{one}/{path}" for one in ids for path in MATCHES[one]]
        there = "".join(one for one in ids if MATCHES[one])
        if is_grouped or not split:
            jobs += [(values, there, files)] * bool(files)
        else:
            jobs += [(values, there, [file]) for file in files]
    found = [
        (values, ids, job["file_location"])
        for (values, ids), job in zip(groups(completed), completed.jobs, strict=True)
    ]
    assert found == jobs
    assert logged(completed, "INFO").count(SPLIT_NOTE) == (is_grouped and split)


def test_group_metadata_has_its_names_with_two_underscores_for_a_dot(desk: World) -> None:
    desk.records.append(record("a", subject={"subject_id": "774659"}, external_links={"Code Ocean": ["x", "y"]}))

    completed = call_both(desk, EVERYTHING, "--group_by=subject.subject_id,external_links.Code Ocean.0,name")

    metadata = {"subject__subject_id": "774659", "external_links__Code Ocean__0": "x", "name": "a"}
    assert [job["group_metadata"] for job in completed.jobs] == [metadata]
    assert [job["asset_id"] for job in completed.jobs] == [["x"]]


def test_a_job_without_group_by_has_no_group_metadata(desk: World) -> None:
    desk.records.extend(RECORDS)

    completed = call_both(desk, EVERYTHING, *BY_SUBJECT)

    assert all("group_metadata" not in job for job in completed.jobs)


# Values

A, B = {"x": 1, "y": [2]}, {"y": [2], "x": 1}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param([1, 1.0, True, "1"], [(1, "ab"), (True, "c"), ("1", "d")], id="kinds of one"),
        pytest.param([0, False, "", None], [(0, "a"), (False, "b"), ("", "c")], id="kinds of nothing"),
        pytest.param([10, 9, 2.5], [(2.5, "c"), (9, "b"), (10, "a")], id="numbers by size"),
        pytest.param(["b", "a", "B"], [("B", "c"), ("a", "b"), ("b", "a")], id="text"),
        pytest.param(["x", 1, "2025-06-01"], [(1, "b"), ("x", "a"), ("2025-06-01", "c")], id="numbers, text, dates"),
        pytest.param(
            ["2025-06-01T10:00:00", "2025-06-01T10:00:00+02:00", "2025-06-01T03:30:00-07:00"],
            [("2025-06-01T10:00:00+02:00", "b"), ("2025-06-01T10:00:00", "a"), ("2025-06-01T03:30:00-07:00", "c")],
            id="dates by time",
        ),
        pytest.param([A, B, {"x": 1}], [(A, "ab"), ({"x": 1}, "c")], id="objects in any order of keys"),
        pytest.param([[1, 2], [2, 1], [1, 2]], [([1, 2], "ac"), ([2, 1], "b")], id="lists in their order"),
        pytest.param(
            [[1], [1.0], {"x": [2.0]}, {"x": [2]}], [([1], "ab"), ({"x": [2.0]}, "cd")], id="1.0 is 1 in lists"
        ),
        pytest.param([[A], [B], [], {}], [([], "c"), ([A], "ab"), ({}, "d")], id="objects in lists"),
    ],
)
def test_values_of_any_kind_group_by_what_they_are(
    desk: World, values: list[Any], expected: list[tuple[Any, str]]
) -> None:
    desk.records.extend(record(one, value=value) for one, value in zip("abcd", values, strict=False))

    found = groups(call_both(desk, EVERYTHING, "--group_by=value"))

    # As JSON, since to Python 1 is True; objects are compared without the order of their keys.
    assert [json.dumps(one, sort_keys=True) for one in found] == [json.dumps(one, sort_keys=True) for one in expected]


ONE = {
    "name": "session",
    "external_links": {"Code Ocean": ["x", "y"]},
    "data_description": {"modality": [{"abbreviation": "ecephys"}, {"name": "no other"}, {"abbreviation": "pophys"}]},
    "old_links": [{"Code Ocean": "x"}, {"Code Ocean": "y"}],
    "procedures": [{"steps": [{"kind": "a"}, {"kind": "b"}]}, {"steps": [{"kind": "c"}]}],
}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("external_links.Code Ocean", ["x", "y"]),
        ("external_links.Code Ocean.0", "x"),
        ("external_links.Code Ocean.1", "y"),
        ("old_links.1.Code Ocean", "y"),
        ("old_links.Code Ocean", ["x", "y"]),
        ("data_description.modality.abbreviation", ["ecephys", "pophys"]),
        ("data_description.modality.0.abbreviation", "ecephys"),
        ("procedures.steps.0.kind", ["a", "c"]),
        ("procedures.0.steps.kind", ["a", "b"]),
        ("procedures.1.steps.0", {"kind": "c"}),
    ],
)
def test_a_dotted_path_goes_through_lists_and_indexes(desk: World, field: str, value: Any) -> None:
    desk.records.append({**record("a"), **ONE, "name": "a"})

    assert groups(call_both(desk, EVERYTHING, f"--group_by={field}")) == [(value, "a")]


@pytest.mark.parametrize("unwound", ["modality", "modality.abbreviation"])
def test_a_list_of_objects_is_spread_by_itself_or_by_what_is_below_it(desk: World, unwound: str) -> None:
    desk.records.extend(
        [
            record("a", modality=[{"abbreviation": "ecephys"}, {"abbreviation": "behavior"}]),
            record("b", modality={"abbreviation": "behavior"}),
            record("c", modality=[{"abbreviation": "behavior"}, {"abbreviation": "behavior"}]),
        ]
    )
    flags = (EVERYTHING, "--group_by=modality.abbreviation", f"--unwind_list_fields={unwound}")

    assert groups(call_both(desk, *flags)) == [("behavior", "abc"), ("ecephys", "a")]


@pytest.mark.parametrize("unwound", ["x,x.y", "x.y,x"])
def test_two_fields_are_spread_in_any_order_of_their_names(desk: World, unwound: str) -> None:
    desk.records.append(record("a", x=[{"y": [1, 2]}, {"y": [3]}]))

    completed = call_both(desk, EVERYTHING, "--group_by=x.y", f"--unwind_list_fields={unwound}")

    assert groups(completed) == [(1, "a"), (2, "a"), (3, "a")]


@pytest.mark.parametrize("field", ["self", "index", "level_0", "columns", "Code Ocean"])
def test_a_field_may_have_any_name(desk: World, field: str) -> None:
    desk.records.extend([record("a", **{field: ["x", "y"]}), record("b", **{field: ["y"]})])

    completed = call_both(desk, EVERYTHING, f"--group_by={field}", f"--unwind_list_fields={field}")

    assert groups(completed) == [("x", "a"), ("y", "ab")]


def test_an_asset_that_has_an_element_twice_is_in_its_group_once(desk: World) -> None:
    desk.records.extend([record("a", tags=["x", "x", "y", "x"]), record("b", tags=["x"])])

    completed = call_both(desk, EVERYTHING, "--group_by=tags", UNWIND)

    assert groups(completed) == [("x", "ab"), ("y", "a")]
    assert "unwinding put assets into more than one group 1 time" in logged(completed, "INFO")


def test_unwinding_that_puts_no_asset_into_several_groups_says_nothing(desk: World) -> None:
    desk.records.extend([record("a", tags=["x", "x"]), record("b", tags=["x"])])

    completed = call_both(desk, EVERYTHING, "--group_by=tags", UNWIND)

    assert not [line for line in logged(completed, "INFO") if line.startswith("unwinding")]


# Latest


@pytest.mark.parametrize(
    ("first", "second", "latest"),
    [
        pytest.param("2025-06-01T10:00:00", "2025-06-01T10:00:00+02:00", "a", id="no zone is UTC"),
        pytest.param("2025-06-01T03:00:00-07:00", "2025-06-01T09:00:00Z", "a", id="zones"),
        pytest.param("2025-06-01T00:00:00.001Z", "2025-06-01", "a", id="a day begins at midnight"),
        pytest.param("2025-06-01 10:00:01", "2025-06-01T10:00:00", "a", id="blank for T"),
        pytest.param("2025-06-01T10:00:00Z", "2025-06-01T12:00:00+02:00", "b", id="same time"),
        pytest.param(10, 9, "a", id="whole numbers"),
        pytest.param(2.5, 2, "a", id="decimals"),
        pytest.param(-1, -2, "a", id="negative numbers"),
        pytest.param(1, 1.0, "b", id="same number"),
        pytest.param(0, None, "a", id="null is oldest"),
        pytest.param("", None, "a", id="empty text is newer than null"),
        pytest.param("v2", "v1", "a", id="text"),
        pytest.param("x", "x", "b", id="same text"),
        pytest.param("10", 11, "a", id="text after numbers"),
        pytest.param("2025-06-01", "z", "a", id="dates after text"),
        pytest.param(["2025-06-01", "2025-06-09"], "2025-06-08", "a", id="a list by its greatest element"),
        pytest.param("2025-06-30T24:00:00Z", "2024-01-01", "a", id="the end of a day"),
        pytest.param("2025-06-30T23:59:60Z", "2025-06-30T23:59:59Z", "a", id="a leap second"),
        pytest.param("2025-06-30 10:00:00 UTC", "2024-01-01", "a", id="a zone by name"),
        pytest.param("2025/06/30", "2024-01-01", "a", id="slashes"),
        pytest.param("2023-05-11T19-29-48-07:00", "2023-05-11T19:29:48", "a", id="hyphens for colons"),
        pytest.param("2023-05-11,19:29:48", "2023-05-11T19:29:47", "a", id="a comma"),
        pytest.param({"$date": "2025-06-30T00:00:00Z"}, "2024-01-01", "a", id="a date of MongoDB"),
        pytest.param({"$date": 1751241600000}, "2024-01-01", "a", id="a date of MongoDB as a number"),
        pytest.param(1751241600, "2024-01-01", "a", id="seconds since 1970 beside a date"),
        pytest.param(1751241600000, "2025-06-29", "a", id="milliseconds since 1970 beside a date"),
        pytest.param("21:58:54", "2020-01-01", "b", id="a time of day is no date"),
    ],
)
@pytest.mark.long
def test_the_latest_is_the_greatest_as_date_or_number_and_of_equals_the_greater_id(
    desk: World, first: Any, second: Any, latest: str
) -> None:
    desk.records.extend([record("a", key="k", value=first), record("b", key="k", value=second)])

    completed = call_both(desk, EVERYTHING, "--filter_latest=value", "--filter_by=key")

    assert groups(completed) == [(None, latest)]
    assert "1 record skipped: not the latest by value" in logged(completed, "INFO")
    assert "skipped  1: 1 not the latest;" in completed.stdout


def test_values_that_cannot_be_compared_are_named_with_their_records(desk: World) -> None:
    desk.records.extend([record("a", key="k", value="2025-06-01"), record("b", key="k", value="final")])
    completed = call_both(desk, EVERYTHING, "--filter_latest=value", "--filter_by=key")
    assert groups(completed) == [(None, "a")]
    warned = "--filter_latest=value: 1 choice between values that cannot be compared:"
    assert warned in logged(completed, "WARNING")
    assert "  a is taken: a has '2025-06-01', b has 'final'" in completed.stderr.splitlines()


def test_numbers_that_are_read_as_dates_are_named(desk: World) -> None:
    desk.records.extend([record("a", key="k", value=1751241600), record("b", key="k", value="2024-01-01")])
    completed = call_both(desk, EVERYTHING, "--filter_latest=value", "--filter_by=key")
    assert "  a: 1751241600 is 2025-06-30 00:00:00+00:00" in completed.stderr.splitlines()


def made(name: str, created: str | None, **description: str) -> Record:
    times = {} if created is None else {"_created" if name.endswith("2") else "created": created}
    return record(name, data_description=description, key="k", **times)


@pytest.mark.parametrize(
    ("records", "latest"),
    [
        ([made("a", "2024-01-01"), made("b2", "2024-01-02")], "b2"),
        ([made("a", None, creation_date="2022-06-08", creation_time="21:58:54"), made("b", "2022-06-09")], "b"),
        (
            [made("a", None, creation_date="2022-06-08", creation_time="21:58:54"), made("b", "2022-06-08T21:00:00")],
            "a",
        ),
        ([made("a", "2021-01-01", creation_time="21:58:54"), made("b", "2021-01-02")], "b"),
    ],
    ids=["as version 2 has it", "a day and a time", "a later time", "a time without its day"],
)
def test_when_an_asset_was_made_is_read_from_where_each_version_has_it(
    desk: World, records: list[Record], latest: str
) -> None:
    desk.records.extend(records)
    completed = call_both(desk, EVERYTHING, "--filter_latest=@created", "--filter_by=key")
    assert [job["asset_name"] for job in completed.jobs] == [[latest]]


@pytest.mark.parametrize(
    ("names", "created", "latest"),
    [
        (("s_sorted_2025-06-09_10-00-00", "s_sorted_2025-06-08_10-00-00"), ("2025-06-10", "2025-06-11"), 1),
        (("s_sorted_2025-06-09_10-00-00", "s_sorted_2025-06-08_10-00-00"), ("2025-06-10", "2025-06-10"), 0),
    ],
    ids=["by the time of the record", "by the date in the name"],
)
def test_versions_with_the_creation_time_of_the_raw_asset_are_told_apart_and_that_is_a_warning(
    desk: World, names: tuple[str, str], created: tuple[str, str], latest: int
) -> None:
    copied = {"creation_time": "2025-06-01T00:00:00Z"}
    desk.records.extend(
        {**record(name, key="k", data_description=copied), "created": made}
        for name, made in zip(names, created, strict=True)
    )
    completed = call_both(desk, EVERYTHING, "--filter_latest=@created", "--filter_by=key")
    assert [job["asset_name"] for job in completed.jobs] == [[names[latest]]]
    assert "--filter_latest=@created: 1 choice between records with the same value" in completed.stderr


def test_a_field_and_the_name_that_stands_for_it_both_keep_their_values(desk: World) -> None:
    desk.records.append(record("a", created="2025-06-02", data_description={"creation_time": "2025-06-01"}))
    completed = call_both(desk, EVERYTHING, "--group_by=@created,created")
    assert completed.jobs[0]["group_metadata"] == {"@created": "2025-06-01", "created": "2025-06-02"}


def test_a_record_without_the_field_is_the_oldest(desk: World) -> None:
    desk.records.extend([record("a", key="k", value=0), record("b", key="k"), record("c", key="other")])

    completed = call_both(desk, EVERYTHING, "--filter_latest=value", "--filter_by=key")

    assert groups(completed) == [(None, "a"), (None, "c")]


# What is said


def test_records_left_out_for_want_of_a_value_are_named_in_a_warning(desk: World) -> None:
    desk.records.extend(RECORDS)

    completed = call_both(desk, EVERYTHING, "--group_by=tags", *BY_SUBJECT)

    assert "2 records without a value of tags, subject skipped:" in logged(completed, "WARNING")
    lines = completed.stderr.splitlines()
    start = next(number for number, line in enumerate(lines) if line.endswith(" skipped:"))
    assert lines[start + 1 : start + 3] == ["  e", "  f"]
    assert "skipped  4: 2 without a value, 2 not the latest;" in completed.stdout
    assert "jobs     2 of 2 groups," in completed.stdout


# Names, order and questions


def test_the_order_of_the_records_changes_neither_jobs_nor_names(world: World) -> None:
    flags = (EVERYTHING, "--group_by=tags", UNWIND, "--file_extension=nwb")
    first = call_catalog(world, *flags)

    for order in ([3, 0, 5, 1, 4, 2], [5, 4, 3, 2, 1, 0]):
        world.records[:] = [RECORDS[number] for number in order]
        again = call_catalog(world, *flags)
        assert (again.folders, again.jobs) == (first.folders, first.jobs)


def test_docdb_is_asked_for_no_field_together_with_one_below_it(desk: World) -> None:
    desk.records.append({**record("a"), **ONE})
    fields = (
        "data_description.modality.0.abbreviation",
        "data_description.modality",
        "external_links.Code Ocean.0",
        "procedures.steps.0.kind",
        "procedures.1",
        "procedures",
        "old_links.0",
        "name",
    )

    assert call_both(desk, EVERYTHING, f"--group_by={','.join(fields)}").returncode == 0

    projected = [list(stage["$project"]) for one in desk.gateway.requests for stage in one.body if "$project" in stage]
    assert projected
    for paths in projected:
        assert [(above, below) for above in paths for below in paths if below.startswith(f"{above}.")] == []
        assert [path for path in paths if any(part.isdecimal() for part in path.split("."))] == []


# Laws

VALUES: dict[str, list[Any]] = {
    "one": [1, 1.0],
    "true": [True],
    "text": ["1"],
    "list": [["x", 1]],
    "object": [{"a": 1, "b": []}, {"b": [], "a": 1}],
    "null": [None],
}
MOMENTS: list[list[Any]] = [
    [None],
    [0, 0.0],
    [2.5],
    [10],
    ["a text"],
    ["2025-06-01T10:00:00", "2025-06-01T10:00:00Z", "2025-06-01T03:00:00-07:00"],
    ["2025-06-01T10:00:01"],
]
labels = st.sampled_from(sorted(VALUES)).flatmap(
    lambda label: st.tuples(st.just(label), st.sampled_from(VALUES[label]))
)
moments = st.integers(0, len(MOMENTS) - 1).flatmap(
    lambda rank: st.tuples(st.just(rank), st.sampled_from(MOMENTS[rank]))
)


def assets_of(records: list[Record]) -> list[Asset]:
    return [asset_of(one) for one in records]


def numbered(values: list[dict[str, Any]]) -> list[Record]:
    return [record(f"{number:03}", **fields) for number, fields in enumerate(values)]


@given(st.lists(st.tuples(labels, labels), min_size=1), st.booleans())
@pytest.mark.long
def test_groups_partition_the_assets_by_their_values(
    drawn: list[tuple[tuple[str, Any], tuple[str, Any]]], drop_nulls: bool
) -> None:
    records = numbered([{"x": x, "y": y} for (_, x), (_, y) in drawn])

    arranged = arrange(assets_of(records), records, Settings(group_by=("x", "y"), drop_null_groups=drop_nulls))

    expected: dict[tuple[str, str], set[str]] = {}
    for one, ((x, _), (y, _)) in zip(records, drawn, strict=True):
        if not drop_nulls or "null" not in (x, y):
            expected.setdefault((x, y), set()).add(one["_id"])
    found = [[asset.record_id for asset in group.assets] for group in arranged.groups]
    assert sorted(map(sorted, found)) == sorted(map(sorted, expected.values()))
    assert sum(map(len, found)) == len(records) - len(arranged.without_value)
    assert arranged.in_several == 0


@given(st.lists(st.tuples(labels, moments), min_size=1), st.booleans())
@pytest.mark.long
def test_the_latest_is_exactly_one_a_key_and_it_is_the_maximum(
    drawn: list[tuple[tuple[str, Any], tuple[int, Any]]], drop_nulls: bool
) -> None:
    records = numbered([{"key": key, "value": value} for (_, key), (_, value) in drawn])
    asked = Settings(filter_latest="value", filter_by=("key",), drop_null_groups=drop_nulls)

    arranged = arrange(assets_of(records), records, asked)

    greatest: dict[str, tuple[int, str]] = {}
    nulls = set()
    for one, ((key, _), (rank, _)) in zip(records, drawn, strict=True):
        if key == "null":
            nulls.add(one["_id"])
        else:
            greatest[key] = max(greatest.get(key, (-1, "")), (rank, one["_id"]))
    kept = {record_id for _, record_id in greatest.values()} | (set() if drop_nulls else nulls)
    assert [group.assets[0].record_id for group in arranged.groups] == sorted(kept)
    assert len(arranged.without_value) + len(arranged.not_latest) + len(kept) == len(records)


@given(st.lists(labels | st.lists(labels, max_size=4), min_size=1))
@pytest.mark.long
def test_with_nulls_dropped_no_group_is_null_and_each_asset_is_grouped_or_named(
    drawn: list[tuple[str, Any] | list[tuple[str, Any]]],
) -> None:
    records = numbered([{"tags": [value for _, value in one] if isinstance(one, list) else one[1]} for one in drawn])

    arranged = arrange(assets_of(records), records, Settings(group_by=("tags",), unwind_list_fields=("tags",)))

    assert all(group.metadata != {"tags": None} for group in arranged.groups)
    grouped = {asset.record_id for group in arranged.groups for asset in group.assets}
    left_out = [asset.record_id for asset in arranged.without_value]
    assert len(left_out) == len(set(left_out))
    assert grouped | set(left_out) == {one["_id"] for one in records}
    assert not grouped & set(left_out)


@given(st.lists(labels | st.lists(labels, max_size=4), min_size=1))
@pytest.mark.long
def test_unwinding_then_grouping_loses_no_asset_and_puts_each_into_a_group_of_each_element(
    drawn: list[tuple[str, Any] | list[tuple[str, Any]]],
) -> None:
    elements = [one if isinstance(one, list) else [one] for one in drawn]
    # A value that is a list is itself spread, so it stands for a list of lists here.
    values = [[value for _, value in one] for one in elements]
    records = numbered([{"tags": value} for value in values])

    arranged = arrange(
        assets_of(records), records, Settings(group_by=("tags",), unwind_list_fields=("tags",), drop_null_groups=False)
    )

    found: dict[str, int] = {}
    for group in arranged.groups:
        ids = [asset.record_id for asset in group.assets]
        assert len(ids) == len(set(ids))
        for one in ids:
            found[one] = found.get(one, 0) + 1
    expected = [len({label for label, _ in one} or {"null"}) for one in elements]
    assert found == {one["_id"]: count for one, count in zip(records, expected, strict=True)}
    assert arranged.in_several == sum(expected) - len(records)


@given(data=st.data())
@pytest.mark.long
def test_the_order_of_the_records_changes_nothing(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    drawn = data.draw(st.lists(st.tuples(labels, moments, st.lists(labels, max_size=3)), min_size=1, max_size=8))
    records = numbered(
        [{"key": key, "value": value, "tags": [tag for _, tag in tags]} for (_, key), (_, value), tags in drawn]
    )
    records.append(record("z", key="always", value="2025-06-01", tags=["there"]))
    asked = Settings(
        group_by=("tags", "key"),
        filter_latest="value",
        filter_by=("key",),
        unwind_list_fields=("tags",),
        drop_null_groups=data.draw(st.booleans()),
    )
    folder = tmp_path_factory.mktemp("catalog")

    def selected(records: list[Record]) -> Any:
        path = folder / "catalog.jsonl"
        path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
        found = select(
            Catalog(path),
            group_by=asked.group_by,
            latest=asked.filter_latest,
            by=asked.filter_by,
            unwind=asked.unwind_list_fields,
            drop_null_groups=asked.drop_null_groups,
        )
        return [(repr(group.metadata), group.assets) for group in found.groups], found.skipped

    assert selected(data.draw(st.permutations(records))) == selected(records)

"""Names that stand for the fields of both versions of the metadata, in flags and queries, DocDB and catalog."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job_dispatch.messages import RequestError
from job_dispatch.metadata.matching import Matching, narrowed
from job_dispatch.metadata.records import asset_of, value_of
from job_dispatch.request.fields import NAMES, Filter, Query, instant
from tests.both_sources import (
    EVERYTHING,
    assert_refused,
    call_both,
    error_block,
    groups,
    make_world,
    record,
)
from tests.conftest import BUCKET, EXAMPLE, World
from tests.gateway import Gateway

# One session of a mouse, processed in version 1 and again in version 2; another mouse at the same second.
START, START_IN_UTC = "2025-06-07T14:31:15-07:00", "2025-06-07T21:31:15Z"


def v1(name: str, subject: str, start: str | None, created: str, *modalities: str, **fields: Any) -> dict[str, Any]:
    return record(
        name,
        subject={"subject_id": subject},
        session={"session_start_time": start} if start else None,
        acquisition=None,
        created="2025-12-24",
        data_description={
            "creation_time": created,
            "project_name": "Old",
            "modality": [{"abbreviation": one} for one in modalities] or None,
            **fields,
        },
    )


def v2(name: str, subject: str, start: str, created: str, *modalities: str, **fields: Any) -> dict[str, Any]:
    return record(
        name,
        subject={"subject_id": subject},
        acquisition={"acquisition_start_time": start},
        created=created,
        data_description={
            "creation_time": None,
            "project_name": "New",
            "modalities": [{"abbreviation": one} for one in modalities],
            **fields,
        },
    )


@pytest.fixture
def desk(gateway: Gateway, tmp_path: Path) -> World:
    world = make_world(gateway, tmp_path)
    world.records.extend(
        [
            v1("a", "1", START, "2025-06-08", "ecephys", "behavior", input_data_name="raw-1"),
            v2("b", "1", START_IN_UTC, "2025-06-09", "behavior", "ecephys", source_data=["raw-1"]),
            v1("c", "2", START, "2025-06-08", "behavior", input_data_name="raw-2"),
            v2("d", "2", "2025-06-08T01:00:00-07:00", "2025-06-10", "pophys", source_data=["raw-3", "raw-4"]),
            v1("e", "3", None, "2025-06-07", input_data_name=None),
        ]
    )
    return world


def found(world: World, *flags: str) -> str:
    return "".join(one for _, one in groups(call_both(world, *flags)))


def found_by(world: World, query: object) -> str:
    return found(world, f"--docdb_query={json.dumps(query)}")


# In flags


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--group_by=@subject",), [("1", "ab"), ("2", "cd"), ("3", "e")]),
        (("--group_by=@project",), [("New", "bd"), ("Old", "ace")]),
        (("--group_by=@session",), [(START, "abc"), ("2025-06-08T01:00:00-07:00", "d")]),
        (("--group_by=@modality",), [("behavior", "abc"), ("ecephys", "ab"), ("pophys", "d")]),
        (("--group_by=@raw",), [("raw-1", "ab"), ("raw-2", "c"), (["raw-3", "raw-4"], "d")]),
        (
            ("--group_by=@raw", "--unwind_list_fields=@raw"),
            [("raw-1", "ab"), ("raw-2", "c"), ("raw-3", "d"), ("raw-4", "d")],
        ),
        (
            ("--group_by=@created",),
            [("2025-06-07", "e"), ("2025-06-08", "ac"), ("2025-06-09", "b"), ("2025-06-10", "d")],
        ),
        (("--group_by=session.nothing|subject.subject_id",), [("1", "ab"), ("2", "cd"), ("3", "e")]),
        (
            (
                "--group_by=data_description.modality.abbreviation|data_description.modalities.abbreviation",
                "--unwind_list_fields=data_description.modality|data_description.modalities",
            ),
            [("behavior", "abc"), ("ecephys", "ab"), ("pophys", "d")],
        ),
        (("--filter_latest=@created", "--filter_by=@subject,@session"), [(None, "b"), (None, "c"), (None, "d")]),
        (("--filter_latest=@created", "--filter_by=@modality"), [(None, "b"), (None, "c"), (None, "d")]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value[0], str) else "",
)
def test_a_name_is_the_first_of_its_fields_that_has_a_value(
    desk: World, flags: tuple[str, ...], expected: list[tuple[Any, str]]
) -> None:
    assert groups(call_both(desk, EVERYTHING, *flags)) == expected


def test_a_name_stands_in_group_metadata_without_its_sign_and_a_path_with_two_underscores(desk: World) -> None:
    completed = call_both(
        desk, '--docdb_query={"_id": "a"}', "--group_by=@subject,@session,x.y|data_description.project_name"
    )

    [job] = completed.jobs
    assert job["group_metadata"] == {
        "subject": "1",
        "session": START,
        "x__y|data_description__project_name": "Old",
    }


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--group_by=@sujbect", "--group_by: '@sujbect' is not the name of a field; did you mean @subject?"),
        (
            "--group_by=@x",
            "--group_by: '@x' is not the name of a field; known are @subject, @session, @project, @modality, @raw,"
            " @created",
        ),
        ("--group_by=a|", "--group_by: 'a|' is not a record field such as subject.subject_id"),
        ("--group_by=a|@subject", "--group_by: 'a|@subject' is not a record field such as subject.subject_id"),
        ('--docdb_query={"@sbject": 1}', "--docdb_query: '@sbject' is not the name of a field; did you mean @subject?"),
        (
            '--docdb_query={"@session": {"$lte": "2025-06-31"}}',
            "--docdb_query: @session: there is no day or time 2025-06-31",
        ),
        (
            '--docdb_query={"$or": [{"@session": "June"}]}',
            "--docdb_query: @session takes a date or time such as 2025-06-07T14:31:15-07:00, not 'June'",
        ),
    ],
)
def test_a_name_that_is_none_is_refused_before_anything_is_asked(desk: World, flag: str, message: str) -> None:
    flags = (flag,) if "query" in flag else (EVERYTHING, flag)

    assert_refused(desk, desk.call(*flags), f"error: {message}")
    assert desk.gateway.requests == []


def test_a_name_of_which_no_record_has_a_value_is_compared_with_the_fields_that_are_there(desk: World) -> None:
    completed = call_both(desk, EVERYTHING, "--group_by=zzz|data_description.projectname")

    assert error_block(completed)[0] == "error: no selected record has a value of these fields; correct their names"


@pytest.mark.parametrize("text", ["SmartSPIM", "name='Extracellular electrophysiology' abbreviation='ecephys'"])
def test_an_asset_whose_modality_is_text_has_none_that_can_be_asked_for(text: str) -> None:
    old = record("a", data_description={"modality": text})
    assert (value_of(old, "@modality"), asset_of(old).modality) == (None, ())


# In queries


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"@subject": "1"}, "ab"),
        ({"@subject": {"$in": ["1", "3"]}}, "abe"),
        ({"@project": {"$regex": "^N"}}, "bd"),
        ({"@modality": "ecephys"}, "ab"),
        ({"@modality": {"$in": ["pophys", "ecephys"]}}, "abd"),
        # What a missing field meets must hold for all: each record lacks the field of the other version.
        ({"@modality": {"$ne": "ecephys"}}, "cde"),
        ({"@modality": {"$nin": ["ecephys", "pophys"]}}, "ce"),
        ({"@modality": {"$not": {"$regex": "^e"}}}, "cde"),
        ({"@modality": {"$exists": False}}, "e"),
        ({"@modality": {"$exists": True}}, "abcd"),
        ({"@modality": {"$exists": True, "$ne": "ecephys"}}, "cd"),
        ({"@modality": {"$ne": None}}, "abcd"),
        ({"@modality": {"$not": {"$exists": False}}}, "abcd"),
        ({"@modality": {"$nin": [None, "pophys"]}}, "abc"),
        ({"@modality": {"$in": [None, "pophys"]}}, "de"),
        ({"@raw": None}, "e"),
        ({"@raw": "raw-1"}, "ab"),
        ({"@raw": "raw-4"}, "d"),
        ({"$nor": [{"@subject": "1"}, {"@raw": "raw-2"}]}, "de"),
        ({"$or": [{"@modality": "pophys"}, {"$and": [{"@subject": "1"}, {"@project": "Old"}]}]}, "ad"),
        # The asset's own time, and the record's only where that is missing.
        ({"@created": {"$gte": "2025-06-09"}}, "bd"),
        ({"@created": {"$gte": "2025-06-08", "$lt": "2025-06-09"}}, "ac"),
        ({"@created": {"$ne": "2025-06-08"}}, "bde"),
        ({"nothing|data_description.project_name": "Old"}, "ace"),
        # Instants; the last session begins at 08:00 in universal time.
        ({"@session": START}, "abc"),
        ({"@session": START_IN_UTC}, "abc"),
        ({"@session": {"$gt": START_IN_UTC}}, "d"),
        ({"@session": {"$gte": START_IN_UTC, "$lte": "2025-06-08T09:00:00+01:00"}}, "abcd"),
        ({"@session": {"$gte": START_IN_UTC, "$lt": "2025-06-08T08:00:00+00:00"}}, "abc"),
        ({"@session": {"$lte": "2025-06-07T16:31:15-05:00"}}, "abc"),
        ({"@session": {"$in": ["2025-06-08T08:00:00Z", "2020-01-01"]}}, "d"),
        ({"@session": {"$ne": START_IN_UTC}}, "de"),
        ({"@session": {"$nin": [START_IN_UTC]}}, "de"),
        ({"@session": {"$not": {"$gte": "2025-06-08T08:00:00Z"}}}, "abce"),
        ({"@session": None}, "e"),
        ({"@session": {"$exists": True, "$ne": None}}, "abcd"),
        ({"@session": {"$regex": "Z$"}}, "b"),
        ({"$or": [{"@session": {"$gt": START_IN_UTC}}, {"name": "e"}]}, "de"),
        ({"$nor": [{"@session": START}]}, "de"),
        ({"$and": [{"@session": START}, {"@subject": "2"}], "@project": "Old"}, "c"),
    ],
    ids=json.dumps,
)
def test_a_name_in_a_query_asks_for_the_fields_of_both_versions(desk: World, query: object, expected: str) -> None:
    assert found_by(desk, query) == expected


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"$gte": "2022-06-08T12:00:00"}, "bd"),
        ({"$gt": "2022-06-08T09:00:00"}, "bd"),
        ({"$lt": "2022-06-08T12:00:00"}, "ac"),
        ({"$lte": "2022-06-08T09:00:00", "$gte": "2022-06-08"}, "a"),
        ({"$gte": "2022-06-08", "$lt": "2022-06-09"}, "ab"),
        ({"$gt": "2022-06-08"}, "abd"),
        ({"$lte": "2022-06-08"}, "c"),
        ("2022-06-08T21:58:54", "b"),
        ({"$ne": "2022-06-08T21:58:54"}, "acd"),
        ({"$lt": "2022-06-08"}, "c"),
    ],
    ids=json.dumps,
)
def test_a_time_of_day_is_compared_together_with_its_day_and_never_alone(
    desk: World, condition: object, expected: str
) -> None:
    """As schemas before 0.10 have it; without its day a time is none, and the record's own date counts."""
    times = {"a": ("2022-06-08", "09:00:00"), "b": ("2022-06-08", "21:58:54"), "c": ("2022-06-07", "23:00:00")}
    desk.records[:] = [
        record(name, data_description={"creation_date": day, "creation_time": time}, created="2030-01-01")
        for name, (day, time) in times.items()
    ]
    desk.records.append(record("d", data_description={"creation_time": "10:00:00"}, created="2022-06-09"))
    assert found_by(desk, {"@created": condition}) == expected


def test_a_query_without_names_reaches_docdb_as_it_was_written(desk: World) -> None:
    query = {"$and": [{"subject.subject_id": {"$in": ["1"]}}, {"a": {"b": 1, "$x": 2}}], "$comment": "mine"}
    desk.call(f"--docdb_query={json.dumps(query)}")

    assert desk.gateway.requests[0].body[0] == {"$match": query}


def test_the_query_that_jobs_tell_is_the_one_that_was_asked(desk: World) -> None:
    completed = call_both(desk, '--docdb_query={"@session": "2025-06-07T21:31:15Z"}', "--subject=1")

    assert {job["query"] for job in completed.jobs} == {'{"@session":"2025-06-07T21:31:15Z","@subject":"1"}'}


def test_why_nothing_matches_is_told_by_the_names_as_they_were_written(desk: World) -> None:
    completed = call_both(desk, "--subject=1", "--modality=pophis")

    assert error_block(completed) == [
        "error: no record matches the query",
        '  @subject = "1"         2 records',
        '  @modality = "pophis"   0 records   values there: "behavior", "ecephys"',
    ]


moments = st.sampled_from(
    [
        START,
        START_IN_UTC,
        "2025-06-07",
        "2025-06-08T08:00:00Z",
        "2025-06-08T23:59:59+14:00",
        "2025-06-06T00:00:00-12:00",
    ]
)
comparisons = st.one_of(
    moments,
    st.none(),
    st.dictionaries(st.sampled_from(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"]), moments, min_size=1),
    st.fixed_dictionaries({"$in": st.lists(moments | st.none(), max_size=2)}),
    st.fixed_dictionaries({"$nin": st.lists(moments, max_size=2)}),
)
conditions = st.one_of(
    comparisons.map(lambda one: {"@session": one}),
    comparisons.filter(lambda one: isinstance(one, dict)).map(lambda one: {"@session": {"$not": one}}),
    st.sampled_from([{"name": "a"}, {"name": {"$ne": "a"}}, {"@subject": "1"}]),
)
queries = st.recursive(
    conditions,
    lambda inner: st.builds(
        lambda name, parts: {name: parts},
        st.sampled_from(["$and", "$or", "$nor"]),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=5,
)


def matching(query: Filter) -> Matching:
    return Matching(Query.of(query), "here")


@given(queries, st.one_of(st.none(), moments), st.sampled_from(NAMES["@session"]), st.sampled_from("ab"))
def test_what_docdb_is_asked_and_what_is_judged_here_are_the_query_together(
    query: dict[str, Any], start: str | None, path: str, name: str
) -> None:
    parent, _, key = path.partition(".")
    one = {"_id": name, "name": name, "subject": {"subject_id": "1"}, parent: {key: start}}
    asked = narrowed(Query.of(query), "here")

    assert "Instant" not in repr(asked.sent)
    is_found = matching(asked.sent)(one) and (asked.judge is None or asked.judge(one))
    assert is_found == matching(query)(one)


# Without any JSON


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--subject=1",), "ab"),
        (("--subject=1, 3",), "abe"),
        (("--subject=1", "--subject=3"), "abe"),
        (("--project=Old",), "ace"),
        (("--modality=pophys,ecephys",), "abd"),
        (("--subject=1,2", "--modality=behavior", "--project=Old"), "ac"),
        (("--subject=1", '--docdb_query={"@project": "New"}'), "b"),
        (("--subject=1", '--docdb_query={"@subject": {"$in": ["1", "2"]}}'), "ab"),
        (("--from=2025-06-07",), "abcd"),
        (("--from=2025-06-08",), "d"),
        (("--to=2025-06-07",), "abc"),
        (("--from=2025-06-07", "--to=2025-06-07"), "abc"),
        (("--from=2025-06-07", "--to=2025-06-08", "--subject=2"), "cd"),
        (("--subject=", "--project= ", "--modality=", "--from=", "--to=", '--docdb_query={"name": "a"}'), "a"),
    ],
    ids=" ".join,
)
def test_flags_select_without_a_query_and_all_must_fit(desk: World, flags: tuple[str, ...], expected: str) -> None:
    assert found(desk, *flags) == expected


def test_a_day_is_the_one_that_the_clock_of_the_session_wrote(desk: World) -> None:
    """The last second of a day in Seattle is the next day in universal time."""
    desk.records[:] = [
        v1("a", "1", "2025-06-07T23:59:59-07:00", "2025-06-08"),
        v1("b", "1", "2025-06-08T00:00:00-07:00", "x"),
    ]

    assert found(desk, "--from=2025-06-07", "--to=2025-06-07") == "a"
    assert found(desk, "--from=2025-06-08", "--to=9999-12-31") == "b"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--from=2025-6-7",), "error: --from: '2025-6-7' is not a day such as 2025-06-07"),
        (("--to=2025-02-30",), "error: --to: there is no day 2025-02-30"),
        (("--to=yesterday",), "error: --to: 'yesterday' is not a day such as 2025-06-07"),
        (("--subject=,",), "error: --subject: ',' names nothing"),
        (
            ("--from=2025-06-08", "--to=2025-06-07"),
            "error: --from=2025-06-08 is after --to=2025-06-07; no session is in between",
        ),
    ],
)
def test_a_flag_that_selects_and_cannot_is_refused(desk: World, flags: tuple[str, ...], message: str) -> None:
    assert_refused(desk, desk.call(*flags), message)
    assert desk.gateway.requests == []


def test_a_table_and_flags_are_joined_by_and(desk: World) -> None:
    for one, links in zip(desk.records, "abcde", strict=True):
        one["external_links"] = {"Code Ocean": [f"id-{links}"]}
    (desk.input_directory / "data_asset_input.csv").write_text("asset_id\nid-d\nid-c\nid-a\n")

    assert found(desk, "--use_data_asset_csv=1", "--subject=2") == "dc"


# The recipe


def test_the_latest_version_of_each_session_is_right_on_both_versions_of_the_metadata_together(desk: World) -> None:
    """Several mice start at the same second; versions of one session write its start in different zones."""
    desk.records.clear()
    versions = [(v1, "09:00:00-07:00"), (v2, "09:00:00-07:00"), (v2, "16:00:00Z")]
    newest = []
    for subject, session in itertools.product(range(5), range(16)):
        for number, (make, time) in enumerate(versions):
            start = f"2025-06-{session + 1:02}T{time}"
            name = f"{subject}-{session:02}-{number}"
            one = make(name, str(subject), start, "")
            one["data_description"]["creation_time"] = f"2025-07-0{number + 1}T00:00:00Z"
            desk.records.append(one)
        newest.append(f"{subject}-{session:02}-2")

    completed = call_both(desk, EVERYTHING, "--filter_latest=@created", "--filter_by=@subject,@session")

    assert sorted(job["asset_name"][0] for job in completed.jobs) == newest


def test_the_recipe_keeps_the_newest_of_each_session_of_the_example(desk: World) -> None:
    records = [json.loads(line) for line in (EXAMPLE / "catalog.jsonl").read_text().splitlines()]
    derived = [one for one in records if one["data_description"]["data_level"] == "derived"]
    newest: dict[Any, tuple[str, str]] = {}
    for one in derived:
        sections = (one.get("session") or {}, one.get("acquisition") or {})
        starts = [value for section in sections for key, value in section.items() if key.endswith("start_time")]
        key = one["subject"]["subject_id"], instant(starts[0])
        newest[key] = max(newest.get(key, ("", "")), (one["data_description"]["creation_time"], one["name"]))
    desk.records[:] = [{**one, "location": f"s3://{BUCKET}/{one['name']}"} for one in records]

    completed = call_both(
        desk,
        '--docdb_query={"data_description.data_level": "derived"}',
        "--filter_latest=@created",
        "--filter_by=@subject,@session",
    )

    assert len(derived) == 8
    assert {job["asset_name"][0] for job in completed.jobs} == {name for _, name in newest.values()}
    assert len(completed.jobs) == 7


def test_an_operator_that_only_docdb_knows_cannot_stand_beside_an_instant() -> None:
    with pytest.raises(RequestError, match=r"^here cannot evaluate the query: \$where is not supported"):
        narrowed(Query.of({"$or": [{"@session": START}, {"$where": "true"}]}), "here")

"""A query that matches nothing is answered with the part that is to blame, the same by DocDB and by a catalog."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from job_dispatch.metadata import diagnosis
from tests.both_sources import assert_refused, call_both, call_catalog, error_block, make_world, record
from tests.conftest import World
from tests.gateway import Fault, Gateway, RecordedRequest

HEADLINE = "error: no record matches the query"


@pytest.fixture
def desk(gateway: Gateway, tmp_path: Path) -> World:
    """Four records of two subjects and no S3."""
    world = make_world(gateway, tmp_path)
    for name, subject, process, weight in (
        ("a", "774659", "processed", 20.5),
        ("b", "774659", "processed", 21),
        ("c", "774659", None, 22),
        ("d", "643634", "sorted", None),
    ):
        world.records.append(
            record(
                name,
                subject={"subject_id": subject, "weight": weight},
                data_description={
                    "project_name": "Behavior Platform",
                    "process_name": process,
                    "modality": [{"abbreviation": "behavior"}] + [{"abbreviation": "pophys"}] * (name == "b"),
                },
            )
        )
    world.records[0]["acquisition"] = {"subject_id": "774659"}
    return world


def query_flag(query: object) -> str:
    return f"--docdb_query={json.dumps(query)}"


def stages(request: RecordedRequest) -> set[str]:
    return {name for stage in request.body for name in stage}


def explained(world: World) -> list[RecordedRequest]:
    """Give the requests but those for the pages of the query itself, and the count beside them."""
    sampled = [request for request in world.gateway.requests if "$project" not in stages(request)]
    return [*sampled, *world.gateway.counts[1:]]


SUBJECT = {"subject.subject_id": "774659"}
PROCESS = {"data_description.process_name": "procesed"}
PROJECT = {"data_description.projectname": "x"}


@pytest.mark.parametrize(
    ("query", "lines"),
    [
        pytest.param(
            PROCESS,
            ['data_description.process_name = "procesed"   0 records   values there: "processed", "sorted"'],
            id="wrong value",
        ),
        pytest.param(
            {"data_description.modality.abbreviation": "ecephys"},
            ['data_description.modality.abbreviation = "ecephys"   0 records   values there: "behavior", "pophys"'],
            id="wrong value in a list",
        ),
        pytest.param(
            {"subject.subject_id": 774659},
            ['subject.subject_id = 774659   0 records   values there: "774659", "643634"'],
            id="number for a text",
        ),
        pytest.param(
            PROJECT,
            [
                'data_description.projectname = "x"   no such field'
                "   did you mean data_description.project_name or data_description.process_name?"
            ],
            id="misspelt field",
        ),
        pytest.param({"zzzzzzzz": 1}, ["zzzzzzzz = 1   no such field"], id="field like no other"),
        pytest.param(
            {"subject.Subject_ID": "774659"},
            ['subject.Subject_ID = "774659"   no such field   did you mean subject.subject_id?'],
            id="another case",
        ),
        pytest.param(
            {"subject_id": "774659"},
            ['subject_id = "774659"   no such field   did you mean subject.subject_id or acquisition.subject_id?'],
            id="the field that most records have first",
        ),
        pytest.param(
            {"subject": {"subject_id": "774659"}},
            [
                'subject = {"subject_id": "774659"}   0 records'
                '   an object is compared as a whole: write {"subject.subject_id": "774659"}'
            ],
            id="nested object",
        ),
        pytest.param(
            {"subject.subject_id": {"in": ["774659"]}},
            [
                'subject.subject_id = {"in": ["774659"]}   0 records'
                '   write $in instead of in; values there: "774659", "643634"'
            ],
            id="operator without its dollar",
        ),
        pytest.param(
            {"data_description.modality.abbreviation": ["behavior", "fib"]},
            [
                'data_description.modality.abbreviation = ["behavior", "fib"]   0 records'
                "   a list is compared as a whole: drop the brackets, or write"
                ' {"$in": […]}; values there: "behavior", "pophys"'
            ],
            id="list for one value",
        ),
        pytest.param(
            {"data_description.modality": "pophys"},
            [
                'data_description.modality = "pophys"   0 records'
                "   it holds objects: write data_description.modality.abbreviation"
            ],
            id="field that holds objects",
        ),
        pytest.param(
            {**SUBJECT, **PROCESS, **PROJECT},
            [
                'subject.subject_id = "774659"                    3 records',
                'data_description.process_name = "procesed"       0 records   values there: "processed"',
                'data_description.projectname = "x"           no such field'
                "   did you mean data_description.project_name or data_description.process_name?",
            ],
            id="the example of the specification",
        ),
        pytest.param(
            {"subject.subject_id": "643634", "data_description.process_name": "processed"},
            [
                'subject.subject_id = "643634"                  1 record',
                'data_description.process_name = "processed"   2 records'
                '   none of them with all above; values there: "sorted"',
            ],
            id="empty together",
        ),
        pytest.param(
            {"subject.weight": {"$gt": 20}, "subject.subject_id": "643634", "name": {"$regex": "^[ab]$"}},
            [
                "subject.weight $gt 20           3 records",
                'subject.subject_id = "643634"    1 record   none of them with all above; values there: "774659"',
                'name $regex "^[ab]$"            2 records',
            ],
            id="the condition with which nothing is left",
        ),
        pytest.param(
            {"$and": [SUBJECT, {"$and": [{"name": "a"}, {"name": "d"}]}]},
            [
                'subject.subject_id = "774659"   3 records',
                'name = "a"                       1 record',
                'name = "d"                       1 record   none of them with all above; values there: "a"',
            ],
            id="$and is taken apart",
        ),
        pytest.param(
            {"$and": [SUBJECT], **PROCESS},
            [
                'subject.subject_id = "774659"                3 records',
                'data_description.process_name = "procesed"   0 records   values there: "processed"',
            ],
            id="$and beside a condition",
        ),
        pytest.param(
            {"$or": [{"name": "x"}, {"subject.subject_id": "1"}]},
            ['$or [{"name": "x"}, {"subject.subject_id": "1"}]   0 records'],
            id="$or",
        ),
        pytest.param(
            {"$or": [{"name": "x"}, {"subject.subjectid": "1"}]},
            ['$or [{"name": "x"}, {"subject.subjectid": "1"}]   no such field   did you mean subject.subject_id?'],
            id="$or with a misspelt field",
        ),
        pytest.param(
            {"name": {"$in": ["x" * 100]}},
            [f'name $in ["{"x" * 49}… (113 characters)   0 records   values there: "d", "c", "b", "a"'],
            id="long value",
        ),
        pytest.param(
            {"$comment": "mine", "name": "x"},
            ['name = "x"   0 records   values there: "d", "c", "b", "a"'],
            id="a comment is no condition",
        ),
        pytest.param(
            {"subject.color": {"$exists": True}, "name": "x"},
            [
                "subject.color $exists true   no such field   did you mean subject?",
                'name = "x"                       0 records   values there: "d", "c", "b", "a"',
            ],
            id="$exists",
        ),
    ],
)
def test_the_part_of_a_query_that_matches_nothing_is_named_with_what_is_there(
    desk: World, query: dict[str, Any], lines: list[str]
) -> None:
    completed = call_both(desk, query_flag(query))

    assert_refused(desk, completed, HEADLINE, *(f"  {line}" for line in lines))
    number = sum(len(part) for part in query.get("$and", [])) + len(query)
    assert len(explained(desk)) <= 2 + 2 * number


@pytest.mark.parametrize("query", [{}, {"$comment": "all"}])
def test_an_empty_collection_is_said_to_be_one(desk: World, query: dict[str, Any]) -> None:
    desk.records.clear()

    assert_refused(desk, call_both(desk, query_flag(query)), HEADLINE, "  there is no record at all")


def test_in_an_empty_collection_no_field_is_called_misspelt(desk: World) -> None:
    desk.records.clear()

    completed = call_both(desk, query_flag({**SUBJECT, "name": "a"}))

    assert_refused(
        desk,
        completed,
        HEADLINE,
        '  subject.subject_id = "774659"   0 records',
        '  name = "a"                      0 records',
    )


def test_ten_values_are_shown_the_most_frequent_first(desk: World) -> None:
    desk.records[:] = [record(f"{number:03}", rig=f"rig {number % 12}") for number in range(32)]

    completed = call_both(desk, query_flag({"rig": "none"}))

    [_, line] = error_block(completed)
    values = line.split("values there: ")[1].split(", ")
    assert len(values) == 10
    assert set(values[:8]) == {f'"rig {number}"' for number in range(8)}


def test_a_number_that_is_the_key_of_an_object_is_no_missing_field(desk: World) -> None:
    desk.records[:] = [record("a", probes={"10": {"site": "VISp"}})]

    completed = call_both(desk, query_flag({"probes.10.site": "VISl"}))

    assert_refused(desk, completed, HEADLINE, '  probes.10.site = "VISl"   0 records   values there: "VISp"')


def test_days_without_a_session_are_told_by_the_name_of_the_field_and_with_those_that_there_are(desk: World) -> None:
    desk.records[:] = [record("a", acquisition={"acquisition_start_time": "2025-06-07T14:31:15-07:00"})]

    completed = call_both(desk, "--from=2030-01-01")

    there = 'values there: "2025-06-07T14:31:15-07:00"'
    assert_refused(desk, completed, HEADLINE, f'  @session $gte "2030-01-01"   0 records   {there}')


def test_the_condition_to_blame_is_shown_also_behind_twenty_others(desk: World) -> None:
    conditions = [{"name": {"$ne": f"{number}"}} for number in range(25)]

    completed = call_both(desk, query_flag({"$and": [*conditions, PROCESS]}))

    assert any("procesed" in line and '"processed"' in line for line in error_block(completed)), completed.stderr


# How DocDB is asked


@pytest.mark.parametrize("conditions", range(1, 8))
def test_docdb_is_asked_at_most_twice_a_condition_and_twice_more(desk: World, conditions: int) -> None:
    fine = [{"name": {"$ne": f"{number}"}} for number in range(conditions - 1)]

    for query in ({"$and": [*fine, PROCESS]}, {"$and": [PROCESS, *fine]}, {"$and": [*fine, {"name": "none"}]}):
        desk.gateway.requests.clear()
        desk.gateway.counts.clear()
        assert desk.call(query_flag(query)).returncode == 2
        assert len(explained(desk)) <= 2 + 2 * conditions
        assert all(stages(request) <= {"$match", "$count", "$sample"} for request in explained(desk))


def refuse(status: int, *queries: object) -> Any:
    """Refuse the counts of these queries, or all of them."""

    def fault(request: RecordedRequest) -> Fault | None:
        if "$count" not in stages(request):
            return None
        is_meant = not queries or request.body[0]["$match"] in queries
        return Fault(status=status, body='{"message": "not now"}') if is_meant else None

    return fault


def test_the_sample_is_of_two_hundred_records_drawn_from_all_that_still_match(desk: World) -> None:
    desk.call(query_flag({**SUBJECT, **PROCESS}))

    [sample] = [request.body for request in explained(desk) if "$sample" in stages(request)]
    assert sample[1:] == [{"$sample": {"size": 200}}]
    assert sample[0]["$match"] in (SUBJECT, {"$and": [SUBJECT]})


@pytest.mark.parametrize("status", [400, 403])
def test_a_count_that_fails_is_a_question_mark_and_changes_nothing_else(desk: World, status: int) -> None:
    desk.gateway.count_faults = [refuse(status, SUBJECT)] * 20

    completed = desk.call(query_flag({**SUBJECT, **PROCESS}))

    assert_refused(
        desk,
        completed,
        HEADLINE,
        '  subject.subject_id = "774659"                ? records',
        '  data_description.process_name = "procesed"   0 records   values there: "processed"',
    )


@pytest.mark.parametrize("status", [400, 403])
def test_where_all_counts_fail_the_values_are_still_shown(desk: World, status: int) -> None:
    desk.gateway.count_faults = [None, *[refuse(status)] * 20]

    completed = desk.call(query_flag({**SUBJECT, **PROCESS}))

    assert_refused(
        desk,
        completed,
        HEADLINE,
        '  subject.subject_id = "774659"                ? records',
        '  data_description.process_name = "procesed"   ? records   values there: "processed"',
    )


def test_a_sample_that_fails_leaves_the_counts(desk: World) -> None:
    def fault(request: RecordedRequest) -> Fault | None:
        return Fault(status=403) if "$sample" in stages(request) else None

    desk.gateway.faults = [fault] * 20

    completed = desk.call(query_flag({**SUBJECT, **PROCESS}))

    assert_refused(
        desk,
        completed,
        HEADLINE,
        '  subject.subject_id = "774659"                3 records',
        '  data_description.process_name = "procesed"   0 records',
    )


def test_a_field_that_only_records_outside_the_sample_have_is_not_called_missing(
    desk: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis, "_SAMPLE_SIZE", 2)
    desk.records[:] = [*(record(f"{number:03}", common=1) for number in range(40)), record("rare", seldom=1)]

    for _ in range(3):  # whatever is drawn
        completed = call_both(desk, query_flag({"common": 1, "seldom": 2}))
        assert "seldom = 2    0 records" in completed.stderr
        assert "no such field" not in completed.stderr


def test_a_sample_too_large_for_the_gateway_is_a_smaller_one(desk: World) -> None:
    for one in desk.records:
        one["notes"] = "x" * 3_000
    desk.gateway.payload_limit = 7_000

    completed = desk.call(query_flag(PROCESS))

    [_, line] = error_block(completed)
    values = {'"processed"', '"sorted"', '"processed", "sorted"', '"sorted", "processed"'}
    assert line.removeprefix('  data_description.process_name = "procesed"   0 records   values there: ') in values
    sizes = [stage["$sample"]["size"] for one in explained(desk) for stage in one.body if "$sample" in stage]
    assert sizes == [200 >> halved for halved in range(len(sizes))]


def test_a_slow_gateway_is_not_waited_for_beyond_the_limit(desk: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "_SECONDS", 0.5)
    desk.gateway.faults = [None, *[Fault(delay=600)] * 20]
    desk.gateway.count_faults = [None, *[Fault(delay=600)] * 20]
    start = time.monotonic()

    completed = desk.call(query_flag({**SUBJECT, **PROCESS}))

    assert time.monotonic() - start < 600  # when the first answer would come
    assert_refused(
        desk,
        completed,
        HEADLINE,
        '  subject.subject_id = "774659"                ? records',
        '  data_description.process_name = "procesed"   ? records',
    )


def test_nothing_is_asked_beyond_the_limit(desk: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "_SECONDS", 0.0)

    completed = desk.call(query_flag({**SUBJECT, **PROCESS}))

    assert explained(desk) == []
    assert [line.split("   ")[-1].strip() for line in error_block(completed)[1:]] == ["? records", "? records"]
    assert error_block(call_catalog(desk, query_flag({**SUBJECT, **PROCESS}))) == error_block(completed)


# Text of others


@pytest.mark.parametrize("text", ["\x1b[31mred", "\u202egnp", "a\nerror: forged", "\x9b31m"])
def test_text_from_records_is_shown_escaped(desk: World, text: str) -> None:
    desk.records[:] = [record("a", kind=text, kindred={text: 1})]

    completed = call_both(desk, query_flag({"kind": "x"}))
    misspelt = call_both(desk, query_flag({f"kindred.{text}x": 1}))

    assert "values there: " in completed.stderr
    assert "did you mean " in misspelt.stderr
    for shown in (completed.stderr, misspelt.stderr):
        assert all(line.isprintable() for line in shown.splitlines())
        assert not [line for line in shown.splitlines() if line.startswith("error: forged")]

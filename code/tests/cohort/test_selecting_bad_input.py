"""What is wrong with the flags that group, keep the latest and spread is said exactly, with exit code 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.both_sources import EVERYTHING, assert_refused, call_both, call_catalog, make_world, record
from tests.conftest import World
from tests.gateway import Gateway


@pytest.fixture
def desk(gateway: Gateway, tmp_path: Path) -> World:
    """Two records, each without a field that the other has, and no S3."""
    world = make_world(gateway, tmp_path)
    world.records.extend(
        [
            record("a", subject={"subject_id": "1"}, session={"start": "2025-06-01"}, level=None),
            record("b", subject={"subject_id": "2"}, rig="323_EPHYS1", level=None),
        ]
    )
    return world


def not_a_field(flag: str, text: str) -> str:
    return f"error: --{flag}: {text!r} is not a record field such as subject.subject_id"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--filter_latest=created",),
            "error: --filter_latest needs --filter_by: fields whose latest record is kept",
        ),
        (
            ("--filter_by=name",),
            "error: --filter_by needs --filter_latest: the field that decides which record is the latest",
        ),
        (
            ("--unwind_list_fields=tags",),
            "error: --unwind_list_fields needs --group_by: the fields to group the unwound records by",
        ),
        (
            ("--unwind_list_fields=tags", "--filter_latest=created", "--filter_by=name"),
            "error: --unwind_list_fields needs --group_by: the fields to group the unwound records by",
        ),
        (
            ("--filter_latest=created,name", "--filter_by=name"),
            "error: --filter_latest: 'created,name' are several fields; give one",
        ),
        (("--drop_null_groups=no",), "error: --drop_null_groups: 'no' is neither 0 nor 1"),
        (("--group_by=$subject",), not_a_field("group_by", "$subject")),
        (("--group_by=name,a..b",), not_a_field("group_by", "a..b")),
        (("--group_by=.a",), not_a_field("group_by", ".a")),
        (("--group_by=a.",), not_a_field("group_by", "a.")),
        (("--group_by=a,,b",), not_a_field("group_by", "")),
        (("--filter_by=$$ROOT", "--filter_latest=name"), not_a_field("filter_by", "$$ROOT")),
        (("--filter_latest=a..b", "--filter_by=name"), not_a_field("filter_latest", "a..b")),
        (("--unwind_list_fields=$tags", "--group_by=name"), not_a_field("unwind_list_fields", "$tags")),
    ],
)
def test_a_flag_that_cannot_be_followed_is_named_before_anything_is_asked(
    desk: World, flags: tuple[str, ...], message: str
) -> None:
    assert_refused(desk, desk.call(EVERYTHING, *flags), message)
    assert desk.gateway.requests == []


def test_blank_flags_group_nothing(desk: World) -> None:
    flags = ("--group_by=", "--filter_latest= ", "--filter_by=", "--unwind_list_fields=", "--drop_null_groups=")

    completed = call_both(desk, EVERYTHING, *flags)

    assert completed.returncode == 0
    assert len(completed.jobs) == 2


@pytest.mark.parametrize(
    ("flags", "details"),
    [
        (("--group_by=subject.subject_ID",), ["  subject.subject_ID   did you mean subject.subject_id?"]),
        (("--group_by=start",), ["  start   did you mean session.start?"]),
        (("--group_by=subjekt.subject_id,name",), ["  subjekt.subject_id   did you mean subject.subject_id?"]),
        (("--group_by=zzzzzz",), ["  zzzzzz"]),
        (
            ("--group_by=sesion.start,rigg", "--unwind_list_fields=zzzzzz"),
            ["  sesion.start   did you mean session.start?", "  rigg   did you mean rig?", "  zzzzzz"],
        ),
        (("--filter_latest=session.strt", "--filter_by=name"), ["  session.strt   did you mean session.start?"]),
        (
            ("--filter_latest=name", "--filter_by=subject.sub_id"),
            ["  subject.sub_id   did you mean subject.subject_id?"],
        ),
    ],
)
@pytest.mark.parametrize("drop_nulls", [0, 1])
def test_a_field_that_no_record_has_is_compared_with_those_that_they_have(
    desk: World, flags: tuple[str, ...], details: list[str], drop_nulls: int
) -> None:
    completed = call_both(desk, EVERYTHING, f"--drop_null_groups={drop_nulls}", *flags)

    headline = "error: no selected record has a value of these fields; correct their names"
    assert_refused(desk, completed, headline, *details)


@pytest.mark.parametrize("field", ["_id.x", "name.first", "location.0"])
def test_a_path_below_what_is_text_is_a_field_that_no_record_has(desk: World, field: str) -> None:
    completed = call_both(desk, EVERYTHING, f"--group_by={field}")

    assert completed.stderr.count("error: no selected record has a value of these fields") == 1
    assert completed.returncode == 2


def test_fields_that_are_there_but_null_in_every_record_are_not_called_misspelt(desk: World) -> None:
    completed = call_both(desk, EVERYTHING, "--group_by=level")

    assert completed.returncode == 2
    assert "did you mean" not in completed.stderr


def test_fields_that_no_record_has_together_are_named_with_the_remedy(desk: World) -> None:
    completed = call_both(desk, EVERYTHING, "--group_by=session.start,rig")

    assert_refused(
        desk,
        completed,
        "error: no record has a value of every field to group by; --drop_null_groups=0 keeps them all",
    )
    assert len(call_both(desk, EVERYTHING, "--group_by=session.start,rig", "--drop_null_groups=0").jobs) == 2


def test_a_field_is_compared_only_with_those_of_the_records_that_match(desk: World) -> None:
    completed = call_catalog(desk, '--docdb_query={"_id": "a"}', "--group_by=rigg")

    assert_refused(
        desk,
        completed,
        "error: no selected record has a value of these fields; correct their names",
        "  rigg",
    )


def test_a_set_that_breaks_the_schema_is_refused_before_the_output_is_touched(desk: World) -> None:
    parameters = desk.input_directory / "analysis_parameters.json"
    schema = desk.input_directory / "schema.json"
    parameters.write_text(json.dumps({"parameter_grid": {"x": [1, "a"]}}))
    schema.write_text(json.dumps({"properties": {"x": {"type": "integer"}}}))

    assert_refused(
        desk,
        desk.call(EVERYTHING, f"--parameter_schema={schema}"),
        f"error: {parameters}: parameter sets break the schema {schema}",
        '  set 2, x: "a" is not of type "integer"',
    )
    assert desk.gateway.requests == []

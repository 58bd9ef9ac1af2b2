"""The record of an asset is put together from its metadata files and its name."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from job_dispatch.messages import RequestError
from job_dispatch.metadata.asset_records import record_of, wanted_files

LOCATION = "s3://bucket/lab/a"
IDENTITY = {"_id": str(uuid.uuid5(uuid.NAMESPACE_URL, LOCATION)), "name": "a", "location": LOCATION}


def read(files: dict[str, Any], named: dict[str, Any] | None = None) -> dict[str, Any]:
    """Read as many files as are wanted, as storage would."""
    contents: dict[str, bytes] = {}
    while wanted := wanted_files(files.keys(), contents):
        contents.update({name: json.dumps(files[name]).encode() for name in wanted})
    return record_of(LOCATION, contents, named or {})


def test_where_an_asset_was_found_is_its_location_and_gives_its_id_whatever_its_file_says() -> None:
    record = read({"metadata.nd.json": {"_id": "x", "name": "own name", "location": "s3://elsewhere", "subject": None}})
    assert record == {**IDENTITY, "name": "own name", "subject": None}


def test_core_files_fill_the_gaps_of_the_whole_record() -> None:
    record = read(
        {
            "metadata.nd.json": {"subject": {"subject_id": "1"}, "processing": None},
            "subject.json": {"subject_id": "2"},
            "processing.json": {"p": 1},
            "rig.json": {"r": 1},
            "notes.json": {},
        }
    )
    assert record == {**IDENTITY, "subject": {"subject_id": "1"}, "processing": {"p": 1}, "rig": {"r": 1}}


def test_core_files_alone_make_a_record() -> None:
    record = read({"subject.json": {"subject_id": "2"}, "acquisition.json": {"acquisition_start_time": "2025-06-07"}})
    assert record == {
        **IDENTITY,
        "subject": {"subject_id": "2"},
        "acquisition": {"acquisition_start_time": "2025-06-07"},
    }


def test_the_name_fills_what_no_file_has() -> None:
    record = read({"subject.json": {"subject_id": "2"}}, {"subject": "3", "session": "2025-06-07"})
    assert record["subject"] == {"subject_id": "2"}
    assert record["session"] == {"session_start_time": "2025-06-07"}


def test_without_gaps_only_one_file_is_read() -> None:
    sections = ("subject", "data_description", "session", "acquisition", "processing", "quality_control", "procedures")
    whole = json.dumps({section: {} for section in (*sections, "rig", "instrument")}).encode()
    present = ["metadata.nd.json", *(f"{section}.json" for section in sections)]
    assert wanted_files(present, {}) == ["metadata.nd.json"]
    assert wanted_files(present, {"metadata.nd.json": whole}) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[]", "not an object"),
        (b"{", "not JSON: Input data was truncated"),
        (b'{"a": NaN}', "not JSON: "),
        (b"\xff", "not JSON: "),
    ],
)
def test_a_file_that_holds_no_object_is_named(content: bytes, reason: str) -> None:
    with pytest.raises(RequestError, match=f"^metadata.nd.json: {reason}"):
        record_of(LOCATION, {"metadata.nd.json": content}, {})

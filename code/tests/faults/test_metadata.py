"""Records: none is lost between pages, pairs are found once, and the latest is the latest."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import pytest

from tests.faults.command import Desk, Ended, Record, assert_no_crash, assert_refused
from tests.gateway import Fault, Gateway, RecordedRequest

pytestmark = pytest.mark.long


def test_a_record_that_is_removed_between_pages_by_number_makes_the_run_lose_no_other(
    desk: Desk, gateway: Gateway
) -> None:
    gateway.records = [
        {"_id": number, "name": f"n{number:05}", "location": f"s3://b/{number}", "x": 1} for number in range(7_000)
    ]
    asked: list[int] = []

    def change(request: RecordedRequest) -> Fault | None:
        gateway.faults.append(change)
        asked.append(len(asked))
        if len(asked) == 2:  # the records of the first page have been answered
            gateway.records[:] = [*gateway.records[:10], *gateway.records[11:]]
            gateway.records.append({"_id": 9_000, "name": "n09000", "location": "s3://b/9000", "x": 1})
        return None

    gateway.faults = [change]
    ended = desk.run(None, "--group_by=x")  # one job is written faster than 7,000
    assert_no_crash(ended)
    if ended.code:
        assert_refused(ended)
        return
    names = set(ended.assets)
    assert {f"n{number:05}" for number in range(7_000) if number != 10} <= names


# With --with_raw=1


def asset(name: str, sources: Sequence[str] = (), **fields: str) -> Record:
    description = {"data_level": "derived" if sources else "raw", "source_data": list(sources) or None}
    return {"_id": name, "name": name, "location": f"s3://b/{name}", "data_description": description, **fields}


def with_raw(desk: Desk, records: Sequence[Record], *flags: str, seconds: float = 60) -> Ended:
    return desk.run(records, '--docdb_query={"name": "derived"}', "--with_raw=1", *flags, seconds=seconds)


def test_a_diamond_of_source_data_is_walked_once(desk: Desk) -> None:
    levels = 14
    records = [asset("derived", [f"0{side}" for side in "abc"])]
    for level in range(levels):
        below = [f"{level + 1}{side}" for side in "abc"] if level < levels - 1 else ["raw"]
        records += [asset(f"{level}{side}", below) for side in "abc"]
    start = time.monotonic()
    ended = with_raw(desk, [*records, asset("raw")])
    assert_no_crash(ended)
    assert ended.assets == ["derived", "raw"], ended.stderr
    assert time.monotonic() - start < 30


def test_a_chain_of_1100_records_of_source_data_is_walked(desk: Desk) -> None:
    names = ["derived", *(f"n{number}" for number in range(1_100)), "raw"]
    records = [asset(name, [names[number + 1]]) for number, name in enumerate(names[:-1])]
    ended = with_raw(desk, [*records, asset("raw")])
    assert_no_crash(ended)
    assert ended.assets == ["derived", "raw"], ended.stderr


def test_of_two_raw_assets_of_one_name_none_is_taken_silently(desk: Desk) -> None:
    twins = [{**asset("raw"), "_id": f"raw{number}", "location": f"s3://b{number}/raw"} for number in range(2)]
    ended = with_raw(desk, [asset("derived", ["raw"]), *twins])
    assert_no_crash(ended)
    if ended.code:
        assert_refused(ended)
    else:
        assert any("raw" in line for line in ended.stderr.splitlines() if "WARNING" in line and "query" not in line)


# With --filter_latest

NEWER: list[object] = [
    "2025-06-30T24:00:00Z",
    "2025-06-30T23:59:60Z",
    "2025-06-30 10:00:00 UTC",
    "2025/06/30",
    1_751_241_600,
    1_751_241_600_000,
    {"$date": "2025-06-30T10:00:00Z"},
]


def test_a_date_of_2025_is_later_than_2024_however_it_is_written(desk: Desk) -> None:
    records: list[Record] = []
    for newer in NEWER:
        written = json.dumps(newer)
        for name, created in ((f"old {written}", "2024-01-01T00:00:00Z"), (written, newer)):
            record = {"_id": name, "name": name, "location": f"s3://b/{len(records)}", "created": created}
            records.append({**record, "subject": {"subject_id": written}})
    ended = desk.run(records, "--filter_latest=created", "--filter_by=subject.subject_id")
    assert_no_crash(ended)
    assert ended.assets == sorted(map(json.dumps, NEWER)), ended.stderr


# With --group_by


def test_a_field_and_its_short_name_keep_both_values_of_a_group(desk: Desk) -> None:
    created, processed = "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z"
    record = {
        "_id": "1",
        "name": "a",
        "location": "s3://b/a",
        "created": created,
        "data_description": {"creation_time": processed},
    }
    ended = desk.run([record], "--group_by=@created,created")
    assert_no_crash(ended)
    if ended.code:
        assert_refused(ended)
    else:
        [job] = ended.jobs
        assert len(job["group_metadata"]) == 2, job["group_metadata"]


def test_1_and_1_0_in_a_list_are_one_group(desk: Desk) -> None:
    records = [
        {"_id": "1", "name": "a", "location": "s3://b/a", "x": [1]},
        {"_id": "2", "name": "b", "location": "s3://b/b", "x": [1.0]},
    ]
    ended = desk.run(records, "--group_by=x")
    assert_no_crash(ended)
    assert len(ended.jobs) == 1
    assert ended.assets == ["a", "b"]

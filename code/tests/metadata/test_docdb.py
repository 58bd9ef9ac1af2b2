"""DocDB: every record is found, whatever its id is, and nothing of the environment is sent that is not asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from job_dispatch.messages import RequestError
from job_dispatch.metadata.docdb import DocDb, Records
from job_dispatch.request.fields import Query
from tests.both_sources import EVERYTHING, assert_refused, make_world, record
from tests.conftest import World
from tests.gateway import Fault, Gateway, Record


@pytest.fixture
def desk(gateway: Gateway, tmp_path: Path) -> World:
    """No records and no S3."""
    return make_world(gateway, tmp_path)


def docdb(gateway: Gateway) -> Records:
    return DocDb(gateway.host, "v1").open()


def found(gateway: Gateway) -> list[str]:
    with docdb(gateway) as source:
        return [one["_id"] for page in source.find(Query.of({}), ("name",)) for one in page]


def object_id(number: int) -> Record:
    return {"$oid": f"{number:024x}"}


IDS: dict[str, Any] = {
    "ObjectIds": object_id,
    "integers": lambda number: number,
    "text": lambda number: f"{number:05}",
    "half text, half ObjectIds": lambda number: f"{number:05}" if number % 2 else object_id(number),
    "text that sorts after the text of ObjectIds": lambda number: f"z{number}" if number % 3 else object_id(number),
    "numbers, text and ObjectIds": lambda number: (number, f"{number:05}", object_id(number))[number % 3],
}


@pytest.mark.parametrize("prints_ids", [True, False], ids=["as text", "as $oid"])
@pytest.mark.parametrize("kind", IDS)
@pytest.mark.long
def test_all_twelve_thousand_records_are_found_whatever_their_ids_are(
    gateway: Gateway, kind: str, prints_ids: bool
) -> None:
    ids = [IDS[kind](number) for number in range(12_000)]
    gateway.records = [{"_id": one, "name": "a"} for one in ids]
    gateway.prints_ids = prints_ids

    texts = found(gateway)

    assert len(texts) == 12_000
    assert set(texts) == {one["$oid"] if isinstance(one, dict) else str(one) for one in ids}


@pytest.mark.parametrize("prints_ids", [True, False], ids=["as text", "as $oid"])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("kind", IDS)
@pytest.mark.long
def test_pages_of_any_size_add_up(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, kind: str, size: int, prints_ids: bool
) -> None:
    monkeypatch.setattr("job_dispatch.metadata.docdb._RECORDS_A_PAGE", size)
    gateway.records = [{"_id": IDS[kind](number), "name": "a"} for number in range(14)]
    gateway.prints_ids = prints_ids

    assert len(set(found(gateway))) == 14


def test_jobs_carry_ids_as_text(desk: World) -> None:
    desk.records.extend({**record(name), "_id": one} for name, one in (("a", object_id(7)), ("b", 7), ("c", "c")))

    completed = desk.call(EVERYTHING)

    assert completed.returncode == 0, completed.stderr
    assert [job["docdb_record_id"] for job in completed.jobs] == [[f"{7:024x}"], ["7"], ["c"]]


ASKED_BY_ID = "docdb_record_id\n00000000000000000000abcd\n7\n-12\nc\n"


@pytest.mark.parametrize("prints_ids", [True, False], ids=["as text", "as $oid"])
def test_a_table_of_record_ids_finds_them_whether_they_are_text_numbers_or_object_ids(
    desk: World, prints_ids: bool
) -> None:
    ids = {"a": object_id(0xABCD), "b": 7, "c": "c", "d": -12, "other": object_id(8), "more": "12"}
    desk.records.extend({**record(name), "_id": one} for name, one in ids.items())
    desk.gateway.prints_ids = prints_ids
    (desk.input_directory / "data_asset_input.csv").write_text(ASKED_BY_ID)

    completed = desk.call("--use_data_asset_csv=1")

    assert completed.returncode == 0, completed.stderr
    assert {job["asset_name"][0] for job in completed.jobs} == {"a", "b", "c", "d"}


def test_a_server_without_extended_json_is_asked_all_the_same_and_what_it_does_not_find_is_told(desk: World) -> None:
    desk.records.extend({**record(name), "_id": one} for name, one in (("a", object_id(0xABCD)), ("b", 7), ("c", "c")))
    desk.gateway.prints_ids, desk.gateway.reads_ids = True, False
    (desk.input_directory / "data_asset_input.csv").write_text(ASKED_BY_ID)

    completed = desk.call("--use_data_asset_csv=1")

    [headline, *details] = [line for line in completed.stderr.splitlines() if line.startswith(("error: ", "  "))]
    assert headline.startswith("error: data_asset_input.csv: 2 of 4 record ids without a record")
    assert details == [
        "  line 2: 00000000000000000000abcd"
        " (if that is an ObjectId which the gateway cannot be asked for, ask for it by name)",
        "  line 4: -12",
    ]


def test_ids_that_are_the_same_as_text_are_an_error_and_no_loss(desk: World) -> None:
    desk.records.extend({**record(name), "_id": one} for name, one in (("a", 7), ("b", "7")))

    completed = desk.call(EVERYTHING)

    assert completed.returncode == 1
    assert f"DocDB {desk.gateway.host}: it counted 2 records and returned 1" in completed.stderr
    assert completed.folders == {}


def test_where_ids_are_text_one_count_travels_beside_one_page(desk: World) -> None:
    desk.records.append(record("a"))

    desk.call(EVERYTHING)

    assert len(desk.gateway.requests) == 1
    assert [one.body for one in desk.gateway.counts] == [[{"$match": {}}, {"$count": "records"}]]


def test_an_answer_with_fewer_records_than_the_count_is_an_error(desk: World) -> None:
    """As the API's own `find` answers where there is too much: fewer, without a word."""
    desk.records.extend(record(one) for one in "ab")
    desk.gateway.count_faults.append(Fault(200, json.dumps([{"records": 3}])))

    completed = desk.call(EVERYTHING)

    assert completed.returncode == 1
    assert completed.folders == {}
    assert f"error: DocDB {desk.gateway.host}: it counted 3 records and returned 2;" in completed.stderr


@pytest.mark.parametrize("variable", ["HOME", "NETRC"])
def test_credentials_of_a_netrc_are_not_sent(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine localhost login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv(variable, str(tmp_path if variable == "HOME" else netrc))
    gateway.records = [{"_id": "a"}]

    assert found(gateway) == ["a"]
    assert [one.headers.get("Authorization") for one in (*gateway.requests, *gateway.counts)] == [None, None]


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_certificates_to_trust_that_are_not_there_are_a_sentence(
    desk: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    monkeypatch.setenv(variable, str(tmp_path / "no.pem"))

    assert_refused(
        desk,
        desk.call(EVERYTHING),
        f"error: environment variable {variable}: no such file: {tmp_path / 'no.pem'};"
        " give the PEM file of the trusted authorities, or unset the variable",
    )


def test_certificates_to_trust_that_are_none_are_a_sentence(
    desk: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("job_dispatch.retrying._pause", lambda state: 0)
    (tmp_path / "text.pem").write_text("no certificate")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "text.pem"))

    completed = desk.call(EVERYTHING)

    assert completed.returncode in (1, 2)
    assert "REQUESTS_CA_BUNDLE" in completed.stderr
    assert "Traceback" not in completed.stderr
    assert "unexpected" not in completed.stderr


def test_a_query_that_is_refused_names_the_host(gateway: Gateway) -> None:
    with docdb(gateway) as source, pytest.raises(RequestError, match="refuses the query"):
        list(source.find(Query.of({"a": {"$like": 1}}), ()))

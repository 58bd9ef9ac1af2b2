"""The fault table: what a service does, what the command says, its exit code, and what lies in the output folder."""

from __future__ import annotations

import asyncio
import json
import re
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
import tenacity

from job_dispatch import failures, retrying
from job_dispatch.messages import RequestError, ServiceError
from job_dispatch.metadata.docdb import DocDb, Records
from job_dispatch.request.flag_values import PRODUCTION_HOST
from job_dispatch.storage import access, s3
from tests.conftest import S3, Completed, World
from tests.gateway import DEFAULT_COLLECTION, Fault, Gateway
from tests.gateway import Record as Body
from tests.s3_front import ACCESS_DENIED, EXPIRED_TOKEN, SLOW_DOWN, WRONG_REGION, S3Front, error

BUCKET = "open-data"
NAMES = ("a", "b", "c", "d")
QUERY = '{"subject.subject_id":"774659"}'


def record(name: str) -> Body:
    return {
        "_id": f"record-{name}",
        "name": name,
        "location": f"s3://{BUCKET}/{name}",
        "subject": {"subject_id": "774659"},
    }


@pytest.fixture
def front() -> Iterator[S3Front]:
    with S3Front({BUCKET: [f"{name}/{name}.nwb" for name in NAMES]}) as front:
        yield front


@pytest.fixture
def desk(gateway: Gateway, front: S3Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Four records, a to d, each with one file; pauses between tries at DocDB are left out unless asked for."""
    for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in front.environment.items():
        monkeypatch.setenv(name, value)
    for folder in ("data", "results"):
        (tmp_path / folder).mkdir()
    gateway.records = [record(name) for name in NAMES]
    return World(
        gateway,
        S3(front.url),
        gateway.records,
        tmp_path / "data",
        tmp_path / "results",
        tmp_path / "catalog.jsonl",
    )


@pytest.fixture
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backoff takes no time; a `Retry-After` is waited for all the same."""
    monkeypatch.setattr(tenacity, "wait_exponential_jitter", lambda **_: lambda _: 0.0)


@pytest.fixture
def with_little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Storage has less than a second to answer a request, and one in all."""
    monkeypatch.setattr(access, "REQUEST_SECONDS", 0.7)
    monkeypatch.setattr(access, "RETRY_SECONDS", 1)
    monkeypatch.setattr(access, "TRIES", 1)


def said(completed: Completed) -> list[str]:
    """Return what the command says beyond INFO: warnings without their time, and the error with its details."""
    lines = [re.sub(r"^\S+Z (?=[A-Z])", "", line) for line in completed.stderr.splitlines()]
    return [line for line in lines if not line.startswith("INFO ")]


def job_names(completed: Completed) -> list[str]:
    return sorted(name for job in completed.jobs for name in job["asset_name"])


def left(world: World) -> list[str]:
    return sorted(path.name for path in world.output_directory.iterdir())


def assert_outcome(world: World, completed: Completed, says: Sequence[str], code: int, jobs: str) -> None:
    """Check the four columns; `jobs` names the assets with a job, and without one nothing at all is left."""
    assert said(completed) == list(says)
    assert completed.returncode == code
    assert job_names(completed) == list(jobs)
    assert left(world) == [str(number) for number in range(len(jobs))]


# DocDB


def try_again(number: int, reason: str, pause: str = "0.0") -> str:
    return f"WARNING DocDB: {reason}; try {number} of 5 in {pause} s"


def tries(reason: str) -> tuple[str, ...]:
    return tuple(try_again(number, reason) for number in range(2, 6))


TRIED_TWICE = "WARNING DocDB: no connection; try 2 of 2 in 0.5 s"


def answer(*records: Body) -> Fault:
    return Fault(200, json.dumps(records))


LONG = "x" * 250
CUT = f"{'x' * 200}… (250 characters)"


@dataclass(frozen=True)
class Row:
    """A row of the table; `HOST` in `says` stands for the gateway.

    Parameters
    ----------
    fault : str
    faults : tuple of Fault
        What the first requests meet; those after them go well.
    says : tuple of str
        All that is printed beyond INFO.
    code : int
    jobs : str
        The assets that have a job.
    requests : int
        How many requests are made.
    """

    fault: str
    faults: tuple[Fault, ...]
    says: tuple[str, ...]
    code: int
    jobs: str
    requests: int
    flags: tuple[str, ...] = ()


# fmt: off
DOCDB = [
    Row("503 once", (Fault(503),), (try_again(2, "HTTP 503"),), 0, "abcd", 2),
    Row("four times another passing error", (Fault(500), Fault(502), Fault(504), Fault(429)),
        (try_again(2, "HTTP 500"), try_again(3, "HTTP 502"), try_again(4, "HTTP 504"), try_again(5, "HTTP 429")),
        0, "abcd", 5),
    Row("500 for good", (Fault(500, '{"message": "Internal Server Error"}'),) * 6,
        (*tries("HTTP 500"), 'error: DocDB HOST: HTTP 500: {"message": "Internal Server Error"}'), 1, "", 5),
    Row("429 that asks for more time than there is", (Fault(429, "slow down", {"Retry-After": "3600"}),),
        ("error: DocDB HOST: HTTP 429, which asks to wait 3,600 s (Retry-After): slow down",), 1, "", 1),
    Row("a Retry-After that is no time", (Fault(503, "", {"Retry-After": "soon"}),),
        (try_again(2, "HTTP 503"),), 0, "abcd", 2),
    Row("a Retry-After of the year 99999", (Fault(503, "", {"Retry-After": "Fri, 31 Dec 99999 23:59:59 GMT"}),),
        (try_again(2, "HTTP 503"),), 0, "abcd", 2),
    Row("the connection is reset once", (Fault(reset=True),), (try_again(2, "no connection"),), 0, "abcd", 2),
    Row("the connection is reset for good", (Fault(reset=True),) * 6,
        (*tries("no connection"), "error: DocDB HOST: no connection; check --docdb_host and the network"), 1, "", 5),
    Row("the answer cannot be decompressed", (Fault(200, b"\x1f\x8b garbage", {"Content-Encoding": "gzip"}),),
        ("error: DocDB HOST: the answer is corrupt: it cannot be decompressed; try again",), 1, "", 1),
    Row("the answer is cut short once", (Fault(truncate=True),), (try_again(2, "no connection"),), 0, "abcd", 2),
    Row("no answer in time, which is not tried again", (Fault(delay=60),),
        ("error: DocDB HOST: no answer in time; try again, or allow more by --docdb_timeout",), 1, "", 1,
        ("--docdb_timeout=1",)),
    Row("an answer that drips", (Fault(drip=0.4),),
        ("error: DocDB HOST: no answer in time; try again, or allow more by --docdb_timeout",), 1, "", 1,
        ("--docdb_timeout=1",)),
    Row("the answer is a web page", (Fault(200, "<html>Sign in</html>"),),
        ("error: DocDB HOST: the answer is not JSON: <html>Sign in</html>",), 1, "", 1),
    Row("the answer is long and not JSON", (Fault(200, LONG),),
        (f"error: DocDB HOST: the answer is not JSON: {CUT}",), 1, "", 1),
    Row("the answer is empty", (Fault(200, ""),), ("error: DocDB HOST: the answer is not JSON: ",), 1, "", 1),
    Row("the answer is no text", (Fault(200, b"\xff\xfe\x00\x81"),),
        (r"error: DocDB HOST: the answer is not JSON: RE:.*",), 1, "", 1),
    Row("the answer is nested without end", (Fault(200, "[" * 100_000),),
        (f"error: DocDB HOST: the answer is not JSON: {'[' * 200}… (100,000 characters)",), 1, "", 1),
    Row("the answer is a number without end", (Fault(200, "1" * 5_000),),
        (f"error: DocDB HOST: the answer is not JSON: {'1' * 200}… (5,000 characters)",), 1, "", 1),
    Row("the answer is no list", (Fault(200, '{"message": "accepted"}'),),
        ('error: DocDB HOST: the answer is not a list of records: {"message":"accepted"}',), 1, "", 1),
    Row("the answer is a list of no records", (Fault(200, "[1, null]"),),
        ("error: DocDB HOST: the answer is not a list of records: [1,null]",), 1, "", 1),
    Row("records without _id", (answer({"name": "a"}),),
        ('error: DocDB HOST: the answer holds records without an _id: [{"name":"a"}]',), 1, "", 1),
    Row("400", (Fault(400, '{"message": "unknown operator: $foo"}'),),
        ('error: DocDB HOST refuses the query: {"message": "unknown operator: $foo"}', f"  query: {QUERY}"), 2, "", 1),
    Row("401", (Fault(401, LONG),), (f"error: DocDB HOST: HTTP 401: {CUT}",), 1, "", 1),
    Row("403", (Fault(403, LONG),), (f"error: DocDB HOST: HTTP 403: {CUT}",), 1, "", 1),
    Row("404", (Fault(404, LONG),), (f"error: DocDB HOST: HTTP 404: {CUT}",), 1, "", 1),
    Row("404 that says nothing", (Fault(404),), ("error: DocDB HOST: HTTP 404: no reason given",), 1, "", 1),
    Row("413 once", (Fault(413),), (), 0, "abcd", 2),
]
# fmt: on


def assert_says(printed: Sequence[str], expected: Sequence[str], host: str) -> None:
    """Compare line by line; what follows `RE:` in an expected line is a pattern."""
    texts = [line.replace("HOST", host).partition("RE:") for line in expected]
    patterns = [re.escape(text) + pattern for text, _, pattern in texts]
    assert len(printed) == len(patterns), printed
    for line, pattern in zip(printed, patterns, strict=True):
        assert re.fullmatch(pattern, line), (line, pattern)


@pytest.mark.parametrize("row", DOCDB, ids=lambda row: row.fault)
def test_docdb_fails_and_the_run_gives_all_jobs_or_says_why(desk: World, without_pauses: None, row: Row) -> None:
    desk.gateway.faults.extend(row.faults)

    completed = desk.call(f"--docdb_query={QUERY}", *row.flags)

    assert_says(said(completed), row.says, desk.gateway.host)
    assert_outcome(desk, completed, said(completed), row.code, row.jobs)
    assert len(desk.gateway.requests) == row.requests


def test_docdb_throttles_once_and_a_real_run_pauses_before_it_asks_again(desk: World) -> None:
    desk.gateway.faults.append(Fault(503))

    completed = desk.run(f"--docdb_query={QUERY}")

    [line] = said(completed)
    announced = re.fullmatch(r"WARNING DocDB: HTTP 503; try 2 of 5 in (\d\.\d) s", line)
    assert announced
    first, second = desk.gateway.requests
    assert 1.0 <= float(announced[1]) <= 2.0
    assert second.time - first.time >= float(announced[1]) - 0.05  # it is told in tenths
    assert_outcome(desk, completed, [line], 0, "abcd")


def test_docdb_asks_to_wait_a_second_and_gets_it(desk: World, without_pauses: None) -> None:
    desk.gateway.faults.append(Fault(429, headers={"Retry-After": "1"}))

    completed = desk.call(f"--docdb_query={QUERY}")

    first, second = desk.gateway.requests
    assert second.time - first.time >= 1
    assert_outcome(desk, completed, [try_again(2, "HTTP 429", "1.0")], 0, "abcd")


def test_a_docdb_timeout_of_centuries_is_no_failure(desk: World) -> None:
    completed = desk.call(f"--docdb_query={QUERY}", "--docdb_timeout=99999999999")

    assert completed.returncode in (0, 2)
    assert "unexpected" not in completed.stderr


def test_a_try_that_would_come_later_than_two_minutes_after_the_first_is_not_made(
    desk: World, without_pauses: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert retrying._RETRY_SECONDS == 120
    monkeypatch.setattr(retrying, "_RETRY_SECONDS", 60)
    desk.gateway.faults.extend(Fault(503, "busy", {"Retry-After": seconds}) for seconds in ("1", "60", "1", "1"))

    completed = desk.call(f"--docdb_query={QUERY}")

    assert len(desk.gateway.requests) == 2
    says = [
        try_again(2, "HTTP 503", "1.0"),
        f"error: DocDB {desk.gateway.host}: HTTP 503, which asks to wait 60 s (Retry-After): busy",
    ]
    assert_outcome(desk, completed, says, 1, "")


def test_nothing_listens_at_the_host(desk: World, without_pauses: None) -> None:
    completed = desk.call(f"--docdb_query={QUERY}", "--docdb_host=localhost:9")

    says = [TRIED_TWICE, "error: DocDB localhost:9: the connection is refused; check --docdb_host"]
    assert_outcome(desk, completed, says, 1, "")


def test_a_host_that_does_not_exist_is_told_as_that(desk: World, without_pauses: None) -> None:
    completed = desk.call(f"--docdb_query={QUERY}", "--docdb_host=no-such-host.invalid")

    says = "error: DocDB no-such-host.invalid: no such host; check --docdb_host and the network"
    assert_outcome(desk, completed, [TRIED_TWICE, says], 1, "")


def test_without_a_network_the_error_names_the_allen_institute_and_what_to_do_without_it(
    desk: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # so that nothing leaves this machine

    completed = desk.call(f"--docdb_query={QUERY}", f"--docdb_host={PRODUCTION_HOST}")

    says = (
        "error: DocDB at the Allen Institute (api.allenneuraldynamics.org): the proxy does not answer;"
        " check HTTPS_PROXY; for assets of your own, --metadata_catalog takes a folder or a bucket"
    )
    assert_outcome(desk, completed, [TRIED_TWICE, says], 1, "")


@pytest.mark.parametrize(("was_reached", "tries"), [(False, 2), (True, 5)])
def test_a_service_that_has_answered_before_is_waited_for_longer_when_nothing_listens_any_more(
    without_pauses: None, was_reached: bool, tries: int
) -> None:
    asked = []

    def ask() -> requests.Response:
        asked.append(1)
        return requests.get("http://127.0.0.1:9", timeout=10, proxies={"http": ""})

    with pytest.raises(requests.ConnectionError):
        retrying.retried(ask, None, was_reached=was_reached)
    assert len(asked) == tries


def test_too_few_file_descriptors_are_told_as_that(
    desk: World, without_pauses: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = DocDb(desk.gateway.host, *DEFAULT_COLLECTION, timeout=10)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with address.open() as docdb:
        with open("/dev/null") as free:  # noqa: PTH123 - the lowest free descriptor
            resource.setrlimit(resource.RLIMIT_NOFILE, (free.fileno(), limits[1]))
        try:
            with pytest.raises(ServiceError) as error:
                docdb.answer([{"$limit": 1}])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert str(error.value) == f"DocDB {desk.gateway.host}: too many open files; raise the limit (ulimit -n)"


# What nobody expects


class PanicException(BaseException):
    """As obstore raises it where Rust panics: no Exception."""


UNEXPECTED = {
    "a value": ValueError("no\nsuch value"),
    "a panic": PanicException("called `Option::unwrap()` on a `None` value"),
    "a group": ExceptionGroup("unhandled errors", [OSError(13, "Permission denied", "/x"), ValueError("another")]),
    "too many files": BaseExceptionGroup("unhandled", [PanicException("no"), OSError(24, "Too many open files")]),
}
SENTENCES = {
    "a value": "unexpected ValueError: no such value; --log_level=DEBUG shows where",
    "a panic": "unexpected PanicException: called `Option::unwrap()` on a `None` value; --log_level=DEBUG shows where",
    "a group": "/x: Permission denied",
    "too many files": "too many open files; raise the limit (ulimit -n)",
}


@pytest.mark.parametrize("name", UNEXPECTED)
def test_an_asset_that_fails_in_a_way_nobody_expects_is_skipped_and_all_others_are_dispatched(
    desk: World, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    find_files = s3.S3.find_files

    async def failing(self: s3.S3, location: str, *args: Any) -> Any:
        if location.endswith("/b"):
            raise UNEXPECTED[name]
        return await find_files(self, location, *args)

    monkeypatch.setattr(s3.S3, "find_files", failing)
    skipping = desk.call(f"--docdb_query={QUERY}", "--file_extension=.nwb", "--skip_errors=1")
    says = ["WARNING 1 of 4 assets could not be read; skipped:", f"  b: {SENTENCES[name]}"]
    assert_outcome(desk, skipping, says, 0, "acd")
    refusing = desk.call(f"--docdb_query={QUERY}", "--file_extension=.nwb", "--overwrite=1")
    assert refusing.returncode == 1
    assert said(refusing)[-1] == f"  b: {SENTENCES[name]}"


@pytest.mark.parametrize("name", UNEXPECTED)
def test_what_nobody_expects_ends_a_run_with_a_sentence(
    desk: World, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def failing(*_: Any) -> Any:
        raise UNEXPECTED[name]

    monkeypatch.setattr(Records, "find", failing)
    assert_outcome(desk, desk.call(f"--docdb_query={QUERY}"), [f"error: {SENTENCES[name]}"], 1, "")


@pytest.mark.parametrize("name", UNEXPECTED)
def test_advice_that_fails_ends_no_run(desk: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def failing(*_: Any) -> Any:
        raise UNEXPECTED[name]

    monkeypatch.setattr(Records, "sample", failing)
    monkeypatch.setattr(Records, "count", failing)
    completed = desk.call('--docdb_query={"subject.subject_id": "none such"}')
    assert completed.returncode == 2
    assert "error: no record matches the query" in completed.stderr


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), asyncio.CancelledError()])
def test_a_real_signal_passes_every_border(error: BaseException) -> None:
    with pytest.raises(type(error)):
        failures.explained(error)
    with pytest.raises(BaseExceptionGroup):
        failures.explained(BaseExceptionGroup("one of them", [ValueError(), error]))
    assert failures.explained(error, may_be_signal=False).headline.startswith(f"unexpected {type(error).__name__}")


def test_an_error_of_this_project_is_preferred_to_what_stands_around_it() -> None:
    own = RequestError("the query is wrong")
    around = RuntimeError("around")
    around.__cause__ = own
    for raised in (own, around, ExceptionGroup("several", [ValueError("x"), around])):
        assert failures.explained(raised) is own


def test_a_certificate_that_nobody_vouches_for_is_refused_at_once(desk: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")

    completed = desk.call(f"--docdb_query={QUERY}")

    says = [
        f"error: DocDB {desk.gateway.host}: no trusted connection; REQUESTS_CA_BUNDLE may name another authority",
    ]
    assert_outcome(desk, completed, says, 1, "")
    assert desk.gateway.requests == []


@pytest.mark.parametrize("status", [302, 307])
def test_docdb_sends_the_query_elsewhere_without_tls_and_the_run_does_not_follow(
    desk: World, front: S3Front, without_pauses: None, status: int
) -> None:
    desk.gateway.faults.append(Fault(status, headers={"Location": f"{front.url}/elsewhere"}))

    completed = desk.call(f"--docdb_query={QUERY}")

    assert completed.returncode == 1
    assert completed.folders == {}
    assert front.requests == []


# Pages of DocDB


@pytest.fixture
def pages_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("job_dispatch.metadata.docdb._RECORDS_A_PAGE", 2)


def limits(gateway: Gateway) -> list[int]:
    """Return the page size of each request."""
    return [stage["$limit"] for request in gateway.requests for stage in request.body if "$limit" in stage]


def test_a_page_too_large_once_is_halved_and_stays_small(desk: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("job_dispatch.metadata.docdb._RECORDS_A_PAGE", 4)
    desk.gateway.faults.append(Fault(413))

    completed = desk.call(f"--docdb_query={QUERY}")

    assert_outcome(desk, completed, [], 0, "abcd")
    assert limits(desk.gateway) == [4, 2, 2, 2]


def test_a_record_too_large_for_the_gateway_is_named(desk: World, pages_of_two: None) -> None:
    desk.records[2]["name"] = "c" * 1_000
    desk.gateway.payload_limit = 400

    completed = desk.call(f"--docdb_query={QUERY}")

    says = [f"error: DocDB {desk.gateway.host}: the record record-c is too large for the gateway"]
    assert_outcome(desk, completed, says, 1, "")


def test_413_to_everything_ends(desk: World) -> None:
    desk.gateway.payload_limit = 1

    completed = desk.call(f"--docdb_query={QUERY}")

    says = [f"error: DocDB {desk.gateway.host}: HTTP 413: the answer is too large for the gateway"]
    assert_outcome(desk, completed, says, 1, "")
    assert limits(desk.gateway) == [*(5_000 >> halved for halved in range(13)), 1]


def test_a_record_that_comes_twice_gets_one_job(desk: World, pages_of_two: None) -> None:
    a, b, c, d = desk.records
    desk.gateway.faults.extend([answer(a, b), answer(b, c), answer(d)])

    assert_outcome(desk, desk.call(f"--docdb_query={QUERY}"), [], 0, "abcd")


def test_a_record_that_moves_behind_the_page_gets_one_job(desk: World, pages_of_two: None) -> None:
    def move(_: object) -> None:
        desk.records[0] = {**desk.records[0], "location": f"s3://{BUCKET}/moved"}
        desk.records.append(desk.records.pop(0))

    desk.gateway.faults.extend([None, move])

    assert_outcome(desk, desk.call(f"--docdb_query={QUERY}"), [], 0, "abcd")


def test_a_record_that_vanishes_between_pages_is_an_error(desk: World, pages_of_two: None) -> None:
    def vanish(_: object) -> None:
        desk.gateway.wait_for_count()
        desk.records.pop()

    desk.gateway.faults.extend([None, vanish])

    completed = desk.call(f"--docdb_query={QUERY}")

    says = [
        f"error: DocDB {desk.gateway.host}: it counted 4 records and returned 3;"
        " some may have been removed meanwhile; try again"
    ]
    assert_outcome(desk, completed, says, 1, "")


def test_a_record_that_is_new_since_the_count_gets_its_job(desk: World, pages_of_two: None) -> None:
    record = {**desk.records[0], "_id": "record-e", "name": "e", "location": f"s3://{BUCKET}/e"}

    desk.gateway.faults.extend([None, lambda _: desk.records.append(record)])

    assert_outcome(desk, desk.call(f"--docdb_query={QUERY}"), [], 0, "abcde")


def test_where_records_cannot_be_counted_that_is_said_and_all_are_found(desk: World, without_pauses: None) -> None:
    desk.gateway.count_faults.append(Fault(403, "no counting"))

    completed = desk.call(f"--docdb_query={QUERY}")

    says = [f"WARNING DocDB {desk.gateway.host} did not count its records; missing ones would not be noticed"]
    assert_outcome(desk, completed, says, 0, "abcd")


def test_pages_that_do_not_advance_end_the_run(desk: World, pages_of_two: None) -> None:
    a, b, *_ = desk.records
    desk.gateway.faults.extend([answer(a, b)] * 10)

    completed = desk.call(f"--docdb_query={QUERY}")

    says = [
        f"error: DocDB {desk.gateway.host}: records change while they are read, or pages do not advance beyond the"
        " record record-b; try again"
    ]
    assert_outcome(desk, completed, says, 1, "")
    assert len(desk.gateway.requests) < 10


@pytest.mark.parametrize(("times", "code"), [(1, 0), (3, 0), (20, 1)])
def test_no_record_is_lost_where_others_are_removed_and_added_between_pages_by_number(
    desk: World, pages_of_two: None, times: int, code: int
) -> None:
    desk.records[:] = [{**record(f"{number}"), "_id": number} for number in range(7)]
    staying = {f"{number}" for number in range(times, 7)}

    def change(_: object) -> None:
        desk.gateway.wait_for_count()
        number = desk.records[-1]["_id"] + 1
        desk.records.append({**record(f"{number}"), "_id": number})
        del desk.records[0]

    desk.gateway.faults.extend([None, *(times * [change])])

    completed = desk.call(f"--docdb_query={QUERY}")

    assert completed.returncode == code
    if code == 0:
        assert staying <= set(job_names(completed))
    else:
        assert "records change while they are read" in completed.stderr
        assert left(desk) == []


# Storage


@dataclass(frozen=True)
class StorageRow:
    """A row of the table; `FRONT` in `says` stands for the endpoint."""

    fault: str
    faults: tuple[Fault | None, ...] = ()
    failing: dict[str, Fault] = field(default_factory=dict)
    says: tuple[str, ...] = ()
    code: int = 0
    jobs: str = "abcd"
    flags: tuple[str, ...] = ()


def all_fail(reason: str) -> tuple[str, ...]:
    return (
        "error: 4 of 4 assets could not be read",
        *(f"  {name}: s3://{BUCKET}: {reason}" for name in NAMES),
    )


def one_fails(reason: str) -> tuple[str, ...]:
    headline = "1 of 4 assets could not be read; --skip_errors=1 skips them"
    return (f"error: {headline}", f"  b: s3://{BUCKET}: {reason}")


def one_skipped(reason: str) -> tuple[str, ...]:
    return ("WARNING 1 of 4 assets could not be read; skipped:", f"  b: s3://{BUCKET}: {reason}")


DENIED = "AccessDenied: refused for the credentials (env): Access Denied"
BUSY = "SlowDown: S3 is busy or failing: Please reduce your request rate.; try again later"
EXPIRED = "ExpiredToken: the credentials (env) have expired; renew them"
REGION = "PermanentRedirect: the bucket is not in the region of FRONT; set AWS_DEFAULT_REGION"
PAGE = Fault(200, "<html><body>Sign in</body></html>", {"Content-Type": "text/html"})
TORN = Fault(200, "<html><p>Sign in", {"Content-Type": "text/html"})
TEXT = Fault(200, "It works!", {"Content-Type": "text/plain"})
NOT_S3 = "the answer of FRONT is not a listing of S3"
# S3 may break off in the middle of an answer that began with 200, so boto3 takes all torn XML for that.
TORN_OFF = "500: S3 is busy or failing: Internal Server Error; try again later"

# fmt: off
STORAGE = [
    StorageRow("SlowDown once", (SLOW_DOWN,)),
    StorageRow("500 once", (error(500, "InternalError", "We encountered an internal error."),)),
    StorageRow("the connection is reset once", (Fault(reset=True),)),
    StorageRow("the answer is cut short once", (Fault(truncate=True),)),
    StorageRow("no answer in time once", (Fault(delay=60),)),
    StorageRow("SlowDown for good", failing={"": SLOW_DOWN}, says=all_fail(BUSY), code=1, jobs=""),
    StorageRow("no answer for good", failing={"": Fault(delay=60)},
               says=all_fail("no answer from FRONT within 1 s"), code=1, jobs=""),
    StorageRow("reset for good", failing={"": Fault(reset=True)},
               says=all_fail("cannot reach FRONT; check the network"), code=1, jobs=""),
    StorageRow("access denied", failing={"": ACCESS_DENIED}, says=all_fail(DENIED), code=1, jobs=""),
    StorageRow("expired credentials", failing={"": EXPIRED_TOKEN}, says=all_fail(EXPIRED), code=1, jobs=""),
    StorageRow("wrong region", failing={"": WRONG_REGION}, says=all_fail(REGION), code=1, jobs=""),
    StorageRow("a web page", failing={"": PAGE}, says=all_fail(NOT_S3), code=1, jobs=""),
    StorageRow("a torn web page", failing={"": TORN}, says=all_fail(TORN_OFF), code=1, jobs=""),
    StorageRow("text", failing={"": TEXT}, says=all_fail(TORN_OFF), code=1, jobs=""),
    StorageRow("one asset is refused", failing={"b": ACCESS_DENIED}, says=one_fails(DENIED), code=1, jobs=""),
    StorageRow("one asset is refused and skipped", failing={"b": ACCESS_DENIED}, says=one_skipped(DENIED), jobs="acd",
               flags=("--skip_errors=1",)),
    StorageRow("one asset meets a web page", failing={"b": TORN}, says=one_fails(TORN_OFF), code=1, jobs=""),
    StorageRow("one asset meets a web page and is skipped", failing={"b": TORN}, says=one_skipped(TORN_OFF), jobs="acd",
               flags=("--skip_errors=1",)),
    StorageRow("all are refused and nothing is left to go on with", failing={"": ACCESS_DENIED}, says=all_fail(DENIED),
               code=1, jobs="", flags=("--skip_errors=1",)),
]
# fmt: on


@pytest.mark.parametrize("row", STORAGE, ids=lambda row: row.fault)
@pytest.mark.long
def test_storage_fails_and_the_run_gives_all_jobs_or_says_why(
    desk: World, front: S3Front, monkeypatch: pytest.MonkeyPatch, row: StorageRow
) -> None:
    # Short only where it is to run out: a slow machine answers late.
    monkeypatch.setattr(access, "RETRY_SECONDS", 60 if row.faults else 1)
    monkeypatch.setattr(access, "TRIES", 1)
    if any(fault and fault.delay for fault in (*row.faults, *row.failing.values())):
        monkeypatch.setattr(access, "REQUEST_SECONDS", 0.7)
    front.faults.extend(row.faults)
    front.failing = row.failing

    completed = desk.call(f"--docdb_query={QUERY}", "--file_extension=.nwb", *row.flags)

    assert_says(said(completed), [line.replace("FRONT", front.url) for line in row.says], desk.gateway.host)
    assert_outcome(desk, completed, said(completed), row.code, row.jobs)


def test_an_endpoint_that_nothing_listens_at_is_named(
    desk: World, with_little_time: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")

    completed = desk.call(f"--docdb_query={QUERY}", "--file_extension=.nwb")

    assert_outcome(desk, completed, all_fail("cannot reach http://127.0.0.1:9; check the network"), 1, "")


def test_a_bucket_that_is_not_there_is_named(desk: World, front: S3Front) -> None:
    front.buckets.clear()

    completed = desk.call(f"--docdb_query={QUERY}", "--file_extension=.nwb")

    assert_outcome(desk, completed, all_fail(f"NoSuchBucket: there is no such bucket at {front.url}"), 1, "")


def table(desk: World, records: Sequence[Body], *flags: str) -> Completed:
    """Dispatch a catalog, which may name local folders, in this process."""
    catalog = desk.write_catalog(records)
    return desk.call(f"--metadata_catalog={catalog}", f"--docdb_query={QUERY}", "--file_extension=.nwb", *flags)


def test_a_local_folder_that_is_not_there_is_the_users_mistake(desk: World) -> None:
    completed = table(desk, [record("a"), {**record("b"), "location": "file:///no/such/folder"}])

    says = [
        "error: 1 of 2 assets could not be read; --skip_errors=1 skips them",
        "  b: no such local folder: /no/such/folder",
    ]
    assert_outcome(desk, completed, says, 2, "")


def test_a_missing_location_alone_is_the_users_mistake(desk: World) -> None:
    completed = table(desk, [record("a"), {**record("b"), "location": None}])

    says = [
        "error: 1 of 2 assets could not be read; --skip_errors=1 skips them",
        "  b: its record has no location",
    ]
    assert_outcome(desk, completed, says, 2, "")


def test_a_missing_location_beside_a_storage_failure_is_a_failure(desk: World, front: S3Front) -> None:
    front.failing = {"c": ACCESS_DENIED}

    completed = table(desk, [record("a"), {**record("b"), "location": None}, record("c")])

    says = [
        "error: 2 of 3 assets could not be read; --skip_errors=1 skips them",
        "  b: its record has no location",
        f"  c: s3://{BUCKET}: {DENIED}",
    ]
    assert_outcome(desk, completed, says, 1, "")


@pytest.mark.parametrize(("failing", "code"), [({}, 2), ({"b": ACCESS_DENIED}, 1)])
def test_where_nothing_is_left_skipping_errors_is_an_error_all_the_same(
    desk: World, front: S3Front, failing: dict[str, Fault], code: int
) -> None:
    front.failing = failing
    front.buckets[BUCKET] = {"b/notes.txt"}

    completed = table(desk, [{**record("a"), "location": None}, record("b")], "--skip_errors=1")

    assert any(line.startswith("error: ") for line in said(completed))
    assert_outcome(desk, completed, said(completed), code, "")


def test_a_table_of_failures_is_cut_at_twenty_and_gives_the_total(desk: World, front: S3Front) -> None:
    front.failing = {"lost": ACCESS_DENIED}
    lost = [record(f"lost-{number:02}") for number in range(25)]

    completed = table(desk, [*lost, record("a")])

    headline, *lines = said(completed)
    assert headline.startswith("error: 25 of 26 assets could not be read")
    assert len(lines) == 21
    assert lines[-1] == "  … and 5 more"
    assert_outcome(desk, completed, said(completed), 1, "")


def test_many_assets_in_a_bucket_that_never_answers_take_little_longer_than_one(
    desk: World, front: S3Front, with_little_time: None
) -> None:
    front.failing = {"": Fault(delay=600)}
    started = time.monotonic()

    completed = table(desk, [record(f"lost-{number:03}") for number in range(100)])

    assert completed.returncode == 1
    assert time.monotonic() - started < 600  # when the first answer would come

"""Text from outside cannot deceive whoever reads the log, no file is read that it names, and no secret is shown."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from job_dispatch import messages
from job_dispatch.messages import RequestError
from job_dispatch.request import flags
from job_dispatch.storage import access
from tests.conftest import CODE, S3, Completed, World
from tests.gateway import Fault, Gateway
from tests.gateway import Record as Body
from tests.s3_front import ACCESS_DENIED, EXPIRED_TOKEN, WRONG_REGION, S3Front, error

BUCKET = "open-data"
SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIAKNOWNKEYIDOFATEST",
    "AWS_SECRET_ACCESS_KEY": "known-secret-key-of-a-test",
    "AWS_SESSION_TOKEN": "known-session-token-of-a-test",
}


def record(name: str, location: object = None) -> Body:
    return {"_id": f"record-{name}", "name": name, "location": location or f"s3://{BUCKET}/{name}"}


@pytest.fixture
def front() -> Iterator[S3Front]:
    with S3Front({BUCKET: ["fine/a.nwb", "empty/notes.txt"]}) as front:
        yield front


@pytest.fixture
def desk(gateway: Gateway, front: S3Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """One record with a file; storage is given up at once."""
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    for name, value in {**front.environment, **SECRETS}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(access, "RETRY_SECONDS", 0.2)
    monkeypatch.setattr(access, "TRIES", 1)
    for folder in ("data", "results"):
        (tmp_path / folder).mkdir()
    gateway.records = [record("fine")]
    return World(
        gateway,
        S3(front.url),
        gateway.records,
        tmp_path / "data",
        tmp_path / "results",
        tmp_path / "catalog.jsonl",
    )


def look_for_files(desk: World, *flags: str) -> Completed:
    return desk.call("--docdb_query={}", "--file_extension=.nwb", *flags)


# Names

FORGED = "12:00:00 ERROR   all data was deleted"
EVIL = f"evil\n{FORGED}\r{FORGED}\x1b[31mred\x1b]0;title\x07\x85{FORGED}\u2028{FORGED}\u202e\x7f\x9b31m"
# All but the ends of lines that the command writes itself.
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def assert_nothing_is_forged(completed: Completed) -> None:
    for text in (completed.stdout, completed.stderr):
        assert not any(line.startswith(FORGED) for line in text.splitlines()), text
        assert not CONTROL.search(text), ascii(text)


@pytest.mark.parametrize("flags", [(), ("--skip_errors=1",)], ids=["error", "warning"])
@pytest.mark.parametrize("location", ["", f"s3://{BUCKET}/empty", f"s3://{BUCKET}/{EVIL}", EVIL, f"s3://{EVIL}/x"])
def test_a_record_can_neither_forge_a_line_nor_colour_a_terminal(
    desk: World, location: str, flags: tuple[str, ...]
) -> None:
    desk.records.append({"_id": EVIL, "name": EVIL, "location": location})

    completed = look_for_files(desk, "--log_level=DEBUG", *flags)

    assert_nothing_is_forged(completed)
    assert "evil\\n12:00:00" in completed.stderr


@pytest.mark.parametrize("status", [200, 400, 403])
def test_an_answer_of_docdb_can_neither_forge_a_line_nor_colour_a_terminal(desk: World, status: int) -> None:
    desk.gateway.faults.append(Fault(status, EVIL))

    completed = look_for_files(desk, "--log_level=DEBUG")

    assert completed.returncode in (1, 2)
    assert_nothing_is_forged(completed)
    assert "evil\\n12:00:00" in completed.stderr


def test_an_answer_of_s3_can_neither_forge_a_line_nor_colour_a_terminal(desk: World, front: S3Front) -> None:
    speakable = re.sub("[\x00-\x08\x0b-\x1f]", "", EVIL)
    front.failing = {"": error(403, f"Evil\n{FORGED}", speakable)}

    completed = look_for_files(desk, "--log_level=DEBUG")

    assert completed.returncode == 1
    assert_nothing_is_forged(completed)
    assert "evil\\n12:00:00" in completed.stderr


def test_what_a_user_writes_is_shown_escaped_as_well(desk: World) -> None:
    for given in (
        [f"--docdb_query={json.dumps({'name': EVIL})}"],
        [f"--docdb_query={EVIL}"],
        ["--docdb_query={}", f"--num_parallel_workers={EVIL}"],
        ["--docdb_query={}", f"--group_by={EVIL}"],
        ["--docdb_query={}", f"--file_extension={EVIL}"],
        ["--docdb_query={}", f"--metadata_catalog={EVIL}"],
    ):
        completed = desk.call(*given, "--log_level=DEBUG")
        assert completed.returncode == 2
        assert_nothing_is_forged(completed)


def test_a_key_of_s3_is_written_into_its_job_and_not_into_the_log(desk: World, front: S3Front) -> None:
    front.buckets[BUCKET] = {f"fine/{EVIL}.nwb"}

    completed = look_for_files(desk, "--log_level=DEBUG")

    assert completed.jobs[0]["file_location"] == [f"s3://{BUCKET}/fine/{EVIL}.nwb"]
    assert_nothing_is_forged(completed)


def test_very_long_names_are_cut(desk: World) -> None:
    desk.records[:] = [
        {"_id": f"record-{n}", "name": f"{n}" * 100_000, "location": f"s3://{BUCKET}/empty"} for n in range(9)
    ]

    completed = look_for_files(desk)

    assert completed.returncode == 2
    assert max(map(len, completed.stderr.splitlines())) < 2_100
    assert "… (" in completed.stderr


# Locations


REFUSED = [
    "file://HERE",
    "file:HERE",
    "FILE://HERE",
    "HERE",
    "here",
    "./here",
    "../here",
    "s3://../here",
    "s3://bucket",
    "s3://bucket/",
    "s3://bucket//",
    "s3:///HERE",
    f"s3://{BUCKET}/../here",
    f"s3://{BUCKET}/a/..",
    "http://127.0.0.1:9/here",
]


@pytest.mark.parametrize("flags", [[], ["--file_extension=.nwb"]], ids=["not listed", "listed"])
def test_a_location_from_docdb_is_in_a_bucket_or_refused_and_no_local_file_is_read(
    desk: World, tmp_path: Path, flags: list[str]
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "private.nwb").touch()
    for number, location in enumerate(REFUSED):
        desk.records.append(record(f"evil-{number:02}", location.replace("HERE", str(here))))
    watching = tmp_path / "watching.py"
    watching.write_text(
        f"""
import os, runpy, sys
sys.path.insert(0, {str(CODE)!r})
def watch(event, arguments):
    if event in ("open", "os.scandir", "os.listdir") and {str(here)!r} in os.path.abspath(str(arguments[0])):
        os.write(2, f"read: {{arguments[0]}}\\n".encode())
sys.addaudithook(watch)
runpy.run_path({str(CODE / "run_capsule.py")!r}, run_name="__main__")
"""
    )
    directories = [f"--input_directory={desk.input_directory}", f"--output_directory={desk.output_directory}"]
    asked = [f"--docdb_host={desk.gateway.host}", "--docdb_query={}", "--skip_errors=1", *flags]
    ended = subprocess.run(
        [sys.executable, watching, *directories, *asked], text=True, capture_output=True, timeout=60, cwd=tmp_path
    )

    assert ended.returncode == 0, ended.stderr
    assert len(re.findall("^  evil-[0-9]+: its location", ended.stderr, re.MULTILINE)) == len(REFUSED)
    assert "read: " not in ended.stderr
    jobs = desk.completed(ended.returncode, ended.stdout, ended.stderr).jobs
    assert [job["asset_name"] for job in jobs] == [["fine"]]


# Secrets


def assert_no_secret_is_shown(completed: Completed, *others: str) -> None:
    for secret in (*SECRETS.values(), *others):
        assert secret not in completed.stdout
        assert secret not in completed.stderr


def test_a_run_that_succeeds_shows_no_secret_at_any_level(desk: World) -> None:
    completed = desk.run("--docdb_query={}", "--file_extension=.nwb", "--log_level=DEBUG")

    assert completed.returncode == 0
    assert_no_secret_is_shown(completed)


# What S3 says of a wrong secret, with the key id and what was signed in it.
WRONG_SECRET = Fault(
    403,
    "<Error><Code>SignatureDoesNotMatch</Code><Message>The request signature we calculated does not match.</Message>"
    f"<AWSAccessKeyId>{SECRETS['AWS_ACCESS_KEY_ID']}</AWSAccessKeyId>"
    f"<StringToSign>x-amz-security-token:{SECRETS['AWS_SESSION_TOKEN']}</StringToSign></Error>",
)


@pytest.mark.parametrize(
    "fault",
    [
        ACCESS_DENIED,
        EXPIRED_TOKEN,
        WRONG_REGION,
        WRONG_SECRET,
        Fault(reset=True),
        Fault(truncate=True),
        Fault(200, "<html>"),
        Fault(500, "busy"),
    ],
    ids=["denied", "expired", "region", "wrong secret", "reset", "cut short", "web page", "500"],
)
def test_a_failure_of_storage_shows_no_secret_at_any_level(desk: World, front: S3Front, fault: Fault) -> None:
    front.failing = {"": fault}

    completed = look_for_files(desk, "--log_level=DEBUG")

    assert completed.returncode == 1
    assert_no_secret_is_shown(completed)


def test_a_refusal_that_passes_shows_no_key_id(desk: World, front: S3Front) -> None:
    front.faults.append(WRONG_SECRET)

    assert_no_secret_is_shown(look_for_files(desk, "--log_level=DEBUG"))


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404])
def test_a_failure_of_docdb_shows_no_secret_at_any_level(desk: World, status: int) -> None:
    desk.gateway.faults.append(Fault(status, "no JSON"))

    completed = look_for_files(desk, "--log_level=DEBUG")

    assert completed.returncode in (1, 2)
    assert_no_secret_is_shown(completed)


@pytest.mark.parametrize("proxy", ["127.0.0.1:9", "127.0.0.1:no-port", "[bad"])
def test_the_password_of_a_proxy_is_not_shown(desk: World, monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:known-proxy-password@{proxy}")
    monkeypatch.setattr("job_dispatch.retrying._TRIES", 1)

    completed = look_for_files(desk, "--log_level=DEBUG")

    assert completed.returncode in (1, 2)
    assert_no_secret_is_shown(completed, "known-proxy-password")


def test_the_password_in_an_endpoint_is_not_shown(desk: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://user:known-endpoint-password@127.0.0.1:9")

    report = desk.input_directory / "report"
    completed = look_for_files(desk, "--log_level=DEBUG", f"--report_directory={report}")

    assert completed.returncode in (1, 2)
    assert_no_secret_is_shown(completed, "known-endpoint-password")
    written = list((report / "failed").iterdir())
    assert written
    assert not any("known-endpoint-password" in path.read_text() for path in written)


@pytest.mark.parametrize("address", ["http://user:known@host:9/x", "s3://known@host", "//known@"])
def test_no_message_shows_what_stands_before_the_host_of_an_address(address: str) -> None:
    error = RequestError(f"cannot reach {address}; try again", [f"as in {address}"])
    assert "known" not in f"{error} {error.headline} {error.details} {error.args} {messages.printable(address)}"
    assert messages.printable("s3://bucket/a@b and someone@example.org") == "s3://bucket/a@b and someone@example.org"


# TLS


def test_no_flag_turns_the_verification_of_certificates_off() -> None:
    words = flags.build_parser("").format_help().lower()
    assert not re.search("verif|insecure|certificate|tls|ssl", words)


@pytest.mark.parametrize("bundle", [None, ""])
def test_a_gateway_that_nobody_vouches_for_is_asked_nothing(
    desk: World, monkeypatch: pytest.MonkeyPatch, bundle: str | None
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    if bundle is not None:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)

    completed = look_for_files(desk, "--log_level=DEBUG")

    assert completed.returncode == 1
    assert "no trusted connection" in completed.stderr
    assert desk.gateway.requests == []

"""No secret reaches another host, or anybody who reads a log or a report."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.broken_s3 import Broken
from tests.faults.command import Desk, Ended, Record, assert_no_crash, assert_refused
from tests.processed.code_ocean import CodeOceanGateway, process

pytestmark = pytest.mark.long

RECORD: Record = {"_id": "1", "name": "one", "location": "s3://bucket/asset"}


def assert_secret(ended: Ended, secret: str, report: Path | None = None) -> None:
    files = [path for path in report.rglob("*") if path.is_file()] if report else []
    assert secret not in ended.stdout + ended.stderr
    assert not [path.name for path in files if secret in path.read_text(encoding="utf-8")]


def test_git_follows_no_redirect_to_another_host(desk: Desk, code_ocean: CodeOceanGateway) -> None:
    code_ocean.serve_pipeline(process(version=None))
    code_ocean.make_repository([1_740_000_000])
    elsewhere = code_ocean.redirect_git()
    ended = desk.run([RECORD])
    assert_no_crash(ended)
    assert ended.assets == ["one"], ended.stderr
    assert [one.path for one in code_ocean.requests if one.path.startswith("/capsule-")]
    assert not [one.headers.get("Authorization") for one in code_ocean.requests if one.headers["Host"] == elsewhere]


def test_the_settings_that_a_user_gives_git_are_kept(desk: Desk, code_ocean: CodeOceanGateway) -> None:
    code_ocean.serve_pipeline(process(version=None))
    code_ocean.make_repository([1_740_000_000])
    given = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "http.userAgent", "GIT_CONFIG_VALUE_0": "the lab's"}
    ended = desk.run([RECORD], env=given)
    assert_no_crash(ended)
    agents = {one.headers["User-Agent"] for one in code_ocean.requests if one.path.startswith("/capsule-")}
    assert agents == {"the lab's"}


# What is wrong with it decides which message names it.
ENDPOINTS = {
    "a blank": "http://user:known-password@127.0.0.1:9 ",
    "a port that is none": "http://user:known-password@127.0.0.1:port",
}


@pytest.mark.parametrize("endpoint", ENDPOINTS.values(), ids=ENDPOINTS)
def test_the_password_in_an_endpoint_is_nowhere(desk: Desk, front: Broken, tmp_path: Path, endpoint: str) -> None:
    report = tmp_path / "report"
    changes = {"AWS_ENDPOINT_URL_S3": endpoint}
    ended = desk.run([RECORD], "--file_extension=.nwb", f"--report_directory={report}", env=changes)
    assert ended.jobs == []
    assert_secret(ended, "known-password", report)


def test_the_password_in_the_endpoint_of_the_results_bucket_is_nowhere(
    desk: Desk, code_ocean: CodeOceanGateway, front: Broken
) -> None:
    code_ocean.serve_pipeline(process())
    changes = {"AWS_ENDPOINT_URL_S3": "http://user:known-password@127.0.0.1:9", "ANALYSIS_BUCKET": "results"}
    ended = desk.run([RECORD], "--skip_processed=1", env=changes)
    assert ended.assets == ["one"], ended.stderr
    assert_secret(ended, "known-password")


def test_of_what_a_credential_process_says_only_the_first_line_is_shown(
    desk: Desk, front: Broken, tmp_path: Path
) -> None:
    script = tmp_path / "credentials"
    script.write_text("#!/bin/sh\necho 'no ticket' >&2\necho 'token known-secret' >&2\nexit 1\n")
    script.chmod(0o755)
    config = tmp_path / "aws-config"
    config.write_text(f"[profile lab]\ncredential_process = {script}\nregion = us-east-1\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del desk.environment[name]
    report = tmp_path / "report"
    changes = {"AWS_PROFILE": "lab", "AWS_CONFIG_FILE": str(config)}
    ended = desk.run([RECORD], "--file_extension=.nwb", f"--report_directory={report}", env=changes)
    assert_refused(ended)
    assert_secret(ended, "known-secret", report)

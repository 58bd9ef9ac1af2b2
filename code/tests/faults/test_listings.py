"""Listings that are incomplete never pass for complete ones: a run has all files, or no job and a sentence."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterable, Mapping

import pytest

from tests import broken_s3
from tests.broken_s3 import Broken, Change
from tests.faults.command import SECONDS, Desk, Ended, assert_refused, assert_whole_or_refused

pytestmark = pytest.mark.long

ASSET = {"_id": "1", "name": "one", "location": "s3://bucket/asset"}
EMPTY = {"_id": "2", "name": "empty", "location": "s3://bucket/empty"}
OTHER = {"_id": "3", "name": "other", "location": "s3://bucket/other"}
FLAGS = ("--file_extension=.nwb", "--split_files=0")


def numbered(count: int) -> list[str]:
    return [f"asset/{number:05}.nwb" for number in range(count)]


def addresses(keys: Iterable[str]) -> set[str]:
    return {f"s3://bucket/{key}" for key in keys}


def listed(desk: Desk, front: Broken, keys: Iterable[str]) -> Ended:
    front.buckets["bucket"] = set(keys)
    return desk.run([ASSET], *FLAGS)


def test_a_truncated_page_without_a_token_is_not_the_last(desk: Desk, front: Broken) -> None:
    front.change = broken_s3.no_token
    keys = numbered(2_500)
    assert_whole_or_refused(listed(desk, front, keys), addresses(keys))


FOLDERS = {
    "one folder": numbered(5_000),
    "folders": [f"asset/{folder}/{number:03}.nwb" for folder in "abc" for number in range(500)],
}


@pytest.mark.parametrize("keys", FOLDERS.values(), ids=FOLDERS)
def test_a_server_of_version_1_alone_is_listed_whole_or_refused(desk: Desk, front: Broken, keys: list[str]) -> None:
    front.ignored, front.change = broken_s3.NOT_IN_VERSION_1, broken_s3.of_version_1
    assert_whole_or_refused(listed(desk, front, keys), addresses(keys))


@pytest.mark.parametrize(
    "change",
    [
        broken_s3.error_after_the_first_page,
        broken_s3.page_of_the_web_after_the_first_page,
        broken_s3.nothing_after_the_first_page,
    ],
    ids=lambda change: change.__name__,
)
def test_an_answer_that_is_no_listing_is_not_the_last_page(desk: Desk, front: Broken, change: Change) -> None:
    front.change = change
    keys = numbered(5_000)
    assert_whole_or_refused(listed(desk, front, keys), addresses(keys))


def test_an_asset_that_is_answered_by_an_error_is_not_one_without_a_file(desk: Desk, front: Broken) -> None:
    def error_for_the_other(asked: Mapping[str, list[str]], text: str) -> str:
        return "<Error><Code>Odd</Code></Error>" if asked["prefix"][0].startswith("other") else text

    front.change = error_for_the_other
    front.buckets["bucket"] = {"asset/a.nwb", "empty/notes.txt", "other/b.nwb"}
    # One request at a time: the answer that has no match and can be believed comes first.
    assert_refused(desk.run([ASSET, EMPTY, OTHER], *FLAGS, "--max_concurrency=1"))


def test_a_listing_that_gives_the_same_token_again_and_again_ends_with_a_sentence(desk: Desk, front: Broken) -> None:
    front.ignored = ("continuation-token", "start-after")
    assert_refused(listed(desk, front, numbered(2_500)))


def test_an_empty_truncated_page_ends_the_listing_with_a_sentence(desk: Desk, front: Broken) -> None:
    front.change = broken_s3.empty_and_truncated
    assert_refused(listed(desk, front, numbered(1)))


def endless(asked: Mapping[str, list[str]], _: str) -> str:
    """A page of a listing with a key for each number, of which there are too many to list them all."""
    after = max(*asked.get("continuation-token", [""]), *asked.get("start-after", [""]))
    first = int(re.sub(r"\D", "", after)[:15].ljust(15, "0")) + 1 if after > "asset/0" else 0
    contents = (
        f"<Contents><Key>asset/{number:015}.nwb</Key><Size>1</Size>"
        "<LastModified>2025-06-01T00:00:00.000Z</LastModified></Contents>"
        for number in range(first, first + 1_000)
    )
    head = "<Name>bucket</Name><Prefix>asset/</Prefix><KeyCount>1000</KeyCount><IsTruncated>true</IsTruncated>"
    token = f"<NextContinuationToken>asset/{first + 999:015}.nwb</NextContinuationToken>"
    return f"<ListBucketResult>{head}{token}{''.join(contents)}</ListBucketResult>"


def test_a_listing_with_new_keys_without_end_shows_how_far_it_is(desk: Desk, front: Broken) -> None:
    front.change = endless
    process = desk.start([ASSET], *FLAGS)
    end = time.monotonic() + SECONDS
    while len(front.requests) < 50 and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(2)  # some more pages, at one of which a second has passed
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    ended = desk.ended(process)
    assert re.search("[0-9],[0-9]{3} (objects|pages|keys)", ended.stderr), ended.stderr

"""A listing that is cut short, or that does not advance, never passes for a whole one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

import pytest

from job_dispatch.messages import ServiceError
from job_dispatch.storage.matching import ByEnding
from job_dispatch.storage.s3 import S3
from tests import s3_front
from tests.broken_s3 import (
    NOT_IN_VERSION_1,
    Broken,
    Change,
    as_it_is,
    date_that_is_none,
    empty_and_truncated,
    error_after_the_first_page,
    no_size,
    no_token,
    nothing_after_the_first_page,
    of_version_1,
    page_of_the_web_after_the_first_page,
    size_that_is_no_number,
)
from tests.storage.tree import SORTS

BUCKET = "bucket"
FILES = {f"asset/{number:05}.nwb" for number in range(2_500)}


@pytest.fixture
def front(monkeypatch: pytest.MonkeyPatch) -> Iterator[Broken]:
    with Broken({BUCKET: FILES}) as front:
        for name, value in front.environment.items():
            monkeypatch.setenv(name, value)
        # boto3 takes an answer that breaks off for one that it should ask for again.
        monkeypatch.setattr("job_dispatch.storage.access.TRIES", 1)
        yield front


def found() -> set[str]:
    files = asyncio.run(S3(16).find_files("s3://bucket/asset", ByEnding((".nwb",))))
    return {file.address.removeprefix("s3://bucket/") for file in files}


# What a server ignores, and what it changes.
WITHOUT_ADVANCE: dict[str, tuple[tuple[str, ...], Change]] = {
    "version 1": (NOT_IN_VERSION_1, of_version_1),
    "the same page for ever": (("start-after", "continuation-token"), as_it_is),
}
A_SENTENCE = {
    error_after_the_first_page: "S3 is busy or failing",
    page_of_the_web_after_the_first_page: "is not a listing of S3",
    nothing_after_the_first_page: "is not a listing of S3",
    empty_and_truncated: "does not advance",
    no_size: "",
    size_that_is_no_number: "",
    date_that_is_none: "",
}


@pytest.mark.parametrize("server", WITHOUT_ADVANCE)
@pytest.mark.long
def test_a_server_that_gives_the_same_page_again_is_refused(front: Broken, server: str) -> None:
    front.ignored, front.change = WITHOUT_ADVANCE[server]
    with pytest.raises(ServiceError, match=r"lacks the token to ask for more keys|does not advance"):
        found()


def test_tokens_are_not_needed_where_the_next_page_is_asked_for_by_its_key(front: Broken) -> None:
    front.change = no_token
    assert found() == FILES


@pytest.mark.parametrize(("change", "reason"), A_SENTENCE.items(), ids=lambda one: getattr(one, "__name__", ""))
@pytest.mark.long
def test_an_answer_that_is_no_listing_ends_with_a_sentence(front: Broken, change: Change, reason: str) -> None:
    front.change = change
    with pytest.raises(ServiceError, match=f"^s3://bucket: .*{reason}"):
        found()


def test_a_server_that_speaks_version_1_alone_is_listed_where_one_page_is_enough(front: Broken) -> None:
    front.buckets[BUCKET] = {"asset/a.nwb", "asset/b/c.nwb", "asset/b/d.txt"}
    front.change = no_token
    assert found() == {"asset/a.nwb", "asset/b/c.nwb"}


def test_an_asset_that_is_answered_by_an_error_is_not_told_to_have_no_file(front: Broken) -> None:
    def error_for_another(asked: Mapping[str, list[str]], text: str) -> str:
        return "<Error><Code>Odd</Code></Error>" if asked["prefix"][0].startswith("other") else text

    front.buckets[BUCKET] = {"asset/a.nwb", "other/b.nwb"}
    front.change = error_for_another

    async def find_both() -> None:
        s3 = S3(16)
        assert len(await s3.find_files("s3://bucket/asset", ByEnding((".nwb",)))) == 1
        await s3.find_files("s3://bucket/other", ByEnding((".nwb",)))

    with pytest.raises(ServiceError, match=r"^s3://bucket: "):
        asyncio.run(find_both())


@pytest.mark.long
def test_an_error_in_place_of_a_further_page_is_no_end_though_full_pages_ended_other_folders(front: Broken) -> None:
    folders = {**dict.fromkeys("abcde", 1_000), "z": 9_500}
    front.buckets[BUCKET] = {
        f"asset/{folder}/{number:04}.nwb" for folder, count in folders.items() for number in range(count)
    }

    def error_in_z(asked: Mapping[str, list[str]], text: str) -> str:
        is_late = asked.get("continuation-token", [""])[0] >= "asset/z/2"
        return "<Error><Code>InternalError</Code><Message>no</Message></Error>" if is_late else text

    front.change = error_in_z
    assert found() == front.buckets[BUCKET]


@pytest.mark.parametrize("folders", [{"a": 2_000, "b": 3_000, "c": 1_000}, {"a": 6_500}], ids=["full pages", "guesses"])
def test_what_obstore_does_not_show_to_be_the_end_takes_no_request_of_boto3(
    front: Broken, folders: dict[str, int]
) -> None:
    by_boto3: list[str] = []

    def noting(asked: Mapping[str, list[str]], text: str) -> str:
        by_boto3.extend(asked.get("encoding-type", ()))
        return text

    front.change = noting
    front.buckets[BUCKET] = {
        f"asset/{one}/{number:04}.nwb" for one, count in folders.items() for number in range(count)
    }
    assert found() == front.buckets[BUCKET]
    assert not by_boto3


def test_an_error_in_place_of_what_follows_a_full_page_is_no_end(front: Broken) -> None:
    def error_behind(asked: Mapping[str, list[str]], text: str) -> str:
        after = max(*asked.get("continuation-token", [""]), *asked.get("start-after", [""]))
        return "<Error><Code>InternalError</Code><Message>no</Message></Error>" if after >= "asset/01998" else text

    front.change = error_behind
    with pytest.raises(ServiceError, match=r"^s3://bucket: .*S3 is busy or failing"):
        found()


@pytest.mark.long
def test_an_endpoint_that_redirects_elsewhere_ends_with_a_sentence(front: Broken) -> None:
    front.failing = {"": s3_front.error(301, "Moved", "elsewhere", Location="http://127.0.0.1:9/")}
    with pytest.raises(ServiceError, match=r"^s3://bucket: "):
        found()


def test_keys_that_are_found_by_folders_are_whole_where_a_level_ends_with_a_full_page(front: Broken) -> None:
    front.sort = lambda key: key.replace("/", "\0").encode()
    front.buckets[BUCKET] = {f"asset/d/{number:04}.nwb" for number in range(2_000)} | {"asset/d-1/x.nwb"}
    assert found() == front.buckets[BUCKET]


@pytest.mark.parametrize("order", SORTS)
@pytest.mark.parametrize("folder", ["NUL", "tab\t", "\x01\x1b[31m", "a//b", ".", "..", "\u200b\u202e"], ids=repr)
def test_a_folder_of_an_odd_name_is_listed_in_either_order(front: Broken, order: str, folder: str) -> None:
    front.sort = SORTS[order]
    front.buckets[BUCKET] = {f"asset/{folder}/x.nwb", "asset/s/a.nwb", "asset/s-1/a.nwb"}
    assert found() == front.buckets[BUCKET]


def test_a_subfolder_that_is_denied_is_told_where_assets_are_listed_by_folders(front: Broken) -> None:
    front.sort = SORTS["folders"]
    files = [f"asset/{folder}/{number:04}.nwb" for folder in ("s", "s-1") for number in range(700)]
    front.buckets[BUCKET] = {*files, "asset/t/x.nwb"}
    front.failing = {"asset/s-1/": s3_front.ACCESS_DENIED}
    with pytest.raises(ServiceError, match=r"^s3://bucket: AccessDenied"):
        found()

"""Keys are opaque: whatever S3 holds is found and written exactly, whichever way it is listed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from job_dispatch import main
from job_dispatch.model import File
from job_dispatch.storage import clients
from job_dispatch.storage import keys as paging
from job_dispatch.storage.access import Access
from job_dispatch.storage.matching import ByEnding, ByPattern
from job_dispatch.storage.opening import Bucket, open_bucket
from job_dispatch.storage.s3 import S3
from tests import s3_front
from tests.conftest import load_job
from tests.s3_front import S3Front
from tests.storage.tree import SORTS, matches, random_tree

BUCKET = "bucket"
PLAIN = [
    "a.nwb",
    "two  spaces.nwb",
    " leading and trailing .nwb",
    "1+1.nwb",
    "a%2Fb.nwb",
    "100%.nwb",
    "é.nwb",
    "e\u0301.nwb",
    "脑.nwb",
    "[1]*?.nwb",
    "back\\slash.nwb",
    "&lt;<'\">.nwb",
    "#1;?x=1&y.nwb",
    f"{'long/' * 190}{'x' * 40}.nwb",
]
REFUSED_BY_OBSTORE = [
    "a//b.nwb",
    "/b.nwb",
    "./x.nwb",
    "../x.nwb",
    "sub/../../x.nwb",
    "tab\there.nwb",
    "new\nline.nwb",
    "carriage\rreturn.nwb",
    "\x1b[31m.nwb",
]
# What the console makes for a folder: objects without a body that end in a slash.
MARKERS = ["", "folder/", "folder/in.nwb", "empty/", "x", "x/", "x/y.nwb", "both.nwb", "both.nwb/"]
MARKED = ["folder/in.nwb", "x/y.nwb", "both.nwb"]


@pytest.fixture
def front(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Front]:
    with S3Front({BUCKET: []}) as front:
        monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
        monkeypatch.delenv("AWS_PROFILE", raising=False)
        for name, value in front.environment.items():
            monkeypatch.setenv(name, value)
        yield front


def found_in_jobs(front: S3Front, tmp_path: Path, keys: list[str]) -> list[str]:
    """Put keys below an asset, dispatch it and return the files of its jobs, below the asset's location."""
    front.buckets[BUCKET] = {f"asset/{key}" for key in keys}
    catalog, output = tmp_path / "catalog.jsonl", tmp_path / "results"
    catalog.write_text('{"_id": "1", "name": "asset", "location": "s3://bucket/asset"}\n')
    code = main.main(
        [
            f"--input_directory={tmp_path}",
            f"--output_directory={output}",
            f"--metadata_catalog={catalog}",
            '--docdb_query={"_id": "1"}',
            "--file_extension=.nwb",
        ]
    )
    assert code == 0
    files = [file for path in output.rglob("*.json") for file in load_job(path)["file_location"]]
    return sorted(file.removeprefix(f"s3://{BUCKET}/asset/") for file in files)


def test_keys_that_url_and_glob_syntax_would_change_are_written_into_jobs_exactly(
    front: S3Front, tmp_path: Path
) -> None:
    assert found_in_jobs(front, tmp_path, PLAIN) == sorted(PLAIN)


@pytest.mark.parametrize("key", REFUSED_BY_OBSTORE, ids=repr)
def test_a_key_that_obstore_refuses_is_written_into_its_job_exactly(front: S3Front, tmp_path: Path, key: str) -> None:
    assert found_in_jobs(front, tmp_path, [key, "other.nwb"]) == sorted([key, "other.nwb"])


def test_keys_of_all_kinds_stand_beside_each_other(front: S3Front, tmp_path: Path) -> None:
    keys = [*PLAIN, *REFUSED_BY_OBSTORE, *MARKED]
    assert found_in_jobs(front, tmp_path, [*keys, *MARKERS]) == sorted(keys)


def test_the_marker_of_a_folder_is_no_file_and_hides_no_object_of_its_name(front: S3Front, tmp_path: Path) -> None:
    assert found_in_jobs(front, tmp_path, MARKERS) == sorted(MARKED)


async def open_for_boto3(name: str, access: Access, _: str) -> Bucket:
    """Open a bucket as one that obstore cannot connect to."""
    bucket = Bucket(name, access)
    bucket.by_obstore = None
    return bucket


def both_ways() -> tuple[list[File], list[File]]:
    """List the asset by obstore, with boto3 for what it refuses, and by boto3 alone."""
    found = []
    for opening in (open_bucket, open_for_boto3):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("job_dispatch.storage.s3.open_bucket", opening)
            found.append(asyncio.run(S3(8).find_files("s3://bucket/asset", ByEnding((".nwb",)))))
    return found[0], found[1]


def keys_in(files: list[File]) -> set[str]:
    return {file.address.removeprefix("s3://bucket/") for file in files}


def test_obstore_and_boto3_find_the_same_keys(front: S3Front) -> None:
    front.buckets[BUCKET] = {f"asset/{key}" for key in PLAIN}
    by_obstore, by_boto3 = both_ways()
    assert by_obstore == by_boto3
    assert keys_in(by_obstore) == {f"asset/{key}" for key in PLAIN}


def test_obstore_and_boto3_find_the_same_beside_markers(front: S3Front) -> None:
    front.buckets[BUCKET] = {f"asset/{key}" for key in MARKERS}
    by_obstore, by_boto3 = both_ways()
    assert by_obstore == by_boto3
    assert keys_in(by_obstore) == {f"asset/{key}" for key in MARKED}


def test_obstore_and_boto3_find_the_same_in_a_folder_of_more_than_a_page(front: S3Front) -> None:
    keys = {f"asset/{number:04} +é.nwb" for number in range(2_001)}
    front.buckets[BUCKET] = keys
    by_obstore, by_boto3 = both_ways()
    assert by_obstore == by_boto3
    assert keys_in(by_obstore) == keys


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32 - 1), st.sampled_from(["text", "folders"]))
@pytest.mark.long
def test_both_clients_find_what_the_rules_say_in_any_tree_and_order(
    front: S3Front, monkeypatch: pytest.MonkeyPatch, seed: int, order: str
) -> None:
    chance = random.Random(seed)
    for module, name in ((paging, "PAGE_SIZE"), (clients, "PAGE_SIZE"), (s3_front, "KEYS_A_PAGE")):
        monkeypatch.setattr(module, name, 20)
    keys = random_tree(chance, "asset/", chance.choice([0, 20, 300]))
    if chance.random() < 0.7:  # for others boto3 is asked at once
        keys = {key for key in keys if not {"", ".", ".."} & set(key.removesuffix("/").split("/"))}
    front.buckets[BUCKET] = keys | {"asset", "asset-/x.nwb", "asset0/x.nwb"}
    front.sort = SORTS[order]
    by_obstore, by_boto3 = both_ways()
    assert by_obstore == by_boto3
    found = {file.address.removeprefix("s3://bucket/"): file.size for file in by_obstore}
    assert found == matches(keys, "asset/", (".nwb",), size=1)


@pytest.mark.parametrize("pattern", ["notes*", "data/**", "*"])
def test_a_marker_of_an_empty_folder_is_no_file_whatever_the_pattern(front: S3Front, pattern: str) -> None:
    markers = {"asset/notes/", "asset/data/", "asset/data/raw/"}
    front.buckets[BUCKET] = {*markers, "asset/notes-empty", "asset/data/empty"}
    found = asyncio.run(S3(8).find_files("s3://bucket/asset", ByPattern([pattern])))
    assert keys_in(found) <= {"asset/notes-empty", "asset/data/empty"}
    assert found


def test_many_empty_files_of_a_folder_are_told_from_markers_by_few_requests(front: S3Front) -> None:
    files = {f"asset/logs/{number:03}-empty" for number in range(300)}
    front.buckets[BUCKET] = files | {f"asset/logs/{number:03}-folder/" for number in range(300)}
    found = asyncio.run(S3(8).find_files("s3://bucket/asset", ByPattern(["logs/*"])))
    assert keys_in(found) == files
    assert len(front.requests) < 8

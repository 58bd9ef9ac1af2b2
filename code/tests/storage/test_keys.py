"""Keys are opaque: whatever S3 holds is found and written exactly, whichever way it is listed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from job_dispatch import main
from job_dispatch.storage.access import find_access
from job_dispatch.storage.dividing import Experience
from job_dispatch.storage.listing import list_keys
from job_dispatch.storage.matching import ByEnding, Matches
from job_dispatch.storage.slots import Requests
from job_dispatch.storage.view import View
from tests.conftest import load_job
from tests.s3_front import S3Front

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


def both_ways() -> tuple[set[str], set[str]]:
    """List the bucket by obstore and by boto3; each finds full keys."""

    async def ask() -> tuple[set[str], set[str]]:
        view = View(BUCKET, find_access()[0])
        by_obstore, by_boto3 = [
            await list_keys(
                source, ["asset/"], lambda: Matches(ByEnding((".nwb",)), "asset/"), Requests(8).turn(), Experience()
            )
            for source in (view.by_obstore, view.by_boto3)
        ]
        return set(by_obstore.found), set(by_boto3.found)

    return asyncio.run(ask())


def test_obstore_and_boto3_find_the_same_keys(front: S3Front) -> None:
    front.buckets[BUCKET] = {f"asset/{key}" for key in PLAIN}
    by_obstore, by_boto3 = both_ways()
    assert by_obstore == by_boto3 == {f"asset/{key}" for key in PLAIN}


def test_obstore_and_boto3_find_the_same_beside_markers(front: S3Front) -> None:
    front.buckets[BUCKET] = {f"asset/{key}" for key in MARKERS}
    by_obstore, by_boto3 = both_ways()
    assert by_obstore == by_boto3 == {f"asset/{key}" for key in MARKED}


def test_obstore_and_boto3_find_the_same_in_a_folder_of_more_than_a_page(front: S3Front) -> None:
    keys = {f"asset/{number:04} +é.nwb" for number in range(2_001)}
    front.buckets[BUCKET] = keys
    by_obstore, by_boto3 = both_ways()
    assert by_obstore == by_boto3 == keys

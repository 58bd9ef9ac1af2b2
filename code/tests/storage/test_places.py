"""What other wings ask of a folder or a bucket."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from job_dispatch.messages import RequestError, ServiceError
from job_dispatch.model import Folder
from job_dispatch.storage.places import Places, find_files, list_folder, read_files
from tests import conftest

Endpoint = conftest.S3
PATHS = ["a/metadata.nd.json", "a/x.zarr/metadata.nd.json", "b/metadata.nd.json", "b/c/metadata.nd.json", "top.json"]


@pytest.fixture(params=["s3", "file"])
def home(request: pytest.FixtureRequest, s3: Endpoint, tmp_path: Path) -> str:
    """The same small files in a bucket and in a folder."""
    if request.param == "s3":
        s3.put("bucket", [f"home/{path}" for path in PATHS], b"{}")
        return "s3://bucket/home"
    for path in PATHS:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("{}")
    return f"file://{tmp_path}"


def test_a_folder_is_listed_one_level_deep(home: str) -> None:
    found = list_folder(home)
    assert found.folders == [f"{home}/a", f"{home}/b"]
    assert [(file.address, file.size) for file in found.files] == [(f"{home}/top.json", 2)]


def test_a_bucket_is_listed_one_level_deep(s3: Endpoint) -> None:
    s3.put("bucket", ["one/x", "two/x", "file"])
    found = list_folder("s3://bucket")
    assert found.folders == ["s3://bucket/one", "s3://bucket/two"]
    assert [file.address for file in found.files] == ["s3://bucket/file"]


def test_files_are_found_by_pattern_and_stores_are_not_entered(home: str) -> None:
    found = [file.address for file in find_files(home, ["*/metadata.nd.json"])]
    assert found == [f"{home}/a/metadata.nd.json", f"{home}/b/metadata.nd.json"]


def test_many_files_are_read_in_their_order_and_what_is_missing_is_named(home: str) -> None:
    addresses = [f"{home}/{path}" for path in ("top.json", "missing.json", "a/metadata.nd.json")]
    found = list(read_files(addresses))
    assert [address for address, _ in found] == addresses
    contents = [content for _, content in found]
    assert (contents[0], contents[2]) == (b"{}", b"{}")
    assert isinstance(contents[1], RequestError)
    assert "missing.json" in contents[1].headline


def test_a_local_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=f"^no such local folder: {tmp_path}/none$"):
        list_folder(f"file://{tmp_path}/none")


def test_a_bucket_that_is_not_there_is_named(s3: Endpoint) -> None:
    with pytest.raises(ServiceError, match=r"^s3://nowhere: NoSuchBucket"):
        list_folder("s3://nowhere/home")


def test_a_prefix_without_objects_is_an_empty_folder(s3: Endpoint) -> None:
    s3.put("bucket", ["one/x"])
    assert list_folder("s3://bucket/two") == Folder([], [])
    assert [file.address for file in find_files("s3://bucket/one", ["**"])] == ["s3://bucket/one/x"]


@pytest.mark.parametrize(
    ("pattern", "folders", "files"),
    [
        ("*", ["a", "b"], ["top.json"]),
        ("*/*.json", [], ["a/metadata.nd.json", "b/metadata.nd.json"]),
        ("?/*", ["a/x.zarr", "b/c"], ["a/metadata.nd.json", "b/metadata.nd.json"]),
        ("[b-z]/c/*", [], ["b/c/metadata.nd.json"]),
        ("**/*.json", [], ["a/metadata.nd.json", "b/c/metadata.nd.json", "b/metadata.nd.json", "top.json"]),
        ("**/c", ["b/c"], []),
        ("**/x.*", ["a/x.zarr"], []),
        ("*/*/*/*", [], []),
        ("none/*", [], []),
        ("*/c/none*", [], []),
    ],
)
def test_a_pattern_finds_folders_and_files_level_by_level_and_enters_no_store(
    home: str, pattern: str, folders: list[str], files: list[str]
) -> None:
    with Places() as places:
        if pattern == "none/*" and home.startswith("file://"):
            with pytest.raises(RequestError, match="no such local folder"):
                places.match(home, pattern.split("/"))
            return
        found = places.match(home, pattern.split("/"))
    assert found.folders == [f"{home}/{path}" for path in folders]
    assert [file.address for file in found.files] == [f"{home}/{path}" for path in files]


def test_hidden_entries_only_fit_a_pattern_that_begins_with_a_dot(tmp_path: Path) -> None:
    for path in (".hidden/x", "shown/x", "shown/.x"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("")
    with Places() as places:
        assert [one.address for one in places.match(f"file://{tmp_path}", ["**", "*"]).files] == [
            f"file://{tmp_path}/shown/x"
        ]
        assert places.match(f"file://{tmp_path}", [".*"]).folders == [f"file://{tmp_path}/.hidden"]


def test_of_each_folder_the_files_that_are_chosen_are_read_by_what_was_read_before(home: str) -> None:
    def choose(names: frozenset[str], read: Mapping[str, bytes]) -> list[str]:
        return [] if read else [name for name in names if name.startswith("metadata")]

    with Places(2) as places:
        found = dict(places.read_folders([f"{home}/a", f"{home}/b", home, f"{home}/b/c"], choose))
    contents = {"metadata.nd.json": b"{}"}
    assert found == {f"{home}/a": contents, f"{home}/b": contents, home: {}, f"{home}/b/c": contents}


def test_a_hundred_folders_are_listed_side_by_side_with_one_connection_to_the_bucket(s3: Endpoint) -> None:
    s3.put("bucket", [f"lab/{number:03}/x" for number in range(100)])
    with Places(8) as places:
        found = places.match("s3://bucket/lab", ["*", "x"])
    assert len(found.files) == 100

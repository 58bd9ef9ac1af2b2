"""Each folder or file of a place is an asset, with a record from its files and its name."""

from __future__ import annotations

import logging
import os
import uuid
from pathlib import Path
from typing import Any

import pytest

from job_dispatch.cohort.sources import Place, open_place, place_of
from job_dispatch.messages import RequestError
from job_dispatch.metadata.asset_records import NamePattern
from job_dispatch.metadata.records import value_of
from job_dispatch.model import Reason
from job_dispatch.request.fields import Query
from tests import conftest
from tests.cohort.lab_trees import TREES, Tree

Record = dict[str, Any]


@pytest.fixture(params=TREES)
def tree(request: pytest.FixtureRequest) -> Tree:
    return TREES[request.param]


@pytest.fixture(params=["folder", "bucket"])
def home(request: pytest.FixtureRequest, tree: Tree, s3: conftest.S3, tmp_path: Path) -> str:
    """The tree on a disk or in S3; its address."""
    if request.param == "folder":
        write(tmp_path, tree.files)
        return f"file://{tmp_path}"
    bucket = f"b-{uuid.uuid4()}"
    for path, content in tree.files.items():
        s3.put(bucket, [f"lab/{path}"], content)
    return f"s3://{bucket}/lab"


def write(folder: Path, files: dict[str, bytes]) -> None:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


def records(text: str, *flags: str, skip_errors: bool = False) -> dict[str, Record]:
    """Return the records of a place by location."""
    options = dict(flag.removeprefix("--").split("=", 1) for flag in flags)
    endings = tuple(options.get("file_extension", "").split(",")) if "file_extension" in options else ()
    pattern = NamePattern(options["name_pattern"]) if "name_pattern" in options else None
    place = place_of(text, [Path(text)], endings)
    assert place is not None
    with open_place(place, endings, pattern, 16, skip_errors) as catalog:
        return {one["location"]: dict(one) for one in catalog.sample(Query.of({}), 1_000, 60)}


def test_every_asset_of_a_lab_has_its_subject_session_and_modality_from_a_folder_or_a_bucket(
    tree: Tree, home: str
) -> None:
    found = records(f"{home.removeprefix('file://')}/{tree.place}", *tree.flags)

    assert set(found) == {f"{home}/{path}" for path in tree.assets}
    for path, (subject, session, modality) in tree.assets.items():
        record = found[f"{home}/{path}"]
        known = [value_of(record, name) for name in ("@subject", "@session", "@modality")]
        assert known == [subject, session, modality], path
        assert record["_id"] == str(uuid.uuid5(uuid.NAMESPACE_URL, f"{home}/{path}"))


def test_a_derived_asset_knows_its_raw_one_and_when_it_was_made_from_its_name(tmp_path: Path) -> None:
    raw = "ecephys_1_2025-01-01_10-00-00"
    write(tmp_path, {f"{raw}_sorted_2025-01-02_11-00-00/x": b"", f"{raw}/x": b""})

    found = records(str(tmp_path))

    derived = found[f"file://{tmp_path}/{raw}_sorted_2025-01-02_11-00-00"]
    assert (value_of(derived, "@raw"), value_of(derived, "@created")) == (raw, "2025-01-02T11:00:00")
    levels = [record["data_description"]["data_level"] for _, record in sorted(found.items())]
    assert levels == ["raw", "derived"]


def test_what_is_no_asset_in_a_folder_is_counted_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, {"README": b"", "participants.tsv": b"", "a/x": b"", ".git/x": b"", "b.nwb": b""})
    caplog.set_level(logging.INFO, "job_dispatch")

    assert set(records(str(tmp_path))) == {f"file://{tmp_path}/a"}
    assert (
        f"{tmp_path}: 3 files in it are no assets; those with an ending of --file_extension would be" in caplog.messages
    )
    assert set(records(str(tmp_path), "--file_extension=.nwb")) == {f"file://{tmp_path}/a", f"file://{tmp_path}/b.nwb"}


@pytest.mark.parametrize("kind", ["file", "store"])
def test_a_store_or_a_file_is_one_asset(tmp_path: Path, kind: str) -> None:
    write(tmp_path, {"M1.nwb" if kind == "file" else "M1.nwb/.zgroup": b"", "M2.nwb": b""})

    found = records(f"{tmp_path}/M1.nwb", "--name_pattern={subject}")

    assert [(location, value_of(record, "@subject")) for location, record in found.items()] == [
        (f"file://{tmp_path}/M1.nwb", "M1")
    ]


def test_what_does_not_fit_the_name_pattern_is_named_and_keeps_its_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, {"M1_1/x": b"", "notes/x": b"", "M2_2/x": b""})

    found = records(str(tmp_path), "--name_pattern={subject}_{run:d}")

    assert [found[f"file://{tmp_path}/{name}"].get("run") for name in ("M1_1", "M2_2", "notes")] == [1, 2, None]
    [warning] = [one for one in caplog.records if one.levelname == "WARNING"]
    assert warning.getMessage() == "1 of 3 assets do not fit --name_pattern={subject}_{run:d}:"
    assert warning.__dict__["details"] == ["notes"]


def test_a_metadata_file_that_cannot_be_read_is_named_and_skipped_only_when_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, {"a/metadata.nd.json": b"{", "b/subject.json": b"[]", "c/x": b""})
    place = place_of(str(tmp_path), [tmp_path])
    assert place is not None

    with pytest.raises(RequestError) as refused:
        open_place(place, (), None, 16, skip_errors=False)
    assert refused.value.headline == ("the metadata of 2 of 3 assets could not be read; --skip_errors=1 skips them")
    assert refused.value.details == (
        f"file://{tmp_path}/a: metadata.nd.json: not JSON: Input data was truncated",
        f"file://{tmp_path}/b: subject.json: not an object",
    )

    with open_place(place, (), None, 16, skip_errors=True) as catalog:
        assert catalog.count(Query.of({}), 60) == 1
    assert [(one.reason, one.location) for one in catalog.skipped] == [
        (Reason.NOT_READABLE, f"file://{tmp_path}/a"),
        (Reason.NOT_READABLE, f"file://{tmp_path}/b"),
    ]


@pytest.mark.parametrize(
    ("files", "place", "message"),
    [
        ({"README": b""}, "", ": no assets; give a folder with one folder per asset, or a pattern of files"),
        ({"a/x": b""}, "a/*.nwb", ": no assets; give a folder with one folder per asset, or a pattern of files"),
        ({"a/x": b""}, "**", ": end the pattern with what an asset is called, such as **/*.nwb"),
    ],
)
def test_a_place_without_assets_is_refused(tmp_path: Path, files: dict[str, bytes], place: str, message: str) -> None:
    write(tmp_path, files)
    with pytest.raises(RequestError) as refused:
        records(f"{tmp_path}/{place}")
    assert refused.value.headline == f"{tmp_path}/{place}{message}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket", Place("s3://bucket", "s3://bucket")),
        ("s3://bucket/", Place("s3://bucket/", "s3://bucket")),
        ("s3://bucket/a/b/", Place("s3://bucket/a/b/", "s3://bucket/a/b")),
        ("s3://bucket/a/x.zarr", Place("s3://bucket/a/x.zarr", "s3://bucket/a/x.zarr", is_asset=True)),
        ("s3://bucket/a/*/b/*.nwb", Place("s3://bucket/a/*/b/*.nwb", "s3://bucket/a", ("*", "b", "*.nwb"))),
        ("s3://bucket/*", Place("s3://bucket/*", "s3://bucket", ("*",))),
    ],
)
def test_an_address_is_divided_before_its_first_wildcard(text: str, expected: Place) -> None:
    assert place_of(text, [Path(text)]) == expected


def test_a_local_path_is_a_folder_a_pattern_or_a_file_of_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"lab/a/x": b"", "records.jsonl": b"", "odd [1]/a/x": b""})
    monkeypatch.chdir(tmp_path)
    assert place_of("lab", [Path("lab")]) == Place("lab", f"file://{tmp_path}/lab")
    assert place_of("lab/*", [Path("lab/*")]) == Place("lab/*", f"file://{tmp_path}/lab", ("*",))
    assert place_of("odd [1]", [Path("odd [1]")]) == Place("odd [1]", f"file://{tmp_path}/odd [1]")
    assert place_of("records.jsonl", [Path("records.jsonl")]) is None
    assert place_of("none.jsonl", [Path("none.jsonl")]) is None
    with pytest.raises(RequestError, match=r"^no folder for the pattern none/\*$"):
        place_of("none/*", [Path("none/*")])


def test_an_address_that_is_no_place_is_refused() -> None:
    with pytest.raises(RequestError, match=r"^s3://buck\*/x is not an address such as "):
        place_of("s3://buck*/x", [])
    with pytest.raises(RequestError, match=r"^s3://Bad_Bucket!/x is not an address such as "):
        place_of("s3://Bad_Bucket!/x", [])
    with pytest.raises(RequestError, match="a catalog must be a local file"):
        place_of("s3://bucket/catalog.jsonl.gz", [])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"a/x": b"", "b/x": b""})
    (tmp_path / "a").chmod(0)
    with pytest.raises(Exception, match="the metadata of 1 of 2 assets could not be read"):
        records(str(tmp_path))

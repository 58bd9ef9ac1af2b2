"""A cohort that is saved gives the same jobs later, from its file alone; records may list their files."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests import conftest
from tests.both_sources import logged
from tests.conftest import Completed, World, assert_refused
from tests.gateway import Gateway
from tests.s3_front import S3Front

EVERYTHING = "--docdb_query={}"
EXPECTED = {
    "plain": (),
    "files": ("--file_extension=.nwb",),
    "pattern and sizes": ("--file_pattern=*_dff.h5,*.nwb", "--balance=size", "--split_files=0"),
    "groups of the latest": ("--group_by=@subject", "--filter_latest=@created", "--filter_by=@subject,@modality"),
    "sample": ("--sample=3", "--file_extension=.nwb"),
}


def read(path: Path) -> list[dict[str, Any]]:
    content = path.read_bytes()
    text = gzip.decompress(content) if path.name.endswith(".gz") else content
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("name", ["frozen.jsonl", "frozen.jsonl.gz"])
@pytest.mark.parametrize("flags", EXPECTED.values(), ids=EXPECTED)
def test_a_frozen_cohort_gives_the_same_jobs_without_a_request_whatever_became_of_docdb_and_s3(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str, flags: tuple[str, ...]
) -> None:
    frozen = world.catalog.with_name(name)
    first = world.call(EVERYTHING, f"--save_catalog={frozen}", *flags)
    assert first.returncode == 0, first.stderr
    world.records.clear()
    world.gateway.reset()
    with S3Front({}) as front:
        for variable, value in front.environment.items():
            monkeypatch.setenv(variable, value)

        again = world.call(EVERYTHING, f"--metadata_catalog={frozen}", "--overwrite=1", *flags)

        assert front.requests == []
    assert (again.returncode, again.jobs, again.folders) == (0, first.jobs, first.folders), again.stderr
    assert world.gateway.requests == []


def test_a_pair_is_frozen_with_its_raw_asset(world: World) -> None:
    frozen = world.catalog.with_name("frozen.jsonl")
    flags = ("--with_raw=1", "--skip_errors=1")
    world.records[0]["data_description"]["input_data_name"] = world.records[4]["name"]
    first = world.call(EVERYTHING, f"--save_catalog={frozen}", *flags)
    assert first.returncode == 0, first.stderr
    world.records.clear()

    again = world.call(EVERYTHING, f"--metadata_catalog={frozen}", "--overwrite=1", *flags)

    assert (again.returncode, again.jobs) == (0, first.jobs), again.stderr


def test_records_are_saved_whole_with_the_files_that_were_found(world: World) -> None:
    frozen = world.catalog.with_name("frozen.jsonl")
    query = '--docdb_query={"name": {"$regex": "^multiplane"}}'

    world.call(query, f"--save_catalog={frozen}", "--file_extension=_dff.h5", "--dry_run=1")

    [record] = [one for one in world.records if "multiplane-ophys" in one["name"]]
    [saved] = read(frozen)
    [file] = saved.pop("files")
    assert saved == record
    empty = '"d41d8cd98f00b204e9800998ecf8427e"'  # the ETag of S3 for no bytes: their MD5, in quotes
    location = f"{record['location']}/{file['path']}"
    assert file == {"path": file["path"], "location": location, "size": 0, "version": empty}
    assert file["path"].endswith("_dff.h5")


def test_locations_in_a_saved_catalog_are_absolute(desk: World, tmp_path: Path) -> None:
    desk.write_catalog([{"_id": "a", "name": "a", "location": "assets/a"}])
    frozen = tmp_path / "elsewhere" / "frozen.jsonl"
    frozen.parent.mkdir()

    completed = desk.call(f"--metadata_catalog={desk.catalog}", f"--save_catalog={frozen}")

    assert completed.returncode == 0, completed.stderr
    assert [one["location"] for one in read(frozen)] == [f"file://{tmp_path}/assets/a"]


def test_a_run_that_fails_saves_nothing_and_keeps_what_is_there(desk: World, tmp_path: Path) -> None:
    frozen = tmp_path / "frozen.jsonl"
    frozen.write_text("old")

    completed = desk.call("--subject=none", f"--save_catalog={frozen}", "--overwrite=1")

    assert completed.returncode == 2
    assert frozen.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "frozen.jsonl", "results"]


def test_a_saved_catalog_is_replaced_only_when_asked(desk: World, tmp_path: Path) -> None:
    frozen = tmp_path / "frozen.jsonl"
    frozen.write_text("old")

    assert_refused(
        desk,
        desk.call(EVERYTHING, f"--save_catalog={frozen}"),
        f"error: --save_catalog: {frozen} exists; --overwrite=1 replaces it, or choose another name",
    )
    assert desk.gateway.requests == []
    completed = desk.call(EVERYTHING, f"--save_catalog={frozen}", "--overwrite=1")
    assert completed.returncode == 0, completed.stderr
    assert len(read(frozen)) == 3


def test_a_folder_for_the_saved_catalog_that_is_not_there_is_named(desk: World, tmp_path: Path) -> None:
    assert_refused(
        desk,
        desk.call(EVERYTHING, f"--save_catalog={tmp_path}/none/x.jsonl"),
        f"error: --save_catalog: {tmp_path}/none/x.jsonl: its folder does not exist",
    )


# Records that list their files


def with_files(*files: dict[str, Any]) -> dict[str, Any]:
    return {"_id": "a", "name": "a", "location": "s3://archive/a", "files": list(files)}


def dispatched(desk: World, record: dict[str, Any], *flags: str) -> Completed:
    return desk.call(f"--metadata_catalog={desk.write_catalog([record])}", *flags)


def test_endings_and_patterns_match_the_path_and_jobs_get_the_location(desk: World) -> None:
    blob = "s3://archive/blobs/0a1"
    record = with_files(
        {"path": "sub-1/x.nwb", "location": blob, "size": 5},
        {"path": "sub-1/notes.txt", "location": f"{blob}-notes"},
    )

    for flag in ("--file_extension=.nwb", "--file_pattern=sub-1/*.nwb"):
        completed = dispatched(desk, record, flag, "--overwrite=1")
        assert [job["file_location"] for job in completed.jobs] == [[blob]], completed.stderr


def test_keys_inside_a_store_count_as_the_store(desk: World) -> None:
    store = "s3://archive/a/x.zarr"
    record = with_files(
        *({"path": f"x.zarr/{key}", "location": f"{store}/{key}", "size": 1} for key in (".zgroup", "0/0", "y.nwb")),
        {"path": "z.nwb", "location": "s3://archive/a/z.nwb"},
    )

    completed = dispatched(desk, record, "--file_extension=.zarr,.nwb")

    assert [job["file_location"] for job in completed.jobs] == [[store], ["s3://archive/a/z.nwb"]], completed.stderr


@pytest.mark.parametrize(
    ("files", "mistake"),
    [
        ("x.nwb", "Expected `array`, got `str`"),
        ([5], "Expected `object`, got `int` - at `$[0]`"),
        ([{"path": "x.nwb"}], "Object missing required field `location` - at `$[0]`"),
        (
            [{"path": "x.nwb", "location": "https://x"}],
            "Expected `str` matching regex '^(s3://|file:///)' - at `$[0].location`",
        ),
    ],
)
def test_files_that_cannot_be_read_are_named_with_their_record(desk: World, files: Any, mistake: str) -> None:
    record = {"_id": "a", "name": "a", "location": "s3://archive/a", "files": files}

    completed = dispatched(desk, record, "--file_extension=.nwb")

    assert_refused(desk, completed, f"error: record a: files: {mistake}")


def test_files_of_a_record_of_docdb_are_not_trusted(world: World) -> None:
    for record in world.records:
        record["files"] = [{"path": "x.nwb", "location": "file:///etc/passwd"}]

    completed = world.call(EVERYTHING, "--file_extension=.nwb")

    assert completed.returncode == 0, completed.stderr
    assert "passwd" not in json.dumps(completed.jobs)


# Places, from the command


def test_a_folder_without_a_query_means_all_of_it(desk: World, tmp_path: Path) -> None:
    for name in ("ecephys_1_2025-01-01_10-00-00", "ecephys_2_2025-01-02_10-00-00", "notes"):
        (tmp_path / "lab" / name).mkdir(parents=True)

    whole = desk.call(f"--metadata_catalog={tmp_path}/lab")
    one = desk.call(f"--metadata_catalog={tmp_path}/lab", "--subject=2", "--overwrite=1")
    day = desk.call(f"--metadata_catalog={tmp_path}/lab", "--to=2025-01-01", "--overwrite=1")

    assert [len(completed.jobs) for completed in (whole, one, day)] == [3, 1, 1], whole.stderr
    assert one.jobs[0]["s3_location"] == [f"file://{tmp_path}/lab/ecephys_2_2025-01-02_10-00-00"]
    assert desk.gateway.requests == []


def test_an_asset_that_cannot_be_read_is_in_the_report_of_what_is_skipped(desk: World, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "lab" / name).mkdir(parents=True)
    (tmp_path / "lab" / "a" / "metadata.nd.json").write_text("{")

    completed = desk.call(
        f"--metadata_catalog={tmp_path}/lab", "--skip_errors=1", f"--report_directory={tmp_path}/report"
    )

    assert completed.returncode == 0, completed.stderr
    assert "metadata.nd.json: not JSON" in (tmp_path / "report" / "skipped.csv").read_text()


def test_the_home_folder_is_written_as_a_tilde(desk: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "lab" / "a").mkdir(parents=True)

    completed = desk.call("--metadata_catalog=~/lab")

    assert [job["asset_name"] for job in completed.jobs] == [["a"]], completed.stderr


@pytest.mark.usefixtures("gateway")
def test_a_catalog_in_the_input_directory_is_used_by_itself_unless_docdb_is_named(
    desk: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = desk.input_directory / "catalog.jsonl"
    own.write_text('{"_id": "a", "name": "a", "location": "s3://bucket/a"}\n')
    monkeypatch.setattr(World, "_docdb", lambda self: [])

    completed = desk.call()
    assert [job["asset_name"] for job in completed.jobs] == [["a"]], completed.stderr
    assert f"{own} is used since no other source of metadata is named" in logged(completed, "INFO")

    named = desk.call(EVERYTHING, f"--docdb_host={desk.gateway.host}", "--overwrite=1")
    assert len(named.jobs) == 3, named.stderr
    monkeypatch.setenv("DOCDB_HOST", desk.gateway.host)
    by_environment = desk.call(EVERYTHING, "--overwrite=1")
    assert len(by_environment.jobs) == 3, by_environment.stderr


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--name_pattern=subject", "the name pattern 'subject' cannot be read: it has no field such as {subject}"),
        ("--name_pattern={subject", "the name pattern '{subject' cannot be read: expected '}' before end of string"),
        (
            "--name_pattern={_id}",
            "the name pattern '{_id}' cannot be read: the field _id is not from a name; call it otherwise",
        ),
    ],
)
def test_a_name_pattern_that_cannot_be_read_is_refused(desk: World, tmp_path: Path, flag: str, message: str) -> None:
    (tmp_path / "lab" / "a").mkdir(parents=True)
    assert_refused(desk, desk.call(f"--metadata_catalog={tmp_path}/lab", flag), f"error: {message}")


def test_derived_assets_of_a_folder_are_paired_with_their_raw_ones_by_name(desk: World, tmp_path: Path) -> None:
    raw = "ecephys_1_2025-01-01_10-00-00"
    for name in (raw, f"{raw}_sorted_2025-01-02_11-00-00"):
        (tmp_path / "lab" / name).mkdir(parents=True)

    completed = desk.call(f"--metadata_catalog={tmp_path}/lab", "--with_raw=1")

    assert [job["asset_name"] for job in completed.jobs] == [[f"{raw}_sorted_2025-01-02_11-00-00", raw]], (
        completed.stderr
    )
    assert completed.jobs[0]["asset_role"] == ["derived", "raw"]


def test_a_bucket_is_a_place_from_the_command(desk: World, s3: conftest.S3) -> None:
    bucket = "whole-bucket"
    s3.put(bucket, ["sub-1/ses-20250607/x.nwb", "sub-2/ses-20250608/y.nwb", "README"])
    desk_with_s3 = [f"--metadata_catalog=s3://{bucket}/", "--file_extension=.nwb"]

    completed = desk.call(*desk_with_s3)

    assert [job["file_location"] for job in completed.jobs] == [
        [f"s3://{bucket}/sub-1/ses-20250607/x.nwb"],
        [f"s3://{bucket}/sub-2/ses-20250608/y.nwb"],
    ], completed.stderr


def test_nothing_is_left_in_the_folder_for_temporary_files(desk: World, tmp_path: Path, gateway: Gateway) -> None:
    (tmp_path / "lab" / "a").mkdir(parents=True)
    (tmp_path / "temporary").mkdir()

    completed = desk._run([f"--metadata_catalog={tmp_path}/lab"], {**os.environ, "TMPDIR": str(tmp_path / "temporary")})

    assert completed.returncode == 0, completed.stderr
    assert list((tmp_path / "temporary").iterdir()) == []

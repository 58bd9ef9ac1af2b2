"""The command on servers that others have written; what they hold is what an exhaustive listing by boto3 says."""

from __future__ import annotations

import asyncio
import hashlib
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from job_dispatch.storage.matching import ByPattern
from job_dispatch.storage.s3 import S3
from tests.servers.conftest import KEYS, Desk, Server, client_of, rclone
from tests.storage.tree import matches

NASTY = [
    *(
        "a.nwb",
        "two  spaces.nwb",
        " leading and trailing .nwb",
        "1+1.nwb",
        "a%2Fb.nwb",
        "100%.nwb",
        "é.nwb",
        "e\u0301.nwb",
    ),
    *(
        "脑.nwb",
        "\U0001f9e0.nwb",
        "[1]*?.nwb",
        "back\\slash.nwb",
        "&lt;<'\">.nwb",
        "#1;?x=1&y.nwb",
        "~.nwb",
        "UPPER.NWB",
    ),
    *("tab\there.nwb", "new\nline.nwb", "carriage\rreturn.nwb", "\x01\x1b[31m.nwb", "\x7f.nwb", "\u200b\u202e.nwb"),
    *("a//b.nwb", "/b.nwb", "./x.nwb", "sub/../../x.nwb", f"{'long/' * 150}{'x' * 40}.nwb"),
    # An object beside a folder of its name, markers of folders, and names that sort before the slash.
    *("s", "s/f.nwb", "s-1/f.nwb", "s.1/f.nwb", "s0/f.nwb", "marker/", "marker/in.nwb", "empty/"),
    *("x.zarr-1/f.nwb", "x.zarr.nwb", "y.nwb/.zgroup", "y.nwb/0/0", "y.nwb-1/f.nwb", "y.nwb.json"),
]
# More than a page each: a store that is jumped over, and a wide tree that is divided.
MANY = [
    *(f"nasty/x.zarr/{chunk}" for chunk in range(1_010)),
    *(f"wide/tile_{tile}/{image:04}.{'nwb' if image == 7 else 'tif'}" for tile in range(3) for image in range(400)),
]
FEW = [*(f"nasty/{path}" for path in NASTY), "nasty-2/in.nwb", "nasty-2/b/other.txt"]
ASSETS = ["nasty", "wide", "nasty-2"]
BUCKET = "lab"


@pytest.fixture(scope="session")
def filled() -> dict[str, dict[str, int]]:
    """What each server holds, once it has been filled."""
    return {}


@pytest.fixture
def held(server: Server, filled: dict[str, dict[str, int]]) -> dict[str, int]:
    if server.endpoint not in filled:
        server.put_many(BUCKET, MANY)
        server.put(BUCKET, FEW)
        filled[server.endpoint] = server.holds(BUCKET)
    return filled[server.endpoint]


def locations() -> list[str]:
    return [f"s3://{BUCKET}/{asset}" for asset in ASSETS]


def expected(held: dict[str, int], asset: str) -> list[str]:
    keys = [key for key in held if key.startswith(f"{asset}/") and not key.endswith("/")]
    return [f"s3://{BUCKET}/{key}" for key in matches(keys, f"{asset}/", (".nwb",))]


@pytest.mark.parametrize("split", ["1", "0"])
def test_every_match_that_a_server_holds_is_in_a_job(
    server: Server, held: dict[str, int], desk: Desk, split: str
) -> None:
    assert len(held) > 2_200
    ended = desk.run(locations(), f"--split_files={split}", AWS_ENDPOINT_URL_S3=server.endpoint, **KEYS)
    assert ended.code == 0, ended.errors
    assert ended.files == sorted(file for asset in ASSETS for file in expected(held, asset))
    assert len(ended.jobs) == (len(ended.files) if split == "1" else len(ASSETS))


def test_sizes_are_those_of_all_objects(
    server: Server, held: dict[str, int], monkeypatch: pytest.MonkeyPatch, desk: Desk
) -> None:
    for name, value in {**desk.environment, **KEYS, "AWS_ENDPOINT_URL_S3": server.endpoint}.items():
        monkeypatch.setenv(name, value)

    async def measure() -> list[int]:
        s3 = S3(64)
        return [await s3.measure(location) for location in (*locations(), f"s3://{BUCKET}/nasty/x.zarr")]

    of_assets = [sum(size for key, size in held.items() if key.startswith(f"{asset}/")) for asset in ASSETS]
    of_store = sum(size for key, size in held.items() if key.startswith("nasty/x.zarr/"))
    assert asyncio.run(measure()) == [*of_assets, of_store]


def test_a_location_that_is_a_match_is_looked_at(server: Server, held: dict[str, int], desk: Desk) -> None:
    found = [f"s3://{BUCKET}/nasty/{name}" for name in ("a.nwb", "y.nwb")]
    environment = {"AWS_ENDPOINT_URL_S3": server.endpoint, **KEYS}
    assert desk.run(found, **environment).files == found
    ended = desk.run([*found, f"s3://{BUCKET}/nasty/missing.nwb"], **environment)
    assert (ended.code, ended.jobs) == (2, [])
    assert f"s3://{BUCKET}/nasty/missing.nwb: nothing is there" in ended.errors


def test_a_bucket_that_is_not_there_is_named(server: Server, desk: Desk) -> None:
    ended = desk.run(["s3://nowhere/asset"], AWS_ENDPOINT_URL_S3=server.endpoint, **KEYS)
    assert (ended.code, ended.jobs) == (1, [])
    assert "NoSuchBucket" in ended.errors


def test_a_wrong_secret_is_told(server: Server, desk: Desk, held: dict[str, int]) -> None:
    keys = {**KEYS, "AWS_SECRET_ACCESS_KEY": "wrong"}
    ended = desk.run(locations(), AWS_ENDPOINT_URL_S3=server.endpoint, **keys)
    assert (ended.code, ended.jobs) == (1, [])
    assert "refused for the credentials (env)" in ended.errors


def test_a_public_bucket_is_listed_without_credentials(seaweedfs_server: Server, desk: Desk) -> None:
    seaweedfs_server.put("public", ["asset/a.nwb", "asset/b.txt"])
    ended = desk.run(["s3://public/asset"], AWS_ENDPOINT_URL_S3=seaweedfs_server.endpoint)
    assert ended.files == ["s3://public/asset/a.nwb"], ended.errors


def test_where_credentials_are_needed_it_says_that_none_were_found(seaweedfs_server: Server, desk: Desk) -> None:
    seaweedfs_server.put("closed", ["asset/a.nwb"])
    ended = desk.run(["s3://closed/asset"], AWS_ENDPOINT_URL_S3=seaweedfs_server.endpoint)
    assert (ended.code, ended.jobs) == (1, [])
    assert "boto3 found no AWS credentials" in ended.errors


def test_what_was_deleted_or_written_again_in_a_bucket_with_versions_counts_as_it_is_now(
    seaweedfs_server: Server, desk: Desk
) -> None:
    client = seaweedfs_server.client
    seaweedfs_server.put("versions", ["asset/gone.nwb"])
    client.put_bucket_versioning(Bucket="versions", VersioningConfiguration={"Status": "Enabled"})
    seaweedfs_server.put("versions", ["asset/again.nwb", "asset/gone.nwb"])
    seaweedfs_server.put("versions", ["asset/again.nwb"])
    client.delete_object(Bucket="versions", Key="asset/gone.nwb")
    assert len(client.list_object_versions(Bucket="versions")["Versions"]) > 2
    ended = desk.run(["s3://versions/asset"], AWS_ENDPOINT_URL_S3=seaweedfs_server.endpoint, **KEYS)
    assert ended.files == ["s3://versions/asset/again.nwb"], ended.errors


ODD_NAMES = ["tab\tname", "one\x01two", "\x1b[31mred", "bell\x07", "new\nline", "NUL", "del\x7f", "\u200b\u202e"]


def test_an_asset_with_control_characters_in_its_name_ends_no_other_one(server: Server, desk: Desk) -> None:
    server.put("odd-names", [f"{name}/deep {name}/x.nwb" for name in (*ODD_NAMES, "plain")])
    held = server.holds("odd-names")
    assert len(held) > 3
    places = [f"s3://odd-names/{name}" for name in (*ODD_NAMES, "plain")]
    ended = desk.run(places, "--skip_errors=1", AWS_ENDPOINT_URL_S3=server.endpoint, **KEYS)
    assert ended.code == 0, ended.errors
    assert ended.files == sorted(f"s3://odd-names/{key}" for key in held)


@pytest.mark.parametrize("after", [0.2, 0.6, 1.0, 1.5, 2.5])
def test_a_kill_at_any_time_leaves_all_jobs_or_none(
    server: Server, held: dict[str, int], desk: Desk, after: float
) -> None:
    environment = {**desk.environment, **KEYS, "AWS_ENDPOINT_URL_S3": server.endpoint}
    process = subprocess.Popen(
        desk.command(locations()), env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    time.sleep(after)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    files = sorted(file for job in desk.jobs() for file in job["file_location"])
    everything = sorted(file for asset in ASSETS for file in expected(held, asset))
    assert files in ([], everything)
    if process.returncode == 0:
        assert files == everything
    elif process.returncode == -signal.SIGTERM:  # before a line of the command was run
        assert (files, errors) == ([], "")
    else:
        assert process.returncode == 128 + signal.SIGTERM, errors
        assert "stopped by SIGTERM" in errors
        assert ("no job is written" in errors) == (files == [])


def test_a_server_that_dies_in_the_middle_of_a_listing_is_told_and_nothing_is_written(
    tmp_path: Path, desk: Desk
) -> None:
    with rclone(tmp_path, "-vv") as server:
        server.put(BUCKET, [])
        assets = [f"asset_{number:04}" for number in range(2_000)]
        server.put_many(BUCKET, [f"{asset}/a.nwb" for asset in assets])
        environment = {**desk.environment, **KEYS, "AWS_ENDPOINT_URL_S3": server.endpoint}
        command = desk.command((f"s3://{BUCKET}/{asset}" for asset in assets), "--max_concurrency=1")
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        # It tells each listing in its log.
        while (tmp_path / "rclone.log").read_text(errors="replace").count("LIST BUCKET") < 20:
            assert process.poll() is None
            time.sleep(0.01)
    _, errors = process.communicate(timeout=150)
    assert process.returncode == 1, errors
    assert "cannot reach" in errors
    assert desk.jobs() == []


def test_an_address_of_ipv6_is_listed(tmp_path: Path, desk: Desk) -> None:
    with rclone(tmp_path, host="::1") as server:
        server.put(BUCKET, ["asset/a.nwb"])
        ended = desk.run([f"s3://{BUCKET}/asset"], AWS_ENDPOINT_URL_S3=server.endpoint, **KEYS)
        assert ended.files == [f"s3://{BUCKET}/asset/a.nwb"], ended.errors


def test_the_client_of_these_tests_lists_more_than_a_page(server: Server, held: dict[str, int]) -> None:
    one_page = client_of(server.endpoint).list_objects_v2(Bucket=BUCKET)
    assert one_page["IsTruncated"]
    assert len(held) > len(one_page["Contents"])


NUMBERS = range(20_000)
SCHEMES: dict[str, Callable[[int], str]] = {
    "numbers": lambda n: f"{n:06}.tif",
    "numbers without zeros before": lambda n: f"frame_{n}.tif",
    "digests": lambda n: hashlib.sha1(str(n).encode()).hexdigest(),
    "uuids": lambda n: f"{uuid.uuid5(uuid.NAMESPACE_OID, str(n))}.bin",
    "dates": lambda n: f"{datetime(2021, 3, 4) + timedelta(seconds=37 * n):%Y-%m-%dT%H-%M-%S}.csv",
    "two kinds": lambda n: f"{'a' if n % 2 else 'z'}_{n // 2:05}.json",
    "no ASCII": lambda n: "".join(chr(0x3041 + n // 80**place % 80) for place in range(4)) + "é",
    "subjects and sessions": lambda n: f"sub-{600_000 + n * 7 % 9_973}_ses-{n % 31:02}_run-{n}.nii",
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_one_folder_of_many_files_is_listed_whole_whatever_their_names(
    server: Server, monkeypatch: pytest.MonkeyPatch, desk: Desk, scheme: str
) -> None:
    bucket = "folder-" + hashlib.sha1(scheme.encode()).hexdigest()[:8]
    server.put_many(bucket, ["asset/end.txt", *(f"asset/images/{SCHEMES[scheme](number)}" for number in NUMBERS)])
    for name, value in {**desk.environment, **KEYS, "AWS_ENDPOINT_URL_S3": server.endpoint}.items():
        monkeypatch.setenv(name, value)
    found = asyncio.run(S3(64).find_files(f"s3://{bucket}/asset", ByPattern(["**"])))
    held = server.holds(bucket)
    assert len(held) > len(NUMBERS)
    assert {file.address.removeprefix(f"s3://{bucket}/") for file in found} == set(held)

"""One failure ends one asset, or one job, and never the run; and what is only advice ends nothing."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests import broken_s3, s3_front
from tests.broken_s3 import Broken, Change
from tests.faults.command import Desk, Record, assert_no_crash, assert_one_is_skipped, assert_refused, assert_whole
from tests.gateway import Fault, RecordedRequest
from tests.processed.code_ocean import WRAPPER, CodeOceanGateway, capsule, process
from tests.storage.tree import by_folders

pytestmark = pytest.mark.long

FLAGS = ("--file_extension=.nwb", "--split_files=0")
ASSET: Record = {"_id": "1", "name": "one", "location": "s3://bucket/asset"}
OTHER: Record = {"_id": "2", "name": "other", "location": "s3://bucket/other"}
RELEASE = "5a8f0000-0000-4000-8000-00000000aaaa"


@pytest.fixture
def by_folder(front: Broken) -> Broken:
    """A server that lists by folders, as SeaweedFS does, so that assets are listed folder by folder."""
    front.sort = by_folders
    front.buckets["bucket"] = {"other/y.nwb", *(f"asset/{one}/{n:04}.nwb" for one in ("s", "s-1") for n in range(700))}
    return front


# Listing by folders, with --skip_errors=1


def test_by_folders_a_control_character_in_an_assets_prefix_loses_no_asset(desk: Desk, by_folder: Broken) -> None:
    odd = {"_id": "3", "name": "odd", "location": "s3://bucket/od\x01d"}
    by_folder.buckets["bucket"] |= {"od\x01d/s/a.nwb", "od\x01d/s-1/a.nwb"}
    ended = desk.run([ASSET, odd, OTHER], *FLAGS, "--skip_errors=1")
    assert_no_crash(ended)
    assert ended.code == 0, ended.stderr
    assert {"one", "other"} <= set(ended.assets)


def test_by_folders_a_subfolder_that_is_denied_skips_its_asset_alone(desk: Desk, by_folder: Broken) -> None:
    by_folder.failing = {"asset/s-1/": s3_front.ACCESS_DENIED}
    ended = desk.run([ASSET, OTHER], *FLAGS, "--skip_errors=1")
    assert_one_is_skipped(ended, "one", ["other"])


def test_by_folders_an_answer_that_breaks_off_skips_its_asset_alone(desk: Desk, by_folder: Broken) -> None:
    by_folder.failing = {"asset/s-1/": Fault(200, "<ListBucketResult><Name>bucket</Name><Cont")}
    ended = desk.run([ASSET, OTHER], *FLAGS, "--skip_errors=1")
    assert_one_is_skipped(ended, "one", ["other"])


# One asset at a time: the order of the server is known when the second one is listed.
@pytest.mark.parametrize("folder", ["a//b", ".", "\ufffd", "\x01"], ids=ascii)
def test_by_folders_a_key_of_an_odd_name_loses_no_file(desk: Desk, by_folder: Broken, folder: str) -> None:
    by_folder.buckets["bucket"] |= {f"other/{folder}/x.nwb"}
    ended = desk.run([ASSET, OTHER], *FLAGS, "--skip_errors=1", "--max_concurrency=1")
    assert_whole(ended, {f"s3://bucket/{key}" for key in by_folder.buckets["bucket"]})


def test_by_folders_it_is_told_that_no_asset_has_a_file_that_fits(desk: Desk, by_folder: Broken) -> None:
    by_folder.buckets["bucket"] |= {"other/a//b.nwb"}
    ended = desk.run([ASSET, OTHER], "--file_extension=.csv", "--skip_errors=1", "--max_concurrency=1")
    assert_refused(ended)
    assert "no asset has a file" in ended.error, ended.stderr


# What storage and AWS raise


@pytest.mark.parametrize("status", [301, 302, 307])
def test_an_endpoint_that_redirects_ends_with_a_sentence(desk: Desk, front: Broken, status: int) -> None:
    front.buckets["bucket"] = {"asset/a.nwb"}
    front.failing = {"": s3_front.error(status, "Moved", "elsewhere", Location=f"{front.url}/elsewhere")}
    assert_refused(desk.run([ASSET], *FLAGS))


def test_a_role_that_is_denied_ends_with_a_sentence(desk: Desk, front: Broken, tmp_path: Path) -> None:
    config = tmp_path / "aws-config"
    config.write_text(
        "[profile lab]\nrole_arn = arn:aws:iam::123456789012:role/lab\nsource_profile = base\nregion = us-east-1\n"
        "[profile base]\naws_access_key_id = AKIATESTING\naws_secret_access_key = testing\n"
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del desk.environment[name]
    denied = "<ErrorResponse><Error><Code>AccessDenied</Code><Message>not you</Message></Error></ErrorResponse>"
    front.failing = {"": Fault(403, denied)}
    changes = {"AWS_PROFILE": "lab", "AWS_CONFIG_FILE": str(config), "AWS_ENDPOINT_URL_STS": front.url}
    assert_refused(desk.run([ASSET, OTHER], *FLAGS, env=changes))


CHANGES = [
    broken_s3.no_size,
    broken_s3.size_that_is_no_number,
    broken_s3.no_date,
    broken_s3.date_that_is_none,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_size_or_date_that_is_missing_or_malformed_skips_its_asset_alone(
    desk: Desk, front: Broken, change: Change
) -> None:
    def change_of_one(asked: Mapping[str, list[str]], text: str) -> str:
        return change(asked, text) if asked["prefix"][0].startswith("asset") else text

    front.buckets["bucket"] = {"asset/a.nwb", "other/y.nwb"}
    front.change = change_of_one
    ended = desk.run([ASSET, OTHER], *FLAGS, "--skip_errors=1")
    assert_no_crash(ended)
    assert ended.code == 0, ended.stderr
    # No job needs the date.
    assert ended.assets in (["one", "other"], ["other"])
    assert "one" in ended.assets or "one" in ended.stderr


def test_where_obstore_panics_for_want_of_file_descriptors_a_run_ends_with_a_sentence(
    desk: Desk, front: Broken
) -> None:
    front.buckets["bucket"] = {f"asset{number}/a.nwb" for number in range(12)}
    records = [{"_id": f"{n}", "name": f"{n}", "location": f"s3://bucket/asset{n}"} for n in range(12)]
    desk.before.append("import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (14, 14))\n")
    ended = desk.run(records, *FLAGS)
    # What Rust prints of a panic cannot be kept from a terminal.
    assert "Traceback" not in ended.stderr
    assert len(ended.jobs) == (12 if ended.code == 0 else 0)
    assert ended.code == 0 or ended.error, ended.stderr


# Local folders


def test_a_local_location_with_nul_skips_its_asset_alone(desk: Desk) -> None:
    good = desk.put("good/a.nwb").parent
    records = [{"_id": "1", "name": "nul", "location": "file:///a\0b"}, {**OTHER, "location": f"file://{good}"}]
    ended = desk.run(records, *FLAGS, "--skip_errors=1")
    assert_one_is_skipped(ended, "nul", ["other"])


def test_a_folder_1200_levels_deep_is_measured(desk: Desk) -> None:
    place = desk.put("deep/x.zarr/.zattrs").parent
    desk.before.append(
        # A path of 1,200 levels is longer than the kernel takes at once.
        f"import os\nhome = os.getcwd()\nos.chdir({str(place)!r})\n"
        "for _ in range(1200):\n    os.mkdir('d'); os.chdir('d')\nos.chdir(home)\n"
    )
    record = {**OTHER, "location": f"file://{place.parent}"}
    try:
        assert_whole(desk.run([record], "--file_extension=.zarr", "--balance=size"), {f"file://{place}"})
    finally:
        subprocess.run(["rm", "-rf", str(place)], check=True)  # pytest's own removal is recursive


# Advice: Code Ocean where it is not needed, and the look at the results bucket


def test_a_number_without_end_of_code_ocean_ends_no_run(desk: Desk, code_ocean: CodeOceanGateway) -> None:
    code_ocean.serve_pipeline(process(version=None))
    code_ocean.make_repository([1_740_000_000])
    code_ocean.documents[f"capsules/{WRAPPER}"] = capsule(release_capsule=RELEASE)
    versions = '[{"major_version": 1, "minor_version": 0, "release_time": 1e999}]'
    released = json.dumps(capsule(RELEASE, versions=[])).replace('"versions": []', f'"versions": {versions}')

    def answer(request: RecordedRequest) -> Fault | None:
        code_ocean.faults.append(answer)
        return Fault(200, released) if request.path.endswith(RELEASE) else None

    code_ocean.faults = [answer]
    ended = desk.run([ASSET, OTHER])
    assert_no_crash(ended)
    assert ended.assets == ["one", "other"], ended.stderr


def test_a_git_that_cannot_be_started_ends_no_run(desk: Desk, code_ocean: CodeOceanGateway) -> None:
    code_ocean.serve_pipeline(process(version=None))
    (desk.folder / "bin").mkdir()
    (desk.folder / "bin" / "git").write_text("not a program")
    ended = desk.run([ASSET, OTHER], env={"PATH": str(desk.folder / "bin")})
    assert_no_crash(ended)
    assert ended.assets == ["one", "other"], ended.stderr


def without_truncated(_: Mapping[str, list[str]], text: str) -> str:
    return text[: text.index("<IsTruncated>")] + text[text.index("</IsTruncated>") + len("</IsTruncated>") :]


@pytest.mark.parametrize(
    "change", [without_truncated, broken_s3.empty_and_truncated], ids=["KeyError", "max of nothing"]
)
def test_a_malformed_answer_of_the_results_bucket_ends_no_run(
    desk: Desk, code_ocean: CodeOceanGateway, front: Broken, change: Change
) -> None:
    code_ocean.serve_pipeline(process())
    front.buckets["results"] = set()
    front.change = change
    ended = desk.run(
        [ASSET, OTHER], "--skip_processed=1", f"--docdb_host={code_ocean.host}", env={"ANALYSIS_BUCKET": "results"}
    )
    assert ended.code == 0, ended.stderr
    assert ended.assets == ["one", "other"], ended.stderr


# The jobs of an analysis


@pytest.mark.parametrize("raised", ["KeyboardInterrupt", "GeneratorExit", "asyncio.CancelledError"])
def test_whatever_a_job_of_an_analysis_raises_the_later_jobs_are_done(desk: Desk, raised: str) -> None:
    names = {asset: desk.job(asset, f"import asyncio; raise {raised}" if asset == "b" else "") for asset in "abc"}
    ended = desk.analyse()
    assert ended.code not in (0, None)
    assert desk.done() == sorted(names[asset] for asset in "ac"), ended.stderr

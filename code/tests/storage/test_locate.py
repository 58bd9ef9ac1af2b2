"""What becomes of the selected assets when their files are looked for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from job_dispatch.messages import DispatchError, RequestError, ServiceError
from job_dispatch.model import Asset, Cohort, Files, Group, LocatedAsset, Reason
from job_dispatch.storage import locating
from tests import conftest

Endpoint = conftest.S3


def asset_at(location: str, name: str = "") -> Asset:
    return Asset(f"id of {name or location}", name or location.rpartition("/")[2], location, "")


def locate(
    *assets: Asset, endings: Sequence[str] = (".nwb",), may_be_local: bool = True, skip_errors: bool = False
) -> Files:
    cohort = Cohort([Group((asset,)) for asset in assets], may_be_local=may_be_local)
    return locating.locate(cohort, endings=endings, skip_errors=skip_errors)


def skipped(files: Files, reason: Reason) -> list[str]:
    return [one.record_id for one in files.skipped if one.reason is reason]


def addresses(one: LocatedAsset) -> tuple[str, ...]:
    return tuple(file.address for file in one.files or ())


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[tuple[str, list[str]]]:
    """Return the headline and the details of each warning."""
    return [
        (record.getMessage(), getattr(record, "details", []))
        for record in caplog.records
        if record.levelno == logging.WARNING
    ]


@pytest.fixture
def local(tmp_path: Path) -> list[Asset]:
    """Three local assets: `one` with a file, `two` without, `three` with two files."""
    for path in ("one/a.nwb", "two/notes.txt", "three/c.nwb", "three/b.nwb"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    return [asset_at(f"file://{tmp_path}/{name}") for name in ("one", "two", "three")]


@pytest.fixture
def no_endpoint(s3: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request to S3 fails."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")


# Assets without a match


def test_assets_without_a_match_are_skipped_and_named(local: list[Asset], caplog: pytest.LogCaptureFixture) -> None:
    located = locate(*local)
    assert [one.asset for one in located.assets] == [local[0], local[2]]
    assert skipped(located, Reason.NO_FILE) == [local[1].record_id]
    assert warnings_in(caplog) == [
        ("1 asset without a file whose name ends in .nwb; skipped:", [f"two ({local[1].location})"])
    ]


def test_all_assets_without_a_match_is_an_error_that_names_them(local: list[Asset]) -> None:
    with pytest.raises(RequestError) as raised:
        locate(local[0], local[1], endings=(".h5", ".zarr"))
    assert str(raised.value).splitlines() == [
        "--file_extension: no asset has a file whose name ends in .h5 or .zarr",
        "  in 2 assets looked at: .nwb 1, .txt 1",
        f"  one ({local[0].location})",
        f"  two ({local[1].location})",
    ]
    assert raised.value.exit_code == 2


def test_all_assets_without_a_match_is_an_error_with_skip_errors_too(local: list[Asset]) -> None:
    with pytest.raises(RequestError, match="no asset has a file"):
        locate(*local, endings=(".h5",), skip_errors=True)


def test_a_list_of_thousands_without_a_match_is_cut(local: list[Asset], tmp_path: Path) -> None:
    many = [asset_at(f"file://{tmp_path}/two", f"asset {number}") for number in range(1_500)]
    with pytest.raises(RequestError) as raised:
        locate(*many)
    lines = str(raised.value).splitlines()
    assert len(lines) == 22
    assert lines[-1] == "  … and 1,481 more"


# Order


def test_assets_keep_their_order_and_files_are_sorted(local: list[Asset]) -> None:
    located = locate(local[2], local[0])
    assert [one.asset.name for one in located.assets] == ["three", "one"]
    assert addresses(located.assets[0]) == (f"{local[2].location}/b.nwb", f"{local[2].location}/c.nwb")


def test_an_asset_that_answers_late_keeps_its_place(s3: Endpoint, local: list[Asset]) -> None:
    s3.put("bucket", ["late/1/2/3/4/5/6/a.nwb", "soon/b.nwb"])
    located = locate(asset_at("s3://bucket/late"), asset_at("s3://bucket/soon"), local[0])
    assert [addresses(one) for one in located.assets] == [
        ("s3://bucket/late/1/2/3/4/5/6/a.nwb",),
        ("s3://bucket/soon/b.nwb",),
        (f"{local[0].location}/a.nwb",),
    ]


def test_more_assets_than_are_listed_at_once_are_all_located(local: list[Asset]) -> None:
    many = [asset_at(local[0].location, f"asset {number}") for number in range(1_000)]
    located = locate(*many)
    assert [one.asset for one in located.assets] == many


# Without endings


def test_without_endings_nothing_is_listed(no_endpoint: None) -> None:
    assets = [asset_at("s3://bucket/one"), asset_at("file:///no/such/folder")]
    located = locate(*assets, endings=())
    assert [(one.asset, one.files) for one in located.assets] == [(asset, None) for asset in assets]


def test_without_endings_a_record_without_location_is_refused_too() -> None:
    with pytest.raises(RequestError, match="1 of 2 assets could not be read"):
        locate(asset_at("s3://bucket/one"), asset_at("", "lost"), endings=())


# Locations that are refused


@pytest.mark.parametrize(
    ("location", "sentence"),
    [
        ("", "its record has no location"),
        ("s3://bucket", "its location is a whole bucket; it must be s3://bucket/prefix: s3://bucket"),
        ("s3://bucket/a/../b", "its location holds '..': s3://bucket/a/../b"),
        ("ftp://host/a", "its location is not s3://bucket/prefix: ftp://host/a"),
        ("/data/a", "its location is not s3://bucket/prefix: /data/a"),
        ("file:///data/a", "its location is a local path, which only a catalog may name: file:///data/a"),
    ],
)
def test_a_location_that_cannot_be_listed_is_refused_with_its_reason(location: str, sentence: str) -> None:
    with pytest.raises(RequestError) as raised:
        locate(asset_at(location, "lost"), may_be_local=False)
    assert str(raised.value).splitlines() == [
        "1 of 1 asset could not be read",
        f"  lost: {sentence}",
    ]
    assert raised.value.exit_code == 2


# Assets that fail


def test_every_asset_is_tried_and_all_failures_are_told_at_once(s3: Endpoint, local: list[Asset]) -> None:
    s3.put("bucket", ["fine/a.nwb"])
    with pytest.raises(ServiceError) as raised:
        locate(
            asset_at("", "lost"),
            asset_at("s3://bucket/fine"),
            asset_at("s3://no-such-bucket/x"),
            asset_at("file:///no/such/folder"),
        )
    headline, *details = str(raised.value).splitlines()
    assert headline == "3 of 4 assets could not be read; --skip_errors=1 skips them"
    assert details == [
        "  lost: its record has no location",
        f"  x: s3://no-such-bucket: NoSuchBucket: there is no such bucket at {s3.endpoint}",
        "  folder: no such local folder: /no/such/folder",
    ]
    assert raised.value.exit_code == 1


def test_skip_errors_goes_on_without_the_assets_that_fail(
    s3: Endpoint, local: list[Asset], caplog: pytest.LogCaptureFixture
) -> None:
    failing = [asset_at("", "lost"), asset_at("s3://no-such-bucket/x")]
    located = locate(*failing, local[0], skip_errors=True)
    assert [one.asset for one in located.assets] == [local[0]]
    assert skipped(located, Reason.NOT_READABLE) == [one.record_id for one in failing]
    assert warnings_in(caplog) == [
        (
            "2 of 3 assets could not be read; skipped:",
            [
                "lost: its record has no location",
                f"x: s3://no-such-bucket: NoSuchBucket: there is no such bucket at {s3.endpoint}",
            ],
        )
    ]


@pytest.mark.parametrize("skip_errors", [False, True])
def test_where_nothing_would_be_left_skip_errors_is_not_advised(local: list[Asset], skip_errors: bool) -> None:
    with pytest.raises(DispatchError) as raised:
        locate(asset_at("", "lost"), local[1], skip_errors=skip_errors)
    assert raised.value.headline == "1 of 2 assets could not be read"

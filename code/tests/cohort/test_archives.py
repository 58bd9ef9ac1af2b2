"""The scripts of the documentation make catalogs of other archives."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CODE, World
from tests.test_documentation import blocks


def run_script(word: str) -> None:
    """Run the script of the documentation that has a word in it, in the working folder."""
    page = CODE.parent / "docs" / "sources.md"
    [script] = [
        "\n".join(one.lines) for one in blocks(page) if one.language == "python" and word in "\n".join(one.lines)
    ]
    exec(compile(script, str(page), "exec"), {})


def files_of(desk: World, ending: str) -> list[str]:
    completed = desk.call("--metadata_catalog=catalog.jsonl", f"--file_extension={ending}")
    assert completed.returncode == 0, completed.stderr
    return [file for job in completed.jobs for file in job["file_location"]]


@pytest.mark.long
def test_the_assets_of_a_dandiset_become_jobs_with_the_addresses_of_their_blobs(
    desk: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    blob = "0a1b2c3d-0000-4000-8000-000000000000"
    answer: list[dict[str, Any]] = [
        {"asset_id": "1", "path": "sub-P1/sub-P1_ecephys.nwb", "size": 5, "blob": blob, "zarr": None},
        {"asset_id": "2", "path": "sub-P2/sub-P2_image.nwb.zarr", "size": 9, "blob": None, "zarr": "77-zarr"},
    ]
    (tmp_path / "assets.json").write_text(json.dumps({"count": 2, "next": None, "results": answer}))

    run_script("dandiarchive")

    assert files_of(desk, ".nwb") == [f"s3://dandiarchive/blobs/0a1/b2c/{blob}"]
    again = desk.call("--metadata_catalog=catalog.jsonl", "--subject=P2", "--file_extension=.zarr", "--overwrite=1")
    assert [job["file_location"] for job in again.jobs] == [["s3://dandiarchive/zarr/77-zarr"]], again.stderr


def test_the_keys_of_an_s3_inventory_become_jobs(desk: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    keys = ["a+b/x%2B1.nwb", "a+b/y.zarr/0/0", "a+b/y.zarr/.zgroup", "c/z.nwb"]
    rows = "".join(f'"lab","{key}","5"\n' for key in keys)
    (tmp_path / "inventory.csv.gz").write_bytes(gzip.compress(rows.encode()))

    run_script("inventory")

    assert files_of(desk, ".nwb,.zarr") == ["s3://lab/a b/x+1.nwb", "s3://lab/a b/y.zarr", "s3://lab/c/z.nwb"]

"""A bucket of a real server is a place with the same records as a folder with the same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from job_dispatch.cohort.sources import open_place, place_of
from job_dispatch.metadata.asset_records import NamePattern
from job_dispatch.request.fields import Query
from tests.cohort.lab_trees import TREES, Tree
from tests.servers.conftest import KEYS, Server


def records(text: str, base: str, tree: Tree) -> dict[str, dict[str, Any]]:
    """Return the records by the path of the asset, without what depends on where it lies."""
    options = dict(flag.removeprefix("--").split("=", 1) for flag in tree.flags)
    endings = (options["file_extension"],) if "file_extension" in options else ()
    pattern = NamePattern(options["name_pattern"]) if "name_pattern" in options else None
    place = place_of(text, [Path(text)], endings)
    assert place is not None
    with open_place(place, endings, pattern, 16, skip_errors=False) as catalog:
        found = [dict(record) for record in catalog.sample(Query.of({}), 1_000, 60)]
    return {
        record.pop("location").removeprefix(f"{base}/"): {key: one for key, one in record.items() if key != "_id"}
        for record in found
    }


@pytest.mark.parametrize("kind", TREES)
def test_a_bucket_of_a_real_server_gives_the_records_of_a_folder_with_the_same_files(
    server: Server, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = TREES[kind]
    bucket = "place-" + "".join(letter for letter in kind.lower() if letter.isalpha())
    server.client.create_bucket(Bucket=bucket)
    for path, content in tree.files.items():
        server.client.put_object(Bucket=bucket, Key=f"lab/{path}", Body=content)
        (tmp_path / "lab" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "lab" / path).write_bytes(content)
    for name, value in {**KEYS, "AWS_ENDPOINT_URL_S3": server.endpoint, "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    in_bucket = records(f"s3://{bucket}/lab/{tree.place}", f"s3://{bucket}/lab", tree)
    in_folder = records(f"{tmp_path}/lab/{tree.place}", f"file://{tmp_path}/lab", tree)

    assert set(in_bucket) == set(tree.assets)
    assert in_bucket == in_folder

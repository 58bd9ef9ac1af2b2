"""A pipeline on Code Ocean: the metadata, the results database, the API and the git server at one address."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import S3, World, make_record
from tests.processed.code_ocean import CodeOceanGateway


@pytest.fixture(scope="session")
def code_ocean_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CodeOceanGateway]:
    with CodeOceanGateway(tmp_path_factory.mktemp("code-ocean")) as server:
        yield server


@pytest.fixture
def code_ocean(code_ocean_server: CodeOceanGateway, monkeypatch: pytest.MonkeyPatch) -> Iterator[CodeOceanGateway]:
    """An empty Code Ocean, and the environment of a capsule in a pipeline there."""
    code_ocean_server.reset()
    for name, value in code_ocean_server.environment().items():
        monkeypatch.setenv(name, value)
    for name in ("CO_CAPSULE_BRANCH", "PATCH_COMMITS", "ANALYSIS_BUCKET", "DOCDB_VERSION", "CO_CAPSULE_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("job_dispatch.retrying._pause", lambda state: 0)
    yield code_ocean_server
    code_ocean_server.reset()


@pytest.fixture
def lab(code_ocean: CodeOceanGateway, tmp_path: Path) -> World:
    """A world of four records on two mice, in a pipeline; no files in S3."""
    for name in ("data", "results"):
        (tmp_path / name).mkdir()
    code_ocean.records = [
        make_record(number, f"behavior_{subject}_2025-06-0{number + 1}", subject, "Platform", "behavior", [])
        for number, subject in enumerate(("774659", "774659", "781162", "781162"))
    ]
    code_ocean.records[3]["location"] = "s3://aind-open-data/behavior_781162_2025-06-04"
    return World(
        code_ocean,
        S3(""),
        code_ocean.records,
        tmp_path / "data",
        tmp_path / "results",
        tmp_path / "catalog.jsonl",
    )

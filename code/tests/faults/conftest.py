"""A desk on which each row of the faults is run, and a mark for all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broken_s3 import Broken
from tests.faults.command import COMMAND, Desk
from tests.gateway import Gateway
from tests.processed.code_ocean import CodeOceanGateway

_OF_OTHERS = ("AWS_", "CO_", "CODEOCEAN_", "DOCDB_", "GIT_", "ANALYSIS_", "PYTHONUTF8", "LC_", "LANG")


def pytest_report_header() -> str:
    return f"faults of: {' '.join(COMMAND)}"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """An empty desk; nothing in the environment configures AWS, Code Ocean or a locale."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OF_OTHERS)}
    desk = Desk(tmp_path, {**kept, "AWS_EC2_METADATA_DISABLED": "true", "PYTHONDONTWRITEBYTECODE": "1"})
    desk.data.mkdir()
    return desk


@pytest.fixture
def front(desk: Desk) -> Iterator[Broken]:
    """An S3 that the command asks once, with one empty bucket, `bucket`."""
    with Broken({"bucket": ()}) as front:
        desk.environment.update(front.environment)
        desk.be_impatient()
        yield front


@pytest.fixture(scope="session")
def code_ocean_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CodeOceanGateway]:
    with CodeOceanGateway(tmp_path_factory.mktemp("code-ocean")) as server:
        yield server


@pytest.fixture
def code_ocean(code_ocean_server: CodeOceanGateway, desk: Desk) -> Iterator[CodeOceanGateway]:
    """Code Ocean, in a pipeline of which the command runs."""
    code_ocean_server.reset()
    desk.environment.update(code_ocean_server.environment())
    yield code_ocean_server
    code_ocean_server.reset()


@pytest.fixture
def gateway(gateway_server: Gateway, desk: Desk) -> Iterator[Gateway]:
    """An empty DocDB that the command asks."""
    gateway_server.reset()
    desk.environment.update(
        DOCDB_HOST=gateway_server.host, REQUESTS_CA_BUNDLE=str(gateway_server.ca_path), NO_PROXY="localhost"
    )
    yield gateway_server
    gateway_server.reset()

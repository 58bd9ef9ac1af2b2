"""Fixtures: the DocDB gateway, an S3 endpoint and a small world of records and assets in them."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from botocore.loaders import create_loader
from hypothesis import settings
from moto.backends import get_backend
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.s3.exceptions import BucketAlreadyExists
from moto.server import ThreadedMotoServer

from job_dispatch.messages import naming_flags
from tests.gateway import Gateway, Record
from tests.processed.library import call_library
from tests.processed.wrappers import NEW, NO_WRAPPER

# How fast a machine is says nothing about the code.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

CODE = Path(__file__).resolve().parent.parent
EXAMPLE = CODE.parent / "data" / "example"
BUCKET = "open-data"
DESCRIPTION = "behavior_774659_2025-06-07_14-31-15"
Job = dict[str, Any]


def pytest_report_header() -> str | None:
    return None if NEW.exists() else f"job files are not read by the released wrapper: {NO_WRAPPER}"


@pytest.fixture(scope="session", autouse=True)
def _signals_are_not_ignored() -> Iterator[None]:
    """What a shell starts in the background ignores some signals, and commands under test would inherit that."""
    ignored = [
        number
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
        if signal.getsignal(number) == signal.SIG_IGN
    ]
    for number in ignored:
        signal.signal(number, signal.default_int_handler)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(scope="session")
def gateway_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(tmp_path_factory.mktemp("gateway")) as server:
        yield server


@pytest.fixture(autouse=True)
def _flags_are_named_as_they_are_typed() -> Iterator[None]:
    """Parts of the command are called without it; what Python functions say instead has tests of its own."""
    with naming_flags({}):
        yield


@pytest.fixture
def gateway(gateway_server: Gateway, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    """An empty DocDB gateway that clients trust."""
    gateway_server.reset()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(gateway_server.ca_path))
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")
    monkeypatch.delenv("DOCDB_HOST", raising=False)
    monkeypatch.delenv("DOCDB_VERSION", raising=False)
    yield gateway_server
    gateway_server.reset()


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@dataclass(frozen=True)
class S3:
    """An S3 endpoint, served by moto from this process."""

    endpoint: str

    def put(self, bucket: str, keys: Iterable[str], body: bytes = b"") -> None:
        """Write objects, all with the same body; the bucket is made if need be.

        They go straight into what moto serves: a request for each takes longer than most tests.
        """
        with contextlib.suppress(BucketAlreadyExists):
            _store().create_bucket(bucket, "us-east-1")
        for key in keys:
            _store().put_object(bucket, key, body)


def _store() -> Any:
    return get_backend("s3")[DEFAULT_ACCOUNT_ID]["aws"]


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    # Its line a request would mix with the log of a command that runs in this process.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def no_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment without any configuration of AWS."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-aws-credentials"))
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")


@pytest.fixture(autouse=True)
def _level_is_that_of_the_test() -> Iterator[None]:
    """Let no test log at the level that another has set."""
    yield
    logging.getLogger("job_dispatch").setLevel(logging.NOTSET)


@pytest.fixture(scope="session", autouse=True)
def _models_of_aws_are_read_once() -> Iterator[None]:
    """Share the files that botocore reads among its sessions: parsing them takes longer than any request here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("botocore.session.create_loader", functools.cache(create_loader))
        yield


@pytest.fixture
def s3(s3_endpoint: str, no_aws: None, monkeypatch: pytest.MonkeyPatch) -> S3:
    """An empty S3 endpoint that boto3 and every command find by the environment, with credentials for it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    requests.post(f"{s3_endpoint}/moto-api/reset", timeout=10).raise_for_status()
    return S3(s3_endpoint)


@dataclass(frozen=True)
class Completed:
    """A command that has ended, and what lies in its output folder."""

    returncode: int
    stdout: str
    stderr: str
    folders: dict[str, list[str]]
    """File names by worker folder, folders in the order of their numbers, names sorted."""
    jobs: list[Job]
    """Contents of all job files, in the order of `folders`."""


@dataclass
class World:
    """Six records in DocDB and their assets in S3.

    `records` is the list that the gateway serves; a test changes it in place.

    | index | subject | shape | Code Ocean ids | `.nwb` |
    | --- | --- | --- | --- | --- |
    | 0 behavior | 774659 | v1 | dict | one Zarr folder |
    | 1 ecephys | 774659 | v1 | list of a dict | two files |
    | 2 multiplane-ophys | 643634 | v1 | dict, two ids | one file, beside a `_dff.h5` |
    | 3 SmartSPIM | 643634 | v2 | dict | none, two `.ome.zarr` |
    | 4 behavior, raw | 774659 | v1 | empty list | none |
    | 5 behavior | 781162 | v2 | dict | one Zarr folder |
    """

    gateway: Gateway
    s3: S3
    records: list[Record]
    input_directory: Path
    output_directory: Path
    catalog: Path

    def put(self, record: Record, *paths: str) -> None:
        """Write empty objects into the asset of a record."""
        bucket, _, prefix = record["location"].removeprefix("s3://").partition("/")
        self.s3.put(bucket, [f"{prefix}/{path}" for path in paths])

    def run(self, *flags: str, env: Mapping[str, str | None] | None = None) -> Completed:
        """Run the command on DocDB in a process of its own; None in `env` takes a variable away."""
        return self._run([*self._docdb(), *flags], env)

    def run_catalog(
        self, records: Iterable[Record], *flags: str, env: Mapping[str, str | None] | None = None
    ) -> Completed:
        """Run the command on a catalog of these records in a process of its own."""
        return self._run([f"--metadata_catalog={self.write_catalog(records)}", *flags], env)

    def start(self, *flags: str, env: Mapping[str, str | None] | None = None) -> subprocess.Popen[str]:
        """Start the command on DocDB; the caller ends it. Its contract with the wrapper is not checked."""
        return subprocess.Popen(
            self.command(*flags),
            env=_environment(env),
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def call(self, *flags: str) -> Completed:
        """Run the command on DocDB inside this process: fast, and without the exit of a real one."""
        from job_dispatch import main

        stdout, stderr = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            try:
                code = main.main([*self._directories(), *self._docdb(), *flags])
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else 1
        return self.completed(code, stdout.getvalue(), stderr.getvalue())

    def command(self, *flags: str) -> list[str]:
        """The command on DocDB as a list of words."""
        return self._command([*self._docdb(), *flags])

    def write_catalog(self, records: Iterable[Record]) -> Path:
        """Write a JSON Lines catalog and give its path."""
        self.catalog.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        return self.catalog

    def completed(self, returncode: int, stdout: str, stderr: str) -> Completed:
        """Gather what a command left, and check that the analysis wrapper reads each job as it was meant."""
        folders = {
            folder.name: sorted(path.name for path in folder.iterdir())
            for folder in sorted(_worker_folders(self.output_directory), key=lambda folder: int(folder.name))
        }
        paths = [self.output_directory / folder / name for folder, names in folders.items() for name in names]
        return Completed(returncode, stdout, stderr, folders, [load_job(path) for path in paths])

    def _run(self, flags: list[str], env: Mapping[str, str | None] | None) -> Completed:
        process = subprocess.run(
            self._command(flags),
            env=_environment(env),
            text=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
        )
        return self.completed(process.returncode, process.stdout, process.stderr)

    def _command(self, flags: list[str]) -> list[str]:
        return [sys.executable, str(CODE / "run_capsule.py"), *self._directories(), *flags]

    def _directories(self) -> list[str]:
        return [f"--input_directory={self.input_directory}", f"--output_directory={self.output_directory}"]

    def _docdb(self) -> list[str]:
        return [f"--docdb_host={self.gateway.host}"]


@pytest.fixture
def world(gateway: Gateway, s3: S3, tmp_path: Path) -> World:
    """A small world: records in DocDB, assets in S3, empty input and output folders."""
    input_directory, output_directory = tmp_path / "data", tmp_path / "results"
    input_directory.mkdir()
    output_directory.mkdir()
    gateway.records = [make_record(**spec) for spec in _RECORDS]
    world = World(gateway, s3, gateway.records, input_directory, output_directory, tmp_path / "catalog.jsonl")
    for record, paths in zip(gateway.records, _ASSETS, strict=True):
        world.put(record, *paths)
    return world


@pytest.fixture
def desk(gateway: Gateway, tmp_path: Path) -> World:
    """A world with three records and no S3: what is refused here is refused before any listing."""
    for name in ("data", "results"):
        (tmp_path / name).mkdir()
    gateway.records = [
        make_record(0, f"{DESCRIPTION}_processed_a", "774659", "Platform", "behavior", {"Code Ocean": [asset_id(0)]}),
        make_record(1, f"{DESCRIPTION}_processed_b", "774659", "Platform", "behavior", {"Code Ocean": [asset_id(1)]}),
        make_record(2, DESCRIPTION, "781162", "Platform", "behavior", []),
    ]
    return World(
        gateway,
        S3(""),
        gateway.records,
        tmp_path / "data",
        tmp_path / "results",
        tmp_path / "catalog.jsonl",
    )


def assert_refused(world: World, completed: Completed, *block: str, code: int = 2) -> None:
    """The block is the last thing on stderr, no traceback stands before it, and nothing is written."""
    lines = completed.stderr.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    assert len(starts) == 1, completed.stderr
    assert lines[starts[0] :] == list(block)
    assert "Traceback" not in completed.stderr
    assert completed.stdout == ""
    assert completed.returncode == code
    assert not world.output_directory.is_dir() or list(world.output_directory.iterdir()) == []


def make_record(
    number: int, name: str, subject: str, project: str, modality: str, links: Any, schema: str = "v1"
) -> Record:
    """A metadata record as DocDB holds it.

    Parameters
    ----------
    number : int
        Makes the `_id`, so that records sort by it.
    links
        The value of `external_links` (v1) or `other_identifiers` (v2).
    schema : {"v1", "v2"}
        The shape of the record.
    """
    process = next((word for word in ("processed", "sorted", "stitched") if f"_{word}_" in name), None)
    modalities = [{"name": modality.capitalize(), "abbreviation": modality}]
    description = {"name": name, "project_name": project, "data_level": "derived" if process else "raw"}
    record: Record = {
        "_id": f"00000000-0000-4000-8000-{number:012d}",
        "name": name,
        "location": f"s3://{BUCKET}/{name}",
        "created": f"2025-06-{number + 1:02d}T03:49:49Z",
        "subject": {"subject_id": subject},
        "processing": {"data_processes": []} if process else None,
    }
    if schema == "v2":
        record["data_description"] = {**description, "modalities": modalities}
        record["acquisition"] = {"acquisition_start_time": "2025-06-01T14:31:15-07:00"}
        record["other_identifiers"] = links
    else:
        record["data_description"] = {**description, "modality": modalities, "process_name": process}
        record["session"] = {"session_start_time": "2025-06-01T14:31:15-07:00"}
        record["external_links"] = links
    return record


def asset_id(number: int) -> str:
    """The Code Ocean data asset id that the world uses for a record's number (100 + it for a second one)."""
    return f"50fa9416-4e21-482f-8901-{number:012d}"


def load_job(path: Path) -> Job:
    """Load a job file; it must mean the same to the released loader of the analysis wrapper."""
    text = path.read_text(encoding="utf-8")
    job: Job = json.loads(text)
    if not NEW.exists():
        return job
    read = call_library("load", text)
    own = {name: job[name] for name in job if name in read["fields"]}
    code = own.pop("analysis_code", None)
    if code is not None:
        code = {name: value for name, value in code.items() if name != "input_data"}
    assert read["values"] == own, path
    assert read["code"] == code, path
    assert code is None or list(read["code"]["parameters"]) == list(code["parameters"]), path
    return job


def _worker_folders(output_directory: Path) -> list[Path]:
    if not output_directory.is_dir():
        return []
    return [path for path in output_directory.iterdir() if path.name.isdigit() and path.is_dir()]


def _environment(changes: Mapping[str, str | None] | None) -> dict[str, str]:
    changed = {**os.environ, **(changes or {})}
    return {name: value for name, value in changed.items() if value is not None}


_STORE = (".zgroup", ".zattrs", "acquisition/.zgroup", "acquisition/lick_times/0")
_RECORDS: list[dict[str, Any]] = [
    {
        "number": 0,
        "name": "behavior_774659_2025-06-07_14-31-15_processed_2025-06-08_03-49-49",
        "subject": "774659",
        "project": "Behavior Platform",
        "modality": "behavior",
        "links": {"Code Ocean": [asset_id(0)]},
    },
    {
        "number": 1,
        "name": "ecephys_774659_2025-06-12_10-22-08_sorted_2025-06-14_08-37-20",
        "subject": "774659",
        "project": "Ephys Platform",
        "modality": "ecephys",
        "links": [{"Code Ocean": asset_id(1)}],
    },
    {
        "number": 2,
        "name": "multiplane-ophys_643634_2025-07-03_09-05-44_processed_2025-07-04_01-55-08",
        "subject": "643634",
        "project": "Behavior Platform",
        "modality": "pophys",
        "links": {"Code Ocean": [asset_id(2), asset_id(102)]},
    },
    {
        "number": 3,
        "name": "SmartSPIM_643634_2024-11-20_09-15-30_stitched_2024-11-24_06-30-18",
        "subject": "643634",
        "project": "Ephys Platform",
        "modality": "SPIM",
        "links": {"Code Ocean": [asset_id(3)]},
        "schema": "v2",
    },
    {
        "number": 4,
        "name": "behavior_774659_2025-06-07_14-31-15",
        "subject": "774659",
        "project": "Behavior Platform",
        "modality": "behavior",
        "links": [],
    },
    {
        "number": 5,
        "name": "behavior_781162_2025-06-09_15-20-11_processed_2025-06-10_04-12-56",
        "subject": "781162",
        "project": "Behavior Platform",
        "modality": "behavior",
        "links": {"Code Ocean": [asset_id(5)]},
        "schema": "v2",
    },
]
_ASSETS: list[list[str]] = [
    ["processing.json", *(f"nwb/behavior_774659_2025-06-07_14-31-15.nwb/{path}" for path in _STORE)],
    ["nwb/experiment1_recording1.nwb", "nwb/experiment1_recording2.nwb", "visualization/drift.csv"],
    ["nwb/multiplane-ophys_643634_2025-07-03_09-05-44.nwb", "VISp_0/VISp_0_dff.h5"],
    [
        f"image_tile_fusing/OMEZarr/{channel}.ome.zarr/{path}"
        for channel in ("Ex_488_Em_525", "Ex_561_Em_593")
        for path in (".zgroup", "0/.zarray", "0/0/0")
    ],
    ["data_description.json", "behavior/trials.csv"],
    ["processing.json", *(f"nwb/behavior_781162_2025-06-09_15-20-11.nwb/{path}" for path in _STORE)],
]

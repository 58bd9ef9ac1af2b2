"""Servers that others have written, each in a process of its own on loopback, and a client that lists all they hold."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.conftest import CODE, load_job

KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing-secret"}
_READY_WITHIN = 60.0


@dataclass(frozen=True)
class Server:
    """A server that runs.

    Parameters
    ----------
    endpoint : str
    folder : Path
        Where its data is.
    client : S3Client
        A client with all rights.
    is_folder : bool
        Whether each folder in `folder` is a bucket.
    filer : str
        Where SeaweedFS takes whole folders.
    """

    endpoint: str
    folder: Path
    client: Any
    is_folder: bool = False
    filer: str = ""

    def put(self, bucket: str, keys: Iterable[str]) -> None:
        """Write objects of different sizes, as far as the server takes their keys; the bucket is made if need be."""
        if bucket not in [one["Name"] for one in self.client.list_buckets()["Buckets"]]:
            self.client.create_bucket(Bucket=bucket)

        def put(key: str) -> None:
            # What it does not take, it does not hold.
            with contextlib.suppress(ClientError, BotoCoreError):
                self.client.put_object(Bucket=bucket, Key=key, Body=_body(key))

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(put, keys))

    def put_many(self, bucket: str, keys: Iterable[str]) -> None:
        """Write objects of plain names, none of which is at the top of the bucket, by way of files."""
        self.put(bucket, [])
        folder = self.folder if self.is_folder else Path(tempfile.mkdtemp(dir=self.folder.parent))
        for key in keys:
            path = folder / bucket / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_body(key))
        if not self.is_folder:
            folders = sorted(map(str, (folder / bucket).iterdir()))
            copy = [script("weed"), "filer.copy", "-c=32", *folders, f"http://{self.filer}/buckets/{bucket}/"]
            subprocess.run(copy, check=True, capture_output=True, timeout=120)

    def holds(self, bucket: str) -> dict[str, int]:
        """Return all keys with their sizes, listed page by page without any folder in mind."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return {one["Key"]: one["Size"] for page in pages for one in page.get("Contents", ())}


def _body(key: str) -> bytes:
    return b"" if key.endswith("/") else b"x" * (1 + len(key) % 7)


@dataclass
class Ended:
    """A command that has ended."""

    code: int
    errors: str
    jobs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def files(self) -> list[str]:
        """All files of all jobs."""
        return sorted(file for job in self.jobs for file in job["file_location"])


@dataclass(frozen=True)
class Desk:
    """A place to run the command on a catalog of locations."""

    home: Path
    environment: dict[str, str]

    def command(self, locations: Iterable[str], *flags: str) -> list[str]:
        """Write a catalog of these locations and return the command that looks for their `.nwb`."""
        records = ({"_id": f"{n:05}", "name": f"asset {n}", "location": one} for n, one in enumerate(locations))
        (self.home / "catalog.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
        return [
            *(sys.executable, str(CODE / "run_capsule.py"), "--docdb_query={}", "--file_extension=.nwb"),
            f"--input_directory={self.home}",
            f"--output_directory={self.home / 'results'}",
            f"--metadata_catalog={self.home / 'catalog.jsonl'}",
            *flags,
        ]

    def run(self, locations: Iterable[str], *flags: str, **environment: str) -> Ended:
        """Run the command to its end, in an empty output folder."""
        shutil.rmtree(self.home / "results", ignore_errors=True)
        done = subprocess.run(
            self.command(locations, *flags),
            env={**self.environment, **environment},
            text=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
        )
        return Ended(done.returncode, done.stderr, self.jobs())

    def jobs(self) -> list[dict[str, Any]]:
        """Return all jobs that are written."""
        return [load_job(path) for path in sorted((self.home / "results").glob("*/*.json"))]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return Desk(
        tmp_path,
        {
            **kept,
            "AWS_CONFIG_FILE": str(tmp_path / "aws-config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "aws-credentials"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_DEFAULT_REGION": "us-east-1",
            "NO_PROXY": "localhost,127.0.0.1,::1",
            "no_proxy": "localhost,127.0.0.1,::1",
        },
    )


def client_of(endpoint: str, **options: Any) -> Any:
    config = Config(proxies={}, max_pool_connections=16, read_timeout=10, retries={"total_max_attempts": 2})
    session = boto3.session.Session("testing", "testing-secret", region_name="us-east-1")
    return session.client("s3", endpoint_url=endpoint, config=config, **options)


def free_ports(number: int, host: str = "127.0.0.1") -> list[int]:
    """Return ports that are free, and so are those 10,000 above, which SeaweedFS takes for gRPC.

    They lie below those that systems give to outgoing connections, of which one could come in between.
    """
    found: list[int] = []
    candidate = 12_000 + os.getpid() % 8_000
    while len(found) < number:
        candidate += 1
        if all(_is_free(host, port) for port in (candidate, candidate + 10_000)):
            found.append(candidate)
    return found


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as tried:
        try:
            tried.bind((host, port))
        except OSError:
            return False
    return True


@contextmanager
def running(command: list[str], log: Path, is_ready: Callable[[], bool]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the end of the block; it is killed then."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=log.parent)
    try:
        last = time.monotonic() + _READY_WITHIN
        while not is_ready():
            if process.poll() is not None or time.monotonic() > last:
                raise RuntimeError(f"{command[0]} does not run: {log.read_text(errors='replace')[-2_000:]}")
            time.sleep(0.1)
        yield process
    finally:
        process.kill()
        process.wait()


def _answers(client: Any) -> Callable[[], bool]:
    def ask() -> bool:
        try:
            client.list_buckets()
        except (ClientError, BotoCoreError):
            return False
        return True

    return ask


def script(name: str) -> str:
    """Return the path of a program that was installed beside the interpreter."""
    return str(Path(sys.executable).parent / name)


@contextmanager
def rclone(
    folder: Path, *options: str, host: str = "127.0.0.1", scheme: str = "http", **of_client: Any
) -> Iterator[Server]:
    """Run rclone's S3 server: a folder is a bucket."""
    data = folder / "rclone"
    data.mkdir()
    [port] = free_ports(1, host)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    client = client_of(f"{scheme}://{address}", **of_client)
    command = [script("rclone"), "serve", "s3", f"--addr={address}", "--auth-key=testing,testing-secret"]
    command += ["--config=/dev/null", "--vfs-cache-mode=off", "--etag-hash=", *options, str(data)]
    with running(command, folder / "rclone.log", _answers(client)):
        yield Server(f"{scheme}://{address}", data, client, is_folder=True)


@contextmanager
def seaweedfs(folder: Path) -> Iterator[Server]:
    """Run SeaweedFS; everybody may list the bucket `public`."""
    data = folder / "seaweedfs"
    data.mkdir()
    s3, master, volume, filer = free_ports(4)
    rights = ["Admin", "Read", "List", "Write", "Tagging"]
    identities = [
        {"name": "anonymous", "actions": ["Read:public", "List:public"]},
        {
            "name": "tester",
            "credentials": [{"accessKey": "testing", "secretKey": "testing-secret"}],
            "actions": rights,
        },
    ]
    (folder / "identities.json").write_text(json.dumps({"identities": identities}))
    client = client_of(f"http://127.0.0.1:{s3}")
    command = [
        *(script("weed"), "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"),
        *("-filer", "-s3", f"-s3.config={folder / 'identities.json'}", f"-s3.port={s3}", "-s3.port.iceberg=0"),
        *("-s3.port.lance=0", f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"),
        *("-volume.max=200", "-master.volumeSizeLimitMB=64", "-filer.localSocket=", "-s3.localSocket="),
    ]
    with running(command, folder / "weed.log", _answers(client)):
        yield Server(f"http://127.0.0.1:{s3}", data, client, filer=f"127.0.0.1:{filer}")


@pytest.fixture(scope="session")
def rclone_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with rclone(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(scope="session")
def seaweedfs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with seaweedfs(tmp_path_factory.mktemp("weed")) as server:
        yield server


@pytest.fixture(params=["rclone", "seaweedfs"])
def server(request: pytest.FixtureRequest) -> Server:
    """Each server in turn."""
    found: Server = request.getfixturevalue(f"{request.param}_server")
    return found

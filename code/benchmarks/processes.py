"""Processes to measure, and the environments that they run in."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

CODE = Path(__file__).resolve().parent.parent
_PEER = CODE.parent / ".venv-wrapper-new" / "bin" / "python"
_SECONDS_AT_MOST = 300.0
_MEGABYTE = 2**20 if sys.platform == "darwin" else 2**10


class Finished(NamedTuple):
    """What a whole process took, and the JSON of its last line of output, if it is some."""

    seconds: float
    cpu: float
    peak: float
    answer: dict[str, Any]


def run(command: Sequence[str], environment: Mapping[str, str]) -> Finished:
    """Run a process of the benchmarks to its end.

    Raises
    ------
    RuntimeError
        It failed.
    """
    starter = _starter()
    assert starter.stdin is not None
    assert starter.stdout is not None
    print(json.dumps([command, dict(environment)]), file=starter.stdin, flush=True)
    answer = json.loads(starter.stdout.readline())
    if isinstance(answer, str):
        raise RuntimeError(answer)
    return Finished(*answer)


@functools.cache
def _starter() -> subprocess.Popen[str]:
    """Return a small process that starts the others, since each begins with the peak memory of the one that starts it.

    It ends when its standard input does, also if this process is killed.
    """
    command = [sys.executable, "-m", "benchmarks.processes"]
    return subprocess.Popen(command, cwd=CODE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _run(command: Sequence[str], environment: Mapping[str, str]) -> Finished:
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=CODE, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=errors
        )
        killer = threading.Timer(_SECONDS_AT_MOST, process.kill)
        killer.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        killer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}\n{errors.read()[-2000:]}")
        *_, last = ["", *output.read().splitlines()]
    answer = json.loads(last) if last.startswith("{") else {}
    return Finished(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / _MEGABYTE, answer)


def environment(s3: str, docdb: str, authority: Path) -> dict[str, str]:
    """Return the environment in which both sides find the stand-ins and nothing else of AWS."""
    others = ("AWS_", "DOCDB_", "PYTHONDONTWRITEBYTECODE")  # the peer's code is compiled when it is installed
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(others)}
    return {
        **kept,
        "AWS_ACCESS_KEY_ID": "benchmark",
        "AWS_SECRET_ACCESS_KEY": "benchmark",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": s3,
        "AWS_ENDPOINT_URL_S3": s3,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "DOCDB_HOST": docdb,
        "NO_PROXY": "127.0.0.1,localhost",
        "REQUESTS_CA_BUNDLE": str(authority),
        "no_proxy": "127.0.0.1,localhost",
    }


def peer_python() -> str:
    """Return the interpreter of the environment in which the peer, the newest released library, is installed."""
    if not _PEER.exists():
        raise SystemExit(f"error: {_PEER} is missing; `make bench` installs it")
    return str(_PEER)


def versions(python: str, packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of packages in an environment."""
    script = "import json, sys; from importlib.metadata import version as of"
    script += "; print(json.dumps({name: of(name) for name in sys.argv[1:]}))"
    return run([python, "-c", script, *packages], os.environ).answer


if __name__ == "__main__":
    for line in sys.stdin:
        try:
            print(json.dumps(_run(*json.loads(line))), flush=True)
        except RuntimeError as error:
            print(json.dumps(str(error)), flush=True)

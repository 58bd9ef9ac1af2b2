"""Released wrappers on our job files, each in a process of its own."""

from __future__ import annotations

import atexit
import functools
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.processed.code_ocean import WRAPPER, CodeOceanGateway
from tests.processed.wrappers import NEW

_CAPSULE = Path(__file__).with_name("wrapper_capsule.py")


@dataclass(frozen=True)
class Ran:
    """What the wrapper made of its jobs.

    Parameters
    ----------
    given : list of dict
        `assets`, `files`, `query` and `parameters` that its analysis function was given, a job each.
    records : list of dict
        The records of the results, in the same order; their `name` is the hash.
    skipped : list of str
        Names of the jobs that it left out as done.
    """

    given: list[dict[str, Any]]
    records: list[dict[str, Any]]
    skipped: list[str]

    @property
    def hashes(self) -> list[str]:
        return [record["name"] for record in self.records]

    @property
    def codes(self) -> list[dict[str, Any]]:
        """The code in each record: `processing_prefix` of it is the hash."""
        return [record["processing"]["data_processes"][0]["code"] for record in self.records]


def run_wrapper(
    server: CodeOceanGateway,
    jobs: Sequence[Path],
    directory: Path,
    fields: Mapping[str, str],
    *flags: str,
    python: Path = NEW,
    env: Mapping[str, str] | None = None,
) -> Ran:
    """Let the wrapper run job files as the pipeline gives them to it.

    Parameters
    ----------
    fields
        The parameters that its model requires, with their types.
    flags
        Its command line, as an app panel gives it.
    python
        The interpreter in whose environment the wrapper is installed.
    """
    results, data = directory / "results", directory / "data"
    results.mkdir(parents=True)
    (data / "job_dict").mkdir(parents=True)
    for path in jobs:
        (data / "job_dict" / path.name).write_bytes(path.read_bytes())
    log = results / "log.txt"
    environment = {
        **os.environ,
        **server.environment(),
        "CO_CAPSULE_ID": WRAPPER,
        "WRAPPER_RESULTS": str(results),
        "WRAPPER_FIELDS": json.dumps(fields),
        **(env or {}),
    }
    asked = {"environment": environment, "flags": [f"--input_directory={data}", *flags], "log": str(log)}
    capsule = _capsule(python)
    assert capsule.stdin is not None
    assert capsule.stdout is not None
    capsule.stdin.write(json.dumps(asked) + "\n")
    capsule.stdin.flush()
    if capsule.stdout.readline() != "0\n":
        raise RuntimeError(log.read_text() if log.exists() else f"{python}: the wrapper does not start")
    given = json.loads((results / "given.json").read_text())
    records = [json.loads((results / f"{number}.json").read_text()) for number in range(1, len(given) + 1)]
    skipped = [path.name.removeprefix("skip_") for path in results.glob("skip_*")]
    return Ran(given, records, skipped)


@functools.cache
def _capsule(python: Path) -> subprocess.Popen[str]:
    """Start the capsule, which runs jobs as often as it is asked; it ends when this process does."""
    capsule = subprocess.Popen(
        [python, str(_CAPSULE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    atexit.register(capsule.communicate)
    return capsule

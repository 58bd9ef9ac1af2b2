"""Released wrappers on our job files, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.analysis.code_ocean import WRAPPER, CodeOceanGateway

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
    stderr : str
        Its log.
    """

    given: list[dict[str, Any]]
    records: list[dict[str, Any]]
    skipped: list[str]
    stderr: str

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
    python: str = sys.executable,
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
    done = subprocess.run(
        [python, str(_CAPSULE), f"--input_directory={data}", *flags],
        env={
            **os.environ,
            **server.environment(),
            "CO_CAPSULE_ID": WRAPPER,
            "WRAPPER_RESULTS": str(results),
            "WRAPPER_FIELDS": json.dumps(fields),
            **(env or {}),
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    given = json.loads((results / "given.json").read_text())
    records = [json.loads((results / f"{number}.json").read_text()) for number in range(1, len(given) + 1)]
    skipped = [path.name.removeprefix("skip_") for path in results.glob("skip_*")]
    return Ran(given, records, skipped, done.stderr)

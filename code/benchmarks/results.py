"""Time what `job-dispatch run` adds to each job, and `job-dispatch status` on many jobs.

    python -m benchmarks.results --jobs=1000 --status=10000

The overhead is the computing of all processes of a run, without that of a run in which no job is left, per job.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

COMMAND = (sys.executable, "-c", "from job_dispatch.main import run; run()")


def write_jobs(folder: Path, number: int) -> list[str]:
    """Write job files and return their names."""
    folder.mkdir(parents=True)
    names = [str(uuid.uuid5(uuid.NAMESPACE_URL, str(place))) for place in range(number)]
    for name in names:
        content = {"s3_location": [f"s3://b/{name}"], "asset_name": [name], "docdb_record_id": [name]}
        (folder / f"{name}.json").write_text(json.dumps(content))
    return names


def timed(folder: Path, *arguments: str) -> tuple[float, float]:
    """Return the seconds and the seconds of computing that a command takes, its children included."""
    before, start = os.times(), time.perf_counter()
    subprocess.run(
        [*COMMAND, *arguments], cwd=folder, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    after = os.times()
    computing = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - start, computing


def time_run(folder: Path, jobs: int) -> None:
    """Print the overhead per job."""
    write_jobs(folder / "results" / "0", jobs)
    (folder / "analysis.py").write_text("import time\ndef analyse(job, parameters, results):\n    time.sleep(0.01)\n")
    seconds, computing = timed(folder, "run", "analysis.py", "results", "--workers=2")
    idle_seconds, idle_computing = timed(folder, "run", "analysis.py", "results", "--workers=2")
    print(
        f"run: {jobs:,} jobs of 10 ms in {seconds:.1f} s;"
        f" per job {(computing - idle_computing) / jobs * 1000:.0f} ms of computing"
        f" and {(seconds - idle_seconds) * 2 / jobs * 1000:.0f} ms on one of two workers"
    )


def time_status(folder: Path, jobs: int) -> None:
    """Print how long `status` takes on jobs that are all done."""
    names = write_jobs(folder / "results" / "0", jobs)
    (folder / "analysis.py").write_text("def analyse(job, parameters, results):\n    pass\n")
    subprocess.run(
        [*COMMAND, "run", "analysis.py", f"results/0/{names[0]}.json"], cwd=folder, check=True, capture_output=True
    )
    [note] = (folder / "analysis_results").glob(".jobs.*.json")
    note.write_text(json.dumps(json.loads(note.read_text()) | {"jobs": [str(folder / "results")]}))
    record = json.loads((folder / "analysis_results" / names[0] / "job.json").read_text())
    for name in names[1:]:
        (folder / "analysis_results" / name).mkdir()
        digest = hashlib.sha256((folder / "results" / "0" / f"{name}.json").read_bytes()).hexdigest()
        text = json.dumps(record | {"job": name, "asset_name": [name], "job_file": digest}, indent=4)
        (folder / "analysis_results" / name / "job.json").write_text(text)
    seconds, computing = timed(folder, "status")
    print(f"status: {jobs:,} jobs in {seconds:.1f} s, {computing:.1f} s of computing")


def main() -> None:
    """Run both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000)
    parser.add_argument("--status", type=int, default=10_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        time_run(Path(folder) / "run", arguments.jobs)
    with tempfile.TemporaryDirectory() as folder:
        time_status(Path(folder) / "status", arguments.status)


if __name__ == "__main__":
    main()

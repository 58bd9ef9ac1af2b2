"""A random campaign against the command: `make attack SECONDS=600`.

Each round makes a random tree of files in S3 and records of it in DocDB, on stand-ins that fail at random, and kills
some of the runs at a random moment. A run may end in two ways alone: with all jobs that an independent look at the keys
expects, or without any job and with a sentence. After that a run without faults must give all jobs.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import CODE
from tests.gateway import Fault, Gateway
from tests.s3_front import ACCESS_DENIED, EXPIRED_TOKEN, SLOW_DOWN, RecordedRequest, S3Front

BUCKET = "attacked"
STORES = (".zarr", ".n5", ".nwb")
FOLDERS = ("a", "b c", "ü", "raw", "deep", "x.zarr", "y.nwb", "z.n5", "0", "data%20")
FILES = ("one.csv", "two.csv", "notes.txt", "é.csv", ".hidden.csv", "x+y.csv", "A.CSV", "0")
EMPTY = '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
S3_FAULTS = (
    SLOW_DOWN,
    ACCESS_DENIED,
    EXPIRED_TOKEN,
    Fault(500, "busy"),
    Fault(reset=True),
    Fault(truncate=True),
    Fault(200, "<html>Sign in</html>"),
    Fault(200, "<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"),
    Fault(200, f"{EMPTY}<IsTruncated>true</IsTruncated></ListBucketResult>"),
    Fault(200, "<ListBucketResult/>"),
    Fault(200, ""),
)
DOCDB_FAULTS = (
    Fault(503),
    Fault(500, "busy"),
    Fault(reset=True),
    Fault(truncate=True),
    Fault(200, "<html>"),
    Fault(200, '{"message": "accepted"}'),
    Fault(200, b"\x1f\x8b garbage", {"Content-Encoding": "gzip"}),
    Fault(403, "no"),
)
MOST_SECONDS = 300
ROUNDS_AT_ONCE = 8


# What obstore takes for the end of a listing.
NO_LISTINGS = (
    "<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>",
    "<Error/>",
    "<ListBucketResult/>",
    '<html xmlns="http://www.w3.org/1999/xhtml"><body/></html>',
)


class Front(S3Front):
    """Fails with a chance, breaks every answer about one asset, or gives no listing after a full page of some."""

    def __init__(self, keys: set[str], chance: random.Random) -> None:
        super().__init__({BUCKET: keys})
        self.chance, self.rate, self.broken, self.late_rate = chance, 0.0, "", 0.0

    def respond(self, method: str, bucket: str, asked: Mapping[str, list[str]]) -> tuple[int, str]:
        if {"start-after", "continuation-token"} & set(asked) and self.chance.random() < self.late_rate:
            return 200, self.chance.choice(NO_LISTINGS)
        return super().respond(method, bucket, asked)

    def fault_of(self, request: RecordedRequest) -> Fault:
        is_broken = bool(self.broken) and request.prefix.startswith(self.broken)
        if is_broken or self.chance.random() < self.rate:
            return self.chance.choice(S3_FAULTS)
        return Fault()


@dataclass
class Round:
    """One random world, and what a run in it must give."""

    chance: random.Random
    folder: Path

    def __post_init__(self) -> None:
        self.names = [f"asset-{number}" for number in range(self.chance.choice([1, 2, 7, 30]))]
        self.keys = {f"{name}/{path}" for name in self.names for path in self._tree()}

    def _tree(self) -> set[str]:
        chance = self.chance
        if chance.random() < 0.1:
            return {
                f"{folder}/{number:05}.csv"
                for folder in chance.sample(FOLDERS[:5], chance.choice([1, 1, 3]))
                for number in range(chance.choice([999, 1000, 1500, 2500]))
            }
        paths = set()
        for _ in range(chance.choice([0, 1, 5, 40])):
            folders = [chance.choice(FOLDERS) for _ in range(chance.choice([0, 0, 1, 2, 4]))]
            paths.add("/".join([*folders, chance.choice(FILES)]))
        return paths

    @property
    def expected(self) -> set[str]:
        """The files that are asked for, from the keys alone: `.csv`, not inside a store."""
        split = ((key, key.split("/")) for key in self.keys)
        return {
            f"s3://{BUCKET}/{key}"
            for key, parts in split
            if parts[-1].endswith(".csv") and not any(part.endswith(STORES) for part in parts[1:-1])
        }

    @property
    def records(self) -> list[dict[str, Any]]:
        return [{"_id": name, "name": name, "location": f"s3://{BUCKET}/{name}"} for name in self.names]

    def start(self, environment: Mapping[str, str], host: str) -> subprocess.Popen[str]:
        (self.folder / "data").mkdir(exist_ok=True)
        flags = [
            f"--docdb_host={host}",
            f"--input_directory={self.folder / 'data'}",
            f"--output_directory={self.folder / 'results'}",
            "--docdb_query={}",
            "--docdb_timeout=10",
            "--file_extension=.csv",
            "--overwrite=1",
        ]
        return subprocess.Popen(
            [sys.executable, str(CODE / "run_capsule.py"), *flags],
            env={**os.environ, **environment},
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def jobs(self) -> list[str]:
        """The files of all jobs in worker folders."""
        paths = (self.folder / "results").glob("[0-9]*/*.json")
        return [file for path in paths for file in json.loads(path.read_text())["file_location"]]

    def judge(self, code: int, stderr: str, sent: int = 0) -> str:
        """Return how a run ended; raise AssertionError where that is no allowed end.

        `sent` is the signal that it got.
        """
        jobs = self.jobs()
        assert code in (0, 1, 2, -sent, 128 + sent), f"exit code {code}, after signal {sent}: {stderr}"
        assert code < 0 or "Traceback" not in stderr, f"a traceback: {stderr}"
        if jobs:
            assert sorted(jobs) == sorted(self.expected), f"{len(jobs)} jobs instead of {len(self.expected)}"
            assert code not in (1, 2), f"all jobs, and exit code {code}"
            return "all jobs" if code == 0 else "all jobs, then killed"
        left = list((self.folder / "results").glob("*")) if (self.folder / "results").exists() else []
        if code < 0:  # by SIGKILL, or before a line of the command was run
            assert code == -signal.SIGKILL or not left, f"left behind: {left}"
            return "no job, killed without a word"
        assert not left, f"left behind: {left}"
        if code == 0:
            raise AssertionError("exit code 0 without a job")
        assert "error: " in stderr, f"exit code {code} without a sentence: {stderr}"
        return "no job, killed" if code > 128 else f"no job, exit code {code}"


def attack(round_: Round, gateway: Gateway) -> list[str]:
    """Run once with faults and once without; return how they ended."""
    chance = round_.chance
    gateway.reset()
    gateway.records = round_.records
    with Front(round_.keys, random.Random(chance.random())) as front:
        environment = {**front.environment, "REQUESTS_CA_BUNDLE": str(gateway.ca_path)}
        front.rate = chance.choice([0, 0, 0.02, 0.3])
        front.broken = f"{chance.choice(round_.names)}/" if chance.random() < 0.2 else ""
        front.late_rate = chance.choice([0, 0.1, 0.5, 1])
        rate = chance.choice([0, 0, 0.3])

        def fail(_: object) -> Fault | None:
            gateway.faults.append(fail)
            return chance.choice(DOCDB_FAULTS) if chance.random() < rate else None

        gateway.faults = [fail]
        process = round_.start(environment, gateway.host)
        number = chance.choice([None, None, signal.SIGTERM, signal.SIGINT, signal.SIGKILL, 40])
        if number is not None:
            # Before it has begun, the interpreter alone answers to a signal.
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            while process.poll() is None and not children.read_text():
                time.sleep(0.01)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(chance.uniform(0.05, 3))
            process.send_signal(number)
        _, stderr = process.communicate(timeout=MOST_SECONDS)
        time.sleep(0.5 * (process.returncode == -signal.SIGKILL))  # the kernel ends the working process a moment later
        ends = [round_.judge(process.returncode, stderr, number or 0)]
        front.rate, front.broken, front.late_rate, gateway.faults = 0.0, "", 0.0, []
        process = round_.start(environment, gateway.host)
        _, stderr = process.communicate(timeout=MOST_SECONDS)
        end = round_.judge(process.returncode, stderr)
        wanted = "all jobs" if round_.expected else "no job, exit code 2"
        assert end == wanted, f"without faults: {end}: {stderr}"
        return ends


def main() -> int:
    parser = argparse.ArgumentParser(description="Attack the command at random, and count how its runs end.")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="of the first round")
    given = parser.parse_args()
    seeds, until = itertools.count(given.seed), time.monotonic() + given.seconds

    def attack_until_the_end(_: int) -> list[list[str]]:
        rounds: list[list[str]] = []
        with tempfile.TemporaryDirectory() as scratch, Gateway(Path(scratch)) as gateway:
            while time.monotonic() < until:
                seed, folder = next(seeds), Path(scratch, "round")
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                try:
                    rounds.append(attack(Round(random.Random(seed), folder), gateway))
                except (AssertionError, subprocess.TimeoutExpired) as error:
                    rounds.append(["failed"])
                    print(f"seed {seed}: {error}", flush=True)
        return rounds

    # A run that meets faults mostly waits before it tries again.
    with ThreadPoolExecutor(ROUNDS_AT_ONCE) as threads:
        rounds = list(itertools.chain(*threads.map(attack_until_the_end, range(ROUNDS_AT_ONCE))))
    ends = collections.Counter(itertools.chain(*rounds))
    print(f"{len(rounds)} rounds, {ends['failed']} failed")
    print(*(f"{number:6}  {end}" for end, number in ends.most_common()), sep="\n")
    return 1 if ends["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())

"""Measures this dispatcher beside the public one, prints tables and writes them as JSON.

python -m benchmarks.run [--quick] [--only listing dispatch …] [--latency 0.04] [--repeat 3]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import catalog, places, processed, processes, simulated
from benchmarks.endpoint import Endpoint
from benchmarks.metadata import MetadataServer, query
from benchmarks.shapes import SHAPES, keys_of, least_requests, total
from job_dispatch.storage.keys import PAGE_SIZE

_RESULTS = Path(__file__).resolve().parent / "results.json"
_CONCURRENCY = 256
# (shape, assets, assets that the peer lists: it is slow, and takes as long for each)
_LISTED = (
    ("behaviour", 200, 200),
    ("ephys", 5, 2),
    ("light-sheet", 2, 1),
    ("flat", 3_000, 300),
    ("many-stores", 1, 1),
    ("deep", 1, 1),
    ("light-sheet", 10, 0),
    ("tiffs", 10, 1),
    ("behaviour", 3_000, 0),
    ("raw-light-sheet", 1, 1),
    ("raw-light-sheet", 10, 1),
    ("one-folder", 1, 1),
    ("uuids", 1, 0),
    ("dates", 1, 0),
    ("words", 1, 0),
    ("digests", 1, 0),
    ("milliseconds", 1, 0),
    ("two-kinds", 1, 0),
    ("long-names", 1, 0),
    ("unicode", 1, 0),
    ("unpadded", 1, 0),
    ("subjects", 1, 0),
    ("one-folder", 10, 0),
    ("uuids", 10, 0),
    ("million", 1, 0),
    ("skewed", 1, 0),
    ("huge-before-small", 1, 0),
    ("chain", 1, 0),
    ("wide-chain", 1, 0),
    ("folders-of-400", 1, 0),
    ("folders-of-400", 10, 0),
    ("folders-of-1700", 1, 0),
    ("folders-of-1700", 10, 0),
    ("hex-folders", 1, 0),
    ("stores-between", 1, 0),
    ("sessions", 1, 0),
    ("sessions", 20, 0),
    ("flat+one-folder", 3_000, 0),
    ("light-sheet+one-folder+raw-light-sheet+flat+deep", 4, 0),
    ("ten-million", 1, 0),
)
# Stores whose objects are all listed for their sizes; the peer has nothing like it.
_MEASURED = (("large-stores", 1), ("store", 1), ("store-of-10", 1), ("store-of-1000", 1))
_BARE_REQUESTS = 500
_DISPATCHED = (
    ("flat", 200, 200),
    ("flat", 1_000, 0),
    ("flat", 3_000, 0),
    ("behaviour", 200, 200),
    ("light-sheet", 2, 2),
)
_PARAMETERS: dict[str, Any] = {
    "fixed_parameters": {"analysis_name": "benchmark", "cutoff": 0.05},
    "distributed_parameters": [{"method": "isolation_distance"}, {"method": "amplitude_cutoff"}],
}
_JOBS_WRITTEN = 20_000
# (jobs, how many of them are processed already, the server)
_LOOKED_UP = (
    (500, "none", processed.NoneDone),
    (500, "all", processed.AllDone),
    (10_000, "all", processed.AllDone),
)
_JOBS_OF_PEER = 500
_PEER_IMPORTS = "import analysis_pipeline_utils.utils_analysis_dispatch"
_NO_START = {"seconds": 0.0, "cpu": 0.0}

Row = dict[str, Any]


class Bench:
    """One run of the benchmarks: the servers, the environments, and how often each thing is measured."""

    def __init__(
        self, endpoint: Endpoint, metadata: MetadataServer, directory: Path, options: argparse.Namespace
    ) -> None:
        self._endpoint, self._directory = endpoint, directory
        self._results = directory / "results"
        self._environment = processes.environment(endpoint.url, metadata.host, metadata.ca_path)
        self._repeat, self._latency, self._quick = options.repeat, options.latency, options.quick
        self._peer = "" if options.no_peer else processes.peer_python()
        (directory / "analysis_parameters.json").write_text(json.dumps(_PARAMETERS))

    def versions(self) -> Row:
        """Return what is compared, and where."""
        ours = processes.versions(sys.executable, ["obstore", "boto3", "pydantic"])
        peer = processes.versions(self._peer, ["analysis-pipeline-utils", "s3fs", "aiobotocore"]) if self._peer else {}
        return {"python": platform.python_version(), "cpus": os.cpu_count(), **ours, **peer}

    def listing(self) -> list[Row]:
        """List assets through both public interfaces; imports are done before the clock starts."""
        rows = []
        for shape, count, peer_count in self._chosen(_LISTED):
            ours = self._median(lambda: self._list(sys.executable, "ours", shape, count))  # noqa: B023
            keys = total(shape, count, lambda one: len(keys_of(one)))
            row: Row = {"assets": f"{shape}:{count}", "keys": keys, "ours": ours}
            row["least"] = total(shape, count, least_requests)
            row["limit"] = self._least_seconds(shape.partition("+")[0], min(row["least"], ours["requests"]))
            row["times_limit"] = ours["seconds"] / row["limit"]
            row["ms_cpu_a_request"] = 1_000 * ours["cpu"] / ours["requests"]
            if self._peer and peer_count:
                peer = self._list(self._peer, "peer", shape, peer_count)
                if peer["files"] * count != ours["files"] * peer_count:
                    raise RuntimeError(f"{shape}: the peer finds {peer['files']} files in {peer_count} assets")
                row["peer"] = _scaled(peer, count / peer_count, _NO_START)
                row["ratio"] = row["peer"]["seconds"] / ours["seconds"]
            rows.append(row)
            print(_line(row), flush=True)
        return rows

    def _least_seconds(self, shape: str, requests: int) -> float:
        """Return the least possible: round trips with all slots full, and obstore's CPU on all cores."""
        bare = self._list(sys.executable, "ours", shape, _BARE_REQUESTS, "bare")
        computing = requests * bare["cpu"] / _BARE_REQUESTS / (os.cpu_count() or 1)
        return float(max(requests / _CONCURRENCY, 1) * self._latency + computing)

    def measuring(self) -> list[Row]:
        """Find out the sizes of stores, for which all their objects are listed."""
        rows = []
        for shape, count in _MEASURED:
            ours = self._median(lambda: self._list(sys.executable, "ours", shape, count, "measure"))  # noqa: B023
            keys = count * len(keys_of(shape))
            row: Row = {"assets": f"{shape}:{count}", "keys": keys, "ours": ours}
            row["least"] = -(-keys // PAGE_SIZE)
            row["limit"] = self._least_seconds(shape, row["least"])
            row["times_limit"] = ours["seconds"] / row["limit"]
            rows.append(row)
            print(_line(row), flush=True)
        return rows

    def simulated(self) -> list[Row]:
        """List the same assets on a simulated server, but for the ten million files, which take minutes."""
        rows = []
        listed = [(shape, count, False) for shape, count, _ in self._chosen(_LISTED) if shape != "ten-million"]
        for shape, count, is_measured in (*listed, *((shape, count, True) for shape, count in _MEASURED)):
            taken = simulated.simulate(shape, count, is_measured)
            least = simulated.least(shape, count, is_measured)
            row: Row = {"assets": f"{shape}:{count}", "least": least, **taken._asdict()}
            rows.append(row)
            line = f"{row['assets']:<22.22}{taken.seconds:>8.3f}{taken.requests:>8,}{least:>8,}"
            print(f"{line}{taken.requests / least:>6.2f}{taken.mean_seconds:>8.3f} s on average", flush=True)
        return rows

    def _list(self, python: str, side: str, shape: str, count: int, what: str = "list") -> Row:
        self._endpoint.counts()
        done = processes.run([python, "-m", f"benchmarks.{side}", what, shape, str(count)], self._environment)
        counts = self._endpoint.counts()
        return {**done.answer, "requests": counts["list"], "other": counts["other"], "in_flight": counts["in_flight"]}

    def dispatch(self) -> list[Row]:
        """From a query to the files of all jobs × 2 parameter sets, as whole processes."""
        rows: list[Row] = []
        peers: dict[str, tuple[int, Row]] = {}
        start = self._start_of_peer() if self._peer else _NO_START
        for shape, count, peer_count in self._chosen(_DISPATCHED):
            ours = self._median(lambda: self._dispatch(self._our_command(shape, count)))  # noqa: B023
            row: Row = {"assets": f"{shape}:{count}", "ours": ours}
            if self._peer and peer_count:
                peers[shape] = peer_count, self._dispatch(self._peer_command(shape, peer_count))
            if not rows:  # one shape by the Python functions as well
                row["library"] = self._median(lambda: self._dispatch(self._library_command(shape, count)))  # noqa: B023
                told = "{seconds:.2f} s, {cpu:.2f} s of CPU, {peak:.0f} MB".format
                print(f"by the library: {told(**row['library'])}; by the command: {told(**ours)}")
            if shape in peers:
                listed, peer = peers[shape]
                row["peer"] = _scaled(peer, count / listed, start)
                row["ratio"] = row["peer"]["seconds"] / ours["seconds"]
            rows.append(row)
            print(_line(row), flush=True)
        return rows

    def processed(self) -> list[Row]:
        """Leave out what is processed already, as whole processes."""
        rows = []
        for jobs, done, handler in _LOOKED_UP:
            directory = self._directory / f"{jobs}-{done}"
            directory.mkdir()
            with MetadataServer(directory, self._latency, handler) as server:
                row = self._processed(jobs // 10 if self._quick else jobs, done, server)
            rows.append(row)
            peer = f"{row['peer']['seconds']:>10.1f} s of the peer{row['ratio']:>8.0f} ×" if "peer" in row else ""
            print(f"{row['jobs']:>6,} jobs, {done} done{row['ours']['seconds']:>8.2f} s{peer}", flush=True)
        return rows

    def _processed(self, jobs: int, done: str, server: MetadataServer) -> Row:
        sets = len(_PARAMETERS["distributed_parameters"])
        asked, results = query("flat", jobs // sets), self._directory / "unprocessed"
        found = {**self._environment, "REQUESTS_CA_BUNDLE": str(server.ca_path), **processed.environment(server.host)}
        directories = [f"--input_directory={self._directory}", f"--output_directory={results}"]
        flags = [f"--docdb_query={asked}", "--skip_processed=1", "--tasks_per_job=1", *directories]
        expected = 0 if done == "all" else jobs

        def measure(command: list[str]) -> Row:
            ran = processes.run(command, found)
            if (written := sum(1 for _ in results.glob("*/*.json"))) != expected:
                raise RuntimeError(f"{' '.join(command)}: {written} jobs instead of {expected}")
            if results.exists():
                results.rename(self._directory / f"results-{time.monotonic_ns()}")
            return {"seconds": ran.seconds, "cpu": ran.cpu, "peak": ran.peak}

        row: Row = {"jobs": jobs, "done": done}
        row["ours"] = self._median(lambda: measure([sys.executable, "run_capsule.py", *flags]))
        if self._peer and jobs <= _JOBS_OF_PEER:
            command = [self._peer, "-m", "benchmarks.peer", "unprocessed", asked, str(self._directory), str(results)]
            row["peer"] = measure(command)
            row["ratio"] = row["peer"]["seconds"] / row["ours"]["seconds"]
        return row

    def _start_of_peer(self) -> dict[str, float]:
        runs = [processes.run([self._peer, "-c", _PEER_IMPORTS], self._environment) for _ in range(3)]
        return {"seconds": min(run.seconds for run in runs), "cpu": min(run.cpu for run in runs)}

    def _our_command(self, shape: str, count: int) -> list[str]:
        return [
            sys.executable,
            "run_capsule.py",
            f"--docdb_query={query(shape, count)}",
            f"--file_extension={SHAPES[shape].ending}",
            f"--input_directory={self._directory}",
            f"--output_directory={self._results}",
        ]

    def _library_command(self, shape: str, count: int) -> list[str]:
        command = [sys.executable, "-m", "benchmarks.library"]
        return [*command, query(shape, count), SHAPES[shape].ending, str(self._directory)]

    def _peer_command(self, shape: str, count: int) -> list[str]:
        ending, asked = SHAPES[shape].ending, query(shape, count)
        directories = [str(self._directory), str(self._results)]
        return [self._peer, "-m", "benchmarks.peer", "dispatch", ending, asked, *directories]

    def _dispatch(self, command: list[str]) -> Row:
        self._endpoint.counts()
        done = processes.run(command, self._environment)
        counts = self._endpoint.counts()
        jobs = sum(1 for _ in self._results.glob("*/*.json"))
        # Kept until the end: making files is slow for a minute after others were removed (see `ours.py`).
        self._results.rename(self._directory / f"results-{time.monotonic_ns()}")
        measured = {"seconds": done.seconds, "cpu": done.cpu, "peak": done.peak, "jobs": jobs}
        return {**measured, "requests": counts["list"], "other": counts["other"], "in_flight": counts["in_flight"]}

    def writing(self) -> Row:
        """Write jobs, beside creating files of the same bytes on the same disk."""
        jobs = _JOBS_WRITTEN // 10 if self._quick else _JOBS_WRITTEN
        directory = str(self._directory / "written")
        command = [sys.executable, "-m", "benchmarks.ours", "write", directory, str(jobs), str(self._repeat)]
        row = processes.run(command, self._environment).answer
        row["of_bare"] = statistics.median(bare / ours for bare, ours in zip(row["bare"], row["written"], strict=True))
        written, bare = (statistics.median(row[side]) for side in ("written", "bare"))
        print(f"{row['jobs']:,} jobs: {written:.2f} s, bare files {bare:.2f} s: {row['of_bare']:.2f} of their speed")
        return row

    def catalog(self) -> Row:
        """Ask a large catalog for one subject, beside the code of version 0.1."""
        return catalog.measure(self._directory, self._environment, self._quick)

    def places(self) -> Row:
        """Make records of the assets in a folder and in a bucket."""
        return places.measure(self._directory, self._environment, self._endpoint.url, self._quick)

    def balance(self) -> Row:
        """Share log-normal sizes (sigma 2) of 500 jobs over 50 folders: heaviest folder by the least possible."""
        row = processes.run([sys.executable, "-m", "benchmarks.ours", "balance"], self._environment).answer
        for by, ratio in row.items():
            print(f"{by:<30} {ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f}) × the least possible")
        return row

    def start(self) -> dict[str, float]:
        """Start processes that do nothing yet."""
        modules = ("job_dispatch.cohort.selecting", "job_dispatch.metadata.docdb", "job_dispatch.storage.s3")
        commands = {
            "bare interpreter": [sys.executable, "-c", "pass"],
            "--help": [sys.executable, "run_capsule.py", "--help"],
            "all imports of a dispatch": [sys.executable, "-c", f"import {', '.join(modules)}"],
        }
        if self._peer:
            commands["imports of the peer"] = [
                self._peer,
                "-c",
                "import analysis_pipeline_utils.utils_analysis_dispatch",
            ]
        seconds = {}
        for name, command in commands.items():
            runs = [processes.run(command, self._environment).seconds for _ in range(self._repeat)]
            seconds[name] = statistics.median(runs)
            print(f"{name:<26} {seconds[name]:.2f} s")
        return seconds

    def _median(self, measure: Callable[[], Row]) -> Row:
        """Measure several times; return the run with the median of seconds, and the seconds of all."""
        runs = sorted((measure() for _ in range(self._repeat)), key=lambda run: run["seconds"])
        return {**runs[len(runs) // 2], "all_seconds": [run["seconds"] for run in runs]}

    def _chosen(self, rows: Sequence[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
        if not self._quick:
            return list(rows)
        return [(shape, -(-count // 10), min(peer, -(-count // 10))) for shape, count, peer in rows]


def _scaled(run: Row, factor: float, start: dict[str, float]) -> Row:
    """Return what a run takes for more of the same assets; its start is counted once."""
    if factor == 1:
        return {**run, "is_scaled": False}
    scaled = {what: start[what] + (run[what] - start[what]) * factor for what in start}
    return {**run, **scaled, "requests": round(run["requests"] * factor), "is_scaled": True}


_HEADER = (
    f"{'':<22}{'ours':>52}{'peer (~: scaled)':>42}\n"
    f"{'assets':<22}{'s':>8}{'LIST':>8}{'least':>8}{'×':>6}{'CPU s':>8}{'MB':>6}{'× limit':>8}"
    f"{'s':>12}{'LIST':>8}{'CPU s':>9}{'MB':>6}{'ratio':>8}{'CPU ratio':>11}"
)


def _line(row: Row) -> str:
    ours, peer = row["ours"], row.get("peer")
    line = f"{row['assets']:<22.22}{ours['seconds']:>8.3f}{ours['requests']:>8,}"
    line += f"{row['least']:>8,}{ours['requests'] / row['least']:>6.2f}" if "least" in row else " " * 14
    line += f"{ours['cpu']:>8.2f}{ours['peak']:>6.0f}"
    line += f"{row['times_limit']:>8.1f}" if "times_limit" in row else " " * 8
    if peer is None:
        return line
    seconds = f"{'~' * peer['is_scaled']}{peer['seconds']:.1f}"
    line += f"{seconds:>12}{peer['requests']:>8,}{peer['cpu']:>9.1f}{peer['peak']:>6.0f}{row['ratio']:>8.0f}"
    return line + f"{peer['cpu'] / ours['cpu']:>11.0f}"


_SECTIONS = {
    "writing": ("Writing", False),
    "listing": ("Listing: imports done before the clock starts", True),
    "measuring": ("Sizes of stores (--balance=size), whose objects are all listed", True),
    "simulated": ("On a simulated server: seconds, requests, least, ratio", False),
    "dispatch": ("Dispatching: whole processes, from the query to files × 2 parameter sets", True),
    "processed": ("Leaving out what is processed already: whole processes", False),
    "catalog": ("A catalog of 200,000 records, one subject asked for: imports done before the clock starts", False),
    "places": ("Places: a folder of sessions, a bucket with a metadata file per asset", False),
    "balance": (
        "Balance: the heaviest of 50 folders, 500 jobs of log-normal sizes (sigma 2), median of 50 seeds",
        False,
    ),
    "start": ("Start of a process", False),
}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the assets, each once")
    parser.add_argument("--only", nargs="+", choices=_SECTIONS, default=list(_SECTIONS))
    parser.add_argument("--no_peer", action="store_true", help="this dispatcher alone")
    parser.add_argument("--latency", type=float, default=0.04, help="seconds an answer takes (default: 0.04)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of ours, of which the median counts (default: 3)")
    options = parser.parse_args()
    options.repeat = 1 if options.quick else options.repeat
    return options


def main() -> None:
    """Measure what is asked for."""
    options = _options()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name, Endpoint(options.latency) as endpoint:
        directory = Path(name)
        with MetadataServer(directory, options.latency) as metadata:
            bench = Bench(endpoint, metadata, directory, options)
            results: Row = {"versions": bench.versions(), "latency": options.latency, "concurrency": _CONCURRENCY}
            print(", ".join(f"{name} {version}" for name, version in results["versions"].items()))
            for section in options.only:
                title, is_table = _SECTIONS[section]
                print(f"\n{title}\n" + f"{_HEADER}" * is_table, flush=True)
                results[section] = getattr(bench, section)()
    _RESULTS.write_text(json.dumps(results, indent=4))
    print(f"\nAs JSON in {_RESULTS}, after {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()

"""The verbs of the console script: `run`, `status` and `collect`. The docstring of a verb is its help."""

from __future__ import annotations

import argparse
import inspect
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from job_dispatch.messages import DispatchError, RequestError, configure_logging, is_terminal, logger, naming_flags
from job_dispatch.results import analysis, gathering, records, running, states, status, table
from job_dispatch.results.gathering import Results
from job_dispatch.results.minding import Order, Outcome
from job_dispatch.results.states import Status

SUMMARY = Path("analysis_summary")
_SECONDS_BETWEEN_LINES = 10.0


def run(arguments: argparse.Namespace) -> int:
    """Run an analysis on the jobs of a dispatch on this machine.

    Each job runs in a process of its own. Its results are in analysis_results/<job>/: what the analysis wrote,
    log.txt with what it printed, and job.json if it is done or failed.json if it failed. Start it again to run what
    is not done: new jobs, failed ones, and those whose input, analysis or parameters changed.

    Exit code: 0 all jobs are done, 4 some failed, 3 none failed and some are left, 2 nothing could be run.
    """
    analysis.check_file(arguments.analysis)
    only = running.Only(arguments.only) if arguments.only else running.Only.OPEN
    order = Order(
        arguments.analysis.absolute(),
        arguments.output,
        analysis.settings(arguments.set),
        arguments.timeout * 60 if arguments.timeout else None,
        arguments.attempt,
        secrets.token_hex(8),
        arguments.metadata_catalog,
    )
    jobs = running.jobs_to_run(order, arguments.jobs, running.Only.ALL if arguments.again else only)
    shown = _Shown(len(jobs))
    for outcome in running.run(order, jobs, arguments.workers):
        shown.add(outcome)
    shown.close()
    results = gathering.gather(arguments.output)
    written = list(_write(results))
    for line in [*status.summary(results), *written]:
        print(line)
    return results.exit_code


class _Shown:
    """A line that tells how far a run is: on a terminal after each job, else every ten seconds."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = self._failed = 0
        self._began = self._told = time.monotonic()

    def add(self, outcome: Outcome) -> None:
        """Count a job that has ended."""
        if outcome.status == "taken":
            self._total -= 1
        self._done += outcome.status == "done"
        self._failed += outcome.status == "failed"
        now = time.monotonic()
        if is_terminal():
            print(f"\r\x1b[K{self._line(now)}", end="", file=sys.stderr, flush=True)
        elif now - self._told >= _SECONDS_BETWEEN_LINES:
            self._told = now
            logger.info("%s", self._line(now))

    def _line(self, now: float) -> str:
        ended = self._done + self._failed
        left = self._total - ended
        seconds = left * (now - self._began) / max(ended, 1)
        return f"{self._done:,} done, {self._failed:,} failed, {left:,} left, about {states.duration(seconds)}"

    def close(self) -> None:
        """Take the line off the terminal."""
        if is_terminal():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def show_status(arguments: argparse.Namespace) -> int:
    """Show which jobs are done, failed, running and left, and how long the rest will take.

    It works on the folder of `job-dispatch run` and on the folder that the Nextflow pipeline publishes.

    Exit code: 0 all jobs are done, 4 some failed, 3 none failed and some are left, 2 there is nothing to look at.
    """
    results = gathering.gather(arguments.folder)
    for line in [status.as_json(results)] if arguments.json else status.lines(results):
        print(line)
    return results.exit_code


def collect(arguments: argparse.Namespace) -> int:
    """Write the table and the page of all jobs again, and call the function summarise of an analysis.

    Exit code: as that of status; 1 if summarise failed.
    """
    results = gathering.gather(arguments.folder)
    written = list(_write(results))
    for line in [*status.summary(results), *written]:
        print(line)
    if arguments.summarise is not None:
        try:
            summarise(results, arguments.summarise)
        except (Exception, SystemExit) as error:
            if isinstance(error, DispatchError):
                raise
            traceback.print_exc()
            print(
                f"error: summarise over {len(results.of(Status.DONE))} jobs: {analysis.reason(error)}", file=sys.stderr
            )
            return 1
    return results.exit_code


def summarise(results: Results, path: Path) -> None:
    """Call the function `summarise(jobs, results)` of an analysis with the records of all jobs that are done."""
    done = [record for row in results.of(Status.DONE) if (record := records.read(row.folder)) is not None]
    function = analysis.load(path).function("summarise")
    if function is None:
        raise RequestError(f"{path}: no function summarise(jobs, results); see docs/results.md")
    SUMMARY.mkdir(exist_ok=True)
    function(done, SUMMARY.absolute())


def _write(results: Results) -> Iterator[str]:
    from job_dispatch.results import page  # Jinja takes 0.1 s, and status needs none of it

    yield f"table: {table.write(results, results.folder)}"
    yield f"page:  {page.write(results, results.folder)}"


def _workers(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 1")
    return int(text)


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of minutes above 0")
    return minutes


def _add_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "analysis",
        metavar="ANALYSIS",
        type=Path,
        help="Python file with the function analyse(job, parameters, results)",
    )
    add(
        "jobs", metavar="FOLDER", type=Path, nargs="+", help="output folder of a dispatch, worker folders, or job files"
    )
    add("--workers", metavar="N", type=_workers, default=running.cores(), help="jobs at a time (default: the cores)")
    add("--timeout", metavar="MINUTES", type=_minutes, help="end a job that takes longer, such as 0.5")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--only",
        choices=["failed", "new"],
        help="failed: failed and killed jobs; new: jobs never run, and changed ones",
    )
    which.add_argument("--again", action="store_true", help="run all jobs, also those that are done")
    add(
        "--set",
        metavar="name=value",
        nargs="+",
        action="extend",
        default=[],
        help="parameters for all jobs: over fixed ones, under distributed ones; JSON if it parses as JSON, else text",
    )
    add("--metadata_catalog", metavar="FILE", type=Path, help="give job.metadata whole records: from --save_catalog")
    add("--output", metavar="DIR", type=Path, default=gathering.FOLDER, help=f"default: ./{gathering.FOLDER}")
    add("--attempt", type=_workers, default=1, help=argparse.SUPPRESS)  # of a workflow manager that tries again


def _add_status(parser: argparse.ArgumentParser) -> None:
    _add_folder(parser)
    parser.add_argument("--json", action="store_true", help="print it as JSON, for programs")


def _add_collect(parser: argparse.ArgumentParser) -> None:
    _add_folder(parser)
    parser.add_argument("--summarise", metavar="ANALYSIS", type=Path, help="call its function summarise(jobs, results)")


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        type=Path,
        nargs="?",
        default=gathering.FOLDER,
        help=f"what `job-dispatch run` or the pipeline wrote (default: ./{gathering.FOLDER})",
    )


VERBS: Mapping[str, tuple[Callable[[argparse.Namespace], int], Callable[[argparse.ArgumentParser], None]]] = {
    "run": (run, _add_run),
    "status": (show_status, _add_status),
    "collect": (collect, _add_collect),
}


def parser(verb: str) -> argparse.ArgumentParser:
    """Return the parser of a verb."""
    function, add = VERBS[verb]
    made = argparse.ArgumentParser(
        prog=f"job-dispatch {verb}",
        description=inspect.getdoc(function),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add(made)
    return made


def main(verb: str, argv: Sequence[str]) -> int:
    """Run a verb and return its exit code."""
    arguments = parser(verb).parse_args(argv)
    configure_logging("INFO")
    with naming_flags({}):
        try:
            return VERBS[verb][0](arguments)
        except DispatchError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
        except OSError as error:
            print(f"error: {error.filename or 'the disk'}: {error.strerror}", file=sys.stderr)
            return 1


def clear(noted: Mapping[str, Any]) -> str:
    """Wait for the jobs of a run that was stopped, and tell how it stands."""
    logger.disabled = True
    if "results" not in noted:
        return "no job was started"
    results = Path(noted["results"])
    running.wait_for_the_end(results, noted["run"])
    counts = ", ".join(f"{number:,} {name}" for name, number in gathering.gather(results).counts.items() if number)
    return f"{counts}; start it again to run the rest"

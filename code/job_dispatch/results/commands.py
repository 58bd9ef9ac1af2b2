"""The verbs of the console script: `run`, `status` and `collect`. The docstring of a verb is its help."""

from __future__ import annotations

import argparse
import inspect
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from job_dispatch import failures
from job_dispatch.messages import RequestError, configure_logging, is_terminal, logger, naming_flags
from job_dispatch.results import analysis, gathering, records, running, status
from job_dispatch.results.gathering import Results, Status
from job_dispatch.results.running import Order, Outcome

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
    if arguments.output.exists() and not arguments.output.is_dir():
        raise RequestError(f"--output: {arguments.output} is no folder; give another one")
    order = Order(
        arguments.analysis.absolute(),
        arguments.jobs,
        arguments.output,
        arguments.workers,
        "all" if arguments.again else arguments.only,
        analysis.settings(arguments.set),
        arguments.timeout,
        arguments.attempt,
        arguments.metadata_catalog,
    )
    jobs = running.jobs_to_run(order)
    _show_progress(running.run(order, jobs), len(jobs))
    return _write(gathering.gather(arguments.output))


def _show_progress(outcomes: Iterator[Outcome], left: int) -> None:
    """Tell how far a run is: on a terminal in one line after each job, else every ten seconds."""
    done = failed = 0
    began = told = time.monotonic()
    for outcome in outcomes:
        left -= 1
        done += outcome.status == "done"
        failed += outcome.status == "failed"
        now = time.monotonic()
        rest = gathering.duration(left * (now - began) / max(done + failed, 1))
        line = f"{done:,} done, {failed:,} failed, {left:,} left, about {rest}"
        if is_terminal():
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
        elif now - told >= _SECONDS_BETWEEN_LINES:
            told = now
            logger.info("%s", line)
    if is_terminal():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _write(results: Results) -> int:
    """Write the table and the page, print the summary, and return the exit code."""
    from job_dispatch.results import page  # Jinja takes 0.1 s, and status needs none of it

    written = [f"table: {status.write_table(results)}", f"page:  {page.write(results)}"]
    for line in [*status.summary(results), *written]:
        print(line)
    return results.exit_code


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
    code = _write(results)
    if arguments.summarise is not None:
        done = [record for row in results.of(Status.DONE) if (record := records.read(row.folder)) is not None]
        summarise = analysis.load(arguments.summarise, "summarise(jobs, results)")
        SUMMARY.mkdir(exist_ok=True)
        try:
            summarise(done, SUMMARY.absolute())
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            print(f"error: summarise over {len(done)} jobs: {analysis.reason(error)}", file=sys.stderr)
            return 1
    return code


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
        default="open",
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


VERBS: Mapping[str, Callable[[argparse.Namespace], int]] = {"run": run, "status": show_status, "collect": collect}


def parser(verb: str) -> argparse.ArgumentParser:
    """Return the parser of a verb."""
    made = argparse.ArgumentParser(
        prog=f"job-dispatch {verb}",
        description=inspect.getdoc(VERBS[verb]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if verb == "run":
        _add_run(made)
        return made
    made.add_argument(
        "folder",
        metavar="FOLDER",
        type=Path,
        nargs="?",
        default=gathering.FOLDER,
        help=f"what `job-dispatch run` or the pipeline wrote (default: ./{gathering.FOLDER})",
    )
    if verb == "status":
        made.add_argument("--json", action="store_true", help="print it as JSON, for programs")
    else:
        made.add_argument(
            "--summarise", metavar="ANALYSIS", type=Path, help="call its function summarise(jobs, results)"
        )
    return made


def main(verb: str, argv: Sequence[str]) -> int:
    """Run a verb and return its exit code."""
    arguments = parser(verb).parse_args(argv)
    configure_logging("INFO")
    with naming_flags({}):
        try:
            return VERBS[verb](arguments)
        except BaseException as error:
            failure = failures.explained(error)
            print(f"error: {str(failure).removesuffix(failures.HOW_TO_SEE_WHERE)}", file=sys.stderr)
            return failure.exit_code


def clear(noted: Mapping[str, Any]) -> str:
    """Wait for the jobs of a run that was stopped, and tell how it stands."""
    logger.disabled = True
    if "results" not in noted:
        return "no job was started"
    results = Path(noted["results"])
    running.wait_for_the_end(results, noted["run"])
    counts = ", ".join(f"{number:,} {name}" for name, number in gathering.gather(results).counts.items() if number)
    return f"{counts}; start it again to run the rest"

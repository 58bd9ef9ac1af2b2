"""Run an analysis on every job of a folder.

An analysis is one Python file with a function `analyse(job, parameters, results)`: the job, its merged parameters,
and an empty folder for what it writes. It returns a dict of values for the table of all jobs, or None.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import math
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from job_dispatch.jobs.model import AnalysisDispatchModel

# In the folder that it is started in; each job has a folder of its own in it.
RESULTS = Path("analysis_results")
DONE = "job.json"
# The job's fields that say what was analysed; its parameters stand in `job.json` as they were merged.
_SUBJECT = {"s3_location", "asset_id", "asset_name", "docdb_record_id", "file_location", "group_metadata"}


class RefusedError(Exception):
    """What was asked for cannot be done for any job; exit code 2."""


class AnalysisError(Exception):
    """The analysis of one job did not do what an analysis must."""


@dataclass(frozen=True)
class Analysis:
    """The file of an analysis and what it defines."""

    path: Path
    module: ModuleType

    def function(self, name: str) -> Callable[..., Any] | None:
        """Return the function of that name, None where the file has none."""
        function = getattr(self.module, name, None)
        return function if callable(function) else None


def load(path: Path) -> Analysis:
    """Import the file of an analysis.

    Raises
    ------
    RefusedError
        It is no Python file that can be imported here.
    """
    sys.dont_write_bytecode = True  # the file may lie beside the jobs
    spec = importlib.util.spec_from_file_location("analysis", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise RefusedError(f"{path}: no such Python file; give the file that has the function analyse")
    module = importlib.util.module_from_spec(spec)
    sys.modules["analysis"] = module  # where dataclasses and pickle look for it
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        remedy = f"; install it for {sys.executable}" if isinstance(error, ImportError) else ""
        raise RefusedError(f"{path}: cannot be imported: {_reason(error)}{remedy}") from None
    return Analysis(path, module)


def settings(pairs: Iterable[str]) -> dict[str, Any]:
    """Return parameters from texts `name=value`; a value is JSON where it parses, else text.

    Raises
    ------
    RefusedError
        A text is no pair, or a name is given twice.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        name = name.strip()
        if not equals or not name:
            raise RefusedError(f"--set: {pair!r} is not name=value")
        if name in values:
            raise RefusedError(f"--set: {name} is given twice; keep one")
        values[name] = _value(text.strip())
    return values


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def run(analysis: Analysis, job_files: Sequence[Path], given: dict[str, Any]) -> list[str]:
    """Run the analysis on each job and return a line for each that failed.

    Parameters
    ----------
    analysis : Analysis
    job_files : sequence of pathlib.Path
        The folder `analysis_results/<name of the file>` is made for each, empty.
    given : dict
        Parameters that win over a job's fixed ones; its distributed ones win over both.

    Raises
    ------
    RefusedError
        The file has no function `analyse`.
    """
    from job_dispatch import failures
    from job_dispatch.jobs.model import AnalysisDispatchModel

    analyse = analysis.function("analyse")
    if analyse is None:
        raise RefusedError(f"{analysis.path}: no function analyse(job, parameters, results); see docs/pipeline.md")
    failed = []
    for path in job_files:
        subject = path.stem
        try:
            job = AnalysisDispatchModel.model_validate_json(path.read_bytes())
            subject = f"{path.stem} ({', '.join(job.asset_name)})"
            _run_one(analysis, analyse, job, path.stem, given)
        except BaseException as error:  # the next job is another piece of work; a signal ends the process at once
            traceback.print_exc()
            failed.append(f"{subject}: {_reason(failures.innermost(error))}")
    return failed


def _run_one(
    analysis: Analysis, analyse: Callable[..., Any], job: AnalysisDispatchModel, name: str, given: dict[str, Any]
) -> None:
    results = RESULTS / name
    if results.exists():
        shutil.rmtree(results)
    results.mkdir(parents=True)
    parameters = {**(job.fixed_parameters or {}), **copy.deepcopy(given), **(job.distributed_parameters or {})}
    record: dict[str, Any] = {"job": name, **job.model_dump(include=_SUBJECT, exclude_none=True)}
    record["parameters"] = copy.deepcopy(parameters)
    with contextlib.chdir("."):  # back from wherever the analysis has gone
        values = analyse(job, parameters, results.absolute())
    if values is not None and not isinstance(values, dict):
        raise AnalysisError(f"analyse returned {type(values).__name__}; it must return a dict of values, or None")
    if (results / DONE).exists():
        raise AnalysisError(f"the analysis wrote {DONE}, which is the record of the job; choose another name")
    record["values"] = values or {}
    record["versions"] = _versions(analysis.path)
    # Moved into place last: a job is done where it has this file.
    unfinished = results / f".{DONE}"
    unfinished.write_text(json.dumps(_plain(record), indent=4, allow_nan=False) + "\n", encoding="utf-8")
    unfinished.replace(results / DONE)


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it: arrays as lists, not-a-number as null, infinity as text."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None if math.isnan(value) else str(value)
    if value is None or isinstance(value, str | int):
        return value
    if callable(to_list := getattr(value, "tolist", None)):  # numpy's scalars and arrays
        return _plain(to_list())
    return str(value)


def _versions(analysis: Path) -> dict[str, str]:
    """Return versions of Python, of this project and of the packages that are loaded, and which analysis it was."""
    versions = {"python": sys.version.split()[0], analysis.name: f"sha256:{_sha256(analysis)}"}
    names = {name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names
    for name in ("aind-analysis-job-dispatch", *sorted(name for name in names if not name.startswith("_"))):
        if (version := _version(name)) is not None:
            versions[name] = version
    return versions


@functools.cache
def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None  # a module that is no package's, or that is named otherwise than its package


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, AnalysisError) else f"{type(error).__name__}: {text}"[:1_000]


def _job_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise RefusedError(f"{folder}: no such folder; give a folder of job files, such as results/0")
    if Path.cwd().resolve().is_relative_to(folder.resolve()):
        raise RefusedError(f"{folder}: results are written into the folder that this is started in; start it elsewhere")
    found = sorted(path for path in folder.iterdir() if path.suffix == ".json" and not path.name.startswith("."))
    if not found:
        raise RefusedError(f"{folder}: no job files (*.json) in it")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run_analysis.py",
        description=f"Run an analysis on every job of a folder; results go into ./{RESULTS}/<job>/.",
        allow_abbrev=False,
    )
    parser.add_argument("analysis", metavar="ANALYSIS", type=Path, help="Python file with the function analyse")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder with job files, such as results/0")
    parser.add_argument(
        "--set",
        metavar="name=value",
        nargs="+",
        action="extend",
        default=[],
        help="parameters for all jobs: over fixed ones, under distributed ones; JSON where it parses, else text",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 1 where jobs failed, 2 where none could be tried."""
    arguments = _parser().parse_args(argv)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # A KeyboardInterrupt is then one that the analysis itself has raised.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        job_files = _job_files(arguments.folder)
        given = settings(arguments.set)
        if importlib.util.find_spec("job_dispatch") is None:
            raise RefusedError(f"the job dispatcher is not installed for {sys.executable}: pip install its folder code")
        failed = run(load(arguments.analysis), job_files, given)
    except RefusedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if len(job_files) == 1 and failed:
        print(f"error: job {failed[0]}", file=sys.stderr)
    elif failed:
        print(f"error: {len(failed)} of {len(job_files)} jobs failed:", file=sys.stderr)
        print(*(f"  {line}" for line in failed), sep="\n", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

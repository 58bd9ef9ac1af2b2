"""The analysis file of a user: importing it, calling it on a job, and what was imported with it."""

from __future__ import annotations

import copy
import faulthandler
import importlib.metadata
import importlib.util
import json
import logging
import math
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from job_dispatch.messages import RequestError
from job_dispatch.results import records

_REASON_AT_MOST = 1_000


class AnalysisError(Exception):
    """An analysis did not do what an analysis must."""


def check_file(path: Path) -> None:
    """Raise a RequestError if this is no Python file, before any job is started."""
    if not path.is_file() or path.suffix != ".py":
        raise RequestError(f"{path}: no such Python file; give the file that has the function analyse")


def load(path: Path, signature: str) -> Callable[..., Any]:
    """Import an analysis file and return its function; the file can import modules and packages from its own folder.

    A RequestError is raised if it is no Python file, cannot be imported here, or has no such function.
    """
    check_file(path)
    sys.dont_write_bytecode = True  # the folder may be a folder of jobs
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location("analysis", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["analysis"] = module  # where dataclasses and pickle look for it
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        remedy = f"; install it for {sys.executable}" if isinstance(error, ImportError) else ""
        raise RequestError(f"{path}: cannot be imported: {reason(error)}{remedy}") from None
    function: Callable[..., Any] | None = getattr(module, signature.partition("(")[0], None)
    if not callable(function):
        raise RequestError(f"{path}: no function {signature}; see docs/results.md")
    return function


def work(
    path: Path, content: Mapping[str, Any], given: Mapping[str, Any], folder: Path, whole: Mapping[str, Any]
) -> dict[str, Any]:
    """Run the analysis on a job in this process, and return `files`, `versions`, and `values` or `error` and `where`.

    `content` is what the job file holds, `given` the parameters of `--set`, and `whole` are whole metadata records by
    `_id`. The folder of the job is made empty. The RequestError of `load` means that no job can run.
    """
    _begin_afresh()
    analyse = load(path, "analyse(job, parameters, results)")
    records.empty(folder)
    from job_dispatch.results.job import Job  # pydantic takes 0.2 s; `prepare` has loaded it

    told: dict[str, Any] = {}
    try:
        job = Job.model_validate(content).with_records(whole)
        values = analyse(job, merged(content, given), folder)
        if values is not None and not isinstance(values, dict):
            raise AnalysisError(f"analyse returned {type(values).__name__}; it must return a dict of values, or None")
        if written := [name for name in records.RECORDS if (folder / name).exists()]:
            raise AnalysisError(f"the analysis wrote {written[0]}, which is a record of the job; choose another name")
        told["values"] = plain(values or {})
    except BaseException as error:  # nothing but the analysis can raise one here
        traceback.print_exc()
        told["error"] = str(error) if isinstance(error, AnalysisError) else reason(error)
        told["where"] = _place(error, path.resolve().parent)
        records.remove(folder)
    return told | {"files": own_files(path), "versions": _versions()}


def _begin_afresh() -> None:
    """Undo what this project has set up for itself in the process from which this one was forked."""
    logging.getLogger().handlers.clear()
    logging.getLogger().setLevel(logging.WARNING)
    # By lines, so that a crash loses nothing that was printed.
    sys.stdout, sys.stderr = (
        open(number, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        for number in (1, 2)
    )
    faulthandler.enable()  # a crash writes to the log where it happened


def settings(pairs: Iterable[str]) -> dict[str, Any]:
    """Return parameters from texts `name=value`; a value is JSON if it parses as JSON, else text.

    >>> settings(["threshold=0.5", "method=fast"])
    {'threshold': 0.5, 'method': 'fast'}

    A RequestError is raised if a text is no pair, a name is given twice, or a number is too large.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = (part.strip() for part in pair.partition("="))
        if not equals or not name:
            raise RequestError(f"--set: {pair!r} is not name=value")
        if name in values:
            raise RequestError(f"--set: {name} is given twice; keep one")
        try:
            values[name] = json.loads(text, parse_constant=_refuse, parse_float=_finite)
        except (ValueError, RecursionError):
            values[name] = text
    return values


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _finite(text: str) -> float:
    if math.isinf(float(text)):
        raise RequestError(f"--set: {text} is infinity, which JSON cannot hold")
    return float(text)


def merged(job: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a job: fixed ones, then the given ones, then distributed ones; later ones win."""
    fixed, distributed = job.get("fixed_parameters") or {}, job.get("distributed_parameters") or {}
    return copy.deepcopy({**fixed, **given, **distributed})


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: arrays as lists, not-a-number as null, infinity as text.

    A ValueError is raised if two keys of a dict are the same as text.
    """
    if isinstance(value, dict):
        for key, number in Counter(map(str, value)).items():
            if number > 1:
                raise ValueError(f"two keys of a dict become {key!r} in JSON; rename one")
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None if math.isnan(value) else str(value)
    if value is None or isinstance(value, str | int):
        return value
    if callable(to_list := getattr(value, "tolist", None)):  # numpy's scalars and arrays
        return plain(to_list())
    return str(value)


def reason(error: BaseException) -> str:
    """Return why something failed, in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:_REASON_AT_MOST]


def _place(error: BaseException, folder: Path) -> str:
    """Return the innermost line of the user's own files that an error passed, "" if it passed none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_file() and path.resolve().is_relative_to(folder):
            return f"{path.name}:{frame.lineno} in {frame.name}"
    return ""


def own_files(path: Path) -> dict[str, str]:
    """Return the SHA-256 of the analysis file and of each module from its folder that is imported now."""
    folder = path.resolve().parent
    files = [Path(file) for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))]
    own = {file.resolve() for file in files if file.suffix == ".py"} | {path.resolve()}
    prefixes = {Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix)}
    return {
        str(file.relative_to(folder)): records.sha256(file)
        for file in sorted(own)
        if file.is_relative_to(folder) and not any(file.is_relative_to(one) for one in prefixes) and file.is_file()
    }


def _versions() -> dict[str, str]:
    """Return the versions of Python, of this project and of the packages that are imported now."""
    found = {"python": sys.version.split()[0]}
    names = {name.partition(".")[0] for name in list(sys.modules)} - sys.stdlib_module_names
    for name in ("aind-analysis-job-dispatch", *sorted(name for name in names if not name.startswith("_"))):
        try:
            found[name] = importlib.metadata.version(name)
        except (importlib.metadata.PackageNotFoundError, ValueError):
            continue  # a module that is no package's, or has another name than its package
    return found

"""The analysis file of a user: importing it, its parameters, and the versions of what it imports."""

from __future__ import annotations

import copy
import hashlib
import importlib.metadata
import importlib.util
import json
import math
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from job_dispatch.messages import RequestError

_REASON_AT_MOST = 1_000


@dataclass(frozen=True)
class Analysis:
    """An analysis file that was imported."""

    path: Path
    module: ModuleType

    def function(self, name: str) -> Callable[..., Any] | None:
        """Return the function of that name, None if the file has none."""
        function = getattr(self.module, name, None)
        return function if callable(function) else None


def check_file(path: Path) -> None:
    """Refuse what is not a Python file, before any job is started.

    Raises
    ------
    RequestError
    """
    if not path.is_file() or path.suffix != ".py":
        raise RequestError(f"{path}: no such Python file; give the file that has the function analyse")


def load(path: Path) -> Analysis:
    """Import an analysis file; it can import modules and packages from its own folder.

    Raises
    ------
    RequestError
        It is no Python file, or cannot be imported here.
    """
    check_file(path)
    sys.dont_write_bytecode = True  # the folder may be a folder of jobs
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location("analysis", path)
    if spec is None or spec.loader is None:
        raise RequestError(f"{path}: no such Python file; give the file that has the function analyse")
    module = importlib.util.module_from_spec(spec)
    sys.modules["analysis"] = module  # where dataclasses and pickle look for it
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        remedy = f"; install it for {sys.executable}" if isinstance(error, ImportError) else ""
        raise RequestError(f"{path}: cannot be imported: {reason(error)}{remedy}") from None
    return Analysis(path, module)


def settings(pairs: Iterable[str]) -> dict[str, Any]:
    """Return parameters from texts `name=value`; a value is JSON if it parses as JSON, else text.

    >>> settings(["threshold=0.5", "method=fast"])
    {'threshold': 0.5, 'method': 'fast'}

    Raises
    ------
    RequestError
        A text is no pair, or a name is given twice.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        name = name.strip()
        if not equals or not name:
            raise RequestError(f"--set: {pair!r} is not name=value")
        if name in values:
            raise RequestError(f"--set: {name} is given twice; keep one")
        values[name] = _value(text.strip())
    return values


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def merged(job: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a job: fixed ones, then the given ones, then distributed ones; later ones win."""
    parts = (job.get("fixed_parameters"), given, job.get("distributed_parameters"))
    return copy.deepcopy({name: value for part in parts for name, value in (part or {}).items()})


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: arrays as lists, not-a-number as null, infinity as text.

    Raises
    ------
    ValueError
        Two keys of a dict are the same as text.
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


def place(error: BaseException, folder: Path) -> str:
    """Return the innermost line of the user's own files that an error passed, "" if it passed none."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        one for one in frames if Path(one.filename).is_file() and Path(one.filename).resolve().is_relative_to(folder)
    ]
    return f"{Path(own[-1].filename).name}:{own[-1].lineno} in {own[-1].name}" if own else ""


def own_files(path: Path) -> dict[str, str]:
    """Return the SHA-256 of the analysis file and of each module from its folder that is imported now."""
    folder = path.resolve().parent
    files = [Path(file) for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))]
    own = {file.resolve() for file in files if file.suffix == ".py"} | {path.resolve()}
    prefixes = {Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix)}
    found = {
        str(file.relative_to(folder)): sha256(file)
        for file in own
        if file.is_relative_to(folder) and not any(file.is_relative_to(one) for one in prefixes) and file.is_file()
    }
    return dict(sorted(found.items()))


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of Python, of this project and of the packages that are imported now."""
    found = {"python": sys.version.split()[0]}
    names = {name.partition(".")[0] for name in list(sys.modules)} - sys.stdlib_module_names
    for name in ("aind-analysis-job-dispatch", *sorted(name for name in names if not name.startswith("_"))):
        try:
            found[name] = importlib.metadata.version(name)
        except (importlib.metadata.PackageNotFoundError, ValueError):
            continue  # a module that is no package's, or has another name than its package
    return found

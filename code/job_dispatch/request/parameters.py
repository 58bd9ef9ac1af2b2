"""The analysis parameters: fixed ones, and the sets that each make jobs of their own."""

from __future__ import annotations

import difflib
import itertools
import json
import math
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from job_dispatch.messages import RequestError, counted, logger, printable, warn_listing
from job_dispatch.request import json_text, literals
from job_dispatch.request.selection import PIPELINE_FOLDER, find_file

FILE_NAME = "analysis_parameters.json"
_FIXED, _DISTRIBUTED, _GRID, _ZIP = "fixed_parameters", "distributed_parameters", "parameter_grid", "parameter_zip"
_KEYS = (_FIXED, _DISTRIBUTED, _GRID, _ZIP)
_FORM = [
    'expected form: {"fixed_parameters": {"name": value, …},',
    '                "distributed_parameters": [{"name": value, …}, …],',
    '                "parameter_grid": {"name": [value, …], …},',
    '                "parameter_zip": {"name": [value, …], …}}',
]
_SETS_AT_MOST = 1_000_000
# How like `analysisparameters` the letters of a name must be for it to be a misspelling.
_LIKENESS = 0.8
_ENTRIES_LOOKED_AT = 10_000
# The folder in a clone's `data` that the first run is made with.
_EXAMPLE = "example"


@dataclass(frozen=True)
class Parameters:
    """The content of `analysis_parameters.json`.

    Parameters
    ----------
    fixed : dict or None
        Parameters of every job.
    sets : tuple of dict
        Parameter sets; each makes its own job. Empty where the file has none.
    place : str
        The file that they were read from.
    """

    fixed: dict[str, Any] | None = None
    sets: tuple[dict[str, Any], ...] = ()
    place: str = field(default=FILE_NAME, compare=False)


def read_parameters(input_directory: Path, name: str = "") -> Parameters:
    """Return the analysis parameters of a file, or of the first `analysis_parameters.json` found, if any.

    Without a name the file is searched for in the input directory, its `analysis_parameters/` and its `input_files/`.

    Raises
    ------
    RequestError
        The file cannot be read or has another shape; or there is none, but one with almost that name.
    """
    folders = (input_directory, input_directory / "analysis_parameters", input_directory / PIPELINE_FOLDER)
    found = [path for path in (folder / FILE_NAME for folder in folders) if path.is_file()]
    if name:
        found = [find_file("--analysis_parameters", name, input_directory, "give the path of a parameters file")]
    if not found:
        _refuse_misnamed(input_directory)
        logger.info("no %s in %s: jobs have no parameters", FILE_NAME, input_directory)
        return Parameters()
    if len(found) > 1:
        warn_listing(f"{found[0]} is used; not read:", [str(path) for path in found[1:]])
    parameters = _parameters(literals.read(json_text.read_file(found[0]), str(found[0])), str(found[0]))
    logger.info("%s from %s", counted(len(parameters.sets), "parameter set"), found[0])
    return parameters


def _refuse_misnamed(input_directory: Path) -> None:
    """Refuse to go on without parameters where a file seems to hold them."""
    for path in itertools.islice(_files_below(input_directory), _ENTRIES_LOOKED_AT):
        letters = re.sub(r"[^a-z]", "", path.name.lower().partition(".")[0])
        likeness = difflib.SequenceMatcher(None, letters, "analysisparameters").ratio()
        if path.suffix.lower() in (".json", ".txt", ".json5", ".jsonc", "") and likeness >= _LIKENESS:
            raise RequestError(
                f"{path}: not read, since the parameters file is called {FILE_NAME} and lies in {input_directory};"
                " rename or move it, or name it by --analysis_parameters"
            )


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and in the folders within it."""
    try:
        entries = sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError:
        return
    folders = [one for one in entries if one.is_dir() and one.name != _EXAMPLE and not one.name.startswith(".")]
    yield from (one for one in entries if one not in folders)
    for one in folders:
        try:
            yield from (path for path in one.iterdir() if path.is_file())
        except OSError:
            continue


def _parameters(value: object, place: str) -> Parameters:
    unknown = [key for key in value if key not in _KEYS] if isinstance(value, dict) else []
    if unknown:
        near = difflib.get_close_matches(unknown[0], _KEYS, n=1)
        remedy = f"; did you mean {near[0]}?" if near else ""
        raise RequestError(f"{place}: unknown key {printable(unknown[0], 60)!r}{remedy}", _FORM)
    if not isinstance(value, dict) or not value:
        raise RequestError(f"{place}: none of {', '.join(_KEYS)} found", _FORM)
    fixed = value.get(_FIXED)
    if fixed is not None and not isinstance(fixed, dict):
        raise RequestError(f"{place}: {_FIXED} must be an object, not {kind(fixed)}", _FORM)
    distributed = _distributed(value.get(_DISTRIBUTED), place)
    grid = _grid(value.get(_GRID), place)
    rows = _zipped(value.get(_ZIP), place)
    zipped = rows[0] if rows else {}
    _refuse_fields_in_both(distributed, grid, _GRID, place)
    _refuse_fields_in_both(distributed, zipped, _ZIP, place)
    if both := [field for field in zipped if field in grid]:
        raise RequestError(f"{place}: {_GRID} and {_ZIP} both have the field {both[0]}; keep it in one of them")
    _refuse_too_many(len(distributed), [len(rows) or 1, *(len(values) for values in grid.values())], place)
    sets = [
        {**one, **row, **dict(zip(grid, values, strict=True))}
        for one in distributed or [{}]
        for row in rows or [{}]
        for values in itertools.product(*grid.values())  # in the order of the file; the last field changes fastest
    ]
    return Parameters(fixed, _unique(sets, place) if distributed or grid or rows else (), place)


def _zipped(value: object, place: str) -> list[dict[str, Any]]:
    """Return the sets that lists of equal length make, element by element."""
    if value is not None and not isinstance(value, dict):
        raise RequestError(f"{place}: {_ZIP} must be an object of field → list of values, not {kind(value)}", _FORM)
    lists: dict[str, Any] = value or {}
    for name, values in lists.items():
        if not isinstance(values, list):
            raise RequestError(f"{place}: {_ZIP}.{name} must be a list of values, not {kind(values)}; put it in [ ]")
        if not values:
            raise RequestError(f"{place}: {_ZIP}.{name} is an empty list, which makes no parameter set; remove it")
    if len({len(values) for values in lists.values()}) > 1:
        lengths = [f"{name}: {counted(len(values), 'value')}" for name, values in lists.items()]
        raise RequestError(f"{place}: the lists of {_ZIP} must have the same length", lengths)
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def parameters_of(value: Mapping[str, Any] | str | PathLike[str] | None) -> Parameters:
    """Return the parameters that are given as Python values or in a file; numbers and arrays of numpy do, too.

    Raises
    ------
    RequestError
        They have another shape, or a value is none of JSON.
    """
    if value is None:
        return Parameters()
    if not isinstance(value, Mapping):
        path = Path(value).expanduser()
        return _parameters(literals.read(json_text.read_file(path), str(path)), str(path))
    try:
        plain = json.loads(json.dumps(value, default=_plain, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise RequestError(f"parameters: they cannot be written as JSON: {error}") from None
    return _parameters(plain, "parameters")


def _plain(value: Any) -> Any:
    """Return what a value of numpy holds."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a value of type {type(value).__name__}")


def _distributed(value: object, place: str) -> list[dict[str, Any]]:
    if value is not None and not isinstance(value, list):
        raise RequestError(f"{place}: {_DISTRIBUTED} must be a list of objects, not {kind(value)}", _FORM)
    for number, one in enumerate(value or []):
        if not isinstance(one, dict):
            raise RequestError(f"{place}: {_DISTRIBUTED}[{number}] must be an object, not {kind(one)}", _FORM)
    return value or []


def _grid(value: object, place: str) -> dict[str, list[Any]]:
    if value is not None and not isinstance(value, dict):
        raise RequestError(f"{place}: {_GRID} must be an object of field → list of values, not {kind(value)}", _FORM)
    return {field: _grid_values(field, values, place) for field, values in (value or {}).items()}


def _grid_values(field: str, values: object, place: str) -> list[Any]:
    if not isinstance(values, list):
        raise RequestError(f"{place}: {_GRID}.{field} must be a list of values, not {kind(values)}; put it in [ ]")
    if not values:
        raise RequestError(f"{place}: {_GRID}.{field} is an empty list, which makes no parameter set; remove it")
    unique = _without_repeats(values)
    if len(unique) < len(values):
        repeats = counted(len(values) - len(unique), "repeated value")
        logger.warning("%s: %s.%s: %s counted once", place, _GRID, field, repeats)
    return unique


def _refuse_fields_in_both(distributed: Sequence[dict[str, Any]], others: Container[str], key: str, place: str) -> None:
    for number, one in enumerate(distributed):
        if both := [field for field in one if field in others]:
            raise RequestError(
                f"{place}: {_DISTRIBUTED}[{number}] and {key} both have the field {both[0]}; keep it in one of them"
            )


def _refuse_too_many(distributed: int, lengths: Sequence[int], place: str) -> None:
    number = max(distributed, 1) * math.prod(lengths)
    if number > _SETS_AT_MOST:
        raise RequestError(f"{place}: {number:,} parameter sets; at most {_SETS_AT_MOST:,} can be dispatched")


def _unique(sets: Sequence[dict[str, Any]], place: str) -> tuple[dict[str, Any], ...]:
    unique = _without_repeats(sets)
    if len(unique) < len(sets):
        logger.warning("%s: %s counted once", place, counted(len(sets) - len(unique), "repeated parameter set"))
    return tuple(unique)


def _without_repeats(values: Sequence[Any]) -> list[Any]:
    unique: dict[str, Any] = {}
    for value in values:
        unique.setdefault(json_text.compact(value), value)
    return list(unique.values())


def kind(value: object) -> str:
    """Return what a JSON value is, in words."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")

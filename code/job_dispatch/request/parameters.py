"""The analysis parameters: fixed ones, sets that each make jobs of their own, and the schema that they must meet."""

from __future__ import annotations

import difflib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job_dispatch.messages import RequestError, counted, logger, printable, progress, warn_listing
from job_dispatch.request import json_text
from job_dispatch.request.selection import PIPELINE_FOLDER, find_file

if TYPE_CHECKING:
    from jsonschema_rs import ValidationError

    from job_dispatch.request.tables import Table

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
# What the validator writes into its messages in place of a value, which may be long.
_VALUE = "\0"
_VALUE_WIDTH = 80


@dataclass(frozen=True)
class Parameters:
    """The parameters of every job, and the sets of which each makes its own job, from the file at `place`."""

    fixed: dict[str, Any] | None = None
    sets: tuple[dict[str, Any], ...] = ()
    place: str = field(default=FILE_NAME, compare=False)


def read_parameters(input_directory: Path, name: str = "") -> Parameters:
    """Return the analysis parameters of a file, or of the first `analysis_parameters.json` found, if any.

    Without a name the file is searched for in the input directory, its `analysis_parameters/` and its `input_files/`.
    RequestError if it cannot be read or has another shape; or if there is none, but one with almost that name.
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
    parameters = parameters_of(found[0])
    logger.info("%s from %s", counted(len(parameters.sets), "parameter set"), found[0])
    return parameters


def parameters_of(value: Mapping[str, Any] | str | PathLike[str] | None) -> Parameters:
    """Return the parameters that are given as Python values or in a file; numbers and arrays of numpy do, too.

    RequestError if they have another shape, or a value is none of JSON.
    """
    if value is None:
        return Parameters()
    if not isinstance(value, Mapping):
        path = Path(value).expanduser()
        return _parameters(json_text.read_value(path), str(path))
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


def _refuse_misnamed(folder: Path) -> None:
    """Refuse to go on without parameters where a file seems to hold them."""
    paths = itertools.chain(sorted(folder.glob("*")), folder.glob("*/*"))
    for path in itertools.islice(paths, _ENTRIES_LOOKED_AT):
        letters = re.sub(r"[^a-z]", "", path.name.lower().partition(".")[0])
        likeness = difflib.SequenceMatcher(None, letters, "analysisparameters").ratio()
        is_similar = path.suffix.lower() in (".json", ".txt", ".json5", ".jsonc", "") and likeness >= _LIKENESS
        parent = path.parent.name
        is_looked_in = path.parent == folder or not (parent == _EXAMPLE or parent.startswith("."))
        if is_similar and is_looked_in and path.is_file():
            raise RequestError(
                f"{path}: not read, since the parameters file is called {FILE_NAME} and lies in {folder};"
                " rename or move it, or name it by --analysis_parameters"
            )


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
        raise RequestError(f"{place}: {_FIXED} must be an object, not {_kind(fixed)}", _FORM)
    distributed = [] if value.get(_DISTRIBUTED) is None else value[_DISTRIBUTED]
    if not isinstance(distributed, list):
        raise RequestError(f"{place}: {_DISTRIBUTED} must be a list of objects, not {_kind(distributed)}", _FORM)
    for number, one in enumerate(distributed):
        if not isinstance(one, dict):
            raise RequestError(f"{place}: {_DISTRIBUTED}[{number}] must be an object, not {_kind(one)}", _FORM)
    grid = {
        name: _without_repeats(values, f"{place}: {_GRID}.{name}", "repeated value")
        for name, values in _lists(value, _GRID, place).items()
    }
    zipped = _lists(value, _ZIP, place)
    if len({len(values) for values in zipped.values()}) > 1:
        lengths = [f"{name}: {counted(len(values), 'value')}" for name, values in zipped.items()]
        raise RequestError(f"{place}: the lists of {_ZIP} must have the same length", lengths)
    named = {f"{_DISTRIBUTED}[{number}]": one for number, one in enumerate(distributed)} | {_GRID: grid}
    for key, others in ((_GRID, grid), (_ZIP, zipped)):
        for name, one in named.items():
            if name != key and (both := [field for field in one if field in others]):
                raise RequestError(f"{place}: {name} and {key} both have the field {both[0]}; keep it in one of them")
    rows = [dict(zip(zipped, row, strict=True)) for row in zip(*zipped.values(), strict=True)]
    number = math.prod([len(distributed) or 1, len(rows) or 1, *map(len, grid.values())])
    if number > _SETS_AT_MOST:
        raise RequestError(f"{place}: {number:,} parameter sets; at most {_SETS_AT_MOST:,} can be dispatched")
    sets = [
        {**one, **row, **dict(zip(grid, values, strict=True))}
        for one in distributed or [{}]
        for row in rows or [{}]
        for values in itertools.product(*grid.values())  # in the order of the file; the last field changes fastest
    ]
    unique = _without_repeats(sets, place, "repeated parameter set") if distributed or grid or rows else []
    return Parameters(fixed, tuple(unique), place)


def _lists(value: Mapping[str, Any], key: str, place: str) -> dict[str, list[Any]]:
    """Return the lists of values by their fields that the file has under a key."""
    lists = {} if value.get(key) is None else value[key]
    if not isinstance(lists, dict):
        raise RequestError(f"{place}: {key} must be an object of field → list of values, not {_kind(lists)}", _FORM)
    for name, values in lists.items():
        if not isinstance(values, list):
            raise RequestError(f"{place}: {key}.{name} must be a list of values, not {_kind(values)}; put it in [ ]")
        if not values:
            raise RequestError(f"{place}: {key}.{name} is an empty list, which makes no parameter set; remove it")
    return lists


def _without_repeats(values: Sequence[Any], place: str, noun: str) -> list[Any]:
    unique = json_text.distinct(values)
    if len(unique) < len(values):
        logger.warning("%s: %s counted once", place, counted(len(values) - len(unique), noun))
    return unique


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def check(parameters: Parameters, schema_name: str, input_directory: Path, table: Table | None = None) -> None:
    """Validate every merged set, fixed then row of a table then distributed, against a JSON Schema (draft 2020-12).

    A missing required field is a warning: the wrapper may get it from its command line or panel. A schema whose
    references nest without end is not recognised; a signal ends the run, as it does at any other moment.
    RequestError if the file is no schema, or sets break it: all of them are named.
    """
    import jsonschema_rs

    path = find_file("--parameter_schema", schema_name, input_directory, "give the path of a JSON Schema file")
    schema = json_text.read_value(path)
    if not isinstance(schema, dict | bool):
        raise RequestError(f"{path}: not a JSON Schema; it must be an object, not {_kind(schema)}")
    try:
        # Offline: a reference to another address is an error, never a request.
        validator = jsonschema_rs.Draft202012Validator(schema, offline=True, mask=_VALUE)
    except jsonschema_rs.ValidationError as invalid:
        where = ".".join(map(str, ("the schema", *invalid.instance_path)))
        raise RequestError(f"{path}: not a JSON Schema: {where}: {_message(invalid)}") from None
    missing: list[str] = []
    broken: list[str] = []
    with progress("checking parameters", "parameter sets") as shown:
        for name, one in _named_sets(parameters, table):
            errors = validator.iter_errors({**(parameters.fixed or {}), **one})
            for error in sorted(errors, key=lambda error: list(map(str, error.instance_path))):
                is_missing = error.kind.name == "required" and not error.instance_path
                (missing if is_missing else broken).extend(f"{name}, {line}" for line in _described(error, schema))
            shown.advance()
    place = parameters.place
    if table is not None and table.has_parameters:
        place += f" and {table.file_name}"
    if broken:
        raise RequestError(f"{place}: parameter sets break the schema {path}", broken)
    if missing:
        warn_listing(f"{place}: required by {path}, left to the analysis wrapper:", missing)


def _named_sets(parameters: Parameters, table: Table | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each set with its number, and with the line of the first row that has these values of its own."""
    sets = parameters.sets or ({},)
    if table is None or not table.has_parameters:
        yield from ((f"set {number}", one) for number, one in enumerate(sets, 1))
        return
    for row in json_text.distinct(table.rows, lambda row: row.parameters):
        for number, one in enumerate(sets, 1):
            name = f"line {row.line}, set {number}" if parameters.sets else f"line {row.line}"
            yield name, {**row.parameters, **one}


def _message(error: ValidationError) -> str:
    value = printable(json.dumps(error.instance, ensure_ascii=False), _VALUE_WIDTH)
    return error.message.replace(_VALUE, value)


def _described(error: ValidationError, schema: Any) -> Iterator[str]:
    """Yield the path, what is wrong and the value; an unknown field is compared with the known ones."""
    where = ".".join(map(str, error.instance_path))
    if error.kind.name == "additionalProperties":
        known = _properties(schema, error.schema_path[:-1])
        for name in error.kind.as_dict()["unexpected"]:
            near = difflib.get_close_matches(name, known, n=1)
            remedy = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}" if known else ""
            yield f"{where}.{name}: no such field{remedy}" if where else f"{name}: no such field{remedy}"
    elif error.kind.name == "required":
        yield f"{where}: {error.message}" if where else error.message
    else:
        yield f"{where or 'the set'}: {_message(error)}"


def _properties(schema: Any, path: Sequence[str | int]) -> list[str]:
    """Return the names in `properties` of the part of a schema at a path; none where the path leads elsewhere."""
    try:
        for part in path:
            schema = schema[part]
        return list(schema["properties"])
    except (KeyError, IndexError, TypeError):
        return []

"""The analysis parameters: fixed ones, and the sets that each make jobs of their own."""

from __future__ import annotations

import difflib
import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from job_dispatch.messages import RequestError, counted, logger, warn_listing
from job_dispatch.request import json_text
from job_dispatch.request.selection import PIPELINE_FOLDER, find_file
from job_dispatch.request.tables import Table

if TYPE_CHECKING:
    from jsonschema import ValidationError

FILE_NAME = "analysis_parameters.json"
_FIXED, _DISTRIBUTED, _GRID = "fixed_parameters", "distributed_parameters", "parameter_grid"
_FORM = [
    'expected form: {"fixed_parameters": {"name": value, …},',
    '                "distributed_parameters": [{"name": value, …}, …],',
    '                "parameter_grid": {"name": [value, …], …}}',
]
_SETS_AT_MOST = 1_000_000


@dataclass(frozen=True)
class Parameters:
    """What `analysis_parameters.json` holds.

    Parameters
    ----------
    fixed : dict or None
        Parameters that go into every job.
    sets : tuple of dict
        Parameter sets; each makes its own job. Empty where none are asked for.
    place : str
        Where they were read from.
    """

    fixed: dict[str, Any] | None = None
    sets: tuple[dict[str, Any], ...] = ()
    place: str = field(default=FILE_NAME, compare=False)


def read_parameters(input_directory: Path) -> Parameters:
    """Return the analysis parameters of the first `analysis_parameters.json` found, if any.

    It is looked for in the input directory, its `analysis_parameters/` and its `input_files/`.

    Raises
    ------
    RequestError
        The file cannot be read or has another shape.
    """
    folders = (input_directory, input_directory / "analysis_parameters", input_directory / PIPELINE_FOLDER)
    found = [path for path in (folder / FILE_NAME for folder in folders) if path.is_file()]
    if not found:
        logger.info("no %s in %s: jobs have no parameters", FILE_NAME, input_directory)
        return Parameters()
    if len(found) > 1:
        warn_listing(f"{found[0]} is used; not read:", [str(path) for path in found[1:]])
    parameters = _parameters(json_text.read(json_text.read_file(found[0]), str(found[0])), str(found[0]))
    logger.info("%s from %s", counted(len(parameters.sets), "parameter set"), found[0])
    return parameters


def _parameters(value: object, place: str) -> Parameters:
    known = (_FIXED, _DISTRIBUTED, _GRID)
    if not isinstance(value, dict) or not any(key in value for key in known):
        raise RequestError(f"{place}: none of {', '.join(known)} found", _FORM)
    if unknown := [key for key in value if key not in known]:
        warn_listing(f"{place}: keys that are not known are not used:", unknown)
    fixed = value.get(_FIXED)
    if fixed is not None and not isinstance(fixed, dict):
        raise RequestError(f"{place}: {_FIXED} must be an object, not {_kind(fixed)}", _FORM)
    distributed = _distributed(value.get(_DISTRIBUTED), place)
    grid = _grid(value.get(_GRID), place)
    _refuse_fields_in_both(distributed, grid, place)
    _refuse_too_many(len(distributed), [len(values) for values in grid.values()], place)
    sets = [{**one, **combination} for one in distributed or [{}] for combination in _combinations(grid)]
    return Parameters(fixed, _unique(sets, place) if distributed or grid else (), place)


def _distributed(value: object, place: str) -> list[dict[str, Any]]:
    if value is not None and not isinstance(value, list):
        raise RequestError(f"{place}: {_DISTRIBUTED} must be a list of objects, not {_kind(value)}", _FORM)
    for number, one in enumerate(value or []):
        if not isinstance(one, dict):
            raise RequestError(f"{place}: {_DISTRIBUTED}[{number}] must be an object, not {_kind(one)}", _FORM)
    return value or []


def _grid(value: object, place: str) -> dict[str, list[Any]]:
    if value is not None and not isinstance(value, dict):
        raise RequestError(f"{place}: {_GRID} must be an object of field → list of values, not {_kind(value)}", _FORM)
    return {field: _grid_values(field, values, place) for field, values in (value or {}).items()}


def _grid_values(field: str, values: object, place: str) -> list[Any]:
    if not isinstance(values, list):
        raise RequestError(f"{place}: {_GRID}.{field} must be a list of values, not {_kind(values)}; put it in [ ]")
    if not values:
        raise RequestError(f"{place}: {_GRID}.{field} is an empty list, which makes no parameter set; remove it")
    unique = _without_repeats(values)
    if len(unique) < len(values):
        repeats = counted(len(values) - len(unique), "repeated value")
        logger.warning("%s: %s.%s: %s counted once", place, _GRID, field, repeats)
    return unique


def _refuse_fields_in_both(distributed: Sequence[dict[str, Any]], grid: dict[str, list[Any]], place: str) -> None:
    for number, one in enumerate(distributed):
        if both := [field for field in one if field in grid]:
            raise RequestError(
                f"{place}: {_DISTRIBUTED}[{number}] and {_GRID} both have the field {both[0]}; keep it in one of them"
            )


def _refuse_too_many(distributed: int, lengths: Sequence[int], place: str) -> None:
    number = max(distributed, 1) * math.prod(lengths)
    if number > _SETS_AT_MOST:
        raise RequestError(f"{place}: {number:,} parameter sets; at most {_SETS_AT_MOST:,} can be dispatched")


def _combinations(grid: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """Yield every combination of the values, in the order of the file; the last field changes fastest."""
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


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


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def check_schema(parameters: Parameters, schema_name: str, input_directory: Path, table: Table | None = None) -> None:
    """Validate every merged set, fixed then row of a table then distributed, against a JSON Schema (draft 2020-12).

    A required field that is missing is a warning: the wrapper may get it from its command line or panel.

    Parameters
    ----------
    parameters : Parameters
    schema_name : str
        Path of the schema, as given or inside the input directory.
    input_directory : pathlib.Path
    table : Table or None
        Of data assets, whose rows may have parameters.

    Raises
    ------
    RequestError
        The file is no schema, or sets break it: all of them are named.
    """
    path = find_file("--parameter_schema", schema_name, input_directory, "give the path of a JSON Schema file")
    validator = _validator(json_text.read(json_text.read_file(path), str(path)), str(path))
    missing: list[str] = []
    broken: list[str] = []
    rows = table is not None and table.has_parameters
    place = f"{parameters.place} and {table.file_name}" if table is not None and rows else parameters.place
    for name, one in _named_sets(parameters, table if rows else None):
        merged = {**(parameters.fixed or {}), **one}
        for error in _errors(validator, merged, str(path)):
            is_missing = error.validator == "required" and not error.absolute_path
            (missing if is_missing else broken).extend(f"{name}, {line}" for line in _described(error))
    if broken:
        raise RequestError(f"{place}: parameter sets break the schema {path}", broken)
    if missing:
        warn_listing(f"{place}: required by {path}, left to the analysis wrapper:", missing)


def _named_sets(parameters: Parameters, table: Table | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each set with its number, and with the line of the first row that meets it with values of its own."""
    numbered = list(enumerate(parameters.sets or ({},), 1))
    if table is None:
        yield from ((f"set {number}", one) for number, one in numbered)
        return
    different = {json_text.compact(row.parameters): row for row in reversed(table.rows)}
    for row in reversed(different.values()):
        for number, one in numbered:
            yield f"line {row.line}{f', set {number}' * bool(parameters.sets)}", {**row.parameters, **one}


def _validator(schema: object, place: str) -> Any:
    from jsonschema import Draft202012Validator, SchemaError
    from referencing import Registry

    if not isinstance(schema, dict | bool):
        raise RequestError(f"{place}: not a JSON Schema; it must be an object, not {_kind(schema)}")
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise RequestError(f"{place}: not a JSON Schema: {error.json_path}: {error.message}") from None
    # An empty registry: a reference to another address is an error, never a request.
    return Draft202012Validator(schema, registry=Registry())


def _errors(validator: Any, merged: dict[str, Any], place: str) -> list[ValidationError]:
    try:
        return sorted(validator.iter_errors(merged), key=lambda error: str(error.json_path))
    except RecursionError:
        raise RequestError(f"{place}: the schema refers to itself without end") from None
    except Exception as error:  # whatever goes wrong here, it is this schema on these values
        reason = str(error).partition("\n")[0]
        raise RequestError(f"{place}: the schema cannot be applied: {reason}") from None


def _described(error: ValidationError) -> Iterator[str]:
    """Yield field path, what is wrong and the value; an unknown field is compared with the known ones."""
    where = ".".join(map(str, error.absolute_path))
    if error.validator == "additionalProperties" and isinstance(error.schema, dict) and error.validator_value is False:
        known, patterns = list(error.schema.get("properties", {})), list(error.schema.get("patternProperties", {}))
        for name in cast("dict[str, Any]", error.instance):
            if name in known or any(re.search(pattern, name) for pattern in patterns):
                continue
            near = difflib.get_close_matches(name, known, n=1)
            remedy = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}" * bool(known)
            path = f"{where}.{name}" if where else name
            yield f"{path}: no such field{remedy}"
    elif error.validator == "required":
        yield f"{where}: {error.message}" if where else error.message
    else:
        yield f"{where or 'the set'}: {error.message} (value: {json.dumps(error.instance, ensure_ascii=False)[:80]})"

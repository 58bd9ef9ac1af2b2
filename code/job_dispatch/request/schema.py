"""The JSON Schema that every parameter set must meet."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job_dispatch.messages import RequestError, printable, progress, warn_listing
from job_dispatch.request import json_text, literals
from job_dispatch.request.parameters import Parameters, kind
from job_dispatch.request.selection import find_file

if TYPE_CHECKING:
    from jsonschema_rs import Draft202012Validator, ValidationError

    from job_dispatch.request.tables import Table

# What the validator writes into its messages in place of a value, which may be long.
_VALUE = "\0"
_VALUE_WIDTH = 80


def check(parameters: Parameters, schema_name: str, input_directory: Path, table: Table | None = None) -> None:
    """Validate every merged set, fixed then row of a table then distributed, against a JSON Schema (draft 2020-12).

    A missing required field is a warning: the wrapper may get it from its command line or panel. A schema whose
    references nest without end is not recognised; a signal ends the run, as it does at any other moment.

    Parameters
    ----------
    parameters : Parameters
    schema_name : str
        Path of the schema, as given or inside the input directory.
    input_directory : pathlib.Path
    table : Table or None
        The table of data assets, whose rows may have parameters.

    Raises
    ------
    RequestError
        The file is no schema, or sets break it: all of them are named.
    """
    path = find_file("--parameter_schema", schema_name, input_directory, "give the path of a JSON Schema file")
    schema = literals.read(json_text.read_file(path), str(path))
    validator = _validator(schema, str(path))
    missing: list[str] = []
    broken: list[str] = []
    rows = table is not None and table.has_parameters
    place = f"{parameters.place} and {table.file_name}" if table is not None and rows else parameters.place
    with progress("checking parameters", "parameter sets") as shown:
        for name, one in _named_sets(parameters, table if rows else None):
            errors = validator.iter_errors({**(parameters.fixed or {}), **one})
            for error in sorted(errors, key=lambda error: list(map(str, error.instance_path))):
                is_missing = error.kind.name == "required" and not error.instance_path
                (missing if is_missing else broken).extend(f"{name}, {line}" for line in _described(error, schema))
            shown.advance()
    if broken:
        raise RequestError(f"{place}: parameter sets break the schema {path}", broken)
    if missing:
        warn_listing(f"{place}: required by {path}, left to the analysis wrapper:", missing)


def _named_sets(parameters: Parameters, table: Table | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each set with its number, and with the line of the first row that has these values of its own."""
    numbered = list(enumerate(parameters.sets or ({},), 1))
    if table is None:
        yield from ((f"set {number}", one) for number, one in numbered)
        return
    different = {json_text.compact(row.parameters): row for row in reversed(table.rows)}
    for row in reversed(different.values()):
        for number, one in numbered:
            name = f"line {row.line}, set {number}" if parameters.sets else f"line {row.line}"
            yield name, {**row.parameters, **one}


def _validator(schema: object, place: str) -> Draft202012Validator:
    import jsonschema_rs

    if not isinstance(schema, dict | bool):
        raise RequestError(f"{place}: not a JSON Schema; it must be an object, not {kind(schema)}")
    try:
        # Offline: a reference to another address is an error, never a request.
        return jsonschema_rs.Draft202012Validator(schema, offline=True, mask=_VALUE)
    except jsonschema_rs.ValidationError as error:
        where = ".".join(map(str, ("the schema", *error.instance_path)))
        raise RequestError(f"{place}: not a JSON Schema: {where}: {_message(error)}") from None


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

"""The JSON Schema that every parameter set must meet; checking a set ends, whatever the schema says."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from job_dispatch.messages import RequestError, progress, warn_listing
from job_dispatch.request import json_text, patterns
from job_dispatch.request.parameters import Parameters, kind
from job_dispatch.request.selection import find_file

if TYPE_CHECKING:
    from jsonschema import ValidationError

    from job_dispatch.request.tables import Table

# How many subschemas may be applied to one set, and more for each value in it. A schema that people write applies
# some dozens to each value; one whose references nest doubles the number with every level.
_STEPS, _STEPS_A_VALUE = 100_000, 100


def check(parameters: Parameters, schema_name: str, input_directory: Path, table: Table | None = None) -> None:
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
    validator = Validator(json_text.read(json_text.read_file(path), str(path)), str(path))
    missing: list[str] = []
    broken: list[str] = []
    rows = table is not None and table.has_parameters
    place = f"{parameters.place} and {table.file_name}" if table is not None and rows else parameters.place
    with progress("checking parameters", "parameter sets") as shown:
        for name, one in _named_sets(parameters, table if rows else None):
            for error in validator.errors({**(parameters.fixed or {}), **one}):
                is_missing = error.validator == "required" and not error.absolute_path
                (missing if is_missing else broken).extend(f"{name}, {line}" for line in _described(error))
            shown.advance()
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


class _Steps:
    """Counts down how many subschemas may still be applied."""

    def __init__(self) -> None:
        self.left = 0

    def take(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise _TooManyStepsError


class _TooManyStepsError(Exception):
    """A set is not checked after so many steps."""


class Validator:
    """A schema, ready to be applied to parameter sets."""

    def __init__(self, schema: object, place: str) -> None:
        from jsonschema import Draft202012Validator, SchemaError
        from referencing import Registry

        if not isinstance(schema, dict | bool):
            raise RequestError(f"{place}: not a JSON Schema; it must be an object, not {kind(schema)}")
        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as error:
            raise RequestError(f"{place}: not a JSON Schema: {error.json_path}: {error.message}") from None
        self._place = place
        self._steps = _Steps()
        # An empty registry: a reference to another address is an error, never a request.
        self._validator = _validator_class(self._steps)(schema, registry=Registry())

    def errors(self, merged: dict[str, Any]) -> list[ValidationError]:
        """Return what is wrong with a set, by its paths."""
        self._steps.left = _STEPS + _STEPS_A_VALUE * _number_of_values(merged)
        try:
            return sorted(self._validator.iter_errors(merged), key=lambda error: str(error.json_path))
        except (RecursionError, _TooManyStepsError):
            raise RequestError(f"{self._place}: the schema refers to itself without end") from None
        except RequestError as error:
            raise RequestError(f"{self._place}: {error.headline}", error.details) from None
        except Exception as error:  # whatever goes wrong here, it is this schema on these values
            reason = str(error).partition("\n")[0]
            raise RequestError(f"{self._place}: the schema cannot be applied: {reason}") from None


class _Patterns:
    """What `jsonschema` looks for patterns with, instead of `re`: it ends."""

    @staticmethod
    def search(pattern: str, text: str) -> bool:
        return patterns.compiled(pattern).search(text)


def _validator_class(steps: _Steps) -> Any:
    """Return the validator of draft 2020-12 in which steps are counted and patterns end."""
    from jsonschema import Draft202012Validator, _keywords, _utils, validators

    # No keyword can be given another search: `unevaluatedProperties` asks for the patterns of all others.
    for module in (_keywords, _utils):
        module.re = _Patterns  # type: ignore[attr-defined]
    own: Any = validators.extend(Draft202012Validator)  # type: ignore[no-untyped-call]
    evolve = own.evolve

    def counted(self: Any, **changes: Any) -> Any:
        """Count each subschema that is applied; one that names a dialect of its own would not be counted."""
        steps.take()
        evolved = evolve(self, **changes)
        return evolved if type(evolved) is own else evolve(self, **{**changes, "schema": _without_dialect(changes)})

    own.evolve = counted
    return own


def _without_dialect(changes: dict[str, Any]) -> dict[str, Any]:
    return {keyword: value for keyword, value in changes["schema"].items() if keyword != "$schema"}


def _number_of_values(value: object) -> int:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(_number_of_values, children))


def _described(error: ValidationError) -> Iterator[str]:
    """Yield field path, what is wrong and the value; an unknown field is compared with the known ones."""
    where = ".".join(map(str, error.absolute_path))
    if error.validator == "additionalProperties" and isinstance(error.schema, dict) and error.validator_value is False:
        known, by_pattern = list(error.schema.get("properties", {})), list(error.schema.get("patternProperties", {}))
        for name in cast("dict[str, Any]", error.instance):
            if name in known or any(patterns.compiled(pattern).search(name) for pattern in by_pattern):
                continue
            near = difflib.get_close_matches(name, known, n=1)
            remedy = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}" * bool(known)
            path = f"{where}.{name}" if where else name
            yield f"{path}: no such field{remedy}"
    elif error.validator == "required":
        yield f"{where}: {error.message}" if where else error.message
    else:
        yield f"{where or 'the set'}: {error.message} (value: {json.dumps(error.instance, ensure_ascii=False)[:80]})"

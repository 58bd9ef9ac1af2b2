"""Whether a record matches a query, as MongoDB would say: `mgqpy`, with what it lacks and people use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import mgqpy

from job_dispatch.messages import RequestError
from job_dispatch.metadata.records import Filter, Record
from job_dispatch.request import json_text, patterns
from job_dispatch.request.fields import expanded

_COMBINING = ("$and", "$or", "$nor")
# What MongoDB knows and neither `mgqpy` nor this room.
# fmt: off
_ONLY_IN_DATABASES = frozenset([
    "$bitsAllClear", "$bitsAllSet", "$bitsAnyClear", "$bitsAnySet", "$expr", "$geoIntersects", "$geoWithin",
    "$jsonSchema", "$near", "$nearSphere", "$rand", "$sampleRate", "$text", "$where",
])
# fmt: on
# By name and number: https://www.mongodb.com/docs/manual/reference/bson-types/. JSON holds no value of most.
_TYPE_NUMBERS = {
    "double": 1,
    "string": 2,
    "object": 3,
    "array": 4,
    "binData": 5,
    "undefined": 6,
    "objectId": 7,
    "bool": 8,
    "date": 9,
    "null": 10,
    "regex": 11,
    "dbPointer": 12,
    "javascript": 13,
    "symbol": 14,
    "javascriptWithScope": 15,
    "int": 16,
    "timestamp": 17,
    "long": 18,
    "decimal": 19,
    "minKey": -1,
    "maxKey": 127,
}
_NUMBERS = frozenset({"double", "int", "long", "decimal"})


class Matching:
    """A query, ready to be asked of records.

    Parameters
    ----------
    query : Filter
        As a user gives it, names of fields such as `@subject` included.
    place : str
        What evaluates it, for the error.
    shown : Filter or None
        The query as the user gave it, where this one is a part of it.

    Attributes
    ----------
    holding : str or None
        Text that each record which matches has as a value, the longest where there are several.

    Raises
    ------
    RequestError
        Any part of it cannot be evaluated, whether or not a record would reach it.
    """

    def __init__(self, query: Filter, place: str, shown: Filter | None = None) -> None:
        self._place, self._query = place, query if shown is None else shown
        try:
            paths = expanded(query)
            self._test: Callable[[Any], bool] = mgqpy.Query(_prepared(paths)).test
        except mgqpy.InvalidQuery as error:
            raise self._not_evaluated(str(error).removeprefix("query.")) from None
        except RecursionError:
            raise self._not_evaluated("it is nested too deep") from None
        except RequestError as error:
            raise self._not_evaluated(error.headline) from None
        self.holding = max(_texts(paths), key=len, default=None)

    def __call__(self, record: Record) -> bool:
        """Tell whether a record matches.

        Raises
        ------
        RequestError
            A regular expression takes too long on a value of it.
        """
        try:
            return self._test(record)
        except RequestError as error:
            raise RequestError(f"{self._place}: record {record.get('_id')}: {error.headline}", error.details) from None
        except (RecursionError, TypeError, ValueError, ArithmeticError) as error:
            raise self._not_evaluated(f"{error} (record {record.get('_id')})") from None

    def _not_evaluated(self, reason: str) -> RequestError:
        return RequestError(
            f"{self._place} cannot evaluate the query: {reason}", [f"query: {json_text.compact(self._query)}"]
        )


class _Found:
    """What is equal to text in which a pattern is found."""

    def __init__(self, pattern: patterns.Pattern) -> None:
        self._pattern = pattern

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and self._pattern.search(other)

    __hash__ = None  # type: ignore[assignment]

    def __deepcopy__(self, memo: object) -> _Found:
        return self


class _Typed:
    """What is equal to a value of one of some types."""

    def __init__(self, types: frozenset[str]) -> None:
        self._types = types

    def __eq__(self, other: object) -> bool:
        return _type(other) in self._types

    __hash__ = None  # type: ignore[assignment]

    def __deepcopy__(self, memo: object) -> _Typed:
        return self


def _type(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return "int" if -(2**31) <= value < 2**31 else "long" if -(2**63) <= value < 2**63 else "double"
    names = {str: "string", bool: "bool", float: "double", dict: "object", list: "array", type(None): "null"}
    return names.get(type(value), "")


def _texts(query: Filter) -> set[str]:
    """Return texts that each record which matches has as values; the query is known to be right."""
    found: set[str] = set()
    for key, condition in query.items():
        if key == "$and":
            found.update(*map(_texts, condition))
        elif key == "$or":
            found |= set.intersection(*map(_texts, condition))
        elif not key.startswith("$"):
            wanted = condition.get("$eq") if _is_expression(condition) else condition
            found |= {wanted} if isinstance(wanted, str) else set()
    return found


def _prepared(query: Filter) -> dict[str, Any]:
    """Return a query in the operators of `mgqpy`, in which `$regex` and `$type` are equality with an object."""
    found: dict[str, Any] = {}
    for key, condition in query.items():
        if key in _COMBINING and isinstance(condition, list):
            found[key] = [_prepared(part) if isinstance(part, dict) else part for part in condition]
        elif key in _ONLY_IN_DATABASES:
            raise RequestError(_unsupported(key))
        elif key != "$comment":
            found[key] = _prepared_condition(condition)
    return found


def _prepared_condition(condition: Any) -> Any:
    if not _is_expression(condition):
        return condition
    found: dict[str, Any] = {}
    wanted: list[Any] = []
    for operator, operand in condition.items():
        if operator in _ONLY_IN_DATABASES:
            raise RequestError(_unsupported(operator))
        if operator == "$regex":
            wanted.append(_Found(_pattern(operand, condition.get("$options", ""))))
        elif operator == "$type":
            wanted.append(_Typed(_types(operand)))
        elif operator == "$not":
            found[operator] = _prepared_condition(operand)
        elif operator == "$elemMatch" and isinstance(operand, dict):
            is_of_values = _is_expression(operand) and next(iter(operand)) not in _COMBINING
            found[operator] = _prepared_condition(operand) if is_of_values else _prepared(operand)
        elif operator == "$all" and isinstance(operand, list):
            found[operator] = [_prepared_condition(one) for one in operand]
        elif operator != "$options" or "$regex" not in condition:
            found[operator] = operand
    return _with_all(found, wanted)


def _with_all(expression: dict[str, Any], wanted: list[Any]) -> dict[str, Any]:
    """Add values of each of which an equal one must be there."""
    if not wanted:
        return expression
    others = expression.get("$all", [])
    if "$all" in expression and (not isinstance(others, list) or not others or any(map(_is_expression, others))):
        raise RequestError("$all with $elemMatch, or with nothing, stands beside $regex or $type; join two by $and")
    return {**expression, "$all": [*others, *wanted]}


def _pattern(text: Any, options: Any) -> patterns.Pattern:
    if not isinstance(text, str) or not isinstance(options, str):
        raise RequestError("$regex and $options must be text")
    return patterns.compiled(text, options)


def _types(operand: Any) -> frozenset[str]:
    """Return the names of the types that an operand of `$type` names, by name or by number."""
    named: set[str] = set()
    wanted = operand if isinstance(operand, list) else [operand]
    for one in wanted:
        if one == "number":
            named |= _NUMBERS
        elif isinstance(one, str) and one in _TYPE_NUMBERS:
            named.add(one)
        elif type(one) in (int, float) and one in _TYPE_NUMBERS.values():
            named.update(name for name, number in _TYPE_NUMBERS.items() if number == one)
        else:
            raise RequestError(f"$type takes names such as string or numbers from MongoDB's list, not {one!r}")
    if not wanted:
        raise RequestError("$type takes a list of at least one type")
    return frozenset(named)


def _is_expression(condition: Any) -> bool:
    return isinstance(condition, Mapping) and next(iter(condition), "").startswith("$")


def _unsupported(operator: str) -> str:
    return f"{operator} is not supported; DocDB may know it"

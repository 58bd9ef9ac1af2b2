"""Whether a record matches a query, as MongoDB would decide: a query is compiled to functions once.

The rules are those of https://www.mongodb.com/docs/manual/reference/operator/query/, for the values that JSON has.
"""

from __future__ import annotations

import operator as comparison
import re
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from job_dispatch.messages import RequestError, printable
from job_dispatch.metadata.records import Filter, Record
from job_dispatch.request import json_text
from job_dispatch.request.fields import Instant, Query, all_of, conditions, fields_in, instant, is_expression

Test = Callable[[Any], bool]

_COMBINING = ("$and", "$or", "$nor")
# What only a database knows.
# fmt: off
_UNSUPPORTED = frozenset([
    "$bitsAllClear", "$bitsAllSet", "$bitsAnyClear", "$bitsAnySet", "$expr", "$geoIntersects", "$geoWithin",
    "$jsonSchema", "$near", "$nearSphere", "$rand", "$sampleRate", "$text", "$where",
])
# Names and numbers of types: https://www.mongodb.com/docs/manual/reference/bson-types/. JSON has no value of most.
_TYPE_NUMBERS = {
    "double": 1, "string": 2, "object": 3, "array": 4, "binData": 5, "undefined": 6, "objectId": 7, "bool": 8,
    "date": 9, "null": 10, "regex": 11, "dbPointer": 12, "javascript": 13, "symbol": 14, "javascriptWithScope": 15,
    "int": 16, "timestamp": 17, "long": 18, "decimal": 19, "minKey": -1, "maxKey": 127,
}
# fmt: on
# To `regex` `a{e}` is approximate matching; to MongoDB it is what it looks like.
_LITERAL_BRACE = re.compile(r"(?<!\\)(?<!\\[pPNxgkuL])\{(?!\d*,?\d*\})")
_PATTERN_SHOWN = 60
_COMPARISONS = {"$gt": comparison.gt, "$gte": comparison.ge, "$lt": comparison.lt, "$lte": comparison.le}


class _Missing:
    """What a path finds where there is nothing; it compares as null."""


_MISSING = _Missing()
# Only values of one kind compare; the kinds are in MongoDB's order.
_KINDS = {_Missing: 0, type(None): 0, int: 1, float: 1, str: 2, dict: 3, list: 4, bool: 5}


class Matching:
    """A query, ready to be tested on records; `place` says in errors what evaluates it.

    `holding` is text that each record that matches has as a value, the longest where there are several. Raises
    RequestError if some part of the query cannot be evaluated, whether or not a record would reach it.
    """

    def __init__(self, query: Query, place: str) -> None:
        self._place, self._query = place, query
        try:
            self._test = _query_test(query.paths)
        except RecursionError:
            raise self._not_evaluated("it is nested too deep") from None
        except RequestError as error:
            raise self._not_evaluated(error.headline) from None
        self.holding = max(_texts(query.paths), key=len, default=None)

    def __call__(self, record: Record) -> bool:
        """Tell whether a record matches; raises RequestError if a value of it is nested too deep."""
        try:
            return self._test(record)
        except RecursionError:
            raise self._not_evaluated(f"the record {record.get('_id')} is nested too deep") from None

    def _not_evaluated(self, reason: str) -> RequestError:
        details = [f"query: {json_text.compact(self._query.filter)}"]
        return RequestError(f"{self._place} cannot evaluate the query: {reason}", details)


def _texts(query: Filter) -> set[str]:
    """Return texts that each record that matches has as values; the query is known to be right."""
    found: set[str] = set()
    for key, condition in query.items():
        if key == "$and":
            found.update(*map(_texts, condition))
        elif key == "$or":
            found |= set.intersection(*map(_texts, condition))
        elif not key.startswith("$"):
            wanted = condition.get("$eq") if is_expression(condition) else condition
            found |= {wanted} if isinstance(wanted, str) else set()
    return found


def _query_test(query: Any) -> Test:
    """Return the test of a record, or of an object in it."""
    if not isinstance(query, dict):
        raise RequestError(f"a query is an object, not {json_text.compact(query)}")
    tests = []
    for key, condition in query.items():
        if key in _COMBINING:
            if not isinstance(condition, list) or not condition:
                raise RequestError(f"{key} takes a list of at least one query")
            parts = list(map(_query_test, condition))
            tests.append(_all(parts) if key == "$and" else _any(parts) if key == "$or" else _not(_any(parts)))
        elif not key.startswith("$"):
            tests.append(_condition_test(condition, key, partial(_at, key.split("."))))
        elif key != "$comment":
            raise _unknown(key, "")
    return _all(tests)


def _condition_test(condition: Any, name: str, reach: Callable[[Test, bool], Test]) -> Test:
    """Return the test that a condition, a value or an object of operators, on the field `name` is.

    `reach` makes, of a test of a value, one of what holds that value: a record with a path, or the value itself. Its
    second argument tells whether the elements of a list are values as well.
    """
    if not is_expression(condition):
        return reach(_is_one_of([condition]), True)
    tests = []
    for operator, operand in condition.items():
        if operator == "$not":
            if not is_expression(operand):
                raise RequestError(f"{name}: $not takes an object of operators")
            tests.append(_not(_condition_test(operand, name, reach)))
        elif operator == "$all":
            parts = [_condition_test(one, name, reach) for one in _list(operand, operator, name)]
            tests.append(_all(parts) if parts else _any(()))
        elif operator in ("$ne", "$nin"):
            tests.append(_not(reach(_is_one_of(_list(operand, operator, name)), True)))
        elif operator == "$exists":
            is_there = reach(lambda value: value is not _MISSING, False)
            tests.append(_not(is_there) if operand in (False, None) else is_there)
        elif operator == "$options":
            if "$regex" not in condition:
                raise RequestError(f"{name}: $options is only for $regex")
        else:
            test = _value_test(operator, operand, condition, name)
            tests.append(reach(test, operator not in ("$size", "$elemMatch")))
    return _all(tests)


def _value_test(operator: str, operand: Any, condition: Filter, name: str) -> Test:
    """Return the test of one value, which may be an element of a list."""
    match operator:
        case "$eq" | "$in":
            return _is_one_of(_list(operand, operator, name))
        case "$gt" | "$gte" | "$lt" | "$lte":
            return _compares(_COMPARISONS[operator], operand)
        case "$regex":
            search = _pattern(operand, condition.get("$options", "")).search
            return lambda value: type(value) is str and search(value) is not None
        case "$type":
            types = _types(operand)
            return lambda value: _type(value) in types
        case "$size":
            if type(operand) not in (int, float) or operand < 0 or operand != int(operand):
                raise RequestError(f"{name}: $size takes a whole number from 0")
            return lambda value: isinstance(value, list) and len(value) == operand
        case "$mod":
            return _remains(operand, name)
        case "$elemMatch":
            return _has_element(operand, name)
    raise _unknown(operator, f"{name}: ")


def _at(path: Sequence[str], test: Test, spread: bool) -> Test:
    return lambda record: _holds_at(record, path, 0, test, spread)


def _holds_at(value: Any, path: Sequence[str], start: int, test: Test, spread: bool) -> bool:
    """Tell whether a test holds for any value that the rest of a path reaches; a path goes through lists."""
    for position in range(start, len(path)):
        part = path[position]
        if isinstance(value, dict):
            if part not in value:
                return test(_MISSING)
            value = value[part]
        elif isinstance(value, list):
            if part.isdecimal() and int(part) < len(value):
                element = value[int(part)]
                if position == len(path) - 1:
                    if test(element):  # a list is one value here
                        return True
                elif isinstance(element, dict | list) and _holds_at(element, path, position + 1, test, spread):
                    return True
            objects = (element for element in value if isinstance(element, dict))
            return any(_holds_at(element, path, position, test, spread) for element in objects)
        else:
            return test(_MISSING)
    return test(value) or (spread and isinstance(value, list) and any(map(test, value)))


def _all(tests: Sequence[Test]) -> Test:
    return tests[0] if len(tests) == 1 else lambda value: all(test(value) for test in tests)


def _any(tests: Sequence[Test]) -> Test:
    return lambda value: any(test(value) for test in tests)


def _not(test: Test) -> Test:
    return lambda value: not test(value)


def _list(operand: Any, operator: str, name: str) -> list[Any]:
    """Return the values that an operator is about."""
    if operator in ("$eq", "$ne"):
        return [operand]
    if not isinstance(operand, list):
        raise RequestError(f"{name}: {operator} takes a list")
    for one in operand:
        if is_expression(one) and not (operator == "$all" and list(one) == ["$elemMatch"]):
            raise RequestError(f"{name}: {operator} takes values, not {json_text.compact(one)}")
    return operand


def _order(value: Any) -> tuple[Any, ...]:
    """Return what a value is equal and ordered by: its kind, then itself."""
    kind = _KINDS[type(value)]
    if kind == 3:
        return 3, tuple((_KINDS[type(one)], key, _order(one)) for key, one in value.items())
    if kind == 4:
        return 4, tuple(map(_order, value))
    return (kind, value) if kind else (0,)


def _is_one_of(operands: Sequence[Any]) -> Test:
    if moments := frozenset(one.moment for one in operands if isinstance(one, Instant)):
        plain = _is_one_of([one for one in operands if not isinstance(one, Instant)])
        return lambda value: instant(value) in moments or plain(value)
    wanted = frozenset(map(_order, operands))
    kinds = {order[0] for order in wanted}
    if kinds == {2}:  # text, as most often
        texts = frozenset(operands)
        return lambda value: type(value) is str and value in texts
    return lambda value: _KINDS[type(value)] in kinds and _order(value) in wanted


def _compares(holds: Callable[[Any, Any], bool], operand: Any) -> Test:
    if isinstance(operand, Instant):
        moment = operand.moment
        return lambda value: (found := instant(value)) is not None and holds(found, moment)
    kind, wanted = _KINDS[type(operand)], _order(operand)
    return lambda value: _KINDS[type(value)] == kind and holds(_order(value), wanted)


def _pattern(text: Any, options: Any) -> Any:
    """Return a compiled regular expression; the package `regex` has what MongoDB's have and `re` lacks."""
    import regex

    if not isinstance(text, str) or not isinstance(options, str):
        raise RequestError("$regex and $options must be text")
    flags = {"i": regex.I, "m": regex.M, "s": regex.S, "x": regex.X, "u": regex.U}
    shown = printable(text, _PATTERN_SHOWN)
    if unknown := set(options) - flags.keys():
        raise RequestError(
            f"the regular expression {shown!r} is wrong: {min(unknown)!r} is no option; use i, m, s, x, u"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a later version may read otherwise
            return regex.compile(_LITERAL_BRACE.sub(r"\\{", text), sum(flags[option] for option in set(options)))
    except (regex.error, OverflowError, ValueError, RecursionError, MemoryError) as error:
        raise RequestError(f"the regular expression {shown!r} is wrong: {error}") from None


def _remains(operand: Any, name: str) -> Test:
    numbers = operand if isinstance(operand, list) else []
    if len(numbers) != 2 or not all(type(one) in (int, float) for one in numbers) or not int(numbers[0]):
        raise RequestError(f"{name}: $mod takes a divisor, which is not 0, and a remainder")
    divisor, remainder = map(int, numbers)

    def test(value: Any) -> bool:
        # The remainder has the sign of the value, as in C.
        return type(value) in (int, float) and abs(int(value)) % abs(divisor) * (-1 if value < 0 else 1) == remainder

    return test


def _has_element(operand: Any, name: str) -> Test:
    """Return the test of a list, one element of which must meet all conditions."""
    if not isinstance(operand, dict):
        raise RequestError(f"{name}: $elemMatch takes an object")
    if is_expression(operand) and next(iter(operand)) not in _COMBINING:
        of_element = _condition_test(operand, name, lambda test, spread: test)
    else:
        of_element = _all([lambda element: isinstance(element, dict), _query_test(operand)])
    return lambda value: isinstance(value, list) and any(map(of_element, value))


def _types(operand: Any) -> set[str]:
    """Return the names of the types that an operand of `$type` names, by name or by number."""
    named: set[str] = set()
    for one in operand if isinstance(operand, list) else [operand]:
        is_number = type(one) in (int, float)
        same = {name for name, number in _TYPE_NUMBERS.items() if one == (number if is_number else name)}
        if not same and one != "number":
            raise RequestError(f"$type takes names such as string or numbers from MongoDB's list, not {one!r}")
        named |= same or {"double", "int", "long", "decimal"}
    if not named:
        raise RequestError("$type takes a list of at least one type")
    return named


def _type(value: object) -> str:
    if type(value) is int:
        return "int" if -(2**31) <= value < 2**31 else "long" if -(2**63) <= value < 2**63 else "double"
    names = {str: "string", bool: "bool", float: "double", dict: "object", list: "array", type(None): "null"}
    return names.get(type(value), "")


def _unknown(operator: str, place: str) -> RequestError:
    if operator in _UNSUPPORTED:
        return RequestError(f"{operator} is not supported; DocDB may know it")
    return RequestError(f"{place}unknown operator {operator}")


# What a database can evaluate: dates are text there, not instants


class Narrowed(NamedTuple):
    """A query in two parts, both of which a record must match.

    `sent` is for the database, and finds all records of the query, maybe others. `judge` tells whether a record that
    the database found matches, by `fields`; it is None if all do.
    """

    sent: Filter
    judge: Callable[[Record], bool] | None
    fields: Sequence[str]


def narrowed(query: Query, place: str) -> Narrowed:
    """Return the parts of a query; raises RequestError if a condition on an instant cannot be evaluated here."""
    if not _holds_instant(query.paths):
        return Narrowed(query.paths, None, ())
    parts = list(conditions(query.paths))
    sent = [_wider(one) if _holds_instant(one) else one for one in parts]
    to_judge = {"$and": [one for one in parts if _holds_instant(one)]}
    judge = Matching(Query(query.filter, to_judge), place)
    return Narrowed(all_of([one for one in sent if one]), judge, list(fields_in(to_judge)))


def _holds_instant(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_instant, value.values()))
    return any(map(_holds_instant, value)) if isinstance(value, list) else isinstance(value, Instant)


def _wider(query: Filter) -> Filter:
    """Return a query without instants that finds all that this one finds."""
    parts: list[Filter] = []
    for key, condition in query.items():
        if key in ("$and", "$or"):
            parts.append({key: [_wider(part) for part in condition]})
        elif not _holds_instant(condition):
            parts.append({key: condition})
        elif key != "$nor":
            expression = {"$eq": condition} if isinstance(condition, Instant) else condition
            wider = (_wider_operator(operator, operand) for operator, operand in expression.items())
            parts += [{key: one} for one in wider if one]
    return all_of(parts)


def _wider_operator(operator: str, operand: Any) -> Filter:
    """Return a condition on text that all times of a condition meet, in whatever zone they are written."""
    if not _holds_instant(operand):
        return {operator: operand}
    first = last = None
    if operator == "$eq":
        first = last = operand
    elif operator in ("$gt", "$gte"):
        first = operand
    elif operator in ("$lt", "$lte"):
        last = operand
    elif operator == "$in" and all(isinstance(one, Instant) for one in operand):
        first, last = (choose(operand, key=lambda one: one.moment) for choose in (min, max))
    # else a negation: its days do not limit what it finds
    days = {"$gte": first.day(-1)} if first else {}
    return {**days, "$lt": last.day(2)} if last else days

"""What of a query a database can be asked, and what is left to judge here: dates are text there, not instants."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from job_dispatch.metadata.records import Filter, Record
from job_dispatch.request.fields import Instant, all_of, expanded

_EVERYTHING: Filter = {}


class Narrowed(NamedTuple):
    """A query in two parts: records match it where they match both.

    Parameters
    ----------
    asked : Filter
        For the database; finds all records of the query, and maybe others.
    judge : callable or None
        Tells whether a record that the database found matches; None where all do.
    fields : list of str
        What `judge` looks at.
    """

    asked: Filter
    judge: Callable[[Record], bool] | None
    fields: Sequence[str]


def narrowed(query: Filter, place: str) -> Narrowed:
    """Return the parts of a query as a user gives it, names of fields included.

    Raises
    ------
    RequestError
        A name is unknown, or a condition beside an instant cannot be judged here.
    """
    conditions = list(_conditions(expanded(query)))
    left = [one for one in conditions if _holds_instant(one)]
    if not left:
        return Narrowed(expanded(query), None, ())
    from job_dispatch.metadata.matching import Matching

    asked = [_wider(one) if _holds_instant(one) else one for one in conditions]
    to_judge = {"$and": left}
    return Narrowed(all_of([one for one in asked if one]), Matching(to_judge, place, query), list(_fields(to_judge)))


def _conditions(query: Filter) -> Iterator[Filter]:
    for key, condition in query.items():
        if key == "$and" and isinstance(condition, list):
            for part in condition:
                yield from _conditions(part)
        else:
            yield {key: condition}


def _holds_instant(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_instant, value.values()))
    return any(map(_holds_instant, value)) if isinstance(value, list) else isinstance(value, Instant)


def _fields(query: Filter) -> Iterator[str]:
    for key, condition in query.items():
        if not key.startswith("$"):
            yield key
        elif isinstance(condition, list):
            for part in condition:
                yield from _fields(part)


def _wider(query: Filter) -> Filter:
    """Return a query without instants that finds all that this one finds."""
    parts: list[Filter] = []
    for key, condition in query.items():
        if key in ("$and", "$or"):
            parts.append({key: [_wider(part) for part in condition]})
        elif not _holds_instant(condition):
            parts.append({key: condition})
        elif isinstance(condition, Instant):
            parts.append({key: _days(condition, condition)})
        elif key != "$nor":
            parts += [{key: wider} for wider in _wider_operators(condition) if wider]
    return all_of(parts)


def _wider_operators(condition: Filter) -> Iterator[Filter]:
    for operator, operand in condition.items():
        if not _holds_instant(operand):
            yield {operator: operand}
        elif operator == "$eq":
            yield _days(operand, operand)
        elif operator in ("$gt", "$gte"):
            yield _days(operand, None)
        elif operator in ("$lt", "$lte"):
            yield _days(None, operand)
        elif operator == "$in" and all(isinstance(one, Instant) for one in operand):
            yield _days(min(operand, key=_moment), max(operand, key=_moment))
        else:  # what a negation finds cannot be told from the days
            yield _EVERYTHING


def _moment(one: Instant) -> Any:
    return one.moment


def _days(first: Instant | None, last: Instant | None) -> Filter:
    """Return the condition on text that all times from `first` to `last` meet, whatever zone they are written in."""
    days = {}
    if first is not None:
        days["$gte"] = first.day(-1)
    if last is not None:
        days["$lt"] = last.day(2)
    return days

"""Splitting a query into what a database can evaluate and what is left: dates are text there, not instants."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from job_dispatch.metadata.records import Filter, Record
from job_dispatch.request.fields import Instant, all_of, conditions, expanded, fields_in

_EVERYTHING: Filter = {}


class Narrowed(NamedTuple):
    """A query in two parts, both of which a record must match.

    Parameters
    ----------
    sent : Filter
        For the database; finds all records of the query, and maybe others.
    judge : callable or None
        Tells whether a record that the database found matches; None if all do.
    fields : list of str
        The fields that `judge` needs.
    """

    sent: Filter
    judge: Callable[[Record], bool] | None
    fields: Sequence[str]


def narrowed(query: Filter, place: str) -> Narrowed:
    """Return the parts of a query as a user gives it, with names of fields such as `@subject`.

    Raises
    ------
    RequestError
        A name is unknown, or a condition beside one on an instant cannot be evaluated here.
    """
    paths = expanded(query)
    if not _holds_instant(paths):
        return Narrowed(paths, None, ())
    from job_dispatch.metadata.matching import Matching

    parts = list(conditions(paths))
    sent = [_wider(one) if _holds_instant(one) else one for one in parts]
    to_judge = {"$and": [one for one in parts if _holds_instant(one)]}
    return Narrowed(all_of([one for one in sent if one]), Matching(to_judge, place, query), list(fields_in(to_judge)))


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
        else:  # a negation: its days do not limit what it finds
            yield _EVERYTHING


def _moment(one: Instant) -> Any:
    return one.moment


def _days(first: Instant | None, last: Instant | None) -> Filter:
    """Return a condition on text that all times from `first` to `last` meet, in whatever zone they are written."""
    days = {}
    if first is not None:
        days["$gte"] = first.day(-1)
    if last is not None:
        days["$lt"] = last.day(2)
    return days

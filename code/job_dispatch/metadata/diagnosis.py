"""Why a query matches nothing, and what a field that is not there may have been meant to be."""

from __future__ import annotations

import difflib
import json
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from job_dispatch.messages import LISTED_AT_MOST, DispatchError, counted, printable
from job_dispatch.metadata.records import Filter, MetadataSource, Record, value_at
from job_dispatch.request.fields import NAMES, paths_of_key

_SAMPLE_SIZE = 200
_SECONDS = 60.0
_VALUES_SHOWN = 10
_CONDITION_WIDTH = 60
# What --from and --to compare as text, by the name that people know.
_NAMES = {"|".join(NAMES["@session"]): "@session"}


def field_names(records: Iterable[Record]) -> set[str]:
    """Return the dotted paths of all fields in records; paths go through lists without an index."""
    return {path for record in records for path in _paths(record, "")}


def _paths(value: object, parent: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, child in value.items():
            path = f"{parent}.{key}" if parent else key
            yield path
            yield from _paths(child, path)
    elif isinstance(value, list):
        for element in value:
            yield from _paths(element, parent)


def suggestion(field: str, known: Collection[str]) -> str:
    """Return `did you mean …?` with the nearest known names, or nothing where none is near."""
    parents = {name.rpartition(".")[0] for name in known}
    names = sorted(name for name in known if name not in parents)
    last = field.rpartition(".")[2].casefold()
    near = (
        [name for name in names if name.rpartition(".")[2].casefold() == last]
        or difflib.get_close_matches(field, names, n=2, cutoff=0.8)
        or difflib.get_close_matches(field, sorted(known), n=1)
    )
    return f"did you mean {' or '.join(near[:2])}?" if near else ""


def known_fields(metadata: MetadataSource, query: Filter) -> set[str]:
    """Return the names of the fields in a sample of the records that match; empty where that fails."""
    try:
        return field_names(metadata.sample(query, _SAMPLE_SIZE, _SECONDS))
    except DispatchError:
        return set()


def explain_nothing(metadata: MetadataSource, query: Filter) -> list[str]:
    """Return which part of a query that matches nothing is to blame, one line a condition.

    Each top-level condition is counted alone; then they are added one by one until nothing is left. At most
    2 + 3 × conditions requests in at most 60 seconds. A count that fails shows `?` and changes nothing else.
    """
    asked = _Asked(metadata, time.monotonic() + _SECONDS)
    conditions = list(_conditions(query))
    if not conditions:
        return ["there is no record at all"]
    alone = [asked.count(condition) for condition in conditions]
    culprit = _culprit(asked, conditions, alone)
    sample = asked.sample(conditions[:culprit])
    known = field_names(sample)
    lines = []
    for number, (condition, count) in enumerate(zip(conditions, alone, strict=True)):
        if count != 0 and number != culprit:
            lines.append(_Line(_text(condition), _records(count), ""))
        elif missing := [name for name in _fields(condition) if sample and asked.is_nowhere(name, known)]:
            lines.append(_Line(_text(condition), "no such field", suggestion(missing[0], known)))
        else:
            together = "none of them with all above" if count else ""
            remarks = [remark for remark in (together, _values(condition, sample)) if remark]
            lines.append(_Line(_text(condition), _records(count), "; ".join(remarks)))
    if len(lines) > LISTED_AT_MOST:  # what is to blame must not be among those that are only counted
        lines.insert(0, lines.pop(culprit))
    return _aligned(lines)


@dataclass(frozen=True)
class _Line:
    condition: str
    finding: str
    remark: str


@dataclass(frozen=True)
class _Asked:
    """The questions to the source of records; none after the deadline, and a failure is no answer."""

    metadata: MetadataSource
    deadline: float

    def count(self, query: Filter) -> int | None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            return None
        try:
            return self.metadata.count(query, left)
        except DispatchError:
            return None

    def is_nowhere(self, name: str, known: set[str]) -> bool:
        """Tell whether no record has a field: it is not among those of a sample, and none is counted that has it."""
        if _is_known(name, known):
            return False
        return self.count({"$or": [{path: {"$exists": True}} for path in paths_of_key(name)]}) in (0, None)

    def sample(self, conditions: Sequence[Filter]) -> list[Record]:
        left = self.deadline - time.monotonic()
        if left <= 0:
            return []
        try:
            return self.metadata.sample(_all_of(conditions), _SAMPLE_SIZE, left)
        except DispatchError:
            return []


def _conditions(query: Filter) -> Iterator[Filter]:
    for key, condition in query.items():
        if key == "$and" and isinstance(condition, list):
            for part in condition:
                yield from _conditions(part)
        elif key != "$comment":
            yield {key: condition}


def _all_of(conditions: Sequence[Filter]) -> Filter:
    return {"$and": list(conditions)} if conditions else {}


def _culprit(asked: _Asked, conditions: Sequence[Filter], alone: Sequence[int | None]) -> int:
    """Return the first condition with which, together with those before it, nothing is left."""
    for number, count in enumerate(alone):
        is_last = number == len(conditions) - 1
        if is_last or count == 0 or (number > 0 and asked.count(_all_of(conditions[: number + 1])) == 0):
            return number
    raise AssertionError("no conditions")


def _fields(condition: Filter) -> Iterator[str]:
    for key, value in condition.items():
        if not key.startswith("$"):
            yield key
        elif isinstance(value, list):
            for part in value:
                if isinstance(part, dict):
                    yield from _fields(part)


def _is_known(name: str, known: set[str]) -> bool:
    """Tell whether a field is known; a part that is a number may be an index, or the key of an object."""
    without_indexes = (
        ".".join(part for part in path.split(".") if not part.isdecimal()) for path in paths_of_key(name)
    )
    return not known.isdisjoint((*paths_of_key(name), *without_indexes))


def _text(condition: Filter) -> str:
    [(key, value)] = condition.items()
    key = _NAMES.get(key, key)
    if isinstance(value, dict) and len(value) == 1 and next(iter(value)).startswith("$"):
        [(operator, operand)] = value.items()
        return printable(f"{key} {operator} {_json(operand)}", _CONDITION_WIDTH)
    return printable(f"{key} {_json(value)}" if key.startswith("$") else f"{key} = {_json(value)}", _CONDITION_WIDTH)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _records(count: int | None) -> str:
    return "? records" if count is None else counted(count, "record")


def _values(condition: Filter, sample: Sequence[Record]) -> str:
    """Return up to ten values that the condition's field has in the sample, the most frequent first."""
    [(field, _)] = condition.items()
    if field.startswith("$"):
        return ""
    values = Counter(
        _json(value)
        for found in (value_at(record, path) for record in sample for path in paths_of_key(field))
        for value in (found if isinstance(found, list) else [found])
        if isinstance(value, str | int | float)
    )
    shown = [printable(value, _CONDITION_WIDTH) for value, _ in values.most_common(_VALUES_SHOWN)]
    return f"values there: {', '.join(shown)}" if shown else ""


def _aligned(lines: Sequence[_Line]) -> list[str]:
    first = max(len(line.condition) for line in lines)
    second = max(len(line.finding) for line in lines)
    return [f"{line.condition:<{first}}   {line.finding:>{second}}   {line.remark}".rstrip() for line in lines]

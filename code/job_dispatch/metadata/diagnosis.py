"""Why a query matches nothing, and which field a missing one was meant to be."""

from __future__ import annotations

import difflib
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from job_dispatch.failures import advice
from job_dispatch.messages import LISTED_AT_MOST, counted, printable
from job_dispatch.metadata.records import Filter, MetadataSource, Record, value_at, values_in
from job_dispatch.request.fields import NAMES, Query, all_of, conditions, fields_in, is_expression, paths_of_key

_SAMPLE_SIZE = 200
_SECONDS = 60.0
_VALUES_SHOWN = 10
_CONDITION_WIDTH = 60
_OPERATORS = frozenset(
    ["$all", "$elemMatch", "$eq", "$exists", "$gt", "$gte", "$in", "$lt", "$lte", "$ne", "$nin", "$not", "$regex"]
)
# --from and --to compare these paths as text; people know them by the name.
_NAMES = {"|".join(NAMES["@session"]): "@session"}


def field_names(records: Iterable[Record]) -> Counter[str]:
    """Return how many records have each dotted path; paths go through lists without an index."""
    return Counter(path for record in records for path in {path for path, _ in values_in(record)})


def suggestion(field: str, known: Mapping[str, int]) -> str:
    """Return `did you mean …?` with the nearest known names, those of most records first, or nothing."""
    parents = {name.rpartition(".")[0] for name in known}
    names = sorted((name for name in known if name not in parents), key=lambda name: (-known[name], name))
    last = field.rpartition(".")[2].casefold()
    near = (
        [name for name in known if name.casefold() == field.casefold()]
        or [name for name in names if name.rpartition(".")[2].casefold() == last]
        or difflib.get_close_matches(field, names, n=2, cutoff=0.8)
        or difflib.get_close_matches(field, sorted(known), n=1)
    )
    return f"did you mean {' or '.join(near[:2])}?" if near else ""


def known_fields(metadata: MetadataSource, query: Filter) -> Counter[str]:
    """Return the names of the fields in a sample of the records that match; empty if that fails."""
    return advice(lambda: field_names(metadata.sample(Query.of(query), _SAMPLE_SIZE, _SECONDS)), Counter())


def explain_nothing(metadata: MetadataSource, query: Filter) -> list[str]:
    """Return which part of a query that matches nothing is to blame, one line per condition.

    Each top-level condition is counted alone; then they are combined one by one until nothing is left. At most
    2 + 3 × conditions requests in at most 60 seconds. A count that fails is shown as `?`.
    """
    source = _Source(metadata, time.monotonic() + _SECONDS)
    parts = list(conditions(query))
    if not parts:
        return ["there is no record at all"]
    alone = [source.count(condition) for condition in parts]
    culprit = _culprit(source, parts, alone)
    sample = source.sample(parts[:culprit])
    known = field_names(sample)
    lines = []
    for number, (condition, count) in enumerate(zip(parts, alone, strict=True)):
        finding = "? records" if count is None else counted(count, "record")
        remarks: list[str] = []
        if count == 0 or number == culprit:
            if missing := [name for name in fields_in(condition) if sample and source.is_nowhere(name, known)]:
                finding = "no such field"
                remarks = [suggestion(missing[0], known), _hint(condition, ())]
            else:
                remarks = ["none of them with all above" if count else "", _hint(condition, sample)]
                remarks.append(_values(condition, sample))
        lines.append((_text(condition), finding, "; ".join(filter(None, remarks))))
    if len(lines) > LISTED_AT_MOST:  # the one to blame must not be among those that are only counted
        lines.insert(0, lines.pop(culprit))
    first, second = (max(len(line[column]) for line in lines) for column in (0, 1))
    return [f"{text:<{first}}   {finding:>{second}}   {remark}".rstrip() for text, finding, remark in lines]


@dataclass(frozen=True)
class _Source:
    """Queries to the source of records; none after the deadline, and no answer if one fails."""

    metadata: MetadataSource
    deadline: float

    def count(self, query: Filter) -> int | None:
        left = self.deadline - time.monotonic()
        return advice(lambda: self.metadata.count(Query.of(query), left), None) if left > 0 else None

    def sample(self, conditions: Sequence[Filter]) -> list[Record]:
        left, query = self.deadline - time.monotonic(), Query.of(all_of(conditions))
        return advice(lambda: self.metadata.sample(query, _SAMPLE_SIZE, left), []) if left > 0 else []

    def is_nowhere(self, name: str, known: Mapping[str, int]) -> bool:
        """Tell whether no record has a field: neither one of a sample, nor any that is counted."""
        paths = paths_of_key(name)
        # A part that is a number may be an index, or the key of an object.
        without_indexes = (".".join(part for part in path.split(".") if not part.isdecimal()) for path in paths)
        if not known.keys().isdisjoint((*paths, *without_indexes)):
            return False
        return self.count({"$or": [{path: {"$exists": True}} for path in paths]}) in (0, None)


def _culprit(source: _Source, parts: Sequence[Filter], alone: Sequence[int | None]) -> int:
    """Return the first condition that, combined with those before it, leaves nothing."""
    for number, count in enumerate(alone[:-1]):
        if count == 0 or (number > 0 and source.count(all_of(parts[: number + 1])) == 0):
            return number
    return len(parts) - 1


def _text(condition: Filter) -> str:
    [(key, value)] = condition.items()
    key = _NAMES.get(key, key)
    if isinstance(value, dict) and len(value) == 1 and next(iter(value)).startswith("$"):
        [(operator, operand)] = value.items()
        return printable(f"{key} {operator} {_json(operand)}", _CONDITION_WIDTH)
    return printable(f"{key} {_json(value)}" if key.startswith("$") else f"{key} = {_json(value)}", _CONDITION_WIDTH)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _hint(condition: Filter, sample: Sequence[Record]) -> str:
    """Return what is wrong with the form of a condition, if anything is."""
    [(field, value)] = condition.items()
    if field.startswith("$"):
        return ""
    if isinstance(value, list):
        return 'a list is compared as a whole: drop the brackets, or write {"$in": […]}'
    if isinstance(value, dict) and value and not is_expression(value):
        key = next(iter(value))
        if f"${key}" in _OPERATORS:
            return f"write ${key} instead of {key}"
        written = printable(_json({f"{field}.{key}": value[key]}), _CONDITION_WIDTH)
        return f"an object is compared as a whole: write {written}"
    inside = [item for one in _found(field, sample) if isinstance(one, dict) for item in one.items()]
    keys = [key for key, inner in inside if inner == value] or [key for key, inner in inside if isinstance(inner, str)]
    near = list(dict.fromkeys(keys))[:2]
    return f"it holds objects: write {' or '.join(f'{field}.{key}' for key in near)}" if near else ""


def _found(field: str, sample: Sequence[Record]) -> Iterator[Any]:
    """Yield the values of a field in a sample, those of lists one by one."""
    for record in sample:
        for path in paths_of_key(field):
            found = value_at(record, path)
            yield from found if isinstance(found, list) else [found]


def _values(condition: Filter, sample: Sequence[Record]) -> str:
    """Return up to ten values that the condition's field has in the sample, the most frequent first."""
    [field] = condition
    if field.startswith("$"):
        return ""
    values = Counter(_json(value) for value in _found(field, sample) if isinstance(value, str | int | float))
    shown = [printable(value, _CONDITION_WIDTH) for value, _ in values.most_common(_VALUES_SHOWN)]
    return f"values there: {', '.join(shown)}" if shown else ""

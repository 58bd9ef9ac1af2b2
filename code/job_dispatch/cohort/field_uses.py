"""Which fields records have, how often, and with which values; v1 and v2 side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from job_dispatch.metadata.records import Record

# What only records of API version v2 have.
_V2_FIELDS = ("acquisition", "other_identifiers")
VERSIONS = ("v1", "v2")
_PATHS_AT_MOST = 5_000
_VALUES_AT_MOST = 1_000
_VALUE_LENGTH = 80
Value = str | int | float | bool


class FieldUse(NamedTuple):
    """A field: in how many of the records of each version it has a value, and its most frequent values."""

    path: str
    records: tuple[int, int]
    values: list[tuple[Value, int]]


class FieldUses:
    """The fields of records, counted as they come; `sampled` are the records seen of each version."""

    def __init__(self) -> None:
        self.sampled = [0, 0]
        self._records: dict[str, list[int]] = {}
        self._values: dict[str, Counter[tuple[type, Value]]] = {}

    def add(self, records: Iterable[Record]) -> None:
        """Count the fields of more records."""
        for record in records:
            version = _version(record)
            self.sampled[version] += 1
            found: dict[str, set[tuple[type, Value]]] = {}
            for path, value in _leaves(record, ""):
                values = found.setdefault(path, set())
                if not isinstance(value, str) or len(value) <= _VALUE_LENGTH:
                    values.add((type(value), value))
            for path, values in found.items():
                if path in self._records or len(self._records) < _PATHS_AT_MOST:
                    self._records.setdefault(path, [0, 0])[version] += 1
                    self._count(self._values.setdefault(path, Counter()), values)

    @staticmethod
    def _count(counts: Counter[tuple[type, Value]], values: Iterable[tuple[type, Value]]) -> None:
        """Count values; of a field with thousands of them only the first come count, which are no frequent ones."""
        for value in values:
            if value in counts or len(counts) < _VALUES_AT_MOST:
                counts[value] += 1

    def uses(self, fields: int, values: int) -> list[FieldUse]:
        """Return so many fields, the most frequent first, each with so many of its values.

        A field whose values all differ has none that is frequent: one is shown as an example.
        """
        ordered = sorted(self._records.items(), key=lambda item: (-sum(item[1]), item[0]))
        return [
            FieldUse(path, (v1, v2), [(value, number) for (_, value), number in _top(self._values[path], values)])
            for path, (v1, v2) in ordered[:fields]
        ]

    def __len__(self) -> int:
        return len(self._records)


def _top(counts: Counter[tuple[type, Value]], at_most: int) -> list[tuple[tuple[type, Value], int]]:
    top = sorted(counts.items(), key=lambda item: (-item[1], str(item[0][1])))[:at_most]
    return top if len(counts) <= at_most or (top and top[0][1] > 1) else top[:1]


def _version(record: Record) -> int:
    """Return 0 for a record in the shape of API version v1, 1 for v2."""
    description = record.get("data_description")
    if isinstance(description, dict) and ("modality" in description) != ("modalities" in description):
        return int("modalities" in description)
    return int(any(record.get(field) is not None for field in _V2_FIELDS))


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Value]]:
    """Yield path and value of all that is neither object, list nor null; paths go through lists without an index."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _leaves(below, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for element in value:
            yield from _leaves(element, path)
    elif value is not None:
        yield path, value

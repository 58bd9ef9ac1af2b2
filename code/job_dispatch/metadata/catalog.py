"""The local catalog: metadata records in a file, asked in the same query language as DocDB."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from job_dispatch.messages import ServiceError
from job_dispatch.metadata.catalog_file import CatalogFile
from job_dispatch.metadata.matching import Matching
from job_dispatch.metadata.records import Filter, Record, projection

_RECORDS_A_PAGE = 5_000


class Catalog:
    """The records of a `CatalogFile`, which is read anew for each question and raises what is wrong with it."""

    may_name_local_files = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = CatalogFile(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def find(self, query: Filter, fields: Sequence[str]) -> Iterator[list[Record]]:
        """Yield pages of the records that match, with `_id` and `fields`; locations are resolved to `file://`."""
        wanted = _tree(fields)
        page: list[Record] = []
        for record in self._matching(query, None):
            page.append(self._resolved(_projected(record, wanted)))
            if len(page) == _RECORDS_A_PAGE:
                yield page
                page = []
        yield page

    def count(self, query: Filter, within: float) -> int:
        """Return how many records match."""
        return sum(1 for _ in self._matching(query, within))

    def sample(self, query: Filter, size: int, within: float) -> list[Record]:
        """Return records drawn at random, the same ones for the same question."""
        draw = random.Random(0)
        sample: list[Record] = []
        for number, record in enumerate(self._matching(query, within)):
            if number < size:
                sample.append(record)
            elif (place := draw.randrange(number + 1)) < size:
                sample[place] = record
        return sorted(sample, key=lambda record: str(record["_id"]), reverse=True)

    def _matching(self, query: Filter, within: float | None) -> Iterator[Record]:
        matches = Matching(query, f"{self._path}: the catalog")
        deadline = None if within is None else time.monotonic() + within
        for records in self._file.blocks(matches.holding):
            if deadline is not None and time.monotonic() > deadline:
                raise ServiceError(f"{self._path}: not read in time")
            yield from filter(matches, records)

    def _resolved(self, record: Record) -> Record:
        location = record.get("location")
        if not isinstance(location, str) or not location or "://" in location:
            return record
        # Not percent-encoded: fsspec, with which wrappers open files, does not decode it.
        return {**record, "location": f"file://{Path(os.path.abspath(self._path.parent), location)}"}  # noqa: PTH100


def _tree(fields: Sequence[str]) -> dict[str, Any]:
    """Return what to keep as an object of the same shape, None for what is kept whole."""
    tree: dict[str, Any] = {"_id": None}
    for path in projection(fields):
        branch = tree
        *parents, leaf = path.split(".")
        for part in parents:
            branch = branch.setdefault(part, {})
        branch[leaf] = None
    return tree


def _projected(value: Any, tree: dict[str, Any]) -> Any:
    """Return what MongoDB's `$project` keeps: lists are looked through, and what has no fields in them falls away."""
    if isinstance(value, list):
        return [_projected(element, tree) for element in value if isinstance(element, dict | list)]
    return {
        key: value[key] if below is None else _projected(value[key], below)
        for key, below in tree.items()
        if key in value and (below is None or isinstance(value[key], dict | list))
    }

"""The local catalog: metadata records in a file, asked in the same query language as DocDB."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, Self

import mongomock.filtering

import json_text
from messages import RequestError
from records import Filter, Record

_candidates_in_object: Callable[[str, Any], Any] = mongomock.filtering.iter_key_candidates
_MISSING = _candidates_in_object("key", {})


def _candidates(key: str, document: Any) -> Any:
    """Return what a path finds in a document, as MongoDB does: below null or a scalar it is missing.

    mongomock finds nothing at all there, so that `{"subject.subject_id": null}`, `$ne`, `$exists` and
    `$not` answer the opposite of MongoDB for a record with `subject: null`.
    """
    if key and not isinstance(document, dict | list):
        return _MISSING
    return _candidates_in_object(key, document)


mongomock.filtering.iter_key_candidates = _candidates


class Catalog:
    """The records of a JSON Lines file, or of a JSON array.

    Parameters
    ----------
    path : pathlib.Path

    Raises
    ------
    RequestError
        The file cannot be read, or a line is no record with an `_id` of its own.
    """

    may_name_local_files = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self._records = _read_records(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def find(self, query: Filter, fields: Sequence[str]) -> Iterator[list[Record]]:
        """Yield one page with all records that match; relative locations are resolved to `file://`."""
        yield [self._resolved(record) for record in self._records if self._applies(query, record)]

    def _applies(self, query: Filter, record: Record) -> bool:
        try:
            return bool(mongomock.filtering.filter_applies(query, record))
        except re.error as error:
            reason = f"a regular expression is wrong: {error}"
        except Exception as error:  # on plain JSON records the query is at fault, whatever is raised
            reason = str(error) or type(error).__name__
        raise RequestError(f"{self._path}: the catalog cannot evaluate the query: {reason}") from None

    def _resolved(self, record: Record) -> Record:
        location = record.get("location")
        if not isinstance(location, str) or not location.strip() or "://" in location:
            return record
        # Not percent-encoded: fsspec, with which wrappers open files, does not decode it.
        return {**record, "location": f"file://{self._path.parent.absolute() / location.strip()}"}


def _read_records(path: Path) -> list[Record]:
    text = json_text.read_file(path)
    if text.lstrip().startswith("["):
        elements = _parse(text, f"{path}")
        numbered = [(f"{path}, record {number}", element) for number, element in enumerate(elements, 1)]
    else:
        lines = ((f"{path}, line {number}", line) for number, line in enumerate(text.split("\n"), 1))
        numbered = [(place, _parse(line, place)) for place, line in lines if line.strip()]
    seen: dict[str, str] = {}
    for place, record in numbered:
        if not isinstance(record, dict) or not isinstance(record.get("_id"), str):
            raise RequestError(f"{place}: not a metadata record: an object with a text _id")
        if (first := seen.setdefault(record["_id"], place)) != place:
            raise RequestError(f"{place}: the _id {record['_id']} stands in {first} already")
    return [record for _, record in numbered]


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise RequestError(f"{place}: nested too deep to read") from None
    except ValueError as error:
        raise RequestError(
            f"{place}: not JSON: {error}; a catalog has one record a line, or is one JSON array"
        ) from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")

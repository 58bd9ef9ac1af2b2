"""The local catalog: metadata records in a file, asked in the same query language as DocDB."""

from __future__ import annotations

import heapq
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, Self, cast

import mongomock.filtering

from job_dispatch.messages import RequestError
from job_dispatch.metadata.records import Filter, Record
from job_dispatch.request import json_text

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
        self._check(query)
        yield [self._resolved(record) for record in self._records if self._applies(query, record)]

    def count(self, query: Filter, within: float) -> int:
        """Return how many records match."""
        return sum(self._applies(query, record) for record in self._records)

    def sample(self, query: Filter, size: int, within: float) -> list[Record]:
        """Return the records with the greatest `_id`."""
        found = (record for record in self._records if self._applies(query, record))
        return heapq.nlargest(size, found, key=lambda record: str(record["_id"]))

    def _check(self, query: Filter) -> None:
        """Try each condition once, since on the records a mistake shows only where evaluation reaches it."""
        for key, condition in query.items():
            if key in ("$and", "$or", "$nor") and isinstance(condition, list) and condition:
                for part in condition:
                    if isinstance(part, dict):
                        self._check(part)
                    else:
                        self._applies({key: [part]}, {})
            elif key == "$expr":
                continue  # its fields would be missing here
            elif isinstance(condition, dict) and isinstance(condition.get("$elemMatch"), dict):
                inner = condition["$elemMatch"]
                self._check({key: inner} if all(name.startswith("$") for name in inner) else inner)
            else:
                for value in cast("tuple[Any, ...]", ("", [{}])):
                    self._applies({key: condition}, {} if key.startswith("$") else _record_with(key, value))

    def _applies(self, query: Filter, record: Record) -> bool:
        try:
            return bool(mongomock.filtering.filter_applies(query, record))
        except re.error as error:
            reason = f"a regular expression is wrong: {error}"
        except NotImplementedError as error:
            operator = re.search(r"\$\w+", str(error))
            reason = f"{operator[0] if operator else 'an operator'} is not supported; DocDB may know it"
        except mongomock.OperationFailure as error:
            reason = str(error)
        except Exception:  # on plain JSON records the query is at fault, whatever is raised
            reason = "an operator has a value that it does not take"
        raise RequestError(
            f"{self._path}: the catalog cannot evaluate the query: {reason}", [f"query: {json_text.compact(query)}"]
        ) from None

    def _resolved(self, record: Record) -> Record:
        location = record.get("location")
        if not isinstance(location, str) or not location or "://" in location:
            return record
        # Not percent-encoded: fsspec, with which wrappers open files, does not decode it.
        return {**record, "location": f"file://{Path(os.path.abspath(self._path.parent), location)}"}  # noqa: PTH100


def _record_with(path: str, value: Any) -> Record:
    """Return a record in which a dotted path has a value."""
    for part in reversed(path.split(".")):
        value = {part: value}
    return cast("Record", value)


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
            raise RequestError(f"{place}: not a metadata record; it must be an object with an _id that is text")
        if (first := seen.setdefault(record["_id"], place)) != place:
            raise RequestError(f"{place}: the _id {record['_id']} stands in {first} already; each may stand once")
    return [record for _, record in numbered]


def _parse(text: str, place: str) -> Any:
    form = "a catalog has one record a line, or is one JSON array"
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise RequestError(f"{place}: nested too deep to read") from None
    except json.JSONDecodeError as error:
        raise RequestError(f"{place}: not JSON: {error.msg} at {_position(text, error)}; {form}") from None
    except ValueError as error:
        raise RequestError(f"{place}: not JSON: {error}") from None
    if "\\ud" in text.lower() and not json_text.is_unicode(value):
        raise RequestError(f"{place}: text with a lone surrogate, which cannot be written; remove it")
    return value


def _position(text: str, error: json.JSONDecodeError) -> str:
    return f"line {error.lineno}, column {error.colno}" if "\n" in text.strip() else f"column {error.colno}"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")

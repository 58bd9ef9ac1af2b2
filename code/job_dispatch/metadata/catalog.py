"""A catalog: metadata records in a file, JSON Lines or one JSON array, with the same query language as DocDB."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import math
import os
import random
import re
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Self, cast

import msgspec

from job_dispatch.messages import RequestError, ServiceError, has_read
from job_dispatch.metadata.matching import Matching
from job_dispatch.metadata.records import Record, projection
from job_dispatch.model import Skipped
from job_dispatch.request import json_text
from job_dispatch.request.fields import Query

_RECORDS_A_PAGE = 5_000
_FORM = "a catalog has one record per line, or is one JSON array"
# So small that a core's own memory holds it until it is judged; larger blocks take longer.
_BYTES_A_BLOCK = 16_384
_ELEMENTS_A_BLOCK = 8
# With the usual 8 kB, system calls take a twentieth of the time.
_BYTES_A_READ = 262_144
_BOM = b"\xef\xbb\xbf"
_ESCAPED_COLON = re.compile(rb"\\u003a", re.IGNORECASE)

_DECODE = msgspec.json.Decoder().decode
_DECODE_ARRAY = msgspec.json.Decoder(list[msgspec.Raw]).decode
_ENCODE = msgspec.json.Encoder().encode


class Catalog:
    """Metadata records in a file: one JSON record per line, or one JSON list of records.

    Each query reads the file again, and raises `RequestError` for a line that is not a record.

    Parameters
    ----------
    path : path or str
        The file, compressed if its name ends in `.gz`. Relative locations in it are relative to its folder.
    content : file, optional
        An open file to read instead; the path is then only a name for messages.

    Examples
    --------
    >>> import job_dispatch as jd
    >>> jd.select(jd.Catalog("catalog.jsonl"), {"data_description.data_level": "derived"})
    <Cohort: 8 assets in 8 groups, 0 skipped>
    """

    may_name_local_files = True
    is_database = False
    skipped: Sequence[Skipped] = ()

    def __init__(self, path: Path | str, content: IO[bytes] | None = None) -> None:
        self._path, self._content = path, content
        # Whether it was written here, line by line and without blanks, with an `_id` of its own in each.
        self._is_checked = False
        if content is None and not Path(path).is_file():  # a pipe can be read only once
            text = json_text.read_bytes(Path(path))
            self._content = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the catalog
            self._content.write(text)
            self._content.flush()
        self._open().close()

    @classmethod
    def of(cls, records: Iterable[Record], name: str) -> Self:
        """Return a catalog of records that come one by one; they are kept in a temporary file, not in memory."""
        content = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the catalog
        try:
            content.writelines(line for record in records for line in (_ENCODE(record), b"\n"))
            content.flush()
        except BaseException as error:
            content.close()
            if isinstance(error, OSError):
                raise ServiceError(f"the records of {name} do not fit into {tempfile.gettempdir()}: {error}") from error
            raise
        catalog = cls(name, content)
        catalog._is_checked = True
        return catalog

    def open(self, skip_errors: bool = False) -> Self:
        """Return its records; the file is read when they are asked for."""
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the temporary file, if there is one."""
        if self._content is not None:
            self._content.close()

    def find(self, query: Query, fields: Sequence[str] | None) -> Iterator[list[Record]]:
        """Yield pages of the records that match, with `_id` and `fields`; locations are resolved to `file://`."""
        wanted = None if fields is None else _tree(fields)
        found = (
            self._resolved(record if wanted is None else _projected(record, wanted))
            for record in self._matching(query, math.inf)
        )
        while page := list(itertools.islice(found, _RECORDS_A_PAGE)):
            yield page

    def count(self, query: Query, within: float) -> int:
        """Return how many records match."""
        return sum(1 for _ in self._matching(query, within))

    def sample(self, query: Query, size: int, within: float) -> list[Record]:
        """Return records drawn at random, the same ones for the same query."""
        draw = random.Random(0)
        sample: list[Record] = []
        for number, record in enumerate(self._matching(query, within)):
            if number < size:
                sample.append(record)
            elif (place := draw.randrange(number + 1)) < size:
                sample[place] = record
        return sorted(sample, key=lambda record: str(record["_id"]), reverse=True)

    def _matching(self, query: Query, within: float) -> Iterator[Record]:
        matches = Matching(query, f"{self._path}: the catalog")
        deadline = time.monotonic() + within
        for records in self._records(matches.holding):
            if time.monotonic() > deadline:
                raise ServiceError(f"{self._path}: not read in time")
            yield from filter(matches, records)

    def _resolved(self, record: Record) -> Record:
        location = record.get("location")
        if not isinstance(location, str) or not location or "://" in location:
            return record
        # Not percent-encoded: fsspec, with which wrappers open files, does not decode it.
        return {**record, "location": f"file://{Path(os.path.abspath(Path(self._path).parent), location)}"}  # noqa: PTH100

    def _open(self) -> IO[bytes]:
        if self._content is not None:
            return io.BufferedReader(_Again(self._content), _BYTES_A_READ)
        try:
            if f"{self._path}".endswith(".gz"):
                return cast("IO[bytes]", gzip.open(self._path))
            return Path(self._path).open("rb", buffering=_BYTES_A_READ)
        except OSError as error:
            raise RequestError(f"{self._path}: cannot be read: {error.strerror}") from None

    def _records(self, holding: str | None) -> Iterator[list[Record]]:
        """Yield all records in blocks, each with an `_id` of its own; RequestError names what is no such record.

        `holding` is text that each wanted record has as a value; those without it are checked, and may be left out.
        """
        held = b"" if holding is None else msgspec.json.encode(holding)
        if self._is_checked:
            with self._open() as file:
                while lines := file.readlines(_BYTES_A_BLOCK):
                    yield [_DECODE(line) for line in lines if held in line]
            return
        seen: set[str] = set()
        for places, values, written in self._blocks():
            ids: list[Any] = [value.get("_id") if type(value) is dict else None for value in values]
            if set(map(type, ids)) != {str} or len(set(ids)) < len(ids) or not seen.isdisjoint(ids):
                raise self._refusal(places, ids, seen)
            seen.update(ids)
            yield values if written is None or held in written else []

    def _refusal(self, places: Iterable[str], ids: Sequence[Any], seen: set[str]) -> RequestError:
        """Return the error about the first record of a block that has no `_id` of its own."""
        for place, record_id in zip(places, ids, strict=True):
            if not isinstance(record_id, str):
                return RequestError(f"{place}: not a metadata record; it must be an object with an _id that is text")
            if record_id in seen:
                break
            seen.add(record_id)
        return RequestError(f"{place}: the _id {record_id} is that of an earlier one; each _id may occur once")

    def _blocks(self) -> Iterator[tuple[Iterable[str], list[Any], bytes | None]]:
        """Yield blocks of values with their places and, where the fast reader took them, as it writes them again."""
        try:
            with self._open() as file:
                start = next((line for line in file if not _is_blank(line)), b"")
            with self._open() as file:
                is_array = start.removeprefix(_BOM).lstrip().startswith(b"[")
                noun, number = "record" if is_array else "line", 1
                for block in self._elements(file.read()) if is_array else self._lines(file):
                    places = (f"{self._path}, {noun} {place}" for place in range(number, number + len(block)))
                    number += len(block)
                    values, written = read_plain(block)
                    if values is not None:
                        yield places, values, written
                        continue
                    for place, text in zip(places, block, strict=True):
                        if not _is_blank(text):
                            yield [place], [self._decode(text, place)], None
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise RequestError(f"{self._path}: not a whole gzip file: {error}") from None

    def _lines(self, file: IO[bytes]) -> Iterator[Sequence[bytes]]:
        # Of a compressed file, the share of what is stored counts.
        stored = file.fileobj if isinstance(file, gzip.GzipFile) else file
        size = 0 if self._content is not None else Path(self._path).stat().st_size
        while lines := file.readlines(_BYTES_A_BLOCK):
            if size:
                has_read(lambda: stored.tell() / size)
            yield lines

    def _elements(self, content: bytes) -> Iterator[Sequence[bytes]]:
        """Yield the elements of an array, undecoded."""
        try:
            elements: list[Any] = _DECODE_ARRAY(content.removeprefix(_BOM))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            elements = [_ENCODE(one) for one in self._decode(content, f"{self._path}")]
        for start in range(0, len(elements), _ELEMENTS_A_BLOCK):
            yield [bytes(one) for one in elements[start : start + _ELEMENTS_A_BLOCK]]

    def _decode(self, content: bytes, place: str) -> Any:
        text = json_text.decoded(content, place).removesuffix("\n")
        try:
            value = json.loads(text, object_pairs_hook=json_text.unique_keys)
            json_text.check(value)
            return value
        except json.JSONDecodeError as error:
            raise self._not_json(error, place) from None
        except json_text.NotReadableError as error:
            raise RequestError(f"{place}: {error}") from None
        except ValueError as error:  # a number of thousands of digits
            raise RequestError(f"{place}: not JSON: {error}") from None
        except RecursionError:
            raise RequestError(f"{place}: nested too deep to read") from None

    def _not_json(self, error: json.JSONDecodeError, place: str) -> RequestError:
        position = f"column {error.colno}"
        if "\n" in error.doc.strip():
            place, position = f"{self._path}", f"line {error.lineno}, {position}"
        return RequestError(f"{place}: not JSON: {error.msg} at {position}; {_FORM}")


def _tree(fields: Sequence[str]) -> dict[str, Any]:
    """Return the fields to keep as nested objects, with None for a value that is kept whole."""
    tree: dict[str, Any] = {"_id": None}
    for path in projection(fields):
        branch = tree
        *parents, leaf = path.split(".")
        for part in parents:
            branch = branch.setdefault(part, {})
        branch[leaf] = None
    return tree


def _projected(value: Any, tree: dict[str, Any]) -> Any:
    """Return what MongoDB's `$project` keeps: of the elements of a list, only objects and lists."""
    if isinstance(value, list):
        return [_projected(element, tree) for element in value if isinstance(element, dict | list)]
    return {
        key: value[key] if below is None else _projected(value[key], below)
        for key, below in tree.items()
        if key in value and (below is None or isinstance(value[key], dict | list))
    }


class _Again(io.RawIOBase):
    """Reads an open file from its start, independently of other readers."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._position = file, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = os.pread(self._file.fileno(), len(buffer), self._position)
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)


def _is_blank(line: bytes) -> bool:
    return not line.removeprefix(_BOM).strip()


def read_plain(lines: Sequence[bytes]) -> tuple[list[Any], bytes] | tuple[None, None]:
    """Return the value of each line and all of them written again, or None where the strict reader must read them.

    `msgspec` takes a fifth of the time and is as strict, except that it keeps one value of a key that occurs twice in
    an object. So what it read is written again, without blanks: if a value was dropped, there are fewer colons, unless
    a colon is written as an escape.
    """
    try:
        values = list(map(_DECODE, lines))
        written = _ENCODE(values)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        return None, None
    text = b"".join(lines)
    has_escaped_colon = b"\\" in text and _ESCAPED_COLON.search(text)
    return (None, None) if has_escaped_colon or text.count(b":") != written.count(b":") else (values, written)

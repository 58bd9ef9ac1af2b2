"""The file of a local catalog, read record by record: JSON Lines, or one JSON array."""

from __future__ import annotations

import io
import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

from job_dispatch.messages import RequestError
from job_dispatch.metadata import plain_lines
from job_dispatch.metadata.records import Record
from job_dispatch.request import json_text

_FORM = "a catalog has one record a line, or is one JSON array"
# So small that what is read of it stays in a core's own memory until it is judged: larger ones take longer.
_BYTES_A_BLOCK = 16_384
# A call of the system for each 8 kB, as is usual, takes a twentieth of the time.
_BYTES_A_READ = 262_144
_BOM = b"\xef\xbb\xbf"
_BLANKS = re.compile(r"[ \t\r\n]*")
_HALF_A_CHARACTER = re.compile(r"\\ud", re.IGNORECASE)

# The number of a line, or `record N` of an array.
_Place = int | str


class CatalogFile:
    """The records of JSON Lines or of a JSON array. Each time they are asked for it is read anew; only ids are kept.

    Parameters
    ----------
    path : pathlib.Path

    Raises
    ------
    RequestError
        The file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # What is no file on a disk, such as a pipe, can be read once only.
        self._content = None if path.is_file() else json_text.read_bytes(path)
        self._open().close()

    def blocks(self, holding: str | None = None) -> Iterator[list[Record]]:
        """Yield all records, each of which has an `_id` that no other has, some at a time.

        Parameters
        ----------
        holding : str or None
            Text that each record asked for has as a value: others may be left out, once they are checked.

        Raises
        ------
        RequestError
            A line, or an element of the array, is no such record.
        """
        held = b"" if holding is None else plain_lines.encoded(holding)
        seen: set[str | None] = set()
        for places, values, written in self._blocks():
            identities = [value.get("_id") if type(value) is dict else None for value in values]
            if set(map(type, identities)) != {str}:
                place = next(place for place, one in zip(places, identities, strict=True) if type(one) is not str)
                raise RequestError(
                    f"{self._at(place)}: not a metadata record; it must be an object with an _id that is text"
                )
            known = len(seen)
            seen.update(identities)
            if len(seen) < known + len(identities):
                raise self._repeated_id()
            yield values if written is None or held in written else []

    def _repeated_id(self) -> RequestError:
        """Read again for both places: to keep the first place of each of hundreds of thousands takes time and room."""
        first_places: dict[str, _Place] = {}
        for places, values, _ in self._blocks():
            for place, value in zip(places, values, strict=True):
                if (first := first_places.setdefault(value["_id"], place)) != place:
                    return RequestError(
                        f"{self._at(place)}: the _id {value['_id']} stands in {self._at(first)} already;"
                        " each may stand once"
                    )
        return RequestError(f"{self._path}: changed while it was read; start again")

    def _open(self) -> IO[bytes]:
        if self._content is not None:
            return io.BytesIO(self._content)
        try:
            return self._path.open("rb", buffering=_BYTES_A_READ)
        except OSError as error:
            raise RequestError(f"{self._path}: cannot be read: {error.strerror}") from None

    def _at(self, place: _Place) -> str:
        """Write a place out only where it is told: there may be hundreds of thousands."""
        return f"{self._path}, {place if isinstance(place, str) else f'line {place}'}"

    def _blocks(self) -> Iterator[tuple[Sequence[_Place], list[Any], bytearray | None]]:
        """Yield some values at a time with their places and, where they were written again, with that."""
        with self._open() as file:
            if _is_array(file):
                for place, value in self._elements(file.read()):
                    yield [place], [value], None
                return
            reader = plain_lines.PlainLines()
            first = 1
            while lines := file.readlines(_BYTES_A_BLOCK):
                numbers = range(first, first + len(lines))
                first += len(lines)
                if (values := reader.read(lines)) is not None:
                    yield numbers, values, reader.written
                    continue
                for number, line in zip(numbers, lines, strict=True):
                    if not _is_blank(line):
                        yield [number], [self._value(line, number)], None

    def _value(self, line: bytes, number: int) -> Any:
        text = _decoded(line, self._at(number)).removesuffix("\n")
        value, end = self._decode(text, 0, self._at(number))
        if end < len(text):
            raise self._not_json(json.JSONDecodeError("Extra data", text, end), self._at(number))
        return value

    def _elements(self, content: bytes) -> Iterator[tuple[str, Any]]:
        """Yield the elements of an array one by one, so that whoever waits for the interpreter gets it."""
        text = _decoded(content, f"{self._path}")
        position = _after_blanks(text, text.index("[") + 1)
        for number in itertools.count(1):
            if number == 1 and text.startswith("]", position):
                break
            value, position = self._decode(text, position, f"{self._path}, record {number}")
            yield f"record {number}", value
            if text.startswith("]", position):
                break
            if not text.startswith(",", position):
                raise self._not_json(json.JSONDecodeError("Expecting ',' delimiter", text, position), f"{self._path}")
            position = _after_blanks(text, position + 1)
        if (end := _after_blanks(text, position + 1)) < len(text):
            raise self._not_json(json.JSONDecodeError("Extra data", text, end), f"{self._path}")

    def _decode(self, text: str, start: int, place: str) -> tuple[Any, int]:
        """Return the value that begins at a position or after blanks there, and where what follows it begins."""
        try:
            value, end = _STRICT.raw_decode(text, _after_blanks(text, start))
        except json.JSONDecodeError as error:
            raise self._not_json(error, place) from None
        except json_text.NotReadableError as error:
            raise RequestError(f"{place}: {error}") from None
        except ValueError as error:  # a number of thousands of digits
            raise RequestError(f"{place}: not JSON: {error}") from None
        except RecursionError:
            raise RequestError(f"{place}: nested too deep to read") from None
        if _HALF_A_CHARACTER.search(text, start, end) and not json_text.is_unicode(value):
            raise RequestError(f"{place}: text with a lone surrogate, which cannot be written; remove it")
        return value, _after_blanks(text, end)

    def _not_json(self, error: json.JSONDecodeError, place: str) -> RequestError:
        several = "\n" in error.doc.strip()
        position = f"line {error.lineno}, column {error.colno}" if several else f"column {error.colno}"
        place = f"{self._path}" if several else place
        return RequestError(f"{place}: not JSON: {error.msg} at {position}; {_FORM}")


def _is_array(file: IO[bytes]) -> bool:
    """Tell whether a file holds one array, and go back to its start."""
    start = next((line for line in file if not _is_blank(line)), b"")
    file.seek(0)
    return start.removeprefix(_BOM).lstrip().startswith(b"[")


def _is_blank(line: bytes) -> bool:
    return not line.removeprefix(_BOM).strip()


def _decoded(content: bytes, place: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"{place}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def _after_blanks(text: str, position: int) -> int:
    match = _BLANKS.match(text, position)
    return match.end() if match else position


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise json_text.NotReadableError(f"the number {text[:20]} is infinite, which JSON cannot hold")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise json_text.NotReadableError(f"not JSON: {name} is no JSON value")


_STRICT = json.JSONDecoder(
    object_pairs_hook=json_text.unique_keys, parse_float=_finite, parse_constant=_refuse_constant
)

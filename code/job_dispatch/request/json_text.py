"""What a JSON file can hold, and files of text."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from job_dispatch.messages import RequestError, printable

# MongoDB's own limit for nested documents: https://www.mongodb.com/docs/manual/reference/limits/
LEVELS_AT_MOST = 100
TOO_DEEP = f"nested too deep to read; at most {LEVELS_AT_MOST} levels are accepted"
_SHOWN = 60


class NotReadableError(Exception):
    """The text is refused, with the reason."""


def compact(value: object) -> str:
    """Return `value` as JSON without blanks and with sorted keys; `1`, `1.0` and `true` differ."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def check(value: Any) -> None:
    """Refuse a value that a JSON file cannot hold.

    Raises
    ------
    NotReadableError
        It is nested too deep, or holds NaN, infinity or text that is not Unicode.
    """
    level = [value]
    for _ in range(LEVELS_AT_MOST + 1):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            break
    else:
        raise NotReadableError(TOO_DEEP)
    for path, problem in _unwritable(value):
        raise NotReadableError(f"{path or 'the value'} is {problem}, which JSON cannot hold")


def read_file(path: Path) -> str:
    """Return the text of a UTF-8 file.

    Raises
    ------
    RequestError
        The file cannot be read, or is not UTF-8 text.
    """
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def read_bytes(path: Path) -> bytes:
    """Return the content of a file.

    Raises
    ------
    RequestError
        It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from None


def unique_keys(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of these pairs; `json.loads` alone would keep the last value of a repeated key.

    Raises
    ------
    NotReadableError
        A key is repeated.
    """
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise NotReadableError(
                f"the key {printable(key, _SHOWN)!r} occurs twice in one object; keep one of the two"
            )
        found[key] = value
    return found


def is_unicode(value: object) -> bool:
    """Tell whether all text in a value can be written as UTF-8; a lone surrogate cannot."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _unwritable(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path and the kind of each value that a JSON file cannot hold."""
    if isinstance(value, float) and not math.isfinite(value):
        yield path, "NaN" if math.isnan(value) else "infinity"
    elif isinstance(value, str) and not is_unicode(value):
        yield path, "text with a lone surrogate"
    elif isinstance(value, dict):
        for key, child in value.items():
            if not is_unicode(key):
                yield path, "an object whose key has a lone surrogate"
            yield from _unwritable(child, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for number, child in enumerate(value):
            yield from _unwritable(child, f"{path}[{number}]")

r"""Reading JSON as people write it: strict JSON, a Python literal, or JSON5.

Each reader is tried only where the one before fails. JSON5 comes last since it drops the backslash of `\d`.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import math
import re
import tokenize
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from job_dispatch.messages import RequestError, printable
from job_dispatch.request import pasted

# MongoDB's own limit for nested documents: https://www.mongodb.com/docs/manual/reference/limits/
_LEVELS_AT_MOST = 100
# Brackets inside strings count as well here, so this is far above the limit of the values.
_OPEN_BRACKETS_AT_MOST = 1_000
_STRING_OR_TRAILING_COMMA = re.compile(r'(?P<string>"(?:\\.|[^"\\])*")|,(?=\s*[}\]])', re.DOTALL)
_JSON5_STRING_OR_COMMENT = re.compile(
    r"""(?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|//[^\n]*|/\*.*?\*/""", re.DOTALL
)
_JSON5_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_JSON5_ESCAPES_KNOWN = frozenset("\"'\\/bfnrtv0xu\n\r\u2028\u2029")
_PYTHON_NUMBERS = {"nan": math.nan, "NaN": math.nan, "inf": math.inf, "Infinity": math.inf}
_CURLY_QUOTES = frozenset("\u2018\u2019\u201c\u201d")
_TOO_LONG_NUMBER = "a number has too many digits to read; write it as text in quotes"


def compact(value: object) -> str:
    """Return `value` as JSON without blanks and with sorted keys; `1`, `1.0` and `true` differ."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def read(text: str, place: str) -> Any:
    """Return the value that `text` holds.

    Parameters
    ----------
    text : str
        JSON, a Python literal or JSON5. A byte order mark and blanks around it are ignored.
    place : str
        Where the text comes from, for the error: a flag or a file name.

    Returns
    -------
    dict, list, str, int, float, bool or None
        Tuples become lists.

    Raises
    ------
    RequestError
        The text cannot be read, or holds what JSON cannot: keys that are no strings or stand twice,
        adjacent strings, sets, bytes, NaN, infinity, text that is no Unicode, or too many levels.
    """
    text = text.lstrip("\ufeff").rstrip()
    # Blanks before the text would be an indent to Python; line breaks stay, so that lines count from the top.
    text = "\n" * text[: len(text) - len(text.lstrip())].count("\n") + text.lstrip()
    try:
        value = _parse(text)
        _check_levels(value)
    except NotReadableError as error:
        raise RequestError(f"{place}: {error}") from None
    except (RecursionError, MemoryError):
        raise RequestError(f"{place}: {_too_deep()}") from None
    for path, problem in _unwritable(value):
        raise RequestError(f"{place}: {path or 'the value'} is {problem}, which JSON cannot hold")
    return value


def read_file(path: Path) -> str:
    """Return the text of a UTF-8 file.

    Raises
    ------
    RequestError
        The file cannot be read, or is no UTF-8 text.
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


class NotReadableError(Exception):
    """The text is refused, with the reason; no further reader is tried."""


def _too_deep() -> str:
    return f"nested too deep to read; at most {_LEVELS_AT_MOST} levels are accepted"


def _parse(text: str) -> Any:
    if not text.strip():
        raise NotReadableError("is empty; it must hold an object in { }")
    try:
        return json.loads(text, object_pairs_hook=unique_keys)
    except json.JSONDecodeError as error:
        json_error = error
    except ValueError:
        raise NotReadableError(_TOO_LONG_NUMBER) from None
    with contextlib.suppress(ValueError):
        return json.loads(_without_trailing_commas(text), object_pairs_hook=unique_keys)
    _refuse_deep_text(text)
    try:
        return _python_literal(text)
    except SyntaxError as error:
        python_error = error
    try:
        return _json5(text)
    except NotReadableError as error:
        reason = str(error)
    except ValueError:
        reason = _where_reading_stopped(text, json_error, python_error)
    try:
        other = pasted.translated(text)
    except pasted.PastedError as error:
        raise NotReadableError(str(error)) from None
    if other == text:
        raise NotReadableError(reason)
    return _parse(other)


def _without_trailing_commas(text: str) -> str:
    """Make strict JSON of JSON with trailing commas: as a Python literal its escapes would differ."""
    return _STRING_OR_TRAILING_COMMA.sub(lambda match: match["string"] or " ", text)


def unique_keys(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of these pairs, for a JSON reader that would keep the last of a repeated key.

    Raises
    ------
    NotReadableError
        A key is repeated.
    """
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise NotReadableError(f"the key {key!r} occurs twice in one object; keep one of the two")
        found[key] = value
    return found


def _refuse_deep_text(text: str) -> None:
    """Refuse text whose brackets nest so deep that Python's own parser might crash on it."""
    level = 0
    for match in re.finditer(r"[\[({\])}]", text):
        level += 1 if match[0] in "[({" else -1
        if level > _OPEN_BRACKETS_AT_MOST:
            raise NotReadableError(_too_deep())


def _python_literal(text: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # '\d' in a pattern is not worth a warning: the backslash stays
        try:
            tree = ast.parse(text, mode="eval")
        except ValueError as error:  # a null character
            raise SyntaxError(str(error)) from None
        except SyntaxError as error:
            if "Exceeds the limit" in error.msg:
                raise NotReadableError(_TOO_LONG_NUMBER) from None
            raise
    _refuse_adjacent_strings(text)
    return _literal(tree.body, text)


def _literal(node: ast.expr, text: str) -> Any:
    match node:
        case ast.Constant(value=str() | bool() | int() | float() | None as value):
            return value
        case ast.Constant(value=value):
            raise NotReadableError(f"{_kind(value)} has no place in JSON: {ast.unparse(node)[:60]}")
        case ast.Name(id=name) if name in _PYTHON_NUMBERS:
            return _PYTHON_NUMBERS[name]
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            number = _literal(operand, text)
            if type(number) not in (int, float):
                raise _not_a_literal(node, text)
            return -number if isinstance(sign, ast.USub) else number
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            return [_literal(element, text) for element in elements]
        case ast.Set():
            raise NotReadableError(f"a set has no place in JSON: {ast.unparse(node)[:60]}; use a list in [ ]")
        case ast.Dict(keys=keys, values=values):
            names = [_key(key) for key in keys]
            return unique_keys(zip(names, (_literal(value, text) for value in values), strict=True))
        case _:
            raise _not_a_literal(node, text)


def _not_a_literal(node: ast.expr, text: str) -> SyntaxError:
    before = text.splitlines()[node.lineno - 1].encode()[: node.col_offset].decode()  # ast counts bytes
    return SyntaxError(f"not a literal: {ast.unparse(node)[:60]}", (None, node.lineno, len(before) + 1, None))


def _kind(value: object) -> str:
    return "a bytes string" if isinstance(value, bytes) else f"a value of Python's type {type(value).__name__}"


def _key(node: ast.expr | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if node is None or isinstance(node, ast.Name):  # `**x`, or a bare word that JSON5 takes
        raise SyntaxError("not a literal")
    raise NotReadableError(f"the key {ast.unparse(node)[:60]} is not a string; put it in quotes")


def _refuse_adjacent_strings(text: str) -> None:
    """Refuse what Python would join silently: in a list of ids it is a missing comma."""
    before: tokenize.TokenInfo | None = None
    for token in tokenize.generate_tokens(io.StringIO(f"({text}\n)").readline):
        if token.type in (tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT):
            continue
        if token.type == tokenize.STRING and before is not None and before.type == tokenize.STRING:
            raise NotReadableError(
                f"a comma is missing between {before.string[:60]} and {token.string[:60]} (line {token.start[0]})"
            )
        before = token


def _json5(text: str) -> Any:
    for string in _JSON5_STRING_OR_COMMENT.finditer(text):
        for escape in _JSON5_ESCAPE.finditer(string["string"] or ""):
            if escape[1] not in _JSON5_ESCAPES_KNOWN:
                raise NotReadableError(f"{escape[0]} is not an escape of JSON; write \\{escape[0]} for a backslash")
    import json5

    try:
        return json5.loads(text, object_pairs_hook=unique_keys)
    except ValueError as error:
        if "Exceeds the limit" in str(error):
            raise NotReadableError(_TOO_LONG_NUMBER) from None
        raise


def _where_reading_stopped(text: str, json_error: json.JSONDecodeError, python_error: SyntaxError) -> str:
    """Describe the error of the reader that came further: it is the one whose language the text is in."""
    line, column, reason = json_error.lineno, json_error.colno, json_error.msg
    if (python_error.lineno or 0, python_error.offset or 0) > (line, column):
        line, column, reason = python_error.lineno or 1, python_error.offset or 1, python_error.msg
    lines = text.splitlines() or [""]
    shown = lines[line - 1] if line <= len(lines) else ""
    start = max(0, column - 21)
    near = printable(shown[start : column + 19])
    remedy = "; use straight quotes" if _CURLY_QUOTES & set(text) else ""
    return f"not readable as JSON: {reason} at line {line}, column {column}, near: {near}{remedy}"


def is_unicode(value: object) -> bool:
    """Tell whether all text in a value can be written as UTF-8; a lone surrogate cannot."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_levels(value: Any) -> None:
    level = [value]
    for _ in range(_LEVELS_AT_MOST + 1):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return
    raise NotReadableError(_too_deep())


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

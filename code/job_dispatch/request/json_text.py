"""JSON as people write it: also Python literals and JavaScript objects, from a text or a file, and what JSON can hold.

One reader knows what the three have in common and where they differ, so that a mistake is described once, at its place.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from job_dispatch.messages import RequestError, printable

# MongoDB's own limit for nested documents: https://www.mongodb.com/docs/manual/reference/limits/
_LEVELS_AT_MOST = 100
TOO_DEEP = f"nested too deep to read; at most {_LEVELS_AT_MOST} levels are accepted"
_SHOWN = 60
_CURLY_QUOTES = frozenset("\u2018\u2019\u201c\u201d")
_BLANK = re.compile(r"(?:[\s\ufeff\u200b]+|#[^\n]*|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
STRING = re.compile(
    r"""(?P<prefix>[A-Za-z]{0,2})(?:
        (?P<long>\"{3}|'{3})(?P<lines>(?:\\.|(?!(?P=long)).)*)(?P=long)
        |\"(?P<double>(?:\\.|[^\"\\\n])*)\"|'(?P<single>(?:\\.|[^'\\\n])*)'|`(?P<template>(?:\\.|[^`\\])*)`)""",
    re.DOTALL | re.VERBOSE,
)
_NUMBER = re.compile(
    r"(?P<sign>[+-]?)\s*(?P<digits>0[xX][0-9a-fA-F]+|(?:[0-9][0-9_]*\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
)
_NAME = re.compile(r"[^\W\d][\w$]*|\$[\w$]*")
_KEY = re.compile(r"[\w$]+(?:\.[\w$]+)*")
_REGEX = re.compile(r"/(?P<pattern>(?![/*])(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n\[])+)/(?P<options>[a-z]*)")
_ESCAPE = re.compile(
    r"\\(u\{[0-9a-fA-F]+\}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|x[0-9a-fA-F]{2}|N\{[^}]*\}|[0-7]{1,3}|\r\n|.)", re.DOTALL
)
# Of one character, in Python.
_ESCAPES = frozenset("ntrbfva01234567\"'\\\n\r")
_PYTHON = {"True": True, "False": False, "None": None}
_JAVASCRIPT = {"true": True, "false": False, "null": None, "undefined": None}
_Value = TypeVar("_Value")
_NOT_FINITE = {"nan": math.nan, "NaN": math.nan, "inf": math.inf, "Infinity": math.inf}


class NotReadableError(Exception):
    """The text is refused, with the reason."""


def read_value(path: Path) -> Any:
    """Return the value in a file. Raises as `read` and `read_file` do."""
    return read(read_file(path), str(path))


def read_file(path: Path) -> str:
    """Return the text of a file; RequestError if it cannot be read, or is not UTF-8 text."""
    return decoded(read_bytes(path), str(path))


def decoded(content: bytes, place: str) -> str:
    """Return content as text; RequestError, which begins with `place`, if it is not UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"{place}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def read_bytes(path: Path) -> bytes:
    """Return the content of a file; RequestError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from None


def read(text: str, place: str) -> Any:
    """Return the value in JSON, a Python literal or a JavaScript object; tuples become lists.

    RequestError, which begins with `place`, if the text cannot be read, or has what JSON cannot hold: keys that are not
    strings or that are repeated, adjacent strings, sets, bytes, NaN, infinity, text that is not Unicode, or too many
    levels.
    """
    try:
        try:
            value = json.loads(text.lstrip("\ufeff"), object_pairs_hook=unique_keys)
        except ValueError:
            value = Reader(text).only_value()
        check(value)
    except (RecursionError, MemoryError):
        raise RequestError(f"{place}: {TOO_DEEP}") from None
    except NotReadableError as error:
        raise RequestError(f"{place}: {error}") from None
    return value


def check(value: Any, path: str = "", level: int = 0) -> None:
    """Raise NotReadableError for what JSON cannot hold: NaN, infinity, text that is not Unicode, or too many levels."""
    if level > _LEVELS_AT_MOST:
        raise NotReadableError(TOO_DEEP)
    problem = ""
    if isinstance(value, float) and not math.isfinite(value):
        problem = "NaN" if math.isnan(value) else "infinity"
    elif isinstance(value, str) and not is_unicode(value):
        problem = "text with a lone surrogate"
    elif isinstance(value, dict) and not all(map(is_unicode, value)):
        problem = "an object whose key has a lone surrogate"
    if problem:
        raise NotReadableError(f"{path or 'the value'} is {problem}, which JSON cannot hold")
    if isinstance(value, dict):
        for key, child in value.items():
            check(child, f"{path}.{key}" if path else key, level + 1)
    elif isinstance(value, list):
        for number, child in enumerate(value):
            check(child, f"{path}[{number}]", level + 1)


def is_unicode(value: object) -> bool:
    """Tell whether all text in a value can be written as UTF-8; a lone surrogate cannot."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def compact(value: object) -> str:
    """Return `value` as JSON without blanks and with sorted keys; `1`, `1.0` and `true` differ."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def distinct(values: Iterable[_Value], content: Callable[[_Value], Any] = lambda value: value) -> list[_Value]:
    """Return the first of the values with each content, in their order; `1`, `1.0` and `true` differ."""
    found: dict[str, _Value] = {}
    for value in values:
        found.setdefault(compact(content(value)), value)
    return list(found.values())


def unique_keys(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of these pairs; NotReadableError for a repeated key, of which `json` keeps the last value."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            shown = printable(key, _SHOWN)
            raise NotReadableError(f"the key {shown!r} occurs twice in one object; keep one of the two")
        found[key] = value
    return found


def variable(text: str) -> NotReadableError:
    """Return the error about an expression whose value is not in the text."""
    return NotReadableError(f"{printable(text, _SHOWN)} is a variable or is computed; write its value instead")


class Reader:
    """Reads values from a text, from a position on.

    `expression` returns the value of an expression that begins with a name, such as `ObjectId("…")`, and `regex` that
    of `/pattern/options`; without them such a value is refused.
    """

    def __init__(
        self,
        text: str,
        expression: Callable[[str], Any] | None = None,
        regex: Callable[[str, str], Any] | None = None,
    ) -> None:
        self.text = text
        self.position = 0
        self._expression, self._regex = expression, regex
        # Whether the text is in JavaScript or Python decides about what the two read differently.
        self._is_javascript = self._is_python = False
        self._odd_escape = self._bare_key = ""

    def only_value(self) -> Any:
        """Return the value that the text is; NotReadableError if it holds none, or more than one."""
        self._skip()
        if self.position == len(self.text):
            raise NotReadableError("is empty; it must hold an object in { }")
        found = self.value_at(self.position)
        self._skip()
        if self.position < len(self.text):
            raise self.expected("the end of the text")
        return found

    def value_at(self, position: int) -> Any:
        """Return the value that begins at a position; the reader is behind it then."""
        self.position = position
        self._is_javascript = self._is_python = False
        self._odd_escape = self._bare_key = ""
        found = self._value(0)
        if self._odd_escape and (self._is_javascript or self._bare_key):
            raise NotReadableError(
                f"{self._odd_escape} is not an escape of JSON; write \\{self._odd_escape} for a backslash"
            )
        if self._bare_key and self._is_python:
            raise variable(self._bare_key)
        return found

    def expected(self, what: str, position: int | None = None) -> NotReadableError:
        """Return the error about what is not at a position, that of the reader by default."""
        before = self.text[: self.position if position is None else position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        shown = self.text.split("\n")[line - 1]
        near = printable(shown[max(0, column - 21) : column + 19])
        remedy = "; use straight quotes" if _CURLY_QUOTES & set(self.text) else ""
        return NotReadableError(f"not readable: expected {what} at line {line}, column {column}, near: {near}{remedy}")

    def _value(self, level: int) -> Any:
        if level > _LEVELS_AT_MOST:
            raise NotReadableError(TOO_DEEP)
        self._skip()
        start = self._peek()
        if start == "{":
            return self._object(level)
        if start in ("[", "("):
            return self._elements("]" if start == "[" else ")", level)
        if string := STRING.match(self.text, self.position):
            return self._string(string)
        if start == "/" and (regex := _REGEX.match(self.text, self.position)):
            self._is_javascript = True
            self.position = regex.end()
            if self._regex is None:
                raise NotReadableError(f"a regular expression has no place in JSON: {printable(regex[0], _SHOWN)}")
            return self._regex(regex["pattern"].replace(r"\/", "/"), regex["options"])
        if number := _NUMBER.match(self.text, self.position):
            return self._number(number)
        sign = start if start in ("+", "-") else ""
        self.position += len(sign)
        if _NAME.match(self.text, self.position):
            return self._named(sign)
        self._refuse_unpacking()
        raise self.expected("a value" if start not in tuple("\"'`") else "a quote at the end of this text")

    def _object(self, level: int) -> dict[str, Any]:
        start = self.position
        self.position += 1
        pairs: list[tuple[str, Any]] = []
        while not self._take("}"):
            key = self._key(start)
            if not self._take(":"):
                self._refuse_set(start)
                raise self.expected(":")
            pairs.append((key, self._value(level + 1)))
            self._comma_or("}")
        return unique_keys(pairs)

    def _key(self, start: int) -> str:
        self._skip()
        if string := STRING.match(self.text, self.position):
            return self._string(string)
        if bare := _KEY.match(self.text, self.position):
            self.position = bare.end()
            self._skip()
            self._refuse_set(start)
            if self._peek() == "(":
                raise variable(bare[0])
            if bare[0][0].isdigit() or bare[0] in {**_PYTHON, **_JAVASCRIPT}:
                raise NotReadableError(f"the key {printable(bare[0], _SHOWN)} is not a string; put it in quotes")
            self._bare_key = self._bare_key or bare[0]
            return bare[0]
        self._refuse_unpacking()
        raise self.expected("a key in quotes")

    def _refuse_set(self, start: int) -> None:
        if self._peek() in (",", "}"):
            shown = printable(self.text[start : closing(self.text, start)], _SHOWN)
            raise NotReadableError(f"a set has no place in JSON: {shown}; use a list in [ ]")

    def _refuse_unpacking(self) -> None:
        if self.text.startswith(("*", "..."), self.position):
            raise variable(self.text[self.position : self.position + 20].partition(",")[0].strip())

    def _elements(self, end: str, level: int) -> Any:
        self._is_python |= end == ")"
        self.position += 1
        found: list[Any] = []
        has_comma = False
        while not self._take(end):
            found.append(self._value(level + 1))
            has_comma |= self._comma_or(end)
        return found[0] if end == ")" and len(found) == 1 and not has_comma else found

    def _comma_or(self, end: str) -> bool:
        """Take a comma; without one the end must follow."""
        if self._take(","):
            return True
        if self._peek() in tuple("+-*%|.&"):
            raise variable(self.text[max(0, self.position - 20) : self.position + 20].strip())
        if self._peek() != end:
            raise self.expected(f", or {end}")
        return False

    def _string(self, string: re.Match[str]) -> str:
        prefix = string["prefix"].lower()
        self.position = string.end()
        kinds = ("lines", "double", "single", "template")
        said: str = next(string[kind] for kind in kinds if string[kind] is not None)
        if prefix not in ("", "r", "u"):
            if "b" in prefix:
                raise NotReadableError(f"a bytes string has no place in JSON: {printable(string[0], _SHOWN)}")
            raise variable(string[0])
        if string["template"] is not None:
            self._is_javascript = True
            if "${" in said:
                raise variable(string[0])
        if prefix or string["long"]:
            self._is_python = True
        if prefix != "r":
            said = _ESCAPE.sub(self._unescaped, said)
            if max(said, default="") >= "\ud800":
                said = said.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        self._refuse_adjacent(string[0])
        return said

    def _unescaped(self, escape: re.Match[str]) -> str:
        said = escape[1]
        if said in ("/", "`"):  # in JavaScript
            return said
        if len(said) == 1 and said not in _ESCAPES:
            self._odd_escape = self._odd_escape or escape[0]
            return escape[0]
        if said.startswith("u{"):
            said = f"U{int(said[2:-1], 16):08x}"
        try:
            return str(ast.literal_eval(f"'\\{said}'"))
        except SyntaxError:
            raise NotReadableError(f"{printable(escape[0], _SHOWN)} is not a character") from None

    def _refuse_adjacent(self, before: str) -> None:
        """Refuse what Python would join silently: in a list of ids it is a missing comma."""
        self._skip()
        if after := STRING.match(self.text, self.position):
            line = self.text.count("\n", 0, after.start()) + 1
            first, second = (printable(one, _SHOWN) for one in (before, after[0]))
            raise NotReadableError(f"a comma is missing between {first} and {second} (line {line})")

    def _number(self, number: re.Match[str]) -> int | float:
        self.position = number.end()
        if _NAME.match(self.text, self.position):
            raise self.expected("a number")
        digits = number["digits"]
        if re.fullmatch(r"0[\d_]+", digits):
            raise NotReadableError(f"{printable(digits, _SHOWN)} begins with 0; write an id as text in quotes")
        try:
            return ast.literal_eval(number["sign"] + digits)  # type: ignore[no-any-return]
        except (SyntaxError, ValueError):
            raise NotReadableError("a number has too many digits to read; write it as text in quotes") from None

    def _named(self, sign: str) -> Any:
        start, self.position = self.position, _end_of_expression(self.text, self.position)
        said = self.text[start : self.position]
        if said in _NOT_FINITE:
            return -_NOT_FINITE[said] if sign == "-" else _NOT_FINITE[said]
        if said in _PYTHON and not sign:
            self._is_python = True
            return _PYTHON[said]
        if said in _JAVASCRIPT and not sign:
            self._is_javascript = True
            return _JAVASCRIPT[said]
        if self._expression is None:
            raise variable(sign + said)
        return self._expression(sign + said)

    def _skip(self) -> None:
        blank = _BLANK.match(self.text, self.position)
        assert blank is not None
        self._is_javascript |= "//" in blank[0] or "/*" in blank[0]
        self.position = blank.end()

    def _peek(self) -> str:
        return self.text[self.position : self.position + 1]

    def _take(self, character: str) -> bool:
        self._skip()
        if self._peek() != character:
            return False
        self.position += 1
        return True


def closing(text: str, start: int) -> int:
    """Return the position behind the bracket that closes the one at `start`; the end of the text where none does."""
    level, position = 0, start
    while position < len(text):
        if string := STRING.match(text, position):
            position = string.end()
            continue
        level += (text[position] in "([{") - (text[position] in ")]}")
        position += 1
        if level == 0:
            return position
    return len(text)


def _end_of_expression(text: str, position: int) -> int:
    """Return the position behind a name and the attributes, calls and indexes that follow it."""
    if new := re.compile(r"new\s+").match(text, position):
        position = new.end()
    name = _NAME.match(text, position)
    position = name.end() if name else position
    while position < len(text):
        if text[position] in "([":
            position = closing(text, position)
        elif attribute := re.compile(r"\s*\.\s*[A-Za-z_]\w*").match(text, position):
            position = attribute.end()
        else:
            break
    return position

r"""Reading values as people write them: JSON, Python literals and JavaScript objects.

One reader knows what the three have in common and where they differ, so that a mistake is described once, at its place.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable
from typing import Any

from job_dispatch.messages import RequestError, printable
from job_dispatch.request.json_text import LEVELS_AT_MOST, TOO_DEEP, NotReadableError, check, unique_keys

_SHOWN = 60
_TOO_LONG_NUMBER = "a number has too many digits to read; write it as text in quotes"
_CURLY_QUOTES = frozenset("\u2018\u2019\u201c\u201d")
_BLANK = re.compile(r"(?:[\s\ufeff\u200b]+|#[^\n]*|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
STRING = re.compile(
    r"""(?P<prefix>[A-Za-z]{0,2})(?:
        (?P<long>\"{3}|'{3})(?P<lines>(?:\\.|(?!(?P=long)).)*)(?P=long)
        |\"(?P<double>(?:\\.|[^\"\\\n])*)\"|'(?P<single>(?:\\.|[^'\\\n])*)'|`(?P<template>(?:\\.|[^`\\])*)`)""",
    re.DOTALL | re.VERBOSE,
)
_NUMBER = re.compile(
    r"(?P<sign>[+-]?)\s*(?:(?P<hex>0[xX][0-9a-fA-F]+)|(?P<digits>(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?))"
)
_NAME = re.compile(r"[^\W\d][\w$]*|\$[\w$]*")
_KEY = re.compile(r"[\w$]+(?:\.[\w$]+)*")
_REGEX = re.compile(r"/(?P<pattern>(?![/*])(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n\[])+)/(?P<options>[a-z]*)")
_ESCAPE = re.compile(
    r"\\(u\{[0-9a-fA-F]+\}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|x[0-9a-fA-F]{2}|N\{[^}]*\}|[0-7]{1,3}|\r\n|.)", re.DOTALL
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "a": "\a", "\n": "", "\r\n": "", "\r": ""}
_ESCAPED_ITSELF = frozenset("\"'\\/`")
_PYTHON = {"True": True, "False": False, "None": None}
_JAVASCRIPT = {"true": True, "false": False, "null": None, "undefined": None}
_NOT_FINITE = {"nan": math.nan, "NaN": math.nan, "inf": math.inf, "Infinity": math.inf}


def read(text: str, place: str) -> Any:
    """Return the value in `text`.

    Parameters
    ----------
    text : str
        JSON, a Python literal or a JavaScript object. A byte order mark and blanks around it are ignored.
    place : str
        Where the text comes from, for the error: a flag or a file name.

    Returns
    -------
    dict, list, str, int, float, bool or None
        Tuples become lists.

    Raises
    ------
    RequestError
        The text cannot be read, or has what JSON cannot hold: keys that are not strings or that are repeated,
        adjacent strings, sets, bytes, NaN, infinity, text that is not Unicode, or too many levels.
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


def variable(text: str) -> NotReadableError:
    """Return the error about an expression whose value is not in the text."""
    return NotReadableError(f"{printable(text, _SHOWN)} is a variable or is computed; write its value instead")


def _no_regex(pattern: str, options: str) -> Any:
    raise NotReadableError(f"a regular expression has no place in JSON: {printable(f'/{pattern}/{options}', _SHOWN)}")


class Reader:
    """Reads values from a text, from a position on.

    Parameters
    ----------
    text : str
    expression : callable
        Returns the value of an expression that begins with a name, such as `ObjectId("…")`, or raises NotReadableError.
    regex : callable
        Returns the value of `/pattern/options`, or raises NotReadableError.
    """

    def __init__(
        self,
        text: str,
        expression: Callable[[str], Any] = lambda text: _refuse(text),
        regex: Callable[[str, str], Any] = _no_regex,
    ) -> None:
        self.text = text
        self.position = 0
        self._expression, self._regex = expression, regex
        # Whether the text is in JavaScript or Python decides about what the two read differently.
        self._is_javascript = self._is_python = False
        self._odd_escape = self._bare_key = ""

    def only_value(self) -> Any:
        """Return the value that the text is.

        Raises
        ------
        NotReadableError
            It holds none, or more than one.
        """
        self._skip()
        if self.position == len(self.text):
            raise NotReadableError("is empty; it must hold an object in { }")
        found = self.value_at(self.position)
        self._skip()
        if self.position < len(self.text):
            raise self._expected("the end of the text")
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

    def _value(self, level: int) -> Any:
        if level > LEVELS_AT_MOST:
            raise NotReadableError(TOO_DEEP)
        self._skip()
        start = self._peek()
        if start == "{":
            return self._object(level)
        if start == "[":
            return self._elements("]", level)
        if start == "(":
            self._is_python = True
            return self._elements(")", level)
        if string := STRING.match(self.text, self.position):
            return self._string(string)
        if start == "/" and (regex := _REGEX.match(self.text, self.position)):
            self._is_javascript = True
            self.position = regex.end()
            return self._regex(regex["pattern"].replace(r"\/", "/"), regex["options"])
        if (number := _NUMBER.match(self.text, self.position)) is not None:
            return self._number(number)
        sign = start if start in ("+", "-") else ""
        self.position += len(sign)
        if name := _NAME.match(self.text, self.position):
            return self._named(name[0], sign)
        if self.text.startswith(("*", "..."), self.position):
            raise variable(self.text[self.position : self.position + 20].partition(",")[0].strip())
        raise self._expected("a value" if start not in tuple("\"'`") else "a quote at the end of this text")

    def _object(self, level: int) -> dict[str, Any]:
        start = self.position
        self.position += 1
        pairs: list[tuple[str, Any]] = []
        while not self._take("}"):
            key = self._key(start)
            if not self._take(":"):
                self._refuse_set(start)
                raise self._expected(":")
            pairs.append((key, self._value(level + 1)))
            self._comma_or("}")
        return unique_keys(pairs)

    def _key(self, start: int) -> str:
        self._skip()
        if string := STRING.match(self.text, self.position):
            key: str = self._string(string)
            self._refuse_adjacent(string[0])
            return key
        if bare := _KEY.match(self.text, self.position):
            self.position = bare.end()
            self._skip()
            if self._peek() in (",", "}"):
                self._refuse_set(start)
            if self._peek() == "(":
                raise variable(bare[0])
            if bare[0][0].isdigit() or bare[0] in {**_PYTHON, **_JAVASCRIPT}:
                raise NotReadableError(f"the key {printable(bare[0], _SHOWN)} is not a string; put it in quotes")
            self._bare_key = self._bare_key or bare[0]
            return bare[0]
        if self.text.startswith(("**", "..."), self.position):
            raise variable(self.text[self.position : self.position + 20].partition(",")[0].strip())
        raise self._expected("a key in quotes")

    def _refuse_set(self, start: int) -> None:
        if self._peek() in (",", "}"):
            end = closing(self.text, start)
            shown = printable(self.text[start:end], _SHOWN)
            raise NotReadableError(f"a set has no place in JSON: {shown}; use a list in [ ]")

    def _elements(self, end: str, level: int) -> Any:
        self.position += 1
        found: list[Any] = []
        has_comma = False
        while not self._take(end):
            found.append(self._value(level + 1))
            has_comma |= self._comma_or(end)
        if end == ")" and len(found) == 1 and not has_comma:
            return found[0]
        return found

    def _comma_or(self, end: str) -> bool:
        """Take a comma; without one the end must follow."""
        if self._take(","):
            return True
        if self._peek() != end:
            if self._peek() in tuple("+-*%|.&"):
                raise variable(self.text[max(0, self.position - 20) : self.position + 20].strip())
            raise self._expected(f", or {end}")
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
        if said in _ESCAPES:
            return _ESCAPES[said]
        if said in _ESCAPED_ITSELF:
            return said
        if said[0] in "uUx" and len(said) > 1:
            number = int(said[1:].strip("{}"), 16)
            if number > 0x10FFFF:
                raise NotReadableError(f"{escape[0]} is not a character")
            return chr(number)
        if said[0] in "01234567":
            return chr(int(said, 8))
        if said.startswith("N{"):
            try:
                return unicodedata.lookup(said[2:-1])
            except KeyError:
                raise NotReadableError(f"{printable(escape[0], _SHOWN)} is not a character") from None
        self._odd_escape = self._odd_escape or escape[0]
        return escape[0]

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
            raise self._expected("a number")
        digits = number["digits"]
        try:
            if digits is None:
                found: int | float = int(number["hex"], 16)
            elif re.search("[.eE]", digits):
                found = float(digits)
            elif digits.startswith("0") and len(digits) > 1:
                raise NotReadableError(f"{printable(digits, _SHOWN)} begins with 0; write an id as text in quotes")
            else:
                found = int(digits)
        except ValueError:
            raise NotReadableError(_TOO_LONG_NUMBER) from None
        return -found if number["sign"] == "-" else found

    def _named(self, name: str, sign: str) -> Any:
        if name in _NOT_FINITE:
            self.position += len(name)
            return -_NOT_FINITE[name] if sign == "-" else _NOT_FINITE[name]
        start, self.position = self.position, end_of_expression(self.text, self.position)
        said = self.text[start : self.position]
        if said in _PYTHON and not sign:
            self._is_python = True
            return _PYTHON[said]
        if said in _JAVASCRIPT and not sign:
            self._is_javascript = True
            return _JAVASCRIPT[said]
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

    def _expected(self, what: str) -> NotReadableError:
        return self.expected(what, self.position)

    def expected(self, what: str, position: int) -> NotReadableError:
        """Return the error about what is not at a position."""
        before = self.text[:position]
        line, column = before.count("\n") + 1, position - before.rfind("\n")
        shown = self.text.split("\n")[line - 1]
        near = printable(shown[max(0, column - 21) : column + 19])
        remedy = "; use straight quotes" if _CURLY_QUOTES & set(self.text) else ""
        return NotReadableError(f"not readable: expected {what} at line {line}, column {column}, near: {near}{remedy}")


def _refuse(text: str) -> Any:
    raise variable(text)


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


def end_of_expression(text: str, position: int) -> int:
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

"""Patterns of files within an asset, in the syntax of git's ignore files."""

from __future__ import annotations

import functools
import re
import warnings
from dataclasses import dataclass

from job_dispatch.messages import RequestError
from job_dispatch.request import values

STORE_ENDINGS = (".zarr", ".n5", ".nwb")
_WILD = frozenset("*?[]\\")
# `*.nwb` asks by the ending of a name: a folder of such a name is a store, as with an ending.
_BY_ENDING = re.compile(r"(?:\*\*/)*\*([^*?\[\]\\/]*\.[^*?\[\]\\/]*)")


@dataclass(frozen=True)
class Pattern:
    """One pattern: its text, whether it includes or excludes, and its regular expression."""

    text: str
    takes: bool
    expression: re.Pattern[str]

    def fits(self, path: str) -> bool:
        """Tell whether a path within an asset fits, as a whole or by a folder that it lies in."""
        return self.expression.search(path) is not None

    @property
    def folder(self) -> str:
        """The folder, with a trailing slash, that holds all matches; empty if that is the asset."""
        *folders, _ = self.text.lstrip("/").split("/")
        is_anchored = self.text.startswith("/") or (bool(folders) and self.text.find("/") < len(self.text) - 1)
        fixed = []
        for name in folders if is_anchored else ():
            if _WILD & set(name):
                break
            fixed.append(f"{name}/")
        return "".join(fixed)

    @property
    def ending(self) -> str:
        """The ending of names that it matches, if it is nothing else; else empty."""
        found = _BY_ENDING.fullmatch(self.text)
        return found[1] if found else ""


def patterns(text: str) -> tuple[str, ...]:
    """Return the patterns in a comma-separated text or a JSON list, each once.

    Raises
    ------
    RequestError
        One cannot be read or leads into a store, or all exclude.
    """
    is_list = re.match(r'\[\s*"', text)  # [ab]*.csv is a pattern
    listed = values.listed(text, "**/*.nwb") if is_list else text.split(",")
    pieces = list(dict.fromkeys(piece.strip() for piece in listed if piece.strip()))
    takes = [compiled(piece).takes for piece in pieces]  # all of them, so that each mistake is found
    if not any(takes):
        raise RequestError(f"{text!r} includes no file; give a pattern without ! first, such as **/*.nwb")
    return tuple(pieces)


@functools.cache
def compiled(text: str) -> Pattern:
    """Return a pattern as the library pathspec reads it.

    Raises
    ------
    RequestError
        It cannot be read, or leads into a store.
    """
    if text.startswith("#"):
        raise RequestError(f"{text!r} begins with #, which starts a comment; write \\# for that character")
    bare = text.removeprefix("!")
    _check_dialect(text, bare)
    takes, expression = _read(text)
    *folders, last = bare.split("/")
    if store := next((name for name in folders if name.endswith(STORE_ENDINGS) and last), None):
        raise RequestError(
            f"{text!r} leads into a store, which counts as one file;"
            f" end the pattern with {bare[: bare.index(store) + len(store)]!r}"
        )
    return Pattern(bare, takes, expression)


def _check_dialect(text: str, bare: str) -> None:
    """Refuse syntax of other programs that git or pathspec does not have, and that would match nothing."""
    if text.count("{") != text.count("}"):
        raise RequestError(f"{text!r}: braces are not supported; write each pattern in full, separated by commas")
    if re.search(r"\[:\w+:\]", text):
        raise RequestError(f"{text!r}: named character classes are not supported; write them out, such as [0-9]")
    if "://" in text or {".", ".."} & set(bare.split("/")):
        raise RequestError(f"{text!r}: patterns are relative to the folder of each asset")


def _read(text: str) -> tuple[bool, re.Pattern[str]]:
    from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of [[ and the like, which are plain characters here
            read = GitIgnoreSpecPattern(text)
            if read.include is not None and read.regex is not None:
                return bool(read.include), re.compile(read.regex.pattern)
    except (ValueError, re.error):
        pass
    remedy = '; a pattern with commas goes into a JSON list: ["[1,2].csv"]' if text.count("[") > text.count("]") else ""
    raise RequestError(f"{text!r} is not a pattern of files such as **/*.nwb{remedy}")

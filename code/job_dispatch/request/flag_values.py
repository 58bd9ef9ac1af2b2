"""How the values of flags are read: numbers, switches, names, fields, and the endings and patterns of files."""

from __future__ import annotations

import functools
import itertools
import json
import math
import os
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from job_dispatch.messages import RequestError
from job_dispatch.request import fields as field_names

PRODUCTION_HOST = "api.allenneuraldynamics.org"
# Old buckets may have upper case and up to 255 characters.
BUCKET_NAME = re.compile(r"[A-Za-z0-9._-]{1,255}")
STORE_ENDINGS = (".zarr", ".n5", ".nwb")
# A shell removes the quotes of a JSON list that is not in quotes itself.
_BARE_LIST = re.compile(r'\[([^"\[\]{}]+)\]')
_WILD = frozenset("*?[]\\")
# `*.nwb` asks by the ending of a name: a folder of such a name is a store, as with an ending.
_BY_ENDING = re.compile(r"(?:\*\*/)*\*([^*?\[\]\\/]*\.[^*?\[\]\\/]*)")


def count(text: str, at_most: float = math.inf, meaning: str = "a whole number from 1") -> int:
    """Return a whole number from 1."""
    if not re.fullmatch(r"[0-9]{1,99}", text) or not 1 <= int(text) <= at_most:
        raise RequestError(f"{text!r} is not {meaning}")
    return int(text)


def seconds(text: str) -> int:
    """Return a whole number of seconds, at most those of a day."""
    return count(text, 86_400, "a whole number of seconds from 1 to 86400")


def path(text: str) -> Path:
    """Return a path; `~` is the home folder."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise RequestError(f"{text!r}: no such user, whose home folder {text.partition('/')[0]} would be") from None


def switch(text: str) -> bool:
    """Return whether a switch is on; `true` and `false` do as well."""
    if text.lower() not in ("0", "1", "false", "true"):
        raise RequestError(f"{text!r} is neither 0 nor 1")
    return text.lower() in ("1", "true")


def switch_or_path(text: str) -> bool | Path:
    """Return whether a switch is on, or the path that is given instead."""
    try:
        return switch(text)
    except RequestError:
        return path(text)


def one_of(*choices: str) -> Callable[[str], str]:
    """Return a function that takes one of several words, in upper or lower case."""
    either = f"is neither {' nor '.join(choices)}" if len(choices) == 2 else f"is none of {', '.join(choices)}"
    by_lower_case = {choice.lower(): choice for choice in choices}

    def choose(text: str) -> str:
        if text.lower() not in by_lower_case:
            raise RequestError(f"{text!r} {either}")
        return by_lower_case[text.lower()]

    return choose


def place(text: str) -> str:
    """Return a path, in which `~` is the home folder, or the address of a bucket."""
    return text if "://" in text else str(path(text))


def host(text: str) -> str:
    """Return the name of a host, with its port where one is given."""
    bare = text.removeprefix("https://").rstrip("/")
    if not re.fullmatch(r"([\w.-]+|\[[0-9a-fA-F:]+\])(:[0-9]+)?", bare):
        raise RequestError(f"not a host name such as {PRODUCTION_HOST}")
    return bare


def name(text: str) -> str:
    """Return the name of a database, a collection or a version."""
    if not re.fullmatch(r"[\w-][\w.-]*", text):
        raise RequestError(f"{text!r} is not a name of letters, digits, '_', '-' and '.'")
    return text


def day(text: str) -> date:
    """Return the day of a text such as 2025-06-07."""
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        raise RequestError(f"{text!r} is not a day such as 2025-06-07")
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise RequestError(f"there is no day {text}") from None


def from_environment(variable: str, convert: Callable[[str], str], otherwise: str) -> str:
    """Return the value of an environment variable, or something else where it is not set or blank."""
    text = os.environ.get(variable, "").strip()
    try:
        return convert(text) if text else otherwise
    except RequestError as error:
        raise RequestError(f"environment variable {variable}: {error.headline}") from None


def several(value: object) -> tuple[str, ...]:
    """Return the texts of a Python value that is one, a number, or several of them."""
    if value is None:
        return ()
    if isinstance(value, str) or not isinstance(value, Iterable):
        return (str(value),)
    return tuple(dict.fromkeys(map(str, value)))


def fields(text: str) -> tuple[str, ...]:
    """Return the record fields in a comma-separated text or a JSON list, each once."""
    pieces = _listed(text)
    for piece in pieces:
        field_names.paths(piece)
    return pieces


def field(text: str) -> str:
    """Return the one record field in a text."""
    named = fields(text)
    if len(named) != 1:
        raise RequestError(f"{text!r} are {'several' if named else 'no'} fields; give one")
    return named[0]


def words(text: str) -> tuple[str, ...]:
    """Return the values in a comma-separated text or a JSON list, each once."""
    pieces = tuple(filter(None, _listed(text)))
    if not pieces:
        raise RequestError(f"{text!r} names nothing")
    return pieces


def _listed(text: str, example: str = "subject.subject_id") -> tuple[str, ...]:
    pieces: Any = text.split(",")
    if text.startswith("["):
        try:
            pieces = json.loads(text)
        except (ValueError, RecursionError):
            bare = _BARE_LIST.fullmatch(text)
            pieces = bare[1].split(",") if bare else None
    if not isinstance(pieces, list) or not all(isinstance(piece, str) for piece in pieces):
        raise RequestError(f'{text!r} is not a JSON list of texts such as ["{example}"]')
    return tuple(dict.fromkeys(piece.strip() for piece in pieces))


def endings(text: str) -> tuple[str, ...]:
    """Return the endings of file names in a comma-separated text, each once and as `ending` gives it."""
    pieces = [piece.strip() for piece in text.split(",") if piece.strip()]
    if text.strip() and not pieces:
        raise RequestError(f"{text!r} names no ending; give one such as .nwb")
    return tuple(dict.fromkeys(map(ending, pieces)))


def ending(text: str) -> str:
    """Return one ending of file names: a bare word gets its dot, a leading `*` and a trailing `/` are dropped."""
    ending = text.lstrip("*").rstrip("/")
    if not ending or "/" in ending:
        raise RequestError(f"{text!r} is not the ending of a file name; give one such as .nwb")
    return f".{ending}" if re.fullmatch("[A-Za-z0-9]+", ending) else ending


@dataclass(frozen=True)
class Pattern:
    """One pattern of files within an asset: its text, whether it includes or excludes, and its expression."""

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
        fixed = itertools.takewhile(lambda name: not _WILD & set(name), folders if is_anchored else ())
        return "".join(f"{name}/" for name in fixed)

    @property
    def ending(self) -> str:
        """The ending of names that it matches, if it is nothing else; else empty."""
        found = _BY_ENDING.fullmatch(self.text)
        return found[1] if found else ""


def patterns(text: str) -> tuple[str, ...]:
    """Return the patterns of files in a comma-separated text or a JSON list, each once; some of them must include."""
    is_list = re.match(r'\[\s*"', text)  # [ab]*.csv is a pattern
    listed = _listed(text, "**/*.nwb") if is_list else text.split(",")
    pieces = tuple(dict.fromkeys(piece.strip() for piece in listed if piece.strip()))
    takes = [compiled(piece).takes for piece in pieces]  # all of them, so that each mistake is found
    if not any(takes):
        raise RequestError(f"{text!r} includes no file; give a pattern without ! first, such as **/*.nwb")
    return pieces


@functools.cache
def compiled(text: str) -> Pattern:
    """Return a pattern in the syntax of git's ignore files.

    RequestError if it leads into a store, or cannot be read; syntax that git does not have would match nothing.
    """
    from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

    bare = text.removeprefix("!")
    *folders, last = bare.split("/")
    if text.startswith("#"):
        raise RequestError(f"{text!r} begins with #, which starts a comment; write \\# for that character")
    if text.count("{") != text.count("}"):
        raise RequestError(f"{text!r}: braces are not supported; write each pattern in full, separated by commas")
    if re.search(r"\[:\w+:\]", text):
        raise RequestError(f"{text!r}: named character classes are not supported; write them out, such as [0-9]")
    if "://" in text or {".", ".."} & {*folders, last}:
        raise RequestError(f"{text!r}: patterns are relative to the folder of each asset")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of [[ and the like, which are plain characters here
            read = GitIgnoreSpecPattern(text)
            expression = re.compile(read.regex.pattern) if read.regex else None
    except (ValueError, re.error):
        expression = None
    if expression is None:
        remedy = (
            '; a pattern with commas goes into a JSON list: ["[1,2].csv"]' if text.count("[") > text.count("]") else ""
        )
        raise RequestError(f"{text!r} is not a pattern of files such as **/*.nwb{remedy}")
    if store := next((name for name in folders if name.endswith(STORE_ENDINGS) and last), None):
        raise RequestError(
            f"{text!r} leads into a store, which counts as one file;"
            f" end the pattern with {bare[: bare.index(store) + len(store)]!r}"
        )
    return Pattern(bare, bool(read.include), expression)

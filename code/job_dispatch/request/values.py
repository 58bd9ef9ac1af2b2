"""Values of flags: numbers, switches, names, endings and fields."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path

from job_dispatch.messages import RequestError
from job_dispatch.request import fields as field_names

PRODUCTION_HOST = "api.allenneuraldynamics.org"
_SECONDS_A_DAY = 86_400
# A shell removes the quotes of a JSON list that is not in quotes itself.
_BARE_LIST = re.compile(r'\[([^"\[\]{}]+)\]')


def count(text: str) -> int:
    """Return a whole number from 1."""
    if not re.fullmatch(r"[0-9]{1,99}", text) or int(text) == 0:
        raise RequestError(f"{text!r} is not a whole number from 1")
    return int(text)


def seconds(text: str) -> int:
    """Return a whole number of seconds, at most those of a day."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= _SECONDS_A_DAY:
        raise RequestError(f"{text!r} is not a whole number of seconds from 1 to {_SECONDS_A_DAY}")
    return int(text)


def path(text: str) -> Path:
    """Return a path; `~` is the home folder."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise RequestError(f"{text!r}: no such user, whose home folder {text.partition('/')[0]} would be") from None


def switch(text: str) -> bool:
    """Return whether a switch is on; `true` and `false` do as well."""
    on = {"0": False, "1": True, "false": False, "true": True}.get(text.lower())
    if on is None:
        raise RequestError(f"{text!r} is neither 0 nor 1")
    return on


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


def name_pattern(text: str) -> str:
    """Return a pattern of names."""
    if "{" not in text:
        raise RequestError(f"{text!r} is not a pattern such as {{session:%Y-%m-%d}}_{{subject}}")
    return text


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


def endings(text: str) -> tuple[str, ...]:
    """Return the endings of file names in a comma-separated text.

    A bare word gets its dot, a leading `*` and a trailing `/` are dropped, everything else stays.

    Raises
    ------
    RequestError
        An ending is empty behind its `*`, or holds a `/`: endings are those of a name, not of a path.
    """
    pieces = [piece.strip() for piece in text.split(",") if piece.strip()]
    if text.strip() and not pieces:
        raise RequestError(f"{text!r} names no ending; give one such as .nwb")
    return tuple(dict.fromkeys(map(ending, pieces)))


def ending(text: str) -> str:
    """Return one ending of file names. Raises as `endings` does."""
    ending = text.lstrip("*").rstrip("/")
    if not ending or "/" in ending:
        raise RequestError(f"{text!r} is not the ending of a file name; give one such as .nwb")
    return f".{ending}" if re.fullmatch("[A-Za-z0-9]+", ending) else ending


def fields(text: str) -> tuple[str, ...]:
    """Return the record fields in a comma-separated text or a JSON list, each once.

    Raises
    ------
    RequestError
        A field is neither a dotted path, nor several with `|` between them, nor a name such as `@subject`. A list is no
        JSON.
    """
    pieces = [piece.strip() for piece in listed(text)]
    for piece in pieces:
        field_names.paths(piece)
    return tuple(dict.fromkeys(pieces))


def words(text: str) -> tuple[str, ...]:
    """Return the values in a comma-separated text or a JSON list, each once."""
    pieces = [piece.strip() for piece in listed(text)]
    if not any(pieces):
        raise RequestError(f"{text!r} names nothing")
    return tuple(dict.fromkeys(piece for piece in pieces if piece))


def day(text: str) -> date:
    """Return the day of a text such as 2025-06-07."""
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        raise RequestError(f"{text!r} is not a day such as 2025-06-07")
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise RequestError(f"there is no day {text}") from None


def field(text: str) -> str:
    """Return the one record field in a text."""
    named = fields(text)
    if len(named) != 1:
        raise RequestError(f"{text!r} are {'several' if named else 'no'} fields; give one")
    return named[0]


def listed(text: str, example: str = "subject.subject_id") -> list[str]:
    """Return the texts in a JSON list, or in a text with commas."""
    if not text.startswith("["):
        return text.split(",")
    try:
        pieces = json.loads(text)
    except (ValueError, RecursionError):
        bare = _BARE_LIST.fullmatch(text)
        pieces = bare[1].split(",") if bare else None
    if not isinstance(pieces, list) or not all(isinstance(piece, str) for piece in pieces):
        raise RequestError(f'{text!r} is not a JSON list of texts such as ["{example}"]')
    return pieces

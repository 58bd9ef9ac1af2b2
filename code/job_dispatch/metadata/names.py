"""Subject, session and more from the names of files and folders.

Two conventions are known: that of the Allen Institute
(https://github.com/AllenNeuralDynamics/aind-file-standards) and that of BIDS and DANDI
(https://bids-specification.readthedocs.io/en/stable/common-principles.html). A lab's own is a `NamePattern`.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from job_dispatch.messages import RequestError
from job_dispatch.metadata.records import value_of

# The parts of a name: the field that each is a value of, and its path in version 1 of the metadata.
_FIELDS = {
    "subject": ("@subject", "subject.subject_id"),
    "session": ("@session", "session.session_start_time"),
    "project": ("@project", "data_description.project_name"),
    "modality": ("@modality", "data_description.modality"),
    "level": ("data_description.data_level", "data_description.data_level"),
    "created": ("@created", "data_description.creation_time"),
    "raw": ("@raw", "data_description.input_data_name"),
}
_FROM_PATTERN = ("subject", "session", "project", "modality")
_OF_THE_RECORD = frozenset({"_id", "name", "location", "files"})
_TIMESTAMP = r"\d{4}-\d{2}-\d{2}_\d{2}-\d{2}-\d{2}"
_ALLEN_INSTITUTE = re.compile(
    rf"(?P<raw>(?:(?P<modality>[A-Za-z][\w-]*?)_)?(?P<subject>[^_]+)_(?P<start>{_TIMESTAMP}))(?:_.+_(?P<made>{_TIMESTAMP}))?"
)
_BIDS_DAY = re.compile(r"(\d{4})-?(\d{2})-?(\d{2})(?:[T-]?(\d{2})-?(\d{2})-?(\d{2}))?")
_BIDS_SUFFIX = re.compile(r"[A-Za-z]+(\+[A-Za-z]+)*")
# Directives of strftime that names have, each with a pattern of its text.
# fmt: off
_DIRECTIVES = {
    "%Y": r"\d{4}", "%y": r"\d{2}", "%m": r"\d{2}", "%d": r"\d{2}", "%H": r"\d{2}", "%I": r"\d{2}", "%M": r"\d{2}",
    "%S": r"\d{2}", "%f": r"\d{1,6}", "%j": r"\d{3}", "%b": r"[A-Za-z]{3}", "%B": r"[A-Za-z]+", "%p": r"[AaPp][Mm]",
}
# fmt: on

Named = dict[str, Any]


class NamePattern:
    """A lab's own way of naming, such as `{session:%Y-%m-%d}_{subject}_{run}`.

    Fields are as in Python's format strings: `{subject}` is any text, `{session:%Y-%m-%d}` a date in the directives of
    strftime, `{run:d}` a whole number. A pattern with slashes is matched against as many parts of a path.

    Parameters
    ----------
    text : str

    Raises
    ------
    RequestError
        It cannot be read.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._parts = text.count("/") + 1
        self._formats: dict[str, str] = {}
        try:
            pieces = list(string.Formatter().parse(text))
        except ValueError as error:
            raise self._wrong(str(error)) from None
        self._expression = re.compile("".join(self._piece(*piece) for piece in pieces))
        if not self._formats:
            raise self._wrong("it has no field such as {subject}")

    def read(self, path: str) -> Named | None:
        """Return the values in a path without its extension, None if it does not fit."""
        found = self._expression.fullmatch("/".join(path.split("/")[-self._parts :]))
        if found is None:
            return None
        try:
            values = {name: _converted(found[name], format) for name, format in self._formats.items()}
        except ValueError:  # no such day
            return None
        if "modality" in values:
            values["modality"] = str(values["modality"]).split("+")
        return values

    def _piece(self, literal: str, name: str | None, format: str | None, conversion: str | None) -> str:
        escaped = re.escape(literal)
        if name is None:
            return escaped
        if not name.isidentifier() or conversion:
            raise self._wrong(f"{{{name}}} is not a field such as {{subject}}")
        if name in _OF_THE_RECORD:
            raise self._wrong(f"the field {name} is not from a name; call it otherwise")
        if name in self._formats:
            return f"{escaped}(?P={name})"
        self._formats[name] = format or ""
        return f"{escaped}(?P<{name}>{self._text_of(name, format or '')})"

    def _text_of(self, name: str, format: str) -> str:
        if not format:
            return "[^/]+?"
        if format == "d":
            return r"\d+"
        pieces = re.split(r"(%.)", format)
        if len(pieces) == 1 or any(piece not in _DIRECTIVES for piece in pieces[1::2]):
            known = ", ".join(_DIRECTIVES)
            raise self._wrong(f"{{{name}:{format}}} is neither a date of {known}, nor d for a whole number")
        return "".join(_DIRECTIVES.get(piece, re.escape(piece)) for piece in pieces)

    def _wrong(self, reason: str) -> RequestError:
        return RequestError(f"the name pattern {self.text!r} cannot be read: {reason}")


def _converted(text: str, format: str) -> Any:
    if format in ("", "d"):
        return int(text) if format else text
    moment = datetime.strptime(text, format)
    return moment.isoformat() if re.search("%[HIMSf]", format) else f"{moment:%Y-%m-%d}"


def from_conventions(location: str) -> Named:
    """Return the values in the parts of a location, by the known conventions."""
    parts = [part for part in location.partition("://")[2].split("/") if part]
    for part in reversed(parts):
        if found := _allen_institute(part.partition(".")[0]):
            return found
    return _bids(parts)


def _allen_institute(name: str) -> Named | None:
    found = _ALLEN_INSTITUTE.fullmatch(name)
    if found is None:
        return None
    try:
        start, made = (_moment(found[group]) for group in ("start", "made"))
    except ValueError:  # no such day
        return None
    named: Named = {"subject": found["subject"], "session": start, "created": made or start}
    if found["modality"]:
        named["modality"] = [found["modality"]]
    return {**named, "level": "derived", "raw": found["raw"]} if made else {**named, "level": "raw"}


def _moment(timestamp: str | None) -> str | None:
    if timestamp is None:
        return None
    return datetime.strptime(timestamp, "%Y-%m-%d_%H-%M-%S").isoformat()


def _bids(parts: Sequence[str]) -> Named:
    entities: dict[str, str] = {}
    suffix = ""
    for part in parts:
        pieces = part.partition(".")[0].split("_")
        labels = dict(piece.split("-", 1) for piece in pieces if "-" in piece)
        if "sub" in labels or ("ses" in labels and "sub" in entities):
            entities.update(labels)
            suffix = pieces[-1] if _BIDS_SUFFIX.fullmatch(pieces[-1]) else ""
    if not entities.get("sub"):
        return {}
    named: Named = {"subject": entities["sub"]}
    if session := entities.get("ses"):
        named["session"] = _bids_session(session)
    if suffix:
        named["modality"] = suffix.split("+")
    return named


def _bids_session(label: str) -> str:
    day = _BIDS_DAY.fullmatch(label)
    if day is None:
        return label
    try:
        moment = datetime(*(int(part) for part in day.groups() if part))  # type: ignore[arg-type]
    except ValueError:
        return label
    return moment.isoformat() if day[4] else f"{moment:%Y-%m-%d}"


def fill(record: dict[str, Any], named: Mapping[str, Any]) -> None:
    """Fill the gaps of a record with the values in a name."""
    for key, value in named.items():
        if key not in _FIELDS:
            record.setdefault(key, value)
            continue
        name, path = _FIELDS[key]
        if value_of(record, name) is not None:
            continue
        section, _, field = path.partition(".")
        if record.get(section) is None:
            record[section] = {}
        if isinstance(record[section], dict):
            is_modality = key == "modality"
            record[section][field] = [{"abbreviation": one} for one in value] if is_modality else value

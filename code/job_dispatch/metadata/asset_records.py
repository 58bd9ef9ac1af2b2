"""The record of an asset without a database: from its `metadata.nd.json`, the schema's core files and its name.

Two conventions of names are known: that of the Allen Institute
(https://github.com/AllenNeuralDynamics/aind-file-standards) and that of BIDS and DANDI
(https://bids-specification.readthedocs.io/en/stable/common-principles.html). A lab's own is a `NamePattern`.
"""

from __future__ import annotations

import contextlib
import re
import string
import uuid
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from job_dispatch.messages import RequestError
from job_dispatch.metadata.records import value_of

# DocDB itself is built from this file.
_WHOLE = "metadata.nd.json"
# https://aind-data-schema.readthedocs.io: the core files of version 1 and 2, each of which is a section of the record.
# fmt: off
_CORE_FILES = {f"{section}.json": section for section in (
    "subject", "data_description", "session", "acquisition", "processing", "quality_control", "procedures", "rig",
    "instrument",
)}
# fmt: on
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


def wanted_files(present: Collection[str], read: Mapping[str, bytes]) -> Sequence[str]:
    """Return which files of an asset's folder to read next: the core files only where `metadata.nd.json` has gaps."""
    if not read and _WHOLE in present:
        return [_WHOLE]
    if len(read) > (_WHOLE in read):
        return []
    sections = _decoded(_WHOLE, read[_WHOLE]) if _WHOLE in read else {}
    return [name for name, section in _CORE_FILES.items() if name in present and sections.get(section) is None]


def record_of(location: str, read: Mapping[str, bytes], named: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of an asset, by where it was found, whatever its files say.

    `read` has the contents of the files that `wanted_files` asked for; what is in no file is taken from its name,
    `named`. Raises RequestError if a file does not hold an object.
    """
    record = _decoded(_WHOLE, read[_WHOLE]) if _WHOLE in read else {}
    for file, content in read.items():
        if file != _WHOLE:
            record[_CORE_FILES[file]] = _decoded(file, content)
    name = record.get("name")
    if not isinstance(name, str) or not name:
        name = location.rpartition("/")[2]
    fill(record, named)
    identity = {"_id": str(uuid.uuid5(uuid.NAMESPACE_URL, location)), "name": name, "location": location}
    return {**identity, **record, **identity}


def _decoded(name: str, content: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(content.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise RequestError(f"{name}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise RequestError(f"{name}: not an object")
    return value


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


class NamePattern:
    """A lab's own way of naming, such as `{session:%Y-%m-%d}_{subject}_{run}`.

    Fields are as in Python's format strings: `{subject}` is any text, `{session:%Y-%m-%d}` a date in the directives of
    strftime, `{run:d}` a whole number. A pattern with slashes is matched against as many parts of a path. Raises
    RequestError if it cannot be read.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._formats: dict[str, str] = {}
        try:
            pieces = [self._piece(*piece) for piece in string.Formatter().parse(text)]
            if not self._formats:
                raise ValueError("it has no field such as {subject}")
        except ValueError as error:
            raise RequestError(f"the name pattern {text!r} cannot be read: {error}") from None
        self._expression = re.compile("".join(pieces))

    def _piece(self, literal: str, name: str | None, format: str | None, conversion: str | None) -> str:
        """Return the expression of a text and the field after it, or raise ValueError."""
        escaped = re.escape(literal)
        if name is None:
            return escaped
        if not name.isidentifier() or conversion:
            raise ValueError(f"{{{name}}} is not a field such as {{subject}}")
        if name in _OF_THE_RECORD:
            raise ValueError(f"the field {name} is not from a name; call it otherwise")
        if name in self._formats:
            return f"{escaped}(?P={name})"
        self._formats[name] = format or ""
        if not format:
            return f"{escaped}(?P<{name}>[^/]+?)"
        if format == "d":
            return rf"{escaped}(?P<{name}>\d+)"
        parts = re.split("(%.)", format)
        if len(parts) == 1 or any(part not in _DIRECTIVES for part in parts[1::2]):
            known = ", ".join(_DIRECTIVES)
            raise ValueError(f"{{{name}:{format}}} is neither a date of {known}, nor d for a whole number")
        return f"{escaped}(?P<{name}>{''.join(_DIRECTIVES.get(part, re.escape(part)) for part in parts)})"

    def read(self, path: str) -> Named | None:
        """Return the values in a path without its extension, None if it does not fit."""
        parts = self.text.count("/") + 1
        found = self._expression.fullmatch("/".join(path.split("/")[-parts:]))
        if found is None:
            return None
        try:
            values = {name: _converted(found[name], format) for name, format in self._formats.items()}
        except ValueError:  # no such day
            return None
        if "modality" in values:
            values["modality"] = str(values["modality"]).split("+")
        return values


def _converted(text: str, format: str) -> Any:
    if format in ("", "d"):
        return int(text) if format else text
    moment = datetime.strptime(text, format)
    return moment.isoformat() if re.search("%[HIMSf]", format) else f"{moment:%Y-%m-%d}"


def from_conventions(location: str) -> Named:
    """Return the values in the parts of a location, by the known conventions."""
    parts = [part for part in location.partition("://")[2].split("/") if part]
    return next(filter(None, map(_allen_institute, reversed(parts))), None) or _bids(parts)


def _allen_institute(part: str) -> Named | None:
    found = _ALLEN_INSTITUTE.fullmatch(part.partition(".")[0])
    if found is None:
        return None
    try:
        times = [_converted(found[one], "%Y-%m-%d_%H-%M-%S") for one in ("start", "made") if found[one]]
    except ValueError:  # no such day
        return None
    named: Named = {"subject": found["subject"], "session": times[0], "created": times[-1]}
    if found["modality"]:
        named["modality"] = [found["modality"]]
    return {**named, "level": "derived", "raw": found["raw"]} if found["made"] else {**named, "level": "raw"}


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
    with contextlib.suppress(ValueError):  # no such day
        if day is not None:
            moment = datetime(*(int(part) for part in day.groups() if part))  # type: ignore[arg-type]
            return moment.isoformat() if day[4] else f"{moment:%Y-%m-%d}"
    return label

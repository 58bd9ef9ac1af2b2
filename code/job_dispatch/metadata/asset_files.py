"""The record of an asset without a database: from its `metadata.nd.json`, the schema's core files and its name."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from job_dispatch.messages import RequestError
from job_dispatch.metadata import names

# DocDB itself is built from this file.
WHOLE = "metadata.nd.json"
# https://aind-data-schema.readthedocs.io: the core files of version 1 and 2, each of which is a section of the record.
# fmt: off
CORE_FILES = {f"{section}.json": section for section in (
    "subject", "data_description", "session", "acquisition", "processing", "quality_control", "procedures", "rig",
    "instrument",
)}
# fmt: on


def wanted_files(present: Collection[str], read: Mapping[str, bytes]) -> Sequence[str]:
    """Return which files of an asset's folder to read next: the core files only where `metadata.nd.json` has gaps."""
    if not read and WHOLE in present:
        return [WHOLE]
    if len(read) > (WHOLE in read):
        return []
    core = [name for name in CORE_FILES if name in present]
    if not core or WHOLE not in read:
        return core
    sections = _decoded(WHOLE, read[WHOLE])
    return [name for name in core if sections.get(CORE_FILES[name]) is None]


def record_of(location: str, read: Mapping[str, bytes], named: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of an asset.

    Parameters
    ----------
    location : str
        Where it was found, whatever its files say.
    read : dict
        Contents of the files that `wanted_files` asked for.
    named : dict
        What its name says, for what is in no file.

    Raises
    ------
    RequestError
        A file does not hold an object.
    """
    record = _decoded(WHOLE, read[WHOLE]) if WHOLE in read else {}
    for name, content in read.items():
        if name != WHOLE:
            record[CORE_FILES[name]] = _decoded(name, content)
    if not isinstance(record.get("name"), str) or not record["name"]:
        record["name"] = location.rpartition("/")[2]
    names.fill(record, named)
    identity = {"_id": str(uuid.uuid5(uuid.NAMESPACE_URL, location)), "name": record["name"], "location": location}
    return {**identity, **record, **identity}


def _decoded(name: str, content: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(content.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise RequestError(f"{name}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise RequestError(f"{name}: not an object")
    return value

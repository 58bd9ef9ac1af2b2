"""The job files that a run is about, as small dictionaries: ten thousand of them are read in a second."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from job_dispatch.messages import RequestError

_WORKER_FOLDER = re.compile(r"[0-9]+")


@dataclass(frozen=True)
class JobFile:
    """A job file: its name is the name of the job."""

    path: Path

    @property
    def name(self) -> str:
        """The name of the job."""
        return self.path.stem

    @property
    def content(self) -> dict[str, Any]:
        """What the file holds.

        Raises
        ------
        RequestError
            It is no job file.
        """
        return self._read[0]

    @property
    def digest(self) -> str:
        """The SHA-256 of the text from which the content was read."""
        return self._read[1]

    @cached_property
    def _read(self) -> tuple[dict[str, Any], str]:
        text = self._text()
        try:
            content = json.loads(text)
        except ValueError:
            content = None
        if not isinstance(content, dict) or "s3_location" not in content:
            raise RequestError(f"{self.path}: not a job file; give the folder that the dispatcher wrote")
        return content, hashlib.sha256(text).hexdigest()

    def _text(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            raise RequestError(f"{self.path}: no such job file") from None

    def is_as_in(self, record: Mapping[str, Any]) -> bool:
        """Tell whether the input is the same as when a record was written; mostly the file is, which is soon seen."""
        if hashlib.sha256(self._text()).hexdigest() == record.get("job_file"):
            return True
        return bool(record.get("input", self.fingerprint) == self.fingerprint)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all that decides what the job computes, the versions of its files included."""
        from job_dispatch.jobs.model import fingerprint  # pydantic takes 0.2 s, and status needs it for few jobs

        return fingerprint(self.content)

    @property
    def input_bytes(self) -> int | None:
        """The bytes of its files, None where one is unknown."""
        versions = self.content.get("file_version") or [None]
        sizes = [one["size"] for one in versions if one is not None and "size" in one]
        return sum(sizes) if len(sizes) == len(versions) else None


def find(places: Sequence[Path]) -> list[JobFile]:
    """Return the job files in output folders of a dispatch, worker folders, or given one by one; each job once.

    Raises
    ------
    RequestError
        A place does not exist or holds no job file.
    """
    found: dict[str, JobFile] = {}
    for place in places:
        here = _in_place(place)
        if not here:
            raise RequestError(f"{place}: no job files (*.json) in it; give the output folder of a dispatch")
        found.update((one.name, one) for one in here if one.name not in found)
    return list(found.values())


def _in_place(place: Path) -> list[JobFile]:
    if place.is_file():
        return [JobFile(place)]
    if not place.is_dir():
        raise RequestError(f"{place}: no such folder; give the output folder of a dispatch, such as results")
    workers = [path for path in place.iterdir() if _WORKER_FOLDER.fullmatch(path.name)]
    return [
        JobFile(path)
        for folder in sorted(workers, key=lambda one: int(one.name)) or [place]
        for path in sorted(folder.iterdir(), key=lambda one: one.name)
        if path.name.endswith(".json") and not path.name.startswith(".")
    ]

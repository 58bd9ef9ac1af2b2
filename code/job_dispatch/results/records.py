"""The files of a job: its job file, and the record of its last run.

The record is `job.json` if the job is done and `failed.json` if it failed, never both. With a result, `processing.json`
describes how it was made, as `Processing` of aind-data-schema 2.x does.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from job_dispatch.messages import RequestError

DONE, FAILED, LOG, PROCESSING = "job.json", "failed.json", "log.txt", "processing.json"
RECORDS = (DONE, FAILED, LOG, PROCESSING)
# The fields of a job file that describe its assets.
LISTS = ("asset_name", "asset_id", "docdb_record_id", "s3_location", "file_location")
TRAITS = ("subject", "session", "project", "modality")
_NOTE = ".jobs.{}.json"
_WORKER_FOLDER = re.compile(r"[0-9]+")
_DESCRIBED_BY = "https://raw.githubusercontent.com/AllenNeuralDynamics/aind-data-schema/main/src/aind_data_schema/core/processing.py"
_GIT_SECONDS = 10

Record = dict[str, Any]


@dataclass(frozen=True)
class JobFile:
    """A job file, which is read when it is asked for: ten thousand of them are read in a second."""

    path: Path

    @property
    def name(self) -> str:
        """The name of the job."""
        return self.path.stem

    @property
    def content(self) -> dict[str, Any]:
        """What the file holds; a RequestError if it is no job file."""
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

    def is_as_in(self, record: Record) -> bool:
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


def find_jobs(places: Sequence[Path]) -> list[JobFile]:
    """Return the job files in output folders of a dispatch, worker folders, or given one by one; each job once.

    A RequestError is raised if a place does not exist or holds no job file.
    """
    found: dict[str, JobFile] = {}
    for place in places:
        here = _in_place(place)
        if not here:
            raise RequestError(f"{place}: no job files (*.json) in it; give the output folder of a dispatch")
        for one in here:
            found.setdefault(one.name, one)
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


@contextmanager
def whole(path: Path) -> Iterator[IO[str]]:
    """Open a text file for writing that is there whole at the end, or not at all."""
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with unfinished.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def write(path: Path, value: Any) -> None:
    """Write a JSON file that is there whole or not at all."""
    with whole(path) as file:
        json.dump(value, file, indent=4, allow_nan=False, ensure_ascii=False)
        file.write("\n")


def read(folder: Path) -> Record | None:
    """Return the record of a job, None if it has none or one that was damaged."""
    for name in (DONE, FAILED):
        try:
            with open(f"{folder}/{name}", "rb") as file:  # noqa: PTH123 - faster for ten thousand
                record = json.loads(file.read())
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
            continue
        if _is_record(record):
            return {**record, "status": "done" if name == DONE else "failed"}
    return None


def _is_record(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("job"), str):
        return False
    lists = [value.get(field) or [] for field in LISTS]
    if not all(isinstance(one, list) and all(isinstance(text, str) for text in one) for one in lists):
        return False
    return all(isinstance(value.get(field) or {}, dict) for field in ("parameters", "values", "group_metadata"))


def remove(folder: Path) -> None:
    """Remove the records of a job and leave what its analysis wrote."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in (folder / name for name in RECORDS):
        if path.is_dir() and not path.is_symlink():  # made by the analysis
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def empty(folder: Path) -> None:
    """Make the folder of a job empty; its record goes first, so that a kill never leaves a record without its files."""
    if folder.is_dir() and not folder.is_symlink():
        remove(folder)
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def about(name: str, content: Mapping[str, Any]) -> Record:
    """Return the part of a record that tells what a job analyses."""
    lists = {field: content[field] for field in LISTS if content.get(field) is not None}
    group = {"group_metadata": content["group_metadata"]} if content.get("group_metadata") else {}
    return {"job": name, **lists, **group, **{trait: _joined(content.get(trait) or ()) for trait in TRAITS}}


def _joined(values: Iterable[str | list[str] | None]) -> str:
    """Return the values of several assets as one text, without repeats and empty ones."""
    texts = (", ".join(value) if isinstance(value, list) else value for value in values)
    return "; ".join(dict.fromkeys(text for text in texts if text))


def read_note(results: Path) -> dict[str, Any]:
    """Return what a results folder knows of the runs into it: all `jobs` (paths), `analysis` and `set` of the last run.

    Each run has a note of its own, so that runs that start at the same moment lose none.
    """
    notes = sorted(results.glob(_NOTE.format("*")), key=lambda path: path.stat().st_mtime_ns)
    found = [json.loads(path.read_bytes()) for path in notes]
    return {**found[-1], "jobs": list(dict.fromkeys(job for note in found for job in note["jobs"]))} if found else {}


def write_note(results: Path, places: Iterable[Path], analysis: Path, given: Mapping[str, Any]) -> None:
    """Note the job folders, the analysis and the `--set` of a run."""
    results.mkdir(parents=True, exist_ok=True)
    jobs = [str(place.absolute()) for place in places]
    name = _NOTE.format(hashlib.sha256("\n".join(jobs).encode()).hexdigest()[:16])
    write(results / name, {"jobs": jobs, "analysis": str(analysis.absolute()), "set": dict(given)})


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def code_of(path: Path) -> dict[str, str]:
    """Return the address and the version of an analysis file.

    In a Git repository they are the address of its origin, without credentials, and the commit, if the file is as
    committed; else the file and its SHA-256.
    """
    url, version = path.resolve().as_uri(), f"sha256:{sha256(path)}"
    if origin := _git(path, "remote", "get-url", "origin"):
        url = re.sub(r"(?<=://)[^/@]*@", "", origin)
    commit = _git(path, "rev-parse", "HEAD")
    if commit and _git(path, "status", "--porcelain", "--", path.name) == "" and _git(path, "ls-files", path.name):
        version = commit
    return {"url": url, "version": version}


def _git(path: Path, *arguments: str) -> str | None:
    """Return what Git prints in the folder of a file, None if it fails."""
    command = ["git", "-C", str(path.resolve().parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def processing(record: Record, analysis: Path, code: Mapping[str, str]) -> dict[str, Any]:
    """Return the description of the one process that made a result, from its record and what `code_of` returned."""
    inputs = record.get("file_location") or record.get("s3_location") or ()
    return {
        "object_type": "Processing",
        "describedBy": _DESCRIBED_BY,
        "schema_version": "2.0.0",
        "data_processes": [
            {
                "object_type": "Data process",
                "process_type": "Analysis",
                "name": analysis.stem,
                "stage": "Analysis",
                "code": {
                    "object_type": "Code",
                    "url": code["url"],
                    "name": analysis.name,
                    "version": code["version"],
                    "run_script": analysis.name,
                    "language": "Python",
                    "language_version": platform.python_version(),
                    "input_data": [{"object_type": "Data asset", "url": location} for location in inputs],
                    "parameters": record["parameters"],
                },
                "experimenters": [],
                "start_date_time": record["start"],
                "end_date_time": record["end"],
                "output_parameters": record["values"],
            }
        ],
    }

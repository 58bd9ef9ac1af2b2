"""What is written about a job: `job.json` if it is done, `failed.json` if it failed; never both."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

DONE, FAILED, LOG, PROCESSING = "job.json", "failed.json", "log.txt", "processing.json"
RECORDS = (DONE, FAILED, LOG, PROCESSING)
_NOTE = ".jobs.{}.json"
# The fields of a job file that describe its assets.
LISTS = ("asset_name", "asset_id", "docdb_record_id", "s3_location", "file_location")
TRAITS = ("subject", "session", "project", "modality")

Record = dict[str, Any]


def write_whole(path: Path, value: Any) -> None:
    """Write a JSON file that is there whole or not at all."""
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with unfinished.open("w", encoding="utf-8", errors="backslashreplace") as file:
            json.dump(value, file, indent=4, allow_nan=False, ensure_ascii=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def read(folder: Path) -> Record | None:
    """Return the record of a job, None if it has none or one that was damaged."""
    for name in (DONE, FAILED):
        try:
            with open(f"{folder}/{name}", "rb") as file:  # noqa: PTH123 - faster for ten thousand
                record = json.loads(file.read())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            continue
        if isinstance(record, dict) and isinstance(record.get("job"), str):
            return {**record, "status": "done" if name == DONE else "failed"}
    return None


def remove(folder: Path) -> None:
    """Remove the records of a job and leave what its analysis wrote."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in RECORDS:
        (folder / name).unlink(missing_ok=True)


def empty(folder: Path) -> None:
    """Make the folder of a job empty; its record goes first, so that a kill never leaves a record without its files."""
    for name in (DONE, FAILED):
        (folder / name).unlink(missing_ok=True)
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def joined(values: Iterable[str]) -> str:
    """Return the values of several assets as one text, without repeats and empty ones."""
    return "; ".join(dict.fromkeys(value for value in values if value))


def about(name: str, content: Mapping[str, Any]) -> Record:
    """Return the part of a record that tells what a job analyses."""
    lists = {field: content[field] for field in LISTS if content.get(field) is not None}
    traits = {
        trait: joined(
            ", ".join(value) if isinstance(value, list) else value or "" for value in content.get(trait) or ()
        )
        for trait in TRAITS
    }
    group = {"group_metadata": content["group_metadata"]} if content.get("group_metadata") else {}
    return {"job": name, **lists, **group, **traits}


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
    write_whole(results / name, {"jobs": jobs, "analysis": str(analysis.absolute()), "set": dict(given)})

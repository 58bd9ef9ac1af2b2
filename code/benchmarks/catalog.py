"""One subject asked for in a large catalog, beside the code of version 0.1 on the same file in the same run.

As a script it is one side: `python benchmarks/catalog.py FOLDER_OF_THE_CODE CATALOG`.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

CODE = Path(__file__).resolve().parent.parent
# The last code that kept all records in memory and judged them by a patched mongomock.
_OLD = "078617af6d4fa6a86a81d96887ff0ee7365b3ba8"
_RECORDS = 200_000
_SUBJECT = "600100"

Row = dict[str, Any]


def measure(directory: Path, environment: Mapping[str, str], quick: bool) -> Row:
    """Return seconds and peak memory of both sides; of ours alone where the history of the code is not there."""
    from benchmarks import processes

    path = directory / "catalog.jsonl"
    number = _RECORDS // 10 if quick else _RECORDS
    with path.open("w") as file:
        file.writelines(json.dumps(_record(one)) + "\n" for one in range(number))
    # Whichever side came first would pay for the first look at what has just been written.
    row: Row = {"records": number, "megabytes": len(path.read_bytes()) / 1e6}
    row["ours"] = processes.run(_command(CODE, path), environment).answer
    if old := _old_code(directory):
        row["old"] = processes.run(_command(old, path), environment).answer
        if row["old"]["files"] != row["ours"]["files"]:
            raise RuntimeError(f"the old code finds {row['old']['files']} records, ours {row['ours']['files']}")
        row["ratio"] = row["old"]["seconds"] / row["ours"]["seconds"]
    path.unlink()
    print(_line(row))
    return row


def _line(row: Row) -> str:
    sides = "; ".join(f"{name} {_side_of(row[name])}" for name in ("ours", "old") if name in row)
    if "ratio" not in row:
        return f"{row['records']:,} records, {row['megabytes']:,.0f} MB: {sides}; the old code is not in this history"
    cpu = row["old"]["cpu"] / row["ours"]["cpu"]
    ratio = f"{row['ratio']:.1f} × as fast, {cpu:.1f} × by CPU"
    return f"{row['records']:,} records, {row['megabytes']:,.0f} MB: {sides}: {ratio}"


def _side_of(measured: Row) -> str:
    return f"{measured['seconds']:.1f} s, CPU {measured['cpu']:.1f} s, {measured['peak']:,.0f} MB"


def _command(code: Path, catalog: Path) -> list[str]:
    return [sys.executable, str(Path(__file__).resolve()), str(code), str(catalog)]


def _old_code(directory: Path) -> Path | None:
    found = subprocess.run(["git", "archive", _OLD, "job_dispatch"], cwd=CODE, capture_output=True, check=False)
    if found.returncode:
        return None
    folder = directory / "old"
    with tarfile.open(fileobj=BytesIO(found.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def _record(number: int) -> Row:
    """Give one of five versions of a session, as large as records of raw and processed assets are."""
    session, version = divmod(number, 5)
    raw = f"behavior_{600_000 + session // 20}_2025-{1 + session % 12:02}-01_14-31-15"
    name = f"{raw}_processed_2025-12-{1 + version:02}_03-49-49"
    step = {"name": "Videography", "start_date_time": "2025-12-01T03:49:49-08:00", "parameters": {"a": 1, "b": None}}
    return {
        "_id": f"{number * 7919 % 999_983:08x}-0000-4000-8000-{number:012}",
        "name": name,
        "location": f"s3://open-data/{name}",
        "created": f"2025-12-{1 + version:02}T03:49:49Z",
        "subject": {"subject_id": f"{600_000 + session // 20}", "sex": "Male", "genotype": "wt/wt"},
        "data_description": {
            "modality": [{"name": "Behavior", "abbreviation": "behavior"}],
            "input_data_name": raw,
            "data_level": "derived",
            "project_name": "Behavior Platform",
        },
        "session": {"session_start_time": "2025-12-01T03:49:49-08:00", "data_streams": [step] * 3},
        "processing": {"data_processes": [step] * 2, "notes": "x" * 100},
        "external_links": {"Code Ocean": [f"50fa9416-4e21-482f-8901-{number:012}"]},
    }


def _side(code: str, catalog: str) -> None:
    sys.path.insert(0, code)
    sys.path.append(str(CODE))
    from benchmarks.measuring import report
    from job_dispatch.metadata.catalog import Catalog

    query: Any = {"subject.subject_id": _SUBJECT}
    with contextlib.suppress(ImportError):  # the old code takes the filter itself
        from job_dispatch.request.fields import Query

        query = Query.of(query)

    def work() -> int:
        pages = Catalog(Path(catalog)).find(query, ("name", "location"))
        return sum(len(page) for page in pages)

    report(work)


if __name__ == "__main__":
    _side(*sys.argv[1:])

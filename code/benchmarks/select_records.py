"""Seconds and memory to select and group many records of a catalog: `python benchmarks/selecting.py [RECORDS]`."""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from job_dispatch.cohort.selecting import select
from job_dispatch.metadata.catalog import Catalog

FIELDS = ("subject.subject_id", "data_description.modality.abbreviation")


def record(number: int) -> dict[str, Any]:
    """Give one of five processed versions of a session; a subject has twenty sessions."""
    session, version = divmod(number, 5)
    modality = [{"name": "Behavior", "abbreviation": "behavior"}, {"name": "Ophys", "abbreviation": "pophys"}]
    raw = f"behavior_{600_000 + session // 20}_2025-{1 + session % 12:02}-01_14-31-15"
    name = f"{raw}_processed_2025-12-{1 + version:02}_03-49-49"
    return {
        "_id": f"{number * 7919 % 999_983:08x}-0000-4000-8000-{number:012}",
        "name": name,
        "location": f"s3://aind-open-data/{name}",
        "subject": {"subject_id": f"{600_000 + session // 20}"},
        "data_description": {"modality": modality[: 1 + session % 2], "input_data_name": raw, "data_level": "derived"},
        "processing": {"end": f"2025-12-{1 + version:02}T03:49:49-08:00", "notes": "x" * 200},
        "external_links": {"Code Ocean": [f"50fa9416-4e21-482f-8901-{number:012}"]},
    }


def main(records: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "catalog.jsonl"
        with path.open("w") as file:
            file.writelines(json.dumps(record(number)) + "\n" for number in range(records))
        start = time.perf_counter()
        catalog = Catalog(path)
        read = time.perf_counter()
        selected = select(
            catalog,
            {"data_description.data_level": "derived"},
            group_by=FIELDS,
            latest="processing.end",
            by="data_description.input_data_name",
            traits=False,
        )
        end = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{records:,} records, {len(selected.assets):,} latest in {len(selected.groups):,} groups:"
        f" read in {read - start:.2f} s, selected in {end - read:.2f} s, peak {peak:,.0f} MB"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50_000)

"""What the tests of grouping, parameters and diagnosis share: small records, run on DocDB and on a catalog."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.conftest import BUCKET, S3, Completed, World
from tests.gateway import Gateway, Record

EVERYTHING = "--docdb_query={}"


def make_world(gateway: Gateway, directory: Path, s3: S3 | None = None) -> World:
    """Make a world without records: input and output folders, and S3 where files are to be listed."""
    for name in ("data", "results"):
        (directory / name).mkdir()
    return World(
        gateway,
        s3 or S3(""),
        gateway.records,
        directory / "data",
        directory / "results",
        directory / "catalog.jsonl",
    )


def record(record_id: str, **fields: Any) -> Record:
    """Give a record whose name is its `_id`, with an asset of that name and these fields."""
    return {"_id": record_id, "name": record_id, "location": f"s3://{BUCKET}/{record_id}", **fields}


def call_catalog(world: World, *flags: str, reverse: bool = False) -> Completed:
    """Run the command on a catalog of the world's records, inside this process."""
    records = world.records[::-1] if reverse else world.records
    return world.call(f"--metadata_catalog={world.write_catalog(records)}", "--overwrite=1", *flags)


def call_both(world: World, *flags: str, orders: tuple[bool, ...] = (False, True)) -> Completed:
    """Run the command on DocDB; a catalog of the same records gives the same jobs, or the same error.

    `orders` tells whether the catalog is reversed.
    """
    wire = world.call("--overwrite=1", *flags)
    for reverse in orders:
        catalog = call_catalog(world, *flags, reverse=reverse)
        assert catalog.returncode == wire.returncode, wire.stderr + catalog.stderr
        assert catalog.folders == wire.folders
        assert catalog.jobs == wire.jobs
        assert error_block(catalog) == error_block(wire)
    return wire


def error_block(completed: Completed) -> list[str]:
    """Give the lines of stderr from `error: ` on; nothing where there is no error."""
    lines = completed.stderr.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    return lines[starts[0] :] if starts else []


def assert_refused(world: World, completed: Completed, *block: str) -> None:
    """The block is the last thing on stderr, the exit code is 2, and nothing is written."""
    assert error_block(completed) == list(block), completed.stderr
    assert completed.returncode == 2
    assert completed.stdout == ""
    assert completed.folders == {}
    assert list(world.output_directory.iterdir()) == []


def logged(completed: Completed, level: str) -> list[str]:
    """Give the messages of one level, without their time."""
    lines = [line.partition(" ")[2] for line in completed.stderr.splitlines()]
    lines = [line for line in lines if line.startswith(level)]
    return [line.removeprefix(level).strip() for line in lines]


def groups(completed: Completed) -> list[tuple[Any, str]]:
    """Give the values and the one-letter ids of each job's group, in the order of the jobs."""
    assert completed.returncode == 0, completed.stderr
    jobs = completed.jobs
    for job in jobs:
        assert job["asset_name"] == job["docdb_record_id"]
        assert job["s3_location"] == [f"s3://{BUCKET}/{name}" for name in job["asset_name"]]
    return [(_values(job.get("group_metadata")), "".join(job["docdb_record_id"])) for job in jobs]


def _values(metadata: dict[str, Any] | None) -> Any:
    if metadata is None:
        return None
    values = tuple(metadata.values())
    return values[0] if len(values) == 1 else values

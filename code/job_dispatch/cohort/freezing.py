"""Saving what was selected as a catalog, with which the same command gives the same jobs again."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import gzip
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from job_dispatch import stopping
from job_dispatch.cohort.table_rows import record_id_filter
from job_dispatch.messages import RequestError, ServiceError, counted, logger
from job_dispatch.metadata.records import MetadataSource, Record
from job_dispatch.model import Asset, Files
from job_dispatch.request.fields import Query
from job_dispatch.storage.locating import path_within

# A whole record has about 100 kB, an answer of DocDB at most 6 MB.
_RECORDS_A_QUERY = 100


class Target(NamedTuple):
    """Where a catalog is saved: its path, and the file that becomes it at the end of a run."""

    path: Path
    unfinished: Path

    def failed(self, error: OSError) -> ServiceError:
        """Return the error about a disk that fails."""
        return ServiceError(f"--save_catalog: {self.path} cannot be written: {error.strerror}")


@contextmanager
def saving(path: Path | None, overwrite: bool) -> Iterator[Target | None]:
    """Give a target to save a catalog to; at the end of the run it is there, or where that fails nothing of it.

    Without a path there is none.

    Raises
    ------
    RequestError
        There is a file already and `overwrite` is false, or its folder is missing.
    ServiceError
        The disk fails.
    """
    if path is None:
        yield None
        return
    if path.is_dir() or not path.parent.is_dir():
        raise RequestError(f"--save_catalog: {path}: {'is a folder' if path.is_dir() else 'its folder does not exist'}")
    if path.exists() and not overwrite:
        raise RequestError(f"--save_catalog: {path} exists; --overwrite=1 replaces it, or choose another name")
    _clear_leftovers(path)
    target = Target(path, path.with_name(f".{secrets.token_hex(8)}.{path.name}"))
    with contextlib.ExitStack() as opened:
        stopping.note(unfinished=str(target.unfinished))
        opened.callback(target.unfinished.unlink, missing_ok=True)
        try:
            file = opened.enter_context(target.unfinished.open("xb"))
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise target.failed(error) from error
        yield target
        try:
            target.unfinished.replace(path)
        except OSError as error:
            raise target.failed(error) from error


def _clear_leftovers(path: Path) -> None:
    """Remove unfinished files of the same catalog from runs that were killed: their lock is free."""
    for leftover in path.parent.glob(f".{'[0-9a-f]' * 16}.{glob.escape(path.name)}"):
        with contextlib.suppress(OSError), leftover.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink()


def save(
    target: Target, source: MetadataSource, selected: Sequence[Asset], also: Sequence[str], files: Files | None
) -> None:
    """Write the whole records of the selected assets, with absolute locations.

    Parameters
    ----------
    target : Target
        Compressed if its name ends in `.gz`.
    source : MetadataSource
    selected : sequence of Asset
    also : sequence of str
        Ids of further records without which the same command would fail.
    files : Files or None
        The files of the assets, where files were asked for.
    """
    ids = list(dict.fromkeys([*(asset.record_id for asset in selected), *also]))
    listed = None
    if files is not None:
        listed = {one.asset.record_id: [_entry(one.asset, file) for file in one.files or ()] for one in files.assets}
    encode = msgspec.json.Encoder().encode
    number = 0
    try:
        with target.unfinished.open("wb") as file:
            # Without a time in it, so that the same records make the same file.
            is_compressed = target.path.suffix == ".gz"
            with gzip.GzipFile("", "wb", fileobj=file, mtime=0) if is_compressed else nullcontext(file) as content:
                for record in _whole(source, ids):
                    if source.is_database:
                        record = {key: value for key, value in record.items() if key != "files"}
                    if listed is not None:
                        record = {**record, "files": listed.get(record["_id"], [])}
                    content.write(encode(record) + b"\n")
                    number += 1
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise target.failed(error) from error
    if number < len(ids):
        raise ServiceError(f"--save_catalog: {counted(len(ids) - number, 'record')} disappeared meanwhile; run again")
    logger.info("saved %s", counted(number, "record"))


def _entry(asset: Asset, file: Any) -> dict[str, Any]:
    entry = {"path": file.path or path_within(asset, file), "location": file.address}
    if file.size is not None:
        entry["size"] = file.size
    if file.version:
        entry["version"] = file.version
    return entry


def _whole(source: MetadataSource, ids: Sequence[str]) -> Iterator[Record]:
    step = _RECORDS_A_QUERY if source.is_database else max(len(ids), 1)
    for start in range(0, len(ids), step):
        wanted = ids[start : start + step]
        query = record_id_filter(wanted) if source.is_database else {"_id": {"$in": wanted}}
        for page in source.find(Query.of(query), None):
            yield from page

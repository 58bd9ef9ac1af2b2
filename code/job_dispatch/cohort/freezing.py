"""Saving what was selected as a catalog, with which the same command gives the same jobs again."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import gzip
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec

from job_dispatch import stopping
from job_dispatch.cohort.table_rows import record_id_filter
from job_dispatch.messages import RequestError, ServiceError, counted, logger
from job_dispatch.metadata.records import FILES_FIELD, MetadataSource, Record, read
from job_dispatch.model import Asset, File, Files
from job_dispatch.request.fields import Query
from job_dispatch.storage.locating import path_within

# A whole record has about 100 kB, an answer of DocDB at most 6 MB.
_RECORDS_A_QUERY = 100


class Target(NamedTuple):
    """Where a catalog is saved: its path, and the open file that becomes it at the end of a run."""

    path: Path
    unfinished: IO[bytes]


@contextlib.contextmanager
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
    unfinished = path.with_name(f".{secrets.token_hex(8)}.{path.name}")
    with contextlib.ExitStack() as opened:
        stopping.note(unfinished=str(unfinished))
        opened.callback(unfinished.unlink, missing_ok=True)
        with _naming(path):
            file = opened.enter_context(unfinished.open("xb"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield Target(path, file)
        with _naming(path):
            unfinished.replace(path)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the catalog if the disk fails."""
    try:
        yield
    except OSError as error:
        raise ServiceError(f"--save_catalog: {path} cannot be written: {error.strerror}") from error


def _clear_leftovers(path: Path) -> None:
    """Remove unfinished files of the same catalog from runs that were killed: their lock is free."""
    for leftover in path.parent.glob(f".{'[0-9a-f]' * 16}.{glob.escape(path.name)}"):
        with contextlib.suppress(OSError), leftover.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink()


def save(
    target: Target, source: MetadataSource, selected: Sequence[Asset], also: Sequence[str], files: Files | None
) -> None:
    """Write the whole records of the selected assets, with absolute locations; compressed if the name ends in `.gz`.

    `also` are ids of further records without which the same command would fail. `files` are those of the assets, where
    files were asked for.
    """
    ids = list(dict.fromkeys([*(asset.record_id for asset in selected), *also]))
    listed: dict[str, list[dict[str, Any]]] = {}
    if files is not None:
        listed = {one.asset.record_id: [_entry(one.asset, file) for file in one.files or ()] for one in files.assets}
    encode = msgspec.json.Encoder().encode
    number = 0
    with _naming(target.path):
        file, is_compressed = target.unfinished, target.path.suffix == ".gz"
        # Without a time in it, so that the same records make the same file.
        with gzip.GzipFile("", "wb", fileobj=file, mtime=0) if is_compressed else nullcontext(file) as content:
            for record in _whole(source, ids):
                kept = dict(record)
                if source.is_database:
                    kept.pop(FILES_FIELD, None)
                if files is not None:
                    kept[FILES_FIELD] = listed.get(record["_id"], [])
                content.write(encode(kept) + b"\n")
                number += 1
        file.flush()
        os.fsync(file.fileno())
    if number < len(ids):
        raise ServiceError(f"--save_catalog: {counted(len(ids) - number, 'record')} disappeared meanwhile; run again")
    logger.info("saved %s", counted(number, "record"))


def _entry(asset: Asset, file: File) -> dict[str, Any]:
    entry = {"path": file.path or path_within(asset, file), "location": file.address, "size": file.size}
    return {key: value for key, value in {**entry, "version": file.version or None}.items() if value is not None}


def _whole(source: MetadataSource, ids: Sequence[str]) -> Iterator[Record]:
    step = _RECORDS_A_QUERY if source.is_database else max(len(ids), 1)
    for start in range(0, len(ids), step):
        wanted = ids[start : start + step]
        query = record_id_filter(wanted) if source.is_database else {"_id": {"$in": wanted}}
        yield from read(source, Query.of(query), None)

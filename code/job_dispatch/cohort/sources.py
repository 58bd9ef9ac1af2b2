"""Where records come from: DocDB, a catalog, or a place whose folders and files are assets; and saving a catalog."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import gzip
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec

from job_dispatch import stopping
from job_dispatch.cohort.table_rows import record_id_filter
from job_dispatch.messages import (
    DispatchError,
    RequestError,
    ServiceError,
    counted,
    logger,
    progress,
    skip_or_refuse,
    warn_listing,
)
from job_dispatch.metadata import asset_records
from job_dispatch.metadata.asset_records import NamePattern
from job_dispatch.metadata.catalog import Catalog
from job_dispatch.metadata.records import FILES_FIELD, MetadataSource, Record, batches, read
from job_dispatch.model import Asset, File, Files, Reason, Skipped
from job_dispatch.request.fields import Query
from job_dispatch.request.flag_values import BUCKET_NAME, STORE_ENDINGS
from job_dispatch.request.flags import Settings
from job_dispatch.request.json_text import is_unicode
from job_dispatch.request.selection import file_places
from job_dispatch.storage.locating import path_within
from job_dispatch.storage.places import Places

_WILD = re.compile(r"[*?[]")
# What a name has after its own: an ending, with what belongs to some of them.
_EXTENSION = re.compile(r"(\.ome|\.nii|\.tar)?\.[A-Za-z][A-Za-z0-9]*(\.gz)?$")
# A whole record has about 100 kB, an answer of DocDB at most 6 MB.
_RECORDS_A_QUERY = 100
_CATALOG_ENDINGS = tuple(f".{name}{gz}" for name in ("json", "jsonl", "ndjson") for gz in ("", ".gz"))


@dataclass(frozen=True)
class Folder:
    """A folder or a bucket of assets: each direct child is one, or each match of a pattern.

    Their metadata come from the files in them, and from their names.

    Parameters
    ----------
    place : str or path
        `/lab`, `/lab/sub-*/ses-*`, `s3://bucket/prefix/` or `s3://bucket/prefix/sub-*/*.nwb`.
    endings : sequence of str
        Endings of files that are assets, besides stores.
    name_pattern : str, optional
        A lab's own way of naming, such as `{session:%Y-%m-%d}_{subject}_{run}`.
    max_concurrency : int
        Largest number of requests in flight.

    Examples
    --------
    >>> import job_dispatch as jd
    >>> cohort = jd.select(jd.Folder("assets/behavior_*"), subject="774659")
    >>> {asset.subject for asset in cohort.assets}
    {'774659'}
    """

    place: str | os.PathLike[str]
    endings: Sequence[str] = ()
    name_pattern: str | None = None
    max_concurrency: int = 64

    def open(self, skip_errors: bool = False) -> Catalog:
        """Return the records of its assets, which are read now."""
        text = os.path.expanduser(os.fspath(self.place))  # noqa: PTH111 - it may be an address
        pattern = NamePattern(self.name_pattern) if self.name_pattern else None
        if (place := place_of(text, [Path(text)], self.endings)) is None:
            raise RequestError(f"{text}: no folder of assets; a file of records is a Catalog")
        return open_place(place, self.endings, pattern, self.max_concurrency, skip_errors)


def open_source(settings: Settings) -> MetadataSource:
    """Return the source of records that the settings name, to be closed.

    RequestError if a catalog cannot be read, or a place holds no assets; ServiceError if a place cannot be read.
    """
    if settings.metadata_catalog is None:
        from job_dispatch.metadata.docdb import DocDb

        return DocDb(
            settings.docdb_host,
            settings.docdb_version,
            settings.docdb_database,
            settings.docdb_collection,
            settings.docdb_timeout,
        ).open()
    text = settings.metadata_catalog.removeprefix("file://")
    local = file_places(text, settings.input_directory)
    pattern = NamePattern(settings.name_pattern) if settings.name_pattern else None
    if (place := place_of(text, local, settings.file_extension)) is None:
        return Catalog(next((path for path in local if path.is_file()), text))
    return open_place(place, settings.file_extension, pattern, settings.max_concurrency, settings.skip_errors)


@dataclass(frozen=True)
class Place:
    """A folder or a bucket in which each direct child, or each match of a pattern, is an asset; or one asset itself.

    `text` is what the user gave. `base` is its part without wildcards: `s3://bucket/prefix` or `file:///folder`,
    without a trailing slash. `pattern` has the parts below it; empty where each child is an asset.
    """

    text: str
    base: str
    pattern: tuple[str, ...] = ()
    is_asset: bool = False


def place_of(text: str, local: Sequence[Path], endings: Sequence[str] = ()) -> Place | None:
    """Return the place that a path or an address names, None if it is a file of records.

    `local` is where a path may be; the first that exists counts. Files with one of `endings` are assets, as stores are.
    Raises RequestError if it has wildcards where none can be, or is a file of records in a bucket.
    """
    store_endings = (*STORE_ENDINGS, *endings)
    if text.startswith("s3://"):
        bucket, *parts = text.removeprefix("s3://").rstrip("/").split("/")
        if not BUCKET_NAME.fullmatch(bucket):
            raise RequestError(f"{text} is not an address such as s3://bucket/prefix/sub-*")
        place = _divided(text, f"s3://{bucket}", parts, store_endings)
        if not place.pattern and not place.is_asset and text.endswith(_CATALOG_ENDINGS):
            raise RequestError(f"{text}: a catalog must be a local file; copy it, or give the folder of the assets")
        return place
    path = next((path for path in local if path.exists()), None)
    if path is not None:
        address = f"file://{os.path.abspath(path)}"  # noqa: PTH100 - without resolving links
        is_asset = address.endswith(store_endings)
        return Place(text, address, is_asset=is_asset) if is_asset or path.is_dir() else None
    if not _WILD.search(text):
        return None
    for path in local:
        _, *parts = os.path.abspath(path).split("/")  # noqa: PTH100
        place = _divided(text, "file://", parts, store_endings)
        if Path(place.base.removeprefix("file://") or "/").is_dir():
            return place
    raise RequestError(f"no folder for the pattern {text}")


def _divided(text: str, root: str, parts: Sequence[str], store_endings: tuple[str, ...]) -> Place:
    """Return the place below a root, divided before its first wildcard."""
    first = next((number for number, part in enumerate(parts) if _WILD.search(part)), len(parts))
    base = "/".join([root, *parts[:first]])
    pattern = tuple(parts[first:])
    if pattern and pattern[-1] == "**":
        raise RequestError(f"{text}: end the pattern with what an asset is called, such as **/*.nwb")
    is_asset = not pattern and base.endswith(store_endings)
    return Place(text, "file:///" if base == "file://" else base, pattern, is_asset)


def open_place(
    place: Place, endings: Sequence[str], pattern: NamePattern | None, max_concurrency: int, skip_errors: bool
) -> Catalog:
    """Return a catalog of the assets in a place; those that cannot be read are in its `skipped`.

    Raises RequestError if the place holds no assets, or metadata files hold no metadata and `skip_errors` is false;
    ServiceError if it cannot be read.
    """
    failed: dict[str, DispatchError] = {}
    with Places(max_concurrency) as places:
        folders, others = _assets(places, place, tuple(endings))
        total = len(folders) + len(others)
        with progress("reading metadata", "assets", total) as shown:

            def records() -> Iterator[dict[str, Any]]:
                for address, record in _records(places, place, pattern, folders, others):
                    shown.advance()
                    if isinstance(record, DispatchError):
                        failed[address] = record
                    else:
                        yield record
                if failed:
                    headline = f"the metadata of {len(failed):,} of {counted(total, 'asset')} could not be read"
                    details = [f"{address}: {error.headline}" for address, error in failed.items()]
                    skip_or_refuse(headline, details, skip_errors, len(failed) < total, failed.values())

            catalog = Catalog.of(records(), place.text)
    catalog.skipped = [
        Skipped(Reason.NOT_READABLE, address.rpartition("/")[2], location=address, detail=error.headline)
        for address, error in failed.items()
    ]
    return catalog


def _assets(places: Places, place: Place, endings: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Return the folders whose metadata files may be read, and the files and stores, of which only the name is."""
    if place.is_asset:
        parent, _, name = place.base.rpartition("/")
        found = places.match(parent, [glob.escape(name)])
    else:
        found = places.match(place.base, place.pattern or ["*"])
    files = [file.address for file in found.files]
    if not place.is_asset and not place.pattern:
        taken = [file for file in files if endings and file.endswith(endings)]
        if others := len(files) - len(taken):
            logger.info(
                "%s: %s in it are no assets; those with an ending of --file_extension would be",
                place.text,
                counted(others, "file"),
            )
        files = taken
    if not found.folders and not files:
        raise RequestError(f"{place.text}: no assets; give a folder with one folder per asset, or a pattern of files")
    stores = (*STORE_ENDINGS, *endings)
    folders = [folder for folder in found.folders if not folder.endswith(stores)]
    return folders, [*(folder for folder in found.folders if folder.endswith(stores)), *files]


def _records(
    places: Places, place: Place, pattern: NamePattern | None, folders: Sequence[str], others: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any] | DispatchError]]:
    """Yield the address of each asset with its record, or with why there is none."""
    start = len(place.base.rpartition("/")[0] if place.is_asset else place.base.rstrip("/")) + 1
    unnamed: list[str] = []

    def record(address: str, name: str, contents: Mapping[str, bytes]) -> dict[str, Any] | DispatchError:
        if not is_unicode(address):
            return RequestError("its name is not UTF-8")
        named = asset_records.from_conventions(address)
        if pattern is not None:
            if (own := pattern.read(name)) is None:
                unnamed.append(address[start:])
            named = {**named, **(own or {})}
        try:
            return asset_records.record_of(address, contents, named)
        except RequestError as error:
            return error

    for address, contents in places.read_folders(folders, asset_records.wanted_files):
        if isinstance(contents, DispatchError):
            yield address, contents
        else:
            yield address, record(address, address[start:], contents)
    for address in others:
        yield address, record(address, _EXTENSION.sub("", address[start:]), {})
    if unnamed and pattern is not None:
        total = counted(len(folders) + len(others), "asset")
        warn_listing(f"{len(unnamed):,} of {total} do not fit --name_pattern={pattern.text}:", unnamed)


# Saving what was selected, with which the same command gives the same jobs again


class Target(NamedTuple):
    """Where a catalog is saved: its path, and the open file that becomes it at the end of a run."""

    path: Path
    unfinished: IO[bytes]


@contextlib.contextmanager
def saving(path: Path | None, overwrite: bool) -> Iterator[Target | None]:
    """Give a target to save a catalog to, if there is a path; at the end of the run it is there, or nothing of it.

    RequestError if there is a file already and `overwrite` is false, or its folder is missing; ServiceError if the disk
    fails.
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
    for one in files.assets if files else ():
        listed[one.asset.record_id] = [_entry(one.asset, file) for file in one.files or ()]
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
    for wanted in batches(source, ids, _RECORDS_A_QUERY):
        query = record_id_filter(wanted) if source.is_database else {"_id": {"$in": wanted}}
        yield from read(source, Query.of(query), None)

"""The assets in a folder or a bucket, and a catalog of the records that their files and names make."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from job_dispatch.messages import (
    DispatchError,
    Progress,
    RequestError,
    ServiceError,
    counted,
    logger,
    progress,
    warn_listing,
)
from job_dispatch.metadata import asset_files, names
from job_dispatch.metadata.catalog import Catalog
from job_dispatch.metadata.names import NamePattern
from job_dispatch.model import Reason, Skipped
from job_dispatch.request.flag_values import STORE_ENDINGS
from job_dispatch.request.json_text import is_unicode
from job_dispatch.storage.places import Places

_WILD = re.compile(r"[*?[]")
# What a name has after its own: an ending, with what belongs to some of them.
_EXTENSION = re.compile(r"(\.ome|\.nii|\.tar)?\.[A-Za-z][A-Za-z0-9]*(\.gz)?$")
_CATALOG_ENDINGS = tuple(f".{name}{gz}" for name in ("json", "jsonl", "ndjson") for gz in ("", ".gz"))


@dataclass(frozen=True)
class Place:
    """A folder or a bucket in which each direct child, or each match of a pattern, is an asset; or one asset itself.

    Parameters
    ----------
    text : str
        As the user gave it.
    base : str
        The part without wildcards: `s3://bucket/prefix` or `file:///folder`, without a trailing slash.
    pattern : tuple of str
        The parts with wildcards below it; empty where each child is an asset.
    is_asset : bool
        Whether the base is one asset itself: a store or a file.
    """

    text: str
    base: str
    pattern: tuple[str, ...] = ()
    is_asset: bool = False


def place_of(text: str, local: Sequence[Path], endings: Sequence[str] = ()) -> Place | None:
    """Return the place that a text names, None if it is a file of records.

    Parameters
    ----------
    text : str
        A path or an address such as `s3://bucket/prefix/sub-*`.
    local : sequence of pathlib.Path
        Where a relative path may be; the first one that exists counts.
    endings : sequence of str
        Endings of files that are assets, besides those of stores.

    Raises
    ------
    RequestError
        It has wildcards where none can be, or is a file of records in a bucket.
    """
    store_endings = (*STORE_ENDINGS, *endings)
    if text.startswith("s3://"):
        bucket, *parts = text.removeprefix("s3://").rstrip("/").split("/")
        if not bucket or _WILD.search(bucket):
            raise RequestError(f"{text} is not an address such as s3://bucket/prefix/sub-*")
        place = _place(text, f"s3://{bucket}", parts, store_endings)
        if not place.pattern and not place.is_asset and text.endswith(_CATALOG_ENDINGS):
            raise RequestError(f"{text}: a catalog must be a local file; copy it, or give the folder of the assets")
        return place
    path = next((path for path in local if path.exists()), None)
    if path is not None:
        address = f"file://{os.path.abspath(path)}"  # noqa: PTH100 - without resolving links
        if path.is_dir():
            return Place(text, address, is_asset=address.endswith(store_endings))
        return Place(text, address, is_asset=True) if address.endswith(store_endings) else None
    if not _WILD.search(text):
        return None
    for path in local:
        _, *parts = os.path.abspath(path).split("/")  # noqa: PTH100
        place = _place(text, "file://", parts, store_endings)
        if Path(place.base.removeprefix("file://") or "/").is_dir():
            return place
    raise RequestError(f"no folder for the pattern {text}")


def _place(text: str, base: str, parts: Sequence[str], store_endings: tuple[str, ...]) -> Place:
    first = next((number for number, part in enumerate(parts) if _WILD.search(part)), len(parts))
    base = "/".join([base, *parts[:first]])
    base = "file:///" if base == "file://" else base
    pattern = tuple(parts[first:])
    if pattern and pattern[-1] == "**":
        raise RequestError(f"{text}: end the pattern with what an asset is called, such as **/*.nwb")
    return Place(text, base, pattern, is_asset=not pattern and base.endswith(store_endings))


@dataclass(frozen=True)
class Naming:
    """How assets of a place are known.

    Parameters
    ----------
    endings : tuple of str
        Endings of the files that are assets.
    pattern : NamePattern or None
        A lab's own way of naming.
    """

    endings: tuple[str, ...] = ()
    pattern: NamePattern | None = None


def open_place(place: Place, naming: Naming, max_concurrency: int, skip_errors: bool) -> Catalog:
    """Return a catalog of the assets in a place; assets that cannot be read are in its `skipped`.

    Raises
    ------
    RequestError
        The place holds no assets, or metadata files hold no metadata and `skip_errors` is false.
    ServiceError
        It cannot be read.
    """
    failed: list[tuple[str, DispatchError]] = []
    with Places(max_concurrency) as places:
        folders, others = _assets(places, place, naming)
        with progress("reading metadata", "assets", len(folders) + len(others)) as shown:
            records = _records(places, place, naming, folders, others, failed)
            catalog = Catalog.of(_counted(records, shown), place.text)
    if failed and (error := _refusal(failed, len(folders) + len(others), skip_errors)):
        catalog.close()
        raise error
    catalog.skipped = [
        Skipped(Reason.NOT_READABLE, address.rpartition("/")[2], location=address, detail=error.headline)
        for address, error in failed
    ]
    return catalog


def _assets(places: Places, place: Place, naming: Naming) -> tuple[list[str], list[str]]:
    """Return the folders whose metadata files may be read, and the files and stores, of which only the name is."""
    parent, _, name = place.base.rpartition("/")
    found = (
        places.match(parent, [glob.escape(name)])
        if place.is_asset
        else places.match(place.base, place.pattern or ["*"])
    )
    files = [file.address for file in found.files]
    if not place.is_asset and not place.pattern:
        taken = [file for file in files if naming.endings and file.endswith(naming.endings)]
        if len(taken) < len(files):
            logger.info(
                "%s: %s in it are no assets; those with an ending of --file_extension would be",
                place.text,
                counted(len(files) - len(taken), "file"),
            )
        files = taken
    if not found.folders and not files:
        raise RequestError(f"{place.text}: no assets; give a folder with one folder per asset, or a pattern of files")
    stores = tuple(dict.fromkeys((*STORE_ENDINGS, *naming.endings)))
    folders = [folder for folder in found.folders if not folder.endswith(stores)]
    return folders, [*(folder for folder in found.folders if folder.endswith(stores)), *files]


def _records(
    places: Places,
    place: Place,
    naming: Naming,
    folders: Sequence[str],
    others: Sequence[str],
    failed: list[tuple[str, DispatchError]],
) -> Iterator[dict[str, Any] | None]:
    """Yield the record of each asset, or None and add to `failed` why there is none."""
    start = len(place.base.rpartition("/")[0] if place.is_asset else place.base.rstrip("/")) + 1
    unnamed: list[str] = []

    def record(address: str, contents: Mapping[str, bytes] | DispatchError, is_folder: bool) -> dict[str, Any] | None:
        try:
            if isinstance(contents, DispatchError):
                raise contents
            if not is_unicode(address):
                raise RequestError("its name is not UTF-8")
            path = address[start:] if is_folder else _EXTENSION.sub("", address[start:])
            named = names.from_conventions(address)
            if naming.pattern is not None:
                own = naming.pattern.read(path)
                if own is None:
                    unnamed.append(address[start:])
                named = {**named, **(own or {})}
            return asset_files.record_of(address, contents, named)
        except DispatchError as error:
            failed.append((address, error))
            return None

    for address, contents in places.read_folders(folders, asset_files.wanted_files):
        yield record(address, contents, is_folder=True)
    for address in others:
        yield record(address, {}, is_folder=False)
    if unnamed and naming.pattern is not None:
        total = counted(len(folders) + len(others), "asset")
        warn_listing(f"{len(unnamed):,} of {total} do not fit --name_pattern={naming.pattern.text}:", unnamed)


def _counted(records: Iterator[dict[str, Any] | None], shown: Progress) -> Iterator[dict[str, Any]]:
    for record in records:
        shown.advance()
        if record is not None:
            yield record


def _refusal(failed: Sequence[tuple[str, DispatchError]], total: int, skip_errors: bool) -> DispatchError | None:
    """Return the error that ends the run, or warn where it goes on."""
    headline = f"the metadata of {len(failed):,} of {counted(total, 'asset')} could not be read"
    details = [f"{address}: {error.headline}" for address, error in failed]
    if skip_errors and len(failed) < total:
        warn_listing(f"{headline}; skipped:", details)
        return None
    remedy = " (--skip_errors=1 goes on without them)" if len(failed) < total else ""
    only_requests = all(isinstance(error, RequestError) for _, error in failed)
    return (RequestError if only_requests else ServiceError)(f"{headline}; no job is written{remedy}", details)

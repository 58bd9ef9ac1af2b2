"""How a bucket is asked for its keys: by obstore, and by boto3, which takes any key."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

import obstore

from job_dispatch.storage.listing import PAGE_SIZE, Level, Page

if TYPE_CHECKING:
    from arro3.core import RecordBatch
    from obstore import ListStream
    from obstore.store import S3Store
    from types_boto3_s3 import S3Client


class ByObstore:
    """A bucket's keys, listed by obstore; pages come as Arrow, so that only their paths become Python objects."""

    def __init__(self, store: S3Store, in_flight: asyncio.Semaphore) -> None:
        self._store, self._in_flight = store, in_flight

    async def level(self, folder: str) -> Level:
        """List what lies directly in a folder."""
        async with self._in_flight:
            listed = await obstore.list_with_delimiter_async(self._store, folder)
        # A folder's marker object shows up with the folder's own path: it is no file.
        files = {one["path"]: one["size"] for one in listed["objects"] if one["path"] != folder[:-1]}
        return Level(files, [f"{path}/" for path in listed["common_prefixes"]])

    def pages(self, prefix: str, after: str | None) -> _Pages:
        """Yield all keys below a prefix, from the first one greater than `after`."""
        return _Pages(
            obstore.list(self._store, prefix, offset=after, chunk_size=PAGE_SIZE, return_arrow=True), self._in_flight
        )


class _Pages:
    """Pages of keys; not a generator, which the event loop would have to close for each asset."""

    def __init__(self, batches: ListStream[RecordBatch], in_flight: asyncio.Semaphore) -> None:
        self._batches, self._in_flight = batches, in_flight

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Page:
        async with self._in_flight:
            batch = await anext(self._batches)
        return Page(batch["path"].to_pylist(), batch["size"].to_pylist())  # type: ignore[arg-type]


class ByBoto3:
    """A bucket's keys, listed by boto3, which takes any key."""

    def __init__(self, bucket: str, client: S3Client, in_flight: asyncio.Semaphore) -> None:
        self._bucket, self._client, self._in_flight = bucket, client, in_flight

    async def level(self, folder: str) -> Level:
        """List what lies directly in a folder."""
        async with self._in_flight:
            return await asyncio.to_thread(self._level, folder)

    def _level(self, folder: str) -> Level:
        files: dict[str, int] = {}
        folders: list[str] = []
        paginator = self._client.get_paginator("list_objects_v2")
        for page in paginator.paginate(Bucket=self._bucket, Prefix=folder, Delimiter="/"):
            files.update((one["Key"], one["Size"]) for one in page.get("Contents", ()))
            folders.extend(one["Prefix"] for one in page.get("CommonPrefixes", ()))
        return Level(files, folders)

    async def measure(self, prefix: str) -> int:
        """Return the bytes of all objects below a prefix."""
        async with self._in_flight:
            return await asyncio.to_thread(self._measure, prefix)

    def _measure(self, prefix: str) -> int:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
        return sum(one["Size"] for page in pages for one in page.get("Contents", ()))

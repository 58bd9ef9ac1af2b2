"""How a bucket is asked for its keys: by obstore, and by boto3, which takes any key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol, Self, overload

import obstore
from botocore.exceptions import ClientError

from job_dispatch.storage.keys import PAGE_SIZE, Level, Page, Source

if TYPE_CHECKING:
    from arro3.core import RecordBatch
    from obstore import ListStream
    from obstore.store import S3Store
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import ListObjectsV2OutputTypeDef

# What servers write for a character that XML cannot hold, unless they are asked to encode keys, as boto3 does.
_REPLACED = "\ufffd"


class UnfitError(Exception):
    """Keys that obstore does not get as they are."""


class NothingThereError(Exception):
    """Neither an object nor a folder is at a key."""


class BucketSource(Source, Protocol):
    """A bucket, asked by some client."""

    async def look(self, key: str) -> int | None:
        """Return the bytes of the object at a key, None where a folder is there.

        Raises
        ------
        NothingThereError
            There is neither.
        """
        ...

    async def read(self, key: str) -> bytes:
        """Return the bytes of the object at a key. Raises `NothingThereError` where there is none."""
        ...


class ByObstore:
    """A bucket's keys, listed by obstore; pages come as Arrow, so that only what is used becomes Python objects."""

    def __init__(self, store: S3Store, is_reached: asyncio.Event) -> None:
        self._store, self._is_reached = store, is_reached

    async def level(self, folder: str) -> Level:
        """List what lies directly in a folder."""
        listed = await obstore.list_with_delimiter_async(self._store, folder)
        self._is_reached.set()
        # A folder's marker object shows up with the folder's own path: it is no file.
        files = {one["path"]: one["size"] for one in listed["objects"] if one["path"] != folder[:-1]}
        folders = [f"{path}/" for path in listed["common_prefixes"]]
        _refuse_replaced((*files, *folders))
        return _below(folder, files, folders)

    def pages(self, prefix: str, after: str | None) -> _Pages:
        """Yield all keys below a prefix, from the first one greater than `after`."""
        batches = obstore.list(self._store, prefix, offset=after, chunk_size=PAGE_SIZE, return_arrow=True)
        return _Pages(batches, self._is_reached, prefix, after)

    async def look(self, key: str) -> int | None:
        """Return the bytes of the object at a key, None where a folder is there."""
        try:
            return (await obstore.head_async(self._store, key))["size"]
        except FileNotFoundError:
            page = await anext(self.pages(f"{key}/", None), None)
            if page is None or not page.keys:
                raise NothingThereError from None
            return None

    async def read(self, key: str) -> bytes:
        """Return the bytes of the object at a key."""
        try:
            return bytes(await (await obstore.get_async(self._store, key)).bytes_async())
        except FileNotFoundError:
            raise NothingThereError from None


def _refuse_replaced(names: Iterable[str]) -> None:
    if _REPLACED in "\n".join(names):
        raise UnfitError("keys with characters that XML cannot hold")


def _below(folder: str, files: dict[str, int], folders: list[str]) -> Level:
    """Return what lies in a folder, without what some servers add that does not."""
    return Level(
        {key: size for key, size in files.items() if key.startswith(folder)},
        sorted(one for one in folders if one.startswith(folder) and one != folder),
    )


class _Pages:
    """Pages of keys; not a generator, which the event loop would have to close for each asset."""

    def __init__(
        self, batches: ListStream[RecordBatch], is_reached: asyncio.Event, prefix: str, after: str | None
    ) -> None:
        self._batches, self._is_reached = batches, is_reached
        self._prefix, self._last = prefix, after or ""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Page:
        try:
            batch = await anext(self._batches)
        except StopAsyncIteration:
            self._is_reached.set()
            raise
        self._is_reached.set()
        keys: Sequence[str] = batch["path"].to_pylist()  # type: ignore[assignment]
        sizes: Sequence[int] = _Sizes(batch)
        is_last = len(keys) < PAGE_SIZE
        _refuse_replaced(keys)
        if keys and not (keys[0] > self._last and keys[0].startswith(self._prefix) and keys == sorted(keys)):
            keys, sizes = _repaired(keys, sizes, self._prefix, self._last)
        self._last = keys[-1] if keys else self._last
        return Page(keys, sizes, is_last)


def _repaired(keys: Sequence[str], sizes: Sequence[int], prefix: str, last: str) -> tuple[Sequence[str], Sequence[int]]:
    """Give the markers of folders their slashes back, which obstore drops, and leave out what is not below a prefix.

    A marker without its slash stands in the wrong place: `a/x/` comes after `a/x-1`, `a/x` would come before it.
    """
    kept: list[tuple[str, int]] = []
    for key, size in zip(keys, sizes, strict=True):
        whole = f"{key}/" if size == 0 and key <= last and f"{key}/" > last else key
        last = max(last, whole)
        if whole.startswith(prefix) and whole != prefix:
            kept.append((whole, size))
    return [key for key, _ in kept], [size for _, size in kept]


class _Sizes(Sequence[int]):
    """The sizes of a batch, which become Python objects when one is asked for."""

    def __init__(self, batch: RecordBatch) -> None:
        self._batch = batch
        self._values: list[int] = []

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[int]: ...
    def __getitem__(self, index: Any) -> Any:
        if not self._values:
            self._values = self._batch["size"].to_pylist()  # type: ignore[assignment]
        return self._values[index]

    def __len__(self) -> int:
        return self._batch.num_rows


class ByBoto3:
    """A bucket's keys, listed by boto3, which takes any key; slower, in threads."""

    def __init__(self, bucket: str, client: S3Client, is_reached: asyncio.Event) -> None:
        self._bucket, self._client, self._is_reached = bucket, client, is_reached

    async def level(self, folder: str) -> Level:
        """List what lies directly in a folder."""
        level = await asyncio.to_thread(self._level, folder)
        self._is_reached.set()
        return level

    def _level(self, folder: str) -> Level:
        files: dict[str, int] = {}
        folders: list[str] = []
        paginator = self._client.get_paginator("list_objects_v2")
        for page in paginator.paginate(Bucket=self._bucket, Prefix=folder, Delimiter="/"):
            files.update((one["Key"], one["Size"]) for one in page.get("Contents", ()) if one["Key"] != folder)
            folders.extend(one["Prefix"] for one in page.get("CommonPrefixes", ()))
        return _below(folder, files, folders)

    async def pages(self, prefix: str, after: str | None) -> AsyncIterator[Page]:
        """Yield all keys below a prefix, from the first one greater than `after`."""
        paginator = self._client.get_paginator("list_objects_v2")
        pages = iter(paginator.paginate(Bucket=self._bucket, Prefix=prefix, StartAfter=after or ""))
        while True:
            page = await asyncio.to_thread(next, pages, None)
            if page is None:
                return
            self._is_reached.set()
            yield _page(page, prefix)

    async def look(self, key: str) -> int | None:
        """Return the bytes of the object at a key, None where a folder is there."""
        return await asyncio.to_thread(self._look, key)

    def _look(self, key: str) -> int | None:
        try:
            return self._client.head_object(Bucket=self._bucket, Key=key)["ContentLength"]
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != HTTPStatus.NOT_FOUND:
                raise
        if not self._client.list_objects_v2(Bucket=self._bucket, Prefix=f"{key}/", MaxKeys=1).get("Contents"):
            raise NothingThereError
        return None

    async def read(self, key: str) -> bytes:
        """Return the bytes of the object at a key."""
        return await asyncio.to_thread(self._read, key)

    def _read(self, key: str) -> bytes:
        try:
            return self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        except self._client.exceptions.NoSuchKey:
            raise NothingThereError from None


def _page(answer: ListObjectsV2OutputTypeDef, prefix: str) -> Page:
    objects = [one for one in answer.get("Contents", ()) if one["Key"].startswith(prefix) and one["Key"] != prefix]
    return Page([one["Key"] for one in objects], [one["Size"] for one in objects], not answer.get("IsTruncated"))

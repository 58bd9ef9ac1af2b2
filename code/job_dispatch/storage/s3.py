"""S3: files, sizes, folders and contents by their addresses."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import TypeVar

from job_dispatch.messages import RequestError, ServiceError, logger
from job_dispatch.model import File, Folder
from job_dispatch.storage.access import Access, find_access
from job_dispatch.storage.clients import Client, NothingThereError
from job_dispatch.storage.keys import Level
from job_dispatch.storage.listing import Slots, list_keys
from job_dispatch.storage.loop import tasks_side_by_side
from job_dispatch.storage.matching import Bytes, Found, Matches, Matching, is_own_match
from job_dispatch.storage.opening import AssetInBucket, Bucket, open_bucket
from job_dispatch.storage.s3_failures import Failure

Answer = TypeVar("Answer")
# So many empty files of a folder are looked at one by one, more of them by the folder's level.
_EMPTY_FILES_LOOKED_AT = 3
# What is asked of a bucket: as some access sees it, and as the source of one asset.
Question = Callable[[Bucket, AssetInBucket], Awaitable[Answer]]


class S3:
    """All buckets, with the credentials, region and endpoint that boto3 finds; anonymous where it finds none.

    Use it within one event loop.

    Parameters
    ----------
    max_concurrency : int
        At most this many requests in flight.

    Raises
    ------
    RequestError
        AWS is configured in a way that boto3 refuses: an unknown profile, half a pair of keys, …
    """

    def __init__(self, max_concurrency: int) -> None:
        self._access = find_access()
        self._buckets: dict[str, _AnyAccess] = {}
        self._slots = Slots(max_concurrency)

    async def find_files(self, location: str, matching: Matching) -> list[File]:
        """Return the matches at a location `s3://bucket/prefix`, by path.

        Raises
        ------
        RequestError
            The location itself would be a match, and nothing is there.
        ServiceError
            S3 refuses or fails.
        """
        bucket, key = self._split(location)
        itself = is_own_match(location, matching)
        if itself is None:
            found = await bucket.find_keys(f"{key}/", matching)
            return [File(f"s3://{bucket.name}/{key}", *match) for key, match in sorted(found.items())]
        return [File(location, *await bucket.look(key))] if itself else []

    async def measure(self, location: str) -> int:
        """Return the bytes of all objects below a location `s3://bucket/prefix`. Raises as `find_files` does."""
        bucket, key = self._split(location)
        return await bucket.measure(key)

    async def list_folder(self, location: str) -> Folder:
        """Return what lies directly at a location `s3://bucket/prefix`, or in a bucket. Raises as `find_files` does."""
        bucket, key = self._split(location.rstrip("/"))
        files, folders = await bucket.list_level(f"{key}/" if key else "")
        columns = zip(files.keys, files.sizes, files.versions, strict=True)
        found = [File(f"s3://{bucket.name}/{key}", size, version) for key, size, version in columns]
        return Folder([f"s3://{bucket.name}/{folder[:-1]}" for folder in folders], found)

    async def read(self, address: str) -> bytes:
        """Return the bytes of an object.

        Raises
        ------
        RequestError
            There is none.
        ServiceError
            S3 refuses or fails.
        """
        bucket, key = self._split(address)
        return await bucket.read(key)

    def _split(self, location: str) -> tuple[_AnyAccess, str]:
        name, _, key = location.removeprefix("s3://").partition("/")
        if name not in self._buckets:
            self._buckets[name] = _AnyAccess(name, self._access, self._slots)
        return self._buckets[name], key


class _AnyAccess:
    """One bucket, asked with the caller's credentials, and without them where those are refused."""

    def __init__(self, name: str, access: list[Access], slots: Slots) -> None:
        self.name = name
        self._access = list(access)
        self._slots = slots
        self._open: dict[Access, asyncio.Task[Bucket]] = {}

    async def find_keys(self, prefix: str, matching: Matching) -> Found:
        """Return all matches below a prefix that ends with `/`."""
        prefixes = [f"{prefix}{folder}" for folder in matching.folders]

        async def find(bucket: Bucket, source: AssetInBucket) -> Found:
            taken = await list_keys(source, prefixes, lambda: Matches(matching, prefix), self._slots, bucket.finding)
            await self._unmask_markers(source, taken)
            return taken.found

        return await self._ask(prefixes[0], find)

    async def _unmask_markers(self, source: AssetInBucket, taken: Matches) -> None:
        """Take what consoles make for a folder, an object without bytes, for that folder and for no file."""

        async def unmask(folder: str, keys: list[str]) -> None:
            async with self._slots.request:
                if len(keys) > _EMPTY_FILES_LOOKED_AT:
                    files = {*(await source.level(folder)).files.keys}
                else:
                    files = {key for key in keys if await source.has_object(key)}
            for key in set(keys) - files:
                del taken.found[key]
                if taken.is_store(key):
                    taken.take_store(key)

        empty = sorted(key for key, match in taken.found.items() if match.size == 0)
        if empty:
            async with tasks_side_by_side() as tasks:
                for folder, keys in itertools.groupby(empty, lambda key: key[: key.rfind("/") + 1]):
                    tasks.create_task(unmask(folder, list(keys)))

    async def measure(self, key: str) -> int:
        """Return the bytes of all objects below a key, or of the object there."""

        async def measure(bucket: Bucket, source: AssetInBucket) -> int:
            taken = await list_keys(source, [f"{key}/"], Bytes, self._slots, bucket.measuring)
            if taken.objects:
                return taken.total
            async with self._slots.request:
                return (await source.ask(key, lambda client: client.look(key)))[0] or 0

        try:
            return await self._ask(f"{key}/", measure)
        except NothingThereError as error:
            raise ServiceError(f"s3://{self.name}/{key}: nothing is there") from error

    async def look(self, key: str) -> tuple[int | None, str]:
        """Return the bytes and the version of the object at a key, None and nothing where a folder is there."""
        return await self._ask_once(key, lambda client: client.look(key))

    async def list_level(self, folder: str) -> Level:
        """Return what lies directly in a folder, which ends with `/`."""
        return await self._ask_once(folder, lambda client: client.level(folder))

    async def read(self, key: str) -> bytes:
        """Return the bytes of the object at a key."""
        return await self._ask_once(key, lambda client: client.read(key))

    async def _ask_once(self, key: str, question: Callable[[Client], Awaitable[Answer]]) -> Answer:
        async def ask(bucket: Bucket, source: AssetInBucket) -> Answer:
            async with self._slots.request:
                return await source.ask(key, question)

        try:
            return await self._ask(key, ask)
        except NothingThereError as error:
            raise RequestError(f"s3://{self.name}/{key}: nothing is there") from error

    async def _ask(self, prefix: str, question: Question[Answer]) -> Answer:
        failures: list[Failure] = []
        for access in tuple(self._access):
            try:
                bucket = await self._opened(access, prefix)
                answer = await question(bucket, AssetInBucket(bucket))
            except Failure as failure:
                # What is said of the credentials, if there are some, is told first.
                failures.insert(0 if access.credentials is not None else len(failures), failure)
                if not failure.is_refusal:
                    break
            else:
                self._prefer(access)
                return answer
        kind = RequestError if failures[0].is_of_request else ServiceError
        raise kind(f"s3://{self.name}: {failures[0].reason}") from failures[0]

    async def _opened(self, access: Access, prefix: str) -> Bucket:
        if access not in self._open:
            self._open[access] = asyncio.create_task(open_bucket(self.name, access, prefix))
        return await asyncio.shield(self._open[access])

    def _prefer(self, access: Access) -> None:
        """Begin unsigned once that has succeeded where signed requests were refused."""
        if access.credentials is None and access is not self._access[0]:
            logger.info("s3://%s refuses signed requests; it is listed without credentials", self.name)
            self._access.reverse()

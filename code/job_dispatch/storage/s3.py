"""Listing S3: by obstore, and by boto3 where obstore refuses a key."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import TypeVar

from botocore.exceptions import BotoCoreError, ClientError
from obstore.exceptions import BaseError, InvalidPathError

from job_dispatch.messages import ServiceError, logger
from job_dispatch.metadata.records import File
from job_dispatch.storage import access as ways
from job_dispatch.storage.access import Access, find_access
from job_dispatch.storage.failures import Failure, describe
from job_dispatch.storage.listing import Comparison, Endings, Found, Walk, Way, find, match_of_location, walk
from job_dispatch.storage.sources import ByBoto3, ByObstore

Answer = TypeVar("Answer")


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
        self._buckets: dict[str, _Bucket] = {}
        self._in_flight = asyncio.Semaphore(max_concurrency)

    async def find_files(self, location: str, endings: Endings) -> list[File]:
        """Return the matches at a location `s3://bucket/prefix`, by path.

        Raises
        ------
        ServiceError
            S3 refuses or fails.
        """
        if (itself := match_of_location(location, endings)) is not None:
            return [File(address, size) for address, size in itself.items()]
        name, key = _split(location)
        found = await self._bucket(name).find_keys(f"{key}/", endings)
        return [File(f"s3://{name}/{key}", size) for key, size in sorted(found.items())]

    async def measure(self, location: str) -> int:
        """Return the bytes of all objects below a location `s3://bucket/prefix`. Raises as `find_files` does."""
        name, key = _split(location)
        return await self._bucket(name).measure(f"{key}/")

    def _bucket(self, name: str) -> _Bucket:
        if name not in self._buckets:
            self._buckets[name] = _Bucket(name, self._access, self._in_flight)
        return self._buckets[name]


def _split(location: str) -> tuple[str, str]:
    bucket, _, key = location.removeprefix("s3://").partition("/")
    return bucket, key


Question = Callable[["_View"], Awaitable[Answer]]


class _Bucket:
    """One bucket, listed with the caller's credentials, and without them where those are refused."""

    def __init__(self, name: str, access: Sequence[Access], in_flight: asyncio.Semaphore) -> None:
        self._name = name
        self._access = list(access)
        self._in_flight = in_flight
        self._views: dict[Access, asyncio.Task[_View]] = {}
        self._is_gone: ServiceError | None = None
        self._is_explained = False
        self._explaining = asyncio.Lock()

    async def _view(self, access: Access) -> _View:
        if access not in self._views:
            opening = asyncio.to_thread(_View, self._name, access, self._in_flight)
            self._views[access] = asyncio.create_task(opening)
        return await self._views[access]

    async def find_keys(self, prefix: str, endings: Endings) -> Found:
        """Return all matches below a prefix that ends with `/`."""
        return await self._ask(
            prefix, lambda view: view.find_keys(prefix, endings), lambda view: view.find_keys_by_boto3(prefix, endings)
        )

    async def measure(self, prefix: str) -> int:
        """Return the bytes of all objects below a prefix that ends with `/`."""
        return await self._ask(prefix, lambda view: view.measure(prefix), lambda view: view.measure_by_boto3(prefix))

    async def _ask(self, prefix: str, question: Question[Answer], by_boto3: Question[Answer]) -> Answer:
        if self._is_gone is not None:
            raise self._is_gone
        failures = []
        for access in tuple(self._access):
            answer = await self._answer(await self._view(access), prefix, question, by_boto3)
            if not isinstance(answer, Failure):
                self._prefer(access)
                return answer
            failures.append(answer)
            if not answer.is_refusal:
                break
        raise self._error(failures[0])

    async def _answer(
        self, view: _View, prefix: str, question: Question[Answer], by_boto3: Question[Answer]
    ) -> Answer | Failure:
        """Ask by obstore, and by boto3 where obstore fails and boto3 does not: it retries an answer that breaks off."""
        try:
            return await question(view)
        except (BaseError, OSError, BotoCoreError, ClientError) as error:
            failure = await self._explanation(view, prefix, error)
        if failure is not None:
            return failure
        try:
            return await by_boto3(view)
        except (BotoCoreError, ClientError) as error:
            return view.describe(error)

    async def _explanation(self, view: _View, prefix: str, error: Exception) -> Failure | None:
        """Explain a failure; until one is explained the others wait, since it may hold for the whole bucket.

        Without that, each asset in flight would wait for a bucket that does not answer once more.
        """
        if not self._is_explained:
            async with self._explaining:
                if self._is_gone is not None:
                    raise self._is_gone
                if not self._is_explained:
                    failure = await asyncio.to_thread(view.explain, prefix, error)
                    self._is_explained = True
                    if failure is not None and failure.is_of_bucket:
                        self._is_gone = self._error(failure)
                    return failure
        return await asyncio.to_thread(view.explain, prefix, error)

    def _error(self, failure: Failure) -> ServiceError:
        return ServiceError(f"s3://{self._name}: {failure.reason}")

    def _prefer(self, access: Access) -> None:
        """Begin unsigned once that has succeeded where signed requests were refused."""
        if access.credentials is None and access is not self._access[0]:
            logger.info("s3://%s refuses signed requests; it is listed without credentials", self._name)
            self._access.reverse()


class _View:
    """One bucket as one kind of access sees it."""

    def __init__(self, bucket: str, access: Access, in_flight: asyncio.Semaphore) -> None:
        self._identity = access.identity
        self._is_confirmed = False
        self._bucket = bucket
        self._client = access.client(bucket)
        self._better_way: Way | None = None
        self._comparing = asyncio.Lock()
        self._comparison: asyncio.Task[None] | None = None
        # Without a user and password, should the address carry them.
        self._endpoint = re.sub("//[^/]*@", "//", self._client.meta.endpoint_url)
        self._by_obstore = ByObstore(access.store(bucket, self._client), in_flight)
        self._by_boto3 = ByBoto3(bucket, self._client, in_flight)

    async def find_keys(self, prefix: str, endings: Endings) -> Found:
        """Return all matches below a prefix that ends with `/`."""
        # obstore would drop a leading `/`, and refuses a whole listing for one key (or the prefix) with an
        # empty segment, `.`, `..` or a control character.
        if not prefix.startswith("/"):
            try:
                found = await self._find(prefix, endings)
            except (InvalidPathError, ValueError):
                logger.debug("s3://%s/%s holds keys that only boto3 lists", self._bucket, prefix)
            else:
                if not found:
                    await asyncio.to_thread(self._confirm_answers, prefix)
                return found
        return await self.find_keys_by_boto3(prefix, endings)

    async def find_keys_by_boto3(self, prefix: str, endings: Endings) -> Found:
        """Return the same, slower, whatever the keys are."""
        return await walk(self._by_boto3.level, prefix, endings)

    async def measure(self, prefix: str) -> int:
        """Return the bytes of all objects below a prefix that ends with `/`."""
        if not prefix.startswith("/"):
            with contextlib.suppress(InvalidPathError, ValueError):
                sizes = [sum(page.sizes) async for page in self._by_obstore.pages(prefix, None)]
                return sum(sizes) if sizes else await asyncio.to_thread(self._object_size, prefix[:-1])
        return await self.measure_by_boto3(prefix)

    def _object_size(self, key: str) -> int:
        try:
            return self._client.head_object(Bucket=self._bucket, Key=key)["ContentLength"]
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != HTTPStatus.NOT_FOUND:
                raise
            raise ServiceError(f"s3://{self._bucket}/{key}: nothing is there") from error

    async def measure_by_boto3(self, prefix: str) -> int:
        """Return the same, slower, whatever the keys are."""
        return await self._by_boto3.measure(prefix)

    async def _find(self, prefix: str, endings: Endings) -> Found:
        """List one asset first, and begin the others with the way that was the better one there: they look alike."""
        if self._better_way is None:
            async with self._comparing:
                if self._better_way is None:
                    comparison = Comparison(self._by_obstore, prefix, endings)
                    try:
                        found, self._better_way = await comparison.first()
                    except BaseException:
                        self._better_way = Walk
                        raise
                    self._comparison = asyncio.create_task(self._compare(comparison))
                    return found
        if self._comparison is not None and not self._comparison.done():
            await asyncio.wait([self._comparison])
        return await find(self._by_obstore, prefix, endings, self._better_way)

    async def _compare(self, comparison: Comparison) -> None:
        with contextlib.suppress(BaseError, OSError, ValueError):  # who lists that part is told of it
            self._better_way = await comparison.cheaper()

    def _confirm_answers(self, prefix: str) -> None:
        """Make sure that no match means no match: obstore takes any well-formed XML for an empty listing."""
        if self._is_confirmed:
            return
        answer = self._client.list_objects_v2(Bucket=self._bucket, Prefix=prefix, MaxKeys=1)
        if "KeyCount" not in answer and "Name" not in answer:
            raise ServiceError(f"s3://{self._bucket}: the answer of {self._endpoint} is not that of S3")
        self._is_confirmed = True

    def explain(self, prefix: str, error: Exception) -> Failure | None:
        """Return why a listing failed, None where boto3 can list.

        obstore raises one error for most causes, so boto3 asks once more: its errors carry S3's code.
        """
        if "TimedOut" in str(error):
            return Failure(f"no answer from {self._endpoint} within {ways.RETRY_SECONDS} s", is_of_bucket=True)
        if isinstance(error, BotoCoreError | ClientError):
            return self.describe(error)
        try:
            self._client.list_objects_v2(Bucket=self._bucket, Prefix=prefix, MaxKeys=1)
        except (BotoCoreError, ClientError) as failed:
            return self.describe(failed)
        return None

    def describe(self, error: BotoCoreError | ClientError) -> Failure:
        """Return what an error of boto3 means for the user."""
        return describe(error, self._endpoint, self._identity)

"""Opening a bucket: whether obstore or boto3 asks it is found out by one request each, and not again."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar
from urllib.parse import urlsplit

from botocore.exceptions import SSLError
from obstore.exceptions import BaseError, InvalidPathError

from job_dispatch.messages import logger
from job_dispatch.storage import access as limits
from job_dispatch.storage.access import Access
from job_dispatch.storage.clients import ByBoto3, ByObstore, Client, NothingThereError, UnfitError
from job_dispatch.storage.keys import Experience, Level, Order, Page
from job_dispatch.storage.s3_failures import Failure, describe, is_without_connection

Answer = TypeVar("Answer")
Question = Callable[[Client], Awaitable[Answer]]

# How obstore tells that a request did not get through.
_NOT_SENT = "error sending request"
# What obstore refuses before, or after, it asks: an empty segment, `.`, `..` or a control character in a key.
_REFUSALS = (InvalidPathError, ValueError, UnfitError)
# How long obstore may take before boto3 is asked whether there is a connection at all.
_PATIENCE_SECONDS = 1.0
# How long obstore may take for a level, that of a million entries, before boto3 is asked, which sees each answer.
_LEVEL_SECONDS = 60.0
# How long obstore may take once boto3 has an answer.
_HEAD_START_SECONDS = 2.5


class Bucket:
    """A bucket as one kind of access sees it, once it is open; see `open_bucket`."""

    def __init__(self, name: str, access: Access) -> None:
        self.name, self._access = name, access
        self._client = access.client(name)
        # Without a user and password, should the address carry them.
        self.endpoint = re.sub("//[^/]*@", "//", self._client.meta.endpoint_url)
        self.by_obstore: ByObstore | None = ByObstore(access.store(name, self._client))
        self.by_boto3 = ByBoto3(name, self._client)
        # The page that was asked for when it was opened, which is somebody's first.
        self.first_pages: dict[str, Page] = {}
        # Why nobody can be answered.
        self.failure: Failure | None = None
        self._is_explained = False
        self._explaining = asyncio.Lock()
        is_aws = (urlsplit(self.endpoint).hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn"))
        order = Order.TEXT if is_aws else Order.UNKNOWN
        # What is learnt by looking for matches, and by measuring.
        self.finding, self.measuring = Experience(order), Experience(order)

    async def ask_boto3(self, question: Question[Answer]) -> Answer:
        """Ask by boto3.

        Raises
        ------
        Failure
            S3 refuses or fails.
        """
        try:
            return await question(self.by_boto3)
        except (Failure, NothingThereError):
            raise
        except Exception as error:
            raise self._describe(error) from error

    async def ask_again(self, question: Question[Answer], error: Exception) -> Answer:
        """Ask by boto3 what obstore failed to answer, by one error for most causes: those of boto3 carry S3's code.

        Until one failure is explained the others wait, since it may hold for the whole bucket. Without that, each asset
        in flight would wait for a bucket that does not answer once more.
        """
        if "TimedOut" in str(error):
            self.failure = self.too_late()
            raise self.failure from error
        if self._is_explained:
            return await self.ask_boto3(question)
        async with self._explaining:
            if self.failure is not None:
                raise self.failure
            try:
                return await self.ask_boto3(question)
            finally:
                self._is_explained = True

    def too_late(self) -> Failure:
        """Return that nothing came in time."""
        return Failure(f"no answer from {self.endpoint} within {limits.RETRY_SECONDS} s", is_of_bucket=True)

    def is_connected(self, prefix: str) -> bool:
        """Ask by boto3 for a first key; tell whether S3 answered with a listing.

        Raises
        ------
        Failure
            There is no connection.
        """
        once = ByBoto3(self.name, self._access.impatient_client(self._client))
        for pause in (1.0, None):
            try:
                once.first_key(prefix)
            except Exception as error:
                if not is_without_connection(error):
                    return False
                if pause is None or isinstance(error, SSLError):
                    raise self._describe(error) from error
                time.sleep(pause)
            else:
                return True
        return False

    def stay_with_boto3(self) -> None:
        """Ask by boto3 alone from here on: it could connect, and obstore could not."""
        self.by_obstore = None
        logger.info("s3://%s: only boto3 can connect to %s; listing takes longer", self.name, self.endpoint)

    def _describe(self, error: Exception) -> Failure:
        failure = describe(error, self.endpoint, self._access.identity)
        if failure.is_refusal and self._access.lost:
            lost = self._access.lost
            failure = Failure(
                f"refused without credentials, and {lost.reason}", is_refusal=True, is_of_request=lost.needs_login
            )
        self.failure = failure if failure.is_of_bucket else self.failure
        return failure


async def open_bucket(name: str, access: Access, prefix: str) -> Bucket:
    """Open a bucket and see who can ask it; the answer of obstore is kept as the first page of some asset.

    Raises
    ------
    Failure
        Nobody can connect to it.
    """
    bucket = await asyncio.to_thread(Bucket, name, access)  # boto3 may ask for the region
    if bucket.by_obstore is None or prefix.startswith("/"):
        return bucket
    asked = asyncio.ensure_future(bucket.by_obstore.page(prefix, prefix))
    try:
        await asyncio.wait([asked], timeout=_PATIENCE_SECONDS)
        if not _has_come(asked) and not await _is_reached(bucket, prefix, asked):
            bucket.stay_with_boto3()
        elif asked.exception() is None:
            bucket.first_pages[prefix] = asked.result()
    finally:
        asked.cancel()
    return bucket


async def _is_reached(bucket: Bucket, prefix: str, asked: asyncio.Future[Page]) -> bool:
    """Tell whether obstore gets an answer, or boto3 alone. Raises `Failure` where there is no connection at all."""
    looking = asyncio.ensure_future(asyncio.to_thread(bucket.is_connected, prefix))
    if not asked.done():
        await asyncio.wait((looking, asked), return_when=asyncio.FIRST_COMPLETED)
    if _has_come(asked):
        looking.cancel()
        return True
    is_connected = await looking
    await asyncio.wait([asked], timeout=_HEAD_START_SECONDS if is_connected else None)
    if asked.done() and "TimedOut" in str(asked.exception()):
        raise bucket.too_late()
    return _has_come(asked)


def _has_come(asked: asyncio.Future[Page]) -> bool:
    """Tell whether obstore has an answer, be it a refusal."""
    return asked.done() and _NOT_SENT not in str(asked.exception())


class AssetInBucket:
    """A bucket as the source of one asset: obstore is asked, and boto3 from where obstore refuses a key on."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._by_obstore = None if bucket.by_obstore is None else ByObstore(bucket.by_obstore.store)
        self._is_by_boto3 = bucket.by_obstore is None

    async def level(self, folder: str) -> Level:
        """List what lies directly in a folder."""

        async def level(client: Client) -> Level:
            try:
                # A server may repeat itself for ever, which obstore does not notice.
                async with asyncio.timeout(_LEVEL_SECONDS if client is self._by_obstore else None):
                    return await client.level(folder)
            except TimeoutError:
                raise UnfitError("it does not end") from None

        return await self.ask(folder, level)

    async def page(self, prefix: str, after: str, is_guess: bool = False) -> Page:
        """List the first keys below a prefix that come after a key."""
        if after == prefix and (page := self._bucket.first_pages.pop(prefix, None)) is not None:
            return page
        return await self.ask(prefix, lambda client: client.page(prefix, after, is_guess))

    async def has_object(self, key: str) -> bool:
        """Tell whether there is an object at a key, not the marker of a folder, whose slash obstore does not show."""
        return await self._bucket.ask_boto3(lambda _: self._bucket.by_boto3.has_object(key))

    async def ask(self, prefix: str, question: Question[Answer]) -> Answer:
        """Ask a client.

        Raises
        ------
        Failure
            S3 refuses or fails.
        """
        bucket = self._bucket
        if bucket.failure is not None:
            raise bucket.failure
        # obstore would drop a leading `/`.
        if self._by_obstore is not None and not self._is_by_boto3 and not prefix.startswith("/"):
            try:
                return await question(self._by_obstore)
            except _REFUSALS as error:
                self._is_by_boto3 = not isinstance(error, UnfitError) or error.is_of_keys
            except (BaseError, OSError) as error:
                return await bucket.ask_again(question, error)
        answer = await bucket.ask_boto3(question)
        self._is_by_boto3 |= isinstance(answer, Page) and bool(answer.keys)  # obstore showed nothing there
        return answer

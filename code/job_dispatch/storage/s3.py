"""Listing S3: by obstore, and by boto3 where obstore refuses a key or cannot connect."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError
from obstore.exceptions import BaseError

from job_dispatch.messages import RequestError, ServiceError, logger
from job_dispatch.model import File, Folder
from job_dispatch.storage.access import Access, find_access
from job_dispatch.storage.failures import Failure
from job_dispatch.storage.keys import Level
from job_dispatch.storage.listing import list_keys
from job_dispatch.storage.matching import Bytes, Found, Matches, Matching, is_own_match
from job_dispatch.storage.slots import Requests, Turn
from job_dispatch.storage.sources import BucketSource, NothingThereError
from job_dispatch.storage.view import Question, View

Answer = TypeVar("Answer")

# How obstore tells that a request did not get through.
_NOT_SENT = "error sending request"
# When to find out whether there is a connection at all, where there is no answer yet.
_PATIENCE_SECONDS = 1.0
# How long obstore may take once boto3 has an answer.
_HEAD_START_SECONDS = 2.5


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
        self._requests = Requests(max_concurrency)

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
            return [File(f"s3://{bucket.name}/{key}", size) for key, size in sorted(found.items())]
        return [File(location, await bucket.look(key))] if itself else []

    async def measure(self, location: str) -> int:
        """Return the bytes of all objects below a location `s3://bucket/prefix`. Raises as `find_files` does."""
        bucket, key = self._split(location)
        return await bucket.measure(key)

    async def list_folder(self, location: str) -> Folder:
        """Return what lies directly at a location `s3://bucket/prefix`, or in a bucket. Raises as `find_files` does."""
        bucket, key = self._split(location.rstrip("/"))
        level = await bucket.list_level(f"{key}/" if key else "")
        files = [File(f"s3://{bucket.name}/{key}", size) for key, size in sorted(level.files.items())]
        return Folder([f"s3://{bucket.name}/{folder[:-1]}" for folder in level.folders], files)

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

    def _split(self, location: str) -> tuple[_Bucket, str]:
        name, _, key = location.removeprefix("s3://").partition("/")
        if name not in self._buckets:
            self._buckets[name] = _Bucket(name, self._access, self._requests)
        return self._buckets[name], key


class _Bucket:
    """One bucket, listed with the caller's credentials, and without them where those are refused."""

    def __init__(self, name: str, access: Sequence[Access], requests: Requests) -> None:
        self.name = name
        self._access = list(access)
        self._requests = requests
        self._views: dict[Access, asyncio.Task[View]] = {}
        self._is_gone: ServiceError | None = None
        self._is_explained = False
        self._explaining = asyncio.Lock()

    async def find_keys(self, prefix: str, matching: Matching) -> Found:
        """Return all matches below a prefix that ends with `/`, with their sizes."""
        prefixes = [f"{prefix}{folder}" for folder in matching.folders]

        async def find(view: View, source: BucketSource, turn: Turn) -> Matches:
            taken = await list_keys(source, prefixes, lambda: Matches(matching, prefix), turn, view.finding)
            if not taken.found:
                await view.confirm_answers(prefix, turn)
            return taken

        return (await self._ask(prefix, find)).found

    async def measure(self, key: str) -> int:
        """Return the bytes of all objects below a key, or of the object there."""

        async def measure(view: View, source: BucketSource, turn: Turn) -> int:
            taken = await list_keys(source, [f"{key}/"], Bytes, turn, view.measuring)
            if taken.objects:
                return taken.total
            async with turn.request:
                return await source.look(key) or 0

        return await self._look(key, measure, ServiceError)

    async def look(self, key: str) -> int | None:
        """Return the bytes of the object at a key, None where a folder is there."""

        async def look(view: View, source: BucketSource, turn: Turn) -> int | None:
            async with turn.request:
                return await source.look(key)

        return await self._look(key, look, RequestError)

    async def list_level(self, folder: str) -> Level:
        """Return what lies directly in a folder, which ends with `/`."""

        async def list_level(view: View, source: BucketSource, turn: Turn) -> Level:
            async with turn.request:
                return await source.level(folder)

        return await self._ask(folder, list_level)

    async def read(self, key: str) -> bytes:
        """Return the bytes of the object at a key."""

        async def read(view: View, source: BucketSource, turn: Turn) -> bytes:
            async with turn.request:
                return await source.read(key)

        return await self._look(key, read, RequestError)

    async def _look(
        self, key: str, question: Question[Answer], missing: type[RequestError] | type[ServiceError]
    ) -> Answer:
        try:
            return await self._ask(key, question)
        except NothingThereError as error:
            raise missing(f"s3://{self.name}/{key}: nothing is there") from error

    async def _ask(self, prefix: str, question: Question[Answer]) -> Answer:
        if self._is_gone is not None:
            raise self._is_gone
        failures: list[Failure] = []
        turn = self._requests.turn()
        for access in tuple(self._access):
            answer = await self._answer(await self._view(access), prefix, question, turn)
            if not isinstance(answer, Failure):
                self._prefer(access)
                return answer
            # What is said of the credentials, if there are some, is told first.
            failures.insert(0 if access.credentials is not None else len(failures), answer)
            if not answer.is_refusal:
                break
        raise self._error(failures[0])

    async def _view(self, access: Access) -> View:
        if access not in self._views:
            self._views[access] = asyncio.create_task(asyncio.to_thread(View, self.name, access))
        return await self._views[access]

    async def _answer(self, view: View, prefix: str, question: Question[Answer], turn: Turn) -> Answer | Failure:
        """Ask by obstore, and by boto3 where obstore fails and boto3 does not: it retries an answer that breaks off."""
        try:
            if view.is_reached.is_set():
                return await view.ask(prefix, question, turn)
            return await self._first_answer(view, prefix, question, turn)
        except (BaseError, OSError, BotoCoreError, ClientError) as error:
            failure = await self._explanation(view, prefix, error)
            if failure is not None:
                return failure
            if _NOT_SENT in str(error):
                view.stay_with_boto3()
        try:
            return await question(view, view.by_boto3, turn)
        except (BotoCoreError, ClientError) as error:
            return view.describe(error)

    async def _first_answer(self, view: View, prefix: str, question: Question[Answer], turn: Turn) -> Answer:
        """Ask a bucket that has not answered yet; others wait, since what is in the way is so for all of them."""
        async with view.reaching:
            if self._is_gone is not None:
                raise self._is_gone
            asking = asyncio.ensure_future(view.ask(prefix, question, turn))
            if not view.is_reached.is_set():
                try:
                    await self._reach(view, prefix, asking)
                except BaseException:
                    asking.cancel()
                    raise
        if view.is_by_boto3 and not asking.done():
            asking.cancel()
            return await view.ask(prefix, question, turn)
        return await asking

    async def _reach(self, view: View, prefix: str, asking: asyncio.Future[Answer]) -> None:
        """Wait for the first answer, and find out what is wrong where it does not come."""
        reached = asyncio.ensure_future(view.is_reached.wait())
        try:
            if await _any_done((asking, reached), _PATIENCE_SECONDS):
                return
            looking = asyncio.ensure_future(asyncio.to_thread(view.look_for_connection, prefix))
            await _any_done((asking, reached, looking), None)
            if asking.done() or reached.done():
                return
            failure = looking.result()
            if failure is not None:
                self._is_gone = self._error(failure)
                raise self._is_gone
            if view.has_boto3_answered and not await _any_done((asking, reached), _HEAD_START_SECONDS):
                view.stay_with_boto3()
                view.is_reached.set()
        finally:
            reached.cancel()

    async def _explanation(self, view: View, prefix: str, error: Exception) -> Failure | None:
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
                    view.is_reached.set()
                    if failure is not None and failure.is_of_bucket:
                        self._is_gone = self._error(failure)
                    return failure
        return await asyncio.to_thread(view.explain, prefix, error)

    def _error(self, failure: Failure) -> ServiceError:
        return ServiceError(f"s3://{self.name}: {failure.reason}")

    def _prefer(self, access: Access) -> None:
        """Begin unsigned once that has succeeded where signed requests were refused."""
        if access.credentials is None and access is not self._access[0]:
            logger.info("s3://%s refuses signed requests; it is listed without credentials", self.name)
            self._access.reverse()


async def _any_done(futures: Iterable[asyncio.Future[Any]], seconds: float | None) -> bool:
    """Wait until one of these is done, at most so long; tell whether one is."""
    done, _ = await asyncio.wait(futures, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    return bool(done)

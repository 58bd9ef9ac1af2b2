"""Listing S3: by obstore, and by boto3 where obstore refuses a key."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import ssl
import threading
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

import boto3
import obstore
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as BotoConnectionError
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.exceptions import BaseError, InvalidPathError
from obstore.store import S3Store

from job_dispatch.messages import RequestError, ServiceError, logger, printable
from job_dispatch.metadata.records import File
from job_dispatch.storage.listing import (
    PAGE_SIZE,
    THREADS,
    Comparison,
    Endings,
    Found,
    Level,
    Page,
    Walk,
    Way,
    find,
    match_of_location,
    walk,
)

if TYPE_CHECKING:
    from arro3.core import RecordBatch
    from obstore import ListStream
    from obstore.store import ClientConfig
    from types_boto3_s3 import S3Client

_CONNECT_SECONDS = 10
_REQUEST_SECONDS = 30
_RETRY_SECONDS = 120
_TRIES = _RETRY_SECONDS // _REQUEST_SECONDS
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_WITHOUT_CONFIGURED_ENDPOINTS: dict[str, Any] = {"ignore_configured_endpoint_urls": True}  # the stubs lack it
_REASON_SHOWN = 200
_REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_EXPIRED = ("ExpiredToken", "InvalidToken", "TokenRefreshRequired", "RequestExpired")
_WRONG_REGION = ("PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "301", "307")


_MAKING_CLIENTS = threading.Lock()  # boto3 makes one client at a time
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
        try:
            session = boto3.Session()
            signed = session.get_credentials() is not None
            self._access = [_Access(session, Boto3CredentialProvider(session))] if signed else []
            self._access.append(_Access(session, None))
            self._access[0].open()
        except (BotoCoreError, ValueError, OSError) as error:
            raise RequestError(f"S3: the AWS configuration cannot be used: {error}") from error
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


def _ca_bundle() -> bytes | None:
    path = os.environ.get("AWS_CA_BUNDLE")
    if not path:
        return None
    try:
        ssl.create_default_context(cafile=path)
        return Path(path).read_bytes()
    except OSError as error:
        raise RequestError(f"AWS_CA_BUNDLE: {path} is no file of certificates: {error.strerror}") from error


class _Access:
    """A way to ask S3: with credentials, or without."""

    def __init__(self, session: boto3.Session, credentials: Boto3CredentialProvider | None) -> None:
        self.credentials = credentials
        # How boto3 came by the credentials (env, iam-role, …), never which.
        self.identity = "anonymous" if credentials is None else credentials.credentials.method
        self.ca_bundle = _ca_bundle()
        self._session = session
        self._config = Config(
            retries={"mode": "standard", "total_max_attempts": _TRIES},
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_REQUEST_SECONDS,
            max_pool_connections=THREADS,
        )
        if credentials is None:
            self._config = self._config.merge(Config(signature_version=UNSIGNED))
        self._first_client: S3Client | None = None

    def open(self) -> S3Client:
        """Return the client for the endpoint and region that are configured."""
        with _MAKING_CLIENTS:
            if self._first_client is None:
                self._first_client = self._session.client("s3", config=self._config)
            return self._first_client

    def client(self, bucket: str) -> S3Client:
        """Return a client for the endpoint that is configured, or else for AWS where the bucket is."""
        client = self.open()
        if self._is_endpoint_configured(client):
            return client
        region = self._region(client, bucket)
        if region == client.meta.region_name:
            return client
        with _MAKING_CLIENTS:
            return self._session.client("s3", region_name=region, config=self._config)

    def _is_endpoint_configured(self, client: S3Client) -> bool:
        if any(os.environ.get(name) for name in _ENDPOINT_VARIABLES):
            return True
        with _MAKING_CLIENTS:
            aws = self._session.client("s3", config=self._config.merge(Config(**_WITHOUT_CONFIGURED_ENDPOINTS)))
        return client.meta.endpoint_url != aws.meta.endpoint_url

    def _region(self, client: S3Client, bucket: str) -> str:
        """Ask AWS where a bucket is: the answer carries its region even when it is a refusal."""
        try:
            headers = client.head_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPHeaders"]
        except ClientError as error:
            headers = error.response["ResponseMetadata"]["HTTPHeaders"]
        except BotoCoreError as error:
            raise ServiceError(f"s3://{bucket}: {error}") from error
        return headers.get("x-amz-bucket-region", "us-east-1")


Question = Callable[["_View"], Awaitable[Answer]]


class _Bucket:
    """One bucket, listed with the caller's credentials, and without them where those are refused."""

    def __init__(self, name: str, access: Sequence[_Access], in_flight: asyncio.Semaphore) -> None:
        self._name = name
        self._access = list(access)
        self._in_flight = in_flight
        self._views: dict[_Access, asyncio.Task[_View]] = {}
        self._is_gone: ServiceError | None = None
        self._is_explained = False
        self._explaining = asyncio.Lock()

    async def _view(self, access: _Access) -> _View:
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
            if not isinstance(answer, _Failure):
                self._prefer(access)
                return answer
            failures.append(answer)
            if not answer.is_refusal:
                break
        raise self._error(failures[0])

    async def _answer(
        self, view: _View, prefix: str, question: Question[Answer], by_boto3: Question[Answer]
    ) -> Answer | _Failure:
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

    async def _explanation(self, view: _View, prefix: str, error: Exception) -> _Failure | None:
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

    def _error(self, failure: _Failure) -> ServiceError:
        return ServiceError(f"s3://{self._name}: {failure.reason}")

    def _prefer(self, access: _Access) -> None:
        """Begin unsigned once that has succeeded where signed requests were refused."""
        if access.credentials is None and access is not self._access[0]:
            logger.info("s3://%s refuses signed requests; it is listed without credentials", self._name)
            self._access.reverse()


class _ByObstore:
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


class _ByBoto3:
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


class _Failure(NamedTuple):
    """Why a listing failed, whether without credentials it may succeed, and whether it holds for the whole bucket."""

    reason: str
    is_refusal: bool = False
    is_of_bucket: bool = False


class _View:
    """One bucket as one kind of access sees it."""

    def __init__(self, bucket: str, access: _Access, in_flight: asyncio.Semaphore) -> None:
        self._identity = access.identity
        self._is_confirmed = False
        self._bucket = bucket
        self._client = access.client(bucket)
        self._better_way: Way | None = None
        self._comparing = asyncio.Lock()
        self._comparison: asyncio.Task[None] | None = None
        # Without a user and password, should the address carry them.
        self._endpoint = re.sub("//[^/]*@", "//", self._client.meta.endpoint_url)
        options: ClientConfig = {
            "timeout": timedelta(seconds=_REQUEST_SECONDS),
            "connect_timeout": timedelta(seconds=_CONNECT_SECONDS),
            "allow_http": True,
        }
        if access.ca_bundle is not None:
            options["root_certificate"] = access.ca_bundle
        store = S3Store(
            bucket,
            endpoint=self._client.meta.endpoint_url,
            region=self._client.meta.region_name or "us-east-1",
            credential_provider=access.credentials,
            skip_signature=access.credentials is None,
            client_options=options,
            retry_config={
                "max_retries": 10,
                "retry_timeout": timedelta(seconds=_RETRY_SECONDS),
                "backoff": {"init_backoff": timedelta(seconds=0.2), "max_backoff": timedelta(seconds=15), "base": 2},
            },
        )
        self._by_obstore = _ByObstore(store, in_flight)
        self._by_boto3 = _ByBoto3(bucket, self._client, in_flight)

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

    def explain(self, prefix: str, error: Exception) -> _Failure | None:
        """Return why a listing failed, None where boto3 can list.

        obstore raises one error for most causes, so boto3 asks once more: its errors carry S3's code.
        """
        if "TimedOut" in str(error):
            return _Failure(f"no answer from {self._endpoint} within {_RETRY_SECONDS} s", is_of_bucket=True)
        if isinstance(error, BotoCoreError | ClientError):
            return self.describe(error)
        try:
            self._client.list_objects_v2(Bucket=self._bucket, Prefix=prefix, MaxKeys=1)
        except (BotoCoreError, ClientError) as failed:
            return self.describe(failed)
        return None

    def describe(self, error: BotoCoreError | ClientError) -> _Failure:
        """Return what an error of boto3 means for the user."""
        if isinstance(error, ClientError):
            return self._explain_answer(error)
        if isinstance(error, HTTPClientError | BotoConnectionError):
            return _Failure(f"cannot reach {self._endpoint}; check the network", is_of_bucket=True)
        return _Failure(printable(str(error).partition("\n")[0], _REASON_SHOWN))

    def _explain_answer(self, error: ClientError) -> _Failure:
        code = error.response["Error"].get("Code", "")
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        message = printable(error.response["Error"].get("Message", ""), _REASON_SHOWN)
        if code == "NoSuchBucket":
            return _Failure(f"NoSuchBucket: there is no such bucket at {self._endpoint}", is_of_bucket=True)
        if code in _EXPIRED:
            return _Failure(f"{code}: the credentials ({self._identity}) have expired; renew them", is_refusal=True)
        if code in _WRONG_REGION:
            return _Failure(f"{code}: the bucket is not in the region of {self._endpoint}; set AWS_REGION")
        if status in _REFUSED:
            return _Failure(f"{code}: refused for the credentials ({self._identity}): {message}", is_refusal=True)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return _Failure(f"{code}: S3 is busy or failing: {message}; try again later")
        return _Failure(f"{code}: {message}")

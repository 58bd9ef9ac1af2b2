"""Listing S3: by obstore, and by boto3 where obstore refuses a key."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import obstore
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.exceptions import BaseError, InvalidPathError
from obstore.store import S3Store

from listing import Endings, Level, match_of_location, walk
from messages import ServiceError, logger, printable

if TYPE_CHECKING:
    from obstore.store import ClientConfig
    from types_boto3_s3 import S3Client

_REQUEST_SECONDS = 30
_RETRY_SECONDS = 120
_REQUESTS_IN_FLIGHT = 256
_AWS_HOSTS = (".amazonaws.com", ".amazonaws.com.cn")
# HTTP status of a request that S3 refuses for its credentials; expired ones are a 400.
_REFUSED = (401, 403)
_REFUSED_CODES = ("ExpiredToken", "InvalidToken", "TokenRefreshRequired")


class S3:
    """All buckets, with the credentials, region and endpoint that boto3 finds; anonymous where it finds none.

    Use it within one event loop.
    """

    def __init__(self) -> None:
        session = boto3.Session()
        config = Config(retries={"mode": "standard"}, connect_timeout=10, read_timeout=_REQUEST_SECONDS)
        anonymous = config.merge(Config(signature_version=UNSIGNED))
        self._access = [_Access(session.client("s3", config=anonymous), None)]
        if session.get_credentials() is not None:
            self._access.insert(0, _Access(session.client("s3", config=config), Boto3CredentialProvider(session)))
        self._buckets: dict[str, asyncio.Task[_Bucket]] = {}
        self._in_flight = asyncio.Semaphore(_REQUESTS_IN_FLIGHT)

    async def find_files(self, location: str, endings: Endings) -> list[str]:
        """Return the addresses of the matches at a location `s3://bucket/prefix`, by path.

        Raises
        ------
        ServiceError
            S3 refuses or fails.
        """
        if (itself := match_of_location(location, endings)) is not None:
            return itself
        name, _, key = location.removeprefix("s3://").partition("/")
        if name not in self._buckets:
            opened = asyncio.to_thread(_Bucket, name, self._access, self._in_flight)
            self._buckets[name] = asyncio.create_task(opened)
        bucket = await self._buckets[name]
        return [f"s3://{name}/{found}" for found in sorted(await bucket.find_keys(f"{key}/", endings))]


@dataclass(frozen=True)
class _Access:
    """A way to ask S3: with credentials, or without."""

    client: S3Client
    credentials: Boto3CredentialProvider | None


class _Bucket:
    """One bucket, listed with the caller's credentials, and without them where those are refused."""

    def __init__(self, name: str, access: Sequence[_Access], in_flight: asyncio.Semaphore) -> None:
        self._name = name
        self._views = [_View(name, one, in_flight) for one in access]

    async def find_keys(self, prefix: str, endings: Endings) -> set[str]:
        """Return the keys of all matches below a prefix that ends with `/`."""
        refusals = []
        for view in tuple(self._views):
            try:
                found = await view.find_keys(prefix, endings)
            except (BaseError, OSError, BotoCoreError, ClientError) as error:
                reason, refused = await asyncio.to_thread(view.explain, prefix, error)
                refusals.append(ServiceError(f"s3://{self._name}: {reason}"))
                if not refused:
                    break
            else:
                self._prefer(view)
                return found
        raise refusals[0]

    def _prefer(self, view: _View) -> None:
        """Begin with the unsigned view once it has succeeded where the signed one was refused."""
        if not view.is_signed and view is not self._views[0]:
            logger.info("s3://%s refuses signed requests; it is listed without credentials", self._name)
            self._views.reverse()


class _View:
    """One bucket as one kind of access sees it."""

    def __init__(self, bucket: str, access: _Access, in_flight: asyncio.Semaphore) -> None:
        self.is_signed = access.credentials is not None
        self._bucket = bucket
        self._client = access.client
        self._in_flight = in_flight
        endpoint = self._client.meta.endpoint_url
        on_aws = endpoint.partition("://")[2].endswith(_AWS_HOSTS)
        options: ClientConfig = {"timeout": timedelta(seconds=_REQUEST_SECONDS), "allow_http": True}
        if bundle := os.environ.get("AWS_CA_BUNDLE"):
            options["root_certificate"] = Path(bundle).read_bytes()
        self._store = S3Store(
            bucket,
            endpoint=None if on_aws else endpoint,
            region=self._region() if on_aws else self._client.meta.region_name or "us-east-1",
            credential_provider=access.credentials,
            skip_signature=not self.is_signed,
            client_options=options,
            retry_config={"retry_timeout": timedelta(seconds=_RETRY_SECONDS)},
        )

    def _region(self) -> str:
        """Ask AWS where the bucket is: the answer carries its region even when it is a refusal."""
        try:
            headers = self._client.head_bucket(Bucket=self._bucket)["ResponseMetadata"]["HTTPHeaders"]
        except ClientError as error:
            headers = error.response["ResponseMetadata"]["HTTPHeaders"]
        except BotoCoreError as error:
            raise ServiceError(f"s3://{self._bucket}: {error}") from error
        return headers.get("x-amz-bucket-region", "us-east-1")

    async def find_keys(self, prefix: str, endings: Endings) -> set[str]:
        # obstore would drop a leading `/`, and refuses a whole listing for one key (or the prefix) with an
        # empty segment, `.`, `..` or a control character.
        if not prefix.startswith("/"):
            try:
                return await walk(self._list_level, prefix, endings)
            except (InvalidPathError, ValueError):
                logger.debug("s3://%s/%s holds keys that only boto3 lists", self._bucket, prefix)
        return await walk(self._list_level_by_boto3, prefix, endings)

    async def _list_level(self, folder: str) -> Level:
        async with self._in_flight:
            listed = await obstore.list_with_delimiter_async(self._store, folder)
        # A folder's marker object shows up with the folder's own path: it is no file.
        files = [one["path"] for one in listed["objects"] if one["path"] != folder[:-1]]
        return Level(files, [f"{path}/" for path in listed["common_prefixes"]])

    async def _list_level_by_boto3(self, folder: str) -> Level:
        def pages() -> Level:
            level = Level([], [])
            for page in self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=folder, Delimiter="/"
            ):
                level.files.extend(one["Key"] for one in page.get("Contents", ()))
                level.folders.extend(one["Prefix"] for one in page.get("CommonPrefixes", ()))
            return level

        async with self._in_flight:
            return await asyncio.to_thread(pages)

    def explain(self, prefix: str, error: Exception) -> tuple[str, bool]:
        """Return why a listing failed, and whether it was refused for its credentials.

        obstore raises one error for most causes, so boto3 asks once more: its errors carry S3's code.
        """
        if isinstance(error, BaseError | OSError):
            try:
                self._client.list_objects_v2(Bucket=self._bucket, Prefix=prefix, MaxKeys=1)
            except (BotoCoreError, ClientError) as failed:
                error = failed
        if not isinstance(error, ClientError):
            return printable(str(error).partition("\n")[0], 300), False
        code, status = error.response["Error"].get("Code", ""), error.response["ResponseMetadata"]["HTTPStatusCode"]
        reason = f"{code}: {error.response['Error'].get('Message', '')}"
        return reason, status in _REFUSED or code in _REFUSED_CODES

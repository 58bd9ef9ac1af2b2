"""Listing S3: by obstore, and by boto3 where obstore refuses a key."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import obstore
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.exceptions import BaseError, InvalidPathError, PermissionDeniedError, UnauthenticatedError
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


class S3:
    """All buckets, with the credentials, region and endpoint that boto3 finds; anonymous where it finds none.

    Use it within one event loop.
    """

    def __init__(self) -> None:
        session = boto3.Session()
        signed = session.get_credentials() is not None
        config = Config(retries={"mode": "standard"}, connect_timeout=10, read_timeout=_REQUEST_SECONDS)
        if not signed:
            config = config.merge(Config(signature_version=UNSIGNED))
        self._client: S3Client = session.client("s3", config=config)
        self._credentials = Boto3CredentialProvider(session) if signed else None
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
            opened = asyncio.to_thread(_Bucket, name, self._client, self._credentials, self._in_flight)
            self._buckets[name] = asyncio.create_task(opened)
        bucket = await self._buckets[name]
        return [f"s3://{name}/{found}" for found in sorted(await bucket.find_keys(f"{key}/", endings))]


class _Bucket:
    """One S3 bucket, listed as the caller's credentials allow, and unsigned where those are refused."""

    def __init__(
        self,
        name: str,
        client: S3Client,
        credentials: Boto3CredentialProvider | None,
        in_flight: asyncio.Semaphore,
    ) -> None:
        self._name = name
        self._client = client
        self._in_flight = in_flight
        self._stores = [self._store(None)]
        if credentials is not None:
            self._stores.insert(0, self._store(credentials))

    def _store(self, credentials: Boto3CredentialProvider | None) -> S3Store:
        endpoint = self._client.meta.endpoint_url
        client: ClientConfig = {"timeout": timedelta(seconds=_REQUEST_SECONDS), "allow_http": True}
        if bundle := os.environ.get("AWS_CA_BUNDLE"):
            client["root_certificate"] = Path(bundle).read_bytes()
        on_aws = endpoint.partition("://")[2].endswith(_AWS_HOSTS)
        return S3Store(
            self._name,
            endpoint=None if on_aws else endpoint,
            region=self._region() if on_aws else self._client.meta.region_name or "us-east-1",
            credential_provider=credentials,
            skip_signature=credentials is None,
            client_options=client,
            retry_config={"retry_timeout": timedelta(seconds=_RETRY_SECONDS)},
        )

    def _region(self) -> str:
        """Ask AWS where the bucket is: the answer carries its region even when it is a refusal."""
        try:
            headers = self._client.head_bucket(Bucket=self._name)["ResponseMetadata"]["HTTPHeaders"]
        except ClientError as error:
            headers = error.response["ResponseMetadata"]["HTTPHeaders"]
        except BotoCoreError as error:
            raise ServiceError(f"s3://{self._name}: {error}") from error
        return headers.get("x-amz-bucket-region", "us-east-1")

    async def find_keys(self, prefix: str, endings: Endings) -> set[str]:
        """Return the keys of all matches below a prefix that ends with `/`."""
        refusal: BaseError | None = None
        for store in tuple(self._stores):
            try:
                found = await self._walk(store, prefix, endings)
            except (PermissionDeniedError, UnauthenticatedError) as error:
                refusal = error
            except (BaseError, OSError) as error:
                raise await asyncio.to_thread(self._explained, prefix, error) from error
            else:
                self._prefer(store)
                return found
        raise await asyncio.to_thread(self._explained, prefix, refusal) from refusal

    def _prefer(self, store: S3Store) -> None:
        if store is not self._stores[0]:
            logger.info("s3://%s refuses signed requests; it is listed without credentials", self._name)
            self._stores.reverse()

    async def _walk(self, store: S3Store, prefix: str, endings: Endings) -> set[str]:
        async def list_level(folder: str) -> Level:
            async with self._in_flight:
                listed = await obstore.list_with_delimiter_async(store, folder)
            # A folder's marker object shows up with the folder's own path: it is no file.
            files = [one["path"] for one in listed["objects"] if one["path"] != folder[:-1]]
            return Level(files, [f"{path}/" for path in listed["common_prefixes"]])

        try:
            return await walk(list_level, prefix, endings)
        except InvalidPathError:
            # obstore refuses a whole listing for one key with an empty segment, `.`, `..` or a control character.
            return await walk(self._list_level_by_boto3, prefix, endings)

    async def _list_level_by_boto3(self, folder: str) -> Level:
        def pages() -> Level:
            paginator = self._client.get_paginator("list_objects_v2")
            level = Level([], [])
            for page in paginator.paginate(Bucket=self._name, Prefix=folder, Delimiter="/"):
                level.files.extend(one["Key"] for one in page.get("Contents", ()))
                level.folders.extend(one["Prefix"] for one in page.get("CommonPrefixes", ()))
            return level

        async with self._in_flight:
            return await asyncio.to_thread(pages)

    def _explained(self, prefix: str, error: Exception | None) -> ServiceError:
        """Return why a listing failed. obstore raises one error for most causes; boto3's has a code."""
        try:
            self._client.list_objects_v2(Bucket=self._name, Prefix=prefix, MaxKeys=1)
        except ClientError as refused:
            details = refused.response["Error"]
            return ServiceError(f"s3://{self._name}: {details.get('Code')}: {details.get('Message')}")
        except BotoCoreError as failed:
            return ServiceError(f"s3://{self._name}: {failed}")
        return ServiceError(f"s3://{self._name}: {printable(str(error), 200)}")

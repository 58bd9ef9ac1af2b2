"""How to get at a bucket: credentials, region and endpoint as boto3 finds them, anonymous or not."""

from __future__ import annotations

import os
import ssl
import threading
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.store import S3Store

from job_dispatch.messages import RequestError, ServiceError
from job_dispatch.storage.listing import THREADS

if TYPE_CHECKING:
    from obstore.store import ClientConfig
    from types_boto3_s3 import S3Client

CONNECT_SECONDS = 10
REQUEST_SECONDS = 30
RETRY_SECONDS = 120
TRIES = RETRY_SECONDS // REQUEST_SECONDS
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_WITHOUT_CONFIGURED_ENDPOINTS: dict[str, Any] = {"ignore_configured_endpoint_urls": True}  # the stubs lack it
_MAKING_CLIENTS = threading.Lock()  # boto3 makes one client at a time


def find_access() -> list[Access]:
    """Return the ways to ask S3, the first one to be tried first: as boto3 finds credentials, then anonymous.

    Raises
    ------
    RequestError
        AWS is configured in a way that boto3 refuses: an unknown profile, half a pair of keys, …
    """
    try:
        session = boto3.Session()
        signed = session.get_credentials() is not None
        found = [Access(session, Boto3CredentialProvider(session))] if signed else []
        found.append(Access(session, None))
        found[0].open()
    except (BotoCoreError, ValueError, OSError) as error:
        raise RequestError(f"S3: the AWS configuration cannot be used: {error}") from error
    return found


def _ca_bundle() -> bytes | None:
    path = os.environ.get("AWS_CA_BUNDLE")
    if not path:
        return None
    try:
        ssl.create_default_context(cafile=path)
        return Path(path).read_bytes()
    except OSError as error:
        raise RequestError(f"AWS_CA_BUNDLE: {path} is no file of certificates: {error.strerror}") from error


class Access:
    """A way to ask S3: with credentials, or without."""

    def __init__(self, session: boto3.Session, credentials: Boto3CredentialProvider | None) -> None:
        self.credentials = credentials
        # How boto3 came by the credentials (env, iam-role, …), never which.
        self.identity = "anonymous" if credentials is None else credentials.credentials.method
        self.ca_bundle = _ca_bundle()
        self._session = session
        self._config = Config(
            retries={"mode": "standard", "total_max_attempts": TRIES},
            connect_timeout=CONNECT_SECONDS,
            read_timeout=REQUEST_SECONDS,
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

    def store(self, bucket: str, client: S3Client) -> S3Store:
        """Return obstore's view of a bucket, at the place that a client of boto3 asks."""
        options: ClientConfig = {
            "timeout": timedelta(seconds=REQUEST_SECONDS),
            "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
            "allow_http": True,
        }
        if self.ca_bundle is not None:
            options["root_certificate"] = self.ca_bundle
        return S3Store(
            bucket,
            endpoint=client.meta.endpoint_url,
            region=client.meta.region_name or "us-east-1",
            credential_provider=self.credentials,
            skip_signature=self.credentials is None,
            client_options=options,
            retry_config={
                "max_retries": 10,
                "retry_timeout": timedelta(seconds=RETRY_SECONDS),
                "backoff": {"init_backoff": timedelta(seconds=0.2), "max_backoff": timedelta(seconds=15), "base": 2},
            },
        )

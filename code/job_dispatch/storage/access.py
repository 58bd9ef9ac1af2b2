"""How to get at a bucket: everything as boto3 finds it, credentials, region, address, certificates and proxy."""

from __future__ import annotations

import functools
import os
import ssl
import threading
from collections.abc import Iterator
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore import UNSIGNED
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.compat import HTTPHeaders
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    MetadataRetrievalError,
    SSOError,
    TokenRetrievalError,
)
from botocore.loaders import Loader, create_loader
from botocore.utils import get_environ_proxies
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.exceptions import BaseError
from obstore.store import HTTPStore, S3Store

from job_dispatch.messages import RequestError, ServiceError, logger
from job_dispatch.storage.keys import THREADS

if TYPE_CHECKING:
    from obstore.store import ClientConfig
    from types_boto3_s3 import S3Client

CONNECT_SECONDS = 10
REQUEST_SECONDS = 30
RETRY_SECONDS = 120
TRIES = RETRY_SECONDS // REQUEST_SECONDS
# How long to wait for a connection where it is asked whether there is one at all.
LOOK_SECONDS = 5
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
# What obstore reads from the environment for uploads; it refuses to open a bucket where one cannot be read.
_UPLOAD_VARIABLES = (
    "AWS_SERVER_SIDE_ENCRYPTION",
    "AWS_CHECKSUM_ALGORITHM",
    "AWS_COPY_IF_NOT_EXISTS",
    "AWS_CONDITIONAL_PUT",
)
_WITHOUT_CONFIGURED_ENDPOINTS: dict[str, Any] = {"ignore_configured_endpoint_urls": True}  # the stubs lack it
# What boto3 raises where credentials are configured rightly and cannot be had now.
_NOT_TO_BE_HAD = (
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    MetadataRetrievalError,
    SSOError,
    TokenRetrievalError,
)
_NO_PROXY_THERE = "http://127.0.0.1:9"
_MAKING_CLIENTS = threading.Lock()  # boto3 makes one client at a time


class Address(NamedTuple):
    """Where a bucket is asked: the URL before its name, or with its name in the host's."""

    endpoint: str
    is_in_host: bool


class Lost(NamedTuple):
    """Why the credentials that are configured could not be had, and whether the user must log in."""

    reason: str
    needs_login: bool = False


@functools.cache
def _loader(data_path: str | None) -> Loader:
    """Return what reads the descriptions of services that come with boto3, and keeps them for all its sessions."""
    return create_loader(data_path)


def _new_session() -> botocore.session.Session:
    core = botocore.session.get_session()
    core.register_component("data_loader", _loader(core.get_config_variable("data_path")))
    return core


def load() -> None:
    """Read what boto3 needs for its first client; that takes a tenth of a second."""
    with _MAKING_CLIENTS:
        loader = _new_session().get_component("data_loader")
        for kind in ("service-2", "endpoint-rule-set-1"):
            loader.load_service_model("s3", kind)
        loader.load_data("endpoints")


def find_access() -> list[Access]:
    """Return the ways to ask S3, the first one to be tried first: as boto3 finds credentials, then anonymous.

    Raises
    ------
    RequestError
        AWS is configured in a way that boto3 refuses: an unknown profile, half a pair of keys, …
    """
    try:
        core = _new_session()
        session = boto3.Session(botocore_session=core)
        bundle = _ca_bundle(core)
        lost: Lost | None = None
        try:
            credentials = session.get_credentials()
            keys = None if credentials is None else credentials.get_frozen_credentials()
        except _NOT_TO_BE_HAD as error:
            credentials, keys, lost = None, None, _why_lost(error)
            logger.warning("S3: %s; trying without credentials", lost.reason)
            core.set_credentials("none", "none")  # for clients that sign nothing; boto3 would ask for them again
        found = [Access(session, None, bundle, lost)]
        if credentials is not None:
            _check_text(keys, credentials.method)
            found.insert(0, Access(session, Boto3CredentialProvider(session), bundle))
        asked = found[0].open().meta
    except (BotoCoreError, ValueError, OSError) as error:
        reason = str(error).partition("\n")[0]  # a credential_process may print secrets below it
        raise RequestError(f"S3: the AWS configuration cannot be used: {reason}") from error
    for what, text in (("endpoint", asked.endpoint_url), ("region", asked.region_name or "")):
        if text != "".join(text.split()):
            raise RequestError(f"S3: the configured {what} holds a blank or a line break; take it out: {text!r}")
    return found


def _why_lost(error: Exception) -> Lost:
    """Return why boto3 could not get the credentials that are configured, and what to do."""
    reason = str(error).partition("\n")[0]  # a credential_process may print secrets below it
    if isinstance(error, SSOError | TokenRetrievalError):
        return Lost(f"the login has expired or is missing ({reason}); log in by aws sso login", needs_login=True)
    return Lost(f"the configured credentials cannot be had ({reason}); check where they come from, or try again later")


def _check_text(keys: Any, method: str) -> None:
    """Refuse credentials that no request could carry: a line break is easily pasted with a key."""
    for what, text in (("access key", keys.access_key), ("secret key", keys.secret_key), ("token", keys.token or "")):
        if text != "".join(text.split()) or not text.isprintable():
            raise RequestError(f"S3: the {what} ({method}) holds a blank or a line break; take it out")


def _ca_bundle(core: botocore.session.Session) -> bytes | None:
    """Return the certificates that boto3 trusts, None for its usual ones."""
    configured = core.get_config_variable("ca_bundle")
    name = "AWS_CA_BUNDLE" if os.environ.get("AWS_CA_BUNDLE") else "ca_bundle in the AWS configuration"
    if not configured:
        configured, name = os.environ.get("REQUESTS_CA_BUNDLE"), "REQUESTS_CA_BUNDLE"
    if not configured:
        return None
    try:
        bundle = Path(configured).read_bytes()
        return bundle if _is_read_by_obstore(bundle) else _as_openssl_reads(configured)
    except (ssl.SSLError, ValueError) as error:
        raise RequestError(f"{name}: {configured} is no file of certificates; give a file in the PEM format") from error
    except OSError as error:
        raise RequestError(f"{name}: {configured} is no file of certificates: {error.strerror}") from error


def _is_read_by_obstore(bundle: bytes) -> bool:
    try:
        HTTPStore("https://localhost", client_options={"root_certificate": bundle})
    except (ValueError, BaseError):
        return False
    return True


def _as_openssl_reads(bundle: str) -> bytes:
    """Return the certificates of a file as plain PEM: boto3 takes some forms of it that obstore does not.

    Raises
    ------
    ssl.SSLError, ValueError
        OpenSSL finds none in it either.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(bundle)
    found = context.get_ca_certs(binary_form=True)
    if not found:
        raise ValueError("no certificates of authorities")
    return "".join(map(ssl.DER_cert_to_PEM_cert, found)).encode()


class Access:
    """A way to ask S3: with credentials, or without."""

    def __init__(
        self,
        session: boto3.Session,
        credentials: Boto3CredentialProvider | None,
        ca_bundle: bytes | None,
        lost: Lost | None = None,
    ) -> None:
        self.credentials = credentials
        # Why the credentials that are configured could not be had.
        self.lost = lost
        # How boto3 came by the credentials (env, iam-role, …), never which; None for none.
        self.identity = None if credentials is None else credentials.credentials.method
        self._ca_bundle = ca_bundle
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

    def impatient_client(self, client: S3Client) -> S3Client:
        """Return a client that asks the same place once, and waits for a connection a short time only."""
        once = Config(connect_timeout=LOOK_SECONDS, retries={"mode": "standard", "total_max_attempts": 1})
        with _MAKING_CLIENTS:
            return self._session.client("s3", region_name=client.meta.region_name, config=self._config.merge(once))

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
        """Return obstore's view of a bucket, at the address that a client of boto3 asks.

        obstore reads `AWS_*` variables by other rules than boto3. Each option that it may take from there is given
        here, but for those of uploads, for which there is no neutral value.

        Raises
        ------
        RequestError
            A variable about uploads has a value that obstore refuses.
        ServiceError
            The address of a proxy cannot be read.
        """
        address = _address(client, bucket)
        try:
            return S3Store(
                bucket,
                endpoint=address.endpoint,
                aws_endpoint_url_s3=address.endpoint,  # as a variable it would win over `endpoint`
                virtual_hosted_style_request=address.is_in_host,
                s3_express=False,
                request_payer=False,
                disable_tagging=False,
                unsigned_payload=False,
                region=client.meta.region_name or "us-east-1",
                credential_provider=self.credentials,
                skip_signature=self.credentials is None,
                client_options=self._options(address.endpoint),
                retry_config={
                    "max_retries": 10,
                    "retry_timeout": timedelta(seconds=RETRY_SECONDS),
                    "backoff": {
                        "init_backoff": timedelta(seconds=0.2),
                        "max_backoff": timedelta(seconds=15),
                        "base": 2,
                    },
                },
            )
        except BaseError as error:
            names = ", ".join(name for name in os.environ if name.upper() in _UPLOAD_VARIABLES)
            if not names:
                raise
            raise RequestError(
                f"S3: obstore, which lists buckets, cannot use the value of {names}; unset it"
            ) from error

    def _options(self, endpoint: str) -> ClientConfig:
        options: ClientConfig = {
            "timeout": timedelta(seconds=REQUEST_SECONDS),
            "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
            "allow_http": True,
        }
        if self._ca_bundle is not None:
            options["root_certificate"] = self._ca_bundle
        url = urlsplit(endpoint)
        proxy = get_environ_proxies(endpoint).get(url.scheme)
        if proxy:
            _check_proxy(proxy, url.scheme)
            options["proxy_url"] = proxy if "://" in proxy else f"http://{proxy}"
        else:
            # Without one of its own obstore would look for a proxy in the environment, by other rules than boto3's.
            options["proxy_url"] = _NO_PROXY_THERE
            options["proxy_excludes"] = url.hostname or ""
        return options


def _check_proxy(proxy: str, scheme: str) -> None:
    try:
        _ = urlsplit(proxy if "://" in proxy else f"http://{proxy}").port
    except ValueError as error:
        # The address itself may hold a password.
        raise ServiceError(f"S3: {scheme.upper()}_PROXY is no address of a proxy ({error}); correct it") from error


class _NoBody:
    """The body of an answer that was never asked for."""

    def stream(self) -> Iterator[bytes]:
        yield b"<ListBucketResult/>"


def _address(client: S3Client, bucket: str) -> Address:
    """Return where a client of boto3 would ask for a listing; it is stopped before it does."""
    urls = []

    def answer(request: AWSPreparedRequest, **_: object) -> Any:
        urls.append(request.url)
        return AWSResponse(request.url, HTTPStatus.OK, HTTPHeaders(), _NoBody())

    event = "before-send.s3.ListObjectsV2"
    with _MAKING_CLIENTS:
        client.meta.events.register_first(event, answer)
        try:
            client.list_objects_v2(Bucket=bucket)
        finally:
            client.meta.events.unregister(event, answer)
    url = urls[0].partition("?")[0].removesuffix("/")
    if url.endswith(f"/{bucket}") and urlsplit(url).path:
        return Address(url.removesuffix(f"/{bucket}"), is_in_host=False)
    return Address(url, is_in_host=True)

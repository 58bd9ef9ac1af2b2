"""How a failure of S3 is explained."""

from __future__ import annotations

from http import HTTPStatus

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ProxyConnectionError,
    SSLError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError

from job_dispatch.messages import printable
from job_dispatch.storage.clients import BadAnswerError

_REASON_SHOWN = 200
_REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_EXPIRED = ("ExpiredToken", "TokenRefreshRequired", "RequestExpired")
_UNKNOWN = ("InvalidToken", "InvalidAccessKeyId", "UnrecognizedClientException")
_WRONG_REGION = ("PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "301", "307")
_NO_CONNECTION = (SSLError, EndpointConnectionError, ConnectTimeoutError, ProxyConnectionError)


class Failure(Exception):  # noqa: N818  it is turned into an error of this project with the bucket's name
    """Why S3 could not be asked, whether it may be without credentials, and whether that holds for the whole bucket.

    `is_of_request` tells whether the user must do something before it can succeed.
    """

    def __init__(
        self, reason: str, is_refusal: bool = False, is_of_bucket: bool = False, is_of_request: bool = False
    ) -> None:
        super().__init__(reason)
        self.reason, self.is_refusal, self.is_of_bucket = reason, is_refusal, is_of_bucket
        self.is_of_request = is_of_request


def is_without_connection(error: Exception) -> bool:
    """Tell whether an error of boto3 says that there was no connection at all."""
    return isinstance(error, _NO_CONNECTION)


def describe(error: Exception, endpoint: str, identity: str | None) -> Failure:
    """Return what an error of boto3, or of its parsers, means for the user.

    Parameters
    ----------
    endpoint : str
        What was asked.
    identity : str or None
        How the credentials were come by; None where there are none.
    """
    if isinstance(error, ClientError):
        return _of_answer(error, endpoint, identity)
    if isinstance(error, BadAnswerError):
        return Failure(f"the answer of {endpoint} {error}")
    if isinstance(error, RecursionError):
        return Failure(f"{endpoint} redirects to another address; set AWS_ENDPOINT_URL_S3 to that", is_of_bucket=True)
    if isinstance(error, SSLError):
        return Failure(_of_tls(str(error), endpoint), is_of_bucket=True)
    if isinstance(error, ProxyConnectionError):
        return Failure(
            f"cannot reach {endpoint} through its proxy; check HTTP_PROXY, HTTPS_PROXY and NO_PROXY", is_of_bucket=True
        )
    if isinstance(error, HTTPClientError | BotoConnectionError):
        return Failure(f"cannot reach {endpoint}; check the network", is_of_bucket=True)
    if isinstance(error, BotoCoreError):
        return Failure(printable(str(error).partition("\n")[0], _REASON_SHOWN))
    reason = printable(str(error).partition("\n")[0], _REASON_SHOWN)
    return Failure(f"the answer of {endpoint} cannot be read ({type(error).__name__}: {reason})")


def _of_tls(reason: str, endpoint: str) -> str:
    if "mismatch" in reason or "doesn't match" in reason:
        return f"the certificate of {endpoint} is for another host name; check the name in the endpoint"
    if "certificate has expired" in reason:
        return f"the certificate of {endpoint} has expired; who runs that server must renew it"
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        return (
            f"the certificate of {endpoint} is not trusted; "
            "name a file with the certificate of its authority in AWS_CA_BUNDLE"
        )
    if "WRONG_VERSION_NUMBER" in reason or "UNKNOWN_PROTOCOL" in reason:
        return f"{endpoint} does not speak HTTPS; check the port, or use http://"
    if "PEM lib" in reason or "NO_CERTIFICATE_OR_CRL_FOUND" in reason:
        return (
            "the file of certificates that AWS_CA_BUNDLE or ca_bundle names cannot be read; "
            "each certificate in it must begin and end with a line of its own"
        )
    return f"no secure connection to {endpoint}: {printable(reason.partition(chr(10))[0], _REASON_SHOWN)}"


def _of_answer(error: ClientError, endpoint: str, identity: str | None) -> Failure:
    code = error.response["Error"].get("Code", "")
    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
    message = printable(error.response["Error"].get("Message", ""), _REASON_SHOWN)
    if code == "NoSuchBucket":
        return Failure(f"NoSuchBucket: there is no such bucket at {endpoint}", is_of_bucket=True)
    if code in _WRONG_REGION:
        return Failure(f"{code}: the bucket is not in the region of {endpoint}; set AWS_DEFAULT_REGION")
    if identity is None and status in (*_REFUSED, HTTPStatus.BAD_REQUEST):
        reason = f"{code}: refused, and boto3 found no AWS credentials: {message}; set them if you have some"
        return Failure(reason, is_refusal=True)
    if code in _EXPIRED:
        return Failure(f"{code}: the credentials ({identity}) have expired; renew them", is_refusal=True)
    if code in _UNKNOWN:
        return Failure(f"{code}: S3 does not know the credentials ({identity}); check them: {message}", is_refusal=True)
    if status in _REFUSED:
        return Failure(f"{code}: refused for the credentials ({identity}): {message}", is_refusal=True)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Failure(f"{code}: S3 is busy or failing: {message}; try again later")
    return Failure(f"{code}: {message}")

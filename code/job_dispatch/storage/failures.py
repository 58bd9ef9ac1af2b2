"""How a failure of S3 is explained."""

from __future__ import annotations

from http import HTTPStatus
from typing import NamedTuple

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as BotoConnectionError

from job_dispatch.messages import printable

_REASON_SHOWN = 200
_REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_EXPIRED = ("ExpiredToken", "InvalidToken", "TokenRefreshRequired", "RequestExpired")
_WRONG_REGION = ("PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "301", "307")


class Failure(NamedTuple):
    """Why a listing failed, whether without credentials it may succeed, and whether it holds for the whole bucket."""

    reason: str
    is_refusal: bool = False
    is_of_bucket: bool = False


def describe(error: BotoCoreError | ClientError, endpoint: str, identity: str) -> Failure:
    """Return what an error of boto3 means for the user.

    Parameters
    ----------
    endpoint : str
        What was asked.
    identity : str
        How the credentials were come by.
    """
    if isinstance(error, ClientError):
        return _of_answer(error, endpoint, identity)
    if isinstance(error, HTTPClientError | BotoConnectionError):
        return Failure(f"cannot reach {endpoint}; check the network", is_of_bucket=True)
    return Failure(printable(str(error).partition("\n")[0], _REASON_SHOWN))


def _of_answer(error: ClientError, endpoint: str, identity: str) -> Failure:
    code = error.response["Error"].get("Code", "")
    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
    message = printable(error.response["Error"].get("Message", ""), _REASON_SHOWN)
    if code == "NoSuchBucket":
        return Failure(f"NoSuchBucket: there is no such bucket at {endpoint}", is_of_bucket=True)
    if code in _EXPIRED:
        return Failure(f"{code}: the credentials ({identity}) have expired; renew them", is_refusal=True)
    if code in _WRONG_REGION:
        return Failure(f"{code}: the bucket is not in the region of {endpoint}; set AWS_REGION")
    if status in _REFUSED:
        return Failure(f"{code}: refused for the credentials ({identity}): {message}", is_refusal=True)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Failure(f"{code}: S3 is busy or failing: {message}; try again later")
    return Failure(f"{code}: {message}")

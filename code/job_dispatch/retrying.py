"""Requests to a service: a timeout for the whole response, and retries after failures that may pass."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as WaitedTooLongError
from typing import Any, TypeVar

import requests
import tenacity
from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry

from job_dispatch.messages import ServiceError, logger

CONNECT_SECONDS = 10.0
# After the limit for the whole response.
_MORE_SECONDS = 5.0
_TRIES, _TRIES_UNREACHED = 5, 2
_PAUSE_UNREACHED = 0.5
_RETRY_SECONDS = 120.0
_LONGEST_PAUSE = 30.0
_TRANSIENT = (429, 500, 502, 503, 504)

T = TypeVar("T")


class TooSlowError(requests.Timeout):
    """A response that did not arrive as a whole in time; another try would most likely take as long."""


def beside(ask: Callable[[], T]) -> Future[T]:
    """Call in a daemon thread: the process may end before it does."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=run, name="asking", daemon=True).start()
    return answer


def in_time(ask: Callable[[], T], seconds: float) -> T:
    """Return what `ask` returns; a TooSlowError if that takes longer than these seconds."""
    try:
        return beside(ask).result(seconds)
    except WaitedTooLongError:
        raise TooSlowError("no answer in time") from None


class Session(requests.Session):
    """A session with a timeout for a whole response, which sends credentials to no other host.

    The timeout of `requests` is one between bytes: a response of one byte per second would never end. A redirect is an
    error, since it might lead to another host or to an address without TLS. `limit`, if it is set, is a shorter timeout
    in seconds, and `answer` is the last response. Without `credentials` (user and password) none are sent, whatever a
    .netrc holds for the host.
    """

    def __init__(self, timeout: float, credentials: tuple[str, str] | None = None) -> None:
        super().__init__()
        self._timeout = timeout
        self.limit: float | None = None
        self.answer = requests.Response()
        self.auth = credentials or _without_credentials

    def request(self, *args: Any, **options: Any) -> requests.Response:
        """Send a request as `requests.Session` does, within the timeout and without following a redirect."""
        longest = self._timeout if self.limit is None else min(self._timeout, self.limit)
        options.setdefault("timeout", (min(CONNECT_SECONDS, longest), longest + _MORE_SECONDS))
        options["allow_redirects"] = False
        request = super().request
        response = in_time(lambda: request(*args, **options), longest)
        if response.is_redirect:
            raise requests.HTTPError("redirected", response=response)
        self.answer = response
        return response


def _without_credentials(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def retried(ask: Callable[[], T], service: str | None, within: float | None = None, was_reached: bool = False) -> T:
    """Return what `ask` returns; it must only read, since it is called again after a failure that may pass.

    `service` is the name for the log; None logs no retries. `within` is the seconds for all tries, if less than usual.
    Until the service was reached, an unknown host or a refused connection hardly passes: it is tried twice only.
    """
    seconds = _RETRY_SECONDS if within is None else min(within, _RETRY_SECONDS)
    is_late = tenacity.stop_before_delay(seconds)
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_transient),
        stop=lambda state: state.attempt_number >= _tries(state, was_reached) or is_late(state),
        wait=lambda state: _pause(state) if _tries(state, was_reached) == _TRIES else _PAUSE_UNREACHED,
        before_sleep=lambda state: _announce(service, state, _tries(state, was_reached)),
        reraise=True,
    )
    return retrying(ask)


def _tries(state: tenacity.RetryCallState, was_reached: bool) -> int:
    error = state.outcome.exception() if state.outcome else None
    return _TRIES_UNREACHED if error and not was_reached and _is_unreachable(error) else _TRIES


def _is_unreachable(error: BaseException) -> bool:
    """Tell whether there is no such host, or nothing listens there."""
    return any(
        isinstance(one, socket.gaierror) or (isinstance(one, OSError) and one.errno == errno.ECONNREFUSED)
        for one in _behind(error)
    )


def status(error: BaseException | None) -> int | None:
    """Return the HTTP status of an error, if it has one."""
    response = error.response if isinstance(error, requests.HTTPError) else None
    return None if response is None else response.status_code


def retry_after(error: BaseException | None) -> float | None:
    """Return the seconds to wait that a response asks for, if it does."""
    response = error.response if isinstance(error, requests.HTTPError) else None
    header = None if response is None else response.headers.get("Retry-After")
    try:
        return None if header is None else Retry().parse_retry_after(header)
    except (InvalidHeader, ValueError, OverflowError):  # the last two for a date beyond all calendars
        return None


def service_error(error: Exception, service: str, more_time: str, address: str) -> ServiceError:
    """Return why a request got no answer that can be read, from what `requests` raised other than for an HTTP status.

    The message tells how to allow `more_time`, and names the setting that holds the `address` of the service.
    """
    numbers = {one.errno for one in _behind(error) if isinstance(one, OSError)}
    if numbers & {errno.EMFILE, errno.ENFILE}:
        return ServiceError(f"{service}: too many open files; raise the limit (ulimit -n)")
    if isinstance(error, requests.JSONDecodeError) or not isinstance(error, requests.RequestException):
        return ServiceError(f"{service}: the answer is not JSON")
    if isinstance(error, requests.exceptions.ContentDecodingError):
        return ServiceError(f"{service}: the answer is corrupt: it cannot be decompressed; try again")
    if isinstance(error, requests.exceptions.SSLError):
        return ServiceError(f"{service}: no trusted connection; REQUESTS_CA_BUNDLE may name another authority")
    if isinstance(error, requests.Timeout):
        return ServiceError(f"{service}: no answer in time; try again{more_time}")
    if isinstance(error, requests.exceptions.ProxyError):
        return ServiceError(f"{service}: the proxy does not answer; check HTTPS_PROXY")
    if any(isinstance(one, socket.gaierror) for one in _behind(error)):
        return ServiceError(f"{service}: no such host; check {address} and the network")
    if errno.ECONNREFUSED in numbers:
        return ServiceError(f"{service}: the connection is refused; check {address}")
    return ServiceError(f"{service}: no connection; check {address} and the network")


def _behind(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that it was raised for; urllib3 and requests keep them in different places."""
    left, seen = [error], set[int]()
    while left:
        one = left.pop()
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            further = (one.__cause__, one.__context__, getattr(one, "reason", None), *one.args)
            left += [other for other in further if isinstance(other, BaseException)]


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, requests.HTTPError):
        return status(error) in _TRANSIENT
    if isinstance(error, requests.exceptions.SSLError):
        return "CERTIFICATE_VERIFY_FAILED" not in str(error)
    if isinstance(error, TooSlowError):
        return False
    return isinstance(error, requests.ConnectionError | requests.Timeout | requests.exceptions.ChunkedEncodingError)


def _pause(state: tenacity.RetryCallState) -> float:
    """Return the seconds before the next try: as the response asks, or 1, 2, 4, … with jitter."""
    wait = retry_after(state.outcome.exception() if state.outcome else None)
    return tenacity.wait_exponential_jitter(initial=1, max=_LONGEST_PAUSE)(state) if wait is None else wait


def _announce(service: str | None, state: tenacity.RetryCallState, tries: int) -> None:
    if service is None:
        return
    error = state.outcome.exception() if state.outcome else None
    code = status(error)
    reason = f"HTTP {code}" if code else "no answer in time" if isinstance(error, requests.Timeout) else "no connection"
    pause, number = state.upcoming_sleep, state.attempt_number + 1
    logger.warning("%s: %s; try %d of %d in %.1f s", service, reason, number, tries, pause)

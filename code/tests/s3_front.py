"""An S3 stand-in that lists any key and fails as it is told, for what moto cannot hold or do."""

from __future__ import annotations

import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, quote_plus, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.gateway import Fault

KEYS_A_PAGE = 1_000


@dataclass
class RecordedRequest:
    """One request as it came in; `status` is what was answered, None where nothing was."""

    method: str
    bucket: str
    prefix: str
    authorization: str | None
    time: float
    status: int | None = None


FaultHook = Callable[[RecordedRequest], Fault | None]


def error(status: int, code: str, message: str, **headers: str) -> Fault:
    """An answer with an error of S3 in its body; in names of headers `_` stands for `-`."""
    return Fault(status, _error_body(code, message), {name.replace("_", "-"): value for name, value in headers.items()})


def _error_body(code: str, message: str) -> str:
    return f"<Error><Code>{code}</Code><Message>{escape(message)}</Message><RequestId>0</RequestId></Error>"


SLOW_DOWN = error(503, "SlowDown", "Please reduce your request rate.")
ACCESS_DENIED = error(403, "AccessDenied", "Access Denied")
EXPIRED_TOKEN = error(400, "ExpiredToken", "The provided token has expired.")
WRONG_REGION = error(
    301,
    "PermanentRedirect",
    "The bucket you are attempting to access must be addressed using the specified endpoint.",
    x_amz_bucket_region="eu-central-1",
)


class S3Front:
    """Buckets with nothing but keys on a free port of 127.0.0.1, a context manager.

    Tests change `buckets`, `faults` (one entry is consumed a request: a `Fault`, None for a request that goes
    well, or a function of the request that gives either) and `failing` (the fault of every later request whose
    prefix begins so) and `sort` (the order of keys), and read `requests`.

    Parameters
    ----------
    buckets : mapping of str to iterable of str
        Names of buckets and their keys.
    """

    def __init__(self, buckets: Mapping[str, Iterable[str]]) -> None:
        self.buckets = {name: set(keys) for name, keys in buckets.items()}
        self.faults: list[Fault | FaultHook | None] = []
        self.failing: dict[str, Fault] = {}
        self.sort: Callable[[str], bytes] = str.encode
        self.requests: list[RecordedRequest] = []
        self.released = threading.Event()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        """The endpoint, as `AWS_ENDPOINT_URL_S3` takes it."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables by which boto3 and the command find this endpoint, with credentials and nothing else."""
        return {
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/nonexistent/aws-config",
            "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent/aws-credentials",
            "NO_PROXY": "localhost,127.0.0.1",
            "no_proxy": "localhost,127.0.0.1",
        }

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def fault_of(self, request: RecordedRequest) -> Fault:
        """Take the fault of one request."""
        if self.faults:
            entry = self.faults.pop(0)
            return (entry(request) if callable(entry) else entry) or Fault()
        failing = (fault for prefix, fault in self.failing.items() if request.prefix.startswith(prefix))
        return next(failing, Fault())

    def respond(self, method: str, bucket: str, asked: Mapping[str, list[str]]) -> tuple[int, str]:
        """Status and body of the answer to one request."""
        if bucket not in self.buckets:
            return 404, _error_body("NoSuchBucket", "The specified bucket does not exist")
        if method == "HEAD":
            return 200, ""
        if method != "GET":
            return 405, _error_body("MethodNotAllowed", "The specified method is not allowed.")
        asked_once = {name: values[0] for name, values in asked.items()}
        return 200, _listing(bucket, self.buckets[bucket], asked_once, self.sort)


def _listing(bucket: str, keys: Iterable[str], asked: Mapping[str, str], sort: Callable[[str], bytes]) -> str:
    """The XML of a `ListObjectsV2`."""
    shown = _url_encoded if asked.get("encoding-type") == "url" else _escaped
    prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter", "")
    after = asked.get("continuation-token") or asked.get("start-after", "")
    entries = sorted(set(_entries(keys, prefix, delimiter)), key=lambda entry: sort(entry[0]))
    left = [entry for entry in entries if sort(entry[0]) > sort(after)]
    page = left[: min(int(asked.get("max-keys", KEYS_A_PAGE)), KEYS_A_PAGE)]
    is_truncated = len(page) < len(left)
    parts = [
        f"<Name>{bucket}</Name><Prefix>{shown(prefix)}</Prefix><KeyCount>{len(page)}</KeyCount>",
        f"<MaxKeys>{KEYS_A_PAGE}</MaxKeys><IsTruncated>{str(is_truncated).lower()}</IsTruncated>",
    ]
    if delimiter:
        parts.append(f"<Delimiter>{shown(delimiter)}</Delimiter>")
    if "encoding-type" in asked:
        parts.append("<EncodingType>url</EncodingType>")
    if is_truncated:
        parts.append(f"<NextContinuationToken>{_escaped(page[-1][0])}</NextContinuationToken>")
    for name, is_prefix in page:
        if is_prefix:
            parts.append(f"<CommonPrefixes><Prefix>{shown(name)}</Prefix></CommonPrefixes>")
        else:
            parts.append(
                f"<Contents><Key>{shown(name)}</Key><LastModified>2025-06-01T00:00:00.000Z</LastModified>"
                f"<ETag>&quot;0&quot;</ETag><Size>{size_of(name)}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            )
    inside = "".join(parts)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{inside}</ListBucketResult>'
    )


def size_of(key: str) -> int:
    """The bytes of an object: none for the marker of a folder, and for a file whose name ends in `empty`."""
    return 0 if key.endswith(("/", "empty")) else 1


def _entries(keys: Iterable[str], prefix: str, delimiter: str) -> Iterator[tuple[str, bool]]:
    """Yield the keys below a prefix, and the common prefixes of those behind a delimiter."""
    for key in keys:
        if key.startswith(prefix):
            name, found, _ = key.removeprefix(prefix).partition(delimiter) if delimiter else (key, "", "")
            yield (f"{prefix}{name}{found}", True) if found else (key, False)


def _url_encoded(text: str) -> str:
    return quote_plus(text, safe="/")


def _escaped(text: str) -> str:
    return re.sub(r"[\x00-\x1f]", lambda found: f"&#x{ord(found[0]):X};", escape(text))


class _Server(ThreadingHTTPServer):
    """A thread a request; none of them outlives the tests."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, front: S3Front) -> None:
        self.front = front
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests, not worth a traceback."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._handle()

    def do_HEAD(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def _handle(self) -> None:
        front = self.server.front
        url = urlsplit(self.path)
        asked = parse_qs(url.query, keep_blank_values=True)
        bucket = unquote(url.path).strip("/")
        prefix = asked.get("prefix", [""])[0]
        request = RecordedRequest(self.command, bucket, prefix, self.headers.get("Authorization"), time.monotonic())
        front.requests.append(request)
        fault = front.fault_of(request)
        if fault.delay:
            front.released.wait(fault.delay)
        if fault.reset:
            self._reset()
            return
        if fault.status is None:
            status, text = front.respond(self.command, bucket, asked)
            payload, headers = text.encode(), {"Content-Type": "application/xml"}
        else:
            status, headers = fault.status, dict(fault.headers)
            payload = fault.body.encode() if isinstance(fault.body, str) else fault.body
        request.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(payload)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload[: len(payload) // 2] if fault.truncate else payload)

    def _reset(self) -> None:
        """Close at once with a TCP reset: lingering for zero seconds."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()
        self.connection.close()

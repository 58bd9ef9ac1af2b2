"""An S3 endpoint in a process of its own: listings of synthetic assets, each answer held back for a while.

It shares the machine with what is measured, so it is lean: one thread, one loop over ready sockets, and pages
rendered once a shape, with a mark where the name of the asset goes.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import subprocess
import sys
import time
import urllib.request
from collections import deque
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote_plus

from benchmarks import places
from benchmarks.shapes import BUCKET, SHAPES, keys_of, page, size_of

_COUNTS = b"/-/counts"
_MARK = "@"
_LISTING = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    "<Name>{}</Name><KeyCount>{}</KeyCount><MaxKeys>{}</MaxKeys><IsTruncated>{}</IsTruncated>{}</ListBucketResult>"
)
_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
_BUCKET_FOUND = b"HTTP/1.1 200 OK\r\nx-amz-bucket-region: us-east-1\r\nContent-Length: 0\r\n\r\n"


class Endpoint:
    """The process, from the outside: a context manager.

    Parameters
    ----------
    latency : float
        Seconds between a request and its answer; requests do not wait for each other.
    """

    def __init__(self, latency: float) -> None:
        self._latency = latency

    def __enter__(self) -> Self:
        # It ends when its standard input does, also if this process is killed.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.endpoint", str(self._latency)],
            cwd=Path(__file__).resolve().parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._process.communicate()

    def counts(self) -> dict[str, Any]:
        """Return the requests since the last call: `list`, `other`, and the most `in_flight` at once."""
        with urllib.request.urlopen(f"{self.url}{_COUNTS.decode()}") as answer:
            counts: dict[str, Any] = json.load(answer)
        return counts


@lru_cache(maxsize=1_200)
def _objects(shape: str, thousand: int) -> list[str]:
    """Return what a listing says of a thousand objects that follow each other."""
    keys = keys_of(shape).between(1_000 * thousand, 1_000 * (thousand + 1))
    return [
        f"<Contents><Key>{_MARK}/{key}</Key><LastModified>2025-06-07T00:00:00.000Z</LastModified>"
        "<ETag>&quot;d41d8cd98f00b204e9800998ecf8427e&quot;</ETag>"
        f"<Size>{size_of(key)}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        for key in keys
    ]


@lru_cache(maxsize=2_000)
def _rendered(shape: str, prefix: str, delimiter: str, after: str, token: str, size: int) -> bytes:
    """Return the body of an answer; prefix and `after` are relative to the asset."""
    keys = keys_of(shape)
    position = int(token) if token else keys.after_key(after) if after else 0
    entries = page(keys, prefix, delimiter, position, size)
    parts = [_objects(shape, number // 1_000)[number % 1_000] for number in entries.positions]
    parts += [f"<CommonPrefixes><Prefix>{_MARK}/{one}</Prefix></CommonPrefixes>" for one in entries.prefixes]
    if entries.next_position is not None:
        parts.append(f"<NextContinuationToken>{entries.next_position}</NextContinuationToken>")
    is_truncated = "false" if entries.next_position is None else "true"
    return _LISTING.format(
        BUCKET, len(entries.positions) + len(entries.prefixes), size, is_truncated, "".join(parts)
    ).encode()


def _listing(query: str) -> bytes:
    options = dict(part.partition("=")[::2] for part in query.split("&"))
    asset, _, prefix = unquote_plus(options.get("prefix", "")).partition("/")
    shape = asset.rpartition("_")[0]
    if shape not in SHAPES:
        return _NOT_FOUND
    template = _rendered(
        shape,
        prefix,
        unquote_plus(options.get("delimiter", "")),
        unquote_plus(options.get("start-after", "")).removeprefix(f"{asset}/"),
        options.get("continuation-token", ""),
        min(int(options.get("max-keys", 1_000)), 1_000),
    )
    body = template.replace(_MARK.encode(), asset.encode())
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


class _Connection:
    def __init__(self, peer: socket.socket) -> None:
        self.socket = peer
        self.received = b""
        self.to_send = memoryview(b"")


class _Server:
    """Answers on a free port of 127.0.0.1 until standard input ends."""

    def __init__(self, latency: float) -> None:
        self._latency = latency
        self._selector = selectors.DefaultSelector()
        # All answers wait equally long, so they fall due in the order in which they came in.
        self._due: deque[tuple[float, _Connection, bytes]] = deque()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1_024)
        self._listener.setblocking(False)
        self._forget()

    def run(self) -> None:
        print(self._listener.getsockname()[1], flush=True)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(sys.stdin, selectors.EVENT_READ)
        while True:
            wait = max(0.0, self._due[0][0] - time.monotonic()) if self._due else None
            for ready, events in self._selector.select(wait):
                if ready.fileobj is sys.stdin:
                    return
                if ready.fileobj is self._listener:
                    self._accept()
                elif events & selectors.EVENT_READ:
                    self._receive(ready.data)
                else:
                    self._send(ready.data)
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                _, connection, answer = self._due.popleft()
                self._begin_to_send(connection, answer)

    def _forget(self) -> None:
        self._counts = {"list": 0, "other": 0, "in_flight": 0}

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                peer, _ = self._listener.accept()
                peer.setblocking(False)
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._selector.register(peer, selectors.EVENT_READ, _Connection(peer))

    def _receive(self, connection: _Connection) -> None:
        try:
            received = connection.socket.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received:
            self._selector.unregister(connection.socket)
            connection.socket.close()
            return
        connection.received += received
        while (end := connection.received.find(b"\r\n\r\n")) >= 0:
            method, target, _ = connection.received[:end].split(b" ", 2)
            connection.received = connection.received[end + 4 :]
            self._answer(connection, method, target)

    def _answer(self, connection: _Connection, method: bytes, target: bytes) -> None:
        if target == _COUNTS:
            body = json.dumps(self._counts).encode()
            self._forget()
            self._begin_to_send(connection, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            return
        path, _, query = target.decode().partition("?")
        if (answer := places.answer(path, query)) is not None:
            self._counts["list" if query else "other"] += 1
        elif method == b"GET" and "list-type=2" in query:
            self._counts["list"] += 1
            answer = _listing(query)
        else:
            self._counts["other"] += 1
            is_bucket = method == b"HEAD" and path.strip("/") == BUCKET
            answer = _BUCKET_FOUND if is_bucket else _NOT_FOUND
        self._due.append((time.monotonic() + self._latency, connection, answer))
        self._counts["in_flight"] = max(self._counts["in_flight"], len(self._due))

    def _begin_to_send(self, connection: _Connection, answer: bytes) -> None:
        if connection.socket.fileno() < 0:
            return  # the client has hung up
        connection.to_send = memoryview(answer)
        self._send(connection)

    def _send(self, connection: _Connection) -> None:
        try:
            sent = connection.socket.send(connection.to_send)
        except BlockingIOError:
            sent = 0
        except OSError:
            sent = len(connection.to_send)  # reading will tell that the client has hung up
        was_waiting = self._selector.get_key(connection.socket).events & selectors.EVENT_WRITE
        connection.to_send = connection.to_send[sent:]
        if connection.to_send and not was_waiting:
            events = selectors.EVENT_READ | selectors.EVENT_WRITE
            self._selector.modify(connection.socket, events, connection)
        elif was_waiting and not connection.to_send:
            self._selector.modify(connection.socket, selectors.EVENT_READ, connection)


if __name__ == "__main__":
    _Server(float(sys.argv[1])).run()

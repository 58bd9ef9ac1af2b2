"""An HTTPS stand-in for DocDB that answers fast: records of synthetic assets, rendered once."""

from __future__ import annotations

import json
import ssl
import threading
import time
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import trustme

from benchmarks.shapes import locations, names

_FIELD = "data_description.project_name"


def query(shape: str, count: int) -> str:
    """Return the query for so many assets of a shape."""
    return json.dumps({_FIELD: f"{shape}:{count}"})


class MetadataServer:
    """The gateway on a free port of 127.0.0.1, a context manager.

    Parameters
    ----------
    directory : pathlib.Path
        Where the certificate authority is written, for `REQUESTS_CA_BUNDLE`.
    latency : float
        Seconds between a request and its answer.
    handler : type of Handler or None
        What answers further questions as well.
    """

    def __init__(self, directory: Path, latency: float, handler: type[Handler] | None = None) -> None:
        self.ca_path = directory / "authority.pem"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.ca_path))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
        self._server = _Server(("127.0.0.1", 0), handler or Handler)
        self._server.latency = latency
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.host = f"localhost:{self._server.server_address[1]}"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    latency = 0.0


class Handler(BaseHTTPRequestHandler):
    """Answers every request after the latency, with what `respond` says."""

    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def respond(self, pipeline: Any) -> bytes:
        """Return the body of the answer to `self.path`; `pipeline` is None in a GET."""
        return _answer(pipeline)

    def _answer(self, pipeline: Any) -> None:
        time.sleep(self.server.latency)
        body = self.respond(pipeline)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _answer(pipeline: list[dict[str, Any]]) -> bytes:
    """Answer the pipelines of both dispatchers: `$match`, for further pages one on `_id`, …, `$project` or `$count`."""
    if "_id" in pipeline[1].get("$match", {}):
        return b"[]"
    shape, _, count = pipeline[0]["$match"][_FIELD].partition(":")
    if "$count" in pipeline[-1]:
        return json.dumps([{"records": int(count)}]).encode()
    return _rendered(shape, int(count), "s3_location" in pipeline[-1]["$project"])


@cache
def _rendered(shape: str, count: int, is_for_peer: bool) -> bytes:
    records = []
    for number, (name, location) in enumerate(zip(names(shape, count), locations(shape, count), strict=True)):
        identifier = f"{number:08}-0000-4000-8000-{len(name):012}"
        if is_for_peer:
            record: dict[str, Any] = {"s3_location": [location], "docdb_record_id": [identifier], "asset_name": [name]}
        else:
            record = {"name": name, "location": location, "external_links": {"Code Ocean": [identifier]}}
        records.append({"_id": identifier, **record})
    return json.dumps(records).encode()

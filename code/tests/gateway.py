"""An HTTPS stand-in for the API gateway in front of DocDB, for tests through the real client."""

from __future__ import annotations

import contextlib
import functools
import json
import random
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import mongomock
import mongomock.filtering
import trustme
from mongomock.filtering import filter_applies, resolve_sort_key

Record = dict[str, Any]
CollectionKey = tuple[str, str, str]

DEFAULT_COLLECTION: CollectionKey = ("v1", "metadata_index", "data_assets")
DEFAULT_PAYLOAD_LIMIT = 6 * 1024 * 1024
URL_LIMIT = 10_000

# fmt: off
OPERATORS = frozenset([
    "$all", "$and", "$comment", "$elemMatch", "$eq", "$exists", "$expr", "$gt", "$gte", "$in", "$lt", "$lte",
    "$ne", "$nin", "$nor", "$not", "$options", "$or", "$regex", "$size", "$type",
])
# fmt: on


_candidates_in_object: Callable[[str, Any], Any] = mongomock.filtering.iter_key_candidates
_MISSING = _candidates_in_object("key", {})


def _candidates(key: str, document: Any) -> Any:
    """Find nothing but what is missing below null or a scalar, as MongoDB does; mongomock finds nothing at all."""
    if key and not isinstance(document, dict | list):
        return _MISSING
    return _candidates_in_object(key, document)


mongomock.filtering.iter_key_candidates = _candidates


@dataclass
class RecordedRequest:
    """One request as it came in.

    `body` is the parsed JSON (a pipeline), None where there was none; `time` is `time.monotonic()` at its
    arrival; `status` is what was answered, None while it is under way and where the connection was dropped.
    """

    method: str
    path: str
    body: Any
    time: float
    headers: Mapping[str, str]
    status: int | None = None


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request: in this order a delay, a dropped connection, another answer, a cut or drip.

    Parameters
    ----------
    status, body, headers
        Sent instead of the real answer; without a status the real answer is given.
    delay : float
        Seconds before anything is answered.
    reset : bool
        The connection is reset and nothing is answered.
    truncate : bool
        Only the first half of the answer is sent, then the connection ends.
    drip : float
        Seconds between the bytes of the answer, its first line included.
    """

    status: int | None = None
    body: str | bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    reset: bool = False
    truncate: bool = False
    drip: float = 0.0


FaultHook = Callable[[RecordedRequest], Fault | None]


class BadRequestError(Exception):
    """The database refuses the question: HTTP 400."""


class Gateway:
    """The gateway on a free port of 127.0.0.1, a context manager.

    Tests change `records` (of v1/metadata_index/data_assets), `payload_limit` (bytes of an answer) and
    `faults` (one entry is consumed a request: a `Fault`, None for a request that goes well, or a function
    of the request that gives either and may change the records first) and read `requests`. Counts are kept
    apart, with `count_faults` and `counts`, since one travels beside the first page of records.

    An `_id` may be text, a number or `{"$oid": …}`, which stands for an ObjectId; with `prints_ids` it is
    printed as its text alone. `{"$oid": …}` in a question is such an ObjectId as well, or with `reads_ids` false an
    object like any other, which no record has.

    `$match` is mongomock's, another engine than the one that judges the records of catalogs.

    Parameters
    ----------
    directory : Path
        Where the certificate authority is written, for `REQUESTS_CA_BUNDLE`.
    """

    def __init__(self, directory: Path) -> None:
        self.ca_path = directory / "gateway-ca.pem"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.ca_path))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
        self._server = _Server(self, context)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self.released = threading.Event()
        self.reset()

    @property
    def host(self) -> str:
        """`localhost:PORT`, as `MetadataDbClient` takes it."""
        return f"localhost:{self._server.server_address[1]}"

    @property
    def records(self) -> list[Record]:
        """The records of the default collection; change the list in place or assign another."""
        return self.collections[DEFAULT_COLLECTION]

    @records.setter
    def records(self, records: list[Record]) -> None:
        self.collections[DEFAULT_COLLECTION] = records

    def reset(self) -> None:
        """Forget records, faults and requests; requests still under way are let go."""
        self.released.set()
        self._server.drop_connections()
        self.released = threading.Event()
        self.collections: dict[CollectionKey, list[Record]] = {DEFAULT_COLLECTION: []}
        self.faults: list[Fault | FaultHook | None] = []
        self.requests: list[RecordedRequest] = []
        self.count_faults: list[Fault | FaultHook | None] = []
        self.counts: list[RecordedRequest] = []
        self.payload_limit = DEFAULT_PAYLOAD_LIMIT
        self.prints_ids = False
        self.reads_ids = True

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.drop_connections()
        self._server.server_close()

    def wait_for_count(self) -> None:
        """Return when a count has been made: it travels beside the first page, and may come after the second."""
        deadline = time.monotonic() + 60
        while not any(request.status for request in self.counts):
            if time.monotonic() > deadline or self.released.wait(0.005):
                raise AssertionError("no count was asked for")

    def respond(self, method: str, path: str, body: Any) -> tuple[int, bytes]:
        """Status and body of the answer to one request."""
        try:
            status, answer = self._answer(method, path, body)
        except BadRequestError as error:
            status, answer = 400, {"message": str(error)}
        payload = json.dumps(answer).encode()
        if len(payload) > self.payload_limit:
            return 413, b'{"message": "Request Entity Too Large"}'
        return status, payload

    def _answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        if len(path) > URL_LIMIT:
            return 400, {"message": "Request URI Too Long"}
        url = urlsplit(path)
        route = re.fullmatch(r"/([^/]+)/([^/]+)/([^/]+)/(aggregate|find)", url.path)
        if route is None:
            return 404, {"message": "Not Found"}
        version, database, collection, action = route.groups()
        if (method, action) not in {("POST", "aggregate"), ("GET", "find")}:
            return 403, {"message": "Missing Authentication Token"}
        records = list(self.collections.get((version, database, collection), []))
        if action == "aggregate":
            answer = aggregate(records, body if self.reads_ids else _without_ids(body))
            return 200, [_with_text_id(one) for one in answer] if self.prints_ids else answer
        found = aggregate(records, _find_pipeline(parse_qs(url.query)))
        # As the real one: records beyond the limit are left out without a word.
        while len(json.dumps(found)) > self.payload_limit:
            found.pop()
        return 200, found


def _with_text_id(record: Record) -> Record:
    record_id = record.get("_id")
    return {**record, "_id": record_id["$oid"]} if isinstance(record_id, dict) and "$oid" in record_id else record


def _without_ids(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_ids(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {("an object's $oid" if key == "$oid" else key): _without_ids(one) for key, one in value.items()}


def aggregate(records: list[Record], pipeline: Any) -> list[Record]:
    """The answer of a pipeline of `$match`, `$sample`, `$sort`, `$limit`, `$skip`, inclusive `$project` and `$count`.

    Raises
    ------
    BadRequestError
        For anything else, with the words of MongoDB where it would refuse as well.
    """
    if not isinstance(pipeline, list) or not all(isinstance(stage, dict) and len(stage) == 1 for stage in pipeline):
        raise BadRequestError("A pipeline stage specification object must contain exactly one field.")
    for stage in pipeline:
        [(name, value)] = stage.items()
        if name not in _STAGES:
            raise BadRequestError(f"Unrecognized pipeline stage name: '{name}'")
        records = _STAGES[name](records, value)
    return records


def _match(records: list[Record], query: Any) -> list[Record]:
    if not isinstance(query, dict):
        raise BadRequestError("the match filter must be an expression in an object")
    _check_operators(query)
    try:
        filter_applies(query, {})  # a mistake is one for no records as well
        return [record for record in records if filter_applies(query, record)]
    except (mongomock.OperationFailure, NotImplementedError, re.error, TypeError, ValueError) as error:
        raise BadRequestError(str(error)) from error


def _check_operators(query: Any) -> None:
    if isinstance(query, list):
        for part in query:
            _check_operators(part)
    elif isinstance(query, dict):
        for key, value in query.items():
            if key.startswith("$") and key not in OPERATORS:
                raise BadRequestError(f"unknown operator: {key}")
            if key != "$expr" and not (key == "$eq" and isinstance(value, dict)):  # an object is no expression there
                _check_operators(value)


def _sort(records: list[Record], keys: Any) -> list[Record]:
    if not isinstance(keys, dict) or not keys or not set(keys.values()) <= {1, -1}:
        raise BadRequestError("$sort key ordering must be 1 (for ascending) or -1 (for descending)")
    for path, order in reversed(keys.items()):
        key = _id_order if path == "_id" else functools.partial(resolve_sort_key, path)
        records = sorted(records, key=key, reverse=order == -1)
    return records


def _id_order(record: Record) -> tuple[int, Any]:
    """Order ids by type first, as BSON does: numbers, text, ObjectIds."""
    record_id = record.get("_id")
    if isinstance(record_id, dict):
        return (2, record_id["$oid"]) if "$oid" in record_id else (3, resolve_sort_key("_id", record))
    return (1, record_id) if isinstance(record_id, str) else (0, record_id or 0)


def _limit(records: list[Record], count: Any) -> list[Record]:
    if not isinstance(count, int) or count < 1:
        raise BadRequestError("invalid argument to $limit stage: the limit must be positive")
    return records[:count]


def _skip(records: list[Record], count: Any) -> list[Record]:
    if not isinstance(count, int) or count < 0:
        raise BadRequestError("invalid argument to $skip stage: must be a non-negative number")
    return records[count:]


def _count(records: list[Record], name: Any) -> list[Record]:
    if not isinstance(name, str) or not name:
        raise BadRequestError("the count field must be a non-empty string")
    return [{name: len(records)}] if records else []


def _project(records: list[Record], paths: Any) -> list[Record]:
    if not isinstance(paths, dict) or not paths:
        raise BadRequestError("Invalid $project :: caused by :: projection specification must have at least one field")
    wanted: Record = {}
    for path, value in {"_id": 1, **paths}.items():
        if path == "_id" and value in (0, False):
            continue
        if value not in (1, True):
            raise BadRequestError(
                f"Invalid $project :: only the inclusion of fields is served here, not {path}: {value!r}"
            )
        branch = wanted
        *parents, leaf = path.split(".")
        for name in parents:
            branch = branch.setdefault(name, {})
            if branch is _WHOLE:
                raise BadRequestError(f"Invalid $project :: caused by :: Path collision at {path}")
        if leaf in branch:
            raise BadRequestError(f"Invalid $project :: caused by :: Path collision at {path}")
        branch[leaf] = _WHOLE
    return [_included(record, wanted) for record in records]


_WHOLE: Record = {}


def _included(value: Any, wanted: Record) -> Any:
    """What an inclusion keeps of a value: lists are looked through, and what has no fields falls away."""
    if isinstance(value, list):
        return [_included(item, wanted) for item in value if isinstance(item, dict | list)]
    kept = {}
    for name in value:
        if name in wanted:
            if wanted[name] is _WHOLE:
                kept[name] = value[name]
            elif isinstance(value[name], dict | list):
                kept[name] = _included(value[name], wanted[name])
    return kept


def _group(records: list[Record], spec: Any) -> list[Record]:
    """Group by expressions of paths, `$ifNull` and `$substrCP`, as Amazon DocumentDB knows them, and `$sum` ones."""
    if not isinstance(spec, dict) or "_id" not in spec:
        raise BadRequestError("a group specification must include an _id")
    sums = [name for name, value in spec.items() if value == {"$sum": 1}]
    if len(sums) != len(spec) - 1:
        raise BadRequestError("only {$sum: 1} is served here")
    found: dict[str, Record] = {}
    for record in records:
        key = {name: value for name, part in spec["_id"].items() if (value := _value(record, part)) is not _ABSENT}
        group = found.setdefault(json.dumps(key), {"_id": key, **dict.fromkeys(sums, 0)})
        for name in sums:
            group[name] += 1
    return list(found.values())


_ABSENT = object()


def _value(record: Any, expression: Any) -> Any:
    if isinstance(expression, str) and expression.startswith("$"):
        return _at(record, expression[1:].split("."))
    if not isinstance(expression, dict):
        return expression
    [(operator, operands)] = expression.items()
    first, *rest = (_value(record, operand) for operand in operands)
    if operator == "$ifNull":
        return next((value for value in (first, *rest) if value is not None and value is not _ABSENT), None)
    if operator == "$substrCP":
        if not isinstance(first, str):
            raise BadRequestError("$substrCP requires text here")
        return first[rest[0] : rest[0] + rest[1]]
    raise BadRequestError(f"Unrecognized expression '{operator}'")


def _at(value: Any, parts: list[str]) -> Any:
    """What a path gives in an expression: through a list the list of what is there."""
    if not parts:
        return value
    if isinstance(value, list):
        below = (_at(element, parts) for element in value)
        return [element for element in below if element is not _ABSENT]
    return _at(value[parts[0]], parts[1:]) if isinstance(value, dict) and parts[0] in value else _ABSENT


def _sample(records: list[Record], spec: Any) -> list[Record]:
    size = spec.get("size") if isinstance(spec, dict) else None
    if not isinstance(size, int) or size < 1:
        raise BadRequestError("size argument to $sample must be a positive integer")
    return random.Random(0).sample(records, min(size, len(records)))


_STAGES: dict[str, Callable[[list[Record], Any], list[Record]]] = {
    "$match": _match,
    "$sample": _sample,
    "$sort": _sort,
    "$limit": _limit,
    "$skip": _skip,
    "$project": _project,
    "$count": _count,
    "$group": _group,
}


def _find_pipeline(params: Mapping[str, list[str]]) -> list[Record]:
    """The pipeline that answers the parameters of a `find`."""
    try:
        given: Record = {name: json.loads(values[0]) for name, values in params.items()}
    except json.JSONDecodeError as error:
        raise BadRequestError(f"not JSON: {error}") from error
    pipeline = [{"$match": given.get("filter", {})}]
    stages = {"sort": "$sort", "skip": "$skip", "limit": "$limit", "projection": "$project"}
    return pipeline + [{stage: given[name]} for name, stage in stages.items() if given.get(name)]


class _Server(ThreadingHTTPServer):
    """A thread a connection; all of them end when the server is closed."""

    daemon_threads = False
    block_on_close = True
    request_queue_size = 128

    def __init__(self, gateway: Gateway, context: ssl.SSLContext) -> None:
        self.gateway = gateway
        self._context = context
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        # The handshake waits for the connection's own thread: a client that stalls holds up nobody.
        secured = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        with self._lock:
            self._open.add(secured)
        return secured, address

    def close_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().close_request(request)

    def drop_connections(self) -> None:
        """End connections that clients keep alive."""
        with self._lock:
            for connection in self._open:
                # An error means that the client was first.
                with contextlib.suppress(OSError):
                    # Not the TLS socket's own shutdown, which takes the TLS state from the thread that reads.
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests, not worth a traceback."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    connection: ssl.SSLSocket
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def _handle(self) -> None:
        gateway = self.server.gateway
        released = gateway.released
        text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            body = json.loads(text) if text else None
        except json.JSONDecodeError:
            body = None
        request = RecordedRequest(self.command, self.path, body, time.monotonic(), dict(self.headers))
        is_count = isinstance(body, list) and bool(body) and "$count" in body[-1]
        (gateway.counts if is_count else gateway.requests).append(request)
        faults = gateway.count_faults if is_count else gateway.faults
        entry = faults.pop(0) if faults else None
        fault = (entry(request) if callable(entry) else entry) or Fault()
        if fault.delay:
            released.wait(fault.delay)
        if fault.reset:
            self._reset()
        elif fault.status is None:
            status, payload = gateway.respond(request.method, request.path, request.body)
            self._send(request, status, payload, {}, fault)
        else:
            payload = fault.body.encode() if isinstance(fault.body, str) else fault.body
            self._send(request, fault.status, payload, fault.headers, fault)

    def _send(
        self, request: RecordedRequest, status: int, payload: bytes, headers: Mapping[str, str], fault: Fault
    ) -> None:
        request.status = status
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        if fault.drip:
            self._drip(payload, fault.drip)
        else:
            self.wfile.write(payload[: len(payload) // 2] if fault.truncate else payload)
        if fault.truncate:
            self.close_connection = True

    def _drip(self, payload: bytes, seconds: float) -> None:
        for byte in payload:
            self.wfile.write(bytes([byte]))
            if self.server.gateway.released.wait(seconds):
                break
        self.close_connection = True

    def _reset(self) -> None:
        """Close at once with a TCP reset: lingering for zero seconds."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()
        self.connection.close()

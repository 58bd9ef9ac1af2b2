"""DocDB: the metadata database, queried through its REST gateway."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import requests
from aind_data_access_api.document_db import MetadataDbClient

from job_dispatch import retrying
from job_dispatch.messages import DispatchError, RequestError, ServiceError, counted, logger, printable
from job_dispatch.metadata.matching import Narrowed, narrowed
from job_dispatch.metadata.records import FILES_FIELD, Filter, Record, projection
from job_dispatch.model import Skipped
from job_dispatch.request import flag_values as values
from job_dispatch.request import json_text
from job_dispatch.request.fields import Query
from job_dispatch.request.flag_values import PRODUCTION_HOST, from_environment

# A projected record is below 1 kB, the gateway's payload limit 6 MB; a 413 halves the page all the same.
_RECORDS_A_PAGE = 5_000
_GROUPS_A_PAGE = 10_000
_RESTARTS = 3
_ANSWER_SHOWN = 200
_AUTHORITIES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")

Pipeline = list[dict[str, Any]]


@dataclass(frozen=True)
class DocDb:
    """DocDB, the metadata database: a collection at `https://host/version/database/collection/…`, always over TLS.

    Parameters
    ----------
    host : str
        Host name, with a port if need be; by default that of `DOCDB_HOST` or the Allen Institute's.
    version : str
        Version of the API; by default that of `DOCDB_VERSION` or `v1`.
    database, collection : str
    timeout : float
        Timeout per response, in seconds.

    Examples
    --------
    >>> import job_dispatch as jd
    >>> jd.DocDb(host="docdb.example.org", version="v2")
    DocDb(host='docdb.example.org', version='v2', database='metadata_index', collection='data_assets', timeout=60)
    """

    host: str = field(default_factory=partial(from_environment, "DOCDB_HOST", values.host, PRODUCTION_HOST))
    version: str = field(default_factory=partial(from_environment, "DOCDB_VERSION", values.name, "v1"))
    database: str = "metadata_index"
    collection: str = "data_assets"
    timeout: float = 60

    @property
    def name(self) -> str:
        """What the database is called in messages."""
        return f"DocDB at the Allen Institute ({self.host})" if self.host == PRODUCTION_HOST else f"DocDB {self.host}"

    def open(self, skip_errors: bool = False) -> Records:
        """Return its records; no request is sent yet."""
        return Records(self)


class _TooLargeError(ServiceError):
    """An answer is beyond what the gateway passes on."""


class Records:
    """The records of a collection, through a connection; for one thread."""

    may_name_local_files = False
    is_database = True
    skipped: Sequence[Skipped] = ()

    def __init__(self, address: DocDb) -> None:
        self._name = address.name
        self._connection = _Connection(address)
        # For the count during the pages, which meets the same failures.
        self._second = _Connection(address, is_logged=False)
        self._page_size = _RECORDS_A_PAGE

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()
        self._second.close()

    def _narrowed(self, query: Query) -> Narrowed:
        return narrowed(query, f"{self._name}: @session")

    def find(self, query: Query, fields: Sequence[str] | None) -> Iterator[list[Record]]:
        """Yield pages of records, each record once, with ids as text.

        The API's own `find` is not used: it puts the query into a URL, which the gateway limits to 10,000 characters,
        and silently returns fewer records if an answer is too large. Raises ServiceError if DocDB fails, or returns
        fewer records than it counts.
        """
        parts = self._narrowed(query)
        wanted = None if fields is None else projection([*fields, *parts.fields])
        if wanted and FILES_FIELD in wanted:
            wanted.remove(FILES_FIELD)
        for page in self._pages(parts.sent, wanted):
            yield page if parts.judge is None else list(filter(parts.judge, page))

    def count(self, query: Query, within: float) -> int:
        """Return how many records match."""
        parts = self._narrowed(query)
        if parts.judge is not None:
            return sum(len(page) for page in self.find(query, ()))
        return self._count(self._connection, parts.sent, within)

    def can_count(self, query: Query) -> bool:
        """Tell whether the database can evaluate the whole query."""
        return self._narrowed(query).judge is None

    def count_by(self, query: Query, keys: Mapping[str, Any]) -> Iterator[tuple[Record, int]]:
        """Yield each combination of the values of expressions, and how many records have it.

        Pages are cut from one order, so that each combination comes once.
        """
        sent = self._narrowed(query).sent
        grouped = {"$group": {"_id": dict(keys), "records": {"$sum": 1}}}
        counting: Pipeline = [{"$match": sent}, grouped, {"$sort": {"_id": 1}}]
        start, size = 0, _GROUPS_A_PAGE
        while True:
            try:
                page = self._connection.ask([*counting, {"$skip": start}, {"$limit": size}], sent)
            except _TooLargeError:
                if size == 1:
                    raise
                size //= 2
                continue
            yield from ((one.get("_id") or {}, one["records"]) for one in page)
            if len(page) < size:
                return
            start += size

    def sample(self, query: Query, size: int, within: float) -> list[Record]:
        """Return records drawn at random; fewer if an answer with all of them is too large."""
        sent, deadline = self._narrowed(query).sent, time.monotonic() + within
        while size and (left := deadline - time.monotonic()) > 0:
            try:
                answer = self._connection.ask([{"$match": sent}, {"$sample": {"size": size}}], sent, left)
            except _TooLargeError:
                size //= 2
                continue
            records = [{**record, "_id": _as_text(record.get("_id"))} for record in answer]
            return sorted(records, key=lambda record: record["_id"], reverse=True)
        return []

    def answer(self, pipeline: Pipeline) -> list[Record]:
        """Return the answer to a pipeline, which must fit into one page."""
        return self._connection.ask(pipeline, {})

    def _count(self, connection: _Connection, query: Filter, within: float | None) -> int:
        answer = connection.ask([{"$match": query}, {"$count": "records"}], query, within)
        count = answer[0].get("records") if answer else 0
        if not isinstance(count, int):
            raise ServiceError(f"{self._name}: the answer is not a count: {_shown(answer)}")
        return count

    def _pages(self, query: Filter, fields: Sequence[str] | None) -> Iterator[list[Record]]:
        """Yield pages in the order of the ids: each begins after the last id, or if that does not work, by number.

        MongoDB compares within a type: `$gt` a text finds no ids of another type, although these follow in the order.
        A gateway may print such ids as text, so only the count shows whether all records came.
        """
        counting = retrying.beside(lambda: self._expected(query))
        seen = _Seen(self._name)
        while True:
            is_by_number, size = seen.by_number, self._page_size
            try:
                page = self._page(query, seen, size, fields)
            except _TooLargeError:
                if size == 1:
                    named = ", ".join(_as_text(record["_id"]) for record in self._page(query, seen, 1, ()))
                    raise ServiceError(f"{self._name}: the record {named} is too large for the gateway") from None
                logger.debug("DocDB: a page of %d records is too large; requesting half of them", size)
                self._page_size = size // 2
                continue
            if is_by_number and seen.position:
                if not seen.is_in_place(page):
                    continue
                page = page[1:]
            if new := seen.add(page):
                yield new
            if len(page) == size:
                continue
            expected = counting.result()
            if is_by_number or (expected is not None and len(seen.ids) >= expected):
                break
            seen.go_on_by_number()
        if expected is None:
            logger.warning("%s did not count its records; missing ones would not be noticed", self._name)
        elif len(seen.ids) < expected:
            raise ServiceError(
                f"{self._name}: it counted {counted(expected, 'record')} and returned {len(seen.ids):,};"
                " some may have been removed meanwhile; try again"
            )

    def _expected(self, query: Filter) -> int | None:
        try:
            return self._count(self._second, query, None)
        except DispatchError as error:
            logger.debug("DocDB: the records are not counted: %s", error.headline)
            return None

    def _page(self, query: Filter, seen: _Seen, size: int, fields: Sequence[str] | None) -> list[Record]:
        after: Pipeline = [{"$match": {"_id": {"$gt": seen.last}}}] if seen.last and not seen.by_number else []
        # By number, the last record comes again, which shows whether it still has its place.
        is_overlapping = seen.by_number and seen.position > 0
        skip: Pipeline = [{"$skip": seen.position - 1}] if is_overlapping and seen.position > 1 else []
        project: Pipeline = [] if fields is None else [{"$project": {"_id": 1, **dict.fromkeys(fields, 1)}}]
        limit = size + is_overlapping
        pipeline = [{"$match": query}, *after, {"$sort": {"_id": 1}}, *skip, {"$limit": limit}, *project]
        page = self._connection.ask(pipeline, query)
        if any(record.get("_id") is None for record in page):
            raise ServiceError(f"{self._name}: the answer holds records without an _id: {_shown(page)}")
        return page


@dataclass
class _Seen:
    """The records of the database `name` that came so far, and where the next page begins."""

    name: str
    ids: set[str] = field(default_factory=set)
    # The last id: the next page begins after it, unless pages go by number, then after `position` records.
    last: str = ""
    by_number: bool = False
    position: int = 0
    # How often the reading started again.
    restarts: int = 0

    def is_in_place(self, page: Sequence[Record]) -> bool:
        """Tell whether a page begins with the last record of the page before it.

        If it is another one, records were removed or added meanwhile, or pages do not advance: reading starts again.
        """
        if page and _as_text(page[0]["_id"]) == self.last:
            return True
        self.restarts += 1
        if self.restarts > _RESTARTS:
            raise ServiceError(
                f"{self.name}: records change while they are read, or pages do not advance beyond the record"
                f" {self.last}; try again"
            )
        self.position = 0
        return False

    def add(self, page: Sequence[Record]) -> list[Record]:
        """Return the new records of a page, with ids as text."""
        new: list[Record] = []
        for record in page:
            self.last = _as_text(record["_id"])
            if self.last not in self.ids:
                self.ids.add(self.last)
                new.append({**record, "_id": self.last})
        if self.by_number:
            self.position += len(page)
        elif len(new) < len(page) or not all(isinstance(record["_id"], str) for record in page):
            self.go_on_by_number()
        return new

    def go_on_by_number(self) -> None:
        """Begin the next page after as many records as came."""
        self.by_number, self.position = True, len(self.ids)


def _as_text(record_id: object) -> str:
    """Return an id as in job files: of extended JSON such as `{"$oid": "…"}`, its value."""
    if isinstance(record_id, dict) and len(record_id) == 1:
        [(name, value)] = record_id.items()
        if name.startswith("$") and isinstance(value, str):
            return value
    return record_id if isinstance(record_id, str) else json_text.compact(record_id)


class _Connection:
    """A connection to one collection, with timeouts and retries, which may be logged; for one query at a time."""

    def __init__(self, address: DocDb, is_logged: bool = True) -> None:
        name = next((name for name in _AUTHORITIES if os.environ.get(name)), "")
        if name and not Path(os.environ[name]).exists():
            raise RequestError(
                f"environment variable {name}: no such file: {os.environ[name]}; give the PEM file of the trusted"
                " authorities, or unset the variable"
            )
        self._address, self._name = address, address.name
        self._is_logged, self._is_closed, self._was_reached = is_logged, False, False
        self._session = retrying.Session(address.timeout)
        self._client = MetadataDbClient(
            address.host, address.database, address.collection, address.version, session=self._session
        )

    def close(self) -> None:
        """Close the connection; requests under way are not retried."""
        self._is_closed = True
        self._session.close()

    def ask(self, pipeline: Pipeline, query: Filter, within: float | None = None) -> list[Record]:
        """Return the answer to a pipeline. Every request to DocDB passes here.

        RequestError if DocDB refuses the query; _TooLargeError, or another ServiceError if it does not answer, or not
        with records.
        """
        self._session.limit = within
        service = "DocDB" if self._is_logged else None
        try:
            answer = retrying.retried(lambda: self._post(pipeline), service, within, self._was_reached)
        except requests.HTTPError as error:
            if retrying.status(error) == requests.codes.request_entity_too_large:
                raise _TooLargeError(f"{self._name}: HTTP 413: the answer is too large for the gateway") from error
            raise self._refused(error, query) from error
        except requests.JSONDecodeError as error:
            raise self._not_json() from error
        except (requests.RequestException, OSError) as error:
            told = retrying.service_error(error, self._name, ", or allow more by --docdb_timeout", "--docdb_host")
            if self._was_reached or self._address.host != PRODUCTION_HOST:
                raise told from error
            # Who did not ask for the Allen Institute's database can do without it.
            own = "for assets of your own, --metadata_catalog takes a folder or a bucket"
            raise ServiceError(f"{told.headline}; {own}") from error
        except (ValueError, RecursionError) as error:  # numbers or lists without end
            raise self._not_json() from error
        if not isinstance(answer, list) or not all(isinstance(one, dict) for one in answer):
            raise ServiceError(f"{self._name}: the answer is not a list of records: {_shown(answer)}")
        return list(answer)

    def _post(self, pipeline: Pipeline) -> object:
        if self._is_closed:
            raise ServiceError(f"{self._name}: the connection is closed")
        try:
            return self._client.aggregate_docdb_records(pipeline)
        finally:
            self._was_reached = self._session.answer.status_code is not None

    def _not_json(self) -> ServiceError:
        text = printable(self._session.answer.text, _ANSWER_SHOWN)
        return ServiceError(f"{self._name}: the answer is not JSON: {text}")

    def _refused(self, error: requests.HTTPError, query: Filter) -> RequestError | ServiceError:
        status, response = retrying.status(error), error.response
        message = printable(response.text if response is not None else "", _ANSWER_SHOWN) or "no reason given"
        if status == requests.codes.bad_request:
            return RequestError(f"{self._name} refuses the query: {message}", [f"query: {json_text.compact(query)}"])
        wait = retrying.retry_after(error)
        asks = f", which asks to wait {wait:,.0f} s (Retry-After)" if wait is not None else ""
        return ServiceError(f"{self._name}: HTTP {status}{asks}: {message}")


def _shown(answer: object) -> str:
    """Return the start of an answer as text."""
    return printable(json_text.compact(answer), _ANSWER_SHOWN)

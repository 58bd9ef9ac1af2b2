"""DocDB: the metadata database, asked through its REST gateway."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import requests
from aind_data_access_api.document_db import MetadataDbClient

from job_dispatch.messages import RequestError, ServiceError, logger, printable
from job_dispatch.metadata import retrying
from job_dispatch.metadata.narrowing import narrowed
from job_dispatch.metadata.records import Filter, Record, projection
from job_dispatch.request import json_text

# A projected record is below 1 kB, the gateway's payload limit 6 MB; a 413 halves the page all the same.
_RECORDS_A_PAGE = 5_000
_GROUPS_A_PAGE = 10_000
_ANSWER_SHOWN = 200


class DocDb:
    """The records of one collection.

    Parameters
    ----------
    host : str
        Host name, with a port if need be; always asked over TLS.
    version, database, collection : str
        Parts of the address: `https://host/version/database/collection/…`.
    timeout : float
        Seconds that one request may take to answer.
    """

    may_name_local_files = False

    def __init__(self, host: str, version: str, database: str, collection: str, timeout: float) -> None:
        self._host = host
        self._session = _Session(timeout)
        self._client = MetadataDbClient(host, database, collection, version, session=self._session)
        self._page_size = _RECORDS_A_PAGE

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._session.close()

    def find(self, query: Filter, fields: Sequence[str]) -> Iterator[list[Record]]:
        """Yield pages of records by keyset: each page asks for what comes after the last `_id` seen.

        `find` of the API is not used: it puts the query into a URL, which the gateway cuts at 10,000
        characters, and silently returns fewer records where an answer would be too large.
        """
        asked = narrowed(query, f"DocDB {self._host}: @session")
        for page in self._pages(asked.asked, projection([*fields, *asked.fields])):
            yield page if asked.judge is None else list(filter(asked.judge, page))

    def _pages(self, query: Filter, fields: Sequence[str]) -> Iterator[list[Record]]:
        last = ""
        while True:
            size = self._page_size
            page = self._page(query, last, size, fields)
            if page is None:
                self._page_size = self._smaller_page(size, query, last)
                continue
            if page:
                yield page
            if len(page) < size:
                return
            if page[-1]["_id"] <= last:
                raise ServiceError(f"DocDB {self._host}: pages do not advance beyond the record {last}")
            last = page[-1]["_id"]

    def count(self, query: Filter, within: float) -> int:
        """Return how many records match."""
        asked = narrowed(query, f"DocDB {self._host}: @session")
        if asked.judge is not None:
            return sum(len(page) for page in self.find(query, ()))
        query = asked.asked
        answer = self._ask([{"$match": query}, {"$count": "records"}], query, within)
        if answer is None:
            raise ServiceError(f"DocDB {self._host}: HTTP 413 for a count")
        count = answer[0].get("records") if answer else 0
        if not isinstance(count, int):
            raise ServiceError(f"DocDB {self._host}: the answer is not a count: {_start(json_text.compact(answer))}")
        return count

    def can_count(self, query: Filter) -> bool:
        """Tell whether the database can evaluate the whole query."""
        return narrowed(query, f"DocDB {self._host}: @session").judge is None

    def count_by(self, query: Filter, keys: Mapping[str, Any]) -> Iterator[tuple[Record, int]]:
        """Yield each combination of the values of expressions, and how many records have it.

        Pages are cut from one order, so that no combination is told twice or never.
        """
        asked = narrowed(query, f"DocDB {self._host}: @session").asked
        grouped = {"$group": {"_id": dict(keys), "records": {"$sum": 1}}}
        counting: list[dict[str, Any]] = [{"$match": asked}, grouped, {"$sort": {"_id": 1}}]
        start, size = 0, _GROUPS_A_PAGE
        while True:
            page = self._ask([*counting, {"$skip": start}, {"$limit": size}], query)
            if page is None and size == 1:
                raise ServiceError(f"DocDB {self._host}: one count alone is larger than the gateway can answer")
            if page is None:
                size //= 2
                continue
            yield from ((one.get("_id") or {}, one["records"]) for one in page)
            if len(page) < size:
                return
            start += size

    def sample(self, query: Filter, size: int, within: float) -> list[Record]:
        """Return the records with the greatest `_id`, fewer than asked for where they are too large to answer."""
        query = narrowed(query, f"DocDB {self._host}: @session").asked
        deadline = time.monotonic() + within
        while size and (left := deadline - time.monotonic()) > 0:
            answer = self._ask([{"$match": query}, {"$sort": {"_id": -1}}, {"$limit": size}], query, left)
            if answer is not None:
                return answer
            size //= 2
        return []

    def answer(self, pipeline: list[dict[str, Any]]) -> list[Record]:
        """Return what a pipeline gives, where that is less than a page."""
        answer = self._ask(pipeline, {})
        if answer is None:
            raise ServiceError(f"DocDB {self._host}: HTTP 413: the answer is larger than the gateway can give")
        return answer

    def _page(self, query: Filter, last: str, size: int, fields: Sequence[str]) -> list[Record] | None:
        """Return the page after the record `last`, or None where the answer was too large for the gateway."""
        after: list[dict[str, Any]] = [{"$match": {"_id": {"$gt": last}}}] if last else []
        pipeline = [{"$match": query}, *after, {"$sort": {"_id": 1}}, {"$limit": size}]
        page = self._ask([*pipeline, {"$project": {"_id": 1, **dict.fromkeys(fields, 1)}}], query)
        if page is not None and not all(isinstance(record.get("_id"), str) for record in page):
            shown = _start(json_text.compact(page))
            raise ServiceError(f"DocDB {self._host}: the answer holds records without an _id: {shown}")
        return page

    def _smaller_page(self, size: int, query: Filter, last: str) -> int:
        if size > 1:
            logger.debug("DocDB: a page of %d records is too large; asking for half of them", size)
            return size // 2
        page = self._page(query, last, 1, ())
        named = page[0]["_id"] if page else "unknown"
        raise ServiceError(f"DocDB {self._host}: the record {named} alone is larger than the gateway can answer")

    def _ask(self, pipeline: list[dict[str, Any]], query: Filter, within: float | None = None) -> list[Record] | None:
        """Run a pipeline, or return None where the answer was too large: every call to DocDB passes here."""
        try:
            answer = self._answer(pipeline, within)
        except requests.HTTPError as error:
            if retrying.status(error) == requests.codes.request_entity_too_large:
                return None
            raise self._refused(error, query) from error
        except requests.JSONDecodeError as error:
            raise self._not_json() from error
        except requests.exceptions.SSLError as error:
            raise ServiceError(
                f"DocDB {self._host}: no trusted connection; REQUESTS_CA_BUNDLE may name another authority"
            ) from error
        except requests.Timeout as error:
            raise ServiceError(
                f"DocDB {self._host}: no answer in time; try again, or allow more by --docdb_timeout"
            ) from error
        except requests.RequestException as error:
            raise ServiceError(f"DocDB {self._host}: no connection; check --docdb_host and the network") from error
        except (ValueError, RecursionError) as error:  # numbers or lists without end
            raise self._not_json() from error
        if not isinstance(answer, list) or not all(isinstance(one, dict) for one in answer):
            shown = _start(json_text.compact(answer))
            raise ServiceError(f"DocDB {self._host}: the answer is not a list of records: {shown}")
        return list(answer)

    def _answer(self, pipeline: list[dict[str, Any]], within: float | None) -> object:
        """Post a pipeline, and again where that may help: `aggregate` only reads."""
        self._session.limit = within
        return retrying.retried(lambda: self._client.aggregate_docdb_records(pipeline), "DocDB", within)

    def _not_json(self) -> ServiceError:
        return ServiceError(f"DocDB {self._host}: the answer is not JSON: {_start(self._session.answer.text)}")

    def _refused(self, error: requests.HTTPError, query: Filter) -> RequestError | ServiceError:
        status, response = retrying.status(error), error.response
        message = _start(response.text if response is not None else "") or "no reason given"
        if status == requests.codes.bad_request:
            return RequestError(
                f"DocDB {self._host} refuses the query: {message}", [f"query: {json_text.compact(query)}"]
            )
        wait = retrying.retry_after(error)
        asks = f", which asks to wait {wait:,.0f} s (Retry-After)" if wait is not None else ""
        return ServiceError(f"DocDB {self._host}: HTTP {status}{asks}: {message}")


class _Session(requests.Session):
    """Gives each request a timeout, since the client library sets none.

    Parameters
    ----------
    timeout : float
        Seconds to wait for an answer; fewer where `limit` is set. `answer` is the last one.
    """

    def __init__(self, timeout: float) -> None:
        super().__init__()
        self._timeout = timeout
        self.limit: float | None = None
        self.answer = requests.Response()

    def request(self, *args: Any, **options: Any) -> requests.Response:
        longest = self._timeout if self.limit is None else min(self._timeout, self.limit)
        options.setdefault("timeout", (min(retrying.CONNECT_SECONDS, longest), longest))
        # A redirect might lead to an address without TLS.
        response = super().request(*args, **{**options, "allow_redirects": False})
        if response.is_redirect:
            raise requests.HTTPError("redirected", response=response)
        self.answer = response
        return response


def _start(text: str) -> str:
    return printable(text, _ANSWER_SHOWN)

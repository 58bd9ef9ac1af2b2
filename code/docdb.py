"""DocDB: the metadata database, asked through its REST gateway."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import requests
from aind_data_access_api.document_db import MetadataDbClient

import json_text
from messages import RequestError, ServiceError, logger, printable
from records import Filter, Record

_TIMEOUT_SECONDS = (10.0, 60.0)
# A projected record is below 1 kB, the gateway's payload limit 6 MB; a 413 halves the page all the same.
_RECORDS_A_PAGE = 5_000
_ANSWER_SHOWN = 200


class DocDb:
    """The records of one collection.

    Parameters
    ----------
    host : str
        Host name, with a port if need be; always asked over TLS.
    version, database, collection : str
        Parts of the address: `https://host/version/database/collection/…`.
    """

    may_name_local_files = False

    def __init__(self, host: str, version: str, database: str, collection: str) -> None:
        self._host = host
        self._session = _Session()
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
        after: list[dict[str, Any]] = []
        while True:
            size = self._page_size
            page = self._page(query, after, size, fields)
            if page is None:
                self._page_size = self._smaller_page(size, query, after)
                continue
            if page:
                yield page
            if len(page) < size:
                return
            after = [{"$match": {"_id": {"$gt": page[-1]["_id"]}}}]

    def count(self, query: Filter, within: float) -> int:
        """Return how many records match."""
        answer = self._ask([{"$match": query}, {"$count": "records"}], query, within) or []
        count = answer[0].get("records") if answer else 0
        if not isinstance(count, int):
            raise ServiceError(f"DocDB {self._host}: the answer is not a count: {_start(json_text.compact(answer))}")
        return count

    def sample(self, query: Filter, size: int, within: float) -> list[Record]:
        """Return the records with the greatest `_id`, fewer than asked for where they are too large to answer."""
        while size:
            answer = self._ask([{"$match": query}, {"$sort": {"_id": -1}}, {"$limit": size}], query, within)
            if answer is not None:
                return answer
            size //= 2
        return []

    def _page(
        self, query: Filter, after: list[dict[str, Any]], size: int, fields: Sequence[str]
    ) -> list[Record] | None:
        """Return one page, or None where the answer was too large for the gateway."""
        pipeline = [{"$match": query}, *after, {"$sort": {"_id": 1}}, {"$limit": size}]
        page = self._ask([*pipeline, {"$project": {"_id": 1, **dict.fromkeys(fields, 1)}}], query)
        if page is not None and not all(isinstance(record.get("_id"), str) for record in page):
            shown = _start(json_text.compact(page))
            raise ServiceError(f"DocDB {self._host}: the answer holds records without an _id: {shown}")
        return page

    def _smaller_page(self, size: int, query: Filter, after: list[dict[str, Any]]) -> int:
        if size > 1:
            logger.debug("DocDB: a page of %d records is too large; asking for half of them", size)
            return size // 2
        page = self._page(query, after, 1, ())
        named = page[0]["_id"] if page else "unknown"
        raise ServiceError(f"DocDB {self._host}: the record {named} alone is larger than the gateway can answer")

    def _ask(self, pipeline: list[dict[str, Any]], query: Filter, within: float | None = None) -> list[Record] | None:
        """Run a pipeline, or return None where the answer was too large: every call to DocDB passes here."""
        try:
            with self._session.limited(within):
                answer = self._client.aggregate_docdb_records(pipeline)
        except requests.HTTPError as error:
            response = error.response
            if response is not None and response.status_code == requests.codes.request_entity_too_large:
                return None
            raise self._refused(response, query) from error
        except requests.JSONDecodeError as error:
            raise ServiceError(f"DocDB {self._host}: the answer is not JSON: {_start(error.doc)}") from error
        except requests.exceptions.SSLError as error:
            raise ServiceError(
                f"DocDB {self._host}: its certificate is not trusted; REQUESTS_CA_BUNDLE may name another authority"
            ) from error
        except requests.Timeout as error:
            raise ServiceError(f"DocDB {self._host}: no answer in time; try again") from error
        except requests.RequestException as error:
            raise ServiceError(f"DocDB {self._host}: no connection; check --docdb_host and the network") from error
        if not isinstance(answer, list) or not all(isinstance(one, dict) for one in answer):
            shown = _start(json_text.compact(answer))
            raise ServiceError(f"DocDB {self._host}: the answer is not a list of records: {shown}")
        return list(answer)

    def _refused(self, response: requests.Response | None, query: Filter) -> RequestError | ServiceError:
        if response is None:
            return ServiceError(f"DocDB {self._host}: no answer")
        message = _start(response.text) or str(response.reason)
        if response.status_code == requests.codes.bad_request:
            return RequestError(
                f"DocDB {self._host} refuses the query: {message}", [f"query: {json_text.compact(query)}"]
            )
        return ServiceError(f"DocDB {self._host}: HTTP {response.status_code}: {message}")


class _Session(requests.Session):
    """Gives each request a timeout, since the client library sets none."""

    def __init__(self) -> None:
        super().__init__()
        self._timeout = _TIMEOUT_SECONDS

    @contextmanager
    def limited(self, seconds: float | None) -> Iterator[None]:
        """Give requests at most this long to answer."""
        connect, read = _TIMEOUT_SECONDS
        if seconds is not None:
            self._timeout = (min(connect, seconds), min(read, seconds))
        try:
            yield
        finally:
            self._timeout = _TIMEOUT_SECONDS

    def request(self, *args: Any, **options: Any) -> requests.Response:
        options.setdefault("timeout", self._timeout)
        return super().request(*args, **options)


def _start(text: str) -> str:
    return printable(text, _ANSWER_SHOWN)

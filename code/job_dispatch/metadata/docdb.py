"""DocDB: the metadata database, asked through its REST gateway."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from job_dispatch import retrying
from job_dispatch.messages import DispatchError, RequestError, ServiceError, counted, logger
from job_dispatch.metadata.docdb_access import Connection, Pipeline, shown
from job_dispatch.metadata.narrowing import Narrowed, narrowed
from job_dispatch.metadata.records import Filter, Record, projection
from job_dispatch.request import json_text

# A projected record is below 1 kB, the gateway's payload limit 6 MB; a 413 halves the page all the same.
_RECORDS_A_PAGE = 5_000
_GROUPS_A_PAGE = 10_000


class DocDb:
    """The records of one collection.

    Parameters
    ----------
    host : str
        Host name, with a port if need be; always asked over TLS.
    version, database, collection : str
        Parts of the address: `https://host/version/database/collection/…`.
    timeout : float
        Seconds that one answer may take altogether.
    """

    may_name_local_files = False

    def __init__(self, host: str, version: str, database: str, collection: str, timeout: float) -> None:
        self._host = host
        self._connection = Connection(host, version, database, collection, timeout)
        # For the count beside the pages, which meets the same failures.
        self._second = Connection(host, version, database, collection, timeout, is_told=False)
        self._page_size = _RECORDS_A_PAGE

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()
        self._second.close()

    def find(self, query: Filter, fields: Sequence[str]) -> Iterator[list[Record]]:
        """Yield pages of records, each record once, with ids as text.

        `find` of the API is not used: it puts the query into a URL, which the gateway cuts at 10,000
        characters, and silently returns fewer records where an answer would be too large.

        Raises
        ------
        ServiceError
            DocDB fails, or gives fewer records than it counts.
        """
        asked = self._narrowed(query)
        for page in self._pages(asked.asked, projection([*fields, *asked.fields])):
            yield page if asked.judge is None else list(filter(asked.judge, page))

    def count(self, query: Filter, within: float) -> int:
        """Return how many records match."""
        asked = self._narrowed(query)
        if asked.judge is not None:
            return sum(len(page) for page in self.find(query, ()))
        return self._count(self._connection, asked.asked, within)

    def can_count(self, query: Filter) -> bool:
        """Tell whether the database can evaluate the whole query."""
        return self._narrowed(query).judge is None

    def count_by(self, query: Filter, keys: Mapping[str, Any]) -> Iterator[tuple[Record, int]]:
        """Yield each combination of the values of expressions, and how many records have it.

        Pages are cut from one order, so that no combination is told twice or never.
        """
        asked = self._narrowed(query).asked
        grouped = {"$group": {"_id": dict(keys), "records": {"$sum": 1}}}
        counting: Pipeline = [{"$match": asked}, grouped, {"$sort": {"_id": 1}}]
        start, size = 0, _GROUPS_A_PAGE
        while True:
            page = self._connection.ask([*counting, {"$skip": start}, {"$limit": size}], query)
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
        """Return records drawn at random, fewer than asked for where they are too large to answer."""
        asked, deadline = self._narrowed(query).asked, time.monotonic() + within
        draws = True
        while size and (left := deadline - time.monotonic()) > 0:
            drawn: Pipeline = [{"$sample": {"size": size}}] if draws else [{"$sort": {"_id": -1}}, {"$limit": size}]
            try:
                answer = self._connection.ask([{"$match": asked}, *drawn], asked, left)
            except RequestError:
                if not draws:
                    raise
                draws = False  # of a server that does not know how, the greatest ids
                continue
            if answer is not None:
                records = [{**record, "_id": as_text(record.get("_id"))} for record in answer]
                return sorted(records, key=lambda record: record["_id"], reverse=True)
            size //= 2
        return []

    def answer(self, pipeline: Pipeline) -> list[Record]:
        """Return what a pipeline gives, where that is less than a page."""
        answer = self._connection.ask(pipeline, {})
        if answer is None:
            raise ServiceError(f"DocDB {self._host}: HTTP 413: the answer is larger than the gateway can give")
        return answer

    def _narrowed(self, query: Filter) -> Narrowed:
        return narrowed(query, f"DocDB {self._host}: @session")

    def _count(self, connection: Connection, query: Filter, within: float | None) -> int:
        answer = connection.ask([{"$match": query}, {"$count": "records"}], query, within)
        if answer is None:
            raise ServiceError(f"DocDB {self._host}: HTTP 413 for a count")
        count = answer[0].get("records") if answer else 0
        if not isinstance(count, int):
            raise ServiceError(f"DocDB {self._host}: the answer is not a count: {shown(answer)}")
        return count

    def _pages(self, query: Filter, fields: Sequence[str]) -> Iterator[list[Record]]:
        """Yield pages in the order of the ids: after the last id seen, or where that does not serve, by number.

        MongoDB compares by type: after a text come no ids of another type, although they follow in the order. A
        gateway may print such ids as text, so whether that was all is told by the count.
        """
        counting = retrying.beside(lambda: self._expected(query))
        seen = _Seen(self._host)
        while True:
            is_by_number, size = seen.by_number, self._page_size
            page = self._page(query, seen, size, fields)
            if page is None:
                self._page_size = self._smaller_page(size, query, seen)
                continue
            new = seen.add(page)
            if new:
                yield new
            if len(page) == size:
                if is_by_number and not new:
                    raise ServiceError(f"DocDB {self._host}: pages do not advance beyond the record {seen.last}")
                continue
            expected = counting.result()
            if is_by_number or (expected is not None and len(seen.ids) >= expected):
                break
            seen.go_on_by_number()
        if expected is None:
            logger.warning("DocDB %s did not count its records; that some are missing would not be noticed", self._host)
        elif len(seen.ids) < expected:
            raise ServiceError(
                f"DocDB {self._host}: it counted {counted(expected, 'record')} and gave {len(seen.ids):,};"
                " some may have been removed meanwhile; try again"
            )

    def _expected(self, query: Filter) -> int | None:
        try:
            return self._count(self._second, query, None)
        except DispatchError as error:
            logger.debug("DocDB: the records are not counted: %s", error.headline)
            return None

    def _page(self, query: Filter, seen: _Seen, size: int, fields: Sequence[str]) -> list[Record] | None:
        """Return the page after what was seen, or None where the answer was too large for the gateway."""
        after: Pipeline = [{"$match": {"_id": {"$gt": seen.last}}}] if seen.last and not seen.by_number else []
        skip: Pipeline = [{"$skip": seen.position}] if seen.by_number and seen.position else []
        pipeline: Pipeline = [{"$match": query}, *after, {"$sort": {"_id": 1}}, *skip, {"$limit": size}]
        page = self._connection.ask([*pipeline, {"$project": {"_id": 1, **dict.fromkeys(fields, 1)}}], query)
        if page is not None and any(record.get("_id") is None for record in page):
            raise ServiceError(f"DocDB {self._host}: the answer holds records without an _id: {shown(page)}")
        return page

    def _smaller_page(self, size: int, query: Filter, seen: _Seen) -> int:
        if size > 1:
            logger.debug("DocDB: a page of %d records is too large; asking for half of them", size)
            return size // 2
        page = self._page(query, seen, 1, ())
        named = as_text(page[0]["_id"]) if page else "unknown"
        raise ServiceError(f"DocDB {self._host}: the record {named} alone is larger than the gateway can answer")


@dataclass
class _Seen:
    """Which records came, in the order of their ids, and where the next page begins.

    Parameters
    ----------
    host : str
    ids : dict
        The ids as text, each with its JSON.
    last : str
        The last id; the next page is what comes after it, unless pages go by number.
    by_number : bool
    position : int
        Where pages go by number: how many records come before the next one.
    """

    host: str
    ids: dict[str, str] = field(default_factory=dict)
    last: str = ""
    by_number: bool = False
    position: int = 0

    def add(self, page: Sequence[Record]) -> list[Record]:
        """Return the records of a page that did not come before, with ids as text."""
        new: list[Record] = []
        for record in page:
            text, written = as_text(record["_id"]), json_text.compact(record["_id"])
            if text not in self.ids:
                self.ids[text] = written
                new.append({**record, "_id": text})
            elif self.ids[text] != written:
                raise ServiceError(
                    f"DocDB {self.host}: two records have the _id {text}, as {written} and {self.ids[text]}"
                )
            self.last = text
        if self.by_number:
            self.position += len(page)
        elif len(new) < len(page) or not all(isinstance(record["_id"], str) for record in page):
            self.go_on_by_number()
        return new

    def go_on_by_number(self) -> None:
        """Begin the next page after as many records as came: all before it in the order came."""
        self.by_number, self.position = True, len(self.ids)


def as_text(record_id: object) -> str:
    """Return an id as job files carry it: extended JSON such as `{"$oid": "…"}` by what it holds."""
    if isinstance(record_id, dict) and len(record_id) == 1:
        [(name, value)] = record_id.items()
        if name.startswith("$") and isinstance(value, str):
            return value
    return record_id if isinstance(record_id, str) else json_text.compact(record_id)

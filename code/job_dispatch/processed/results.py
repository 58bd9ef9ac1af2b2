"""What is done already: jobs whose results are in the results database."""

from __future__ import annotations

import collections
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from job_dispatch.jobs.building import Job
from job_dispatch.messages import RequestError, ServiceError
from job_dispatch.processed.code_ocean import Wrapper
from job_dispatch.processed.record_names import record_names

# Two names a job make a body of 68 kB, and an answer of at most 100 kB.
_JOBS_A_REQUEST = 500
_AT_ONCE = 8
_VERSION = "v1"  # always, in the library of the wrapper
_DATABASE = "analysis"

Names = tuple[str, str]
_Batch = list[tuple[Job, Names | None]]


class ResultsDatabase:
    """The records of results, found as the wrapper finds them: by `DOCDB_HOST`, `DOCDB_DATABASE`, `DOCDB_COLLECTION`.

    Parameters
    ----------
    host : str
        Asked where `DOCDB_HOST` is not set.
    timeout : float
        Seconds that one answer may take.

    Raises
    ------
    RequestError
        The collection is not set.
    """

    def __init__(self, host: str, timeout: float) -> None:
        collection = os.environ.get("DOCDB_COLLECTION")
        if not collection:
            raise RequestError("--skip_processed: DOCDB_COLLECTION, the collection of the results, is not set")
        database = os.environ.get("DOCDB_DATABASE") or _DATABASE
        self._place = (os.environ.get("DOCDB_HOST") or host, _VERSION, database, collection, timeout)
        self._of_thread = threading.local()

    def __str__(self) -> str:
        host, _, database, collection, _ = self._place
        return f"{database}/{collection} of {host}"

    def found(self, names: Sequence[str]) -> set[str]:
        """Return those of these names that have a record, by one request.

        Raises
        ------
        ServiceError
            The database does not answer, or refuses.
        """
        from job_dispatch.metadata.docdb import DocDb

        # A client is for one thread.
        client: DocDb | None = getattr(self._of_thread, "client", None)
        if client is None:
            client = self._of_thread.client = DocDb(*self._place)
        try:
            records = client.answer([{"$match": {"name": {"$in": list(names)}}}, {"$project": {"name": 1}}])
        except (RequestError, ServiceError) as error:
            raise ServiceError(f"the results database {self} cannot be asked: {error.headline}") from error
        return {str(record.get("name")) for record in records}


class Unprocessed:
    """Those of the jobs that have no results yet, in their order.

    Many are asked for by one request, and several requests are under way: few at first, so that a cap on the number
    of jobs costs no more than it must.

    Parameters
    ----------
    jobs : iterable of Job
    wrapper : Wrapper
    fixed : dict or None
        The fixed parameters of all jobs.
    database : ResultsDatabase
    leave_out : callable
        Called with each job that is processed already.
    """

    def __init__(
        self,
        jobs: Iterable[Job],
        wrapper: Wrapper,
        fixed: Mapping[str, Any] | None,
        database: ResultsDatabase,
        leave_out: Callable[[Job], None],
    ) -> None:
        self._jobs, self._wrapper, self._fixed = iter(jobs), wrapper, fixed
        self._database, self._leave_out = database, leave_out
        self.undecided = 0
        """How many jobs were let through since the names of their records cannot be known."""

    def __iter__(self) -> Iterator[Job]:
        waiting: collections.deque[tuple[_Batch, Future[set[str]] | None]] = collections.deque()
        pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="results")
        try:
            for at_once in itertools.chain([1, 2, 4], itertools.repeat(_AT_ONCE)):
                while len(waiting) < at_once and (batch := self._next_batch()):
                    names = [name for _, both in batch if both for name in both]
                    waiting.append((batch, pool.submit(self._database.found, names) if names else None))
                if not waiting:
                    return
                batch, answer = waiting.popleft()
                yield from self._undone(batch, answer.result() if answer else set())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def names(self, job: Job) -> Names | None:
        """Return what the record of a job's results will be named, None where that cannot be known."""
        locations = [asset.location for asset in job.group.assets]
        files = None if job.files is None else [file.address for file in job.files]
        return record_names(self._wrapper, locations, files, self._fixed, job.parameter_set)

    def _next_batch(self) -> _Batch:
        return [(job, self.names(job)) for job in itertools.islice(self._jobs, _JOBS_A_REQUEST)]

    def _undone(self, batch: _Batch, done: set[str]) -> Iterator[Job]:
        for job, names in batch:
            if names is not None and not done.isdisjoint(names):
                self._leave_out(job)
            else:
                self.undecided += names is None
                yield job

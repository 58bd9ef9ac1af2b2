"""Which jobs remain: not those that are excluded, nor those that have been done, as the results database says."""

from __future__ import annotations

import collections
import hashlib
import itertools
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from job_dispatch import failures
from job_dispatch.jobs.building import Job, Jobs, excluding
from job_dispatch.jobs.model import analysis_code
from job_dispatch.messages import RequestError, ServiceError, counted, logger, warn_listing
from job_dispatch.model import Reason, Skipped
from job_dispatch.processed.code_ocean import Wrapper
from job_dispatch.request.selection import Exclusions, report_unmatched

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

# Two names a job make a body of 68 kB, and an answer of at most 100 kB.
_JOBS_A_REQUEST = 500
_AT_ONCE = 8
_LISTINGS_AT_ONCE = 16
_VERSION = "v1"  # always, in the library of the wrapper
_DATABASE = "analysis"
# What the wrapper takes from its command line for itself.
_OF_THE_WRAPPER = ("dry_run", "input_directory")
_OPEN_DATA = re.compile(r"s3://aind-open-data/([^/]+)(/.*)?$")
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_. -]*")
_WORDS_OF_OTHER_TYPES = frozenset(
    ["true", "false", "t", "f", "y", "n", "yes", "no", "on", "off", "none", "null", "nan", "inf", "infinity"]
)

Names = tuple[str, ...]
_Batch = list[tuple[Job | Skipped, Names | None]]


def record_names(
    wrapper: Wrapper,
    locations: Sequence[str],
    files: Sequence[str] | None,
    fixed: Mapping[str, Any] | None,
    parameter_set: Mapping[str, Any] | None,
) -> Names | None:
    """Return the names that the record of a job's results may have: each is the hash of the code that the job runs.

    There are two for each way to write the version, since `aind-data-schema` 2.8 added fields that enter the hash.

    Returns
    -------
    tuple of str or None
        None where the names cannot be known: the wrapper's panel gives a value that the wrapper converts to a type
        which only the wrapper knows.
    """
    told = analysis_code(wrapper.code, locations, files, fixed, parameter_set)
    assert told is not None, "the code is known"
    parameters = _merged(told["parameters"], wrapper.arguments, files, fixed, parameter_set)
    if parameters is None:
        return None
    urls = [asset["url"] for asset in told["input_data"]]
    versions = (told["version"], *wrapper.other_versions)
    return tuple(
        hashlib.sha256(to_json(record, inf_nan_mode="null")).hexdigest()
        for version in versions
        for record in _records({**told, "version": version}, urls, parameters)
    )


def _merged(
    parameters: dict[str, Any],
    arguments: Mapping[str, str],
    files: Sequence[str] | None,
    fixed: Mapping[str, Any] | None,
    parameter_set: Mapping[str, Any] | None,
) -> dict[str, Any] | None:
    """Return what the wrapper makes of a job's parameters and its own command line, None where that is not known."""
    replaced = {*_OF_THE_WRAPPER, *(parameter_set or {}), *(("file_location",) if files else ())}
    effective = {name: text for name, text in arguments.items() if name not in replaced}
    if not all(name not in (fixed or {}) and _is_text(text) for name, text in effective.items()):
        return None
    # They are added in the order of the fields of the analysis, which only the wrapper knows.
    if sum(name not in parameters for name in effective) > 1:
        return None
    return {**parameters, **effective}


def _is_text(value: str) -> bool:
    return bool(_WORD.fullmatch(value)) and value.lower() not in _WORDS_OF_OTHER_TYPES


def _records(code: Mapping[str, Any], urls: Sequence[str], parameters: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the code as `aind-data-schema` writes it from 2.8 on, and as it did before; the order of keys counts."""
    record = {
        "object_type": "Code",
        "url": code["url"],
        "name": code["name"],
        "version": code["version"],
        "commit_hash": None,
        "container": None,
        "run_script": code["run_script"],
        "language": None,
        "language_version": None,
        "input_data": [{"object_type": "Data asset", "name": _asset_name(url), "url": url} for url in urls],
        "parameters": parameters,
        "core_dependency": None,
    }
    yield record
    old = {**record, "input_data": [{"object_type": "Data asset", "url": url} for url in urls]}
    del old["commit_hash"]
    yield old


def _asset_name(url: str) -> str | None:
    match = _OPEN_DATA.match(url)
    return match[1] if match else None


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
        from job_dispatch.metadata.docdb import DocDb

        collection = os.environ.get("DOCDB_COLLECTION")
        if not collection:
            raise RequestError("--skip_processed: DOCDB_COLLECTION, the collection of the results, is not set")
        database = os.environ.get("DOCDB_DATABASE") or _DATABASE
        self._address = DocDb(os.environ.get("DOCDB_HOST") or host, _VERSION, database, collection, timeout)
        self._of_thread = threading.local()

    def __str__(self) -> str:
        return f"{self._address.database}/{self._address.collection} of {self._address.host}"

    def found(self, names: Sequence[str]) -> set[str]:
        """Return those of these names that have a record, by one request.

        Raises
        ------
        ServiceError
            The database does not answer, or refuses.
        """
        from job_dispatch.metadata.docdb import Records

        # A client is for one thread.
        client: Records | None = getattr(self._of_thread, "client", None)
        if client is None:
            client = self._of_thread.client = self._address.open()
        try:
            records = client.answer([{"$match": {"name": {"$in": list(names)}}}, {"$project": {"name": 1}}])
        except (RequestError, ServiceError) as error:
            raise ServiceError(f"the results database {self} cannot be asked: {error.headline}") from error
        return {str(record.get("name")) for record in records}


class Unprocessed:
    """Lets jobs through that have no results yet, in their order.

    One request asks for many jobs, and several requests are under way: few at first, so that a cap on the number
    of jobs costs no more than it must.

    Parameters
    ----------
    wrapper : Wrapper
    fixed : dict or None
        The fixed parameters of all jobs.
    database : ResultsDatabase
    """

    def __init__(self, wrapper: Wrapper, fixed: Mapping[str, Any] | None, database: ResultsDatabase) -> None:
        self._wrapper, self._fixed, self._database = wrapper, fixed, database
        self.undecided = 0
        """How many jobs were let through since the names of their records cannot be known."""

    def of(self, jobs: Iterable[Job | Skipped]) -> Iterator[Job | Skipped]:
        """Yield the jobs without results, and a `Skipped` for each of the others; what is skipped already passes."""
        batches = self._batches(iter(jobs))
        waiting: collections.deque[tuple[_Batch, Future[set[str]] | None]] = collections.deque()
        pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="results")
        try:
            for at_once in itertools.chain([1, 2, 4], itertools.repeat(_AT_ONCE)):
                while len(waiting) < at_once and (batch := next(batches, None)):
                    names = [name for _, all_names in batch for name in all_names or ()]
                    waiting.append((batch, pool.submit(self._database.found, names) if names else None))
                if not waiting:
                    return
                batch, answer = waiting.popleft()
                yield from self._judged(batch, answer.result() if answer else set())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def names(self, job: Job) -> Names | None:
        """Return what the record of a job's results may be named, None where that cannot be known."""
        locations = [asset.location for asset in job.group.assets]
        files = None if job.files is None else [file.address for file in job.files]
        return record_names(self._wrapper, locations, files, self._fixed, job.parameter_set)

    def _batches(self, jobs: Iterator[Job | Skipped]) -> Iterator[_Batch]:
        while batch := list(itertools.islice(jobs, _JOBS_A_REQUEST)):
            yield [(one, None if isinstance(one, Skipped) else self.names(one)) for one in batch]

    def _judged(self, batch: _Batch, done: set[str]) -> Iterator[Job | Skipped]:
        for one, names in batch:
            if isinstance(one, Skipped):
                yield one
            elif names is not None and not done.isdisjoint(names):
                yield Skipped.of_job(Reason.PROCESSED, one.name, one.group.assets)
            else:
                self.undecided += names is None
                yield one


def existing_folders(bucket: str, names: Iterable[str]) -> set[str]:
    """Return those of these names that are folders at the top of a bucket, by few listings.

    A wrapper refuses to write where there is one. The folders are listed in pages of a thousand, each beginning at the
    first name that is not yet decided, so that there are no more listings than names, nor than pages; names that begin
    with other characters are looked for at the same time.

    Raises
    ------
    RequestError
        AWS is configured in a way that boto3 refuses.
    ServiceError
        The bucket cannot be listed.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    from job_dispatch.storage.access import find_access

    parts = [list(part) for _, part in itertools.groupby(sorted(set(names)), key=lambda name: name[:1])]
    try:
        client = find_access()[0].client(bucket)
        with ThreadPoolExecutor(_LISTINGS_AT_ONCE) as pool:
            return set().union(*pool.map(lambda part: _existing(client, bucket, part), parts))
    except (BotoCoreError, ClientError) as error:
        raise ServiceError(f"s3://{bucket} cannot be listed: {error}") from error


def _existing(client: S3Client, bucket: str, names: Sequence[str]) -> set[str]:
    """Look for sorted names that have their first character in common."""
    found: set[str] = set()
    while names:
        page = client.list_objects_v2(Bucket=bucket, Prefix=names[0][:1], Delimiter="/", StartAfter=names[0])
        folders = [prefix["Prefix"].rstrip("/") for prefix in page.get("CommonPrefixes", [])]
        found.update(set(names).intersection(folders))
        if not page["IsTruncated"]:
            break
        last = max([*folders, *(one["Key"] for one in page.get("Contents", []))])
        names = [name for name in names if name > last]
    return found


class Remaining:
    """Lets jobs through that remain to be done: to be called with all jobs.

    Parameters
    ----------
    exclusions : Exclusions
    fixed : dict or None
        The fixed parameters of all jobs.
    unprocessed : Unprocessed or None
        None where processed jobs are done again.
    """

    def __init__(self, exclusions: Exclusions, fixed: dict[str, Any] | None, unprocessed: Unprocessed | None) -> None:
        self._exclusions, self._fixed, self._unprocessed = exclusions, fixed, unprocessed
        self._known: set[str] = set()
        self._changed = 0

    def __call__(self, jobs: Iterable[Job]) -> Iterator[Job | Skipped]:
        """Yield the jobs that remain in their order, and a `Skipped` for each of the others."""
        remaining = map(self._judged, jobs)
        return remaining if self._unprocessed is None else self._unprocessed.of(remaining)

    def _judged(self, job: Job) -> Job | Skipped:
        if job.name not in self._exclusions.jobs:
            return job
        self._known.add(job.name)
        skipped = excluding(job, self._exclusions.jobs, self._fixed)
        self._changed += skipped is None
        return skipped or job

    def warn(self, jobs: Jobs) -> None:
        """Report what `--exclude` did not match; warn of jobs that may be processed already or cannot succeed."""
        if self._changed:
            changed = counted(self._changed, "job that is done has", "jobs that are done have")
            logger.info("--exclude: %s another input now, so not excluded", changed)
        if jobs.left_off is None:
            places = {name: job.place for name, job in self._exclusions.jobs.items()}
            report_unmatched(places, self._known, ("job", "jobs"), "job of this run")
        if self._unprocessed is None:
            return
        if undecided := self._unprocessed.undecided:
            logger.warning(
                "--skip_processed: whether %s were processed is left to the wrapper: its app panel gives parameters"
                " whose values only it knows",
                counted(undecided, "job"),
            )
        if bucket := os.environ.get("ANALYSIS_BUCKET"):
            _warn_of_folders(bucket, jobs, self._unprocessed)


def leave_out_processed(
    exclusions: Exclusions,
    wrapper: Wrapper | None,
    fixed: dict[str, Any] | None,
    database: ResultsDatabase | None,
) -> Remaining | None:
    """Return what lets the remaining jobs through; None where all remain.

    Parameters
    ----------
    exclusions : Exclusions
    wrapper : Wrapper or None
        The code that will run the jobs, where it is known.
    fixed : dict or None
        The fixed parameters of all jobs.
    database : ResultsDatabase or None
        Where processed jobs are recorded; None where they are done again.
    """
    unprocessed = None if wrapper is None or database is None else Unprocessed(wrapper, fixed, database)
    return Remaining(exclusions, fixed, unprocessed) if exclusions.jobs or unprocessed else None


def _warn_of_folders(bucket: str, jobs: Jobs, unprocessed: Unprocessed) -> None:
    by_name = {name: job for job in jobs.planned for name in unprocessed.names(job) or ()}
    try:
        folders = existing_folders(bucket, by_name)
    except BaseException as error:
        reason = failures.explained(error).headline
        logger.warning("ANALYSIS_BUCKET: whether folders in it block jobs is not known: %s", reason)
        return
    if folders:
        warn_listing(
            f"ANALYSIS_BUCKET: {counted(len(folders), 'folder')} without a record of results will stop their jobs"
            " (S3 path … already exists); look at them and remove them:",
            [f"s3://{bucket}/{name} of job {by_name[name].name}" for name in sorted(folders)],
        )

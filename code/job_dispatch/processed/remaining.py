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

from job_dispatch import failures
from job_dispatch.jobs.building import Job, Jobs, excluding
from job_dispatch.jobs.code import analysis_code
from job_dispatch.messages import RequestError, ServiceError, counted, logger, warn_listing
from job_dispatch.model import Reason, Skipped
from job_dispatch.processed.code_ocean import Wrapper
from job_dispatch.request.selection import Exclusions, report_unmatched

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

    from job_dispatch.metadata.docdb import Records

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


def record_names(
    wrapper: Wrapper,
    locations: Sequence[str],
    files: Sequence[str] | None,
    fixed: Mapping[str, Any] | None,
    parameter_set: Mapping[str, Any] | None,
) -> Names | None:
    """Return the names that the record of a job's results may have: each is the hash of the code that the job runs.

    There are two for each way to write the version, since `aind-data-schema` 2.8 added fields that enter the hash. None
    where the wrapper's panel gives a value that the wrapper converts to a type which only the wrapper knows.
    """
    from pydantic_core import to_json  # as the wrapper does; loaded here since pydantic takes 0.1 s

    told = analysis_code(wrapper.code, locations, files, fixed, parameter_set)
    assert told is not None, "the code is known"
    replaced = {*_OF_THE_WRAPPER, *(parameter_set or {}), *(("file_location",) if files else ())}
    given = {name: text for name, text in wrapper.arguments.items() if name not in replaced}
    if any(name in (fixed or {}) or not _is_text(text) for name, text in given.items()):
        return None
    # They are added in the order of the fields of the analysis, which only the wrapper knows.
    if sum(name not in told["parameters"] for name in given) > 1:
        return None
    parameters = {**told["parameters"], **given}
    urls = [asset["url"] for asset in told["input_data"]]
    return tuple(
        hashlib.sha256(to_json(record, inf_nan_mode="null")).hexdigest()
        for version in (told["version"], *wrapper.other_versions)
        for record in _records({**told, "version": version}, urls, parameters)
    )


def _is_text(value: str) -> bool:
    return bool(_WORD.fullmatch(value)) and value.lower() not in _WORDS_OF_OTHER_TYPES


def _records(code: Mapping[str, Any], urls: Sequence[str], parameters: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the code as `aind-data-schema` writes it from 2.8 on, and as it did before; the order of keys counts."""
    names = [match[1] if (match := _OPEN_DATA.match(url)) else None for url in urls]
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
        "input_data": [
            {"object_type": "Data asset", "name": name, "url": url} for name, url in zip(names, urls, strict=True)
        ],
        "parameters": parameters,
        "core_dependency": None,
    }
    yield record
    del record["commit_hash"]
    yield {**record, "input_data": [{"object_type": "Data asset", "url": url} for url in urls]}


class ResultsDatabase:
    """The records of results, found as the wrapper finds them: by `DOCDB_HOST`, `DOCDB_DATABASE`, `DOCDB_COLLECTION`.

    `host` is asked where `DOCDB_HOST` is not set; one answer may take `timeout` seconds. RequestError if the collection
    is not set.
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
        """Return those of these names that have a record, by one request; ServiceError if it fails."""
        if not names:
            return set()
        # A client is for one thread.
        client: Records | None = getattr(self._of_thread, "client", None)
        if client is None:
            client = self._of_thread.client = self._address.open()
        try:
            records = client.answer([{"$match": {"name": {"$in": list(names)}}}, {"$project": {"name": 1}}])
        except (RequestError, ServiceError) as error:
            raise ServiceError(f"the results database {self} cannot be asked: {error.headline}") from error
        return {str(record.get("name")) for record in records}


class Remaining:
    """Lets jobs through that remain to be done: to be called with all jobs.

    Those that `exclusions` name stay out; and, where there is a `database`, those that have results in it. `wrapper` is
    the code that will run the jobs, and `fixed` are the fixed parameters of all jobs.
    """

    def __init__(
        self,
        exclusions: Exclusions,
        wrapper: Wrapper | None,
        fixed: dict[str, Any] | None,
        database: ResultsDatabase | None,
    ) -> None:
        self._exclusions, self._wrapper, self._fixed, self._database = exclusions, wrapper, fixed, database
        self._known: set[str] = set()
        self._changed = 0
        # Jobs that were let through since the names of their records cannot be known.
        self._undecided = 0

    def __call__(self, jobs: Iterable[Job]) -> Iterator[Job | Skipped]:
        """Yield the jobs that remain in their order, and a `Skipped` for each of the others."""
        remaining = map(self._unless_excluded, jobs)
        return remaining if self._database is None else self._unprocessed(remaining, self._database)

    def _unless_excluded(self, job: Job) -> Job | Skipped:
        if job.name not in self._exclusions.jobs:
            return job
        self._known.add(job.name)
        skipped = excluding(job, self._exclusions.jobs, self._fixed)
        self._changed += skipped is None
        return skipped or job

    def _unprocessed(self, jobs: Iterator[Job | Skipped], database: ResultsDatabase) -> Iterator[Job | Skipped]:
        """Let jobs without results through.

        One request asks for many jobs, and several requests are under way: few at first, so that a cap on the number
        of jobs costs no more than it must.
        """
        batches = iter(lambda: list(itertools.islice(jobs, _JOBS_A_REQUEST)), [])
        waiting: collections.deque[tuple[list[tuple[Job | Skipped, Names | None]], Future[set[str]]]] = (
            collections.deque()
        )
        pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="results")
        try:
            for at_once in itertools.chain([1, 2, 4], itertools.repeat(_AT_ONCE)):
                while len(waiting) < at_once and (batch := next(batches, None)):
                    named = [(one, None if isinstance(one, Skipped) else self._names(one)) for one in batch]
                    asked = [name for _, names in named for name in names or ()]
                    waiting.append((named, pool.submit(database.found, asked)))
                if not waiting:
                    return
                named, answer = waiting.popleft()
                done = answer.result()
                for one, names in named:
                    if isinstance(one, Job) and not done.isdisjoint(names or ()):
                        yield Skipped.of_job(Reason.PROCESSED, one.name, one.group.assets)
                    else:
                        self._undecided += isinstance(one, Job) and names is None
                        yield one
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _names(self, job: Job) -> Names | None:
        """Return what the record of a job's results may be named, None where that cannot be known."""
        assert self._wrapper is not None, "it is asked for where there is a database"
        locations = [asset.location for asset in job.group.assets]
        files = None if job.files is None else [file.address for file in job.files]
        return record_names(self._wrapper, locations, files, self._fixed, job.parameter_set)

    def warn(self, jobs: Jobs) -> None:
        """Report what `--exclude` did not match; warn of jobs that may be processed already or cannot succeed."""
        if self._changed:
            changed = counted(self._changed, "job that is done has", "jobs that are done have")
            logger.info("--exclude: %s another input now, so not excluded", changed)
        if jobs.left_off is None:
            places = {name: job.place for name, job in self._exclusions.jobs.items()}
            report_unmatched(places, self._known, ("job", "jobs"), "job of this run")
        if self._undecided:
            logger.warning(
                "--skip_processed: whether %s were processed is left to the wrapper: its app panel gives parameters"
                " whose values only it knows",
                counted(self._undecided, "job"),
            )
        if self._database is not None and (bucket := os.environ.get("ANALYSIS_BUCKET")):
            self._warn_of_folders(bucket, jobs)

    def _warn_of_folders(self, bucket: str, jobs: Jobs) -> None:
        by_name = {name: job for job in jobs.planned for name in self._names(job) or ()}
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


def leave_out_processed(
    exclusions: Exclusions, wrapper: Wrapper | None, fixed: dict[str, Any] | None, database: ResultsDatabase | None
) -> Remaining | None:
    """Return what lets the remaining jobs through, see `Remaining`; None where all remain."""
    return Remaining(exclusions, wrapper, fixed, database) if exclusions.jobs or database else None


def existing_folders(bucket: str, names: Iterable[str]) -> set[str]:
    """Return those of these names that are folders at the top of a bucket, by few listings.

    A wrapper refuses to write where there is one. The folders are listed in pages of a thousand, each beginning at the
    first name that is not yet decided, so that there are no more listings than names, nor than pages; names that begin
    with other characters are looked for at the same time. ServiceError if the bucket cannot be listed.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    from job_dispatch.storage.access import find_access
    from job_dispatch.storage.clients import BadAnswerError

    parts = [list(part) for _, part in itertools.groupby(sorted(set(names)), key=lambda name: name[:1])]
    try:
        client = find_access()[0].client(bucket)
        with ThreadPoolExecutor(_LISTINGS_AT_ONCE) as pool:
            return set().union(*pool.map(lambda part: _existing(client, bucket, part), parts))
    except (BotoCoreError, ClientError) as error:
        raise ServiceError(f"s3://{bucket} cannot be listed: {error}") from error
    except BadAnswerError as error:
        raise ServiceError(f"s3://{bucket} cannot be listed: the answer {error}") from error


def _existing(client: S3Client, bucket: str, names: Sequence[str]) -> set[str]:
    """Look for sorted names that have their first character in common."""
    from job_dispatch.storage.clients import NO_ADVANCE, BadAnswerError, check_listing

    found: set[str] = set()
    while names:
        answer = client.list_objects_v2(Bucket=bucket, Prefix=names[0][:1], Delimiter="/", StartAfter=names[0])
        page = check_listing(answer)
        folders = [prefix["Prefix"].rstrip("/") for prefix in page.get("CommonPrefixes", [])]
        found.update(set(names).intersection(folders))
        if not page["IsTruncated"]:
            break
        last = max([*folders, *(one["Key"] for one in page.get("Contents", []))], default="")
        if last < names[0]:
            raise BadAnswerError(NO_ADVANCE)
        names = [name for name in names if name > last]
    return found

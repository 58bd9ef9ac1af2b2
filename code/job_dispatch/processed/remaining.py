"""Which jobs remain: not those that are excluded, nor those that are processed already."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from job_dispatch import failures
from job_dispatch.jobs.building import Job, Jobs, excluding
from job_dispatch.messages import counted, logger, warn_listing
from job_dispatch.model import Skipped
from job_dispatch.processed.code_ocean import Wrapper
from job_dispatch.processed.results import ResultsDatabase, Unprocessed
from job_dispatch.request.selection import Exclusions, report_unmatched


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
    from job_dispatch.processed.results import existing_folders

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

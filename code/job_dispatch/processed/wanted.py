"""Which of the jobs are to be run: not those that are excluded, nor those that are processed already."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from job_dispatch import failures
from job_dispatch.jobs.building import Job, Jobs, Plan
from job_dispatch.left_out import LeftOut
from job_dispatch.messages import counted, logger, warn_listing
from job_dispatch.processed.code_ocean import Wrapper
from job_dispatch.processed.results import ResultsDatabase, Unprocessed
from job_dispatch.request.exclusions import Exclusions

EXCLUDED, PROCESSED = "excluded", "processed already"


class Wanted:
    """The jobs that are left, and what is to be said of them.

    Parameters
    ----------
    jobs : Jobs
    exclusions : Exclusions
    left_out : LeftOut
        Takes up those that are not wanted, as they are come to.
    wrapper : Wrapper or None
        The code that will run them, where it is known.
    database : ResultsDatabase or None
        Where processed jobs are recorded; None where they are wanted all the same.
    """

    def __init__(
        self,
        jobs: Jobs,
        exclusions: Exclusions,
        left_out: LeftOut,
        wrapper: Wrapper | None,
        database: ResultsDatabase | None,
    ) -> None:
        self._left_out = left_out
        self._unprocessed: Unprocessed | None = None
        self.jobs: Iterable[Job] = jobs
        """`jobs` itself where nothing is to be left out."""
        if exclusions.jobs:
            self.jobs = self._not_excluded(jobs, exclusions)
        if wrapper is not None and database is not None:
            fixed = jobs.parameters.fixed
            self.jobs = self._unprocessed = Unprocessed(self.jobs, wrapper, fixed, database, self._leave_out_processed)

    def _not_excluded(self, jobs: Iterable[Job], exclusions: Exclusions) -> Iterator[Job]:
        for job in jobs:
            if job.name in exclusions.jobs:
                self._left_out.add_job(EXCLUDED, job.name, job.group.assets, f"excluded by {exclusions.place}")
            else:
                yield job

    def _leave_out_processed(self, job: Job) -> None:
        self._left_out.add_job(PROCESSED, job.name, job.group.assets)

    def tell(self, plan: Plan) -> None:
        """Log what is left to the wrapper's decision, and warn of jobs in a plan that cannot succeed."""
        if self._unprocessed is None:
            return
        if undecided := self._unprocessed.undecided:
            logger.warning(
                "--skip_processed: whether %s were processed is left to the wrapper: its app panel gives parameters"
                " whose values only it knows",
                counted(undecided, "job"),
            )
        if bucket := os.environ.get("ANALYSIS_BUCKET"):
            _warn_of_folders(bucket, plan, self._unprocessed)


def _warn_of_folders(bucket: str, plan: Plan, unprocessed: Unprocessed) -> None:
    from job_dispatch.processed.results import existing_folders

    jobs = {name: job for job in plan.jobs for name in unprocessed.names(job) or ()}
    try:
        folders = existing_folders(bucket, jobs)
    except BaseException as error:
        reason = failures.explained(error).headline
        logger.warning("ANALYSIS_BUCKET: whether folders in it block jobs is not known: %s", reason)
        return
    if folders:
        warn_listing(
            f"ANALYSIS_BUCKET: {counted(len(folders), 'folder')} without a record of results will stop their jobs"
            " (S3 path … already exists); look at them and remove them:",
            [f"s3://{bucket}/{name} of job {jobs[name].name}" for name in sorted(folders)],
        )

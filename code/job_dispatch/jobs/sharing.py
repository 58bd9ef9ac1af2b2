"""Which jobs go into which worker folder."""

from __future__ import annotations

import heapq
import itertools
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from job_dispatch.jobs.building import Jobs
from job_dispatch.messages import RequestError, counted, logger, progress

Shares = Sequence[Sequence[int]]

_WORKERS = 50


def is_in_pipeline() -> bool:
    """Tell whether this runs in a pipeline of Code Ocean, where each entry of the output folder starts a wrapper."""
    return bool(os.environ.get("CO_PIPELINE_ID"))


@dataclass(frozen=True)
class Folders:
    """How jobs are shared out over worker folders.

    Parameters
    ----------
    shares : sequence of sequence of int
        The numbers of the jobs of each folder.
    sizes : sequence of int
        The bytes by which jobs were balanced, one per job; empty where they were balanced by count.
    """

    shares: Shares = ()
    sizes: Sequence[int] = ()


def share_out(
    jobs: Jobs, workers: int | None = None, *, tasks_per_job: int | None = None, balance: str = "count"
) -> Folders:
    """Return which jobs each worker folder gets, balanced by their `count` or by their `size` in bytes.

    If neither number is given, there are at most 50 folders, but in a pipeline of Code Ocean one folder per job:
    released wrappers leave the files of the first job of a folder in the results of the second.
    """
    if balance not in ("count", "size"):
        raise RequestError(f"--balance: {balance!r} is neither count nor size")
    sizes = known_sizes([job.size for job in jobs.planned]) if balance == "size" else []
    if is_in_pipeline():
        decided = "the default in a pipeline; --tasks_per_job and --num_parallel_workers change it"
        if tasks_per_job:
            decided = f"--tasks_per_job={tasks_per_job}"
        elif workers:
            decided = f"--num_parallel_workers={workers}"
        else:
            tasks_per_job = 1
        logger.info("jobs per worker folder: %s (%s)", tasks_per_job or "shared out evenly", decided)
    at_most = workers or _WORKERS
    made = share_by_size(sizes, at_most, tasks_per_job) if sizes else share(len(jobs), at_most, tasks_per_job)
    if is_in_pipeline() and any(len(one) > 1 for one in made):
        logger.warning(
            "worker folders hold more than one job: released analysis wrappers leave the files of the first in the"
            " results of the second; --tasks_per_job=1 gives each job its own folder"
        )
    return Folders(made, sizes)


def share(number_of_jobs: int, num_parallel_workers: int, tasks_per_job: int | None) -> Shares:
    """Return the numbers of the jobs of each worker folder: contiguous, balanced to within one, no folder empty.

    Parameters
    ----------
    number_of_jobs : int
    num_parallel_workers : int
        Maximum number of folders.
    tasks_per_job : int or None
        Maximum number of jobs per folder; overrides `num_parallel_workers`.
    """
    folders = -(-number_of_jobs // tasks_per_job) if tasks_per_job else min(num_parallel_workers, number_of_jobs)
    bounds = [number_of_jobs * folder // folders for folder in range(folders + 1)] if folders else []
    return [range(start, end) for start, end in itertools.pairwise(bounds)]


def share_by_size(sizes: Sequence[int], num_parallel_workers: int, tasks_per_job: int | None) -> Shares:
    """Return the numbers of the jobs of each worker folder: each job, the largest first, goes to the least loaded one.

    Graham's LPT rule: the heaviest folder is at most 4/3 of the least possible. There are as many folders as
    `share` makes, none is empty, and each holds at most `tasks_per_job`. Ties go to the folder with fewer jobs,
    then to the lower number.
    """
    folders: list[list[int]] = [[] for _ in share(len(sizes), num_parallel_workers, tasks_per_job)]
    loads = [(0, 0, folder) for folder in range(len(folders))]
    with progress("sharing out", "jobs", len(sizes)) as shown:
        for number in sorted(range(len(sizes)), key=lambda number: (-sizes[number], number)):
            load, jobs, folder = heapq.heappop(loads)
            folders[folder].append(number)
            if jobs + 1 != tasks_per_job:
                heapq.heappush(loads, (load + sizes[number], jobs + 1, folder))
            shown.advance()
    return [sorted(folder) for folder in folders]


def known_sizes(sizes: Sequence[int | None]) -> list[int]:
    """Replace each unknown size by the median of the known ones, with a warning; return no sizes if none is known."""
    known = [size for size in sizes if size is not None]
    if len(known) == len(sizes):
        return known
    if not known:
        logger.warning("--balance=size: no size is known; balancing by count instead")
        return []
    median = int(statistics.median(known))
    unknown = counted(len(sizes) - len(known), "job")
    logger.warning("--balance=size: %s of unknown size counted as the median, %s bytes", unknown, f"{median:,}")
    return [median if size is None else size for size in sizes]

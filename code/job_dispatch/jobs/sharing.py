"""Worker folders: which jobs each gets, and writing them."""

from __future__ import annotations

import heapq
import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from job_dispatch.jobs import output_folder
from job_dispatch.jobs.building import Jobs
from job_dispatch.jobs.output_folder import is_in_pipeline
from job_dispatch.messages import RequestError, counted, logger, showing_progress
from job_dispatch.messages import progress as progress_of

Shares = Sequence[Sequence[int]]

_WORKERS = 50


@dataclass(frozen=True)
class Folders:
    """How jobs are shared out: the numbers of the jobs of each worker folder.

    `sizes` are the bytes by which jobs were balanced, one per job; empty where they were balanced by count.
    """

    shares: Shares = ()
    sizes: Sequence[int] = ()


def write(
    jobs: Jobs,
    directory: str | PathLike[str],
    workers: int | None = None,
    *,
    tasks_per_job: int | None = None,
    balance: str = "count",
    overwrite: bool = False,
    progress: bool | None = None,
) -> list[Path]:
    """Write jobs into numbered worker folders, all or none.

    Parameters
    ----------
    jobs : Jobs
    directory : path
        The output folder; made if it is missing.
    workers : int, optional
        Largest number of worker folders; by default 50.
    tasks_per_job : int, optional
        Jobs per worker folder (overrides `workers`).
    balance : {"count", "size"}
        Share jobs out by their number, or by bytes.
    overwrite : bool
        Replace the worker folders of an earlier run.
    progress : bool, optional
        Show progress; by default in a terminal and in a notebook.

    Returns
    -------
    list of pathlib.Path
        The worker folders.

    Raises
    ------
    RequestError
        The output folder holds worker folders of an earlier run, or something else in their place.
    ServiceError
        The disk is full or fails; no worker folder is left.

    Examples
    --------
    >>> import job_dispatch as jd
    >>> jobs = jd.plan(jd.locate(jd.select(jd.Catalog("catalog.jsonl"), subject="643634")))
    >>> [folder.name for folder in jd.write(jobs, "results", workers=2)]
    ['0', '1']
    """
    folder = Path(directory).expanduser()
    with showing_progress(progress), output_folder.locked(folder, overwrite) as output:
        folders = share_out(jobs, workers, tasks_per_job=tasks_per_job, balance=balance)
        output_folder.write(output, jobs, folders.shares)
    return [folder / str(number) for number in range(len(folders.shares))]


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

    There are at most `num_parallel_workers` folders or, where it is given, at most `tasks_per_job` jobs in each.
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
    with progress_of("sharing out", "jobs", len(sizes)) as shown:
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

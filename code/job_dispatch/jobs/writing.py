"""Writing jobs into numbered worker folders."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from job_dispatch.jobs import output_folder
from job_dispatch.jobs.building import Jobs
from job_dispatch.jobs.sharing import share_out
from job_dispatch.messages import showing_progress


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
        output_folder.write(output, jobs, folders)
    return [folder / str(number) for number in range(len(folders.shares))]

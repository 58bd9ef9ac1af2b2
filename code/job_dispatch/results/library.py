"""`run`, `status` and `read_results`: what the verbs of the command do, as Python functions.

The jobs are started by a process apart: one that has threads, as a notebook has, cannot be forked safely, and its
signals, its children and its log are its own.
"""

from __future__ import annotations

import contextlib
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from job_dispatch import messages, stopping
from job_dispatch.messages import DispatchError, RequestError, ServiceError
from job_dispatch.results import analysis as analysis_file
from job_dispatch.results import gathering, page, running
from job_dispatch.results.running import Order
from job_dispatch.results.status import RunStatus, frame, write_table

if TYPE_CHECKING:
    import pandas as pd

# It imports from where the caller does.
_APART = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer);"
    " from job_dispatch.results import library; library.run_apart(pickle.load(sys.stdin.buffer))"
)


def run(
    analysis: str | PathLike[str],
    *folders: str | PathLike[str],
    workers: int | None = None,
    timeout: float | None = None,
    only: str | None = None,
    again: bool = False,
    output: str | PathLike[str] = gathering.FOLDER,
    set: Mapping[str, Any] | None = None,
    metadata_catalog: str | PathLike[str] | None = None,
    progress: bool | None = None,
) -> RunStatus:
    """Run an analysis on the jobs of a dispatch on this machine, each in a process of its own.

    Called again, it runs what is not done: new jobs, failed ones, and those whose input, analysis or parameters
    changed. At its end it writes the table and the page of all results. `KeyboardInterrupt` ends all jobs; what is
    done stays.

    Parameters
    ----------
    analysis : path
        Python file with the function `analyse(job, parameters, results)`.
    *folders : path
        Output folders of a dispatch, worker folders, or job files.
    workers : int, optional
        Jobs at a time; by default the cores of this machine.
    timeout : float, optional
        Minutes after which a job is ended.
    only : str, optional
        `failed`: failed and killed jobs; `new`: jobs that were never run, and changed ones.
    again : bool
        Run all jobs, also those that are done.
    output : path
        Folder of the results.
    set : mapping, optional
        Parameters for all jobs; they replace fixed ones, and distributed ones replace them.
    metadata_catalog : path, optional
        The catalog that a dispatch saved, which gives `job.metadata` whole records.
    progress : bool, optional
        Show progress; by default in a terminal and in a notebook.

    Returns
    -------
    RunStatus
        How the run stands. Jobs that failed are no error.

    Raises
    ------
    RequestError
        There are no jobs, or the analysis cannot be imported or has no function `analyse`.

    Examples
    --------
    >>> import job_dispatch as jd
    >>> from pathlib import Path
    >>> text = "def analyse(job, parameters, results): return {'bytes': len(job.open().read())}"
    >>> _ = Path("analysis.py").write_text(text)
    >>> cohort = jd.select(jd.Catalog("catalog.jsonl"), subject="643634")
    >>> _ = jd.write(jd.plan(jd.locate(cohort, endings=".csv")), "jobs")
    >>> jd.run("analysis.py", "jobs", workers=2).counts
    {'done': 1, 'failed': 0, 'running': 0, 'left': 0}
    """
    path = Path(analysis)
    analysis_file.check_file(path)
    if only not in (None, "failed", "new") or (only and again):
        raise RequestError("run: only is 'failed' or 'new', and not both only and again can be given")
    if not folders:
        raise RequestError("run: no folder of jobs; give the output folder of a dispatch")
    for name, number in (("workers", workers), ("timeout", timeout)):
        if number is not None and not 0 < number < float("inf"):
            raise RequestError(f"run: {name}={number} is not above 0")
    order = Order(
        path.absolute(),
        list(map(Path, folders)),
        Path(output),
        workers or running.cores(),
        "all" if again else only or "open",
        analysis_file.plain(dict(set or {})),
        timeout,
        catalog=None if metadata_catalog is None else Path(metadata_catalog),
    )
    with messages.showing_progress(progress):
        _run(order)
    results = gathering.gather(order.results)
    write_table(results)
    page.write(results)
    return RunStatus(results)


def status(folder: str | PathLike[str] = gathering.FOLDER) -> RunStatus:
    """Return which jobs are done, failed, running and left, and how long the rest will take.

    Parameters
    ----------
    folder : path
        What `run` wrote, or what the Nextflow pipeline published.

    Raises
    ------
    RequestError
        There is no job in it.

    Examples
    --------
    >>> import job_dispatch as jd
    >>> from pathlib import Path
    >>> text = "def analyse(job, parameters, results): raise ValueError('no licks')"
    >>> _ = Path("analysis.py").write_text(text)
    >>> cohort = jd.select(jd.Catalog("catalog.jsonl"), subject="643634")
    >>> _ = jd.write(jd.plan(jd.locate(cohort, endings=".csv")), "jobs")
    >>> _ = jd.run("analysis.py", "jobs", progress=False)
    >>> stands = jd.status("analysis_results")
    >>> stands.counts, stands.failed[0].reason
    ({'done': 0, 'failed': 1, 'running': 0, 'left': 0}, 'ValueError: no licks')
    """
    return RunStatus(gathering.gather(Path(folder)))


def read_results(folder: str | PathLike[str] = gathering.FOLDER) -> pd.DataFrame:
    """Return the table of results as a data frame: one row per job, also for those that failed or are left.

    It has the columns of `table.csv`, and `day`. Values are those that the analysis returned. `session` is a date-time
    in UTC, `day` the local date of the session; both are missing where a job has several sessions.

    Parameters
    ----------
    folder : path
        What `run` wrote, or what the Nextflow pipeline published.

    Raises
    ------
    RequestError
        There is no job in it.

    Examples
    --------
    >>> import job_dispatch as jd
    >>> from pathlib import Path
    >>> text = "def analyse(job, parameters, results): return {'bytes': len(job.open().read())}"
    >>> _ = Path("analysis.py").write_text(text)
    >>> cohort = jd.select(jd.Catalog("catalog.jsonl"), subject="643634")
    >>> _ = jd.write(jd.plan(jd.locate(cohort, endings=".csv")), "jobs")
    >>> _ = jd.run("analysis.py", "jobs")
    >>> jd.read_results("analysis_results")[["subject", "day", "bytes"]].values.tolist()
    [['643634', datetime.date(2024, 9, 12), 32]]
    """
    return frame(gathering.gather(Path(folder)))


def _run(order: Order) -> None:
    """Let a process apart run the jobs, and end it with all jobs if this is interrupted."""
    with (
        tempfile.TemporaryFile() as complaints,
        # In a session of its own: Ctrl-C reaches this process alone, which then ends that one.
        subprocess.Popen(
            [sys.executable, "-c", _APART],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            start_new_session=True,
        ) as process,
    ):
        assert process.stdin
        assert process.stdout
        try:
            with contextlib.suppress(BrokenPipeError):  # it ended early
                process.stdin.write(pickle.dumps(list(map(str, sys.path))))
                process.stdin.write(pickle.dumps(order))
                process.stdin.flush()
            answers = _answers(process.stdout)
            with messages.progress("running jobs", "jobs", next(answers, 0)) as shown:
                for _ in answers:
                    shown.advance()
        except BaseException:
            process.kill()
            process.wait()
            running.wait_for_the_end(order.results, order.run)
            raise
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        if process.wait():
            complaints.seek(0)
            last = complaints.read().decode("utf-8", "replace").strip().rpartition("\n")[2]
            raise ServiceError(f"the process that runs the jobs ended early: {last or process.returncode}")


def _answers(pipe: IO[bytes]) -> Iterator[Any]:
    """Yield what the process apart answers until it ends; raise the error that ended the run."""
    while True:
        try:
            answer = pickle.load(pipe)
        except (EOFError, pickle.UnpicklingError):
            return
        if isinstance(answer, DispatchError):
            raise answer
        yield answer


def run_apart(order: Order) -> None:
    """Run jobs in this process, which another one started for that; answer their number, and each job that ended.

    If the other process ends, the system ends this one, and with it the jobs.
    """
    stopping.end_with(sys.stdin.fileno())
    try:
        jobs = running.jobs_to_run(order)
        _answer(len(jobs))
        for outcome in running.run(order, jobs):
            _answer(outcome)
    except DispatchError as error:
        _answer(error)
    except OSError as error:
        _answer(ServiceError(f"{error.filename or 'the disk'}: {error.strerror}"))


def _answer(value: object) -> None:
    sys.stdout.buffer.write(pickle.dumps(value))
    sys.stdout.buffer.flush()

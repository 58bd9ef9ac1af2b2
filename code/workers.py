"""Sharing jobs out over worker folders, and writing them so that there are all or none."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import heapq
import itertools
import json
import os
import re
import shutil
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import stopping
from jobs import Job, Plan
from messages import DispatchError, RequestError, ServiceError, counted, logger, progress, warn_listing

_JOB_FILE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.json")
# Hidden, so that a pipeline's `results/*` does not take it for a worker.
_HIDDEN = ".dispatch"
_EARLIER = "--output_directory: %s holds worker folders of an earlier run; --overwrite=1 replaces them"
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


Shares = Sequence[Sequence[int]]


def share(number_of_jobs: int, num_parallel_workers: int, tasks_per_job: int | None) -> Shares:
    """Return the numbers of the jobs that each worker folder gets: contiguous, balanced to within one, none empty.

    Parameters
    ----------
    number_of_jobs : int
    num_parallel_workers : int
        At most this many folders.
    tasks_per_job : int or None
        At most this many jobs a folder; when given, it decides the number of folders instead.
    """
    folders = -(-number_of_jobs // tasks_per_job) if tasks_per_job else min(num_parallel_workers, number_of_jobs)
    bounds = [number_of_jobs * folder // folders for folder in range(folders + 1)] if folders else []
    return [range(start, end) for start, end in itertools.pairwise(bounds)]


def share_by_size(sizes: Sequence[int], num_parallel_workers: int, tasks_per_job: int | None) -> Shares:
    """Return the numbers of the jobs that each worker folder gets: the largest first to the least loaded folder.

    Graham's LPT rule: the heaviest folder is at most 4/3 of the least possible. There are as many folders as
    `share` makes, none is empty, and each holds at most `tasks_per_job`. Ties go to the folder with fewer jobs,
    then to the lower number.
    """
    folders: list[list[int]] = [[] for _ in share(len(sizes), num_parallel_workers, tasks_per_job)]
    loads = [(0, 0, folder) for folder in range(len(folders))]
    for number in sorted(range(len(sizes)), key=lambda number: (-sizes[number], number)):
        load, jobs, folder = heapq.heappop(loads)
        folders[folder].append(number)
        if jobs + 1 != tasks_per_job:
            heapq.heappush(loads, (load + sizes[number], jobs + 1, folder))
    return [sorted(folder) for folder in folders]


def known_sizes(sizes: Sequence[int | None]) -> list[int]:
    """Return sizes in which an unknown one is the median of the known, which is said."""
    known = [size for size in sizes if size is not None]
    if len(known) == len(sizes):
        return known
    median = int(statistics.median(known)) if known else 1
    unknown = counted(len(sizes) - len(known), "job")
    logger.warning("--balance=size: %s of unknown size weigh the median, %s bytes", unknown, f"{median:,}")
    return [median if size is None else size for size in sizes]


def inspect(directory: Path, overwrite: bool) -> None:
    """Check an output folder as `Output` does, but touch nothing; worker folders already there are a warning.

    Raises
    ------
    RequestError
        It is no folder, or holds folders that are named like worker folders and hold something else.
    ServiceError
        It cannot be read.
    """
    with _disk_errors(directory):
        if directory.exists() and not directory.is_dir():
            raise RequestError(f"--output_directory: not a folder: {directory}")
        earlier = _worker_folders(directory) if directory.exists() else []
    if earlier and not overwrite:
        logger.warning(_EARLIER, directory)


class Output:
    """The output folder of one run, locked while the run lives.

    Everything is written into a hidden folder inside it (in a capsule it is a file system of its own) and
    moved into place last, so that a run that fails leaves no worker folder.

    Parameters
    ----------
    directory : pathlib.Path
        Made if it is missing.
    overwrite : bool
        Replace the worker folders of an earlier run. Nothing else is ever removed.

    Raises
    ------
    RequestError
        It is no folder, or holds worker folders without `overwrite`, or folders that are named like
        worker folders and hold something else.
    ServiceError
        It cannot be written, or another run is writing there.
    """

    def __init__(self, directory: Path, overwrite: bool) -> None:
        self.directory = directory
        self._hidden = directory / _HIDDEN
        self._new, self._old, self._journal = (self._hidden / name for name in ("new", "old", "journal.json"))
        with _disk_errors(directory), contextlib.ExitStack() as undo:
            self._is_made_here = _make_folder(directory)
            self._lock = _locked(self._hidden, directory)
            undo.callback(self._release)
            self._recover()
            self._earlier = _worker_folders(directory)
            if self._earlier and not overwrite:
                raise RequestError(_EARLIER % directory, [folder.name for folder in self._earlier])
            undo.pop_all()

    def __enter__(self) -> Self:
        self._on_stop = stopping.cleaned_up_by(self._give_up)
        self._on_stop.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None:
            self._release()
        else:
            self._give_up()
        self._on_stop.__exit__(None, None, None)

    def write(self, plan: Plan, shares: Shares) -> None:
        """Write each job's file into its worker folder.

        Raises
        ------
        ServiceError
            The disk is full or fails; no worker folder is left and those of an earlier run are back.
        """
        with _disk_errors(self.directory), progress("writing jobs", "jobs", len(plan.jobs)) as shown:
            for folder, numbers in enumerate(shares):
                path = self._new / str(folder)
                path.mkdir(parents=True)
                for number in numbers:
                    _write_job(path, plan, plan.jobs[number])
                    shown.advance()
            with stopping.held():
                self._move_into_place()

    def _move_into_place(self) -> None:
        """Move the old folders out and the new ones in; the journal tells the next run if this one is killed."""
        self._old.mkdir()
        _write_durably(self._journal, json.dumps({"new": [path.name for path in self._new.iterdir()]}))
        try:
            for path in self._earlier:
                path.rename(self._old / path.name)
            for path in sorted(self._new.iterdir()):
                path.rename(self.directory / path.name)
        except BaseException:
            self._take_back()
            raise
        self._journal.unlink()

    def _take_back(self) -> list[str]:
        """Undo moves that were begun: remove the new folders, put the old ones back; return the removed names."""
        begun = json.loads(self._journal.read_text(encoding="utf-8"))["new"]
        removed = [name for name in begun if _is_number(name) and not (self._new / name).exists()]
        for name in removed:
            shutil.rmtree(self.directory / name, ignore_errors=True)
        for path in sorted(self._old.iterdir()):
            path.rename(self.directory / path.name)
        self._journal.unlink()
        return removed

    def _recover(self) -> None:
        """Clear what a killed run left; the lock says that it is not running any more."""
        if self._journal.exists():
            names = self._take_back()
            warn_listing(f"{self.directory}: folders of a run that was killed in its last moment are removed:", names)
        for left in (self._new, self._old):
            if left.exists():
                logger.debug("removing %s, left by a run that was killed", left)
                shutil.rmtree(left)

    def _give_up(self) -> None:
        self._release()
        if self._is_made_here:
            with contextlib.suppress(OSError):
                self.directory.rmdir()

    def _release(self) -> None:
        shutil.rmtree(self._hidden, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.close(self._lock)


def _write_durably(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _write_job(folder: Path, plan: Plan, job: Job) -> None:
    (folder / f"{job.name}.json").write_text(plan.model(job).to_json(), encoding="utf-8")


def _worker_folders(directory: Path) -> list[Path]:
    """Return the worker folders in a directory: all-digit names, nothing but job files inside.

    Raises
    ------
    RequestError
        Something else has an all-digit name.
    """
    numbered = sorted((path for path in directory.iterdir() if _is_number(path.name)), key=lambda path: path.name)
    if other := [path.name for path in numbered if not _is_worker_folder(path)]:
        raise RequestError(
            f"--output_directory: {directory} holds what is named like a worker folder and is none;"
            " move it away or choose another folder",
            other,
        )
    return numbered


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal()


def _is_worker_folder(path: Path) -> bool:
    if path.is_symlink() or not path.is_dir():
        return False
    with os.scandir(path) as entries:
        return all(_JOB_FILE.fullmatch(entry.name) and entry.is_file(follow_symlinks=False) for entry in entries)


def _make_folder(directory: Path) -> bool:
    """Make a folder if it is missing; tell whether it was.

    Raises
    ------
    RequestError
        Something else is at that path, or no folder can be.
    """
    try:
        directory.mkdir(parents=True)
    except FileExistsError:
        if not directory.is_dir():
            raise RequestError(f"--output_directory: not a folder: {directory}") from None
        return False
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP):
            raise RequestError(f"--output_directory: {directory}: {error.strerror}") from None
        raise
    return True


def _locked(hidden: Path, directory: Path) -> int:
    """Make the hidden folder and lock the file in it; return the descriptor that holds the lock."""
    path = hidden / "lock"
    while True:
        hidden.mkdir(exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue  # a run that ended at this moment took its folder with it
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise ServiceError(
                f"--output_directory: another run is writing into {directory}; wait for it or choose another folder"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            logger.debug("%s: this file system has no locks", directory)
            return descriptor
        os.close(descriptor)


@contextmanager
def _disk_errors(directory: Path) -> Iterator[None]:
    try:
        yield
    except DispatchError:
        raise
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise ServiceError(f"--output_directory: cannot write into {directory}: {reason}") from error

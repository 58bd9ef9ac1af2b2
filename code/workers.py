"""Sharing jobs out over worker folders, and writing them so that there are all or none."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from jobs import Job, Plan
from messages import DispatchError, RequestError, ServiceError, logger, progress

_JOB_FILE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.json")
# Hidden, so that a pipeline's `results/*` does not take it for a worker.
_HIDDEN = ".dispatch"
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


def share(number_of_jobs: int, num_parallel_workers: int, tasks_per_job: int | None) -> list[range]:
    """Return which jobs each worker folder gets: contiguous, balanced to within one, none empty.

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
        self._new, self._old = self._hidden / "new", self._hidden / "old"
        with _disk_errors(directory):
            self._is_made_here = _make_folder(directory)
            self._earlier = _worker_folders(directory)
            if self._earlier and not overwrite:
                raise RequestError(
                    f"--output_directory: {directory} holds worker folders of an earlier run;"
                    " --overwrite=1 replaces them",
                    [folder.name for folder in self._earlier],
                )
            self._lock = _locked(self._hidden, directory)
            self._clear()

    def __enter__(self) -> Output:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        shutil.rmtree(self._hidden, ignore_errors=True)
        os.close(self._lock)
        if self._is_made_here and error is not None:
            with contextlib.suppress(OSError):
                self.directory.rmdir()

    def write(self, plan: Plan, shares: Sequence[range]) -> None:
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
            self._move_into_place()

    def _move_into_place(self) -> None:
        self._old.mkdir()
        moved: list[tuple[Path, Path]] = []
        try:
            for source in self._earlier:
                moved.append((source, source.rename(self._old / source.name)))
            for source in sorted(self._new.iterdir()):
                moved.append((source, source.rename(self.directory / source.name)))
        except BaseException:
            for source, target in reversed(moved):
                target.rename(source)
            raise

    def _clear(self) -> None:
        """Remove what a killed run left in the hidden folder."""
        for left in (self._new, self._old):
            if left.exists():
                logger.debug("removing %s, left by a run that was killed", left)
                shutil.rmtree(left)


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

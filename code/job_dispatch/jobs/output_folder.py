"""The output folder of a run, in which there are all its worker folders or none."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from job_dispatch import stopping
from job_dispatch.messages import DispatchError, RequestError, ServiceError, logger, warn_listing

_JOB_FILE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.json")
# Hidden, so that a pipeline's `results/*` does not take it for a worker.
HIDDEN = ".dispatch"
_DISCARDED = f"{HIDDEN}.discarded."
_EARLIER = "--output_directory: %s holds worker folders of an earlier run; --overwrite=1 replaces them"
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


def inspect(directory: Path, overwrite: bool) -> None:
    """Check an output folder as `OutputFolder` does, but touch nothing; worker folders already there are a warning.

    Raises
    ------
    RequestError
        It is no folder, or holds folders that are named like worker folders and hold something else.
    ServiceError
        It cannot be read.
    """
    with disk_errors(directory):
        existing = next(path for path in (directory, *directory.absolute().parents) if os.path.lexists(path))
        if not existing.is_dir():
            raise RequestError(f"--output_directory: not a folder: {existing}")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise ServiceError(f"--output_directory: cannot write into {existing}: no permission")
        earlier = _worker_folders(directory) if directory.exists() else []
    if earlier and not overwrite:
        logger.warning(_EARLIER, directory)


class OutputFolder:
    """The output folder of one run, locked while the run lives.

    Worker folders are made in `new`, inside a hidden folder of it (in a capsule it is a file system of its own),
    and moved into place together by `commit`, so that a run that fails leaves none.

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
        self._hidden = directory / HIDDEN
        self.new, self._old, self._journal = (self._hidden / name for name in ("new", "old", "journal.json"))
        with disk_errors(directory), contextlib.ExitStack() as undo:
            with stopping.deferred():
                self._is_made_here = _make_folder(directory)
                self._lock = _locked(self._hidden, directory)
                stopping.clean_up_by(self._give_up)
            undo.callback(self._end, self._give_up)
            self._recover()
            self._earlier = _worker_folders(directory)
            if self._earlier and not overwrite:
                raise RequestError(_EARLIER % directory, [folder.name for folder in self._earlier])
            self.new.mkdir()
            undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._end(self._release if error is None else self._give_up)

    def _end(self, clean_up: Callable[[], None]) -> None:
        with stopping.deferred():
            clean_up()
            stopping.need_no_clean_up(self._give_up)

    def commit(self) -> None:
        """Move the worker folders of an earlier run out, and those in `new` into place.

        The journal tells the next run what to take back if this one is killed meanwhile.
        """
        with disk_errors(self.directory), stopping.finishing():
            self._old.mkdir()
            _write_whole(self._journal, json.dumps({"new": [path.name for path in self.new.iterdir()]}))
            try:
                for path in self._earlier:
                    path.rename(self._old / path.name)
                for path in sorted(self.new.iterdir()):
                    path.rename(self.directory / path.name)
            except BaseException:
                self._take_back()
                raise
            self._journal.unlink()

    def _take_back(self) -> list[str]:
        """Undo moves that were begun; return the names of those folders.

        Each move is undone by a move, so that this can be killed as well and begun again.
        """
        begun = json.loads(self._journal.read_text(encoding="utf-8"))["new"]
        moved = [name for name in begun if _is_number(name) and not (self.new / name).exists()]
        for name in moved:
            if (self.directory / name).exists():
                (self.directory / name).rename(self.new / name)
        for path in sorted(self._old.iterdir()):
            path.rename(self.directory / path.name)
        self._journal.unlink()
        return moved

    def _recover(self) -> None:
        """Clear what a killed run left; the lock says that it is not running any more."""
        try:
            names = self._take_back()
        except (FileNotFoundError, ValueError):  # no moves had begun
            names = []
        if names:
            warn_listing(f"{self.directory}: folders of a run that was killed in its last moment are removed:", names)
        discarded = [path for path in self.directory.iterdir() if path.name.startswith(_DISCARDED)]
        for left in (self.new, self._old, *discarded):
            if left.exists():
                logger.debug("removing %s, left by a run that was killed", left)
                shutil.rmtree(left)

    def _give_up(self) -> None:
        self._release()
        if self._is_made_here:
            with contextlib.suppress(OSError):
                self.directory.rmdir()

    def _release(self) -> None:
        """Remove the hidden folder: by another name, since the next run may make its own at once."""
        discarded = self.directory / f"{_DISCARDED}{os.getpid()}"
        with contextlib.suppress(OSError):
            self._hidden.rename(discarded)
        shutil.rmtree(discarded, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.close(self._lock)


def _write_whole(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all, whatever kills the process."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


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
            logger.warning("%s: this file system has no locks; no other run may write there", directory)
            return descriptor
        os.close(descriptor)


@contextmanager
def disk_errors(directory: Path) -> Iterator[None]:
    """Turn errors of the disk into a sentence."""
    try:
        yield
    except DispatchError:
        raise
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise ServiceError(f"--output_directory: cannot write into {directory}: {reason}") from error

"""The output folder of a run, in which there are all its worker folders or none."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from job_dispatch import stopping
from job_dispatch.jobs import own_files
from job_dispatch.jobs.hidden_folder import HIDDEN, HiddenFolder
from job_dispatch.messages import DispatchError, RequestError, ServiceError, logger, warn_listing

__all__ = ["HIDDEN", "OutputFolder", "clear", "disk_errors", "inspect", "warn_of_input"]

_EARLIER = "--output_directory: %s holds worker folders of an earlier run; --overwrite=1 replaces them"
_BECOMES_WORKER = "in a pipeline each becomes a worker:"


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
            raise ServiceError(
                f"--output_directory: cannot write into {existing}: no permission; choose another folder"
            )
        earlier: Sequence[str] = ()
        if directory.exists():
            with own_files.opened(directory) as descriptor:
                earlier = _worker_folders(directory, descriptor)
    if earlier and not overwrite:
        logger.warning(_EARLIER, directory)


def warn_of_input(directory: Path, input_directory: Path) -> None:
    """Warn where what is read would lie among the worker folders."""
    output, source = (Path(os.path.realpath(path)) for path in (directory, input_directory))
    if source.is_relative_to(output):
        relation = "is" if source == output else "contains"
        logger.warning(
            "--output_directory: %s %s the input directory; in a pipeline what lies there becomes a worker",
            directory,
            relation,
        )


class OutputFolder:
    """The output folder of one run, locked while the run lives.

    Worker folders are made inside a hidden folder of it (in a capsule it is a file system of its own), and moved
    into place together by `commit`, so that a run that fails leaves none.

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
        worker folders and hold something else, or a hidden folder that no run of this user has made.
    ServiceError
        It cannot be written, or another run is writing there.
    """

    def __init__(self, directory: Path, overwrite: bool) -> None:
        self.directory = directory
        with disk_errors(directory), contextlib.ExitStack() as undo:
            made = _missing(directory)
            stopping.note(output=str(directory.absolute()), made=list(map(str, made)))
            undo.callback(_give_back, made)
            _make_folder(directory)
            self._descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            undo.callback(os.close, self._descriptor)
            self._hidden = HiddenFolder(directory, self._descriptor)
            undo.callback(self._hidden.release)
            self._earlier = _worker_folders(directory, self._descriptor)
            if self._earlier and not overwrite:
                raise RequestError(_EARLIER % directory, self._earlier)
            self._new = self._hidden.begin()
            undo.callback(os.close, self._new)
            self._undo = undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._undo.close()
        stopping.note(output="")

    def make_worker_folder(self, name: str) -> int:
        """Make a new worker folder and return its descriptor, which the caller closes."""
        os.mkdir(name, dir_fd=self._new)
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self._new)

    def commit(self) -> None:
        """Move the worker folders of an earlier run out, and the new ones into place.

        If the process is killed meanwhile, the journal tells what to take back.
        """
        with disk_errors(self.directory):
            self._hidden.exchange(self._new, self._earlier)
        stopping.note(is_written=True)


def clear(directory: Path, made: Sequence[Path]) -> bool:
    """Clear what a killed run left, at once and as the next run would; tell whether all its jobs are in place.

    Parameters
    ----------
    directory : pathlib.Path
        Its output folder.
    made : sequence of pathlib.Path
        The folders that it made, which are removed where they are empty.
    """
    is_complete = False
    with contextlib.suppress(OSError, DispatchError), own_files.opened(directory) as descriptor:
        if own_files.exists(HIDDEN, descriptor):
            hidden = HiddenFolder(directory, descriptor)
            is_complete = hidden.was_complete
            hidden.release()
    _give_back(made)
    return is_complete


def _missing(directory: Path) -> list[Path]:
    """Return the folders that must be made for it to be there, the innermost first."""
    missing = []
    for path in (directory.absolute(), *directory.absolute().parents):
        if os.path.lexists(path):
            break
        missing.append(path)
    return missing


def _give_back(made: Sequence[Path]) -> None:
    with contextlib.suppress(OSError):  # not empty
        for path in made:
            path.rmdir()


def _worker_folders(directory: Path, descriptor: int) -> list[str]:
    """Return the worker folders in a directory: all-digit names, nothing but job files inside. Warn of other entries.

    Raises
    ------
    RequestError
        Something else has an all-digit name.
    """
    names = own_files.names(descriptor)
    numbered = [name for name in names if own_files.is_worker_name(name)]
    if other := [name for name in numbered if own_files.job_names(name, descriptor) is None]:
        raise RequestError(
            f"--output_directory: {directory} holds what is named like a worker folder and is none;"
            " move it away or choose another folder",
            other,
        )
    if visible := [name for name in names if not name.startswith(".") and name not in set(numbered)]:
        warn_listing(f"--output_directory: {directory} holds what is no worker folder; {_BECOMES_WORKER}", visible)
    return numbered


def _make_folder(directory: Path) -> None:
    """Make a folder if it is missing.

    Raises
    ------
    RequestError
        Something else is at that path, or no folder can be.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise RequestError(f"--output_directory: not a folder: {directory}") from None
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP):
            raise RequestError(f"--output_directory: {directory}: {error.strerror}") from None
        raise


@contextmanager
def disk_errors(directory: Path) -> Iterator[None]:
    """Turn errors of the disk into a sentence."""
    try:
        yield
    except DispatchError:
        raise
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full; make room or" if is_full else f"{error.strerror or error};"
        raise ServiceError(
            f"--output_directory: cannot write into {directory}: {reason} choose another folder"
        ) from error

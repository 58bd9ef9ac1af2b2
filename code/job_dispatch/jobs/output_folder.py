"""The output folder of a run: it gets all worker folders of the run, or none.

A run locks the output folder itself, writes its worker folders into a staging folder inside it, and moves them into
place at the end. The staging folder is hidden, so that a pipeline's `results/*` does not match it, has a random
name, and only its owner can open it. It holds `new` and `old` (the worker folders that are replaced) and, during
the moves, `moves.json`. The next run recognises by that name what a killed run left, takes back the moves that
`moves.json` lists, and removes the rest. Nothing is removed but job files and the folders around them. Links are
never followed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import json
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from job_dispatch import stopping
from job_dispatch.jobs.building import Job, Jobs
from job_dispatch.messages import DispatchError, RequestError, ServiceError, logger, progress, warn_listing

HIDDEN = ".dispatch"
_STAGING = re.compile(r"\.dispatch\.[0-9a-f]{32}")
_JOB_FILE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.json")
_NEW, _OLD, _MOVES = "new", "old", "moves.json"
# Nextflow fails a step without output. The public dispatcher writes the same file if all jobs are done.
_NO_NEW_JOBS = "no_new_jobs"
_NO_LOCKS = (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)

_EARLIER = "--output_directory: %s holds worker folders of an earlier run; --overwrite=1 replaces them"


@dataclass(frozen=True)
class OutputFolder:
    """An output folder that this run has locked.

    Worker folders are made in `staging`, the hidden folder inside it, and replace the `earlier` ones of another run.
    """

    directory: Path
    staging: Path
    earlier: Sequence[str]


def inspect(directory: Path, overwrite: bool) -> None:
    """Check an output folder as `locked` does, but touch nothing; worker folders of an earlier run are a warning."""
    with disk_errors(directory):
        existing = next(path for path in (directory, *directory.absolute().parents) if os.path.lexists(path))
        if not existing.is_dir():
            raise RequestError(f"--output_directory: not a folder: {existing}")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise ServiceError(
                f"--output_directory: cannot write into {existing}: no permission; choose another folder"
            )
        earlier = []
        if directory.exists():
            earlier = _worker_folders(directory)
            _warn_of_other_entries(directory, earlier)
    if earlier and not overwrite:
        logger.warning(_EARLIER, directory)


def warn_of_input(directory: Path, input_directory: Path) -> None:
    """Warn if the input directory lies among the worker folders."""
    output, source = (Path(os.path.realpath(path)) for path in (directory, input_directory))
    if source.is_relative_to(output):
        relation = "is" if source == output else "contains"
        logger.warning(
            "--output_directory: %s %s the input directory; in a pipeline, its visible entries become workers",
            directory,
            relation,
        )


@contextmanager
def locked(directory: Path, overwrite: bool) -> Iterator[OutputFolder]:
    """Lock the output folder, clear what a killed run left in it, and make a staging folder for this run.

    On exit the staging folder is removed, and the output folder too if this run made it and it is empty.
    A RequestError is raised if it is no folder, or holds worker folders without `overwrite`, or other things that are
    named like worker folders; a ServiceError if it cannot be written, or another run is writing into it.
    """
    with contextlib.ExitStack() as undo:
        with disk_errors(directory):
            folders = (directory.absolute(), *directory.absolute().parents)
            made = list(itertools.takewhile(lambda path: not os.path.lexists(path), folders))
            stopping.note(output=str(directory.absolute()), made=list(map(str, made)))
            undo.callback(_remove_empty, made)
            _make_folder(directory)
            undo.enter_context(lock(directory))
            _recover(directory)
            earlier = _worker_folders(directory)
            _warn_of_other_entries(directory, earlier)
            if earlier and not overwrite:
                raise RequestError(_EARLIER % directory, earlier)
            staging = directory / f"{HIDDEN}.{secrets.token_hex(16)}"
            undo.callback(_remove_staging, staging)
            staging.mkdir(mode=0o700)
            (staging / _NEW).mkdir()
            (staging / _OLD).mkdir()
        yield OutputFolder(directory, staging, earlier)
    stopping.note(output="")


def is_in_pipeline() -> bool:
    """Tell whether this runs in a pipeline of Code Ocean, where each entry of the output folder starts a wrapper."""
    return bool(os.environ.get("CO_PIPELINE_ID"))


def write(output: OutputFolder, jobs: Jobs, shares: Sequence[Sequence[int]]) -> None:
    """Write each job's file into its worker folder: all jobs or none. In a pipeline without jobs, write `no_new_jobs`.

    `shares` are the numbers of the jobs of each folder. A ServiceError is raised if the disk is full or fails; the
    worker folders of an earlier run are in place then.
    """
    with disk_errors(output.directory):
        with progress("writing jobs", "jobs", len(jobs)) as shown:
            for name, share in enumerate(shares):
                folder = output.staging / _NEW / str(name)
                folder.mkdir()
                for number in share:
                    _write_job(folder, jobs, jobs.planned[number])
                    shown.advance()
        _move_into_place(output)
        if is_in_pipeline() and not len(jobs):
            with contextlib.suppress(FileExistsError):
                (output.directory / _NO_NEW_JOBS).touch(exist_ok=False)


def clear(directory: Path, made: Sequence[Path]) -> bool:
    """Clear what a killed run left, and the folders that it made; tell whether all its jobs are in place."""
    is_complete = False
    with contextlib.suppress(OSError, DispatchError), lock(directory):
        is_complete = _recover(directory)
    _remove_empty(made)
    return is_complete


@contextmanager
def disk_errors(directory: Path) -> Iterator[None]:
    """Turn errors of the disk into a sentence."""
    try:
        yield
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full; make room or" if is_full else f"{error.strerror or error};"
        raise ServiceError(
            f"--output_directory: cannot write into {directory}: {reason} choose another folder"
        ) from error


# Checks


def _make_folder(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise RequestError(f"--output_directory: not a folder: {directory}") from None
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP):
            raise RequestError(f"--output_directory: {directory}: {error.strerror}") from None
        raise


def _remove_empty(folders: Sequence[Path]) -> None:
    with contextlib.suppress(OSError):  # not empty
        for folder in folders:
            folder.rmdir()


@contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Lock a folder; a ServiceError if another run has locked it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServiceError(
                f"--output_directory: another run is writing into {directory}; wait for it or choose another folder"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            logger.warning("%s: this file system cannot lock folders; start no second run there", directory)
        yield
    finally:
        os.close(descriptor)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _worker_folders(directory: Path) -> list[str]:
    """Return the names of the worker folders (all digits, only job files inside), or refuse others with such names."""
    numbered = [name for name in _names(directory) if name.isascii() and name.isdecimal()]
    if other := [name for name in numbered if not _is_worker_folder(directory / name)]:
        raise RequestError(
            f"--output_directory: {directory} holds entries that are named like worker folders but are not;"
            " move them away or choose another folder",
            other,
        )
    return numbered


def _is_worker_folder(folder: Path) -> bool:
    if folder.is_symlink() or not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return all(map(_is_job_file, entries))


def _is_job_file(entry: os.DirEntry[str]) -> bool:
    return _JOB_FILE.fullmatch(entry.name) is not None and entry.is_file(follow_symlinks=False)


def _warn_of_other_entries(directory: Path, workers: Sequence[str]) -> None:
    if other := [name for name in _names(directory) if not name.startswith(".") and name not in workers]:
        warn_listing(
            f"--output_directory: {directory} holds other entries than worker folders;"
            " in a pipeline, each of them becomes a worker:",
            other,
        )


# Writing and moving


def _write_job(folder: Path, jobs: Jobs, job: Job) -> None:
    # A third faster than Path.write_text, and a large run writes hundreds of thousands of files.
    descriptor = os.open(f"{folder}/{job.name}.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    with open(descriptor, "wb") as file:  # noqa: PTH123 - a Path takes no descriptor
        file.write(jobs.model(job).to_json().encode())


def _move_into_place(output: OutputFolder) -> None:
    """Move the earlier worker folders out and the new ones in; if that fails, move all back."""
    directory, staging = output.directory, output.staging
    new = _names(staging / _NEW)
    with (staging / _MOVES).open("w") as file:
        json.dump({_OLD: list(output.earlier), _NEW: new}, file)
        file.flush()
        os.fsync(file.fileno())  # on the disk before the first move
    try:
        for name in output.earlier:
            (directory / name).rename(staging / _OLD / name)
        for name in new:
            (staging / _NEW / name).rename(directory / name)
    except BaseException:
        _move_back(directory, staging, new)
        raise
    stopping.note(is_written=True)
    (staging / _MOVES).unlink()


def _move_back(directory: Path, staging: Path, new: Sequence[str]) -> list[str]:
    """Undo the moves that were done, and return the names of the new folders among them.

    Each move is undone by a move, so that a run killed here can be undone by the next one as well.
    """
    done = [name for name in new if not (staging / _NEW / name).exists() and (directory / name).exists()]
    for name in done:
        (directory / name).rename(staging / _NEW / name)
    for name in _names(staging / _OLD):
        try:
            (staging / _OLD / name).rename(directory / name)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise RequestError(
                f"--output_directory: {directory / name} is in the place of a worker folder that must be moved back;"
                " move it away and start again"
            ) from None
    (staging / _MOVES).unlink()
    return done


# Clearing


def _recover(directory: Path) -> bool:
    """Clear what a killed run left, and tell whether it had moved all its worker folders into place.

    The lock proves that it is not running any more.
    """
    is_complete = False
    for staging in _folders(directory):
        if not _STAGING.fullmatch(staging.name):
            continue
        _worker_folders(directory)  # refuses other things with such names before anything is moved
        try:
            moves = _read_moves(staging)
        except PermissionError:
            raise RequestError(
                f"--output_directory: a run of another user was killed and left {staging};"
                " ask them to remove it or choose another folder"
            ) from None
        if moves is not None:
            is_complete = not _names(staging / _NEW) and _names(staging / _OLD) == moves[_OLD]
            if is_complete:
                (staging / _MOVES).unlink()
            elif removed := _move_back(directory, staging, moves[_NEW]):
                warn_listing(f"{directory}: folders of a run that was killed in its last moment are removed:", removed)
        logger.debug("removing %s, left by a run that was killed", staging)
        _remove_staging(staging)
    return is_complete


def _folders(directory: Path) -> list[Path]:
    """Return the folders in a folder, without links to folders."""
    return [path for path in sorted(directory.iterdir()) if path.is_dir() and not path.is_symlink()]


def _read_moves(staging: Path) -> dict[str, list[str]] | None:
    """Return the record of the moves of a run, None if none has begun: before the first it is written to the disk."""
    try:
        moves: dict[str, list[str]] = json.loads((staging / _MOVES).read_bytes())
    except (FileNotFoundError, ValueError):
        (staging / _MOVES).unlink(missing_ok=True)
        return None
    return moves


def _remove_staging(staging: Path) -> None:
    """Remove a staging folder with its job files; anything else in it stays, with a warning."""
    with contextlib.suppress(OSError):
        if (staging / _MOVES).exists():
            logger.warning("%s keeps the worker folders of an earlier run; the next run moves them back", staging)
            return
        for part in _folders(staging):
            for worker in _folders(part):
                _remove_worker_folder(worker)
            with contextlib.suppress(OSError):  # not empty
                part.rmdir()
        staging.rmdir()
    if staging.exists():
        logger.warning("%s holds other files than jobs, and is kept", staging)


def _remove_worker_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):
        with os.scandir(folder) as entries:
            for entry in entries:
                if _is_job_file(entry):
                    Path(entry.path).unlink()
        folder.rmdir()

"""The folder of a report, and the files in it: those of somebody else are not replaced."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from job_dispatch import stopping
from job_dispatch.jobs.output_folder import HIDDEN
from job_dispatch.messages import RequestError

PAGE, JOBS, SKIPPED, MANIFEST = "report.html", "jobs.csv", "skipped.csv", "manifest.json"
FAILED = "failed"
"""The folder, in that of the report, for the report of a run that failed."""
_NAMES = (PAGE, JOBS, SKIPPED, MANIFEST)
_NAME_BYTES = 255
_READY = ".ready"
_STAGING = re.compile(r"\.report\.[0-9a-f]{32}\.(unfinished|ready)")


def check_directory(report: Path, output: Path, overwrite: bool) -> None:
    """Refuse a report directory in which a pipeline would take the report for work, or files of others are in the way.

    Raises
    ------
    RequestError
        It is the output folder, contains it, or lies in it other than hidden and directly below; or files of the
        report's names are there that no report has written, and `overwrite` is false.
    """
    inner, outer = (Path(os.path.realpath(path)) for path in (report, output))
    is_hidden = inner.parent == outer and inner.name.startswith(".") and not inner.name.startswith(HIDDEN)
    if not is_hidden and (inner.is_relative_to(outer) or outer.is_relative_to(inner)):
        raise RequestError(
            f"--report_directory: {report}: every visible entry of the output folder becomes a worker in a pipeline;"
            f" choose a folder apart from {output}, or a hidden one directly below it such as {output / '.report'}"
        )
    try:
        existing = next(path for path in (inner, *inner.parents) if os.path.lexists(path))
    except OSError as error:
        raise RequestError(f"--report_directory: {report}: {error.strerror}") from None
    if not existing.is_dir():
        raise RequestError(f"--report_directory: not a folder: {existing}")
    if not os.access(existing, os.W_OK | os.X_OK) or len(os.fsencode(inner.name)) > _NAME_BYTES:
        raise RequestError(f"--report_directory: {report} cannot be made or written; choose another folder")
    if report.is_dir():
        with _opened(report) as folder:
            recover(report)
            _check_files(report, folder, overwrite)


def replace(directory: Path, texts: Mapping[str, str], overwrite: bool) -> None:
    """Replace the files of a report as a whole: new files never lie beside old ones.

    They are written into a hidden folder, which gets another name when all are there, and moved from it. If the run is
    killed, `recover` removes the folder with the first name and goes on moving from one with the second.

    Raises
    ------
    RequestError
        As `check_directory`: files of others have turned up since.
    OSError
    """
    directory.mkdir(parents=True, exist_ok=True)
    with _opened(directory) as folder:
        recover(directory)
        _check_files(directory, folder, overwrite)
        staging = directory / f".report.{secrets.token_hex(16)}.unfinished"
        stopping.note(report=str(directory.absolute()))
        staging.mkdir(mode=0o700)
        with _opened(staging) as locked:
            _lock(locked)
            try:
                for name, text in texts.items():
                    (staging / name).write_bytes(text.encode())
                ready = staging.rename(staging.with_suffix(_READY))
            except BaseException:
                _remove(staging)
                raise
            _move(ready, directory)
        stopping.note(report="")


def remove(directory: Path) -> None:
    """Remove a report as it was written; what somebody has changed or added stays."""
    if directory.is_symlink() or not directory.is_dir():
        return
    with _opened(directory) as folder:
        for name in _written_by_a_report(folder):
            os.unlink(name, dir_fd=folder)
    with contextlib.suppress(OSError):  # something else is in it
        directory.rmdir()


def recover(directory: Path) -> None:
    """Finish or remove what a killed run of this user left in a report directory."""
    for path in directory.iterdir():
        if _STAGING.fullmatch(path.name) is None or not _is_own(path):
            continue
        with _opened(path) as folder, contextlib.suppress(BlockingIOError):  # another run is writing it
            _lock(folder)
            if path.suffix == _READY:
                _move(path, directory)
            else:
                _remove(path)


def _lock(folder: int) -> None:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks
        return


def _is_own(staging: Path) -> bool:
    status = staging.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) == 0o700


def _move(ready: Path, directory: Path) -> None:
    for path in sorted(ready.iterdir(), key=lambda path: path.name == MANIFEST):
        path.rename(directory / path.name)
    ready.rmdir()


def _remove(staging: Path) -> None:
    for path in staging.iterdir():
        path.unlink()
    staging.rmdir()


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _check_files(directory: Path, folder: int, overwrite: bool) -> None:
    there = [name for name in _NAMES if _is_there(name, folder)]
    if folders := [name for name in there if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)]:
        raise RequestError(
            f"--report_directory: {directory} holds folders where a report has files; choose another folder", folders
        )
    if not there or overwrite:
        return
    if foreign := [name for name in there if name not in _written_by_a_report(folder)]:
        raise RequestError(
            f"--report_directory: {directory} holds files that no report has written, or that were changed since;"
            " choose another folder, or --overwrite=1 replaces them",
            foreign,
        )


def _is_there(name: str, folder: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        os.stat(name, dir_fd=folder, follow_symlinks=False)
        return True
    return False


def _written_by_a_report(folder: int) -> set[str]:
    """Return the files that are as the manifest beside them says, and the manifest, if it says so of any."""
    text = _read(MANIFEST, folder)
    if text is None:
        return set()
    from job_dispatch.report.manifest import Manifest

    try:
        hashes = Manifest.model_validate_json(text).sha256
    except ValueError:
        return set()
    found = {name: _read(name, folder) for name in hashes if name in _NAMES}
    own = {name for name, text in found.items() if text is not None and _hash(text) == hashes[name]}
    return {*own, MANIFEST} if own else set()


def _read(name: str, folder: int) -> bytes | None:
    """Return what a regular file holds, None for a link, a pipe or nothing."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError:
        return None
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a Path takes no descriptor
        return file.read() if stat.S_ISREG(os.fstat(descriptor).st_mode) else None


def _hash(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()

"""The folder of a report, and the files in it: those of somebody else are not replaced."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
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

    A RequestError is raised if it is the output folder, contains it, or lies in it other than hidden and directly
    below; and if it holds files of the report's names that no report has written, and `overwrite` is false.
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
        recover(report)
        _check_files(report, overwrite)


def replace(directory: Path, texts: Mapping[str, str], overwrite: bool) -> None:
    """Replace the files of a report as a whole: new files never lie beside old ones.

    They are written into a hidden folder, which gets another name when all are there, and moved from it. If the run is
    killed, `recover` removes the folder with the first name and goes on moving from one with the second. A RequestError
    is raised if files of others have turned up since, and an OSError if they cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    recover(directory)
    _check_files(directory, overwrite)
    staging = directory / f".report.{secrets.token_hex(16)}.unfinished"
    stopping.note(report=str(directory.absolute()))
    staging.mkdir(mode=0o700)
    with _locked(staging):
        try:
            for name, text in texts.items():
                (staging / name).write_bytes(text.encode())
            ready = staging.rename(staging.with_suffix(_READY))
        except BaseException:
            shutil.rmtree(staging)
            raise
        _move(ready, directory)
    stopping.note(report="")


def remove(directory: Path) -> None:
    """Remove a report as it was written; what somebody has changed or added stays."""
    if directory.is_symlink() or not directory.is_dir():
        return
    for name in _written_by_a_report(directory):
        (directory / name).unlink()
    with contextlib.suppress(OSError):  # something else is in it
        directory.rmdir()


def recover(directory: Path) -> None:
    """Finish or remove what a killed run of this user left in a report directory."""
    for path in directory.iterdir():
        if _STAGING.fullmatch(path.name) is None or not _is_own(path):
            continue
        with contextlib.suppress(BlockingIOError), _locked(path):  # or another run is writing it
            if path.suffix == _READY:
                _move(path, directory)
            else:
                shutil.rmtree(path)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(descriptor)


def _is_own(staging: Path) -> bool:
    status = staging.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) == 0o700


def _move(ready: Path, directory: Path) -> None:
    for path in sorted(ready.iterdir(), key=lambda path: path.name == MANIFEST):
        path.rename(directory / path.name)
    ready.rmdir()


def _check_files(directory: Path, overwrite: bool) -> None:
    there = [name for name in _NAMES if os.path.lexists(directory / name)]
    if folders := [name for name in there if stat.S_ISDIR((directory / name).lstat().st_mode)]:
        raise RequestError(
            f"--report_directory: {directory} holds folders where a report has files; choose another folder", folders
        )
    if not there or overwrite:
        return
    own = _written_by_a_report(directory)
    if foreign := [name for name in there if name not in own]:
        raise RequestError(
            f"--report_directory: {directory} holds files that no report has written, or that were changed since;"
            " choose another folder, or --overwrite=1 replaces them",
            foreign,
        )


def _written_by_a_report(directory: Path) -> set[str]:
    """Return the files that are as the manifest beside them says, and the manifest, if it says so of any."""
    try:
        hashes = dict(json.loads(content(directory / MANIFEST))["sha256"])
    except (ValueError, TypeError, KeyError):
        return set()
    own = {
        name
        for name in _NAMES
        if name in hashes and hashlib.sha256(content(directory / name)).hexdigest() == hashes[name]
    }
    return {*own, MANIFEST} if own else set()


def content(path: Path) -> bytes:
    """Return what a regular file holds; nothing of a link, a pipe or what is not there."""
    with contextlib.suppress(OSError):
        if stat.S_ISREG(path.lstat().st_mode):
            return path.read_bytes()
    return b""

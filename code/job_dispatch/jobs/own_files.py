"""What a run has made: opened by descriptor, never through a link, and removed only where it is recognised.

Whoever may write into the folder may put a link, a pipe or a file of somebody else in the place of ours at any
moment. So names are looked up below an open descriptor (`openat`), the last part never followed, and what was
opened is looked at, not its name.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from job_dispatch.messages import RequestError

_JOB_FILE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.json")
_JOURNAL_BYTES = 1_000_000_000
UNFINISHED = ".unfinished"
_IN_THE_WAY = (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO)


def refusal(place: str, what: str) -> RequestError:
    """Return the error that names what no run has made."""
    return RequestError(f"--output_directory: {place} {what}; nothing is touched, move it away")


def open_folder(name: str, parent: int, place: str) -> int:
    """Open a folder below a descriptor, if it is one and belongs to this user.

    Raises
    ------
    RequestError
        It is a link or a file, or belongs to another user.
    FileNotFoundError
    """
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except PermissionError:
        check_owner(os.stat(name, dir_fd=parent, follow_symlinks=False), parent, place)
        raise
    except OSError as error:
        if error.errno not in _IN_THE_WAY:
            raise
        raise refusal(place, "is a link or a file where a run makes a folder") from None
    with _closing_if_failed(descriptor):
        check_owner(os.fstat(descriptor), parent, place)
    return descriptor


def open_file(name: str, parent: int, place: str, flags: int = os.O_RDONLY) -> int:
    """Open a regular file below a descriptor, if it is one, has no second name and belongs to this user.

    Raises
    ------
    RequestError
        It is something else.
    FileNotFoundError
        Also where it was removed at this moment.
    """
    try:
        # Without O_NONBLOCK a pipe would be waited for.
        descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666, dir_fd=parent)
    except PermissionError:
        check_owner(os.stat(name, dir_fd=parent, follow_symlinks=False), parent, place)
        raise
    except OSError as error:
        if error.errno not in _IN_THE_WAY:
            raise
        raise refusal(place, "is a link, a pipe or a folder where a run makes a file") from None
    with _closing_if_failed(descriptor):
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise refusal(place, "is no regular file where a run makes one")
        if found.st_nlink > 1:
            raise refusal(place, "is a hard link where a run makes a file")
        check_owner(found, parent, place)
        if found.st_nlink == 0:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    return descriptor


@contextmanager
def _closing_if_failed(descriptor: int) -> Iterator[None]:
    try:
        yield
    except BaseException:
        os.close(descriptor)
        raise


def check_owner(found: os.stat_result, parent: int, place: str) -> None:
    """Refuse what belongs to another user.

    A network file system may show all that is made by this user as somebody else's; so a folder is made to compare.
    """
    if found.st_uid == os.geteuid() or found.st_uid == _owner_of_new(parent):
        return
    raise refusal(place, f"belongs to another user ({_user(found.st_uid)})")


def _owner_of_new(parent: int) -> int:
    name = f".dispatch.{secrets.token_hex(16)}"
    os.mkdir(name, 0o700, dir_fd=parent)
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False).st_uid
    finally:
        os.rmdir(name, dir_fd=parent)


def _user(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"number {uid}"


def names(folder: int) -> list[str]:
    """Return the names in a folder that is open, sorted."""
    return sorted(os.listdir(folder))


def is_worker_name(name: str) -> bool:
    """Tell whether a folder of this name is a worker folder, or claims to be one."""
    return name.isascii() and name.isdecimal()


def job_names(name: str, parent: int) -> list[str] | None:
    """Return the names of the job files in a worker folder; None for anything else: links, other names, other files."""
    if not is_worker_name(name):
        return None
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except OSError as error:
        if error.errno in _IN_THE_WAY:
            return None
        raise
    try:
        with os.scandir(descriptor) as entries:
            found = []
            for entry in entries:
                if not (_JOB_FILE.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)):
                    return None
                found.append(entry.name)
        return sorted(found)
    finally:
        os.close(descriptor)


def remove_worker_folder(name: str, parent: int) -> None:
    """Remove a worker folder as far as it is one: what else is in it stays, and then the folder does."""
    with contextlib.suppress(OSError):
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        try:
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    if _JOB_FILE.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                        os.unlink(entry.name, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        os.rmdir(name, dir_fd=parent)


def exists(name: str, parent: int) -> bool:
    """Tell whether there is anything of this name, a dangling link too."""
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def write_whole(name: str, parent: int, value: object) -> None:
    """Write a JSON file that is there whole or not at all, whatever kills the process."""
    unfinished = f"{name}{UNFINISHED}"
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666, dir_fd=parent)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - a Path takes no descriptor
            json.dump(value, file)
            file.flush()
            os.fsync(file.fileno())
        os.rename(unfinished, name, src_dir_fd=parent, dst_dir_fd=parent)
    except BaseException:
        os.unlink(unfinished, dir_fd=parent)
        raise


def read_json(name: str, parent: int, place: str, beginning: bytes) -> Any:
    """Return what a JSON file of this user holds, None where it was not written whole.

    Raises
    ------
    RequestError
        It is no regular file of this user, or neither JSON nor a part of what begins as `write_whole` writes it.
    FileNotFoundError
    """
    descriptor = open_file(name, parent, place)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a Path takes no descriptor
        text = file.read(_JOURNAL_BYTES)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        written = text.rstrip(b"\0")  # a disk that failed
        if not (written.startswith(beginning) or beginning.startswith(written)):
            raise refusal(place, "was not made by a run") from None
        return None


@contextmanager
def opened(directory: Path) -> Iterator[int]:
    """Open a folder for the calls that take its descriptor, and close it behind them."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)

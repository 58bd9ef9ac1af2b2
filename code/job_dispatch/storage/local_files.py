"""Listing local folders by the same rules as S3.

Names are bytes on a disk, and text in job files. They are read as UTF-8 whatever the locale says.

obstore's local store is not used: it refuses a whole folder for one name that is not UTF-8, fails on link
loops and lists a missing folder as an empty one.
"""

from __future__ import annotations

import asyncio
import os
import stat

from job_dispatch.messages import RequestError, ServiceError, counted, warn_listing
from job_dispatch.model import File, Folder
from job_dispatch.storage.matching import Found, Match, Matching, is_own_match


async def find_files(location: str, matching: Matching) -> list[File]:
    """Return the matches at a location `file:///folder`, by path.

    Links to files count. Links to folders are followed once, after the folders themselves, so that what
    can be reached without a link has the path without it. Broken links and loops are skipped with a warning.

    Raises
    ------
    RequestError
        There is nothing at that path.
    ServiceError
        A folder cannot be read, or a match has a name that is not UTF-8.
    """
    return await asyncio.to_thread(_find_files, location, matching)


async def measure(location: str) -> int:
    """Return the bytes of all files below a location `file:///folder`, or of the file there.

    Raises
    ------
    ServiceError
        A folder cannot be read.
    """
    return await asyncio.to_thread(_measure, _path(location))


async def list_folder(location: str) -> Folder:
    """Return what lies directly in a folder `file:///folder`. Raises as `find_files` does."""
    return await asyncio.to_thread(folder_at, location)


def folder_at(location: str) -> Folder:
    """Return the same, in this thread."""
    path = _path(location)
    found = Folder([], [])
    try:
        with os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda one: one.name):
                if entry.is_dir():
                    found.folders.append(f"file://{_text(entry.path)}")
                elif entry.is_file():
                    found.files.append(File(f"file://{_text(entry.path)}", *_match(entry.stat())))
    except (FileNotFoundError, NotADirectoryError):
        raise RequestError(f"no such local folder: {_text(path)}") from None
    except OSError as error:
        raise _unreadable(error) from error
    return found


async def read(address: str) -> bytes:
    """Return the bytes of a file `file:///path`.

    Raises
    ------
    RequestError
        There is none.
    ServiceError
        It cannot be read.
    """
    return await asyncio.to_thread(content_of, address)


def content_of(address: str) -> bytes:
    """Return the same, in this thread."""
    path = _path(address)
    try:
        return _read(path)
    except (FileNotFoundError, NotADirectoryError):
        raise RequestError(f"no such local file: {_text(path)}") from None
    except OSError as error:
        raise _unreadable(error) from error


def _read(path: bytes) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123  a Path cannot hold bytes
        return file.read()


def _path(location: str) -> bytes:
    path = location.removeprefix("file://")
    if "\0" in path:
        raise RequestError(f"no such local folder: {path}")
    return path.encode("utf-8", "surrogateescape")


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def _unreadable(error: OSError) -> ServiceError:
    name = error.filename
    return ServiceError(f"cannot be read: {_text(name) if isinstance(name, bytes) else name}: {error.strerror}")


def _measure(path: bytes) -> int:
    try:
        status = os.stat(path)  # noqa: PTH116
        if stat.S_ISREG(status.st_mode):
            return status.st_size
        size, folders = 0, [path]
        while folders:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_file():  # links to files count, as they do where files are listed
                        size += entry.stat().st_size
        return size
    except OSError as error:
        raise _unreadable(error) from error


def _find_files(location: str, matching: Matching) -> list[File]:
    path = _path(location)
    try:
        status = os.stat(path)  # noqa: PTH116
        itself = is_own_match(location, matching)
        if itself:
            return [File(location, *(_match(status) if stat.S_ISREG(status.st_mode) else _match_of_store(path)))]
        if itself is False or not stat.S_ISDIR(status.st_mode):
            return []
        walked = _LocalWalk(path, matching)
    except (FileNotFoundError, NotADirectoryError):
        raise RequestError(f"no such local folder: {_text(path)}") from None
    except OSError as error:
        raise _unreadable(error) from error
    if walked.skipped:
        warn_listing(f"{_text(path)}: {counted(len(walked.skipped), 'link')} skipped:", walked.skipped)
    return [File(f"file://{found}", *match) for found, match in sorted(walked.found.items())]


def _match(status: os.stat_result) -> Match:
    return Match(status.st_size, str(status.st_mtime_ns))


def _match_of_store(path: bytes) -> Match:
    """Return what is known of a store without looking inside: the newest change of its folder and what is in that."""
    with os.scandir(path) as entries:
        changed = [entry.stat(follow_symlinks=False).st_mtime_ns for entry in entries]
    return Match(None, str(max([os.stat(path).st_mtime_ns, *changed])))  # noqa: PTH116


class _LocalWalk:
    def __init__(self, folder: bytes, matching: Matching) -> None:
        self.found: Found = {}
        self.skipped: list[str] = []
        self._matching = matching
        self._start = len(folder.rstrip(b"/")) + 1
        # A link to a folder above would list everything beside the asset, and the asset again.
        self._entered: set[tuple[int, int]] = set()
        parent = os.path.dirname(os.path.realpath(folder))  # noqa: PTH120
        while parent not in (b"/", b""):
            self._entered.add(_identity(parent))
            parent = os.path.dirname(parent)  # noqa: PTH120
        self._entered.add(_identity(b"/"))
        self._links: list[bytes] = []
        self._enter(folder)
        while self._links:
            link = self._links.pop(0)
            if _identity(link) in self._entered:
                self.skipped.append(f"{_text(link)}: a link to a folder that is listed already")
            else:
                self._enter(link)

    def _enter(self, folder: bytes) -> None:
        folders = [folder]
        while folders:
            current = folders.pop()
            identity = _identity(current)
            if identity in self._entered:
                continue
            self._entered.add(identity)
            with os.scandir(current) as entries:
                for entry in sorted(entries, key=lambda one: one.name):
                    if self._is_folder_to_enter(entry):
                        (self._links if entry.is_symlink() else folders).append(entry.path)

    def _is_folder_to_enter(self, entry: os.DirEntry[bytes]) -> bool:
        """Take the entry if it is a match; tell whether matches may lie in it."""
        if entry.is_symlink() and not os.path.exists(entry.path):  # noqa: PTH110
            self.skipped.append(f"{_text(entry.path)}: a broken link")
            return False
        path = _text(entry.path[self._start :])
        is_folder = entry.is_dir()
        is_store = is_folder and self._is_store(entry, path)
        if (is_store or entry.is_file()) and self._matching.matches(path):
            self._take(_text(entry.path), _match_of_store(entry.path) if is_folder else _match(entry.stat()))
        return is_folder and not is_store

    def _is_store(self, entry: os.DirEntry[bytes], path: str) -> bool:
        """Tell whether a folder is a store by its name, or by that of the folder that it is a link to."""
        is_store = self._matching.is_store
        if is_store(path) or not entry.is_symlink():
            return is_store(path)
        return is_store(_text(os.path.realpath(entry.path)).rpartition("/")[2])

    def _take(self, path: str, match: Match) -> None:
        try:
            path.encode()
        except UnicodeEncodeError:
            name = path.encode("utf-8", "surrogateescape")
            raise ServiceError(f"the name of a file is not UTF-8: {name!r}; rename it") from None
        self.found[path] = match


def _identity(path: bytes) -> tuple[int, int]:
    status = os.stat(path)  # noqa: PTH116
    return status.st_dev, status.st_ino

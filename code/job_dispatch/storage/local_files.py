"""Listing local folders by the same rules as S3.

obstore's local store is not used: it refuses a whole folder for one name that is not UTF-8, fails on link
loops and lists a missing folder as an empty one.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from job_dispatch.messages import RequestError, ServiceError, counted, warn_listing
from job_dispatch.model import File, Folder
from job_dispatch.storage.matching import STORE, Found, Match, Matching, is_own_match


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
    return await asyncio.to_thread(_measure, Path(location.removeprefix("file://")))


async def list_folder(location: str) -> Folder:
    """Return what lies directly in a folder `file:///folder`. Raises as `find_files` does."""
    return await asyncio.to_thread(_list_folder, Path(location.removeprefix("file://")))


def _list_folder(path: Path) -> Folder:
    found = Folder([], [])
    try:
        with os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda one: one.name):
                if entry.is_dir():
                    found.folders.append(f"file://{entry.path}")
                elif entry.is_file():
                    found.files.append(File(f"file://{entry.path}", *_match(entry.stat())))
    except (FileNotFoundError, NotADirectoryError):
        raise RequestError(f"no such local folder: {path}") from None
    except OSError as error:
        raise ServiceError(f"cannot be read: {error.filename}: {error.strerror}") from error
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
    path = Path(address.removeprefix("file://"))
    try:
        return await asyncio.to_thread(path.read_bytes)
    except (FileNotFoundError, NotADirectoryError):
        raise RequestError(f"no such local file: {path}") from None
    except OSError as error:
        raise ServiceError(f"cannot be read: {error.filename}: {error.strerror}") from error


def _measure(path: Path) -> int:
    try:
        if path.is_file():
            return path.stat().st_size
        size = 0
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    size += _measure(Path(entry.path))
                elif entry.is_file():  # links to files count, as they do where files are listed
                    size += entry.stat().st_size
        return size
    except OSError as error:
        raise ServiceError(f"cannot be read: {error.filename}: {error.strerror}") from error


def _find_files(location: str, matching: Matching) -> list[File]:
    path = Path(location.removeprefix("file://"))
    try:
        path.stat()
        itself = is_own_match(location, matching)
        if itself:
            return [File(location, *(_match(path.stat()) if path.is_file() else STORE))]
        if itself is False or not path.is_dir():
            return []
        walked = _LocalWalk(str(path), matching)
    except (FileNotFoundError, NotADirectoryError):
        raise RequestError(f"no such local folder: {path}") from None
    except OSError as error:
        raise ServiceError(f"cannot be read: {error.filename}: {error.strerror}") from error
    if walked.skipped:
        warn_listing(f"{path}: {counted(len(walked.skipped), 'link')} skipped:", walked.skipped)
    return [File(f"file://{found}", *match) for found, match in sorted(walked.found.items())]


def _match(status: os.stat_result) -> Match:
    return Match(status.st_size, str(status.st_mtime_ns))


class _LocalWalk:
    def __init__(self, folder: str, matching: Matching) -> None:
        self.found: Found = {}
        self.skipped: list[str] = []
        self._matching = matching
        self._start = len(folder.rstrip("/")) + 1
        # A link to a folder above would list everything beside the asset, and the asset again.
        self._entered = {_identity(str(parent)) for parent in Path(folder).resolve().parents}
        self._links: list[str] = []
        self._enter(folder)
        while self._links:
            link = self._links.pop(0)
            if _identity(link) in self._entered:
                self.skipped.append(f"{link}: a link to a folder that is listed already")
            else:
                self._enter(link)

    def _enter(self, folder: str) -> None:
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

    def _is_folder_to_enter(self, entry: os.DirEntry[str]) -> bool:
        """Take the entry if it is a match; tell whether matches may lie in it."""
        if entry.is_symlink() and not Path(entry.path).exists():
            self.skipped.append(f"{entry.path}: a broken link")
            return False
        path = entry.path[self._start :]
        is_folder = entry.is_dir()
        is_store = is_folder and self._is_store(entry, path)
        if (is_store or entry.is_file()) and self._matching.matches(path):
            self._take(entry.path, STORE if is_folder else _match(entry.stat()))
        return is_folder and not is_store

    def _is_store(self, entry: os.DirEntry[str], path: str) -> bool:
        """Tell whether a folder is a store by its name, or by that of the folder that it is a link to."""
        is_store = self._matching.is_store
        return is_store(path) or (entry.is_symlink() and is_store(Path(entry.path).resolve().name))

    def _take(self, path: str, match: Match) -> None:
        try:
            path.encode()
        except UnicodeEncodeError:
            raise ServiceError(f"the name of a file is not UTF-8: {os.fsencode(path)!r}; rename it") from None
        self.found[path] = match


def _identity(path: str) -> tuple[int, int]:
    status = Path(path).stat()
    return status.st_dev, status.st_ino

"""Folders and buckets for everyone: what lies in one, which of its files fit patterns, and what small files hold."""

from __future__ import annotations

import asyncio
import fnmatch
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Protocol, Self, TypeVar

from job_dispatch.messages import DispatchError, RequestError
from job_dispatch.model import File, Folder
from job_dispatch.request.flag_values import STORE_ENDINGS
from job_dispatch.storage import local_files
from job_dispatch.storage.loop import Loop, run
from job_dispatch.storage.matching import ByPattern, Matching

Answer = TypeVar("Answer")
_ITEMS_A_BLOCK = 32
# Chooses which of the names in a folder to read next, by what was read before; none: that is all.
Choice = Callable[[frozenset[str], Mapping[str, bytes]], Sequence[str]]


class _Place(Protocol):
    """S3, or local folders."""

    async def find_files(self, location: str, matching: Matching) -> list[File]: ...

    async def list_folder(self, location: str) -> Folder: ...

    async def read(self, address: str) -> bytes: ...


class Places:
    """Lists folders and reads small files at `s3://` and `file://` addresses, many at once; a context manager.

    Parameters
    ----------
    max_concurrency : int
        At most this many are listed or read at once.
    """

    def __init__(self, max_concurrency: int = 64) -> None:
        self._max_concurrency = max_concurrency
        self._loop = Loop()
        self._places: dict[str, _Place] = {}

    def __enter__(self) -> Self:
        self._loop.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.__exit__(kind, error, trace)

    def list_folders(self, locations: Iterable[str]) -> Iterator[tuple[str, Folder | DispatchError]]:
        """Yield locations in their order, each with what lies directly in it or why it could not be listed."""
        return self._in_order(
            locations, local_files.folder_at, lambda location: self._place(location).list_folder(location)
        )

    def read_files(self, addresses: Iterable[str]) -> Iterator[tuple[str, bytes | DispatchError]]:
        """Yield small files in their order, each with its bytes or why it could not be read."""
        return self._in_order(addresses, local_files.content_of, lambda address: self._place(address).read(address))

    def read_folders(
        self, locations: Iterable[str], choose: Choice
    ) -> Iterator[tuple[str, dict[str, bytes] | DispatchError]]:
        """Yield folders in their order, each with the small files directly in it that `choose` names.

        `choose` takes the names of all files in the folder and what was read so far; it is asked until it names none.
        """

        def names_in(folder: Folder) -> frozenset[str]:
            return frozenset(file.address.rpartition("/")[2] for file in folder.files)

        def read_local(location: str) -> dict[str, bytes]:
            names = names_in(local_files.folder_at(location))
            contents: dict[str, bytes] = {}
            while wanted := choose(names, contents):
                contents.update({name: local_files.content_of(f"{location}/{name}") for name in wanted})
            return contents

        async def read(location: str) -> dict[str, bytes]:
            place = self._place(location)
            names = names_in(await place.list_folder(location))
            contents: dict[str, bytes] = {}
            while wanted := choose(names, contents):
                read = await asyncio.gather(*(place.read(f"{location}/{name}") for name in wanted))
                contents.update(zip(wanted, read, strict=True))
            return contents

        return self._in_order(locations, read_local, read)

    def match(self, base: str, pattern: Sequence[str]) -> Folder:
        """Return the folders and files below a location that fit a pattern, one part per level, by path.

        `*`, `?` and `[…]` are as in a shell, `**` is any number of folders. Hidden entries only fit a part that begins
        with a dot. Stores count as folders and are not entered.

        Raises
        ------
        RequestError
            There is no such local folder.
        ServiceError
            A folder cannot be listed.
        """
        entered = [base]
        *parts, last = pattern
        for part in parts:
            if part == "**":
                entered = self._below(entered)
            elif any(wildcard in part for wildcard in "*?["):
                found = [folder for level in self._levels(entered) for folder in level.folders]
                entered = [folder for folder in found if _fits(folder, part) and not folder.endswith(STORE_ENDINGS)]
            else:
                entered = [f"{folder.rstrip('/')}/{part}" for folder in entered]
        levels = list(self._levels(entered))
        folders = sorted(folder for level in levels for folder in level.folders if _fits(folder, last))
        files = sorted(file for level in levels for file in level.files if _fits(file.address, last))
        return Folder(folders, files)

    def _below(self, folders: list[str]) -> list[str]:
        """Return folders with all folders below them."""
        found = list(folders)
        while folders:
            below = (folder for level in self._levels(folders) for folder in level.folders)
            folders = [one for one in below if _fits(one, "*") and not one.endswith(STORE_ENDINGS)]
            found += folders
        return found

    def _levels(self, folders: Sequence[str]) -> Iterator[Folder]:
        for _, level in self.list_folders(folders):
            if isinstance(level, Folder):
                yield level
            elif len(folders) == 1 or not isinstance(level, RequestError):
                raise level

    def _place(self, address: str) -> _Place:
        scheme = address.partition("://")[0]
        if scheme not in self._places:
            self._places[scheme] = _place(address, self._max_concurrency)
        return self._places[scheme]

    def _in_order(
        self, items: Iterable[str], local: Callable[[str], Answer], remote: Callable[[str], Awaitable[Answer]]
    ) -> Iterator[tuple[str, Answer | DispatchError]]:
        """Yield the answer for each item; further ones are on their way meanwhile."""

        def answer_of_disk(item: str) -> Answer | DispatchError:
            try:
                return local(item)
            except DispatchError as error:
                return error

        async def answer(item: str) -> Answer | DispatchError:
            try:
                return await remote(item)
            except DispatchError as error:
                return error

        async def answers(block: Sequence[str]) -> list[Answer | DispatchError]:
            if block[0].startswith("file://"):  # one hop to a thread per block: each takes longer than a folder
                return await asyncio.to_thread(lambda: list(map(answer_of_disk, block)))
            return await asyncio.gather(*map(answer, block))

        size = min(_ITEMS_A_BLOCK, self._max_concurrency)
        left = iter(items)
        waiting: deque[tuple[list[str], Future[list[Answer | DispatchError]]]] = deque()
        while True:
            while len(waiting) < self._max_concurrency // size and (block := list(itertools.islice(left, size))):
                waiting.append((block, self._loop.submit(answers(block))))
            if not waiting:
                return
            block, found = waiting.popleft()
            yield from zip(block, found.result(), strict=True)


def _fits(address: str, part: str) -> bool:
    name = address.rpartition("/")[2]
    return fnmatch.fnmatchcase(name, part) and (part.startswith(".") or not name.startswith("."))


def list_folder(location: str) -> Folder:
    """Return what lies directly at a location: `s3://bucket/prefix`, a bucket or `file:///folder`.

    Raises
    ------
    RequestError
        There is no such local folder; a prefix of S3 without objects is an empty folder.
    ServiceError
        It cannot be listed.
    """

    async def ask() -> Folder:
        return await _place(location, 1).list_folder(location)

    return run(ask())


def find_files(location: str, patterns: Sequence[str], max_concurrency: int = 64) -> list[File]:
    """Return the files and stores below a location that fit patterns such as `*/metadata.nd.json`, by path.

    Stores are not entered. A pattern's fixed folders alone are listed. Raises as `list_folder` does.
    """

    async def ask() -> list[File]:
        return await _place(location, max_concurrency).find_files(location, ByPattern(patterns))

    return run(ask())


def read_files(addresses: Iterable[str], max_concurrency: int = 64) -> Iterator[tuple[str, bytes | DispatchError]]:
    """Yield small files in their order, each with its bytes or the reason why it could not be read.

    At most `max_concurrency` are read at once, and in memory.
    """
    with Places(max_concurrency) as places:
        yield from places.read_files(addresses)


def _place(address: str, max_concurrency: int) -> _Place:
    if address.startswith("file://"):
        return local_files
    from job_dispatch.storage.s3 import S3  # boto3 takes half a second to load

    return S3(max_concurrency)

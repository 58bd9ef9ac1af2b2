"""Folders and buckets for everyone: what lies in one, which of its files fit patterns, and what small files hold."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from job_dispatch.messages import DispatchError
from job_dispatch.model import File, Folder
from job_dispatch.storage.locating import run
from job_dispatch.storage.matching import ByPattern, Matching

# Files are asked for in blocks, so that only a block of them is in memory.
_FILES_A_BLOCK = 1_000


class _Place(Protocol):
    """S3, or local folders."""

    async def find_files(self, location: str, matching: Matching) -> list[File]: ...

    async def list_folder(self, location: str) -> Folder: ...

    async def read(self, address: str) -> bytes: ...


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

    At most `max_concurrency` are read at once, in blocks of a thousand.
    """

    async def read(block: Sequence[str]) -> list[bytes | DispatchError]:
        free = asyncio.Semaphore(max_concurrency)
        places = {scheme: _place(scheme, max_concurrency) for scheme in {_scheme(address) for address in block}}

        async def one(address: str) -> bytes | DispatchError:
            async with free:
                try:
                    return await places[_scheme(address)].read(address)
                except DispatchError as error:
                    return error

        return await asyncio.gather(*map(one, block))

    left = iter(addresses)
    while block := list(itertools.islice(left, _FILES_A_BLOCK)):
        yield from zip(block, run(read(block)), strict=True)


def _scheme(address: str) -> str:
    return address.partition("://")[0]


def _place(location: str, max_concurrency: int) -> _Place:
    if _scheme(location) == "file":
        from job_dispatch.storage import local_files

        return local_files
    from job_dispatch.storage.s3 import S3  # boto3 takes half a second to load

    return S3(max_concurrency)

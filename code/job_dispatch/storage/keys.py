"""What a place with keys answers, page by page and folder by folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple, Protocol

PAGE_SIZE = 1_000
# Blocking calls at once: of boto3, and of the file system.
THREADS = 64
# The greatest character: behind `folder/` it sorts after everything in the folder.
LAST = "\U0010ffff"


class Level(NamedTuple):
    """What lies directly in a folder: keys of its files with their bytes, prefixes (with `/`) of its folders."""

    files: Mapping[str, int]
    folders: Sequence[str]


class Page(NamedTuple):
    """Keys in order, their bytes, and whether none come after them."""

    keys: Sequence[str]
    sizes: Sequence[int]
    is_last: bool


class Source(Protocol):
    """A place with keys, asked by pages of `PAGE_SIZE` entries."""

    async def level(self, folder: str) -> Level:
        """List what lies directly in a folder; `folder` ends with `/`."""
        ...

    def pages(self, prefix: str, after: str | None) -> AsyncIterator[Page]:
        """Yield all keys below a prefix, from the first one greater than `after`; one page a request."""
        ...


def end_of(folder: str) -> str:
    """Return what sorts after all keys below a folder that ends with `/`, and before all others after them."""
    return folder + LAST


def common_start(one: str, other: str) -> str:
    """Return the longest text that two texts begin with."""
    length = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:length]

"""Keys in memory that are asked as S3 is, and the two plain ways to list them."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Iterable

from job_dispatch.storage import keys as paging
from job_dispatch.storage.keys import Level, Page

STORES = (".zarr", ".n5", ".nwb")
Endings = tuple[str, ...]


class Tree:
    """Keys in memory, listed by pages of `PAGE_SIZE`; it counts its requests, and how many there are at once."""

    def __init__(self, keys: Iterable[str], order: str = "text") -> None:
        self._sort = str.encode if order == "text" else (lambda key: key.replace("/", "\0").encode())
        self.keys = sorted(set(keys), key=self._sort)
        self._encoded = [self._sort(key) for key in self.keys]
        self.requests = 0
        self.in_flight = 0
        self.most_in_flight = 0

    async def level(self, folder: str) -> Level:
        below = [key.removeprefix(folder).partition("/") for key in self.keys if key.startswith(folder)]
        files = {folder + name: len(name) for name, slash, _ in below if not slash}
        folders = sorted({f"{folder}{name}/" for name, slash, _ in below if slash})
        for _ in range(max(1, -(-(len(files) + len(folders)) // paging.PAGE_SIZE))):
            await self._ask()
        return Level(files, folders)

    async def pages(self, prefix: str, after: str | None) -> AsyncIterator[Page]:
        position = bisect_right(self._encoded, self._sort(after or ""))
        keys = [key for key in self.keys[position:] if key.startswith(prefix)]
        for start in range(0, max(1, len(keys)), paging.PAGE_SIZE):
            await self._ask()
            page = keys[start : start + paging.PAGE_SIZE]
            yield Page(page, [len(key.rpartition("/")[2]) for key in page], len(page) < paging.PAGE_SIZE)

    async def _ask(self) -> None:
        self.requests += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        # Answers take more or less long, so that they come in another order than the questions.
        for _ in range(1 + self.requests * 7 % 5):
            await asyncio.sleep(0)
        self.in_flight -= 1


def store_of(key: str, prefix: str, endings: Endings) -> str | None:
    """Return the outermost store below a prefix that a key lies in."""
    parts = key.removeprefix(prefix).split("/")
    for depth, name in enumerate(parts[:-1], 1):
        if name.endswith((*STORES, *endings)):
            return prefix + "/".join(parts[:depth])
    return None


def matches(keys: Iterable[str], prefix: str, endings: Endings) -> dict[str, int | None]:
    """Return what the rules say of each key, with its size; a store has none."""
    found: dict[str, int | None] = {}
    for key in sorted(keys):
        store = store_of(key, prefix, endings)
        if store is None and key.endswith(endings):
            found.setdefault(key, len(key.rpartition("/")[2]))
        elif store is not None and store.endswith(endings):
            found[store] = None
    return found


def requests_of_walk(keys: Iterable[str], prefix: str, endings: Endings) -> int:
    """Return how many requests it takes to list each folder that is no store, a page of entries a request."""
    entries: dict[str, set[str]] = {prefix: set()}
    for key in keys:
        entry = store_of(key, prefix, endings) or key
        while entry + "/" != prefix:
            folder = entry.rpartition("/")[0]
            entries.setdefault(f"{folder}/", set()).add(entry)
            entry = folder
    return sum(max(1, -(-len(one) // paging.PAGE_SIZE)) for one in entries.values())


def requests_of_flat_listing(keys: Iterable[str], prefix: str, endings: Endings) -> int:
    """Return how many pages there are if whatever is left of a store is passed over where a page ends in it."""
    ordered = sorted(keys, key=str.encode)
    encoded = [key.encode() for key in ordered]
    position = requests = 0
    while True:
        requests += 1
        page = ordered[position : position + paging.PAGE_SIZE]
        position += len(page)
        if len(page) < paging.PAGE_SIZE:
            return requests
        store = store_of(page[-1], prefix, endings)
        if store is not None:
            position = bisect_left(encoded, f"{store}/\U0010ffff".encode())
        elif position == len(ordered):
            return requests

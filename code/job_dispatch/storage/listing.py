"""Which files of an asset match: the rules, and how they are found with few requests.

A file matches by the ending of its name. A folder whose name ends in `.zarr`, `.n5`, `.nwb` or a wanted
ending is a store: one thing with thousands of objects that matches by its own name and is never entered.
No other folder is a match. Endings are case-sensitive.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

Endings = tuple[str, ...]
STORE_ENDINGS: Endings = (".zarr", ".n5", ".nwb")
PAGE_SIZE = 1_000
# Blocking calls at once: of boto3, and of the file system.
THREADS = 64
# Sorts after everything in a store: `store/` and the greatest character.
_END_OF_STORE = "/\U0010ffff"
# A key that is looked at and thrown away costs about a hundredth of a request.
_KEYS_A_REQUEST = 100
_HEAD_START = 2


# Keys of matches, stores without a trailing slash, with their size in bytes; None for a store.
Found = dict[str, int | None]


class Level(NamedTuple):
    """What lies directly in a folder: keys of its files with their bytes, prefixes (with `/`) of its folders."""

    files: Mapping[str, int]
    folders: Sequence[str]


class Page(NamedTuple):
    """Keys in order, and their bytes."""

    keys: Sequence[str]
    sizes: Sequence[int]


ListLevel = Callable[[str], Awaitable[Level]]


class Source(Protocol):
    """A place with keys, asked by pages of `PAGE_SIZE` entries."""

    async def level(self, folder: str) -> Level:
        """List what lies directly in a folder; `folder` ends with `/`."""
        ...

    def pages(self, prefix: str, after: str | None) -> AsyncIterator[Page]:
        """Yield all keys below a prefix, from the first one greater than `after`; one page a request."""
        ...


def match_of_location(location: str, endings: Endings) -> Found | None:
    """Return what a location itself matches: itself, nothing, or None where files may lie below it."""
    if location.endswith(endings):
        return {location: None}
    return {} if location.endswith(STORE_ENDINGS) else None


class Walk:
    """Finds matches folder by folder; a step is one folder. Stores cost nothing, folders a request each."""

    def __init__(self, list_level: ListLevel, prefix: str, endings: Endings) -> None:
        self.found: Found = {}
        self.cost = 0.0
        self.requests = 0
        self._list_level, self._endings = list_level, endings
        self._folders = [prefix]

    async def step(self) -> bool:
        """List one more folder; return whether all is found."""
        level = await self._list_level(self._folders.pop())
        entries = len(level.files) + len(level.folders)
        requests = max(1, -(-entries // PAGE_SIZE))
        self.requests += requests
        self.cost += requests + entries / _KEYS_A_REQUEST
        self.found.update((key, size) for key, size in level.files.items() if key.endswith(self._endings))
        for folder in level.folders:
            store = folder[:-1]
            if store.endswith(self._endings):
                self.found[store] = None
            elif not store.endswith(STORE_ENDINGS):
                self._folders.append(folder)
        return not self._folders


class Flat:
    """Finds matches key by key; a step is one page. Folders cost nothing, a large store is jumped over."""

    def __init__(self, source: Source, prefix: str, endings: Endings) -> None:
        self.found: Found = {}
        self.cost = 0.0
        self.requests = 0
        self._source, self._prefix, self._endings = source, prefix, endings
        self._stores: dict[str, str | None] = {prefix[:-1]: None}
        self._pages = source.pages(prefix, None)

    async def step(self) -> bool:
        """List one more page; return whether all is found."""
        page = await anext(self._pages, None) or Page((), ())
        self._stores = {self._prefix[:-1]: None}  # only of this page, or they would grow with the number of folders
        self.requests += 1
        self.cost += 1 + len(page.keys) / _KEYS_A_REQUEST
        store = None
        for number, key in enumerate(page.keys):
            if not key.startswith(self._prefix):
                continue  # the marker object of the folder itself, without its slash
            store = self._store_of(key.rpartition("/")[0])
            if store is None and key.endswith(self._endings):
                self.found.setdefault(key, page.sizes[number])
            elif store is not None and store.endswith(self._endings):
                self.found[store] = None
        is_last = len(page.keys) < PAGE_SIZE
        if store is not None and not is_last:
            self._pages = self._source.pages(self._prefix, store + _END_OF_STORE)
        return is_last

    def _store_of(self, folder: str) -> str | None:
        """Return the outermost store that a folder is or lies in, at or below the prefix."""
        if folder not in self._stores:
            parent = self._store_of(folder.rpartition("/")[0])
            is_store = folder.endswith(STORE_ENDINGS) or folder.endswith(self._endings)
            self._stores[folder] = parent or (folder if is_store else None)
        return self._stores[folder]


Way = type[Walk] | type[Flat]


def _begin(way: Way, source: Source, prefix: str, endings: Endings) -> Walk | Flat:
    return Walk(source.level, prefix, endings) if way is Walk else Flat(source, prefix, endings)


async def walk(list_level: ListLevel, prefix: str, endings: Endings) -> Found:
    """Return all matches below a prefix that ends with `/`."""
    walking = Walk(list_level, prefix, endings)
    while not await walking.step():
        pass
    return walking.found


async def find(source: Source, prefix: str, endings: Endings, first: Way) -> Found:
    """Return what `walk` returns with few requests, whatever the tree looks like.

    `first` has a head start; then both ways take a step in turns until one is done. So there are at most
    3 × the requests of the better way, plus 2:

    - If the walk is done after W requests, it took at most W steps, and the other way as many requests: 2 × W.
    - If the flat listing is done after F pages, the walk took at most F steps. A step takes more than one
      request only for a folder of more than 1,000 entries; each of them holds a key that no other entry of a
      listed folder holds, but for the one that is entered next, so there are at most F such further requests,
      for the flat listing had at most 1,000 × F keys: 3 × F.
    - The head start adds at most 2.
    """
    leading: Walk | Flat = _begin(first, source, prefix, endings)
    for _ in range(_HEAD_START):
        if await leading.step():
            return leading.found
    following = _begin(Flat if first is Walk else Walk, source, prefix, endings)
    while True:
        is_led, is_followed = await asyncio.gather(leading.step(), following.step())
        if is_led or is_followed:
            return leading.found if is_led else following.found


class Comparison:
    """Lists one asset in both ways, and finds out which costs less for such a tree."""

    def __init__(self, source: Source, prefix: str, endings: Endings) -> None:
        self._ways = [_begin(way, source, prefix, endings) for way in (Walk, Flat)]
        self._done = [False, False]

    async def first(self) -> tuple[Found, Way]:
        """Return what the way finds that is done first, within the bound of `find`."""
        while not any(self._done):
            self._done = list(await asyncio.gather(*(way.step() for way in self._ways)))
        winner = self._ways[self._done.index(True)]
        return winner.found, type(winner)

    async def cheaper(self) -> Way:
        """Return the way that costs less, in requests and in keys thrown away.

        The way that is done first need not be: a page of 600 keys that are no match costs more than two
        folders. So the other one goes on while it costs less, still within the bound of `find`.
        """
        winner = self._ways[self._done.index(True)]
        other = self._ways[1 - self._ways.index(winner)]
        is_done = all(self._done)
        while not is_done and other.cost < winner.cost and other.requests < 2 * winner.requests + _HEAD_START:
            is_done = await other.step()
        return type(other if is_done and other.cost < winner.cost else winner)

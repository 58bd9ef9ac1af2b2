"""What is a match: files and stores of an asset, by their paths.

A folder that is a store is one thing with thousands of objects: it matches by its own name and is never
entered. No other folder is a match.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from job_dispatch.storage.keys import Level, Page, end_of

Endings = tuple[str, ...]
STORE_ENDINGS: Endings = (".zarr", ".n5", ".nwb")

# Keys of matches, stores without a trailing slash, with their size in bytes; None for a store.
Found = dict[str, int | None]


class Matching(Protocol):
    """What is wanted of each asset. Paths are relative to the asset and have no trailing slash."""

    @property
    def folders(self) -> Sequence[str]:
        """Folders with a trailing slash, none within another, outside which nothing matches; `""` is the asset."""
        ...

    def matches(self, path: str) -> bool:
        """Tell whether what is there is wanted, be it a file or a store."""
        ...

    def is_store(self, path: str) -> bool:
        """Tell whether a folder is a store."""
        ...


@dataclass(frozen=True)
class ByEnding:
    """Files and stores whose names end in one of some endings; case-sensitive.

    A folder is a store if its name ends in `.zarr`, `.n5`, `.nwb` or a wanted ending; no marker file is looked at.
    """

    endings: Endings

    @property
    def folders(self) -> Sequence[str]:
        """The whole asset."""
        return ("",)

    def matches(self, path: str) -> bool:
        """Tell whether a name ends as wanted."""
        return path.endswith(self.endings)

    def is_store(self, path: str) -> bool:
        """Tell whether a name ends as that of a store."""
        return path.endswith(STORE_ENDINGS) or path.endswith(self.endings)


def is_own_match(location: str, matching: Matching) -> bool | None:
    """Tell whether a location itself is a match; None where matches may lie below it."""
    name = location.rpartition("/")[2]
    if matching.matches(name):
        return True
    return False if matching.is_store(name) else None


class Taker(Protocol):
    """What becomes of the keys of an asset; each key is handed over once."""

    def is_store(self, folder: str) -> bool:
        """Tell whether a folder, given without a trailing slash, is not entered."""
        ...

    def store_of(self, key: str) -> str | None:
        """Return the outermost store that a key lies in, without a trailing slash."""
        ...

    def take_page(self, page: Page, start: int, stop: int) -> int:
        """Take some keys of a page; return how many of them lie in no store."""
        ...

    def take_level(self, level: Level, after: str | None) -> None:
        """Take the files of a folder that come after a key, and the stores."""
        ...


class Matches:
    """Keeps what matches below a prefix that ends with `/`."""

    def __init__(self, matching: Matching, prefix: str) -> None:
        self.found: Found = {}
        self._matching = matching
        self._start = len(prefix)
        self._stores: dict[str, str | None] = {}

    def is_store(self, folder: str) -> bool:
        """Tell whether a folder is not entered."""
        return self._matching.is_store(folder[self._start :])

    def store_of(self, key: str) -> str | None:
        """Return the outermost store that a key lies in."""
        return self._store_at(key.rpartition("/")[0])

    def _store_at(self, folder: str) -> str | None:
        if len(folder) < self._start:
            return None
        if folder not in self._stores:
            outer = self._store_at(folder.rpartition("/")[0])
            self._stores[folder] = outer or (folder if self.is_store(folder) else None)
        return self._stores[folder]

    def take_page(self, page: Page, start: int, stop: int) -> int:
        """Keep what matches of some keys."""
        self._stores.clear()  # or they would grow with the number of folders
        matches, below, outside = self._matching.matches, self._start, 0
        folder, store = None, None
        for number in range(start, stop):
            key = page.keys[number]
            here = key.rpartition("/")[0]
            if here != folder:
                folder, store = here, self._store_at(here)
                if store is not None and matches(store[below:]):
                    self.found[store] = None
            if store is None:
                outside += 1
                if matches(key[below:]):
                    self.found.setdefault(key, page.sizes[number])
        return outside

    def take_level(self, level: Level, after: str | None) -> None:
        """Keep what matches directly in a folder."""
        for key, size in level.files.items():
            if (after is None or key > after) and self._matching.matches(key[self._start :]):
                self.found.setdefault(key, size)
        for folder in level.folders:
            store = folder[:-1]
            if self.is_store(store) and self._matching.matches(store[self._start :]):
                self.found[store] = None


class Bytes:
    """Adds up the bytes of all objects; nothing is a store."""

    def __init__(self) -> None:
        self.objects = 0
        self.total = 0

    def is_store(self, folder: str) -> bool:
        """Enter every folder."""
        return False

    def store_of(self, key: str) -> str | None:
        """No key lies in a store."""
        return None

    def take_page(self, page: Page, start: int, stop: int) -> int:
        """Add some keys of a page."""
        self.objects += stop - start
        self.total += sum(page.sizes[start:stop])
        return stop - start

    def take_level(self, level: Level, after: str | None) -> None:
        """Add the files of a folder."""
        sizes = [size for key, size in level.files.items() if after is None or key > after]
        self.objects += len(sizes)
        self.total += sum(sizes)


def part_of(keys: Sequence[str], folder: str, start: int) -> tuple[int, int]:
    """Return where the keys below a folder begin and stop among keys in order, from some number on."""
    begin = bisect_left(keys, folder, start)
    return begin, bisect_left(keys, end_of(folder), begin)

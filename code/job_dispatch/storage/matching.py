"""What is a match: files and stores of an asset, by their paths.

A folder that is a store is one thing with thousands of objects: it matches by its own name and is never
entered. No other folder is a match.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from job_dispatch.request import flag_values
from job_dispatch.request.flag_values import STORE_ENDINGS, Pattern
from job_dispatch.storage.keys import Page

Endings = tuple[str, ...]


class Match(NamedTuple):
    """The bytes of a file, None for a store, and its version (ETag), empty for a store."""

    size: int | None
    version: str


STORE = Match(None, "")

# Matches by their keys, those of stores without a trailing slash.
Found = dict[str, Match]


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


class Wanted(Matching, Protocol):
    """What of an asset's files was asked for, in one or several ways."""

    @property
    def ways(self) -> Sequence[str]:
        """The endings or patterns that take files, in their order."""
        ...

    @property
    def sought(self) -> str:
        """What a file is that is wanted: `whose name ends in .nwb`."""
        ...

    @property
    def flag(self) -> str:
        """What asks for them."""
        ...

    @property
    def orders(self) -> bool:
        """Whether the order of the ways is that of a job's files."""
        ...

    def ways_of(self, path: str) -> Sequence[int]:
        """Return the numbers of the ways in which a match was asked for."""
        ...


@dataclass(frozen=True)
class ByEnding:
    """Files and stores whose names end in one of some endings; case-sensitive.

    A folder is a store if its name ends in `.zarr`, `.n5`, `.nwb` or a wanted ending; no marker file is looked at.
    """

    endings: Endings
    flag = "--file_extension"
    orders = False

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

    @property
    def ways(self) -> Sequence[str]:
        """The endings."""
        return self.endings

    @property
    def sought(self) -> str:
        """What a file is that is wanted."""
        return f"whose name ends in {' or '.join(self.endings)}"

    def ways_of(self, path: str) -> Sequence[int]:
        """Return the numbers of the endings that a name has."""
        return [number for number, ending in enumerate(self.endings) if path.endswith(ending)]


class ByPattern:
    """Files and stores that fit patterns, in the syntax of git's ignore files; the last one that fits decides.

    A folder is a store if its name ends in `.zarr`, `.n5`, `.nwb`, or in the ending by which a pattern such as
    `*.nwb` asks.
    """

    flag = "--file_pattern"
    orders = True  # an analysis may rely on that of the patterns

    def __init__(self, texts: Sequence[str]) -> None:
        self._patterns: list[Pattern] = [flag_values.compiled(text) for text in texts]
        self._taking = [pattern for pattern in self._patterns if pattern.takes]
        self._last_first = [(pattern.takes, pattern.expression.search) for pattern in reversed(self._patterns)]
        self._store_endings = (*STORE_ENDINGS, *(pattern.ending for pattern in self._taking if pattern.ending))

    @property
    def folders(self) -> Sequence[str]:
        """The folders in which the patterns begin, none within another."""
        found = sorted({self._before_store(pattern.folder) for pattern in self._taking})
        return [one for one in found if not any(one != other and one.startswith(other) for other in found)]

    def _before_store(self, folder: str) -> str:
        """Return a folder as far as it leads into no store: nothing in one is a match."""
        names = folder.split("/")[:-1]
        outside = itertools.takewhile(lambda name: not name.endswith(self._store_endings), names)
        return "".join(f"{name}/" for name in outside)

    def matches(self, path: str) -> bool:
        """Tell whether the last pattern that fits takes."""
        name = f"{path}/" if path.endswith(self._store_endings) else path  # nwb/ means folders alone
        for takes, search in self._last_first:
            if search(name):
                return takes
        return False

    def is_store(self, path: str) -> bool:
        """Tell whether a name ends as that of a store."""
        return path.endswith(self._store_endings)

    @property
    def ways(self) -> Sequence[str]:
        """The patterns that take."""
        return [pattern.text for pattern in self._taking]

    @property
    def sought(self) -> str:
        """What a file is that is wanted."""
        texts = (f"{'' if pattern.takes else '!'}{pattern.text}" for pattern in self._patterns)
        return f"that fits {', '.join(texts)}"

    def ways_of(self, path: str) -> Sequence[int]:
        """Return the numbers of the patterns that take a match."""
        name = f"{path}/" if path.endswith(self._store_endings) else path
        return [number for number, pattern in enumerate(self._taking) if pattern.fits(name)]


def wanted(endings: Endings, patterns: Sequence[str]) -> Wanted:
    """Return what is wanted by endings of names or, where there are any, by patterns."""
    return ByPattern(patterns) if patterns else ByEnding(endings)


def is_own_match(location: str, matching: Matching) -> bool | None:
    """Tell whether a location itself is a match; None where matches may lie below it."""
    name = location.rpartition("/")[2]
    return matching.matches(name) if matching.is_store(name) else None


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

    def take_keys(self, page: Page, start: int, stop: int) -> int:
        """Keep what matches of some keys."""
        self._stores.clear()  # or they would grow with the number of folders
        keys, below, matches = page.keys, self._start, self._matching.matches
        folders = [key.rpartition("/")[0] for key in keys[start:stop]]
        stores = {folder: self._store_at(folder) for folder in set(folders)}
        for store in set(filter(None, stores.values())):
            self.take_store(store)
        outside: Sequence[int] = range(start, stop)
        if any(stores.values()):
            outside = [number for number, folder in enumerate(folders, start) if stores[folder] is None]
        for number in outside:
            if matches(keys[number][below:]) and not keys[number].endswith("/"):  # it would be a folder's marker
                self.found.setdefault(keys[number], Match(page.sizes[number], page.versions[number]))
        return len(outside)

    def take_store(self, folder: str) -> None:
        """Keep a store that matches."""
        if self._matching.matches(folder[self._start :]):
            self.found[folder] = STORE


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

    def take_keys(self, page: Page, start: int, stop: int) -> int:
        """Add some keys of a page."""
        self.objects += stop - start
        self.total += sum(page.sizes[start:stop])
        return stop - start

    def take_store(self, folder: str) -> None:
        """No folder is a store."""

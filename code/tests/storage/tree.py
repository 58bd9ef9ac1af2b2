"""Keys in memory that are asked as S3 is, random trees of them, and the two plain ways to list them."""

from __future__ import annotations

import asyncio
import itertools
import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence

from job_dispatch.storage import keys as paging
from job_dispatch.storage.keys import NO_KEYS, Level, NothingSeenError, Page, level_of

STORES = (".zarr", ".n5", ".nwb")
Endings = tuple[str, ...]


def by_folders(key: str) -> bytes:
    """Sort as a server that keeps folders does: what is in `a/` comes before `a-b`."""
    return key.replace("/", "\0").encode()


SORTS: dict[str, Callable[[str], bytes]] = {"text": str.encode, "folders": by_folders}


class Tree:
    """Keys in memory, listed by pages of `PAGE_SIZE`; it counts its requests, and how many there are at once.

    Parameters
    ----------
    order : {"text", "folders"}
        How keys are sorted, and what comes after one.
    chance : Random or None
        By which answers take more or less long; None: they take turns, unless `turns` is set.
    born, gone : sequence of str
        Keys that appear, and that vanish, while the tree is listed.
    """

    def __init__(
        self,
        keys: Iterable[str],
        order: str = "text",
        chance: random.Random | None = None,
        born: Sequence[str] = (),
        gone: Sequence[str] = (),
    ) -> None:
        self.sort = SORTS[order]
        self.chance = chance
        self.born, self.gone = list(born), list(gone)
        self._hold(set(keys))
        self.turns = 0
        self.requests = 0
        self.pages_asked_after: list[str] = []
        self._ends: set[tuple[str, str]] = set()
        self.further_pages_of_levels = 0
        self.in_flight = 0
        self.most_in_flight = 0

    def _hold(self, keys: set[str]) -> None:
        self.keys = sorted(keys, key=self.sort)
        self._places = [self.sort(key) for key in self.keys]

    async def level(self, folder: str) -> Level:
        await self._ask()
        below = [key.removeprefix(folder).partition("/") for key in self.keys if key.startswith(folder)]
        files = {folder + name: len(name) for name, slash, _ in below if name and not slash}
        folders = {f"{folder}{name}/" for name, slash, _ in below if slash}
        for _ in range(max(0, len(files) + len(folders) - 1) // paging.PAGE_SIZE):
            self.further_pages_of_levels += 1
            await self._ask()
        return level_of({key: (size, "") for key, size in files.items()}, list(folders))

    async def page(self, prefix: str, after: str, is_guess: bool = False) -> Page:
        self.pages_asked_after.append(after)
        if (prefix, after) in self._ends:
            return NO_KEYS
        await self._ask()
        below = filter(lambda key: key.startswith(prefix), self.keys[bisect_right(self._places, self.sort(after)) :])
        found = list(itertools.islice(below, paging.PAGE_SIZE + 1))
        page = found[: paging.PAGE_SIZE]
        if is_guess and not page and self.chance is not None and self.chance.random() < 0.8:
            raise NothingSeenError  # as by obstore, which is not believed
        is_last = len(found) <= paging.PAGE_SIZE
        if is_last and len(page) == paging.PAGE_SIZE and self.chance is not None and self.chance.random() < 0.5:
            is_last = False  # obstore shows only when it is asked on that nothing follows, without another request
            self._ends.add((prefix, page[-1]))
        return Page(page, [size_of(key) for key in page], [""] * len(page), is_last)

    async def _ask(self) -> None:
        self.requests += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        # Answers take more or less long, so that they come in another order than the questions.
        turns = 1 + self.requests * 7 % 5 if self.chance is None else self.chance.choice([0, 1, 1, 2, 5, 30])
        for _ in range(self.turns or turns):
            await asyncio.sleep(0)
        if (self.born or self.gone) and self.chance is not None and self.chance.random() < 0.5:
            self._hold({*self.keys, *self.born[-1:]} - set(self.gone[-1:]))
            del self.born[-1:], self.gone[-1:]
        self.in_flight -= 1


def size_of(key: str) -> int:
    """The bytes of an object."""
    return len(key.rpartition("/")[2])


ODD = [
    *("d", "d-1", "d.x", "d0", "d/", "", "a", "a b", "é", "日本", "\U0001f600", "\uffee", "\ue000", "\ud7ff", "~", "!"),
    *("-", ".", "0", "00", "x+y", "z_", "s.zarr", "t.zarr0", "b.nwb", "u.zarr", "UPPER", "Zz", "%41", "a&b", "k=v"),
    *("e\u0301", "ﬀ"),
]
ALPHABETS = ["01", "0123456789", "0123456789abcdef", "abc-", "xyz/", "é日\U0001f600", "-./0"]


def random_tree(chance: random.Random, prefix: str, size: int) -> set[str]:
    """Return so many keys or some more: odd names at any depth, numbered files, digests, dates, chains, markers."""
    keys: set[str] = set()
    while len(keys) < size:
        folder = prefix + "".join(f"{chance.choice(ODD)}/" for _ in range(chance.choice([0, 0, 1, 1, 2, 3, 6])))
        count, step = chance.choice([1, 1, 2, 5, 20, 60, 150]), chance.choice([1, 1, 1, 3, 10])
        keys.update(folder + name for name in _names(chance, count, step))
    return {key for key in keys if key != prefix}


def _names(chance: random.Random, count: int, step: int) -> list[str]:
    kinds: list[Callable[[int], str]] = [
        lambda _: chance.choice(ODD),
        lambda n: f"frame_{step * n:05}.tif",
        lambda n: f"{step * n}",
        lambda _: f"{chance.getrandbits(32):08x}.bin",
        lambda n: f"2021-{1 + n // 28 % 12:02}-{1 + n % 28:02}T{n % 24:02}.csv",
        lambda n: f"{chance.choice(ODD)}{n:03}/{chance.choice(ODD)}",
        lambda _: "".join(chance.choices(alphabet, k=chance.randint(1, 8))),
        lambda n: f"{folder}/{n // 7:02}/{n % 7}",
        lambda _: "",  # a marker
    ]
    alphabet, folder = chance.choice(ALPHABETS), chance.choice(["s", "d", "t.zarr", "d-1"])
    kind = chance.choice(kinds)
    return [kind(number) for number in range(count)]


def store_of(key: str, prefix: str, endings: Endings) -> str | None:
    """Return the outermost store below a prefix that a key lies in."""
    parts = key.removeprefix(prefix).split("/")
    for depth, name in enumerate(parts[:-1], 1):
        if name.endswith((*STORES, *endings)):
            return prefix + "/".join(parts[:depth])
    return None


def matches(keys: Iterable[str], prefix: str, endings: Endings, size: int | None = None) -> dict[str, int | None]:
    """Return what the rules say of each key, with its size, or one that all have; a store has none."""
    found: dict[str, int | None] = {}
    for key in sorted(keys):
        store = store_of(key, prefix, endings)
        if store is None and key.endswith(endings):
            found.setdefault(key, size_of(key) if size is None else size)
        elif store is not None and store.endswith(endings):
            found[store] = None
    return found


def requests_of_walk(keys: Iterable[str], prefix: str, endings: Endings) -> int:
    """Return how many requests it takes to list each folder that is no store, a page of entries a request."""
    entries: dict[str, set[str]] = {prefix: set()}
    for key in keys:
        entry = store_of(key, prefix, endings) or key
        while len(entry) >= len(prefix) and entry + "/" != prefix:
            folder = entry.removesuffix("/").rpartition("/")[0] + "/"
            entries.setdefault(folder, set()).add(entry)
            entry = folder[:-1]
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

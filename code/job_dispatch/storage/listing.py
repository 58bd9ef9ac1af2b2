"""Finds all keys of an asset with few requests and side by side, whatever its tree looks like.

What is not read yet is a list of parts in the order of keys, and each answer settles some of it: a page settles all
keys up to its last one, a level all of a folder but what lies in its folders. So each key is handed over once, whatever
is asked and in whatever order answers come. What to ask next is only a matter of speed: ranges of keys are read side by
side, each page by page. A range is divided between the folders that a level shows, or at a guessed key that goes on
with the numbers in the names of the last keys.
"""

from __future__ import annotations

import asyncio
import re
import sys
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar

from job_dispatch.messages import has_listed
from job_dispatch.storage import keys as paging
from job_dispatch.storage.keys import (
    LAST,
    Experience,
    Level,
    NothingSeenError,
    Order,
    Page,
    Source,
    Taker,
    common_folder,
    disputed,
    end_of,
    find_order,
    key_ahead,
)
from job_dispatch.storage.loop import tasks_side_by_side
from job_dispatch.storage.unread import Part, Unread

# A full page takes about a megabyte until it is read, and some milliseconds of a core.
_FULL_PAGES_AT_ONCE = 64
# Requests that an asset may take besides two for each page that it takes at least; pages in flight can waste three.
_SPARE_REQUESTS = 7
# An asset that is read in so many ranges is not divided at guessed keys.
_RANGES_FOR_GUESSES = 32
# How many requests of an asset queue for slots while some are free.
_QUEUEING = 8
# How far ahead of the last key the first guess is, in pages.
_PAGES_AHEAD = 4
# How many levels with stores a page that ended in a large store vouches for.
_LEVELS_ON_TRUST = 10
# So much of a page, if it is read in a store and thrown away, costs as much as a request.
_PAGE_A_REQUEST = 0.1
# How long a folder waits for its level before it is read page by page meanwhile.
_LEVEL_SECONDS = 1.0

AnyTaker = TypeVar("AnyTaker", bound=Taker)
Question = Coroutine[None, None, None]


class Slots:
    """Room for requests: at most so many in flight, and not all of them for full pages."""

    def __init__(self, at_most: int) -> None:
        self.request = asyncio.Semaphore(at_most)
        self.full_page = asyncio.Semaphore(min(at_most, _FULL_PAGES_AT_ONCE))


class OutOfOrderError(Exception):
    """A bucket that was known to list its keys as text does not: what was taken for read may not be."""


async def list_keys(
    source: Source, prefixes: Sequence[str], take: Callable[[], AnyTaker], slots: Slots, experience: Experience
) -> AnyTaker:
    """Return a taker that has got all keys below some prefixes that end with `/`, none of which is within another.

    An asset takes at most twice the requests of the better of two plain ways (all keys in a row, or folder by folder)
    and ten more, once the order of the bucket's keys is known. That counts one request for each folder whose content
    is asked for; one with thousands of entries takes a request per thousand. It takes stores that are passed over to be
    as large as the others in the asset.

    Parameters
    ----------
    take : callable
        Makes a taker that has got none.
    experience : Experience
        What is known of the bucket; it grows.
    """
    taker = take()
    first = None
    if len(prefixes) == 1 and experience.is_walked is False and experience.order is not Order.OTHER:
        async with slots.request:
            first = await source.page(prefixes[0], prefixes[0])
        if first.is_last:  # as for most assets: nothing is left to ask, in whatever order the keys come
            has_listed(len(first.keys))
            taker.take_keys(first, 0, len(first.keys))
            return taker
    try:
        listing = Listing(source, prefixes, taker, slots, experience)
        listing.first_page = first
        await listing.run()
    except OutOfOrderError:
        experience.order = Order.OTHER
        taker = take()
        await Listing(source, prefixes, taker, slots, experience).run()
    return taker


@dataclass(eq=False)
class Range:
    """What one reader reads: all that is unread after one key and up to another.

    Attributes
    ----------
    waits_for : int
        Answers that it waits for before it is read on.
    guessed : int
        How many pages ahead its first key was guessed, after which there may be nothing; 0 if it was not.
    pages : int
        Pages read in a row, all in one folder.
    seems_empty : bool
        Whether nothing was seen in it. The range before it is likely to read on to the end, and so to show that.
    levels : sequence of str
        Folders whose levels are worth a request.
    is_together : bool
        Whether its parts are small, and are read in one row with what lies between them.
    sample : sequence of str
        The last keys that were read in it, or before it.
    pages_ahead : int
        How many pages after the sample it is to be divided.
    """

    start: str
    end: str
    waits_for: int = 0
    guessed: int = 0
    pages: int = 0
    seems_empty: bool = False
    levels: Sequence[str] = ()
    is_together: bool = False
    sample: Sequence[str] = ()
    pages_ahead: int = _PAGES_AHEAD


class Listing:
    """Lists one asset, once: hands over all its keys to a taker."""

    def __init__(
        self, source: Source, prefixes: Sequence[str], taker: Taker, slots: Slots, experience: Experience
    ) -> None:
        self._source, self._taker, self._slots, self._experience = source, taker, slots, experience
        self.first_page: Page | None = None  # if it was asked for already
        self._unread = Unread(prefixes)
        self._ranges = [Range("", LAST)]
        # Ranges that may be divided at guessed keys, the first one next.
        self._divisible: deque[Range] = deque()
        # How many pages ahead nothing was found, and in which folder: others may be as small.
        self._nothing_ahead, self._nothing_in = sys.maxsize, ""
        self._levels_asked: set[str] = set()
        self._levels_on_the_way: dict[str, asyncio.Task[None] | None] = {}
        # Whether folders are entered by their levels, as is best where stores are.
        self._is_walking = bool(experience.is_walked)
        # Requests so far, and how many pages a plain listing would have taken at least.
        self._requests, self._least = 0, 0.0
        self._pages_in_flight = 0
        # Levels with stores that may count as a page, since stores as large as those that ended pages would take one.
        self._levels_on_trust = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._queueing = 0

    async def run(self) -> None:
        """List all keys."""
        async with tasks_side_by_side() as self._group:
            if len(self._unread.parts) == 1 and not self._is_walking:
                [(folder, _)], [one] = self._unread.parts, self._ranges
                async with self._slots.request:
                    await self._page(folder, folder, one)
            self._queue_up()

    def _queue_up(self) -> None:
        """Queue for a slot; for one alone where none is free, so that a huge asset does not hold up others."""
        at_most = _QUEUEING if self._requests and not self._slots.request.locked() else 1
        if self._unread.parts and self._queueing < at_most:
            self._queueing += 1
            task = self._group.create_task(self._ask(is_full_page=self._least >= 1 and not self._is_walking))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _ask(self, is_full_page: bool) -> None:
        async with self._slots.full_page if is_full_page else nullcontext(), self._slots.request:
            self._queueing -= 1
            if (question := self._next()) is not None:
                is_alone = self._is_walking and len(self._unread.parts) == 1 and not self._divisible
                if not is_alone or any(one.levels for one in self._ranges):
                    self._queue_up()
                await question
                self._queue_up()
        for task in () if self._unread.parts else self._tasks:
            task.cancel()

    # What to ask

    def _next(self) -> Question | None:
        """Return what to ask next; None where that depends on answers that are on their way."""
        self._ranges = [one for one in self._ranges if one.waits_for or self._places(one)]
        for before, one in zip([None, *self._ranges], self._ranges, strict=False):
            is_left_to_other = one.seems_empty and before is not None and before.end == one.start
            if not is_left_to_other and (question := self._next_of(one)) is not None:
                return question
        part = self._divide()
        return None if part is None else self._next_of(part)

    def _next_of(self, one: Range) -> Question | None:
        """Return what to ask next of a range; None where it waits."""
        is_by_folders = self._experience.order is Order.OTHER
        # The levels on the way to the first store are asked side by side.
        is_at_beginning = self._is_walking and self._least <= 1 and not is_by_folders
        if (one.waits_for and not is_at_beginning) or not (places := self._places(one)):
            return None
        (after, up_to), (_, end) = self._part(one, places[0]), self._part(one, places[-1 if one.is_together else 0])
        if is_by_folders and (self._requests or self._is_walking):
            return self._level(common_folder(after, up_to), one)
        is_whole = self._is_walking and up_to == end_of(after)
        for folder in [after, *one.levels] if is_whole else one.levels:
            is_new = folder not in self._levels_asked and self._unread.places(folder, end_of(folder))
            is_on_trust = is_whole and self._levels_on_trust > 0
            if is_new and (is_on_trust or self._may_ask_more()):
                self._levels_on_trust -= is_on_trust
                return self._level(folder, one, is_on_trust)
        return None if one.waits_for else self._page(common_folder(after, end), after, one)

    def _places(self, one: Range) -> range:
        return self._unread.places(one.start, one.end)

    def _part(self, one: Range, place: int) -> Part:
        return self._unread.cut(place, one.start, one.end)

    def _may_ask_more(self) -> bool:
        """Tell whether there may be one level or range more; each range that waits for no page takes another one."""
        committed = self._requests + len(self._ranges) - self._pages_in_flight
        return committed < 2 * self._least + _SPARE_REQUESTS or self._experience.order is Order.OTHER

    def _divide(self) -> Range | None:
        """Cut off the end of a range for another reader: at a guessed key, or else in the middle of many parts."""
        if not self._ranges or not self._may_ask_more():
            return None
        start = ""
        while not start and self._divisible and len(self._ranges) < _RANGES_FOR_GUESSES:
            one = self._divisible.popleft()
            start = self._guess(one)
        guessed = one.pages_ahead if start else 0
        if not start:
            one = max(self._ranges, key=lambda one: len(self._places(one)))
            places = self._places(one)
            if len(places) < 2:
                return None
            start, _ = self._part(one, places[len(places) // 2])
        ahead = 2 * one.pages_ahead + _PAGES_AHEAD
        part = replace(one, start=start, waits_for=0, guessed=guessed, pages=0, levels=(), pages_ahead=ahead)
        one.end = start
        self._ranges.insert(self._ranges.index(one) + 1, part)
        self._divisible += [part] if part.sample else []
        return part

    def _guess(self, one: Range) -> str:
        """Return the key some pages ahead in the folder in which a range begins, if that is likely to be so large."""
        places = self._places(one)
        home = common_folder(one.sample[0], one.sample[-1])
        is_of_files = "/" not in one.sample[-1][len(home) :]
        is_too_far = one.pages_ahead >= self._nothing_ahead and home != self._nothing_in
        is_divisible = len(places) == 1 or (len(places) > 1 and is_of_files)
        if is_too_far or not is_divisible or one.seems_empty or one not in self._ranges:
            return ""
        key = key_ahead(one.sample, one.pages_ahead * paging.PAGE_SIZE, self._experience.order is Order.TEXT)
        after, up_to = self._part(one, places[0])
        return key if after < key < up_to else ""

    # What is answered

    def _level(self, folder: str, one: Range, is_on_trust: bool = False) -> Question:
        """Return what asks for a level; a range waits for it where that is to replace its pages."""
        self._levels_asked.add(folder)
        self._requests += 1
        waiting = int(self._is_walking or self._experience.order is Order.OTHER)
        one.waits_for += waiting

        def wait_no_longer() -> None:
            nonlocal waiting
            if self._experience.order is not Order.OTHER:  # pages would not help there
                one.waits_for, waiting = one.waits_for - waiting, 0
                self._queue_up()

        async def ask() -> None:
            self._levels_on_the_way[folder] = asyncio.current_task()
            late = asyncio.get_running_loop().call_later(_LEVEL_SECONDS, wait_no_longer)
            try:
                await self._take_level(folder, await self._source.level(folder), is_on_trust)
            finally:
                late.cancel()
                one.waits_for -= waiting
                self._levels_on_the_way.pop(folder, None)

        return ask()

    async def _take_level(self, folder: str, level: Level, is_on_trust: bool) -> None:
        files = level.files
        entries = sorted([*files.keys, *level.folders])
        if self._experience.order is Order.UNKNOWN and disputed(entries):
            await self._find_order(folder, level.folders[0])
        self._requests += len(entries) // paging.PAGE_SIZE
        unread = [child for child in level.folders if self._unread.places(child, end_of(child))]
        folders = [child for child in unread if not self._taker.is_store(child[:-1])]
        has_stores = len(folders) < len(unread)
        if has_stores or len(files.keys) >= paging.PAGE_SIZE / 2:
            self._is_walking = has_stores
        for child in unread if has_stores else ():
            if self._taker.is_store(child[:-1]):
                self._taker.take_store(child[:-1])
        new, _ = self._settle(folder, end_of(folder), files, folders)
        self._least += new / paging.PAGE_SIZE + (is_on_trust and has_stores)

    def _page(self, prefix: str, after: str, one: Range) -> Question:
        """Return what asks for the page after a key, for which a range waits."""
        self._requests += 1
        self._pages_in_flight += 1
        one.waits_for += 1
        guessed, one.guessed, one.seems_empty = one.guessed, 0, False

        async def ask() -> None:
            try:
                first, self.first_page = self.first_page, None
                page = first or await self._source.page(prefix, after, is_guess=guessed > 0)
                if not page.keys and one.sample[-1:] == [after]:  # the end of a listing that goes on: not asked for
                    self._requests -= 1
                if self._is_in_order(page.keys, after) and not page.is_last:
                    home = self._home(page.keys, page.keys[-1])
                    if self._experience.order is Order.UNKNOWN and self._is_better_walked(page.keys):
                        # Levels are right in any order, so they need not wait until it is known.
                        self._is_walking, one.levels = True, [folder for folder, _ in _path(prefix, home)]
                        self._queue_up()
                    await self._find_order(prefix, home)
            except NothingSeenError:
                one.seems_empty = True
                if guessed < self._nothing_ahead:
                    self._nothing_ahead, self._nothing_in = guessed, common_folder(one.sample[0], one.sample[-1])
            finally:
                one.waits_for -= 1
                self._pages_in_flight -= 1
            if not one.seems_empty:
                self._take_page(prefix, after, one, page)

        return ask()

    async def _find_order(self, prefix: str, folder: str) -> None:
        """Find out the order of the bucket, once, if it matters for what comes after some key in a folder."""
        if self._experience.order is Order.UNKNOWN and len(folder) > len(prefix):
            async with self._experience.asking_order:
                if self._experience.order is Order.UNKNOWN:
                    order = await find_order(self._source, prefix, folder)
                    self._experience.order = order

    def _home(self, keys: Sequence[str], first: str) -> str:
        """Return the store in which a page ends, or else the folder that some of its last keys have in common."""
        store = self._taker.store_of(keys[-1])
        return f"{store}/" if store else common_folder(first, keys[-1])

    def _take_page(self, prefix: str, after: str, one: Range, page: Page) -> None:
        keys, experience = page.keys, self._experience
        if experience.order is Order.OTHER:
            if page.is_last and after == prefix:
                self._settle(prefix, end_of(prefix), _sorted(page))
            else:  # what comes after the last key is anybody's guess
                experience.is_walked = True
            return
        store = None if page.is_last else self._taker.store_of(keys[-1])
        high = end_of(prefix) if page.is_last else keys[-1] if store is None else end_of(f"{store}/")
        new, outside = self._settle(after, high, page)
        self._least += new / paging.PAGE_SIZE
        if experience.is_walked is None:
            experience.is_walked = self._is_better_walked(keys)
        if page.is_last:
            one.is_together |= after == prefix and len(keys) < paging.PAGE_SIZE / 2
            return
        self._is_walking = self._is_better_walked(keys) if store else self._is_walking and outside < new
        if store and self._is_walking and outside < new / 10:
            self._levels_on_trust += min(_LEVELS_ON_TRUST, int(self._least))
        one.sample, one.pages_ahead = keys[len(keys) // 2 :], _PAGES_AHEAD
        home, tenth = self._home(keys, one.sample[0]), keys[len(keys) // 10]
        # Where nearly all of the page lies in one child of a folder, its other children may be as large.
        large = (folder for folder, child in _path(prefix, home) if self._is_walking or tenth.startswith(child))
        one.levels = [folder for folder in large if folder not in self._levels_asked]
        has_filled_more = after.startswith(home) and after != home
        one.pages = one.pages + 1 if has_filled_more else 1
        if one.pages > self._nothing_ahead:
            self._nothing_ahead = sys.maxsize
        if has_filled_more:
            is_of_files = "/" not in keys[-1][len(home) :]
            if is_of_files and (asking := self._levels_on_the_way.get(home)):
                asking.cancel()
            self._divisible += (one,) if is_of_files or not one.levels else ()

    def _is_in_order(self, keys: Sequence[str], after: str) -> bool:
        """Tell whether keys come as text, and so what comes after them; learn the order of the bucket from them."""
        experience = self._experience
        if keys and (keys[0] <= after or keys != sorted(keys)):
            if experience.order is Order.TEXT:
                raise OutOfOrderError
            experience.order = Order.OTHER
        elif experience.order is Order.UNKNOWN and disputed(keys):
            experience.order = Order.TEXT
        return experience.order is not Order.OTHER

    def _settle(self, low: str, high: str, page: Page, folders: Sequence[str] = ()) -> tuple[int, int]:
        """Hand over what was unread between two keys; return how many keys that is, and how many are in no store."""
        parts = self._unread.settle(low, high, folders)
        places = [(bisect_right(page.keys, after), bisect_right(page.keys, up_to)) for after, up_to in parts]
        outside = sum(self._taker.take_keys(page, start, stop) for start, stop in places)
        new = sum(stop - start for start, stop in places)
        has_listed(new)
        return new, outside

    def _is_better_walked(self, keys: Sequence[str]) -> bool:
        """Tell whether levels would have shown the same with less."""
        stores = [self._taker.store_of(key) for key in keys]
        folders = {(store or key).rpartition("/")[0] for store, key in zip(stores, keys, strict=True)}
        return len(keys) - stores.count(None) > _PAGE_A_REQUEST * paging.PAGE_SIZE * len(folders)


def _path(prefix: str, home: str) -> Iterator[tuple[str, str]]:
    """Yield each folder from a prefix down to a folder, with the folder in it that comes next."""
    return pairwise(home[: slash.end()] for slash in re.finditer("/", home) if slash.end() >= len(prefix))


def _sorted(page: Page) -> Page:
    """Return a page of a place that does not sort its keys as text, sorted so."""
    rows = sorted(zip(page.keys, page.sizes, page.versions, strict=True))
    return Page([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows], page.is_last)

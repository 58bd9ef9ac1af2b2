"""How the keys of an asset are found with few requests and side by side, whatever its tree looks like.

There are two questions: a page of keys, and a level, which is what lies directly in a folder. A page costs one
request for a thousand keys, but pages of one stretch of keys come one after the other. A level tells what follows, so
that stretches can be divided, and spares what lies in stores. `Budget` says how much of each is worth asking.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from enum import Enum
from functools import partial
from typing import NamedTuple

from job_dispatch.storage import keys as paging
from job_dispatch.storage.keys import Level, Page, Source, end_of
from job_dispatch.storage.matching import Taker, part_of
from job_dispatch.storage.order import OutOfOrderError, disputed, is_text_first
from job_dispatch.storage.slots import Turn
from job_dispatch.storage.stretches import Budget, Siblings, Stretch

# A level is worth a request if it names what would take this many times as many keys.
_WORTH = 20
# Pages that a new stretch should have.
_PAGES_A_SPLIT = 4
# With fewer stretches than this, a level is worth a request after the first full page, otherwise after more.
_FEW_STRETCHES = 8
_FULL_PAGES = 4
# A key that is looked at and thrown away costs about a hundredth of a request.
_KEYS_A_REQUEST = 100
# A level is held in memory whole; one that takes longer has hundreds of pages, and is read page by page instead.
_LEVEL_SECONDS = 5


class First(Enum):
    """What to ask first of an asset."""

    PAGE = "page"
    LEVEL = "level"
    BOTH = "both"


# Something to do; not a coroutine, which would complain if it were never begun.
Work = Callable[[], Coroutine[None, None, None]]


class Begun(NamedTuple):
    """The first page below a prefix, and where the others come from."""

    page: Page
    pages: AsyncIterator[Page]


class Experience:
    """What the first asset of a bucket teaches of the others: they look alike."""

    def __init__(self, is_text_order: bool = False) -> None:
        self.first: First | None = None
        self.learning = asyncio.Lock()
        # Whether keys are known to come in the order of text.
        self.is_text_order = is_text_order
        self.is_out_of_order = False


def best_first(page: Page, prefix: str, taker: Taker) -> First:
    """Judge by the first page of an asset what would have been the best thing to ask first."""
    if not page.is_last:
        return First.BOTH if taker.store_of(page.keys[-1]) is None else First.LEVEL
    return First.LEVEL if _cost_of_walk(page.keys, prefix, taker) < _cost(1, len(page.keys)) else First.PAGE


def _cost(requests: int, entries: int) -> float:
    return requests + entries / _KEYS_A_REQUEST


def _cost_of_walk(keys: Sequence[str], prefix: str, taker: Taker) -> float:
    folders, entries = {prefix}, set()
    for key in keys:
        entry = taker.store_of(key) or key
        while len(entry) > len(prefix) and entry not in entries:
            entries.add(entry)
            entry = entry.rpartition("/")[0]
            folders.add(f"{entry}/")
    return _cost(len(folders), len(entries))


class Division:
    """Lists one asset, once: hands over all its keys to a taker.

    Parameters
    ----------
    source : Source
    taker : Taker
        Gets each key once.
    turn : Turn
        Each request waits for it.
    experience : Experience
        That of the bucket.
    """

    def __init__(self, source: Source, taker: Taker, turn: Turn, experience: Experience) -> None:
        self._source, self._taker, self._turn, self._experience = source, taker, turn, experience
        self._budget = Budget()
        self._open: set[Stretch] = set()
        self._held: deque[Stretch] = deque()
        self._running = 0
        # Folders are entered by their levels where stores are, otherwise read as they come.
        self._is_walking = False

    async def run(self, prefixes: Sequence[str], begun: Begun | None) -> None:
        """List all keys below some prefixes that end with `/`, none of which is within another.

        Parameters
        ----------
        begun : Begun or None
            The first page below a single prefix, where it has been asked for already.

        Raises
        ------
        OutOfOrderError
            The place does not list its keys as text; some of them may be missing.
        """
        stretches = [Stretch(deque([prefix]), Siblings()) for prefix in prefixes]
        self._budget.folders = len(stretches)
        for stretch in stretches:
            self._add(stretch)
        if begun is not None:
            self._budget.flat_pages += 1
            stretches[0].go_on_with(begun.pages, prefixes[0])
            self._take(stretches[0], begun.page)
        self._is_walking = self._experience.first is First.LEVEL
        try:
            async with asyncio.TaskGroup() as self._tasks:
                for stretch in stretches:
                    self._start(partial(self._list, stretch))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    def _add(self, stretch: Stretch) -> None:
        self._open.add(stretch)
        self._budget.stretches += 1
        self._budget.idle += 1

    def _remove(self, stretch: Stretch) -> None:
        self._open.remove(stretch)
        self._budget.stretches -= 1
        self._budget.idle -= 1

    def _start(self, work: Work) -> None:
        self._running += 1
        self._tasks.create_task(self._run(work))

    async def _run(self, work: Work) -> None:
        try:
            await work()
        finally:
            self._running -= 1
        self._divide()

    async def _list(self, stretch: Stretch) -> None:
        """List a stretch to its end, or until it has to wait for what others find."""
        while stretch.folders:
            may_ask = self._budget.may_ask_level()
            if may_ask and self._is_level_wanted(stretch):
                if self._is_walking or not self._budget.may_double():
                    await self._level(stretch)()
                    continue
                self._start(self._level(stretch))
            if self._budget.may_read() or (self._running == 1 and not may_ask):
                await self._read(stretch)
            elif may_ask and not stretch.is_asking_level:
                await self._level(stretch)()
            else:
                self._held.append(stretch)
                return
            self._divide()

    def _is_level_wanted(self, stretch: Stretch) -> bool:
        if stretch.is_asking_level or stretch.is_wide:
            return False
        if self._is_walking:
            return True
        if not self._budget.flat_pages:
            return self._experience.first is First.BOTH
        usual, read = stretch.siblings.usual, stretch.keys_of_first
        if usual is not None and usual - read < _PAGES_A_SPLIT * paging.PAGE_SIZE:
            return False  # its neighbours have taught that little is left of it
        return stretch.full_pages >= (1 if len(self._open) < _FEW_STRETCHES else _FULL_PAGES)

    def _divide(self) -> None:
        """Let those go on that were held, and divide what is left as far as that is worth it."""
        while self._held and (self._budget.may_read() or self._budget.may_ask_level() or not self._running):
            self._start(partial(self._list, self._held.popleft()))
        while len(self._open) < self._turn.full_pages_at_once and self._budget.may_split():
            longest = max(self._open, key=lambda one: len(one.folders), default=None)
            number = self._number_to_split_off(longest) if longest is not None else 0
            if longest is None or not number:
                return
            part = longest.split(number)
            self._add(part)
            self._start(partial(self._list, part))

    def _number_to_split_off(self, stretch: Stretch) -> int:
        """Return how many folders at the end of a stretch are worth a stretch of their own; 0 for none."""
        folders, usual = len(stretch.folders), stretch.siblings.usual
        if folders < 2:
            return 0
        if self._is_walking:
            return 1 if self._budget.may_ask_level(more_stretches=1) else 0
        if usual is None or usual >= paging.PAGE_SIZE / 2:
            return 1
        return folders // 2 if folders * usual >= 2 * _PAGES_A_SPLIT * paging.PAGE_SIZE else 0

    async def _read(self, stretch: Stretch) -> None:
        """Read one page of a stretch."""
        budget, pages, is_new = self._budget, *stretch.open_pages(self._source)
        budget.flat_pages += 1
        budget.idle -= 1
        stretch.is_reading = True
        async with self._turn.full_page, self._turn.request:
            page = await anext(pages, None)
        stretch.is_reading = False
        budget.idle += 1
        if page is None:
            page = Page((), (), True)
            if not is_new:  # that it ended was known without a request
                budget.flat_pages -= 1
                budget.wasted -= 1
        self._take(stretch, page)
        if not stretch.folders:
            self._remove(stretch)

    def _take(self, stretch: Stretch, page: Page) -> None:
        keys, budget = page.keys, self._budget
        is_full = not page.is_last or len(keys) == paging.PAGE_SIZE
        if keys and (keys != sorted(keys) or (stretch.after is not None and keys[0] <= stretch.after)):
            raise OutOfOrderError
        was_found_by_level = not stretch.folders
        outside = self._hand_over(stretch, page)
        budget.outside_stores += outside
        if is_full and (stretch.folders or page.is_last) and not was_found_by_level:
            budget.full_pages += 1
            stretch.full_pages += 1
        else:
            budget.wasted += 1
            budget.doubled += stretch.is_asking_level or was_found_by_level
        if stretch.folders:
            store = self._taker.store_of(keys[-1])
            stretch.go_on_after(keys[-1] if store is None else end_of(f"{store}/"), is_jump=store is not None)
            if store is not None:
                self._is_walking = True
            elif outside == len(keys):
                self._is_walking = False

    def _hand_over(self, stretch: Stretch, page: Page) -> int:
        """Hand over what belongs to a stretch, take its folders for read; return how many keys were in no store."""
        outside, stop = 0, 0
        while stretch.folders:
            folder = stretch.folders[0]
            start, stop = part_of(page.keys, folder, stop)
            if stop > start:
                outside += self._taker.take_page(page, start, stop)
                stretch.keys_of_first += stop - start
            if not page.is_last and stop == len(page.keys):
                stretch.is_wide = start < stop and _is_wide(page.keys, start, stop, len(folder))
                break
            stretch.end_first()
        return outside

    def _level(self, stretch: Stretch) -> Work:
        """Count a level, and return what asks for it and puts it in the place of the first folder of a stretch."""
        stretch.is_asking_level = True
        self._budget.begin_level()
        return partial(self._ask_level, stretch, stretch.folders[0])

    async def _ask_level(self, stretch: Stretch, folder: str) -> None:
        level = None
        async with self._turn.request:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LEVEL_SECONDS):
                    level = await self._source.level(folder)
        stretch.is_asking_level = False
        if level is None:
            self._budget.levels_on_their_way -= 1
            stretch.is_wide = True
            return
        children = [child for child in level.folders if not self._taker.is_store(child[:-1])]
        self._budget.end_level(len(level.files) + len(level.folders), len(children))
        if not self._experience.is_text_order:
            await self._check_order(level, folder, stretch)
        if not (stretch.folders and stretch.folders[0] == folder):
            return  # it has been read to its end meanwhile
        self._taker.take_level(level, stretch.after_in(folder))
        if len(children) < len(level.folders):
            self._is_walking = True
        elif len(level.files) >= paging.PAGE_SIZE / 2:
            self._is_walking = False
        stretch.replace_first(children)
        if not stretch.folders and not stretch.is_reading:
            self._remove(stretch)

    async def _check_order(self, level: Level, folder: str, stretch: Stretch) -> None:
        """Make sure of the order of keys where what is left of a folder depends on it, once for a bucket."""
        pair = disputed(level.folders, level.files, stretch.after_in(folder))
        if pair is not None:
            if not await is_text_first(self._source, folder, pair):
                raise OutOfOrderError
            self._experience.is_text_order = True


def _is_wide(keys: Sequence[str], start: int, stop: int, length: int) -> bool:
    """Tell whether a folder seems to have so many entries that a level is not worth it."""
    first, last = (keys[number][length:].partition("/")[0] for number in (start, stop - 1))
    if first == last:
        return False
    entries = {key[length:].partition("/")[0] for key in keys[start:stop]}
    return len(entries) * _WORTH > stop - start


async def walk(source: Source, prefixes: Sequence[str], taker: Taker, turn: Turn) -> None:
    """Hand over all keys below some prefixes folder by folder, in whatever order a place lists them."""
    async with asyncio.TaskGroup() as tasks:

        async def enter(folder: str) -> None:
            async with turn.request:
                level = await source.level(folder)
            taker.take_level(level, None)
            for child in level.folders:
                if not taker.is_store(child[:-1]):
                    tasks.create_task(enter(child))

        for prefix in prefixes:
            tasks.create_task(enter(prefix))

"""Parts of an asset that are still to be listed, and how many requests may be spent on them."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from job_dispatch.storage import keys
from job_dispatch.storage.keys import Page, Source, common_start, end_of


@dataclass
class Siblings:
    """What folders beside each other have taught of each other: how many keys those have that are done."""

    folders: int = 0
    keys: int = 0

    @property
    def usual(self) -> float | None:
        """Keys that a folder usually has; None while none is done."""
        return self.keys / self.folders if self.folders else None


@dataclass(eq=False)
class Stretch:
    """Folders that follow each other and are still to be listed; the first one may be partly read.

    Parameters
    ----------
    folders : deque of str
        With a trailing slash, in order, none within another.
    siblings : Siblings
        What is known of such folders.
    after : str or None
        All keys up to this one are read, or belong to other stretches; None where the stretch begins an asset or is a
        single folder.
    """

    folders: deque[str]
    siblings: Siblings
    after: str | None = None
    _within: str = ""
    _pages: AsyncIterator[Page] | None = None
    full_pages: int = 0
    keys_of_first: int = 0
    is_reading: bool = False
    is_asking_level: bool = False
    # Its first folder has so many children, or files, that their names would take as long as all keys.
    is_wide: bool = False

    def open_pages(self, source: Source) -> tuple[AsyncIterator[Page], bool]:
        """Return the pages that are left, and whether they are newly asked for: from the narrowest folder."""
        within = self._narrowest()
        is_new = self._pages is None or len(within) > len(self._within)
        if self._pages is None or is_new:
            self._within, self._pages = within, source.pages(within, self.after_in(within))
        return self._pages, is_new

    def go_on_with(self, pages: AsyncIterator[Page], within: str) -> None:
        """Take the next pages from here."""
        self._pages, self._within = pages, within

    def _narrowest(self) -> str:
        if len(self.folders) == 1:
            return self.folders[0]
        same = common_start(self.folders[0], self.folders[-1])
        return same[: same.rindex("/") + 1]

    def after_in(self, folder: str) -> str | None:
        """Return up to where a folder is read."""
        return self.after if self.after is not None and self.after.startswith(folder) else None

    def go_on_after(self, key: str, is_jump: bool) -> None:
        """Take all keys up to this one for read."""
        self.after = key
        if is_jump:
            self._pages = None

    def end_first(self) -> None:
        """Take the first folder for read."""
        self.folders.popleft()
        self.siblings.folders += 1
        self.siblings.keys += self.keys_of_first
        self.keys_of_first, self.full_pages, self.is_wide = 0, 0, False

    def replace_first(self, children: Sequence[str]) -> None:
        """Put the folders in the first folder in its place, as far as they are not read."""
        position = self.after_in(self.folders.popleft())
        left = [one for one in children if position is None or position < one or position.startswith(one)]
        if len(left) != 1:
            self.full_pages = 0
            # Those that are read already have taught something of those that are left.
            read = len(children) - len(left)
            self.siblings = Siblings(read, self.keys_of_first if read else 0)
            self.keys_of_first = 0
        self.is_wide = False
        self.folders.extendleft(reversed(left))

    def split(self, number: int) -> Stretch:
        """Cut off this many folders at the end."""
        tail = deque(self.folders.pop() for _ in range(number))
        tail.reverse()
        return Stretch(tail, self.siblings, None if number == 1 else end_of(self.folders[-1]))


@dataclass
class Budget:
    """How many requests an asset may cost: at most 3 × those of the better of two ways, and 2 more.

    The two ways are a walk (each folder once, page by page; stores are not entered), which takes W requests, and a
    flat listing (all keys, page by page, with a jump over the rest of a store in which a page ends), which takes
    F. Neither is known before the end, so the least that each can take is counted as far as it is known:

    - F' = `flat_least`: the full pages read, or the entries of levels / 1,000. The full pages read do not overlap,
      and who begins a page earlier does not end it later; so a flat listing begins a page, or ends, within each of
      them. And none of its pages holds more than 1,000 of the files and folders that levels have shown.
    - W' = `walk_least`: the pages of levels and the known folders that have no level yet, or the keys outside
      stores / 1,000.

    What is spent are pages of levels and flat pages. A level of n entries takes floor(n / 1,000) full pages, at most
    F in all, and perhaps one more: those are `levels`. A flat page is full, at most F of them in all, or else it
    ends a stretch: those are `wasted`. With s stretches, of which each may end so, these rules are kept:

    1. While a level is on its way, levels + wasted + s ≤ F' + 2; otherwise, since their number is known,
       full pages of levels + levels + wasted + s ≤ 2 F' + 2. So the total is at most 3 F + 2.
    2. Flat pages + stretches without one on its way ≤ 2 W' + 2. So the total is at most W + 2 W + 2.

    One of the two ways can always go on. Each stretch, open or ended, has a known folder of its own that has no
    level, but for two at most that ended while one was on its way (`doubled`): levels + wasted + s ≤ W' + 2. If
    rule 2 forbade a page, full + wasted + s ≥ 2 W' + 3, and so full ≥ W' + 1 + levels; if rule 1 forbade a level as
    well, levels + wasted + s ≥ F' + 2 ≥ full + 2 ≥ W' + 3.
    """

    stretches: int = 0
    idle: int = 0
    levels: int = 0
    levels_on_their_way: int = 0
    levels_done: int = 0
    full_level_pages: int = 0
    entries: int = 0
    folders: int = 0
    flat_pages: int = 0
    full_pages: int = 0
    wasted: int = 0
    outside_stores: int = 0
    doubled: int = 0

    @property
    def flat_least(self) -> int:
        """F': the least number of pages that a flat listing can take, as far as it is known."""
        return max(1, self.full_pages, -(-self.entries // keys.PAGE_SIZE))

    @property
    def walk_least(self) -> int:
        """W': the least number of requests that a walk can take, as far as it is known."""
        levels = self.levels - self.levels_on_their_way + self.full_level_pages
        return max(levels + self.folders - self.levels_done, -(-self.outside_stores // keys.PAGE_SIZE))

    def may_split(self) -> bool:
        """Tell whether there may be one stretch more, by rules 1 and 2."""
        ends = self.levels + self.wasted + self.stretches + 1
        if self.levels_on_their_way:
            is_within_flat = ends <= self.flat_least + 2
        else:
            is_within_flat = self.full_level_pages + ends <= 2 * self.flat_least + 2
        return is_within_flat and self.flat_pages + self.idle + 1 <= 2 * self.walk_least + 2

    def may_ask_level(self, more_stretches: int = 0) -> bool:
        """Tell whether a level may be asked for, by rule 1, if there were so many more stretches."""
        return self.levels + 1 + self.wasted + self.stretches + more_stretches <= self.flat_least + 2

    def may_double(self) -> bool:
        """Tell whether a level may be asked for while a page of the same stretch is on its way."""
        return self.doubled + self.levels_on_their_way < 2

    def may_read(self) -> bool:
        """Tell whether an idle stretch may be read on, by rule 2."""
        return self.flat_pages + self.idle <= 2 * self.walk_least + 2

    def begin_level(self) -> None:
        """Count a level that is asked for."""
        self.levels += 1
        self.levels_on_their_way += 1

    def end_level(self, entries: int, folders: int) -> None:
        """Count what a level has shown: all its entries, and those that are folders to list."""
        self.levels_on_their_way -= 1
        full, rest = divmod(entries, keys.PAGE_SIZE)
        self.full_level_pages += full
        if full and not rest:
            self.levels -= 1
        # But for the first one, a folder with a level was an entry itself.
        self.entries += entries - (self.levels_done > 0)
        self.folders += folders
        self.levels_done += 1

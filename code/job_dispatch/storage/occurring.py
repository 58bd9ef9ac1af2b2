"""What files there are where none was found as asked."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import PurePosixPath

from job_dispatch import failures
from job_dispatch.messages import RequestError, counted, logger
from job_dispatch.model import Asset, File
from job_dispatch.request.flag_values import STORE_ENDINGS
from job_dispatch.storage.matching import Matching, Wanted, wanted

# An asset of millions of files is not looked at to its end.
_SECONDS = 10.0
_PATHS_AT_MOST = 20_000
_ENDINGS_SHOWN = 12
# A compressed file is told by what is compressed as well.
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_OTHER_SEPARATORS = re.compile(r"[\s;|]+")


class Occurring:
    """The files and stores of a few assets, counted by the endings of their names.

    `files` and `stores` are how often each ending occurs.
    """

    def __init__(self) -> None:
        self.assets = 0
        self.files: Counter[str] = Counter()
        self.stores: Counter[str] = Counter()
        self._paths: set[str] = set()

    async def look(self, asset: Asset, find: Callable[[str, Matching], Awaitable[Sequence[File]]]) -> None:
        """Look at one asset; what cannot be read, or takes too long, is seen in part."""
        self.assets += 1
        try:
            async with asyncio.timeout(_SECONDS):
                for file in await find(asset.location, _Seen(self)):
                    path = file.address.removeprefix(f"{asset.location}/")
                    self._note(path, self.files if file.size is not None else self.stores)
        except BaseException as error:
            logger.debug("no advice: %s", failures.explained(error).headline)

    def note(self, path: str) -> None:
        """Count one file."""
        self._note(path, self.files)

    def _note(self, path: str, counts: Counter[str]) -> None:
        counts[_ending(path)] += 1
        if len(self._paths) < _PATHS_AT_MOST:
            self._paths.add(path)

    def endings(self) -> list[tuple[str, int, bool]]:
        """Return each ending, how often it occurs and whether that is as stores, the most frequent first."""
        found = [(ending, number, True) for ending, number in self.stores.items()]
        found += [(ending, number, False) for ending, number in self.files.items()]
        return sorted(found, key=lambda one: (-one[1], one))

    def lines(self, sought: Wanted) -> Iterator[str]:
        """Yield what occurs, and what may have been meant."""
        if not self.assets:
            return
        found = self.endings()
        shown = [f"{ending or 'no ending'} {number:,}{' (stores)' * store}" for ending, number, store in found]
        more = f", {len(shown) - _ENDINGS_SHOWN:,} more" if len(shown) > _ENDINGS_SHOWN else ""
        yield f"in {counted(self.assets, 'asset')} looked at: {', '.join(shown[:_ENDINGS_SHOWN]) or 'no files'}{more}"
        if near := self._otherwise_cased(sought):
            yield f"upper and lower case differ: there is {near}"
        for way in sought.ways:
            parts = [part for part in _OTHER_SEPARATORS.split(way) if part]
            if len(parts) > 1:
                yield f"several are separated by commas: {','.join(parts)}"

    def _otherwise_cased(self, sought: Wanted) -> str:
        ways = tuple(way.casefold() for way in sought.ways)
        try:
            folded = wanted((), ways) if sought.orders else wanted(ways, ())
        except RequestError:  # in lower case it aims into a store
            return ""
        return next((path for path in sorted(self._paths) if folded.matches(path.casefold())), "")


class _Seen:
    """Shows all paths of one asset to those that count; wants only what may be a store, to learn whether it is."""

    folders = ("",)

    def __init__(self, occurring: Occurring) -> None:
        self._occurring = occurring

    def matches(self, path: str) -> bool:
        """Count a file that can be no store."""
        if not self.is_store(path):
            self._occurring.note(path)
        return self.is_store(path)

    def is_store(self, path: str) -> bool:
        """Tell whether a name ends as that of a store."""
        return path.endswith(STORE_ENDINGS)


def _ending(path: str) -> str:
    suffixes = PurePosixPath(path).suffixes
    if suffixes and suffixes[-1] in _COMPRESSED:
        return "".join(suffixes[-2:])
    return suffixes[-1] if suffixes else ""

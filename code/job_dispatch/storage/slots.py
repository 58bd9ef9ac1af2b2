"""At most so many requests at once, shared fairly."""

from __future__ import annotations

import asyncio
from collections import deque

# A full page takes about a megabyte until it is read, and some milliseconds of a core.
_FULL_PAGES_AT_ONCE = 64


class Slots:
    """At most so many requests in flight; while more are wanted, asset after asset gets one.

    So an asset that wants hundreds of requests at once does not hold up one that wants a single one.
    """

    def __init__(self, at_most: int) -> None:
        self.at_most = at_most
        self._free = at_most
        self._waiting: deque[Place] = deque()

    def join(self, place: Place) -> bool:
        """Take a free slot, or else queue up an asset that does not queue yet."""
        if self._free and not self._waiting:
            self._free -= 1
            return True
        if not place.waiting:
            self._waiting.append(place)
        return False

    def release(self) -> None:
        """Give a slot to the next asset in the queue."""
        while self._waiting:
            place = self._waiting.popleft()
            is_given = place.wake_one()
            if place.waiting:
                self._waiting.append(place)
            if is_given:
                return
        self._free += 1


class Place:
    """The place of one asset in the queue for slots; hold it for one request."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self.waiting: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        if not self._slots.join(self):
            await self._wait()

    async def __aexit__(self, *_: object) -> None:
        self._slots.release()

    async def _wait(self) -> None:
        granted = asyncio.get_running_loop().create_future()
        self.waiting.append(granted)
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self._slots.release()
            raise

    def wake_one(self) -> bool:
        """Give a slot to the first request that still wants it; tell whether there was one."""
        while self.waiting:
            granted = self.waiting.popleft()
            if not granted.done():
                granted.set_result(None)
                return True
        return False


class Turn:
    """The places of one asset: for any request, and beside that for one whose answer may be a full page."""

    def __init__(self, requests: Slots, full_pages: Slots) -> None:
        self.request = Place(requests)
        self.full_page = Place(full_pages)
        self.full_pages_at_once = full_pages.at_most


class Requests:
    """The slots of all requests, and of those among them whose answers are large.

    Parameters
    ----------
    at_most : int
        Requests in flight.
    """

    def __init__(self, at_most: int) -> None:
        self._all = Slots(at_most)
        self._full_pages = Slots(min(at_most, _FULL_PAGES_AT_ONCE))

    def turn(self) -> Turn:
        """Return the places of one asset."""
        return Turn(self._all, self._full_pages)

"""Lists on a simulated server in virtual time, which the load of a machine cannot disturb.

A request takes 40 ms, a page of a thousand keys 4 ms of a core and 0.3 ms besides, on two cores; 256 are in flight.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NamedTuple, TypeVar

from benchmarks.shapes import SHAPES, keys_of, least_requests, names, page, size_of, total
from job_dispatch.storage.keys import (
    NO_KEYS,
    PAGE_SIZE,
    Experience,
    Level,
    NothingSeenError,
    Order,
    Page,
    Taker,
    level_of,
)
from job_dispatch.storage.listing import Slots, list_keys
from job_dispatch.storage.matching import ByEnding, Bytes, Matches

_ROUND_TRIP = 0.04
_CPU_OF_REQUEST, _CPU_OF_KEY = 0.000_3, 0.000_004
_CORES = 2
_CONCURRENCY = 256

Answer = TypeVar("Answer")


class Simulated(NamedTuple):
    """What a listing takes, and how long the assets of the first shape take on average."""

    requests: int
    seconds: float
    most_in_flight: int
    mean_seconds: float


class _Clock(selectors.SelectSelector):
    """Instead of waiting, time goes on."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.now += timeout or 0
        return super().select(0)


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _Clock()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def in_virtual_time(work: Coroutine[Any, Any, Answer]) -> Answer:
    """Run a coroutine in a loop in which nothing takes time but what it waits for."""
    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
        return runner.run(work)


class _Server:
    """The assets of all shapes, and what all requests cost."""

    def __init__(self) -> None:
        self.requests = self.in_flight = self.most_in_flight = 0
        self.is_reached = asyncio.Event()
        self._cores = asyncio.Semaphore(_CORES)
        # Where full pages end a listing, which obstore tells when it is asked on, without another request.
        self._ends: set[tuple[str, str]] = set()

    async def level(self, folder: str) -> Level:
        asset, _, path = folder.partition("/")
        files: dict[str, tuple[int, str]] = {}
        folders: list[str] = []
        position: int | None = 0
        while position is not None:
            keys = keys_of(_shape(asset))
            positions, prefixes, position = page(keys, path, "/", position, PAGE_SIZE)
            await self._answer(len(positions) + len(prefixes))
            files.update((f"{asset}/{keys[one]}", (size_of(keys[one]), "")) for one in positions)
            folders += [f"{asset}/{one}" for one in prefixes]
        return level_of(files, folders)

    async def page(self, prefix: str, after: str, is_guess: bool = False) -> Page:
        if (prefix, after) in self._ends:
            return NO_KEYS
        asset, _, path = prefix.partition("/")
        keys = keys_of(_shape(asset))
        found = page(keys, path, "", keys.after_key(after.partition("/")[2]), PAGE_SIZE)
        await self._answer(len(found.positions))
        if is_guess and not found.positions:
            raise NothingSeenError
        paths = [keys[one] for one in found.positions]
        sizes = [size_of(path) for path in paths]
        if found.next_position is None and paths:
            self._ends.add((prefix, f"{asset}/{paths[-1]}"))
        return Page([f"{asset}/{path}" for path in paths], sizes, [""] * len(sizes), len(paths) < PAGE_SIZE)

    async def _answer(self, keys: int) -> None:
        self.requests += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(_ROUND_TRIP)
        async with self._cores:
            await asyncio.sleep(_CPU_OF_REQUEST + _CPU_OF_KEY * keys)
        self.in_flight -= 1
        self.is_reached.set()


def _shape(asset: str) -> str:
    return asset.rpartition("_")[0]


def simulate(shape: str, count: int, is_measured: bool = False, order: Order = Order.TEXT) -> Simulated:
    """List assets of a shape in one bucket, whose order is known or not; `is_measured`: for their sizes."""

    async def run() -> Simulated:
        server, slots, experience = _Server(), Slots(_CONCURRENCY), Experience(order)
        assets, free, done = names(shape, count), asyncio.Semaphore(_CONCURRENCY), dict[str, float]()

        async def list_one(asset: str) -> None:
            matching = ByEnding((SHAPES[_shape(asset)].ending,))
            take: Callable[[], Taker] = Bytes if is_measured else lambda: Matches(matching, f"{asset}/")
            async with free:
                if asset != assets[0]:  # as a bucket is opened by one request
                    await server.is_reached.wait()
                await list_keys(server, [f"{asset}/"], take, slots, experience)
                done[asset] = asyncio.get_running_loop().time()

        await asyncio.gather(*map(list_one, assets))
        return Simulated(server.requests, max(done.values()), server.most_in_flight, _mean(done, shape))

    return in_virtual_time(run())


def _mean(done: Mapping[str, float], shape: str) -> float:
    first = [seconds for asset, seconds in done.items() if _shape(asset) == shape.partition("+")[0]]
    return sum(first) / len(first)


def least(shape: str, count: int, is_measured: bool) -> int:
    """Return how many requests a plain listing takes at least, for matches or for the sizes of all objects."""
    pages: Callable[[str], int] = lambda one: -(-len(keys_of(one)) // PAGE_SIZE)  # noqa: E731
    return total(shape, count, pages if is_measured else least_requests)

"""Many requests at once: no more than allowed, none of them starved, and the order of a place found out."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.simulated import in_virtual_time
from job_dispatch.storage import keys as paging
from job_dispatch.storage import listing
from job_dispatch.storage.keys import Experience, Level, Order, Page
from job_dispatch.storage.listing import Slots, list_keys
from job_dispatch.storage.matching import ByEnding, Bytes, Matches
from tests.storage.tree import Tree

# A page of 20 keys, so that few keys are many pages.
PAGE_SIZE = 20
NWB = ByEnding((".nwb",))
HUGE = [f"a/tile_{tile:03}/{image:04}.tif" for tile in range(60) for image in range(PAGE_SIZE)]
SMALL = ["b/x.nwb", "b/y.txt"]


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "PAGE_SIZE", PAGE_SIZE)


class Log(Tree):
    """Keys in memory, and the prefixes in the order in which they were asked for."""

    def __init__(self, keys: list[str], order: str = "text") -> None:
        super().__init__(keys, order)
        self.asked: list[str] = []

    async def level(self, folder: str) -> Level:
        self.asked.append(folder)
        return await super().level(folder)

    async def page(self, prefix: str, after: str, is_guess: bool = False) -> Page:
        self.asked.append(prefix)
        return await super().page(prefix, after, is_guess)


@pytest.mark.parametrize("at_most", [1, 2, 5, 256])
def test_there_are_never_more_requests_in_flight_than_allowed_over_all_assets(at_most: int) -> None:
    trees = Tree([key.replace("a/", f"{asset}/", 1) for asset in "abcd" for key in HUGE])

    async def list_all() -> None:
        slots, experience = Slots(at_most), Experience()
        listed = (list_keys(trees, [f"{asset}/"], lambda: Matches(NWB, "a/"), slots, experience) for asset in "abcd")
        await asyncio.gather(*listed)

    asyncio.run(list_all())
    assert trees.most_in_flight <= at_most
    assert at_most == 1 or trees.most_in_flight > 1


def test_a_huge_asset_is_listed_side_by_side() -> None:
    tree = Tree(HUGE)
    tree.turns = 100  # much longer than to ask
    asyncio.run(list_keys(tree, ["a/"], lambda: Matches(NWB, "a/"), Slots(256), Experience()))
    assert tree.requests <= 1.5 * 60
    assert tree.most_in_flight > 10


def test_a_huge_asset_does_not_hold_up_a_small_one() -> None:
    tree = Log([*HUGE, *SMALL])

    async def list_both() -> None:
        slots, experience = Slots(2), Experience()
        huge = asyncio.create_task(list_keys(tree, ["a/"], lambda: Matches(NWB, "a/"), slots, experience))
        while len(tree.asked) < 10:
            await asyncio.sleep(0)
        small = await list_keys(tree, ["b/"], lambda: Matches(NWB, "b/"), slots, experience)
        assert small.found.keys() == {"b/x.nwb"}
        assert not huge.done()
        await huge

    asyncio.run(list_both())
    small = [number for number, prefix in enumerate(tree.asked) if prefix == "b/"]
    assert max(small) <= 10 + 2 * 4


@pytest.mark.parametrize("order", ["text", "folders"])
def test_how_a_place_sorts_is_asked_once_for_a_bucket(order: str) -> None:
    # Names of which one begins with the other, so that it matters how a place sorts the slash.
    keys = [f"a/{folder}/{image:04}.tif" for folder in ("s", "s-1", "s.x", "t") for image in range(PAGE_SIZE + 5)]
    tree, experience = Log([*keys, "a/s-1/x.nwb", "a/t/x.nwb"], order), Experience()

    async def list_thrice() -> list[set[str]]:
        slots = Slots(16)
        taken = [await list_keys(tree, ["a/"], lambda: Matches(NWB, "a/"), slots, experience) for _ in range(3)]
        return [set(one.found) for one in taken]

    assert asyncio.run(list_thrice()) == [{"a/s-1/x.nwb", "a/t/x.nwb"}] * 3
    assert experience.order is (Order.TEXT if order == "text" else Order.OTHER)


def test_a_level_that_never_comes_does_not_stop_an_asset(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Tree):
        async def level(self, folder: str) -> Level:
            await asyncio.Event().wait()
            raise AssertionError

    monkeypatch.setattr(listing, "_LEVEL_SECONDS", 0.01)
    keys = {f"a/{folder:03}/{number}.nwb" for folder in range(100) for number in range(3)}
    tree = Slow(keys)
    taken = asyncio.run(list_keys(tree, ["a/"], lambda: Matches(NWB, "a/"), Slots(16), Experience(Order.TEXT)))
    assert taken.found.keys() == keys


class SlowLevels(Tree):
    """A page takes 40 ms, a level three seconds."""

    async def level(self, folder: str) -> Level:
        await asyncio.sleep(3)
        return await super().level(folder)

    async def page(self, prefix: str, after: str, is_guess: bool = False) -> Page:
        await asyncio.sleep(0.04)
        return await super().page(prefix, after, is_guess)


@pytest.mark.parametrize("is_walked", [False, True])
def test_folders_are_read_page_by_page_until_their_slow_level_shows_them_and_then_side_by_side(is_walked: bool) -> None:
    tree = SlowLevels([f"a/tile_{tile:03}/{image:04}.tif" for tile in range(400) for image in range(PAGE_SIZE)])

    async def seconds() -> float:
        await list_keys(tree, ["a/"], lambda: Matches(NWB, "a/"), Slots(64), Experience(Order.TEXT, is_walked))
        return asyncio.get_running_loop().time()

    assert in_virtual_time(seconds()) < 5  # 400 pages in a row would take 16


def test_a_level_ends_once_pages_show_that_it_is_of_thousands_of_files() -> None:
    class Endless(SlowLevels):
        requests_until_its_end = 0

        async def level(self, folder: str) -> Level:
            try:
                return await super().level(folder)
            except asyncio.CancelledError:
                self.requests_until_its_end = self.requests
                raise

    tree = Endless([f"a/{image:06}.tif" for image in range(200 * PAGE_SIZE)])
    experience = Experience(Order.TEXT, is_walked=True)
    taken = in_virtual_time(list_keys(tree, ["a/"], Bytes, Slots(64), experience))
    assert taken.objects == len(tree.keys)
    assert 0 < tree.requests_until_its_end < 20


def test_a_folder_of_ten_thousand_folders_takes_few_requests() -> None:
    keys = {f"a/trials/{number:05}/{'x.nwb' if number == 77 else 'data.bin'}" for number in range(10_000)}
    tree = Tree(keys)
    taken = asyncio.run(list_keys(tree, ["a/"], lambda: Matches(NWB, "a/"), Slots(256), Experience(Order.TEXT)))
    assert taken.found.keys() == {"a/trials/00077/x.nwb"}
    assert tree.requests <= 2 * len(keys) / PAGE_SIZE + 10

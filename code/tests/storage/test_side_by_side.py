"""Many requests at once: no more than allowed, none of them starved, and the order of a place found out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from job_dispatch.storage import keys as paging
from job_dispatch.storage.dividing import Experience
from job_dispatch.storage.keys import Level, Page
from job_dispatch.storage.listing import list_keys
from job_dispatch.storage.matching import ByEnding, Matches
from job_dispatch.storage.slots import Requests
from tests.storage.tree import Tree, matches

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

    def __init__(self, keys: list[str]) -> None:
        super().__init__(keys)
        self.asked: list[str] = []

    async def level(self, folder: str) -> Level:
        self.asked.append(folder)
        return await super().level(folder)

    async def pages(self, prefix: str, after: str | None) -> AsyncIterator[Page]:
        async for page in super().pages(prefix, after):
            self.asked.append(prefix)
            yield page


@pytest.mark.parametrize("at_most", [1, 2, 5, 256])
def test_there_are_never_more_requests_in_flight_than_allowed_over_all_assets(at_most: int) -> None:
    trees = Tree([key.replace("a/", f"{asset}/", 1) for asset in "abcd" for key in HUGE])

    async def list_all() -> None:
        requests, experience = Requests(at_most), Experience()
        await asyncio.gather(
            *(
                list_keys(trees, [f"{asset}/"], lambda: Matches(NWB, "a/"), requests.turn(), experience)
                for asset in "abcd"
            )
        )

    asyncio.run(list_all())
    assert trees.most_in_flight <= at_most
    assert at_most == 1 or trees.most_in_flight > 1


def test_a_huge_asset_is_listed_side_by_side() -> None:
    tree = Tree(HUGE)
    asyncio.run(list_keys(tree, ["a/"], lambda: Matches(NWB, "a/"), Requests(256).turn(), Experience()))
    assert tree.requests <= 65
    assert tree.most_in_flight > 10


def test_a_huge_asset_does_not_hold_up_a_small_one() -> None:
    tree = Log([*HUGE, *SMALL])

    async def list_both() -> None:
        requests, experience = Requests(2), Experience()
        huge = asyncio.create_task(list_keys(tree, ["a/"], lambda: Matches(NWB, "a/"), requests.turn(), experience))
        while len(tree.asked) < 10:
            await asyncio.sleep(0)
        small = await list_keys(tree, ["b/"], lambda: Matches(NWB, "b/"), requests.turn(), experience)
        assert small.found == {"b/x.nwb": 5}
        assert not huge.done()
        await huge

    asyncio.run(list_both())
    small = [number for number, prefix in enumerate(tree.asked) if prefix == "b/"]
    assert max(small) <= 10 + 2 * 4


def test_a_request_that_is_given_up_gives_its_slot_back() -> None:
    async def give_up() -> None:
        requests = Requests(1)
        first, second, third = requests.turn(), requests.turn(), requests.turn()
        async with first.request:
            waiting = asyncio.create_task(second.request.__aenter__())
            last = asyncio.create_task(third.request.__aenter__())
            await asyncio.sleep(0)
            waiting.cancel()
        await asyncio.wait_for(last, 10)

    asyncio.run(give_up())


# Names of which one begins with the other, so that it matters how a place sorts the slash.
DISPUTED = [
    f"a/{folder}/{image:04}.{'nwb' if image == 3 else 'tif'}"
    for folder in ("s", "s-1", "s.x", "t")
    for image in range(PAGE_SIZE + 5)
]


@pytest.mark.parametrize("order", ["text", "folders"])
def test_how_a_place_sorts_is_asked_once_where_it_matters(order: str) -> None:
    tree, experience = Tree(DISPUTED, order), Experience()

    async def list_twice() -> list[dict[str, int | None]]:
        requests = Requests(16)
        taken = [
            await list_keys(tree, ["a/"], lambda: Matches(NWB, "a/"), requests.turn(), experience) for _ in range(2)
        ]
        return [one.found for one in taken]

    assert asyncio.run(list_twice()) == [matches(DISPUTED, "a/", (".nwb",))] * 2
    assert (experience.is_text_order, experience.is_out_of_order) == (order == "text", order == "folders")

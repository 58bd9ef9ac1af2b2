"""Each key once, by few requests, whatever the tree looks like and however its place sorts."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from benchmarks.shapes import SHAPES, Shape
from benchmarks.simulated import simulate
from job_dispatch.storage import keys as paging
from job_dispatch.storage.keys import Experience, Order, Page
from job_dispatch.storage.listing import Slots, list_keys
from tests.storage.tree import (
    STORES,
    Endings,
    Tree,
    random_tree,
    requests_of_flat_listing,
    requests_of_walk,
    size_of,
    store_of,
)

PREFIX = "p/"
seeds = st.integers(0, 2**32 - 1)
many = settings(max_examples=75, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Seen:
    """Counts what is handed over."""

    def __init__(self, endings: Endings, has_stores: bool) -> None:
        self.endings, self.has_stores = endings, has_stores
        self.keys: Counter[str] = Counter()
        self.size = 0
        self.stores: set[str] = set()

    def is_store(self, folder: str) -> bool:
        return self.has_stores and folder.endswith((*STORES, *self.endings))

    def store_of(self, key: str) -> str | None:
        return store_of(key, PREFIX, self.endings) if self.has_stores else None

    def take_keys(self, page: Page, start: int, stop: int) -> int:
        outside = 0
        for key, size in zip(page.keys[start:stop], page.sizes[start:stop], strict=True):
            store = self.store_of(key)
            if store is None:
                self.keys[key] += 1
                self.size += size
                outside += 1
            else:
                self.stores.add(store)
        return outside

    def take_store(self, folder: str) -> None:
        self.stores.add(folder)


@dataclass
class Case:
    """A random tree, and all that else may differ."""

    seed: int
    chance: random.Random = field(init=False)
    keys: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        paging.PAGE_SIZE = self.chance.choice([3, 5, 10, 20, 50])
        self.keys = random_tree(self.chance, PREFIX, self.chance.choice([0, 1, 5, 40, 200, 600]))
        self.endings: Endings = self.chance.choice([(), ("0",)])
        self.has_stores = self.chance.random() < 0.7
        self.prefixes = [PREFIX]
        if self.chance.random() < 0.15:  # as patterns with fixed folders have
            tops = {key[: key.index("/", len(PREFIX)) + 1] for key in self.keys if "/" in key[len(PREFIX) :]}
            tops = {top for top in tops if not Seen(self.endings, self.has_stores).is_store(top[:-1])}
            self.prefixes = self.chance.sample(sorted(tops), min(len(tops), 3)) or [PREFIX]

    def list(self, order: str, known: Order, born: Sequence[str] = (), gone: Sequence[str] = ()) -> tuple[Seen, Tree]:
        """List the tree beside others whose names begin alike."""
        others = {"p", "p-/x", "p0/x", "o/x", "q/x"}
        tree = Tree(self.keys | others, order, self.chance, born, gone)
        experience = Experience(known, self.chance.choice([None, None, True, False]))
        slots = Slots(self.chance.choice([1, 3, 16, 256]))

        async def run() -> Seen:
            seen = Seen(self.endings, self.has_stores)
            return await list_keys(tree, self.prefixes, lambda: seen, slots, experience)

        return asyncio.run(asyncio.wait_for(run(), 60)), tree

    def check(self, seen: Seen, come_or_gone: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        """Each key that was there throughout was handed over once, or is in a store that was; nothing else was."""
        within = {key for key in self.keys if key.startswith(tuple(self.prefixes)) and key not in self.prefixes}
        # A marker is seen where a page is read, but not where a level is.
        within = {key for key in within if not key.endswith("/")}
        stores = {key: seen.store_of(key) for key in within}
        outside = {key for key in within if stores[key] is None}
        assert outside - come_or_gone <= seen.keys.keys()
        assert not [key for key, times in seen.keys.items() if times > 1]
        assert {key for key in seen.keys if not key.endswith("/")} <= outside | come_or_gone
        assert {store for key, store in stores.items() if store and key not in come_or_gone} <= seen.stores
        if not come_or_gone:
            markers = {key for key in self.keys if key.endswith("/")}
            with_marker = {seen.store_of(key) or key[:-1] for key in markers}
            assert seen.stores <= set(stores.values()) | with_marker


@pytest.fixture(autouse=True)
def _usual_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trees have pages of a few keys here; others again have those of S3."""
    monkeypatch.setattr(paging, "PAGE_SIZE", paging.PAGE_SIZE)


@many
@given(seeds)
def test_each_key_is_handed_over_once_where_keys_are_known_to_come_as_text(seed: int) -> None:
    case = Case(seed)
    seen, _ = case.list("text", Order.TEXT)
    case.check(seen)


@many
@given(seeds, st.sampled_from(["text", "folders"]))
def test_each_key_is_handed_over_once_however_a_place_turns_out_to_sort(seed: int, order: str) -> None:
    case = Case(seed)
    seen, _ = case.list(order, Order.UNKNOWN)
    case.check(seen)


@many
@given(seeds, st.sampled_from(["text", "folders"]))
def test_keys_that_come_or_go_meanwhile_are_handed_over_at_most_once_and_disturb_no_other(
    seed: int, order: str
) -> None:
    case = Case(seed)
    born = sorted(random_tree(case.chance, PREFIX, 30) - case.keys)
    gone = case.chance.sample(sorted(case.keys), len(case.keys) // 10)
    seen, _ = case.list(order, Order.TEXT if order == "text" else Order.UNKNOWN, born, gone)
    case.check(seen, {*born, *gone})


# The same trees each time: what there is to spare was chosen on other ones, and is no proof.
@settings(many, derandomize=True)
@given(seeds)
@example(1983)
def test_an_asset_takes_at_most_twice_the_requests_of_the_better_plain_way_and_ten(seed: int) -> None:
    """Where the order of the bucket is known; a large folder that is asked for counts once."""
    case = Case(seed)
    case.prefixes, case.has_stores = [PREFIX], True
    _, tree = case.list("text", Order.TEXT)
    assert tree.requests - tree.further_pages_of_levels <= 2 * better_way(case) + 10


@many
@given(seeds, st.sampled_from(["text", "folders"]))
def test_the_order_of_a_bucket_is_found_out_by_one_request_at_most(seed: int, order: str) -> None:
    _, tree = Case(seed).list(order, Order.UNKNOWN)
    assert sum(after.endswith(f".{paging.LAST}") for after in tree.pages_asked_after) <= 1


def better_way(case: Case) -> int:
    keys = case.keys
    return min(requests_of_walk(keys, PREFIX, case.endings), requests_of_flat_listing(keys, PREFIX, case.endings))


@many
@given(seeds, st.sampled_from(["text", "folders"]))
def test_each_object_is_measured_once(seed: int, order: str) -> None:
    case = Case(seed)
    case.keys = {key for key in case.keys if not key.endswith("/")}
    case.prefixes, case.has_stores = [PREFIX], False
    seen, _ = case.list(order, Order.UNKNOWN)
    assert (seen.keys.total(), seen.size) == (len(case.keys), sum(map(size_of, case.keys)))


@pytest.mark.parametrize(
    ("shape", "assets", "seconds", "requests"),
    [
        ("one-folder", 1, 0.5, 110),
        ("sessions", 3, 0.8, 360),
        ("skewed", 1, 0.5, 100),
        ("huge-before-small", 1, 0.8, 120),
        ("wide-chain", 1, 0.5, 30),
        ("raw-light-sheet", 2, 0.7, 210),
        ("folders-of-1700", 1, 0.5, 140),
        ("hex-folders", 1, 0.35, 40),
    ],
)
def test_assets_of_many_shapes_are_listed_near_the_limit_of_a_simulated_server(
    shape: str, assets: int, seconds: float, requests: int
) -> None:
    taken = simulate(shape, assets)
    assert taken.seconds <= seconds
    assert taken.requests <= requests


def test_a_huge_folder_is_read_side_by_side_though_others_of_its_asset_are_small(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def blocks() -> list[tuple[str, Sequence[str]]]:
        small = [(f"{folder:02}/", [f"{number:06}.tif" for number in range(1_700)]) for folder in range(60)]
        return [*small, ("huge/", [f"{number:06}.tif" for number in range(200_000)]), ("", ["z.nwb"])]

    monkeypatch.setitem(SHAPES, "mixed", Shape(".nwb", blocks, "small folders, and a huge one"))
    taken = simulate("mixed", 1)
    assert taken.seconds < 2  # 200 pages in a row would take 8
    assert taken.requests < 350  # 261 pages at least


def test_an_asset_of_stores_does_not_wait_until_the_order_of_its_bucket_is_known() -> None:
    known, unknown = (simulate("many-stores", 1, order=order) for order in (Order.TEXT, Order.UNKNOWN))
    assert unknown.requests == known.requests + 1
    assert unknown.seconds < known.seconds + 0.01  # a request takes 0.04


NAMES = {
    "numbers": [f"{number:05}.tif" for number in range(20_000)],
    "numbers without zeros before": [f"frame_{number}.tif" for number in range(20_000)],
    "digests": [f"{random.Random(number).getrandbits(64):016x}" for number in range(20_000)],
    "dates": [f"2021-{n // 1_700 + 1:02}-{n % 28 + 1:02}T{n % 24:02}-{n % 60:02}-{n:05}.csv" for n in range(20_000)],
}


@pytest.mark.parametrize("scheme", NAMES)
@pytest.mark.parametrize("order", [Order.TEXT, Order.UNKNOWN])
def test_one_folder_of_many_files_is_read_side_by_side_whatever_their_names(scheme: str, order: Order) -> None:
    paging.PAGE_SIZE = 200
    tree = Tree(f"p/images/{name}" for name in NAMES[scheme])
    tree.turns = 100  # much longer than to ask
    seen = asyncio.run(list_keys(tree, [PREFIX], lambda: Seen((), True), Slots(256), Experience(order)))
    assert len(seen.keys) == 20_000
    assert tree.requests <= 2 * 100 + 10
    assert tree.most_in_flight >= 10

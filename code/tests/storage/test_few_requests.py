"""Few requests, side by side, whatever the tree looks like."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from job_dispatch.storage import keys as paging
from job_dispatch.storage.dividing import Experience, First
from job_dispatch.storage.listing import list_keys
from job_dispatch.storage.matching import ByEnding, Bytes, Found, Matches
from job_dispatch.storage.slots import Requests
from tests.storage.tree import Endings, Tree, matches, requests_of_flat_listing, requests_of_walk

NWB: Endings = (".nwb",)


def find(tree: Tree, endings: Endings, first: First | None = None, at_most: int = 256) -> Found:
    """List a tree as the first asset of its bucket, or as one after an asset that taught what to ask first."""

    async def run() -> Found:
        experience = Experience(is_text_order=True)
        experience.first = first
        taken = await list_keys(
            tree, ["a/"], lambda: Matches(ByEnding(endings), "a/"), Requests(at_most).turn(), experience
        )
        return taken.found

    return asyncio.run(run())


def measure(tree: Tree) -> tuple[int, int]:
    async def run() -> tuple[int, int]:
        taken = await list_keys(tree, ["a/"], Bytes, Requests(256).turn(), Experience())
        return taken.objects, taken.total

    return asyncio.run(run())


SEGMENTS = ["s.zarr", "t.zarr0", "b.nwb", "c.h5", "d", "e", "é", "0", "d-1", "d.x"]
paths = st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=5).map(lambda parts: "a/" + "/".join(parts))
# Many keys below one path, so that pages are full and stores are worth a jump.
bushes = st.tuples(paths, st.integers(1, 40), st.sampled_from(["", "/x", "/x/y", "/b.nwb/x"]), st.integers(1, 7)).map(
    lambda bush: [f"{bush[0]}/{number:02}{bush[2]}{leaf or ''}" for number in range(bush[1]) for leaf in range(bush[3])]
)
trees = st.lists(st.one_of(paths.map(lambda path: [path]), bushes), min_size=0, max_size=12).map(
    lambda parts: {key for part in parts for key in part}
)
some_endings = st.sampled_from([NWB, (".zarr",), (".h5",), (".nwb", ".h5"), ("0",)])
some_first = st.sampled_from([None, *First])


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of five entries, so that small trees have many."""
    monkeypatch.setattr(paging, "PAGE_SIZE", 5)


@pytest.mark.usefixtures("small_pages")
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(keys=trees, endings=some_endings, first=some_first)
@example(
    keys={"a/s.zarr/1", "a/s.zarr/2", "a/s.zarr/3", "a/s.zarr/4", "a/s.zarr/5", "a/s.zarr0"}, endings=("0",), first=None
)
def test_what_is_found_is_what_the_rules_say_of_each_key(keys: set[str], endings: Endings, first: First | None) -> None:
    assert find(Tree(keys), endings, first) == matches(keys, "a/", endings)


@pytest.mark.usefixtures("small_pages")
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(keys=trees, endings=some_endings, first=some_first)
def test_an_asset_takes_at_most_three_times_the_requests_of_the_better_way_and_two_more(
    keys: set[str], endings: Endings, first: First | None
) -> None:
    tree = Tree(keys)
    find(tree, endings, first)
    better = min(requests_of_walk(keys, "a/", endings), requests_of_flat_listing(keys, "a/", endings))
    assert tree.requests <= 3 * better + 2


@pytest.mark.usefixtures("small_pages")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(keys=trees, order=st.sampled_from(["text", "folders"]))
def test_each_object_is_measured_once(keys: set[str], order: str) -> None:
    assert measure(Tree(keys, order)) == (len(keys), sum(len(key.rpartition("/")[2]) for key in keys))


@pytest.mark.usefixtures("small_pages")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(keys=trees, endings=some_endings, first=some_first)
def test_a_place_that_lists_by_folders_is_listed_as_well(keys: set[str], endings: Endings, first: First | None) -> None:
    async def run() -> Found:
        experience = Experience()
        experience.first = first
        taken = await list_keys(
            Tree(keys, "folders"), ["a/"], lambda: Matches(ByEnding(endings), "a/"), Requests(256).turn(), experience
        )
        return taken.found

    assert asyncio.run(run()) == matches(keys, "a/", endings)

"""Few requests whatever the tree looks like: the walk, the flat listing, and the mixture of both."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from job_dispatch.storage import listing
from job_dispatch.storage.listing import Comparison, Endings, Flat, Found, Level, Page, Walk, Way, find

NWB: Endings = (".nwb",)


class Tree:
    """Keys in memory that are asked as S3 is, by pages of `PAGE_SIZE`, and count their requests."""

    def __init__(self, keys: Iterable[str]) -> None:
        self.keys = sorted(set(keys), key=str.encode)
        self.encoded = [key.encode() for key in self.keys]
        self.requests = 0

    async def level(self, folder: str) -> Level:
        below = [key.removeprefix(folder).partition("/") for key in self.keys if key.startswith(folder)]
        files = {folder + name: len(name) for name, slash, _ in below if not slash}
        folders = list(dict.fromkeys(f"{folder}{name}/" for name, slash, _ in below if slash))
        self.requests += max(1, -(-(len(files) + len(folders)) // listing.PAGE_SIZE))
        return Level(files, folders)

    async def pages(self, prefix: str, after: str | None) -> AsyncIterator[Page]:
        position = bisect_right(self.encoded, (after or "").encode())
        keys = [key for key in self.keys[position:] if key.startswith(prefix)]
        for start in range(0, max(1, len(keys)), listing.PAGE_SIZE):
            self.requests += 1
            page = keys[start : start + listing.PAGE_SIZE]
            yield Page(page, [len(key.rpartition("/")[2]) for key in page])


def by(way: Way, keys: Iterable[str], endings: Endings) -> tuple[Found, int]:
    """Return what one way alone finds, and its requests."""
    tree = Tree(keys)

    async def run() -> Found:
        alone: Walk | Flat = Walk(tree.level, "a/", endings) if way is Walk else Flat(tree, "a/", endings)
        while not await alone.step():
            pass
        return alone.found

    return asyncio.run(run()), tree.requests


def by_both(first: Way, keys: Iterable[str], endings: Endings) -> tuple[Found, int]:
    tree = Tree(keys)
    return asyncio.run(find(tree, "a/", endings, first)), tree.requests


def compare(tree: Tree, endings: Endings) -> tuple[Found, Way]:
    async def run() -> tuple[Found, Way]:
        comparison = Comparison(tree, "a/", endings)
        found, _ = await comparison.first()
        return found, await comparison.cheaper()

    return asyncio.run(run())


SEGMENTS = ["s.zarr", "t.zarr0", "b.nwb", "c.h5", "d", "e", "é", "0"]
paths = st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=5).map(lambda parts: "a/" + "/".join(parts))
# Many keys below one path, so that pages are full and stores are worth a jump.
bushes = st.tuples(paths, st.integers(1, 12), st.booleans()).map(
    lambda bush: [f"{bush[0]}/{number}{'/x' * bush[2]}" for number in range(bush[1])]
)
trees = st.lists(st.one_of(paths.map(lambda path: [path]), bushes), min_size=0, max_size=12).map(
    lambda parts: {key for part in parts for key in part}
)
some_endings = st.sampled_from([NWB, (".zarr",), (".h5",), (".nwb", ".h5"), ("0",)])


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of five entries, so that small trees have many."""
    monkeypatch.setattr(listing, "PAGE_SIZE", 5)


@pytest.mark.usefixtures("small_pages")
@settings(max_examples=300, deadline=None)
@given(keys=trees, endings=some_endings)
@example(keys={"a/s.zarr/1", "a/s.zarr/2", "a/s.zarr/3", "a/s.zarr/4", "a/s.zarr/5", "a/s.zarr0"}, endings=("0",))
def test_the_walk_the_flat_listing_and_the_mixture_find_the_same_files_with_the_same_sizes(
    keys: set[str], endings: Endings
) -> None:
    found, _ = by(Walk, keys, endings)
    assert by(Flat, keys, endings)[0] == found
    assert by_both(Walk, keys, endings)[0] == found
    assert by_both(Flat, keys, endings)[0] == found
    assert compare(Tree(keys), endings)[0] == found


@pytest.mark.usefixtures("small_pages")
@settings(max_examples=300, deadline=None)
@given(keys=trees, endings=some_endings)
def test_the_mixture_asks_at_most_three_times_as_often_as_the_better_way_and_twice_more(
    keys: set[str], endings: Endings
) -> None:
    best = min(by(Walk, keys, endings)[1], by(Flat, keys, endings)[1])
    assert by_both(Walk, keys, endings)[1] <= 3 * best + 2
    assert by_both(Flat, keys, endings)[1] <= 3 * best + 2
    tree = Tree(keys)
    compare(tree, endings)
    assert tree.requests <= 3 * best + 2


MANY_STORES = [f"a/s{store:03d}.zarr/{chunk}" for store in range(500) for chunk in range(300)]
DEEP = [f"a/folder{number:05d}/x.nwb" for number in range(10_000)]


@pytest.mark.parametrize("first", [Walk, Flat])
def test_an_asset_of_500_stores_takes_a_handful_of_requests(first: Way) -> None:
    found, requests = by_both(first, MANY_STORES, (".zarr",))
    assert len(found) == 500
    assert requests <= 8


@pytest.mark.parametrize("first", [Walk, Flat])
def test_an_asset_of_10000_folders_takes_about_thirty_requests(first: Way) -> None:
    found, requests = by_both(first, DEEP, NWB)
    assert len(found) == 10_000
    assert requests <= 32


def test_a_large_store_is_jumped_over_and_what_follows_it_is_found() -> None:
    keys = [*(f"a/s.zarr/{chunk:06d}" for chunk in range(50_000)), "a/s.zarr0/x.nwb", "a/t.nwb"]
    found, requests = by(Flat, keys, NWB)
    assert set(found) == {"a/s.zarr0/x.nwb", "a/t.nwb"}
    assert requests == 2


def test_the_cheaper_way_is_taken_for_the_assets_that_follow() -> None:
    behavior = [*(f"a/nwb/x.nwb/{chunk}" for chunk in range(600)), "a/processing.json"]
    flat = [f"a/{folder}/{file}.txt" for folder in "bcd" for file in range(4)]
    assert compare(Tree(behavior), NWB)[1] is Walk
    assert compare(Tree(flat), NWB)[1] is Flat


def test_once_the_way_is_known_an_asset_of_a_few_files_takes_one_request() -> None:
    assert by_both(Flat, [f"a/{folder}/{file}.nwb" for folder in "bcd" for file in range(4)], NWB)[1] == 1

"""The one way of listing: divide what is left, or go folder by folder where keys come in no order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from job_dispatch.storage.dividing import Begun, Division, Experience, First, best_first, walk
from job_dispatch.storage.keys import Page, Source
from job_dispatch.storage.matching import Taker
from job_dispatch.storage.order import OutOfOrderError
from job_dispatch.storage.slots import Turn

AnyTaker = TypeVar("AnyTaker", bound=Taker)


async def list_keys(
    source: Source, prefixes: Sequence[str], take: Callable[[], AnyTaker], turn: Turn, experience: Experience
) -> AnyTaker:
    """Return a taker that has got all keys below some prefixes that end with `/`, none of which is within another.

    Parameters
    ----------
    take : callable
        Makes a taker that has got none.
    experience : Experience
        What is known of the bucket; it grows.
    """
    taker = take()
    if not experience.is_out_of_order:
        try:
            begun = await _begin(source, prefixes[0], taker, turn, experience) if len(prefixes) == 1 else None
            if begun is not None and begun.page.is_last:
                taker.take_page(begun.page, 0, len(begun.page.keys))
            else:
                await Division(source, taker, turn, experience).run(prefixes, begun)
        except OutOfOrderError:
            experience.is_out_of_order = True
            taker = take()
        else:
            return taker
    await walk(source, prefixes, taker, turn)
    return taker


async def _begin(source: Source, prefix: str, taker: Taker, turn: Turn, experience: Experience) -> Begun | None:
    """Ask for the first page where that is the best beginning, or where nothing is known yet."""
    if experience.first is None:
        async with experience.learning:
            if experience.first is None:
                experience.first = First.PAGE  # also if this one fails
                begun = await _first_page(source, prefix, turn)
                experience.first = best_first(begun.page, prefix, taker)
                return begun
    return await _first_page(source, prefix, turn) if experience.first is First.PAGE else None


async def _first_page(source: Source, prefix: str, turn: Turn) -> Begun:
    pages = source.pages(prefix, None)
    async with turn.request:
        page = await anext(pages, None)
    return Begun(page or Page((), (), True), pages)

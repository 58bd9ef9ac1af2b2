"""Which files of an asset match: the rules, and the walk by folder that follows them.

A file matches by the ending of its name. A folder whose name ends in `.zarr`, `.n5`, `.nwb` or a wanted
ending is a store: one thing with thousands of objects that matches by its own name and is never entered.
No other folder is a match. Endings are case-sensitive.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

Endings = tuple[str, ...]
STORE_ENDINGS: Endings = (".zarr", ".n5", ".nwb")


class Level(NamedTuple):
    """What lies directly in a folder: full keys of its files, full prefixes (with `/`) of its folders."""

    files: list[str]
    folders: list[str]


def match_of_location(location: str, endings: Endings) -> list[str] | None:
    """Return what a location itself matches: itself, nothing, or None where files may lie below it."""
    if location.endswith(endings):
        return [location]
    return [] if location.endswith(STORE_ENDINGS) else None


async def walk(list_level: Callable[[str], Awaitable[Level]], prefix: str, endings: tuple[str, ...]) -> set[str]:
    """Return the keys of all matches below a prefix, asking once a folder that is not a store.

    Parameters
    ----------
    list_level : callable
        Lists one folder.
    prefix : str
        Where to begin; ends with `/`.
    endings : tuple of str
        Wanted endings of names.

    Returns
    -------
    set of str
        Keys of files and stores, stores without a trailing slash.
    """
    found: set[str] = set()
    folders = [prefix]
    while folders:
        levels = await asyncio.gather(*map(list_level, folders))
        folders = []
        for level in levels:
            found.update(key for key in level.files if key.endswith(endings))
            for folder in level.folders:
                store = folder[:-1]
                if store.endswith(endings):
                    found.add(store)
                elif not store.endswith(STORE_ENDINGS):
                    folders.append(folder)
    return found

"""What a place with keys is asked, what it answers, and in which order it has its keys."""

from __future__ import annotations

import asyncio
import os.path
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Protocol

PAGE_SIZE = 1_000
# Blocking calls at once: of boto3, and of the file system.
THREADS = 64
# The greatest character: behind `folder/` it sorts after everything in the folder.
LAST = "\U0010ffff"
_DIGITS = frozenset("0123456789")


class Page(NamedTuple):
    """Keys in order, the bytes and the version (ETag) of each object, and whether no key comes after them."""

    keys: Sequence[str]
    sizes: Sequence[int]
    versions: Sequence[str]
    is_last: bool


class Level(NamedTuple):
    """What lies directly in a folder: its files, as the page that they fill, and its folders, each with `/`."""

    files: Page
    folders: Sequence[str]


class NothingSeenError(Exception):
    """Nothing was seen after a guessed key."""


NO_KEYS = Page((), (), (), True)


def level_of(files: Mapping[str, tuple[int, str]], folders: Sequence[str]) -> Level:
    """Return a level of files, each with its size and version, and of folders; both in any order."""
    keys = sorted(files)
    return Level(Page(keys, [files[key][0] for key in keys], [files[key][1] for key in keys], True), sorted(folders))


class Source(Protocol):
    """A place with keys, asked by pages of `PAGE_SIZE` keys."""

    async def level(self, folder: str) -> Level:
        """List what lies directly in a folder; `folder` ends with `/`."""
        ...

    async def page(self, prefix: str, after: str, is_guess: bool = False) -> Page:
        """List the first keys below a prefix that come after a key; all of them where the key is the prefix itself.

        Raises
        ------
        NothingSeenError
            Nothing was seen after a key that is a guess; to be sure would take another request.
        """
        ...


class Taker(Protocol):
    """What becomes of the keys of an asset; each key is handed over once."""

    def is_store(self, folder: str) -> bool:
        """Tell whether a folder, given without a trailing slash, is a store, which is not entered."""
        ...

    def store_of(self, key: str) -> str | None:
        """Return the outermost store that a key lies in, without a trailing slash."""
        ...

    def take_keys(self, page: Page, start: int, stop: int) -> int:
        """Take some keys of a page; return how many of them lie in no store."""
        ...

    def take_store(self, folder: str) -> None:
        """Take a store, given without a trailing slash; none of its keys may follow."""
        ...


class Order(Enum):
    """How a bucket sorts its keys.

    S3 sorts them as text: `a-b/x` comes before `a/x`, since `-` sorts before `/`. A server that keeps folders may list
    `a/x` first, or list in no order at all; then "all keys after this one" means something else, or nothing.
    """

    UNKNOWN = "unknown"
    TEXT = "text"
    OTHER = "other"


@dataclass
class Experience:
    """What is known of a bucket, which helps to list its next assets."""

    order: Order = Order.UNKNOWN
    # Whether assets were best listed folder by folder; None while no asset has shown that.
    is_walked: bool | None = None
    asking_order: asyncio.Lock = field(default_factory=asyncio.Lock)


def end_of(folder: str) -> str:
    """Return what sorts after all keys below a folder that ends with `/`, and before all others after them."""
    return folder + LAST


def common_folder(one: str, other: str) -> str:
    """Return the narrowest folder that two keys lie in, with a trailing slash; empty where there is none."""
    same = os.path.commonprefix((one, other))  # noqa: RUF071  character by character is what is meant
    return same[: same.rfind("/") + 1]


def disputed(entries: Sequence[str]) -> bool:
    """Tell whether a place that sorts by folders has these sorted entries in another order."""
    by_folders = [entry.replace("/", "\0") for entry in entries]
    return by_folders != sorted(by_folders)


async def find_order(source: Source, prefix: str, folder: str) -> Order:
    """Ask a place how it sorts, by one request; there is some key in the folder.

    As text, its keys are the first ones after the name of the folder with a character before `/`. By folders they come
    before that name.
    """
    page = await source.page(prefix, f"{folder[:-1]}.{LAST}")
    return Order.TEXT if page.keys and page.keys[0].startswith(folder) else Order.OTHER


def key_ahead(sample: Sequence[str], distance: int, is_text_order: bool) -> str:
    """Guess the key that comes so many keys after some that follow each other.

    The characters that vary in the names are taken for the digits of a number, to which the distance is added. Where
    the order of keys is not known to be that of text, the guess ends before what could be in dispute.
    """
    home = common_folder(sample[0], sample[-1])
    names = [key[len(home) :] for key in (*sample[::4], sample[-1])]
    columns = [set(characters) for characters in zip(*names, strict=False)]
    varying = {character for column in columns if len(column) > 1 for character in column}
    digits = varying | _DIGITS if varying & _DIGITS else varying
    places = [sorted(digits if column <= digits else column) for column in columns]
    first = last = 0
    for characters, one, other in zip(places, names[0], names[-1], strict=False):
        first = first * len(characters) + characters.index(one)
        last = last * len(characters) + characters.index(other)
    number, name = last + (last - first) * distance // max(1, len(sample) - 1), ""
    for characters in reversed(places):
        number, index = divmod(number, len(characters))
        name = characters[index] + name
    if number:  # it goes beyond the last name of that length
        return home + LAST
    return home + (name if is_text_order else re.split("[\0-/]", name)[0])

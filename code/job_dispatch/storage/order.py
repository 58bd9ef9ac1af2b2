"""In which order a place lists its keys.

S3 lists them as text: `a-b/x` before `a/x`, since `-` sorts before `/`. A server that keeps folders may list by
folders: `a/x` before `a-b/x`. Where to go on, and what lies between two keys, is then another question.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from job_dispatch.storage.keys import LAST, Source, common_start


class OutOfOrderError(Exception):
    """A place does not list its keys as text, so they can only be found folder by folder."""


def _by_folders(key: str) -> str:
    return key.replace("/", "\0")


def disputed(folders: Sequence[str], files: Iterable[str], position: str | None) -> tuple[str, str] | None:
    """Return two keys whose order depends on how a place sorts, if where to go on depends on them.

    Parameters
    ----------
    folders, files
        What lies directly in a folder; folders in the order of text.
    position : str or None
        Up to where the folder is read.
    """
    by_folders = sorted(folders, key=_by_folders)
    for one, other in zip(folders, by_folders, strict=True):
        if one != other:
            return one, other
    if position is not None:
        for entry in (*folders, *files):
            if not position.startswith(entry) and (entry < position) != (_by_folders(entry) < _by_folders(position)):
                return entry, position
    return None


async def is_text_first(source: Source, within: str, pair: tuple[str, str]) -> bool:
    """Ask a place which of two keys it lists first, and tell whether that is the order of text."""
    stem = common_start(*pair)
    if stem == within:
        return False  # a name without characters before its slash
    before = chr(ord(stem[-1]) - 1 if stem[-1] != "\ue000" else 0xD7FF)
    async for page in source.pages(within, f"{stem[:-1]}{before}{LAST}"):
        following = next((key[len(stem)] for key in page.keys if key.startswith(stem) and key != stem), "")
        return following != "/"
    return True

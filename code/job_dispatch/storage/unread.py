"""What is not read yet of an asset: parts of its keys, in order, of which each answer settles some."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from job_dispatch.storage.keys import end_of

Part = tuple[str, str]  # the keys after the first one, up to and with the second


class Unread:
    """The keys that are not read yet, as parts in order."""

    def __init__(self, folders: Sequence[str]) -> None:
        self.parts: list[Part] = [(folder, end_of(folder)) for folder in sorted(folders)]

    def places(self, low: str, high: str) -> range:
        """Return where the parts between two keys are; there may be as many as folders."""
        start = bisect_right(self.parts, low, key=lambda part: part[1])
        return range(start, bisect_left(self.parts, high, start, key=lambda part: part[0]))

    def cut(self, place: int, low: str, high: str) -> Part:
        """Return a part as far as it lies between two keys."""
        after, up_to = self.parts[place]
        return max(after, low), min(up_to, high)

    def settle(self, low: str, high: str, folders: Sequence[str]) -> list[Part]:
        """Take all between two keys for read, but what lies in some folders; return the parts that were unread."""
        places = self.places(low, high)
        unread, touched = [self.cut(place, low, high) for place in places], slice(places.start, places.stop)
        before = [(after, low) for after, _ in self.parts[touched][:1] if after < low]
        behind = [(high, up_to) for _, up_to in self.parts[touched][-1:] if high < up_to]
        kept = [(max(after, one), min(up_to, end_of(one))) for after, up_to in unread for one in folders]
        self.parts[touched] = [*before, *(part for part in kept if part[0] < part[1]), *behind]
        return unread

"""A sample of what is selected, spread over subjects and days: for a trial that has met the variety of the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from job_dispatch.messages import logger
from job_dispatch.model import Asset, Group, Reason, Skipped

Value = TypeVar("Value")


def sample(groups: Sequence[Group], size: int) -> tuple[list[Group], list[Skipped]]:
    """Return at most `size` of the groups (each asset is one where nothing is grouped) in their order, and the rest.

    Each subject gets as many as any other, as far as it has them, and within a subject each day; a group
    counts as its first asset. The same groups make the same sample.
    """
    order = sorted(range(len(groups)), key=lambda number: _rank(groups[number]))
    kept = set(_spread(order, size, groups, (lambda asset: asset.subject, lambda asset: asset.day)))
    taken = [group for number, group in enumerate(groups) if number in kept]
    assets = {asset.record_id for group in taken for asset in group.assets}
    rest = {asset.record_id: asset for group in groups for asset in group.assets if asset.record_id not in assets}
    logger.info("--sample=%d: %s of %s taken", size, f"{len(taken):,}", f"{len(groups):,}")
    return taken, [Skipped.asset(Reason.NOT_IN_SAMPLE, asset) for asset in rest.values()]


def _rank(group: Group) -> tuple[str, str, str, str]:
    first = group.assets[0]
    return first.subject, first.day, first.name, first.record_id


def _spread(
    numbers: Sequence[int], size: int, groups: Sequence[Group], traits: Sequence[Callable[[Asset], str]]
) -> list[int]:
    """Return `size` of the ordered numbers, shared out evenly over the values of each trait in turn."""
    if size >= len(numbers):
        return list(numbers)
    if not traits:
        return _evenly(numbers, size)
    first, *further = traits
    parts: dict[str, list[int]] = {}
    for number in numbers:
        parts.setdefault(first(groups[number].assets[0]), []).append(number)
    if size < len(parts):
        return [_evenly(parts[value], 1)[0] for value in _evenly(list(parts), size)]
    return [
        number
        for part, share in zip(parts.values(), _shares(list(map(len, parts.values())), size), strict=True)
        for number in _spread(part, share, groups, further)
    ]


def _evenly(values: Sequence[Value], size: int) -> list[Value]:
    """Return `size` of the values at equal distances."""
    return [values[(2 * number + 1) * len(values) // (2 * size)] for number in range(size)]


def _shares(lengths: Sequence[int], size: int) -> list[int]:
    """Share `size` out so that no part gets more than it has, nor more than one more than one that has more."""
    shares = [0] * len(lengths)
    left = size
    for done, part in enumerate(sorted(range(len(lengths)), key=lambda part: (lengths[part], part))):
        # From the smallest part on: what it cannot take is left for the others.
        shares[part] = min(lengths[part], left // (len(lengths) - done))
        left -= shares[part]
    return shares

"""A sample of what is selected, spread over subjects and days: for a trial that has met the variety of the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from job_dispatch.cohort.selecting import Selected
from job_dispatch.left_out import LeftOut
from job_dispatch.messages import logger
from job_dispatch.model import Asset, Group

Value = TypeVar("Value")


def sample(selected: Selected, size: int, left_out: LeftOut) -> Selected:
    """Return at most `size` of the groups (each asset is one where nothing is grouped), in their order.

    Every subject gets as many as any other, as far as it has them, and within a subject every day; a group
    counts as its first asset. What is not taken is added to `left_out`. The same groups make the same sample.
    """
    order = sorted(range(len(selected.groups)), key=lambda number: _rank(selected.groups[number]))
    kept = set(_spread(order, size, selected.groups, (lambda asset: asset.subject, lambda asset: asset.day)))
    groups = [group for number, group in enumerate(selected.groups) if number in kept]
    taken = {asset.record_id for group in groups for asset in group.assets}
    rest = [asset for asset in selected.assets if asset.record_id not in taken]
    left_out.add("not in the sample", *rest)
    logger.info("--sample=%d: %s of %s taken", size, f"{len(groups):,}", f"{len(selected.groups):,}")
    return replace(selected, groups=groups)


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

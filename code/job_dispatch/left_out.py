"""The account of what is not analysed, kept as it is found out: a run that fails has it as well.

A further reason is one line where the reason is known: `left_out.add("not the latest", asset)`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from job_dispatch.model import Asset

_COLUMNS = {"asset_id": "asset_id", "docdb_record_id": "record_id", "location": "location"}


class Item(NamedTuple):
    """One thing that is not analysed, as far as it is known: a row of `skipped.csv`.

    `kind` is what the summary counts it as, `reason` the whole reason. `job` is the name of the job that
    is not written although its assets are there, else empty.
    """

    name: str
    asset_id: str
    record_id: str
    location: str
    kind: str
    reason: str
    job: str = ""

    @property
    def known_as(self) -> str:
        """Its name, or else what it was asked for by."""
        return self.name or self.asset_id or self.record_id or self.location


class LeftOut:
    """All that one run leaves out, in the order in which it is found out."""

    def __init__(self) -> None:
        self.items: list[Item] = []

    def add(self, kind: str, *assets: Asset, reason: str = "") -> None:
        """Leave assets out; `reason` says more than what they are counted as."""
        for asset in assets:
            self.items.append(Item(asset.name, asset.asset_id, asset.record_id, asset.location, kind, reason or kind))

    def add_asked(self, kind: str, column: str, value: str, reason: str = "") -> None:
        """Leave out what a column of a table asks for and no record is known of."""
        known = {"name": "", "asset_id": "", "record_id": "", "location": ""}
        known[_COLUMNS.get(column, "name")] = value
        self.items.append(Item(**known, kind=kind, reason=reason or kind))

    def add_job(self, kind: str, job: str, assets: Iterable[Asset], reason: str = "") -> None:
        """Leave out one job; its assets may be analysed by others."""
        parts = ((one.name, one.asset_id, one.record_id, one.location) for one in assets)
        name, asset_id, record_id, location = map("; ".join, zip(*parts, strict=True))
        self.items.append(Item(name, asset_id, record_id, location, kind, reason or kind, job))

    def counts(self, of_jobs: bool = False) -> Counter[str]:
        """Return how many there are of each kind, in the order in which kinds came up; or how many jobs alone."""
        return Counter(item.kind for item in self.items if item.job or not of_jobs)

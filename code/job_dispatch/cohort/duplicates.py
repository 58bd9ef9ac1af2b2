"""The same asset registered twice: records that share name and location make one job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from job_dispatch.left_out import LeftOut
from job_dispatch.messages import counted, warn_listing
from job_dispatch.metadata.records import Record, value_of
from job_dispatch.model import Asset
from job_dispatch.request.fields import instant

FIELDS = ("@created",)
_LONG_AGO = datetime.min.replace(tzinfo=UTC)

Found = list[tuple[Asset, Record]]
Parameters = Mapping[str, Sequence[Mapping[str, Any]]]


def without_duplicates(
    found: Found, parameters: Parameters, left_out: LeftOut
) -> tuple[Found, dict[str, Sequence[Mapping[str, Any]]]]:
    """Return each asset once, by the record of the latest `@created`, then the greatest `_id`; warn of the others.

    `parameters` are those of the rows that asked for a record, by its id; the record that stays takes all of them.
    """
    same: dict[tuple[str, str], list[tuple[Asset, Record]]] = {}
    for asset, record in found:
        key = (asset.name, asset.location) if asset.location else ("", asset.record_id)
        same.setdefault(key, []).append((asset, record))
    taken = [max(alike, key=latest) for alike in same.values()]
    merged = dict(parameters)
    told = []
    for (asset, _), alike in zip(taken, same.values(), strict=True):
        others = [other for other, _ in alike if other.record_id != asset.record_id]
        for other in others:
            left_out.add("registered twice", other, reason=f"registered twice: {asset.record_id} is taken")
            told.append(f"{other.name}: {asset.record_id} is taken, {other.record_id} is not")
            further = [one for one in merged.get(other.record_id, ()) if one not in merged.get(asset.record_id, ())]
            if further:
                merged[asset.record_id] = [*merged.get(asset.record_id, ()), *further]
    if told:
        warn_listing(f"{counted(len(told), 'record')} of an asset that is registered twice left out:", told)
    return taken, merged


def latest(found: tuple[Asset, Record]) -> tuple[datetime, str]:
    """Return what orders records of one asset, read with `FIELDS`: when it was made, then the `_id`."""
    asset, record = found
    return instant(value_of(record, "@created")) or _LONG_AGO, asset.record_id

"""The same asset registered twice: records that share name and location make one job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from job_dispatch.messages import counted, warn_listing
from job_dispatch.metadata.records import Record, code_ocean_ids, value_of
from job_dispatch.model import Asset, Reason, Skipped
from job_dispatch.request.dates import instant

FIELDS = ("@created",)
_LONG_AGO = datetime.min.replace(tzinfo=UTC)

Found = list[tuple[Asset, Record]]
Parameters = Mapping[str, Sequence[Mapping[str, Any]]]


def without_duplicates(found: Found, parameters: Parameters) -> tuple[Found, Parameters, list[Skipped]]:
    """Return each asset once, by the record that `latest` prefers, and the other records.

    `parameters` are those of the rows of each record, by its id; the record that stays takes those of the others.
    """
    same: dict[tuple[str, str], Found] = {}
    for asset, record in found:
        same.setdefault(identity(asset), []).append((asset, record))
    taken = [max(alike, key=latest) for alike in same.values()]
    merged = dict(parameters)
    skipped, details = [], []
    for (asset, _), alike in zip(taken, same.values(), strict=True):
        for other in (one for one, _ in alike if one.record_id != asset.record_id):
            detail = f"{Reason.DUPLICATE.value}: {asset.record_id} is taken"
            skipped.append(Skipped.asset(Reason.DUPLICATE, other, detail))
            details.append(f"{other.name}: {asset.record_id} is taken, {other.record_id} is not")
            further = [one for one in merged.get(other.record_id, ()) if one not in merged.get(asset.record_id, ())]
            if further:
                merged[asset.record_id] = [*merged.get(asset.record_id, ()), *further]
    if skipped:
        records = counted(len(skipped), "record")
        warn_listing(f"{records} of assets that are registered twice skipped:", details)
    return taken, merged, skipped


def identity(asset: Asset) -> tuple[str, str]:
    """Return what all records of one asset share."""
    return (asset.name, asset.location) if asset.location else ("", asset.record_id)


def latest(found: tuple[Asset, Record]) -> tuple[bool, datetime, str]:
    """Return what orders records of one asset: whether it has a Code Ocean id, its `@created`, then its `_id`."""
    asset, record = found
    created = instant(value_of(record, "@created")) or _LONG_AGO
    return bool(code_ocean_ids(record)), created, asset.record_id

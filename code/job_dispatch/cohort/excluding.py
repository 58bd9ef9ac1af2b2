"""Skipping the assets that `--exclude` names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from job_dispatch.metadata.records import Record, asset_of, code_ocean_ids
from job_dispatch.model import Asset, Group, Reason, Skipped
from job_dispatch.request.exclusions import Exclusions


def is_excluded(record: Record, exclusions: Exclusions) -> bool:
    """Tell whether a record's asset is excluded, by any of its names and ids."""
    if not exclusions.assets:
        return False
    asset = asset_of(record)
    return exclusions.has_asset(asset.record_id, asset.name, *code_ocean_ids(record))


def without_excluded(
    groups: Sequence[Group], found: Iterable[tuple[Asset, Record]], exclusions: Exclusions
) -> tuple[list[Group], list[Skipped]]:
    """Return the groups without excluded assets, and those assets.

    It comes after the latest records were found, so that no earlier one takes the place of an excluded one.
    """
    excluded = {asset for asset, record in found if is_excluded(record, exclusions)}
    if not excluded:
        return list(groups), []
    grouped = dict.fromkeys(asset for group in groups for asset in group.assets)
    detail = f"excluded by {exclusions.place}"
    skipped = [Skipped.asset(Reason.EXCLUDED, one, detail) for one in grouped if one in excluded]
    kept = (replace(one, assets=tuple(asset for asset in one.assets if asset not in excluded)) for one in groups)
    return [group for group in kept if group.assets], skipped

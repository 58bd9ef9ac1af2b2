"""Skipping the assets that `--exclude` names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from job_dispatch.cohort.duplicates import Found, identity
from job_dispatch.messages import counted, logger
from job_dispatch.metadata.records import Record, asset_of, code_ocean_ids
from job_dispatch.model import Group, Reason, Skipped
from job_dispatch.request.exclusions import Exclusions


def is_excluded(record: Record, exclusions: Exclusions) -> bool:
    """Tell whether a record's asset is excluded, by any of its names and ids."""
    if not exclusions.assets:
        return False
    return exclusions.has_asset(*_known_as(record))


def _known_as(record: Record) -> tuple[str, ...]:
    asset = asset_of(record)
    return asset.record_id, asset.name, *code_ocean_ids(record)


def without_excluded(
    groups: Sequence[Group], found: Found, exclusions: Exclusions
) -> tuple[list[Group], list[Skipped]]:
    """Return the groups without excluded assets, and those assets.

    It comes after the latest records were found, so that no earlier one takes the place of an excluded one. An asset is
    excluded by each of its records: `found` are all that were selected, also those of the same asset.
    """
    if not exclusions.assets:
        return list(groups), []
    unmatched = exclusions.assets.difference(*(_known_as(record) for _, record in found))
    if unmatched:
        entries = counted(len(exclusions.assets), "entry", "entries")
        logger.info("--exclude: %d of %s in %s match no selected asset", len(unmatched), entries, exclusions.place)
    excluded_ones = {identity(asset) for asset, record in found if is_excluded(record, exclusions)}
    grouped = dict.fromkeys(asset for group in groups for asset in group.assets)
    excluded = {asset for asset in grouped if identity(asset) in excluded_ones}
    detail = f"excluded by {exclusions.place}"
    skipped = [Skipped.asset(Reason.EXCLUDED, one, detail) for one in grouped if one in excluded]
    kept = (replace(one, assets=tuple(asset for asset in one.assets if asset not in excluded)) for one in groups)
    return [group for group in kept if group.assets], skipped

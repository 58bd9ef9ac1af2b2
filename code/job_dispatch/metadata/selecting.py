"""Which assets are selected: by a query or by ids, and in which groups."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from job_dispatch.messages import RequestError, counted, logger, warn_listing
from job_dispatch.metadata.records import (
    ASSET_FIELDS,
    Asset,
    Filter,
    Group,
    MetadataSource,
    Record,
    asset_of,
    code_ocean_ids,
    id_filter,
    projection,
)
from job_dispatch.request.flags import Grouping
from job_dispatch.request.json_text import is_unicode
from job_dispatch.request.selection import AssetIds, Query

_IDS_A_QUERY = 500


@dataclass(frozen=True)
class Selected:
    """What is to be analysed.

    Parameters
    ----------
    matched : int
        Number of records that the query or the ids selected.
    groups : list of Group
        One group an asset, ordered by name, then `_id` (for ids: in their order); with `group_by` one a
        combination of values, ordered by them.
    left_out : dict
        Ids, or names of assets, that were left out, by reason.
    """

    matched: int
    groups: list[Group]
    left_out: dict[str, list[str]]

    @property
    def assets(self) -> list[Asset]:
        """All assets, each once."""
        return list({asset.record_id: asset for group in self.groups for asset in group.assets}.values())


def select_assets(
    metadata: MetadataSource,
    selection: Query | AssetIds,
    grouping: Grouping,
    skip_errors: bool,
    tell: Callable[[Sequence[Asset]], None],
    more_fields: Sequence[str] = (),
) -> Selected:
    """Return the assets that a query or a list of ids selects, in groups.

    `tell` is called with the assets of each page as they come.

    Raises
    ------
    RequestError
        Nothing matches, ids have no record and `skip_errors` is false, or no record has a field of the grouping.
    ServiceError
        The source of records fails.
    """
    fields = projection([*ASSET_FIELDS, *more_fields, *grouping.fields])
    read = _Reading(metadata, fields, tell)
    if isinstance(selection, AssetIds):
        found, missing = _find_ids(read, selection, skip_errors)
    else:
        found, missing = _find(read, selection), []
    assets, records = [asset for asset, _ in found], [record for _, record in found]
    left_out = {"without a record": missing}
    if not grouping.fields:
        return Selected(len(assets), [Group((asset,)) for asset in assets], left_out)
    groups, not_grouped = _arranged(metadata, selection, assets, records, grouping)
    return Selected(len(assets), groups, {**left_out, **not_grouped})


@dataclass(frozen=True)
class _Reading:
    """Reads records with the fields that are needed, and tells of them page by page."""

    metadata: MetadataSource
    fields: Sequence[str]
    tell: Callable[[Sequence[Asset]], None]

    def assets(self, query: Filter) -> Iterator[tuple[Asset, Record]]:
        for page in self.metadata.find(query, self.fields):
            assets = [asset_of(record) for record in page]
            self.tell(assets)
            yield from zip(assets, page, strict=True)


def _find(read: _Reading, query: Query) -> list[tuple[Asset, Record]]:
    found: dict[str, tuple[Asset, Record]] = {}
    for asset, record in read.assets(query.filter):
        found.setdefault(asset.record_id, (asset, record))
    if not found:
        from job_dispatch.metadata.diagnosis import explain_nothing

        raise RequestError("no record matches the query", explain_nothing(read.metadata, query.filter))
    return sorted(found.values(), key=_by_name)


def _arranged(
    metadata: MetadataSource,
    selection: Query | AssetIds,
    assets: Sequence[Asset],
    records: Sequence[Record],
    grouping: Grouping,
) -> tuple[list[Group], dict[str, list[str]]]:
    from job_dispatch.metadata.grouping import arrange, fields_without_value

    _refuse_unknown(metadata, selection, fields_without_value(records, grouping), grouping.drop_nulls)
    arranged = arrange(assets, records, grouping)
    if arranged.without_value:
        fields = ", ".join(dict.fromkeys((*grouping.group_by, *grouping.filter_by)))
        logger.info("%s without a value of %s left out", counted(len(arranged.without_value), "record"), fields)
    if not arranged.groups:
        raise RequestError("no record has a value of every field to group by; --drop_null_groups=0 keeps them all")
    if arranged.not_latest:
        logger.info(
            "%s left out: not the latest by %s", counted(len(arranged.not_latest), "record"), grouping.filter_latest
        )
    if grouping.group_by:
        logger.info("%s of %s", counted(len(arranged.groups), "group"), counted(len(assets), "record"))
    for group in arranged.groups:
        if not is_unicode(group.metadata):
            raise RequestError(f"--group_by: a value of the asset {group.assets[0]} holds text with a lone surrogate")
    if arranged.in_several:
        logger.info("unwinding put assets into more than one group %s", counted(arranged.in_several, "time"))
    return arranged.groups, {
        "without a value": [asset.name for asset in arranged.without_value],
        "not the latest": [asset.name for asset in arranged.not_latest],
    }


def _refuse_unknown(
    metadata: MetadataSource, selection: Query | AssetIds, without_value: Sequence[str], drop_nulls: bool
) -> None:
    """Refuse fields of which no record has a value, except those that are null where null is a value."""
    if not without_value:
        return
    from job_dispatch.metadata.diagnosis import known_fields, suggestion

    known = known_fields(metadata, selection.filter if isinstance(selection, Query) else id_filter(selection.ids[:1]))
    if unknown := [field for field in without_value if field not in known]:
        details = [f"{field}   {suggestion(field, known)}".rstrip() for field in unknown]
        raise RequestError("no selected record has a value of these fields; correct their names", details)
    if drop_nulls:
        details = [f"{field}   is null in every record" for field in without_value]
        raise RequestError("no selected record has a value of these fields; --drop_null_groups=0 keeps nulls", details)


def _by_name(found: tuple[Asset, Record]) -> tuple[str, str]:
    return found[0].name, found[0].record_id


def _find_ids(read: _Reading, asked: AssetIds, skip_errors: bool) -> tuple[list[tuple[Asset, Record]], list[str]]:
    """Return the assets in the order of the ids, and the ids without a record."""
    found: dict[str, dict[str, tuple[Asset, Record]]] = {asset_id: {} for asset_id in asked.ids}
    for ids in _chunks(asked.ids):
        for _, record in read.assets(id_filter(ids)):
            for asset_id in code_ocean_ids(record):
                if asset_id in found:
                    found[asset_id].setdefault(record["_id"], (asset_of(record, asset_id), record))
    missing = [asset_id for asset_id, assets in found.items() if not assets]
    if missing:
        _report_missing(read.metadata, asked, missing, skip_errors)
    if shared := [f"{asset_id}: {len(assets)} records" for asset_id, assets in found.items() if len(assets) > 1]:
        warn_listing(f"{asked.file_name}: ids with several records, all of which are taken:", shared)
    unique: dict[str, tuple[Asset, Record]] = {}
    for assets in found.values():
        for asset, record in sorted(assets.values(), key=_by_name):
            unique.setdefault(asset.record_id, (asset, record))
    return list(unique.values()), missing


def _report_missing(metadata: MetadataSource, asked: AssetIds, missing: Sequence[str], skip_errors: bool) -> None:
    known = dict(_other_meanings(metadata, missing))
    details = [f"{asset_id}{known.get(asset_id, '')}" for asset_id in missing]
    headline = f"{asked.file_name}: {len(missing):,} of {counted(len(asked.ids), 'id')} without a record"
    if len(missing) == len(asked.ids):
        raise RequestError(f"{headline}; correct the ids", details)
    if not skip_errors:
        raise RequestError(f"{headline}; correct the ids, or go on without them by --skip_errors=1", details)
    warn_listing(f"{headline}; skipped:", details)


def _other_meanings(metadata: MetadataSource, missing: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield, for ids that are a record's name or `_id` by mistake, what to write instead."""
    for values in _chunks(missing):
        named = {"$or": [{field: {"$in": list(values)}} for field in ("name", "_id")]}
        for record in itertools.chain.from_iterable(metadata.find(named, ASSET_FIELDS)):
            asset_id = asset_of(record).asset_id
            remedy = f"; its asset_id is {asset_id}" if asset_id else ", which has no asset_id"
            yield record["_id"], f" (the _id of a record{remedy})"
            yield str(record.get("name")), f" (the name of an asset{remedy})"


def _chunks(values: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(values), _IDS_A_QUERY):
        yield values[start : start + _IDS_A_QUERY]

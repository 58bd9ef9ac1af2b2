"""The two questions to the outside world: which assets are selected, and which files do they have."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from inputs import AssetIds, Grouping, Query, Settings
from listing import Endings
from messages import (
    DispatchError,
    Progress,
    RequestError,
    ServiceError,
    counted,
    logger,
    progress,
    warn_listing,
)
from records import (
    ASSET_FIELDS,
    Asset,
    Filter,
    Group,
    LocatedAsset,
    MetadataSource,
    Record,
    asset_of,
    check_asset,
    code_ocean_ids,
    id_filter,
    projection,
)

_IDS_A_QUERY = 500
_ASSETS_IN_FLIGHT = 256


def open_metadata(settings: Settings) -> MetadataSource:
    """Return the source of records that the settings name: the local catalog, or else DocDB."""
    if settings.metadata_catalog is not None:
        from catalog import Catalog

        return Catalog(settings.metadata_catalog)
    from docdb import DocDb

    return DocDb(
        settings.docdb_host,
        settings.docdb_version,
        settings.docdb_database,
        settings.docdb_collection,
        settings.docdb_timeout,
    )


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
        How many ids or records were left out, by reason.
    """

    matched: int
    groups: list[Group]
    left_out: dict[str, int]

    @property
    def assets(self) -> list[Asset]:
        """All assets, each once."""
        return list({asset.record_id: asset for group in self.groups for asset in group.assets}.values())


def select_assets(
    metadata: MetadataSource, selection: Query | AssetIds, grouping: Grouping, skip_errors: bool
) -> Selected:
    """Return the assets that a query or a list of ids selects, in groups.

    Raises
    ------
    RequestError
        Nothing matches, ids have no record and `skip_errors` is false, or no record has a field of the grouping.
    ServiceError
        The source of records fails.
    """
    fields = projection([*ASSET_FIELDS, *grouping.fields])
    with progress("reading metadata", "records") as shown:
        if isinstance(selection, AssetIds):
            found, missing = _find_ids(metadata, selection, fields, skip_errors, shown)
        else:
            found, missing = _find(metadata, selection, fields, shown), []
    assets, records = [asset for asset, _ in found], [record for _, record in found]
    left_out = {"without a record": len(missing)}
    if not grouping.fields:
        return Selected(len(assets), [Group((asset,)) for asset in assets], left_out)
    groups, not_grouped = _arranged(metadata, selection, assets, records, grouping)
    return Selected(len(assets), groups, {**left_out, **not_grouped})


def _find(metadata: MetadataSource, query: Query, fields: Sequence[str], shown: Progress) -> list[tuple[Asset, Record]]:
    records = {record["_id"]: record for record in _records(metadata, query.filter, fields, shown)}
    if not records:
        from diagnosis import explain_nothing

        raise RequestError("no record matches the query", explain_nothing(metadata, query.filter))
    return sorted(((asset_of(record), record) for record in records.values()), key=_by_name)


def _arranged(
    metadata: MetadataSource,
    selection: Query | AssetIds,
    assets: Sequence[Asset],
    records: Sequence[Record],
    grouping: Grouping,
) -> tuple[list[Group], dict[str, int]]:
    from grouping import arrange, fields_without_value

    if unknown := fields_without_value(records, grouping):
        raise RequestError(*_no_such_field(metadata, selection, unknown))
    arranged = arrange(assets, records, grouping)
    if arranged.without_value:
        fields = ", ".join(dict.fromkeys((*grouping.group_by, *grouping.filter_by)))
        logger.info("%s without a value of %s left out", counted(arranged.without_value, "record"), fields)
    if not arranged.groups:
        raise RequestError("no record has a value of every field to group by; --drop_null_groups=0 keeps them all")
    if arranged.not_latest:
        logger.info("%s left out: not the latest by %s", counted(arranged.not_latest, "record"), grouping.filter_latest)
    if grouping.group_by:
        logger.info("%s of %s", counted(len(arranged.groups), "group"), counted(len(assets), "record"))
    if arranged.in_several:
        logger.info("unwinding put assets into more than one group %s", counted(arranged.in_several, "time"))
    return arranged.groups, {"without a value": arranged.without_value, "not the latest": arranged.not_latest}


def _no_such_field(
    metadata: MetadataSource, selection: Query | AssetIds, unknown: Sequence[str]
) -> tuple[str, list[str]]:
    from diagnosis import describe_field

    query = selection.filter if isinstance(selection, Query) else id_filter(selection.ids[:_IDS_A_QUERY])
    details = [f"{field}   {describe_field(metadata, query, field)}".rstrip() for field in unknown]
    return "no selected record has a value of these fields; correct their names", details


def _records(
    metadata: MetadataSource, query: Filter, fields: Sequence[str], shown: Progress | None = None
) -> Iterator[Record]:
    for page in metadata.find(query, fields):
        if shown is not None:
            shown.advance(len(page))
        yield from page


def _by_name(found: tuple[Asset, Record]) -> tuple[str, str]:
    return found[0].name, found[0].record_id


def _find_ids(
    metadata: MetadataSource, asked: AssetIds, fields: Sequence[str], skip_errors: bool, shown: Progress
) -> tuple[list[tuple[Asset, Record]], list[str]]:
    """Return the assets in the order of the ids, and the ids without a record."""
    found: dict[str, dict[str, tuple[Asset, Record]]] = {asset_id: {} for asset_id in asked.ids}
    for ids in _chunks(asked.ids):
        for record in _records(metadata, id_filter(ids), fields, shown):
            for asset_id in code_ocean_ids(record):
                if asset_id in found:
                    found[asset_id][record["_id"]] = (asset_of(record, asset_id), record)
    missing = [asset_id for asset_id, assets in found.items() if not assets]
    if missing:
        _report_missing(metadata, asked, missing, skip_errors)
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
        for record in _records(metadata, named, ASSET_FIELDS):
            asset_id = asset_of(record).asset_id
            remedy = f"; its asset_id is {asset_id}" if asset_id else ", which has no asset_id"
            yield record["_id"], f" (the _id of a record{remedy})"
            yield str(record.get("name")), f" (the name of an asset{remedy})"


def _chunks(values: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(values), _IDS_A_QUERY):
        yield values[start : start + _IDS_A_QUERY]


@dataclass(frozen=True)
class Located:
    """What became of the selected assets."""

    assets: list[LocatedAsset]
    without_match: list[Asset]
    failed: list[Asset]


def locate_files(assets: Sequence[Asset], endings: Endings, may_be_local: bool, skip_errors: bool) -> Located:
    """Find the files of each asset that have a wanted ending; without endings nothing is listed.

    The order of `assets` is kept. Every asset is tried, also where others fail.

    Raises
    ------
    RequestError
        Locations are missing or refused and `skip_errors` is false, or no asset is left.
    ServiceError
        The storage failed for some asset, under the same conditions.
    """
    outcomes = _check_assets(assets, may_be_local)
    if endings:
        to_list = [index for index, outcome in enumerate(outcomes) if outcome is None]
        with progress("listing files", "assets", len(to_list)) as shown:
            listed = asyncio.run(_find_all([assets[index] for index in to_list], endings, shown))
        for index, outcome in zip(to_list, listed, strict=True):
            outcomes[index] = outcome
    located = [
        LocatedAsset(asset, outcome)
        for asset, outcome in zip(assets, outcomes, strict=True)
        if not isinstance(outcome, DispatchError) and outcome != ()
    ]
    without_match = [asset for asset, outcome in zip(assets, outcomes, strict=True) if outcome == ()]
    failures = [
        (asset, outcome) for asset, outcome in zip(assets, outcomes, strict=True) if isinstance(outcome, DispatchError)
    ]
    _report_without_match(without_match, endings, is_all=len(without_match) == len(assets))
    _report_failures(failures, len(assets), bool(located), skip_errors)
    return Located(located, without_match, [asset for asset, _ in failures])


Outcome = tuple[str, ...] | DispatchError | None


def _check_assets(assets: Iterable[Asset], may_be_local: bool) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for asset in assets:
        try:
            check_asset(asset, may_be_local)
            outcomes.append(None)
        except RequestError as error:
            outcomes.append(error)
    return outcomes


async def _find_all(assets: Sequence[Asset], endings: Endings, shown: Progress) -> list[Outcome]:
    """Return the files of each asset or why they were not found; the order is that of the assets."""
    finders = _finders(assets)
    outcomes: list[Outcome] = [()] * len(assets)
    waiting = iter(enumerate(assets))

    async def find_next() -> None:
        for index, asset in waiting:
            try:
                find_files = finders[asset.location.partition("://")[0]]
                outcomes[index] = tuple(await find_files(asset.location, endings))
            except DispatchError as error:
                outcomes[index] = error
            shown.advance()

    await asyncio.gather(*(find_next() for _ in range(min(_ASSETS_IN_FLIGHT, len(assets)))))
    return outcomes


def _finders(assets: Iterable[Asset]) -> dict[str, Callable[[str, Endings], Awaitable[list[str]]]]:
    """Return what lists the files of each scheme; boto3 is loaded only where a location is in S3."""
    import local_files

    if any(asset.location.startswith("s3://") for asset in assets):
        from s3 import S3

        return {"s3": S3().find_files, "file": local_files.find_files}
    return {"file": local_files.find_files}


def _report_without_match(assets: Sequence[Asset], endings: Endings, is_all: bool) -> None:
    if not assets:
        return
    wanted, details = " or ".join(endings), [str(asset) for asset in assets]
    if is_all:
        raise RequestError(f"--file_extension: no asset has a file whose name ends in {wanted}", details)
    warn_listing(f"{counted(len(assets), 'asset')} without a file whose name ends in {wanted}; skipped:", details)


def _report_failures(
    failures: Sequence[tuple[Asset, DispatchError]], selected: int, is_any_left: bool, skip_errors: bool
) -> None:
    if not failures:
        return
    headline = f"{len(failures):,} of {counted(selected, 'asset')} could not be read"
    details = [f"{asset.name}: {error.headline}" for asset, error in failures]
    if skip_errors and is_any_left:
        warn_listing(f"{headline}; skipped:", details)
        return
    remedy = "no job is written" + " (--skip_errors=1 goes on without them)" * is_any_left
    only_requests = all(isinstance(error, RequestError) for _, error in failures)
    raise (RequestError if only_requests else ServiceError)(f"{headline}; {remedy}", details)

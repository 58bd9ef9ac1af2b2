"""The two questions to the outside world: which assets are selected, and which files do they have."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from inputs import AssetIds, Query, Settings
from listing import Endings
from messages import (
    DispatchError,
    Progress,
    RequestError,
    ServiceError,
    counted,
    progress,
    warn_listing,
)
from records import (
    ASSET_FIELDS,
    Asset,
    Filter,
    LocatedAsset,
    MetadataSource,
    Record,
    asset_of,
    check_asset,
    code_ocean_ids,
    id_filter,
)

_IDS_A_QUERY = 500
_ASSETS_IN_FLIGHT = 256


def open_metadata(settings: Settings) -> MetadataSource:
    """Return the source of records that the settings name: the local catalog, or else DocDB."""
    if settings.metadata_catalog is not None:
        from catalog import Catalog

        return Catalog(settings.metadata_catalog)
    from docdb import DocDb

    return DocDb(settings.docdb_host, settings.docdb_version, settings.docdb_database, settings.docdb_collection)


@dataclass(frozen=True)
class Selected:
    """The selected assets, each record once, and the ids that have no record.

    Assets are ordered by name, then `_id`; where they were asked for by id, in the order of the ids.
    """

    assets: list[Asset]
    ids_without_record: list[str]


def select_assets(metadata: MetadataSource, selection: Query | AssetIds, skip_errors: bool) -> Selected:
    """Return the assets that a query or a list of ids selects.

    Raises
    ------
    RequestError
        Nothing matches, or ids have no record and `skip_errors` is false.
    ServiceError
        The source of records fails.
    """
    with progress("reading metadata", "records") as shown:
        if isinstance(selection, AssetIds):
            return _assets_by_id(metadata, selection, skip_errors, shown)
        records = {record["_id"]: record for record in _records(metadata, selection.filter, shown)}
    if not records:
        raise RequestError("no record matches the query", [f"query: {selection}"])
    return Selected(sorted(map(asset_of, records.values()), key=_by_name), [])


def _records(metadata: MetadataSource, query: Filter, shown: Progress | None = None) -> Iterator[Record]:
    for page in metadata.find(query, ASSET_FIELDS):
        if shown is not None:
            shown.advance(len(page))
        yield from page


def _by_name(asset: Asset) -> tuple[str, str]:
    return asset.name, asset.record_id


def _assets_by_id(metadata: MetadataSource, asked: AssetIds, skip_errors: bool, shown: Progress) -> Selected:
    found: dict[str, dict[str, Asset]] = {asset_id: {} for asset_id in asked.ids}
    for ids in _chunks(asked.ids):
        for record in _records(metadata, id_filter(ids), shown):
            for asset_id in code_ocean_ids(record):
                if asset_id in found:
                    found[asset_id][record["_id"]] = asset_of(record, asset_id)
    missing = [asset_id for asset_id, assets in found.items() if not assets]
    if missing:
        _report_missing(metadata, asked, missing, skip_errors)
    if shared := [f"{asset_id}: {len(assets)} records" for asset_id, assets in found.items() if len(assets) > 1]:
        warn_listing(f"{asked.file_name}: ids with several records, all of which are taken:", shared)
    unique: dict[str, Asset] = {}
    for assets in found.values():
        for asset in sorted(assets.values(), key=_by_name):
            unique.setdefault(asset.record_id, asset)
    return Selected(list(unique.values()), missing)


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
        for record in _records(metadata, named):
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

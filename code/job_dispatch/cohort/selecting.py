"""Which assets are selected: by a query, a table or both, and in which groups."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from operator import attrgetter
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from job_dispatch.cohort import grouping, quality_control, table_rows
from job_dispatch.messages import RequestError, carrying, counted, logger, showing_progress, warn_listing
from job_dispatch.messages import progress as progress_of
from job_dispatch.metadata.diagnosis import explain_nothing
from job_dispatch.metadata.records import (
    ASSET_FIELDS,
    TRAIT_FIELDS,
    Found,
    MetadataSource,
    Source,
    asset_of,
    identity,
    known_as,
    latest_of_asset,
    projection,
    read,
)
from job_dispatch.model import Asset, Cohort, Group, Reason, Skipped, Skips
from job_dispatch.request import flag_values as values
from job_dispatch.request import tables
from job_dispatch.request.fields import Query
from job_dispatch.request.flags import Settings
from job_dispatch.request.json_text import compact
from job_dispatch.request.selection import (
    Exclusions,
    Selection,
    read_exclusions,
    read_query,
    report_unmatched,
    selected_by,
)

Several = str | int | Iterable[str] | Iterable[int]
"""One value or several."""
Parameters = Mapping[str, Sequence[Mapping[str, Any]]]
Value = TypeVar("Value")


def select(
    source: Source,
    query: Selection | Mapping[str, Any] | str | None = None,
    *,
    subject: Several = (),
    project: Several = (),
    modality: Several = (),
    from_: date | str | None = None,
    to: date | str | None = None,
    table: str | PathLike[str] | None = None,
    exclude: str | PathLike[str] | Sequence[str | PathLike[str]] = (),
    qc: str | None = None,
    group_by: Several = (),
    latest: str | None = None,
    by: Several = (),
    unwind: Several = (),
    drop_null_groups: bool = True,
    with_raw: bool = False,
    sample: int | None = None,
    skip_errors: bool = False,
    traits: bool = True,
    progress: bool | None = None,
) -> Cohort:
    """Select assets by their metadata, and arrange them in groups: each group becomes a job.

    All conditions must be met. Without a condition a catalog or a folder is selected as a whole.

    Parameters
    ----------
    source : DocDb, Catalog or Folder
        Where the metadata records are.
    query : mapping or str, optional
        A MongoDB-style filter, or the path of a file with one. Fields may have the short names `@subject`, `@project`,
        `@session`, `@modality`, `@raw` and `@created`, which fit both versions of the metadata.
    subject, project, modality : str or iterable of str, optional
        One of these subjects, projects, and modalities (abbreviations such as `ecephys`).
    from_, to : date or str, optional
        First and last day of the sessions, such as `2025-06-07`.
    table : path, optional
        A table (CSV, XLSX) of assets: by `asset_id`, `name`, `docdb_record_id`, `location`, or subject and session.
    exclude : path or sequence of paths
        A folder of results (jobs that are done), `jobs.csv` or `table.csv` of an earlier run, or a file of assets.
    qc : {"pass", "not_fail"}, optional
        Only assets that pass quality control, or do not fail it.
    group_by : str or iterable of str, optional
        Fields; assets with the same values make one job.
    latest, by : str or iterable of str, optional
        Keep only the record with the greatest value of `latest` for each combination of values of the fields `by`.
    unwind : str or iterable of str, optional
        Fields whose lists are spread before grouping.
    drop_null_groups : bool
        Skip records without a value to group by.
    with_raw : bool
        Put each derived asset and its raw asset into one job.
    sample : int, optional
        Take only so many assets (or groups), spread over subjects and days.
    skip_errors : bool
        Skip what is missing, instead of raising an error.
    traits : bool
        Read project, subject, session and modality of each asset.
    progress : bool, optional
        Show progress; by default in a terminal and in a notebook.

    Returns
    -------
    Cohort

    Raises
    ------
    RequestError
        Nothing matches, or something is missing and `skip_errors` is false.
    ServiceError
        The source fails.

    Examples
    --------
    >>> import job_dispatch as jd
    >>> catalog = jd.Catalog("catalog.jsonl")
    >>> cohort = jd.select(catalog, subject="774659", latest="@created", by=["@subject", "@session", "@modality"])
    >>> len(cohort.assets), len(cohort.skipped)
    (4, 1)
    """
    asked = Settings(
        subject=values.several(subject),
        project=values.several(project),
        modality=values.several(modality),
        from_=values.day(from_) if isinstance(from_, str) else from_,
        to=values.day(to) if isinstance(to, str) else to,
        qc=None if qc is None else values.one_of("pass", "not_fail")(qc),
        group_by=tuple(map(values.field, values.several(group_by))),
        filter_latest=None if latest is None else values.field(latest),
        filter_by=tuple(map(values.field, values.several(by))),
        unwind_list_fields=tuple(map(values.field, values.several(unwind))),
        drop_null_groups=drop_null_groups,
        with_raw=with_raw,
        sample=sample,
        skip_errors=skip_errors,
    )
    selection = query if isinstance(query, Selection) else _selection(query, asked, table, exclude)
    if sample is not None and sample < 1:
        raise RequestError("--sample must be a whole number from 1")
    with showing_progress(progress), source.open(skip_errors) as records:
        return selected(records, selection, asked, traits)


def _selection(
    query: Mapping[str, Any] | str | None,
    asked: Settings,
    table: str | PathLike[str] | None,
    exclude: str | PathLike[str] | Sequence[str | PathLike[str]],
) -> Selection:
    if isinstance(query, Mapping):
        try:
            query = json.dumps(query)
        except (TypeError, ValueError) as error:
            raise RequestError(f"--docdb_query: it cannot be written as JSON: {error}") from None
    if not isinstance(query, str | None):
        raise RequestError(f"--docdb_query: give a dict or a text, not {type(query).__name__}")
    written = None if query is None else read_query(query, Path())
    rows = None if table is None else tables.read_table([Path(table)])
    excluded = read_exclusions([Path(exclude)] if isinstance(exclude, str | PathLike) else list(map(Path, exclude)))
    return selected_by(written, asked, rows, excluded)


def selected(metadata: MetadataSource, selection: Selection, asked: Settings, traits: bool = True) -> Cohort:
    """Return the assets of a selection in the groups that settings ask for; raises as `select` does."""
    if selection.query is None and selection.table is None:
        if metadata.is_database:
            raise RequestError("nothing is selected: give query, subject, project, modality, from_, to or table")
        selection = replace(selection, query=Query.of({}))
    fields = projection(
        [
            *(ASSET_FIELDS if selection.table is None else table_rows.FIELDS),
            *(TRAIT_FIELDS if traits else ()),
            *asked.grouping_fields,
            *(quality_control.FIELDS if asked.qc else ()),
            "@created",
            *(grouping.PAIR_FIELDS if asked.with_raw else ()),
        ]
    )
    with carrying(metadata.skipped):
        matched, parameters, missing = _matched(metadata, selection, fields, asked.skip_errors)
    skipped = [*metadata.skipped, *missing]
    with carrying(skipped):
        found, parameters, repeated = _without_duplicates(matched, parameters)
        skipped += repeated
        if asked.qc:
            found, judged_out = quality_control.Quality(asked.qc, asked.modality).keep(found)
            skipped += judged_out
        groups = [Group((asset,)) for asset, _ in found]
        if asked.grouping_fields:
            groups, left = grouping.grouped(metadata, selection, found, asked)
            skipped += left
        groups = [one for group in groups for one in _by_parameters(group, parameters)]
        groups, excluded = _without_excluded(groups, matched, selection.exclusions)
        skipped += excluded
        partners: Mapping[str, Sequence[str]] = {}
        if asked.with_raw and groups:
            by_id = {record["_id"]: record for _, record in found}
            paired = grouping.with_raw(metadata, groups, by_id, fields, asked.skip_errors, selection.exclusions)
            groups, partners, unpaired = paired
            skipped += unpaired
    if asked.sample is not None:
        groups, rest = spread_sample(groups, asked.sample)
        skipped += rest
    return Cohort(
        groups,
        len(matched),
        Skips(skipped),
        partners,
        None if selection.query is None else str(selection.query),
        metadata.may_name_local_files,
        selection.exclusions.jobs,
    )


def _matched(
    metadata: MetadataSource, selection: Selection, fields: Sequence[str], skip_errors: bool
) -> table_rows.Fitting:
    with progress_of("reading metadata", "records") as shown:
        if selection.table is not None:
            return table_rows.find(metadata, selection.table, selection.query, fields, skip_errors, shown)
        query = selection.query or Query.of({})
        found: dict[str, Found] = {}
        for record in read(metadata, query, fields, shown):
            found.setdefault(record["_id"], (asset_of(record), record))
        if not found:
            raise RequestError("no record matches the query", explain_nothing(metadata, query.filter))
    in_several = {(asset.name, asset.location) for asset, _ in found.values()}
    names = Counter(name for name, _ in in_several)
    if shared := sorted(f"{name}: {place}" for name, place in in_several if names[name] > 1):
        warn_listing("several assets have the same name, all of which are taken:", shared)
    return table_rows.Fitting(sorted(found.values(), key=lambda one: (one[0].name, one[0].record_id)), {})


def _without_duplicates(
    found: Sequence[Found], parameters: Parameters
) -> tuple[list[Found], Parameters, list[Skipped]]:
    """Return each asset once, by the record that `latest_of_asset` prefers, and the other records.

    `parameters` are those of the rows of each record, by its id; the record that stays takes those of the others.
    """
    same: dict[tuple[str, str], list[Found]] = {}
    for one in found:
        same.setdefault(identity(one[0]), []).append(one)
    kept: list[Found] = []
    merged = dict(parameters)
    skipped, details = [], []
    for alike in same.values():
        kept.append(max(alike, key=latest_of_asset))
        taken = kept[-1][0].record_id
        for other in (one for one, _ in alike if one.record_id != taken):
            skipped.append(Skipped.asset(Reason.DUPLICATE, other, f"{Reason.DUPLICATE.value}: {taken} is taken"))
            details.append(f"{other.name}: {taken} is taken, {other.record_id} is not")
            if further := [one for one in merged.get(other.record_id, ()) if one not in merged.get(taken, ())]:
                merged[taken] = [*merged.get(taken, ()), *further]
    if skipped:
        records = counted(len(skipped), "record")
        warn_listing(f"{records} of assets that are registered twice skipped:", details)
    return kept, merged, skipped


def _by_parameters(group: Group, parameters: Parameters) -> Iterator[Group]:
    """Yield a group for each of the different parameters that the rows of its assets have."""
    different: dict[str, tuple[Mapping[str, Any], list[Asset]]] = {}
    for asset in group.assets:
        for one in parameters.get(asset.record_id, ({},)):
            different.setdefault(compact(one), (one, []))[1].append(asset)
    for one, members in different.values():
        yield replace(group, assets=tuple(members), parameters=one)


def _without_excluded(
    groups: Sequence[Group], found: Sequence[Found], exclusions: Exclusions
) -> tuple[list[Group], list[Skipped]]:
    """Return the groups without excluded assets, and those assets.

    It comes after the latest records were found, so that no earlier one takes the place of an excluded one. An asset is
    excluded by each of its records: `found` are all that were selected, also those of the same asset.
    """
    if not exclusions.assets:
        return list(groups), []
    matched = {name for one in found for name in known_as(one)}
    report_unmatched(exclusions.assets, matched, ("entry", "entries"), "selected asset")
    places = {identity(one[0]): place for one in found if (place := exclusions.place_of(*known_as(one)))}
    grouped = dict.fromkeys(asset for group in groups for asset in group.assets)
    excluded = {asset: places[identity(asset)] for asset in grouped if identity(asset) in places}
    skipped = [Skipped.asset(Reason.EXCLUDED, one, f"excluded by {place}") for one, place in excluded.items()]
    kept = (replace(one, assets=tuple(asset for asset in one.assets if asset not in excluded)) for one in groups)
    return [group for group in kept if group.assets], skipped


def spread_sample(groups: Sequence[Group], size: int) -> tuple[list[Group], list[Skipped]]:
    """Return at most `size` of the groups (each asset is one where nothing is grouped) in their order, and the rest.

    Each subject gets as many as any other, as far as it has them, and within a subject each day; a group
    counts as its first asset. The same groups make the same sample.
    """
    firsts = [group.assets[0] for group in groups]
    rank = attrgetter("subject", "day", "name", "record_id")
    order = sorted(range(len(groups)), key=lambda number: rank(firsts[number]))
    kept = set(_spread(order, size, firsts, ("subject", "day")))
    taken = [group for number, group in enumerate(groups) if number in kept]
    assets = {asset.record_id for group in taken for asset in group.assets}
    rest = {asset.record_id: asset for group in groups for asset in group.assets if asset.record_id not in assets}
    logger.info("--sample=%d: %s of %s taken", size, f"{len(taken):,}", f"{len(groups):,}")
    return taken, [Skipped.asset(Reason.NOT_IN_SAMPLE, asset) for asset in rest.values()]


def _spread(numbers: Sequence[int], size: int, assets: Sequence[Asset], traits: Sequence[str]) -> list[int]:
    """Return `size` of the ordered numbers, shared out evenly over the values of each trait in turn."""
    if size >= len(numbers):
        return list(numbers)
    if not traits:
        return _evenly(numbers, size)
    parts: dict[str, list[int]] = {}
    for number in numbers:
        parts.setdefault(getattr(assets[number], traits[0]), []).append(number)
    if size < len(parts):
        return [_evenly(parts[value], 1)[0] for value in _evenly(list(parts), size)]
    taken: list[int] = []
    # From the smallest part on: what it cannot take is left for the others.
    for done, part in enumerate(sorted(parts.values(), key=len)):
        share = min(len(part), (size - len(taken)) // (len(parts) - done))
        taken += _spread(part, share, assets, traits[1:])
    return taken


def _evenly(values: Sequence[Value], size: int) -> list[Value]:
    """Return `size` of the values at equal distances."""
    return [values[(2 * number + 1) * len(values) // (2 * size)] for number in range(size)]

"""Which assets are selected: by a query, a table or both, and in which groups."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job_dispatch.cohort import duplicates, pairs, quality_control, sampling, table_rows
from job_dispatch.cohort.excluding import without_excluded
from job_dispatch.messages import RequestError, carrying, counted, logger, showing_progress, warn_listing
from job_dispatch.messages import progress as progress_of
from job_dispatch.metadata.records import (
    ASSET_FIELDS,
    TRAIT_FIELDS,
    Filter,
    MetadataSource,
    Record,
    Source,
    asset_of,
    projection,
)
from job_dispatch.model import Asset, Cohort, Group, Grouping, Reason, Skipped, Skips
from job_dispatch.request import tables, values
from job_dispatch.request.exclusions import Exclusions, read_exclusions
from job_dispatch.request.fields import paths
from job_dispatch.request.flags import Settings, check_combinations
from job_dispatch.request.json_text import compact, is_unicode
from job_dispatch.request.query import Query
from job_dispatch.request.selection import Selection, read_query, selected_by

if TYPE_CHECKING:
    from job_dispatch.cohort.grouping import Remarks

Several = str | int | Iterable[str] | Iterable[int]
"""One value or several."""


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
    exclude: str | PathLike[str] | None = None,
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
    exclude : path, optional
        `jobs.csv` of an earlier run, or a file of assets to skip.
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
        from_=_day(from_),
        to=_day(to),
        qc=None if qc is None else values.one_of("pass", "not_fail")(qc),
        group_by=tuple(map(values.field, values.several(group_by))),
        filter_latest=None if latest is None else values.field(latest),
        filter_by=tuple(map(values.field, values.several(by))),
        unwind_list_fields=tuple(map(values.field, values.several(unwind))),
        drop_null_groups=drop_null_groups,
    )
    check_combinations(asked)
    selection = query if isinstance(query, Selection) else _selection(query, asked, table, exclude)
    with showing_progress(progress), source.open(skip_errors) as records:
        if selection.query is None and selection.table is None:
            if records.is_database:
                raise RequestError("nothing is selected: give query, subject, project, modality, from_, to or table")
            selection = replace(selection, query=Query({}))
        cohort = _Reading(records, selection, asked.grouping, asked.qc, with_raw, skip_errors, traits).cohort()
    if sample is None:
        return cohort
    groups, rest = sampling.sample(cohort.groups, sample)
    return replace(cohort, groups=groups, skipped=Skips([*cohort.skipped, *rest]))


def _day(given: date | str | None) -> date | None:
    return values.day(given) if isinstance(given, str) else given


def _selection(
    query: Mapping[str, Any] | str | None,
    asked: Settings,
    table: str | PathLike[str] | None,
    exclude: str | PathLike[str] | None,
) -> Selection:
    """Return what selects the assets, of values as Python has them."""
    if isinstance(query, Mapping):
        try:
            query = json.dumps(query)
        except (TypeError, ValueError) as error:
            raise RequestError(f"--docdb_query: it cannot be written as JSON: {error}") from None
    read = None if query is None else read_query(query, Path())
    rows = None if table is None else tables.read_table([Path(table)])
    excluded = Exclusions() if exclude is None else read_exclusions(Path(exclude))
    return selected_by(read, asked, rows, excluded)


@dataclass(frozen=True)
class _Reading:
    """Reads the records that are selected, and arranges their assets in groups."""

    metadata: MetadataSource
    selection: Selection
    grouping: Grouping
    qc: str | None
    with_raw: bool
    skip_errors: bool
    traits: bool

    @property
    def fields(self) -> list[str]:
        needed = ASSET_FIELDS if self.selection.table is None else table_rows.FIELDS
        traits = TRAIT_FIELDS if self.traits else ()
        judged = quality_control.FIELDS if self.qc else ()
        paired = pairs.FIELDS if self.with_raw else ()
        return projection([*needed, *traits, *self.grouping.fields, *judged, *duplicates.FIELDS, *paired])

    def cohort(self) -> Cohort:
        metadata, selection = self.metadata, self.selection
        fitting = self._fitting()
        skipped = [*metadata.skipped, *fitting.skipped]
        with carrying(skipped):
            found, parameters, repeated = duplicates.without_duplicates(fitting.found, fitting.parameters)
            skipped += repeated
            if self.qc:
                found, judged_out = quality_control.Quality(self.qc, selection.modality).keep(found)
                skipped += judged_out
            groups, left = _grouped(metadata, selection, found, self.grouping)
            skipped += left
            groups = [one for group in groups for one in _by_parameters(group, parameters)]
            groups, excluded = without_excluded(groups, fitting.found, selection.exclusions)
            skipped += excluded
            partners: Mapping[str, Sequence[str]] = {}
            if self.with_raw and groups:
                by_id = {record["_id"]: record for _, record in found}
                groups, partners, unpaired = pairs.with_raw(
                    metadata, groups, by_id, self.fields, self.skip_errors, selection.exclusions
                )
                skipped += unpaired
        return Cohort(
            groups,
            len(fitting.found),
            Skips(skipped),
            partners,
            selection.query_text,
            metadata.may_name_local_files,
            selection.exclusions.jobs,
            selection.exclusions.place,
        )

    def _fitting(self) -> table_rows.Fitting:
        table, query, fields = self.selection.table, self.selection.query, self.fields
        with progress_of("reading metadata", "records") as shown:

            def read(query: Filter, keep: Callable[[Record], bool] = lambda record: True) -> Iterator[Record]:
                for page in self.metadata.find(query, fields):
                    shown.advance(len(page))
                    yield from filter(keep, page)

            with carrying(self.metadata.skipped):
                if table is not None:
                    return table_rows.find(read, self.metadata, table, query, self.skip_errors)
                return table_rows.Fitting(_find(read, self.metadata, query or Query({})), {})


def _by_parameters(group: Group, parameters: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[Group]:
    """Yield a group for each of the different parameters that the rows of its assets have."""
    assets: dict[str, list[Asset]] = {}
    different: dict[str, Mapping[str, Any]] = {}
    for asset in group.assets:
        for one in parameters.get(asset.record_id, ({},)):
            text = compact(one)
            assets.setdefault(text, []).append(asset)
            different[text] = one
    for text, members in assets.items():
        yield replace(group, assets=tuple(members), parameters=different[text])


def _find(
    read: Callable[[Filter], Iterator[Record]], metadata: MetadataSource, query: Query
) -> list[tuple[Asset, Record]]:
    found: dict[str, tuple[Asset, Record]] = {}
    for record in read(query.filter):
        found.setdefault(record["_id"], (asset_of(record), record))
    if not found:
        from job_dispatch.metadata.diagnosis import explain_nothing

        raise RequestError("no record matches the query", explain_nothing(metadata, query.filter))
    in_several = {(asset.name, asset.location) for asset, _ in found.values()}
    names = Counter(name for name, _ in in_several)
    if shared := sorted(f"{name}: {place}" for name, place in in_several if names[name] > 1):
        warn_listing("several assets have the same name, all of which are taken:", shared)
    return sorted(found.values(), key=lambda one: (one[0].name, one[0].record_id))


def _grouped(
    metadata: MetadataSource, selection: Selection, found: Sequence[tuple[Asset, Record]], grouping: Grouping
) -> tuple[list[Group], list[Skipped]]:
    """Return the groups, one per asset where none are asked for, and what is in none."""
    if not grouping.fields:
        return [Group((asset,)) for asset, _ in found], []
    from job_dispatch.cohort.grouping import arrange, fields_without_value

    assets, records = [asset for asset, _ in found], [record for _, record in found]
    examples = selection.query.filter if selection.query and not selection.table else {"_id": assets[0].record_id}
    _refuse_unknown(metadata, examples, fields_without_value(records, grouping), grouping.drop_nulls)
    arranged = arrange(assets, records, grouping)
    skipped = [Skipped.asset(Reason.NO_VALUE, asset) for asset in arranged.without_value]
    skipped += [Skipped.asset(Reason.NOT_LATEST, asset) for asset in arranged.not_latest]
    if arranged.without_value:
        fields = ", ".join(dict.fromkeys((*grouping.group_by, *grouping.filter_by)))
        headline = f"{counted(len(arranged.without_value), 'record')} without a value of {fields} skipped:"
        warn_listing(headline, [asset.name for asset in arranged.without_value])
    with carrying(skipped):
        if not arranged.groups:
            raise RequestError("no record has a value of every field to group by; --drop_null_groups=0 keeps them all")
        for group in arranged.groups:
            if not is_unicode(group.metadata):
                raise RequestError(
                    f"--group_by: a value of the asset {group.assets[0]} holds text with a lone surrogate"
                )
    if arranged.not_latest:
        number = counted(len(arranged.not_latest), "record")
        logger.info("%s skipped: not the latest by %s", number, grouping.filter_latest)
    _tell(arranged.remarks, grouping)
    if grouping.group_by:
        logger.info("%s of %s", counted(len(arranged.groups), "group"), counted(len(assets), "record"))
    if arranged.in_several:
        logger.info("unwinding put assets into more than one group %s", counted(arranged.in_several, "time"))
    return arranged.groups, skipped


def _tell(remarks: Remarks, grouping: Grouping) -> None:
    flag = f"--filter_latest={grouping.filter_latest}"
    if remarks.numbers:
        warn_listing(f"{flag}: numbers beside dates are read as seconds or milliseconds since 1970:", remarks.numbers)
    if remarks.mixed:
        headline = f"{flag}: {counted(len(remarks.mixed), 'choice')} between values that cannot be compared:"
        warn_listing(headline, remarks.mixed)
    if remarks.ties:
        logger.warning(
            "%s: %s between records with the same value: the one that was created last, then the one with the latest"
            " date in its name, is taken",
            flag,
            counted(remarks.ties, "choice"),
        )


def _refuse_unknown(metadata: MetadataSource, examples: Filter, without_value: Sequence[str], drop_nulls: bool) -> None:
    """Refuse fields of which no record has a value, except those that are null where null is a value."""
    if not without_value:
        return
    from job_dispatch.metadata.diagnosis import known_fields, suggestion

    known = known_fields(metadata, examples)
    if unknown := [field for field in without_value if known.keys().isdisjoint(paths(field))]:
        details = [f"{field}   {suggestion(field, known)}".rstrip() for field in unknown]
        raise RequestError("no selected record has a value of these fields; correct their names", details)
    if drop_nulls:
        details = [f"{field}   is null in every record" for field in without_value]
        raise RequestError("no selected record has a value of these fields; --drop_null_groups=0 keeps nulls", details)

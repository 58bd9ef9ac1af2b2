"""Which assets are selected: by a query, a table or both, and in which groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from job_dispatch.cohort import duplicates, pairs, quality_control, sampling, table_rows
from job_dispatch.cohort.excluding import without_excluded
from job_dispatch.cohort.quality_control import Quality
from job_dispatch.messages import RequestError, carrying, counted, logger, progress, warn_listing
from job_dispatch.metadata.records import (
    ASSET_FIELDS,
    TRAIT_FIELDS,
    Filter,
    MetadataSource,
    Record,
    asset_of,
    projection,
)
from job_dispatch.model import Asset, Cohort, Group, Grouping, Reason, Skipped
from job_dispatch.request.fields import paths
from job_dispatch.request.json_text import compact, is_unicode
from job_dispatch.request.query import Query
from job_dispatch.request.selection import Selection

if TYPE_CHECKING:
    from job_dispatch.cohort.grouping import Remarks

_UNGROUPED = Grouping()


def select(
    metadata: MetadataSource,
    selection: Selection,
    grouping: Grouping = _UNGROUPED,
    *,
    quality: Quality | None = None,
    with_raw: bool = False,
    at_most: int | None = None,
    skip_errors: bool = False,
    is_described: bool = True,
) -> Cohort:
    """Return the assets that are selected, in groups.

    Raises
    ------
    RequestError
        Nothing matches, rows have no record or derived assets no raw one and `skip_errors` is false, quality control
        leaves nothing, or no record has a field of the grouping.
    ServiceError
        The source of records fails.
    """
    needed = ASSET_FIELDS if selection.table is None else table_rows.FIELDS
    judged = quality_control.FIELDS if quality else ()
    paired = pairs.FIELDS if with_raw else ()
    traits = TRAIT_FIELDS if is_described else ()
    fields = projection([*needed, *traits, *grouping.fields, *judged, *duplicates.FIELDS, *paired])
    with progress("reading metadata", "records") as shown:

        def read(query: Filter, keep: Callable[[Record], bool] = lambda record: True) -> Iterator[Record]:
            for page in metadata.find(query, fields):
                shown.advance(len(page))
                yield from filter(keep, page)

        if selection.table is not None:
            fitting = table_rows.find(read, metadata, selection.table, selection.query, skip_errors)
        else:
            fitting = table_rows.Fitting(_find(read, metadata, selection.query or Query({})), {})
    skipped = [*metadata.skipped, *fitting.skipped]
    with carrying(skipped):
        found, parameters, repeated = duplicates.without_duplicates(fitting.found, fitting.parameters)
        skipped += repeated
        if quality:
            found, judged_out = quality.keep(found)
            skipped += judged_out
        groups, left = _grouped(metadata, selection, found, grouping)
        skipped += left
        groups = [one for group in groups for one in _by_parameters(group, parameters)]
        groups, excluded = without_excluded(groups, fitting.found, selection.exclusions)
        skipped += excluded
        partners: Mapping[str, Sequence[str]] = {}
        if with_raw and groups:
            by_id = {record["_id"]: record for _, record in found}
            groups, partners, unpaired = pairs.with_raw(
                metadata, groups, by_id, fields, skip_errors, selection.exclusions
            )
            skipped += unpaired
    if at_most is not None:
        groups, rest = sampling.sample(groups, at_most)
        skipped += rest
    return Cohort(groups, len(fitting.found), skipped, partners, selection.query_text, metadata.may_name_local_files)


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

"""Which assets are selected: by a query, a table or both, and in which groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from job_dispatch.cohort import duplicates, pairs, quality_control, table_rows
from job_dispatch.cohort.excluding import is_excluded, without_excluded
from job_dispatch.left_out import LeftOut
from job_dispatch.messages import RequestError, counted, logger, warn_listing
from job_dispatch.metadata.records import ASSET_FIELDS, Filter, MetadataSource, Record, asset_of, projection
from job_dispatch.model import Asset, Group, Grouping
from job_dispatch.request.exclusions import Exclusions
from job_dispatch.request.fields import paths
from job_dispatch.request.json_text import compact, is_unicode
from job_dispatch.request.query import Query
from job_dispatch.request.selection import Selection


@dataclass(frozen=True)
class Selected:
    """What is to be analysed.

    Parameters
    ----------
    matched : int
        Number of records that were selected.
    groups : list of Group
        One group an asset, ordered by name, then `_id` (with a table in its order); with `group_by` one a
        combination of values, ordered by them. Where rows of a table have other parameters, one group for each.
    partners : dict
        By the `_id` of each derived asset, those of its raw ones, where pairs are asked for.
    """

    matched: int
    groups: list[Group]
    partners: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def assets(self) -> list[Asset]:
        """All assets, each once."""
        return list({asset.record_id: asset for group in self.groups for asset in group.assets}.values())


def select_assets(
    metadata: MetadataSource,
    selection: Selection,
    grouping: Grouping,
    skip_errors: bool,
    left_out: LeftOut,
    tell: Callable[[Sequence[Asset]], None],
    more_fields: Sequence[str] = (),
    quality: quality_control.Wanted | None = None,
    with_raw: bool = False,
) -> Selected:
    """Return the assets that are selected, in groups.

    What is not among them is added to `left_out`. `tell` is called with the assets of each page as they come.

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
    fields = projection([*needed, *more_fields, *grouping.fields, *judged, *duplicates.FIELDS, *paired])
    read = _Reading(metadata, fields, tell, quality, selection.exclusions)
    if selection.table is not None:
        fitting = table_rows.find(read.records, metadata, selection.table, selection.query, skip_errors, left_out)
    else:
        fitting = table_rows.Fitting(_find(read, selection.query or Query({})), {})
    found, parameters = duplicates.without_duplicates(fitting.found, fitting.parameters, left_out)
    if quality:
        found = quality.keep(found, left_out)
    assets, records = [asset for asset, _ in found], [record for _, record in found]
    groups = [Group((asset,)) for asset in assets]
    if grouping.fields:
        groups = _arranged(metadata, selection, assets, records, grouping, left_out)
    groups = [one for group in groups for one in _by_parameters(group, parameters)]
    groups = without_excluded(groups, found, selection.exclusions, left_out)
    if not (with_raw and groups):
        return Selected(len(fitting.found), groups)
    by_id = {record["_id"]: record for record in records}
    paired_groups = pairs.with_raw(metadata, groups, by_id, fields, skip_errors, selection.exclusions, left_out)
    return Selected(len(fitting.found), *paired_groups)


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


@dataclass(frozen=True)
class _Reading:
    """Reads records with the fields that are needed, and tells of them page by page."""

    metadata: MetadataSource
    fields: Sequence[str]
    tell: Callable[[Sequence[Asset]], None]
    quality: quality_control.Wanted | None
    exclusions: Exclusions

    def records(self, query: Filter, keep: Callable[[Record], bool] = lambda record: True) -> Iterator[Record]:
        for page in self.metadata.find(query, self.fields):
            kept = list(filter(keep, page))
            self.tell([asset_of(record) for record in kept if self._may_be_selected(record)])
            yield from kept

    def _may_be_selected(self, record: Record) -> bool:
        is_good = self.quality is None or self.quality.takes(record)
        return is_good and not is_excluded(record, self.exclusions)


def _find(read: _Reading, query: Query) -> list[tuple[Asset, Record]]:
    found: dict[str, tuple[Asset, Record]] = {}
    for record in read.records(query.filter):
        found.setdefault(record["_id"], (asset_of(record), record))
    if not found:
        from job_dispatch.metadata.diagnosis import explain_nothing

        raise RequestError("no record matches the query", explain_nothing(read.metadata, query.filter))
    return sorted(found.values(), key=lambda one: (one[0].name, one[0].record_id))


def _arranged(
    metadata: MetadataSource,
    selection: Selection,
    assets: Sequence[Asset],
    records: Sequence[Record],
    grouping: Grouping,
    left_out: LeftOut,
) -> list[Group]:
    from job_dispatch.cohort.grouping import arrange, fields_without_value

    examples = selection.query.filter if selection.query and not selection.table else {"_id": assets[0].record_id}
    _refuse_unknown(metadata, examples, fields_without_value(records, grouping), grouping.drop_nulls)
    arranged = arrange(assets, records, grouping)
    left_out.add("without a value", *arranged.without_value)
    left_out.add("not the latest", *arranged.not_latest)
    if arranged.without_value:
        fields = ", ".join(dict.fromkeys((*grouping.group_by, *grouping.filter_by)))
        headline = f"{counted(len(arranged.without_value), 'record')} without a value of {fields} left out:"
        warn_listing(headline, [asset.name for asset in arranged.without_value])
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
    return arranged.groups


def _refuse_unknown(metadata: MetadataSource, examples: Filter, without_value: Sequence[str], drop_nulls: bool) -> None:
    """Refuse fields of which no record has a value, except those that are null where null is a value."""
    if not without_value:
        return
    from job_dispatch.metadata.diagnosis import known_fields, suggestion

    known = known_fields(metadata, examples)
    if unknown := [field for field in without_value if known.isdisjoint(paths(field))]:
        details = [f"{field}   {suggestion(field, known)}".rstrip() for field in unknown]
        raise RequestError("no selected record has a value of these fields; correct their names", details)
    if drop_nulls:
        details = [f"{field}   is null in every record" for field in without_value]
        raise RequestError("no selected record has a value of these fields; --drop_null_groups=0 keeps nulls", details)

"""Building the jobs: located assets × their files × parameter sets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from job_dispatch.jobs.model import AnalysisDispatchModel
from job_dispatch.messages import counted, logger
from job_dispatch.metadata.records import File, Group, LocatedAsset
from job_dispatch.request.parameters import Parameters
from job_dispatch.request.selection import Selection


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of work. It holds references only, so that hundreds of thousands fit into memory.

    `size` is the bytes of its files, or of its whole assets where nothing was listed; None where unknown.
    """

    name: str
    group: Group
    files: tuple[File, ...] | None
    parameter_set: dict[str, Any] | None
    size: int | None


@dataclass(frozen=True)
class Plan:
    """The jobs of one run, and what they share.

    Parameters
    ----------
    jobs : list of Job
        In order, each content once.
    fixed_parameters : dict or None
    query : str or None
        Compact JSON of the query, None where assets were selected by id.
    """

    jobs: list[Job]
    fixed_parameters: dict[str, Any] | None
    query: str | None

    def model(self, job: Job) -> AnalysisDispatchModel:
        """Return the content of a job's file."""
        return _model(job.group, job.files, job.parameter_set, self.fixed_parameters, self.query)


def build(
    groups: Iterable[Group],
    located: Iterable[LocatedAsset],
    parameters: Parameters,
    selection: Selection,
    split_files: bool,
    at_most: int | None,
) -> Plan:
    """Return one job a group, file and parameter set, in that order.

    Assets that are not among `located` are left out of their groups. The files of groups with metadata are
    not split. Jobs with the same content are one job. No more than `at_most` are returned; how many were
    left off is a warning.
    """
    query = selection.query_text
    unique: dict[str, Job] = {}
    repeated = 0
    for group, files, size in _work(groups, {one.asset.record_id: one for one in located}, split_files):
        for one in parameters.sets or (None,):
            parameter_set = {**group.parameters, **(one or {})} if group.parameters else one
            name = str(_model(group, files, parameter_set, parameters.fixed, query).uuid())
            repeated += name in unique
            unique.setdefault(name, Job(name, group, files, parameter_set, size))
    if repeated:
        logger.warning("%s with the same content as another counted once", counted(repeated, "job"))
    jobs = list(unique.values())[:at_most]
    if len(jobs) < len(unique):
        left_off = counted(len(unique) - len(jobs), "job")
        logger.warning("--max_number_of_tasks_dispatched=%d: %s left off", at_most, left_off)
    return Plan(jobs, parameters.fixed, query)


def _work(
    groups: Iterable[Group], located: Mapping[str, LocatedAsset], split_files: bool
) -> Iterator[tuple[Group, tuple[File, ...] | None, int | None]]:
    for group in groups:
        there = [located[asset.record_id] for asset in group.assets if asset.record_id in located]
        if not there:
            continue
        found = replace(group, assets=tuple(one.asset for one in there))
        files = None if there[0].files is None else tuple(file for one in there for file in one.files or ())
        if split_files and files is not None and group.metadata is None:
            for file in files:
                yield found, (file,), file.size
        else:
            yield found, files, _sum([one.size for one in there] if files is None else [file.size for file in files])


def _sum(sizes: Sequence[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def _model(
    group: Group,
    files: tuple[File, ...] | None,
    parameter_set: dict[str, Any] | None,
    fixed_parameters: dict[str, Any] | None,
    query: str | None,
) -> AnalysisDispatchModel:
    # Not validated: the parts have their types, and there may be hundreds of thousands.
    return AnalysisDispatchModel.model_construct(
        s3_location=[asset.location for asset in group.assets],
        asset_id=[asset.asset_id for asset in group.assets],
        asset_name=[asset.name for asset in group.assets],
        docdb_record_id=[asset.record_id for asset in group.assets],
        file_location=None if files is None else [file.address for file in files],
        fixed_parameters=fixed_parameters,
        distributed_parameters=parameter_set,
        group_metadata=None if group.metadata is None else dict(group.metadata),
        query=query,
    )

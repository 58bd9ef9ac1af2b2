"""Building the jobs: located assets × their files × parameter sets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from analysis_dispatch_model import AnalysisDispatchModel
from inputs import AssetIds, Parameters, Query
from messages import counted, logger
from records import LocatedAsset


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of work. It holds references only, so that hundreds of thousands fit into memory."""

    name: str
    located: LocatedAsset
    files: tuple[str, ...] | None
    parameter_set: dict[str, Any] | None


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
        return _model(job.located, job.files, job.parameter_set, self.fixed_parameters, self.query)


def build(
    located: Sequence[LocatedAsset],
    parameters: Parameters,
    selection: Query | AssetIds,
    split_files: bool,
    at_most: int | None,
) -> Plan:
    """Return one job an asset, file (with `split_files`) and parameter set, in that order.

    Jobs with the same content are one job. No more than `at_most` are returned; how many were left off
    is a warning.
    """
    query = str(selection) if isinstance(selection, Query) else None
    unique: dict[str, Job] = {}
    repeated = 0
    for one, files, parameter_set in _combinations(located, parameters, split_files):
        name = str(_model(one, files, parameter_set, parameters.fixed, query).uuid())
        repeated += name in unique
        unique.setdefault(name, Job(name, one, files, parameter_set))
    if repeated:
        logger.warning("%s with the same content as another counted once", counted(repeated, "job"))
    jobs = list(unique.values())[:at_most]
    if len(jobs) < len(unique):
        left_off = counted(len(unique) - len(jobs), "job")
        logger.warning("--max_number_of_tasks_dispatched=%d: %s left off", at_most, left_off)
    return Plan(jobs, parameters.fixed, query)


def _combinations(
    located: Iterable[LocatedAsset], parameters: Parameters, split_files: bool
) -> Iterator[tuple[LocatedAsset, tuple[str, ...] | None, dict[str, Any] | None]]:
    for one in located:
        groups = [(file,) for file in one.files] if split_files and one.files is not None else [one.files]
        for files in groups:
            for parameter_set in parameters.sets or (None,):
                yield one, files, parameter_set


def _model(
    located: LocatedAsset,
    files: tuple[str, ...] | None,
    parameter_set: dict[str, Any] | None,
    fixed_parameters: dict[str, Any] | None,
    query: str | None,
) -> AnalysisDispatchModel:
    asset = located.asset
    return AnalysisDispatchModel(
        s3_location=[asset.location],
        asset_id=[asset.asset_id],
        asset_name=[asset.name],
        docdb_record_id=[asset.record_id],
        file_location=None if files is None else list(files),
        fixed_parameters=fixed_parameters,
        distributed_parameters=parameter_set,
        query=query,
    )

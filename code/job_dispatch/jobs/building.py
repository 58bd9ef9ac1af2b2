"""Building the jobs: located assets × their files × parameter sets, one after the other as they are asked for."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from job_dispatch import frames
from job_dispatch.jobs.code import Code, analysis_code
from job_dispatch.messages import RequestError, carrying, counted, logger, showing_progress, with_unit
from job_dispatch.messages import progress as progress_of
from job_dispatch.model import Cohort, ExcludedJob, File, Files, Group, LocatedAsset, Reason, Skipped, Skips
from job_dispatch.request.parameters import Parameters, parameters_of

if TYPE_CHECKING:
    import pandas as pd

    from job_dispatch.jobs.model import AnalysisDispatchModel

CAP = "--max_number_of_tasks_dispatched"
JOBS_UNASKED = 200_000
_COLUMNS = ("job", "assets", "files", "parameters")
# What a file takes up on the disks that people have: whole blocks.
_BLOCK_BYTES = 4_096
_JOBS_MEASURED = 200

_Work = tuple[Group, tuple[File, ...] | None, int | None]


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


class Extent(NamedTuple):
    """How much a request asks for.

    `files` is None where none were listed, and `bytes`, what the jobs take on disk, where it was not looked at.
    """

    assets: int
    files: int | None
    sets: int
    jobs: int
    bytes: int | None = None

    def __str__(self) -> str:
        files = "" if self.files is None else f", {counted(self.files, 'file')}"
        sets = f", {counted(self.sets, 'parameter set')}" if self.sets else ""
        on_disk = "" if self.bytes is None else f", about {with_unit(self.bytes)} on disk"
        return f"{counted(self.assets, 'asset')}{files}{sets}: {counted(self.jobs, 'job')}{on_disk}"


class LeftOff(NamedTuple):
    """How many jobs a cap left off; an upper bound where some may have the same content, or be left out anyway."""

    number: int
    is_exact: bool

    def __str__(self) -> str:
        return f"{'' if self.is_exact else 'up to '}{counted(self.number, 'job')}"


LeaveOut = Callable[[Iterable[Job]], Iterator[Job | Skipped]]
"""Takes jobs and yields those that are to be done and, in between, what is said of the others."""


@dataclass(frozen=True, repr=False)
class Jobs(Sequence["AnalysisDispatchModel"]):
    """The jobs of one run; each is a model of its file.

    Parameters
    ----------
    planned : list of Job
        In order, each content once.
    fixed_parameters : dict or None
    query : str or None
        The query as compact JSON, None if it is not written into jobs.
    code : Code or None
        The code that will run the jobs, None where it is not known.
    skipped : sequence of Skipped
        Jobs that are skipped, such as those that are processed already.
    left_off : LeftOff or None
        How many jobs `max_jobs` left off, None if none.
    too_many : Extent or None
        In a preview, the extent of a request for more than 200,000 jobs. `planned` then holds the first of them.
    """

    planned: Sequence[Job] = ()
    fixed_parameters: dict[str, Any] | None = None
    query: str | None = None
    code: Code | None = None
    skipped: Skips = field(default_factory=Skips)
    left_off: LeftOff | None = None
    too_many: Extent | None = None

    def model(self, job: Job) -> AnalysisDispatchModel:
        """Return the content of a job's file."""
        return _model(job, self.fixed_parameters, self.query, self.code)

    def __len__(self) -> int:
        return len(self.planned)

    @overload
    def __getitem__(self, number: int) -> AnalysisDispatchModel: ...
    @overload
    def __getitem__(self, number: slice) -> Jobs: ...
    def __getitem__(self, number: int | slice) -> AnalysisDispatchModel | Jobs:
        if isinstance(number, slice):
            return replace(self, planned=self.planned[number])
        return self.model(self.planned[number])

    def _rows(self) -> Iterator[dict[str, Any]]:
        for job in self.planned:
            yield {
                "job": job.name,
                "assets": [asset.name for asset in job.group.assets],
                "files": None if job.files is None else [file.address for file in job.files],
                "parameters": job.parameter_set,
            }

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per job."""
        return frames.frame(self._rows(), _COLUMNS)

    def __repr__(self) -> str:
        return f"<Jobs: {len(self):,} jobs, {len(self.skipped):,} skipped>"

    def _repr_html_(self) -> str:
        return frames.html(repr(self)[1:-1], self._rows(), _COLUMNS)


class Work:
    """All that is to be done: one job per group, file and parameter set, in that order, each content once.

    A job is built when it is come to, so that the first of millions cost nothing more. Assets without located files are
    left out of their groups. With `split_files`, there is a job for each file, but not of groups with metadata and of
    pairs.
    """

    def __init__(self, files: Files, parameters: Parameters, query: str | None, split_files: bool) -> None:
        self.parameters = parameters
        self.query = query
        self._groups = files.cohort.groups
        self._located = {one.asset.record_id: one for one in files.assets}
        self._split_files = split_files
        self._sets = parameters.sets or (None,)
        self._places: dict[str, int] = {}
        # Those of the same content counted each.
        self.number = sum(1 for _ in self._works()) * len(self._sets)

    def __iter__(self) -> Iterator[Job]:
        place, repeated = itertools.count(), 0
        self._places.clear()
        for group, files, size in self._works():
            for one in self._sets:
                # Of two values of a parameter, that of the set wins.
                parameter_set = {**group.parameters, **(one or {})} if group.parameters else one
                unnamed = Job("", group, files, parameter_set, size)
                name = str(_model(unnamed, self.parameters.fixed, self.query).uuid())
                number = next(place)
                if self._places.setdefault(name, number) == number:
                    yield Job(name, group, files, parameter_set, size)
                else:
                    repeated += 1
        if repeated:
            logger.warning("%s with the same content as another counted once", counted(repeated, "job"))

    def after(self, job: Job) -> int:
        """Return how many jobs come after one that was built, those of the same content counted each."""
        return self.number - 1 - self._places[job.name]

    @property
    def are_distinct(self) -> bool:
        """Whether no two can have the same content: no two groups hold the same assets or parameters of their own."""
        different = {tuple(asset.record_id for asset in group.assets) for group in self._groups if not group.parameters}
        return len(different) == len(self._groups)

    def extent(self) -> Extent:
        """Return how much there is; the bytes are those of some jobs spread over all, multiplied."""
        assets = {one.asset.record_id: one for group in self._groups for one in self._there(group)}
        files = [one.files for one in assets.values() if one.files is not None]
        works = list(itertools.islice(self._works(), 0, None, -(-self.number // len(self._sets) // _JOBS_MEASURED)))
        size = sum(self._bytes_on_disk(Job("", *work[:2], self._sets[0], None)) for work in works) * self.number
        number_of_files = sum(map(len, files)) if files else None
        return Extent(len(assets), number_of_files, len(self.parameters.sets), self.number, size // len(works))

    def _works(self) -> Iterator[_Work]:
        for group in self._groups:
            there = self._there(group)
            if not there:
                continue
            found = replace(group, assets=tuple(one.asset for one in there))
            files = None if there[0].files is None else tuple(file for one in there for file in one.files or ())
            is_alone = group.metadata is None and not any(asset.role for asset in group.assets)
            if self._split_files and files is not None and is_alone:
                for file in files:
                    yield found, (file,), file.size
            else:
                yield found, files, total(one.size for one in (there if files is None else files))

    def _there(self, group: Group) -> list[LocatedAsset]:
        return [self._located[asset.record_id] for asset in group.assets if asset.record_id in self._located]

    def _bytes_on_disk(self, job: Job) -> int:
        text = _model(job, self.parameters.fixed, self.query).to_json()
        return -(-len(text.encode()) // _BLOCK_BYTES) * _BLOCK_BYTES


def refuse_too_many(cohort: Cohort, parameters: Parameters) -> None:
    """Refuse more assets than make the jobs that are written unasked, before their files are listed."""
    number = len(cohort.groups) * max(len(parameters.sets), 1)
    if number > JOBS_UNASKED:
        _refuse(Extent(len(cohort.assets), None, len(parameters.sets), number), is_preview=False)


def plan(
    files: Files,
    parameters: Parameters | Mapping[str, Any] | str | PathLike[str] | None = None,
    *,
    split_files: bool = True,
    query_in_jobs: bool = True,
    max_jobs: int | None = None,
    progress: bool | None = None,
    code: Code | None = None,
    leave_out: LeaveOut | None = None,
    is_preview: bool = False,
) -> Jobs:
    """Plan the jobs for files: one per group, file and parameter set.

    Parameters
    ----------
    files : Files
    parameters : mapping or path, optional
        `fixed_parameters`, `distributed_parameters`, `parameter_grid` and `parameter_zip`, or a file with them.
    split_files : bool
        One job per file instead of one per asset; the files of groups with metadata and of pairs stay together.
    query_in_jobs : bool
        Write the query into each job.
    max_jobs : int, optional
        Plan at most so many jobs; a warning counts the others.
    progress : bool, optional
        Show progress; by default in a terminal and in a notebook.
    code : Code, optional
        The code that will run the jobs, where it is known; for `--skip_processed`.
    leave_out : callable, optional
        Takes an iterable of jobs and yields those that are left to do; for `--skip_processed`.
    is_preview : bool
        Warn about too many jobs instead of raising an error, and return the first of them.

    Returns
    -------
    Jobs

    Raises
    ------
    RequestError
        The parameters cannot be read, or there are more than 200,000 jobs and `max_jobs` is not given.

    Examples
    --------
    >>> import job_dispatch as jd
    >>> files = jd.locate(jd.select(jd.Catalog("catalog.jsonl"), subject="643634"), endings=".csv")
    >>> jobs = jd.plan(files, {"parameter_grid": {"cutoff": [0.1, 0.2]}})
    >>> len(jobs), jobs[1].distributed_parameters
    (2, {'cutoff': 0.2})
    """
    if max_jobs is not None and max_jobs < 1:
        raise RequestError("--max_number_of_tasks_dispatched must be a whole number from 1")
    if not isinstance(parameters, Parameters):
        parameters = parameters_of(parameters)
    if leave_out is None and files.cohort.excluded_jobs:
        leave_out = partial(_without_excluded, files.cohort.excluded_jobs, parameters.fixed)
    _note_whole_groups(files, split_files)
    work = Work(files, parameters, files.cohort.query if query_in_jobs else None, split_files)
    limit = max_jobs or JOBS_UNASKED
    if not (max_jobs or is_preview) and leave_out is None and work.are_distinct and work.number > limit:
        _refuse(work.extent(), is_preview)
    # One more than is written unasked tells whether there are too many.
    with showing_progress(progress):
        taken, skipped = _taken(work, leave_out, max_jobs or limit + 1)
    too_many = work.extent() if len(taken) > limit else None
    del taken[limit:]
    left_off = None
    if too_many or (max_jobs and len(taken) == max_jobs and work.after(taken[-1])):
        left_off = LeftOff(work.after(taken[-1]), is_exact=leave_out is None and work.are_distinct)
    with carrying(skipped):
        if too_many:
            _refuse(too_many, is_preview)
        elif left_off:
            logger.warning("%s=%d: %s left off", CAP, limit, left_off)
    return Jobs(taken, parameters.fixed, work.query, code, Skips(skipped), left_off, too_many)


def _without_excluded(
    excluded: Mapping[str, ExcludedJob], fixed: dict[str, Any] | None, jobs: Iterable[Job]
) -> Iterator[Job | Skipped]:
    for job in jobs:
        yield excluding(job, excluded, fixed) or job


def excluding(job: Job, excluded: Mapping[str, ExcludedJob], fixed_parameters: dict[str, Any] | None) -> Skipped | None:
    """Return that a job is skipped, None if it is not excluded or has another input than when it was done."""
    one = excluded.get(job.name)
    if one is None:
        return None
    if one.input is not None:
        from job_dispatch.jobs.model import fingerprint

        text = _model(job, fixed_parameters, None).to_json()
        if fingerprint(json.loads(text)) != one.input:
            return None
    return Skipped.of_job(Reason.EXCLUDED, job.name, job.group.assets, f"excluded by {one.place}")


def _note_whole_groups(files: Files, split_files: bool) -> None:
    if not split_files or all(one.files is None for one in files.assets):
        return
    groups = files.cohort.groups
    if any(group.metadata is not None for group in groups):
        logger.info("--split_files does not apply with --group_by: each job lists all files of its group")
    elif files.cohort.partners:
        logger.info("--split_files does not apply with --with_raw: each job lists all files of its pair")


def _taken(work: Work, leave_out: LeaveOut | None, at_most: int) -> tuple[list[Job], list[Skipped]]:
    """Return the first jobs that are to be done, and those before the last of them that are not."""
    taken: list[Job] = []
    skipped: list[Skipped] = []
    number = min(work.number, at_most) if leave_out is None else None
    with carrying(skipped), progress_of("building jobs", "jobs", number) as shown:
        for one in work if leave_out is None else leave_out(work):
            if isinstance(one, Skipped):
                skipped.append(one)
                continue
            taken.append(one)
            shown.advance()
            if len(taken) == at_most:
                break
    return taken, skipped


def _refuse(too_many: Extent, is_preview: bool) -> None:
    sentence = f"{too_many}; more than {JOBS_UNASKED:,} are written only where {CAP} names a number"
    if not is_preview:
        raise RequestError(f"{sentence}; narrow the request or name one")
    logger.warning("%s: a run would stop here", sentence)


def total(sizes: Iterable[int | None]) -> int | None:
    """Return the sum of sizes, None if one of them is unknown."""
    known = list(sizes)
    return None if None in known else sum(size for size in known if size is not None)


def _model(
    job: Job, fixed_parameters: dict[str, Any] | None, query: str | None, code: Code | None = None
) -> AnalysisDispatchModel:
    from job_dispatch.jobs.model import AnalysisDispatchModel  # pydantic takes 0.1 s: it is loaded meanwhile

    assets, files, metadata = job.group.assets, job.files, job.group.metadata
    locations = [asset.location for asset in assets]
    addresses = None if files is None else [file.address for file in files]
    # Not validated: the parts have their types, and there may be hundreds of thousands.
    return AnalysisDispatchModel.model_construct(
        s3_location=locations,
        asset_id=[asset.asset_id for asset in assets],
        asset_name=[asset.name for asset in assets],
        docdb_record_id=[asset.record_id for asset in assets],
        asset_role=_unless_empty([asset.role for asset in assets]),
        subject=_unless_empty([asset.subject for asset in assets]),
        session=_unless_empty([asset.session for asset in assets]),
        project=_unless_empty([asset.project for asset in assets]),
        modality=_unless_empty([list(asset.modality) for asset in assets]),
        file_location=addresses,
        file_version=None if files is None else _unless_empty([_version(file) for file in files]),
        fixed_parameters=fixed_parameters,
        distributed_parameters=job.parameter_set,
        group_metadata=None if metadata is None else dict(metadata),
        query=query,
        analysis_code=analysis_code(code, locations, addresses, fixed_parameters, job.parameter_set),
    )


def _unless_empty(values: list[Any]) -> list[Any] | None:
    return values if any(values) else None


def _version(file: File) -> dict[str, Any] | None:
    """Return what is known of a file's version; a size alone would not tell."""
    if not file.version:
        return None
    size = {} if file.size is None else {"size": file.size}
    if file.address.startswith("file://"):
        seconds, rest = divmod(int(file.version), 1_000_000_000)
        return size | {"modified": f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09}Z"}
    return size | {"etag": file.version.strip('"')}

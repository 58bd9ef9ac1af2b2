"""What a run selected, skipped and made, counted: as a summary and a preview, and for the report."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from job_dispatch.jobs.building import CAP, Job, Jobs
from job_dispatch.jobs.sharing import Folders
from job_dispatch.messages import LISTED_AT_MOST, DispatchError, counted, printable
from job_dispatch.model import Asset, Cohort, File, Files, Reason, Skipped
from job_dispatch.request.flags import Settings
from job_dispatch.request.parameters import Parameters
from job_dispatch.request.selection import Selection
from job_dispatch.storage import matching
from job_dispatch.storage.locating import path_within

# The steps of a run.
READING, FINDING, BUILDING, WRITING = "reading the request", "finding assets and files", "building jobs", "writing jobs"
_TOP = 10
# Elsewhere than on a terminal lines are not broken.
_PLAIN_WIDTH = 10_000


@dataclass(frozen=True)
class Dispatch:
    """One run, from what was asked for to the jobs in their worker folders; of one that failed, as far as it came.

    `selection`, `parameters`, `cohort`, `files`, `jobs` and `folders` are what each step returned; `seconds` is how
    long each took. `error` ended a run that failed.
    """

    settings: Settings
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    selection: Selection = field(default_factory=Selection)
    parameters: Parameters = field(default_factory=Parameters)
    cohort: Cohort = field(default_factory=Cohort)
    files: Files = field(default_factory=Files)
    jobs: Jobs = field(default_factory=Jobs)
    folders: Folders = field(default_factory=Folders)
    seconds: Mapping[str, float] = field(default_factory=dict)
    error: DispatchError | None = None

    @property
    def skipped(self) -> list[Skipped]:
        """All that no job analyses, and the jobs that are left out, in the order in which that was found out."""
        found = [*self.cohort.skipped, *self.files.skipped, *self.jobs.skipped]
        return found if self.error is None else [*found, *self.error.skipped]

    def skipped_by_reason(self, of_jobs: bool = False) -> Counter[str]:
        """Return how much is skipped for each reason, in the order in which reasons came up; or how many jobs alone."""
        return Counter(one.reason.value for one in self.skipped if one.job or not of_jobs)

    @property
    def analysed(self) -> list[Asset]:
        """The assets that jobs analyse, each once, in the order of the jobs."""
        return list({asset.record_id: asset for job in self.jobs.planned for asset in job.group.assets}.values())

    @property
    def headline(self) -> str:
        """One sentence on the whole run."""
        if self.error is not None:
            return self.error.headline
        of_assets = f"{len(self.analysed):,} of {counted(self.cohort.matched, 'asset')}"
        jobs = f"{counted(len(self.jobs), 'job')} for {of_assets} on {counted(len(self.folders.shares), 'worker')}"
        return "; ".join(part for part in (jobs, self.nothing_left, self.left_off) if part)

    @property
    def funnel(self) -> list[tuple[str, int]]:
        """How many are left after each step; of a run that failed, as far as it came."""
        if not self.cohort.matched:
            return []
        steps = [("records", self.cohort.matched)]
        if self.settings.qc:
            steps.append(("left by QC", self.cohort.matched - self.skipped_by_reason()[Reason.QUALITY_CONTROL.value]))
        steps.append(("assets", len(self.cohort.assets)))
        if self.settings.wants_files and (self.files.assets or not self.error):
            steps.append(("with files", len(self.files.assets)))
        left_off, jobs_left_out = self.jobs.left_off, self.skipped_by_reason(of_jobs=True)
        number = len(self.jobs) + (left_off.number if left_off else 0) + jobs_left_out.total()
        if left_off or jobs_left_out:
            is_exact = left_off is None or left_off.is_exact
            steps.append(("jobs asked for" if is_exact else "jobs asked for, at most", number))
        for kind, left_out in jobs_left_out.items():
            number -= left_out
            steps.append((f"not {kind}", number))
        return [*steps, ("jobs", len(self.jobs))] if self.error is None else steps

    @property
    def nothing_left(self) -> str:
        """Why there is no job at all although nothing failed; empty where there are jobs."""
        if self.jobs.planned or self.error is not None:
            return ""
        of_jobs = self.skipped_by_reason(of_jobs=True)
        kinds, noun = (of_jobs, "job") if of_jobs else (self.skipped_by_reason(), "asset")
        return f"all {counted(kinds.total(), noun)} are {' or '.join(kinds)}" if kinds else ""

    @property
    def left_off(self) -> str:
        """What no job was made of since there would be too many, and why; empty where that is nothing."""
        if self.jobs.too_many:
            return f"{self.jobs.left_off} beyond these: a run would stop and ask for {CAP}"
        return f"{self.jobs.left_off} left off by {CAP}={len(self.jobs)}" if self.jobs.left_off else ""

    @property
    def factors(self) -> str:
        """What the number of jobs is the product of."""
        settings = self.settings
        if settings.group_by:
            work = counted(len(self.files.cohort.groups), "group")
        elif settings.wants_files and settings.split_files:
            work = counted(sum(len(one.files or ()) for one in self.files.assets), "file")
        else:
            work = counted(len(self.files.assets), "asset")
        rows = len(self.files.cohort.groups) - len({group.assets for group in self.files.cohort.groups})
        if rows and not settings.group_by:
            work += f" and {counted(rows, 'further row')} of the table"
        sets = len(self.parameters.sets)
        return f"{work} × {counted(sets, 'parameter set')}" if sets else work

    def assets_by(self, trait: str) -> list[tuple[str, int]]:
        """Return how many assets have each value of `project`, `subject` or `day`, the most frequent first."""
        counts = Counter(getattr(asset, trait) or "unknown" for asset in self.cohort.assets)
        return sorted(counts.items(), key=lambda item: (-item[1], item[0]))

    @property
    def folder_bytes(self) -> list[int]:
        """The bytes of each worker folder, the least first, where sizes are known."""
        return sorted(sum(self.folders.sizes[number] for number in share) for share in self.folders.shares)

    def folder_jobs(self) -> Iterator[tuple[str, list[Job]]]:
        """Yield each worker folder's name and its jobs."""
        for number, share in enumerate(self.folders.shares):
            yield str(number), [self.jobs.planned[job] for job in share]


def summary(run: Dispatch) -> list[str]:
    """Return the closing summary: what matched, what was skipped, the jobs and where they are."""
    counts = run.skipped_by_reason()
    reasons = ", ".join(f"{number:,} {kind}" for kind, number in counts.items())
    skipped = f"{counts.total():,}: {reasons}" if reasons else "0"
    found = [
        f"matched  {counted(run.cohort.matched, 'asset')}",
        f"skipped  {skipped}; found in {run.seconds.get(FINDING, 0.0):.1f} s",
    ]
    if run.nothing_left:
        return [*found, f"jobs     none, nothing is written: {run.nothing_left}"]
    left_off = f", {run.left_off}" if run.left_off else ""
    written_in, in_all = run.seconds.get(WRITING, 0.0), sum(run.seconds.values())
    shares, folder = run.folders.shares, run.settings.output_directory
    return [
        *found,
        f"jobs     {len(run.jobs):,} of {run.factors}{left_off}, written in {written_in:.1f} s",
        f"folders  {len(shares):,} in {folder}{_each(run)}, {in_all:.1f} s in all",
    ]


def _each(run: Dispatch) -> str:
    """Describe how many jobs, and how many bytes, each worker folder has."""
    if not run.folders.shares:
        return ""
    fewest, most = min(map(len, run.folders.shares)), max(map(len, run.folders.shares))
    several = "or" if most - fewest == 1 else "to"
    jobs = counted(most, "job") if fewest == most else f"{fewest:,} {several} {counted(most, 'job')}"
    if not (sizes := run.folders.sizes):
        return f", {jobs} each"
    loads = run.folder_bytes
    # Compared with the least that the heaviest folder could have.
    least_possible = max(max(sizes), sum(sizes) / len(loads))
    ratio = loads[-1] / least_possible if least_possible else 1.0
    return f", {jobs} and {loads[0]:,} to {loads[-1]:,} bytes ({ratio:.2f} × the least possible) each"


def preview(run: Dispatch) -> None:
    """Print the assets, the files, what is skipped, the selection, the jobs, and at the end one sentence on all of it.

    With `--log_level=DEBUG` the first job comes first.
    """
    if sys.stdout is None:
        return
    from rich import box  # a preview alone needs it
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    is_terminal = sys.stdout.isatty()
    console = Console(
        file=sys.stdout, width=None if is_terminal else _PLAIN_WIDTH, highlight=False, markup=False, emoji=False
    )
    if run.jobs.planned and run.settings.log_level == "DEBUG":
        worker, [first, *_] = next(run.folder_jobs())
        print(f"First job: {worker}/{first.name}.json")
        for line in run.jobs.model(first).to_json().split("\n"):
            print(printable(line, sys.maxsize))
        print()
    steps = [(step, f"{number:,}") for step, number in run.funnel]
    tables: list[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = [
        ("Assets by project", ("project", "assets"), _top(run.assets_by("project"))),
        ("Assets by subject", ("subject", "assets"), _top(run.assets_by("subject"))),
        ("Files", ("ending", "files", "bytes"), _files(run)),
        ("Skipped", ("name", "reason"), _skipped(run)),
        ("Selection", ("", ""), [("from", run.settings.source), ("by", str(run.selection)), *steps]),
        ("Jobs", ("", ""), _jobs(run)),
    ]
    for title, header, rows in tables:
        table = Table(
            title=title,
            title_justify="left",
            title_style="bold",
            show_header=any(header),
            padding=(0, 2, 0, 0),
            box=box.SIMPLE_HEAD if is_terminal else None,
        )
        for name in header:
            is_count = name in ("assets", "files", "bytes")
            table.add_column(name, justify="right" if is_count else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        with console.capture() as captured:
            console.print(table)
        print("\n".join(line.rstrip() for line in captured.get().splitlines()), end="\n\n")
    print(printable(f"Preview: {run.headline}; nothing was written"))


def _top(counts: Sequence[tuple[str, int]]) -> list[tuple[str, str]]:
    rows = [(value, f"{number:,}") for value, number in counts[:_TOP]]
    if rest := counts[_TOP:]:
        rows.append((f"{len(rest):,} more", f"{sum(number for _, number in rest):,}"))
    return rows


def _files(run: Dispatch) -> list[tuple[str, str, str]]:
    """Return how many files each wanted ending or pattern takes, and their bytes."""
    if not run.settings.wants_files:
        return [("any", "not listed", "not listed")]
    wanted = matching.wanted(run.settings.file_extension, run.settings.file_pattern)
    found: list[list[File]] = [[] for _ in wanted.ways]
    for one in run.files.assets:
        for file in one.files or ():
            for number in wanted.ways_of(path_within(one.asset, file)):
                found[number].append(file)
    return [(way, f"{len(files):,}", _bytes(files)) for way, files in zip(wanted.ways, found, strict=True)]


def _bytes(files: Sequence[File]) -> str:
    known = [file.size for file in files if file.size is not None]
    stores = len(files) - len(known)
    return f"{sum(known):,} and {counted(stores, 'store')} not measured" if stores else f"{sum(known):,}"


def _skipped(run: Dispatch) -> list[tuple[str, str]]:
    rows = [(one.known_as, one.detail) for one in run.skipped[:LISTED_AT_MOST]]
    if (more := len(run.skipped) - LISTED_AT_MOST) > 0:
        rows.append((f"… and {more:,} more", ""))
    return rows or [("nothing", "")]


def _jobs(run: Dispatch) -> list[tuple[str, str]]:
    lengths = sorted(map(len, run.folders.shares)) or [0]
    rows = [
        ("parameter sets", f"{len(run.parameters.sets):,}"),
        ("jobs", f"{len(run.jobs.planned):,}"),
        ("", run.nothing_left),
        ("left off", run.left_off),
        ("asked for", str(run.jobs.too_many or "")),
        ("worker folders", f"{len(run.folders.shares):,}"),
        ("smallest / median / largest", f"{_three(lengths)} {'job' if lengths[-1] == 1 else 'jobs'}"),
        ("", f"{_three(run.folder_bytes)} bytes" if run.folders.sizes else ""),
    ]
    return [row for row in rows if row[1]]


def _three(ordered: Sequence[int]) -> str:
    """Return the smallest, the median and the largest of some numbers."""
    return f"{ordered[0]:,} / {ordered[len(ordered) // 2]:,} / {ordered[-1]:,}"

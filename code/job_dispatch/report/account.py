"""What a run selected, skipped and made, counted: the base of its summary, preview and report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from job_dispatch.cohort import quality_control
from job_dispatch.cohort.selecting import Selected
from job_dispatch.jobs.building import CAP, Job, Plan
from job_dispatch.jobs.sharing import Shares
from job_dispatch.left_out import LeftOut
from job_dispatch.messages import DispatchError, counted
from job_dispatch.model import File
from job_dispatch.request.flags import Settings
from job_dispatch.request.parameters import Parameters
from job_dispatch.request.selection import Selection
from job_dispatch.storage import matching
from job_dispatch.storage.locating import Located, path_within

# The steps of a run.
READING, FINDING, BUILDING, WRITING = "reading the request", "finding assets and files", "building jobs", "writing jobs"


@dataclass
class Account:
    """One run, from what was asked for to the jobs in their worker folders; filled in as the run goes on.

    `sizes` are the bytes by which jobs were balanced, one a job; empty where they were balanced by count.
    `seconds` are how long each step took. `error` is what ended a run that failed.
    """

    settings: Settings
    selection: Selection = field(default_factory=Selection)
    parameters: Parameters = field(default_factory=Parameters)
    selected: Selected = field(default_factory=lambda: Selected(0, []))
    located: Located = field(default_factory=lambda: Located([], [], []))
    plan: Plan = field(default_factory=lambda: Plan([], None, None))
    shares: Shares = ()
    sizes: Sequence[int] = ()
    left_out: LeftOut = field(default_factory=LeftOut)
    seconds: dict[str, float] = field(default_factory=dict)
    error: DispatchError | None = None
    started: datetime = field(default_factory=lambda: datetime.now(UTC))

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Note how long a step takes, also where it fails."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[step] = time.monotonic() - start

    @property
    def source(self) -> str:
        """Where the records came from."""
        return source(self.settings)

    @property
    def headline(self) -> str:
        """One sentence on the whole run."""
        if self.error is not None:
            return self.error.headline
        assets = {asset.record_id for job in self.plan.jobs for asset in job.group.assets}
        of_assets = f"{len(assets):,} of {counted(self.selected.matched, 'asset')}"
        jobs = f"{counted(len(self.plan.jobs), 'job')} for {of_assets} on {counted(len(self.shares), 'worker')}"
        return "; ".join(part for part in (jobs, self.nothing_left, self.left_off) if part)

    @property
    def funnel(self) -> list[tuple[str, int]]:
        """How many are left after each step; of a run that failed, as far as it came."""
        if not self.selected.matched:
            return []
        steps = [("records", self.selected.matched)]
        if self.settings.qc:
            steps.append(("left by QC", self.selected.matched - self.left_out.counts()[quality_control.KIND]))
        steps.append(("assets", len(self.selected.assets)))
        if self.settings.wants_files:
            steps.append(("with files", len(self.located.assets)))
        number = len(self.plan.jobs) + (self.plan.left_off.number if self.plan.left_off else 0)
        jobs_left_out = self.left_out.counts(of_jobs=True)
        if self.plan.left_off or jobs_left_out:
            number += jobs_left_out.total()
            steps.append((self.asked_for, number))
        for kind, left_out in jobs_left_out.items():
            number -= left_out
            steps.append((f"not {kind}", number))
        return [*steps, ("jobs", len(self.plan.jobs))] if self.error is None else steps

    @property
    def asked_for(self) -> str:
        """What to call the jobs before some were left off, the number of which may be an upper bound."""
        is_exact = self.plan.left_off is None or self.plan.left_off.is_exact
        return "jobs asked for" if is_exact else "jobs asked for, at most"

    @property
    def nothing_left(self) -> str:
        """Why there is no job at all although nothing failed; empty where there are jobs."""
        if self.plan.jobs or self.error is not None:
            return ""
        of_jobs = self.left_out.counts(of_jobs=True)
        kinds, noun = (of_jobs, "job") if of_jobs else (self.left_out.counts(), "asset")
        return f"all {counted(kinds.total(), noun)} are {' or '.join(kinds)}" if kinds else ""

    @property
    def left_off(self) -> str:
        """What no job was made of since there would be too many, and why; empty where that is nothing."""
        if self.plan.too_many:
            return f"{self.plan.left_off} beyond these: a run would stop and ask for {CAP}"
        return f"{self.plan.left_off} left off by {CAP}={len(self.plan.jobs)}" if self.plan.left_off else ""

    def assets_by(self, trait: str) -> list[tuple[str, int]]:
        """Return how many assets have each value of `project`, `subject` or `day`, the most frequent first."""
        counts = Counter(getattr(asset, trait) or "unknown" for asset in self.selected.assets)
        return sorted(counts.items(), key=lambda item: (-item[1], item[0]))

    def files_by_way(self) -> list[tuple[str, Sequence[File]]]:
        """Return the files that each wanted ending or pattern takes."""
        wanted = matching.wanted(self.settings.file_extension, self.settings.file_pattern)
        found: dict[int, list[File]] = {number: [] for number in range(len(wanted.ways))}
        for one in self.located.assets:
            for file in one.files or ():
                for number in wanted.ways_of(path_within(one.asset, file)):
                    found[number].append(file)
        return [(way, found[number]) for number, way in enumerate(wanted.ways)]

    def folder_jobs(self) -> Iterator[tuple[str, list[Job]]]:
        """Yield each worker folder's name and its jobs."""
        for number, share in enumerate(self.shares):
            yield str(number), [self.plan.jobs[job] for job in share]


def source(settings: Settings) -> str:
    """Return where the settings take records from."""
    if settings.metadata_catalog is not None:
        return f"catalog {settings.metadata_catalog}"
    return f"DocDB {settings.docdb_host} {settings.docdb_version} {settings.docdb_database}/{settings.docdb_collection}"


def summary(account: Account) -> list[str]:
    """Return the closing summary: what matched, what was skipped, the jobs and where they are."""
    settings = account.settings
    counts = account.left_out.counts()
    skipped = ", ".join(f"{number:,} {kind}" for kind, number in counts.items())
    left_off = f", {account.left_off}" if account.left_off else ""
    found_in, written_in = account.seconds.get(FINDING, 0.0), account.seconds.get(WRITING, 0.0)
    in_all = sum(account.seconds.values())
    found = [
        f"matched  {counted(account.selected.matched, 'asset')}",
        f"skipped  {counts.total():,}{f': {skipped}' * bool(skipped)}; found in {found_in:.1f} s",
    ]
    if account.nothing_left:
        return [*found, f"jobs     none, nothing is written: {account.nothing_left}"]
    return [
        *found,
        f"jobs     {len(account.plan.jobs):,} of {_factors(account)}{left_off}, written in {written_in:.1f} s",
        f"folders  {len(account.shares):,} in {settings.output_directory}{_each(account)}, {in_all:.1f} s in all",
    ]


def _each(account: Account) -> str:
    if not account.shares:
        return ""
    fewest, most = min(map(len, account.shares)), max(map(len, account.shares))
    several = "or" if most - fewest == 1 else "to"
    jobs = counted(most, "job") if fewest == most else f"{fewest:,} {several} {counted(most, 'job')}"
    balance = f" and {_balance(account.shares, account.sizes)}" if account.sizes else ""
    return f", {jobs}{balance} each"


def _factors(account: Account) -> str:
    settings = account.settings
    if settings.group_by:
        work = counted(len(account.selected.groups), "group")
    elif settings.wants_files and settings.split_files:
        work = counted(sum(len(one.files or ()) for one in account.located.assets), "file")
    else:
        work = counted(len(account.located.assets), "asset")
    rows = len(account.selected.groups) - len({group.assets for group in account.selected.groups})
    if rows and not settings.group_by:
        work += f" and {counted(rows, 'further row')} of the table"
    sets = len(account.parameters.sets)
    return f"{work} × {counted(sets, 'parameter set')}" if sets else work


def _balance(shares: Shares, sizes: Sequence[int]) -> str:
    """Describe how evenly the bytes are shared, compared with the least that the heaviest folder could have."""
    loads = [sum(sizes[number] for number in share) for share in shares]
    least_possible = max(max(sizes), sum(sizes) / len(shares))
    ratio = max(loads) / least_possible if least_possible else 1.0
    return f"{min(loads):,} to {max(loads):,} bytes ({ratio:.2f} × the least possible)"

"""What a run selected, skipped and made, counted: the base of its summary, preview and report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from job_dispatch.jobs.building import CAP, Job, Plan
from job_dispatch.jobs.sharing import Shares
from job_dispatch.messages import counted
from job_dispatch.metadata.records import File
from job_dispatch.metadata.selecting import Selected
from job_dispatch.request.flags import Settings
from job_dispatch.request.parameters import Parameters
from job_dispatch.request.selection import Selection
from job_dispatch.storage.locating import Located


class Skipped(NamedTuple):
    """What is not analysed: the name of an asset, or an id, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class Account:
    """One run, from what was asked for to the jobs in their worker folders.

    `sizes` are the bytes by which jobs were balanced, one a job; empty where they were balanced by count.
    """

    settings: Settings
    selection: Selection
    parameters: Parameters
    selected: Selected
    located: Located
    plan: Plan
    shares: Shares
    sizes: Sequence[int]

    @property
    def source(self) -> str:
        """Where the records came from."""
        return source(self.settings)

    @property
    def skipped(self) -> list[Skipped]:
        """All that was left out, each with its reason."""
        return [
            *(Skipped(name, reason) for reason, names in self.selected.left_out.items() for name in names),
            *(Skipped(asset.name, "no matching file") for asset in self.located.without_match),
            *(Skipped(asset.name, error.headline) for asset, error in self.located.failed),
        ]

    @property
    def headline(self) -> str:
        """One sentence on the whole run."""
        assets = {asset.record_id for job in self.plan.jobs for asset in job.group.assets}
        of_assets = f"{len(assets):,} of {counted(self.selected.matched, 'asset')}"
        jobs = f"{counted(len(self.plan.jobs), 'job')} for {of_assets} on {counted(len(self.shares), 'worker')}"
        return f"{jobs}; {self.left_off}" if self.left_off else jobs

    @property
    def funnel(self) -> list[tuple[str, int]]:
        """How many are left after each step."""
        steps = [("records", self.selected.matched), ("assets", len(self.selected.assets))]
        if self.settings.file_extension:
            steps.append(("with files", len(self.located.assets)))
        if self.plan.left_off:
            steps.append((self.asked_for, len(self.plan.jobs) + self.plan.left_off.number))
        return [*steps, ("jobs", len(self.plan.jobs))]

    @property
    def asked_for(self) -> str:
        """What to call the jobs before some were left off, the number of which may be an upper bound."""
        return "jobs asked for" if self.plan.left_off and self.plan.left_off.is_exact else "jobs asked for, at most"

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

    def files_by_ending(self) -> list[tuple[str, Sequence[File]]]:
        """Return the files that have each wanted ending."""
        files = list(self._files())
        return [
            (ending, [file for file in files if file.address.endswith(ending)])
            for ending in self.settings.file_extension
        ]

    def _files(self) -> Iterator[File]:
        for one in self.located.assets:
            yield from one.files or ()

    def folder_jobs(self) -> Iterator[tuple[str, list[Job]]]:
        """Yield each worker folder's name and its jobs."""
        for number, share in enumerate(self.shares):
            yield str(number), [self.plan.jobs[job] for job in share]


def source(settings: Settings) -> str:
    """Return where the settings take records from."""
    if settings.metadata_catalog is not None:
        return f"catalog {settings.metadata_catalog}"
    return f"DocDB {settings.docdb_host} {settings.docdb_version} {settings.docdb_database}/{settings.docdb_collection}"


def summary(account: Account, found_in: float, written_in: float) -> list[str]:
    """Return the closing summary: what matched, what was skipped, the jobs and where they are.

    Parameters
    ----------
    account : Account
    found_in, written_in : float
        Seconds.
    """
    settings, shares = account.settings, account.shares
    reasons = Counter[str]()
    reasons["without a matching file"] = len(account.located.without_match)
    reasons["not readable"] = len(account.located.failed)
    reasons.update({reason: len(names) for reason, names in account.selected.left_out.items()})
    skipped = ", ".join(f"{number:,} {reason}" for reason, number in reasons.items() if number)
    fewest, most = min(map(len, shares)), max(map(len, shares))
    several = "or" if most - fewest == 1 else "to"
    each = counted(most, "job") if fewest == most else f"{fewest:,} {several} {counted(most, 'job')}"
    if account.sizes:
        each += f" and {_balance(shares, account.sizes)}"
    left_off = f", {account.left_off}" if account.left_off else ""
    return [
        f"matched  {counted(account.selected.matched, 'asset')}",
        f"skipped  {reasons.total():,}{f': {skipped}' * bool(skipped)}; found in {found_in:.1f} s",
        f"jobs     {len(account.plan.jobs):,} of {_factors(account)}{left_off}, written in {written_in:.1f} s",
        f"folders  {len(shares):,} in {settings.output_directory}, {each} each, {found_in + written_in:.1f} s in all",
    ]


def _factors(account: Account) -> str:
    settings = account.settings
    if settings.group_by:
        work = counted(len(account.selected.groups), "group")
    elif settings.file_extension and settings.split_files:
        work = counted(sum(len(one.files or ()) for one in account.located.assets), "file")
    else:
        work = counted(len(account.located.assets), "asset")
    sets = len(account.parameters.sets)
    return f"{work} × {counted(sets, 'parameter set')}" if sets else work


def _balance(shares: Shares, sizes: Sequence[int]) -> str:
    """Describe how evenly the bytes are shared, compared with the least that the heaviest folder could have."""
    loads = [sum(sizes[number] for number in share) for share in shares]
    least_possible = max(max(sizes), sum(sizes) / len(shares))
    ratio = max(loads) / least_possible if least_possible else 1.0
    return f"{min(loads):,} to {max(loads):,} bytes ({ratio:.2f} × the least possible)"

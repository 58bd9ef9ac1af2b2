"""Which files the assets have, and how large they are."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Protocol

from job_dispatch import failures
from job_dispatch.messages import (
    DispatchError,
    Progress,
    RequestError,
    carrying,
    counted,
    logger,
    showing_progress,
    skip_or_refuse,
    warn_listing,
)
from job_dispatch.messages import progress as progress_of
from job_dispatch.model import Asset, Cohort, File, Files, Group, LocatedAsset, Reason, Skipped, Skips
from job_dispatch.request import flag_values as values
from job_dispatch.request.flags import Settings
from job_dispatch.request.json_text import is_unicode
from job_dispatch.storage import matching
from job_dispatch.storage.loop import run, tasks_side_by_side
from job_dispatch.storage.matching import Matching, Wanted
from job_dispatch.storage.occurring import Occurring

_LOOKED_AT = 5

Outcome = tuple[File, ...] | DispatchError | None


class Place(Protocol):
    """Where files are: S3, or local folders."""

    async def find_files(self, location: str, matching: Matching) -> list[File]:
        """Return the matches at a location, by path."""
        ...

    async def measure(self, location: str) -> int:
        """Return the bytes of all that lies at a location."""
        ...


def locate(
    cohort: Cohort,
    *,
    endings: str | Iterable[str] = (),
    patterns: str | Iterable[str] = (),
    require_files: bool = False,
    sizes: bool = False,
    sizes_at_most: int | None = None,
    skip_errors: bool = False,
    max_concurrency: int = 256,
    progress: bool | None = None,
) -> Files:
    """Find the files of a cohort's assets; without endings and patterns nothing is listed.

    Parameters
    ----------
    cohort : Cohort
    endings : str or iterable of str, optional
        Endings of the names of files and stores, such as `.nwb`.
    patterns : str or iterable of str, optional
        Patterns of files within an asset, as in git's ignore files; `!` leaves files out.
    require_files : bool
        Skip assets without a file for each ending or pattern.
    sizes : bool
        Find out the bytes of stores, and of whole assets if nothing is listed: all their objects are listed.
    sizes_at_most : int, optional
        Only of so many assets, the first.
    skip_errors : bool
        Skip assets that cannot be listed, instead of raising an error.
    max_concurrency : int
        Largest number of requests in flight.
    progress : bool, optional
        Show progress; by default in a terminal and in a notebook.

    Returns
    -------
    Files

    Raises
    ------
    RequestError
        Locations are missing or refused and `skip_errors` is false, or no asset is left.
    ServiceError
        The storage fails for some asset, under the same conditions.

    Examples
    --------
    >>> import job_dispatch as jd
    >>> files = jd.locate(jd.select(jd.Catalog("catalog.jsonl"), subject="643634"), endings=".csv")
    >>> [(one.asset.name, len(one.files)) for one in files.assets]
    [('behavior-videos_643634_2024-09-12_10-44-02', 1)]
    """
    asked = Settings(
        file_extension=tuple(map(values.ending, values.several(endings))),
        file_pattern=values.patterns(json.dumps(values.several(patterns))) if patterns else (),
        require_files=require_files,
    )
    wanted = matching.wanted(asked.file_extension, asked.file_pattern) if asked.wants_files else None
    with showing_progress(progress):
        listing = _Listing(wanted, cohort.may_be_local, max_concurrency)
        return _located(listing, cohort, require_files, skip_errors, sizes, sizes_at_most)


def _located(
    listing: _Listing, cohort: Cohort, require_files: bool, skip_errors: bool, sizes: bool, sizes_at_most: int | None
) -> Files:
    groups, assets = cohort.groups, cohort.assets
    outcomes = listing.list_all(assets)
    with_files = {one for one, outcome in outcomes.items() if isinstance(outcome, tuple) and outcome}
    optional = _may_lack_files(cohort.partners, with_files)
    located, skipped = _judged(listing, assets, outcomes, optional, require_files, skip_errors)
    if cohort.partners:
        groups, torn = _whole_pairs(groups, cohort.partners, frozenset(one.asset.record_id for one in located))
        skipped += [Skipped.asset(Reason.NO_PARTNER, asset) for asset in torn]
    if sizes:
        first = located[:sizes_at_most]
        located = listing.measure(first) + located[len(first) :]
    return Files(replace(cohort, groups=groups), located, Skips(skipped))


def look_at(assets: Sequence[Asset], wanted: Wanted, may_be_local: bool, max_concurrency: int = 256) -> Occurring:
    """Return what files there are in a few of the assets, spread over all; never an error."""
    return _Listing(wanted, may_be_local, max_concurrency).look_at(assets)


class _Listing:
    """Lists assets: many at once, in S3 and in local folders."""

    def __init__(self, wanted: Wanted | None, may_be_local: bool, max_concurrency: int) -> None:
        self.wanted = wanted
        self._may_be_local = may_be_local
        self._max_concurrency = max_concurrency
        self._s3: Place | None = None

    def list_all(self, assets: Sequence[Asset]) -> dict[str, Outcome]:
        """Return, by record id, the files of each asset or why they were not found."""
        outcomes: dict[str, Outcome] = {asset.record_id: self._refusal(asset) for asset in assets}
        if self.wanted is None:
            return outcomes
        with progress_of("listing files", "assets", len(assets)) as shown:
            left = [one for one in assets if outcomes[one.record_id] is None]
            outcomes |= {one.record_id: _listed_files(one, self.wanted) for one in left if one.files is not None}
            if left := [one for one in left if one.files is None]:
                run(self._list(left, self.wanted, outcomes, shown))
        return outcomes

    async def _list(
        self, assets: Sequence[Asset], wanted: Wanted, outcomes: dict[str, Outcome], shown: Progress
    ) -> None:
        async def find(asset: Asset, place: Place) -> None:
            try:
                found = await place.find_files(asset.location, wanted)
                outcomes[asset.record_id] = tuple(sorted(found, key=lambda file: _order(asset, file, wanted)))
            except BaseException as error:
                outcomes[asset.record_id] = failures.explained(error)
            shown.advance()

        self._s3 = None  # it belongs to an event loop
        async with _side_by_side(self._max_concurrency) as start:
            for asset in assets:
                await start(find(asset, self._place(asset.location)))

    def _refusal(self, asset: Asset) -> RequestError | None:
        try:
            check_asset(asset, self._may_be_local)
        except RequestError as error:
            return error
        return None

    def _place(self, location: str) -> Place:
        """Return what lists a location; boto3 is loaded only where one is in S3."""
        if location.startswith("file:"):
            from job_dispatch.storage import local_files

            return local_files
        if self._s3 is None:
            from job_dispatch.storage.s3 import S3

            self._s3 = S3(self._max_concurrency)
        return self._s3

    def look_at(self, assets: Sequence[Asset]) -> Occurring:
        """Return what files there are in a few of the assets, spread over all; never an error."""
        seen = Occurring()

        async def look() -> None:
            self._s3 = None  # it belongs to an event loop
            async with _side_by_side(_LOOKED_AT) as start:
                for asset in assets[:: -(-len(assets) // _LOOKED_AT) or 1]:
                    if self._refusal(asset) is None and asset.files is None:
                        await start(seen.look(asset, self._place(asset.location).find_files))

        with contextlib.suppress(DispatchError):
            run(look())
        return seen

    def measure(self, located: Sequence[LocatedAsset]) -> list[LocatedAsset]:
        """Return the same assets with the size of each store, or of the whole asset where nothing was listed.

        All objects of a store are listed for it; a size that cannot be found out stays None.
        """
        unknown = [address for one in located for address in _without_size(one)]
        if not unknown:
            return list(located)
        what = "store" if self.wanted else "asset"
        logger.info("--balance=size: listing all objects of %s for their sizes", counted(len(unknown), what))
        started = time.monotonic()
        with progress_of("measuring", f"{what}s", len(unknown)) as shown:
            sizes = run(self._sizes(unknown, shown))
        logger.info("measured %s in %.1f s", counted(len(unknown), what), time.monotonic() - started)
        return [_with_sizes(one, sizes) for one in located]

    async def _sizes(self, addresses: Iterable[str], shown: Progress) -> dict[str, int]:
        sizes: dict[str, int] = {}
        failed: list[str] = []

        async def measure(address: str, place: Place) -> None:
            try:
                sizes[address] = await place.measure(address)
            except BaseException as error:
                failed.append(f"{address}: {failures.explained(error).headline}")
            shown.advance()

        self._s3 = None  # it belongs to an event loop
        async with _side_by_side(self._max_concurrency) as start:
            for address in dict.fromkeys(addresses):
                await start(measure(address, self._place(address)))
        if failed:
            warn_listing(f"{counted(len(failed), 'size')} could not be found out:", failed)
        return sizes


def _judged(
    listing: _Listing,
    assets: Sequence[Asset],
    outcomes: Mapping[str, Outcome],
    may_lack_files: Collection[str],
    require_files: bool,
    skip_errors: bool,
) -> tuple[list[LocatedAsset], list[Skipped]]:
    """Return the assets with their files, in order, and those without; `may_lack_files` need no match."""
    located: list[LocatedAsset] = []
    without_match: list[Asset] = []
    incomplete: list[Skipped] = []
    failed: list[tuple[Asset, DispatchError]] = []
    for asset in assets:
        outcome = outcomes[asset.record_id]
        if isinstance(outcome, DispatchError):
            failed.append((asset, outcome))
        elif outcome == () and asset.record_id not in may_lack_files:
            without_match.append(asset)
        elif require_files and (lacking := _lacking(asset, outcome, listing.wanted)):
            incomplete.append(Skipped.asset(Reason.NO_REQUIRED_FILE, asset, f"without a file for {lacking}"))
        else:
            located.append(LocatedAsset(asset, outcome))
    skipped = [Skipped.asset(Reason.NO_FILE, asset) for asset in without_match]
    skipped += incomplete
    skipped += [Skipped.asset(Reason.NOT_READABLE, asset, error.headline) for asset, error in failed]
    with carrying(skipped):
        _report_without_match(listing, without_match, is_all=len(without_match) == len(assets))
        _report_incomplete(incomplete, is_all=len(incomplete) + len(without_match) == len(assets))
        if failed:
            headline = f"{len(failed):,} of {counted(len(assets), 'asset')} could not be read"
            details = [f"{asset.name}: {error.headline}" for asset, error in failed]
            skip_or_refuse(headline, details, skip_errors, bool(located), [error for _, error in failed])
    return located, skipped


def _lacking(asset: Asset, files: tuple[File, ...] | None, wanted: Wanted | None) -> str:
    """Return the ways for which an asset that must have a file for each has none."""
    if wanted is None or files is None:
        return ""
    met = {number for file in files for number in wanted.ways_of(path_within(asset, file))}
    return ", ".join(way for number, way in enumerate(wanted.ways) if number not in met)


def _report_without_match(listing: _Listing, assets: Sequence[Asset], is_all: bool) -> None:
    if not assets or listing.wanted is None:
        return
    sought, details = listing.wanted.sought, [str(asset) for asset in assets]
    if is_all:
        seen = listing.look_at(assets)
        raise RequestError(
            f"{listing.wanted.flag}: no asset has a file {sought}", [*seen.lines(listing.wanted), *details]
        )
    warn_listing(f"{counted(len(assets), 'asset')} without a file {sought}; skipped:", details)


def _may_lack_files(partners: Mapping[str, Sequence[str]], with_files: set[str]) -> set[str]:
    """Return the assets, by `_id`, that need no matching file since another one of their pair has some."""
    pairs = [(derived, *raws) for derived, raws in partners.items()]
    return {member for pair in pairs if not with_files.isdisjoint(pair) for member in pair}


def _whole_pairs(
    groups: Sequence[Group], partners: Mapping[str, Sequence[str]], located: frozenset[str]
) -> tuple[list[Group], list[Asset]]:
    """Return the groups without pairs of which one asset could not be located, and what is left of those pairs."""
    kept = {one: raws for one, raws in partners.items() if located.issuperset((one, *raws))}
    members = {member for one, raws in kept.items() for member in (one, *raws)}
    torn = {asset for group in groups for asset in group.assets if asset.record_id in located.difference(members)}
    found = []
    for group in groups:
        raws = {raw for asset in group.assets for raw in kept.get(asset.record_id, ())}
        assets = tuple(one for one in group.assets if one.record_id in kept or one.record_id in raws)
        if assets:
            found.append(replace(group, assets=assets))
    return found, sorted(torn, key=lambda asset: asset.name)


@asynccontextmanager
async def _side_by_side(at_most: int) -> AsyncIterator[Callable[[Coroutine[None, None, None]], Awaitable[None]]]:
    """Run what is started side by side, at most so many at once; the first unexpected error ends all."""
    free = asyncio.Semaphore(at_most)

    async def run(work: Coroutine[None, None, None]) -> None:
        try:
            await work
        finally:
            free.release()

    async def start(work: Coroutine[None, None, None]) -> None:
        await free.acquire()
        tasks.create_task(run(work))

    async with tasks_side_by_side() as tasks:
        yield start


def _without_size(one: LocatedAsset) -> list[str]:
    if one.files is None:
        return [one.asset.location]
    return [file.address for file in one.files if file.size is None]


def _with_sizes(one: LocatedAsset, sizes: dict[str, int]) -> LocatedAsset:
    if one.files is None:
        return replace(one, size=sizes.get(one.asset.location))
    files = (file._replace(size=sizes.get(file.address)) if file.size is None else file for file in one.files)
    return replace(one, files=tuple(files))


def path_within(asset: Asset, file: File) -> str:
    """Return the path of a file within its asset; its name where it is the asset itself."""
    if file.path:
        return file.path
    within = file.address.removeprefix(f"{asset.location}/")
    return within if within != file.address else file.address.rpartition("/")[2]


def _listed_files(asset: Asset, wanted: Wanted) -> tuple[File, ...]:
    """Return the matches among the files that a record lists; what is inside a store counts as the store."""
    found: dict[str, File] = {}
    for file in asset.files or ():
        parts = file.path.split("/")
        folders = itertools.accumulate(parts[:-1], "{}/{}".format)
        store = next((folder for folder in folders if wanted.is_store(folder)), None)
        if store is None:
            if wanted.matches(file.path):
                found[file.path] = file
            continue
        inside = file.path[len(store) :]
        if wanted.matches(store) and file.address.endswith(inside):
            found[store] = File(file.address.removesuffix(inside), None, path=store)
    return tuple(sorted(found.values(), key=lambda file: _order(asset, file, wanted)))


def _order(asset: Asset, file: File, wanted: Wanted) -> tuple[int, str]:
    """Return what orders the files of a job: the patterns, if any, then the path."""
    return (min(wanted.ways_of(path_within(asset, file)), default=0) if wanted.orders else 0), file.address


def _report_incomplete(incomplete: Sequence[Skipped], is_all: bool) -> None:
    if not incomplete:
        return
    details = [f"{one.name} ({one.location or 'no location'}): {one.detail}" for one in incomplete]
    if is_all:
        raise RequestError("--require_files=1: no asset has every file that is required", details)
    warn_listing(f"{counted(len(incomplete), 'asset')} without a required file; skipped:", details)


def check_asset(asset: Asset, may_be_local: bool) -> None:
    """Refuse an asset whose files cannot be looked for, or whose job could not be written.

    Raises
    ------
    RequestError
        No location, no prefix (a whole bucket), `..` in it, neither `s3://` nor, where that is allowed,
        `file://`, or text that is no Unicode.
    """
    scheme, _, path = asset.location.partition("://")
    bucket, _, prefix = path.partition("/")
    text = f"{asset.name}{asset.location}{asset.record_id}{asset.asset_id}"
    if not (text.isascii() or is_unicode(text)):
        raise RequestError(f"its record {asset.record_id!a} holds text with a lone surrogate")
    if not asset.location:
        raise RequestError("its record has no location")
    if scheme not in ("s3", "file") or not path or (scheme == "file" and not path.startswith("/")):
        raise RequestError(f"its location is not s3://bucket/prefix: {asset.location}")
    if scheme == "file" and not may_be_local:
        raise RequestError(f"its location is a local path, which only a catalog may name: {asset.location}")
    if scheme == "s3" and not (bucket and prefix.strip("/")):
        raise RequestError(f"its location is a whole bucket; it must be s3://bucket/prefix: {asset.location}")
    if scheme == "s3" and not values.BUCKET_NAME.fullmatch(bucket):
        raise RequestError(f"its location has no bucket name that S3 allows: {asset.location}")
    if ".." in path.split("/"):
        raise RequestError(f"its location holds '..': {asset.location}")

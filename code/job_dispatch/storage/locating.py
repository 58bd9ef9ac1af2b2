"""Which files the assets have, and how large they are."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from job_dispatch import failures
from job_dispatch.left_out import LeftOut
from job_dispatch.messages import (
    DispatchError,
    Progress,
    RequestError,
    ServiceError,
    counted,
    logger,
    progress,
    warn_listing,
)
from job_dispatch.model import Asset, File, LocatedAsset
from job_dispatch.request.json_text import is_unicode
from job_dispatch.storage.keys import THREADS
from job_dispatch.storage.matching import Matching, Wanted
from job_dispatch.storage.occurring import Occurring

_LOOKED_AT = 5
# Old buckets may have upper case and up to 255 characters.
_BUCKET_NAME = re.compile(r"[A-Za-z0-9._-]{1,255}")

Result = TypeVar("Result")
Outcome = tuple[File, ...] | DispatchError | None


class _Threads(ThreadPoolExecutor):
    """Threads that nobody waits for: what ends a run is told at once, though one waits for an answer."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait=False, cancel_futures=True)


def use_threads(loop: asyncio.AbstractEventLoop) -> None:
    """Make blocking calls of an event loop in threads that do not hold up its end."""
    loop.set_default_executor(_Threads(THREADS))


def run(work: Coroutine[None, None, Result]) -> Result:
    """Run a coroutine to its end; blocking calls that it makes in threads do not hold up its end."""

    async def with_threads() -> Result:
        use_threads(asyncio.get_running_loop())
        return await work

    return asyncio.run(with_threads())


class Place(Protocol):
    """Where files are: S3, or local folders."""

    async def find_files(self, location: str, matching: Matching) -> list[File]:
        """Return the matches at a location, by path."""
        ...

    async def measure(self, location: str) -> int:
        """Return the bytes of all that lies at a location."""
        ...


@dataclass(frozen=True)
class Located:
    """What became of the selected assets."""

    assets: list[LocatedAsset]
    without_match: list[Asset]
    failed: list[tuple[Asset, DispatchError]]


class Locating:
    """Lists assets: many at once, in S3 and in local folders.

    Parameters
    ----------
    wanted : Wanted or None
        Which files are wanted; None: nothing is listed.
    may_be_local : bool
        Whether a location may name a local folder.
    max_concurrency : int
        At most this many requests, and assets, at once.
    each_way : bool
        Whether an asset must have a match for each way in which files were asked for.
    """

    def __init__(self, wanted: Wanted | None, may_be_local: bool, max_concurrency: int, each_way: bool = False) -> None:
        self._wanted = wanted
        self._each_way = each_way
        self._may_be_local = may_be_local
        self._max_concurrency = max_concurrency
        self._s3: Place | None = None
        self._opening = threading.Lock()

    def list_all(self, assets: Sequence[Asset]) -> dict[str, Outcome]:
        """Return, by record id, the files of each asset or why they were not found."""

        async def at_once() -> AsyncIterator[Sequence[Asset]]:
            yield assets

        with progress("listing files", "assets", len(assets)) as shown:
            return run(self.list_batches(at_once(), shown))

    async def list_batches(self, batches: AsyncIterator[Sequence[Asset]], shown: Progress) -> dict[str, Outcome]:
        """Return the same as `list_all` for assets that come in batches; each is listed once."""
        outcomes: dict[str, Outcome] = {}

        async def find(asset: Asset, place: Place, wanted: Wanted) -> None:
            try:
                found = await place.find_files(asset.location, wanted)
                outcomes[asset.record_id] = tuple(sorted(found, key=lambda file: _order(asset, file, wanted)))
            except BaseException as error:
                outcomes[asset.record_id] = failures.explained(error)
            shown.advance()

        async with _side_by_side(self._max_concurrency) as start:
            async for batch in batches:
                for asset in batch:
                    if asset.record_id in outcomes:
                        continue
                    outcomes[asset.record_id] = refusal = self._refusal(asset)
                    if refusal is None and self._wanted is not None:
                        await start(find(asset, self._place(asset.location), self._wanted))
        return outcomes

    def _refusal(self, asset: Asset) -> RequestError | None:
        try:
            check_asset(asset, self._may_be_local)
        except RequestError as error:
            return error
        return None

    def _place(self, location: str) -> Place:
        """Return what lists a location; boto3 is loaded only where one is in S3."""
        scheme = location.partition("://")[0]
        if scheme == "file":
            from job_dispatch.storage import local_files

            return local_files
        return self.open_s3()

    def open_s3(self) -> Place:
        """Return what lists S3, made at the first call.

        Raises
        ------
        RequestError
            AWS is configured in a way that cannot be used.
        """
        with self._opening:
            if self._s3 is None:
                from job_dispatch.storage.s3 import S3

                self._s3 = S3(self._max_concurrency)
            return self._s3

    def report(
        self,
        assets: Sequence[Asset],
        outcomes: dict[str, Outcome],
        skip_errors: bool,
        left_out: LeftOut,
        may_lack_files: Collection[str] = (),
    ) -> Located:
        """Return the assets with their files, in order; name those without a match and those that failed.

        Both are added to `left_out`. Those of the record ids in `may_lack_files` need no match.

        Raises
        ------
        RequestError
            Locations are missing or refused and `skip_errors` is false, or no asset is left.
        ServiceError
            The storage failed for some asset, under the same conditions.
        """
        located: list[LocatedAsset] = []
        without_match: list[Asset] = []
        failed: list[tuple[Asset, DispatchError]] = []
        incomplete: list[tuple[Asset, str]] = []
        for asset in assets:
            outcome = outcomes[asset.record_id]
            if isinstance(outcome, DispatchError):
                failed.append((asset, outcome))
            elif outcome == () and asset.record_id not in may_lack_files:
                without_match.append(asset)
            elif lacking := self._lacking(asset, outcome):
                incomplete.append((asset, lacking))
            else:
                located.append(LocatedAsset(asset, outcome))
        left_out.add("without a matching file", *without_match)
        for asset, lacking in incomplete:
            left_out.add("without a required file", asset, reason=f"without a file for {lacking}")
        for asset, error in failed:
            left_out.add("not readable", asset, reason=error.headline)
        self._report_without_match(without_match, is_all=len(without_match) == len(assets))
        _report_incomplete(incomplete, is_all=len(incomplete) + len(without_match) == len(assets))
        _report_failures(failed, len(assets), bool(located), skip_errors)
        return Located(located, without_match, failed)

    def _lacking(self, asset: Asset, files: tuple[File, ...] | None) -> str:
        """Return the ways for which an asset that must have a file for each has none."""
        if not self._each_way or self._wanted is None or files is None:
            return ""
        met = {number for file in files for number in self._wanted.ways_of(path_within(asset, file))}
        return ", ".join(way for number, way in enumerate(self._wanted.ways) if number not in met)

    def _report_without_match(self, assets: Sequence[Asset], is_all: bool) -> None:
        if not assets or self._wanted is None:
            return
        sought, details = self._wanted.sought, [str(asset) for asset in assets]
        if is_all:
            seen = self.look_at(assets)
            raise RequestError(
                f"{self._wanted.flag}: no asset has a file {sought}", [*seen.lines(self._wanted), *details]
            )
        warn_listing(f"{counted(len(assets), 'asset')} without a file {sought}; skipped:", details)

    def look_at(self, assets: Sequence[Asset]) -> Occurring:
        """Return what files there are in a few of the assets, spread over all; never an error."""
        seen = Occurring()

        async def look() -> None:
            self._s3 = None  # it belongs to the event loop that listed
            async with _side_by_side(_LOOKED_AT) as start:
                for asset in assets[:: -(-len(assets) // _LOOKED_AT) or 1]:
                    if self._refusal(asset) is None:
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
        what = "store" if self._wanted else "asset"
        logger.info("--balance=size: listing all objects of %s for their sizes", counted(len(unknown), what))
        started = time.monotonic()
        with progress("measuring", f"{what}s", len(unknown)) as shown:
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

        self._s3 = None  # it belongs to the event loop that listed
        async with _side_by_side(self._max_concurrency) as start:
            for address in dict.fromkeys(addresses):
                await start(measure(address, self._place(address)))
        if failed:
            warn_listing(f"{counted(len(failed), 'size')} could not be found out:", failed)
        return sizes


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

    try:
        async with asyncio.TaskGroup() as tasks:
            yield start
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


def _without_size(one: LocatedAsset) -> list[str]:
    if one.files is None:
        return [one.asset.location]
    return [file.address for file in one.files if file.size is None]


def _with_sizes(one: LocatedAsset, sizes: dict[str, int]) -> LocatedAsset:
    if one.files is None:
        return replace(one, size=sizes.get(one.asset.location))
    files = (File(file.address, sizes.get(file.address) if file.size is None else file.size) for file in one.files)
    return replace(one, files=tuple(files))


def path_within(asset: Asset, file: File) -> str:
    """Return the path of a file within its asset; its name where it is the asset itself."""
    within = file.address.removeprefix(f"{asset.location}/")
    return within if within != file.address else file.address.rpartition("/")[2]


def _order(asset: Asset, file: File, wanted: Wanted) -> tuple[int, str]:
    """Return what orders the files of a job: the patterns, if any, then the path."""
    return (min(wanted.ways_of(path_within(asset, file)), default=0) if wanted.orders else 0), file.address


def _report_incomplete(incomplete: Sequence[tuple[Asset, str]], is_all: bool) -> None:
    if not incomplete:
        return
    details = [f"{asset}: without a file for {lacking}" for asset, lacking in incomplete]
    if is_all:
        raise RequestError("--require_files=1: no asset has every file that is required", details)
    warn_listing(f"{counted(len(incomplete), 'asset')} without a required file; skipped:", details)


def _report_failures(
    failures: Sequence[tuple[Asset, DispatchError]], selected: int, is_any_left: bool, skip_errors: bool
) -> None:
    if not failures:
        return
    headline = f"{len(failures):,} of {counted(selected, 'asset')} could not be read"
    details = [f"{asset.name}: {error.headline}" for asset, error in failures]
    if skip_errors and is_any_left:
        warn_listing(f"{headline}; skipped:", details)
        return
    remedy = "no job is written" + " (--skip_errors=1 goes on without them)" * is_any_left
    only_requests = all(isinstance(error, RequestError) for _, error in failures)
    raise (RequestError if only_requests else ServiceError)(f"{headline}; {remedy}", details)


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
    if scheme == "s3" and not _BUCKET_NAME.fullmatch(bucket):
        raise RequestError(f"its location has no bucket name that S3 allows: {asset.location}")
    if ".." in path.split("/"):
        raise RequestError(f"its location holds '..': {asset.location}")

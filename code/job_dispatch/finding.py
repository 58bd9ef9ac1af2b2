"""The two questions to the outside world: which assets are selected, and which files do they have."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from job_dispatch.cohort import pairs, sampling
from job_dispatch.cohort.quality_control import Wanted
from job_dispatch.cohort.selecting import Selected, select_assets
from job_dispatch.left_out import LeftOut
from job_dispatch.messages import DispatchError, progress
from job_dispatch.metadata.records import TRAIT_FIELDS, MetadataSource
from job_dispatch.model import Asset
from job_dispatch.request.flags import Settings
from job_dispatch.request.selection import Selection, file_places
from job_dispatch.storage import matching
from job_dispatch.storage.locating import Located, Locating, Outcome, run

if TYPE_CHECKING:
    from job_dispatch.cohort.describing import Cohort


def open_metadata(settings: Settings) -> MetadataSource:
    """Return the source of records that the settings name: the local catalog, or else DocDB."""
    if settings.metadata_catalog is not None:
        from job_dispatch.metadata.catalog import Catalog

        places = file_places(str(settings.metadata_catalog), settings.input_directory)
        return Catalog(next((path for path in places if path.is_file()), settings.metadata_catalog))
    from job_dispatch.metadata.docdb import DocDb, DocDbAddress

    address = DocDbAddress(
        settings.docdb_host, settings.docdb_version, settings.docdb_database, settings.docdb_collection
    )
    return DocDb(address, settings.docdb_timeout)


def find_assets(
    metadata: MetadataSource, selection: Selection, settings: Settings, left_out: LeftOut
) -> tuple[Selected, Located]:
    """Return what is selected, and which files it has.

    What is not among them is added to `left_out`. Where the assets of a page of records are final, they are
    listed while the next page is read.

    Raises
    ------
    RequestError
        Nothing is selected or nothing is left, or something is missing and `skip_errors` is false.
    ServiceError
        DocDB or the storage failed.
    """
    locating = _locating(metadata, settings)
    is_final = not (
        settings.grouping.fields or settings.max_number_of_tasks_dispatched or settings.sample or settings.with_raw
    )
    if settings.wants_files and is_final:
        selected, outcomes = run(_select_and_list(metadata, selection, settings, left_out, locating))
    else:
        with progress("reading metadata", "records") as shown:
            selected = _select(metadata, selection, settings, left_out, lambda page: shown.advance(len(page)))
        outcomes = locating.list_all(selected.assets)
    optional = pairs.may_lack_files(
        selected.partners, {one for one, outcome in outcomes.items() if _has_files(outcome)}
    )
    located = locating.report(selected.assets, outcomes, settings.skip_errors, left_out, optional)
    if selected.partners:
        there = frozenset(one.asset.record_id for one in located.assets)
        selected = replace(selected, groups=pairs.whole(selected.groups, selected.partners, there, left_out))
    if settings.balance == "size":
        # Each asset makes a job at least, so what a limit leaves off need not be measured.
        at_most = None if settings.group_by else settings.max_number_of_tasks_dispatched
        measured = locating.measure(located.assets[:at_most])
        located = replace(located, assets=measured + located.assets[len(measured) :])
    return selected, located


def describe(metadata: MetadataSource, selection: Selection, settings: Settings) -> Cohort:
    """Return what there is to select; where files are asked for, with what files a few of the assets have.

    Raises
    ------
    RequestError
        There is nothing.
    ServiceError
        The source of records fails.
    """
    from job_dispatch.cohort import describing

    cohort = describing.describe(metadata, selection, Wanted(settings.qc or "", settings.modality))
    if settings.wants_files:
        cohort.endings = _locating(metadata, settings).look_at(cohort.examples).endings()
    return cohort


def _locating(metadata: MetadataSource, settings: Settings) -> Locating:
    wanted = matching.wanted(settings.file_extension, settings.file_pattern) if settings.wants_files else None
    return Locating(wanted, metadata.may_name_local_files, settings.max_concurrency, each_way=settings.require_files)


def _has_files(outcome: Outcome) -> bool:
    return isinstance(outcome, tuple) and outcome != ()


def _select(
    metadata: MetadataSource,
    selection: Selection,
    settings: Settings,
    left_out: LeftOut,
    tell: Callable[[Sequence[Asset]], None],
) -> Selected:
    more_fields = TRAIT_FIELDS if settings.is_described else ()
    quality = Wanted(settings.qc, settings.modality) if settings.qc else None
    selected = select_assets(
        metadata,
        selection,
        settings.grouping,
        settings.skip_errors,
        left_out,
        tell,
        more_fields,
        quality,
        settings.with_raw,
    )
    return sampling.sample(selected, settings.sample, left_out) if settings.sample else selected


async def _select_and_list(
    metadata: MetadataSource, selection: Selection, settings: Settings, left_out: LeftOut, locating: Locating
) -> tuple[Selected, dict[str, Outcome]]:
    pages: asyncio.Queue[Sequence[Asset] | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def select() -> Selected:
        """Read the records in a thread of their own: the client of DocDB waits for its answers."""
        try:
            return _select(metadata, selection, settings, left_out, tell)
        finally:
            tell(None)

    def tell(page: Sequence[Asset] | None) -> None:
        loop.call_soon_threadsafe(pages.put_nowait, page)

    def prepare() -> None:
        with contextlib.suppress(DispatchError):  # raised when an asset is listed
            locating.open_s3()

    async def batches() -> AsyncIterator[Sequence[Asset]]:
        while (page := await pages.get()) is not None:
            yield page
        await selecting  # raises what ended it

    selecting = asyncio.create_task(asyncio.to_thread(select))
    selecting.add_done_callback(lambda task: task.cancelled() or task.exception())  # told only if awaited below
    if metadata.is_database:
        # boto3 takes a tenth of a second to load, in which DocDB answers.
        loop.run_in_executor(None, prepare)
    with progress("listing files", "assets") as shown:
        outcomes = await locating.list_batches(batches(), shown)
    return await selecting, outcomes

"""Where records come from: a catalog, a folder or a bucket, or else DocDB."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from job_dispatch.cohort.places import Naming, open_place, place_of
from job_dispatch.messages import RequestError
from job_dispatch.metadata.catalog import Catalog
from job_dispatch.metadata.names import NamePattern
from job_dispatch.metadata.records import MetadataSource
from job_dispatch.request.flags import Settings
from job_dispatch.request.selection import file_places


@dataclass(frozen=True)
class Folder:
    """A folder or a bucket of assets: each direct child is one, or each match of a pattern.

    Their metadata come from the files in them, and from their names.

    Parameters
    ----------
    place : str or path
        `/lab`, `/lab/sub-*/ses-*`, `s3://bucket/prefix/` or `s3://bucket/prefix/sub-*/*.nwb`.
    endings : sequence of str
        Endings of files that are assets, besides stores.
    name_pattern : str, optional
        A lab's own way of naming, such as `{session:%Y-%m-%d}_{subject}_{run}`.
    max_concurrency : int
        Largest number of requests in flight.

    Examples
    --------
    >>> import job_dispatch as jd
    >>> cohort = jd.select(jd.Folder("assets/behavior_*"), subject="774659")
    >>> {asset.subject for asset in cohort.assets}
    {'774659'}
    """

    place: str | os.PathLike[str]
    endings: Sequence[str] = ()
    name_pattern: str | None = None
    max_concurrency: int = 64

    def open(self, skip_errors: bool = False) -> Catalog:
        """Return the records of its assets, which are read now."""
        text = os.path.expanduser(os.fspath(self.place))  # noqa: PTH111 - it may be an address
        pattern = NamePattern(self.name_pattern) if self.name_pattern else None
        place = place_of(text, [Path(text)], tuple(self.endings))
        if place is None:
            raise RequestError(f"{text}: no folder of assets; a file of records is a Catalog")
        return open_place(place, Naming(tuple(self.endings), pattern), self.max_concurrency, skip_errors)


def open_source(settings: Settings) -> MetadataSource:
    """Return the source of records that the settings name, to be closed.

    Raises
    ------
    RequestError
        A catalog cannot be read, or a place holds no assets.
    ServiceError
        A place cannot be read.
    """
    if settings.metadata_catalog is None:
        from job_dispatch.metadata.docdb import DocDb

        return DocDb(
            settings.docdb_host,
            settings.docdb_version,
            settings.docdb_database,
            settings.docdb_collection,
            settings.docdb_timeout,
        ).open()
    text = settings.metadata_catalog.removeprefix("file://")
    local = file_places(text, settings.input_directory)
    pattern = NamePattern(settings.name_pattern) if settings.name_pattern else None
    place = place_of(text, local, settings.file_extension)
    if place is None:
        return Catalog(next((path for path in local if path.is_file()), text))
    return open_place(place, Naming(settings.file_extension, pattern), settings.max_concurrency, settings.skip_errors)

"""Where records come from: a catalog, a folder or a bucket, or else DocDB."""

from __future__ import annotations

from job_dispatch.metadata.records import MetadataSource
from job_dispatch.request.flags import Settings
from job_dispatch.request.selection import file_places


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
        from job_dispatch.metadata.docdb import DocDb, DocDbAddress

        address = DocDbAddress(
            settings.docdb_host, settings.docdb_version, settings.docdb_database, settings.docdb_collection
        )
        return DocDb(address, settings.docdb_timeout)
    from job_dispatch.cohort.places import Naming, open_place, place_of
    from job_dispatch.metadata.catalog import Catalog
    from job_dispatch.metadata.names import NamePattern

    text = settings.metadata_catalog.removeprefix("file://")
    local = file_places(text, settings.input_directory)
    pattern = NamePattern(settings.name_pattern) if settings.name_pattern else None
    place = place_of(text, local, settings.file_extension)
    if place is None:
        return Catalog(next((path for path in local if path.is_file()), text))
    return open_place(place, Naming(settings.file_extension, pattern), settings.max_concurrency, settings.skip_errors)

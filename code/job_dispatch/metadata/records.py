"""Metadata records, and the assets that they describe."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Annotated, Any, Protocol, Self

import msgspec

from job_dispatch.messages import Progress, RequestError
from job_dispatch.model import Asset, File, Skipped
from job_dispatch.request import fields
from job_dispatch.request.fields import DAY, LONG_AGO, Query, instant

Record = Mapping[str, Any]
Filter = fields.Filter
# An asset, and the record that describes it.
Found = tuple[Asset, Record]

# Where records keep their Code Ocean ids: API version v1 and v2.
ID_FIELDS = ("external_links", "other_identifiers")
_ID_KEY = "Code Ocean"
LEVEL = "data_description.data_level"
# All files of an asset, in a catalog: then nothing is listed. A database is not trusted with it.
FILES_FIELD = "files"
ASSET_FIELDS = ("name", "location", FILES_FIELD, *ID_FIELDS)
# What describes an asset; its day is that of the session, or else of the record.
TRAIT_FIELDS = ("@project", "@subject", "@session", "@modality", "created")


class MetadataSource(Protocol):
    """Where records come from: DocDB or a catalog.

    With `may_name_local_files`, `file://` locations are allowed; those from a public database are not. Where a database
    evaluates the queries, `is_database`, several small queries are better than one large one, and ids need not be text;
    elsewhere each query reads all records. `skipped` are assets without a record, since their metadata cannot be read.
    """

    may_name_local_files: bool
    is_database: bool
    skipped: Sequence[Skipped]

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def find(self, query: Query, fields: Sequence[str] | None) -> Iterator[list[Record]]:
        """Yield pages of the records that match, with at least `_id` and `fields`; None: whole records.

        RequestError if the source cannot evaluate the query; ServiceError if it does not answer.
        """
        ...

    def count(self, query: Query, within: float) -> int:
        """Return how many records match; give up after `within` seconds. Raises as `find` does."""
        ...

    def sample(self, query: Query, size: int, within: float) -> list[Record]:
        """Return at most `size` whole records that match, by descending `_id`. Raises as `find` does."""
        ...


class Source(Protocol):
    """A place of records that can be opened again and again: `DocDb`, `Catalog` or `Folder`."""

    def open(self, skip_errors: bool = False) -> AbstractContextManager[MetadataSource]:
        """Return its records, to be closed; with `skip_errors` without those that cannot be read."""
        ...


def read(
    source: MetadataSource, query: Query, fields: Sequence[str] | None, shown: Progress | None = None
) -> Iterator[Record]:
    """Yield the records that match one by one; raises as `MetadataSource.find` does."""
    for page in source.find(query, fields):
        if shown is not None:
            shown.advance(len(page))
        yield from page


def batches(source: MetadataSource, values: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """Yield the values in batches for as many queries; all at once where each query reads all records."""
    step = size if source.is_database else max(len(values), 1)
    return (values[start : start + step] for start in range(0, len(values), step))


# Values of a record


def value_at(value: object, path: str) -> Any:
    """Return the value at a dotted path in a record, None if there is none.

    A path goes through lists as in MongoDB: below a list of objects it gives the list of their values. A part
    that is a number is an index.
    """
    part, _, rest = path.partition(".")
    if isinstance(value, dict):
        found = value.get(part)
    elif isinstance(value, list) and part.isdecimal():
        found = value[int(part)] if int(part) < len(value) else None
    elif isinstance(value, list):
        below = [value_at(element, path) for element in value]
        return [element for element in below if element is not None] or None
    else:
        return None
    return value_at(found, rest) if rest else found


def values_in(record: Record, parent: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path and the value of all that a query can name; paths go through lists without an index.

    A key with a dot in it, and what is below it, cannot be reached by a path.
    """
    for key, value in record.items():
        path = f"{parent}.{key}" if parent else key
        if not key or key.startswith("$") or "." in key or "|" in key or path.startswith("@"):
            continue
        for one in value if isinstance(value, list) and value else [value]:
            yield path, one
            if isinstance(one, dict):
                yield from values_in(one, path)


def value_of(record: Record, name: str) -> Any:
    """Return the value of a field: the first one there among the paths of its name.

    `@modality` is a sorted list, and `@raw` with one name only is that name, so that both versions agree.
    """
    value = next((found for path in fields.paths(name) if (found := _with_day(record, path)) is not None), None)
    if name == "@raw" and isinstance(value, list) and len(value) == 1:
        return value[0]
    if name in fields.SPREAD and value is not None:
        modalities = value if isinstance(value, list) else [value]
        return sorted({one for one in modalities if isinstance(one, str)})
    return value


def _with_day(record: Record, path: str) -> Any:
    """Return the value at a path; a time of day only together with its day, from another field."""
    value = value_at(record, path)
    if path not in fields.DAY_OF or not isinstance(value, str) or not fields.TIME_OF_DAY.fullmatch(value):
        return value
    day = value_at(record, fields.DAY_OF[path])
    return f"{day}T{value}" if isinstance(day, str) else None


def text_of(value: object) -> str:
    """Return a value if it is text, else nothing."""
    return value if isinstance(value, str) else ""


def level_of(record: Record) -> str:
    """Return `raw`, `derived`, or whatever else a record has as its level; old ones have `raw data`, `derived data`."""
    return level_in(value_at(record, LEVEL))


def level_in(value: object) -> str:
    """Return the level that a value of the field names, as `level_of`."""
    text = text_of(value)
    return next((level for level in ("raw", "derived") if level in text), text)


def projection(names: Iterable[str]) -> list[str]:
    """Return what to project for these fields: MongoDB refuses a path together with one below it."""
    named = [path for name in names for path in fields.paths(name)]
    named += [fields.DAY_OF[path] for path in named if path in fields.DAY_OF]
    # `$project` finds nothing at an index, so each path ends before one.
    parts = (itertools.takewhile(lambda part: not part.isdecimal(), path.split(".")) for path in named)
    # _id is always there.
    wanted = dict.fromkeys(path for path in map(".".join, parts) if path and path.partition(".")[0] != "_id")
    return [path for path in wanted if not any(path.startswith(f"{other}.") for other in wanted)]


# The asset that a record describes


def asset_of(record: Record) -> Asset:
    """Return the asset that a record describes, with the first of its Code Ocean ids: a job's name depends on it."""
    location = text_of(record.get("location")).rstrip("/")
    project, subject, session = (text_of(value_of(record, field)) for field in ("@project", "@subject", "@session"))
    day = DAY.match(session) or DAY.match(text_of(record.get("created")))
    return Asset(
        record["_id"],
        text_of(record.get("name")) or location.rpartition("/")[2] or record["_id"],
        location,
        next(iter(code_ocean_ids(record)), ""),
        project,
        subject,
        day[0] if day else "",
        session=session,
        modality=tuple(value_of(record, "@modality") or ()),
        files=_files(record),
    )


def identity(asset: Asset) -> tuple[str, str]:
    """Return what all records of one asset share."""
    return (asset.name, asset.location) if asset.location else ("", asset.record_id)


def latest_of_asset(found: Found) -> tuple[bool, datetime, str]:
    """Return what orders records of one asset: whether it has a Code Ocean id, its `@created`, then its `_id`."""
    asset, record = found
    return bool(code_ocean_ids(record)), instant(value_of(record, "@created")) or LONG_AGO, asset.record_id


def known_as(found: Found) -> tuple[str, ...]:
    """Return all names and ids by which an asset can be excluded."""
    asset, record = found
    return asset.record_id, asset.name, *code_ocean_ids(record)


class _Listed(msgspec.Struct):
    path: str
    location: Annotated[str, msgspec.Meta(pattern="^(s3://|file:///)")]
    size: int | None = None
    version: str | None = None


def _files(record: Record) -> tuple[File, ...] | None:
    """Return the files that a record lists."""
    if record.get(FILES_FIELD) is None:
        return None
    try:
        listed = msgspec.convert(record[FILES_FIELD], list[_Listed])
    except msgspec.ValidationError as error:
        raise RequestError(f"record {record['_id']}: {FILES_FIELD}: {error}") from None
    return tuple(File(one.location, one.size, one.version or "", one.path.strip("/")) for one in listed)


def code_ocean_ids(record: Record) -> list[str]:
    """Return the Code Ocean ids of a record of either API version, v1 first.

    `external_links` and `other_identifiers` are `{"Code Ocean": [id, …]}`, in old records a list of
    `{"Code Ocean": id}`.
    """
    return [found for field in ID_FIELDS for found in _ids_in(record.get(field))]


def _ids_in(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for element in value:
            yield from _ids_in(element)
    elif isinstance(value, dict):
        yield from _ids_in(value.get(_ID_KEY))


def id_filter(asset_ids: Sequence[str]) -> Filter:
    """Return the filter for records with any of these Code Ocean ids, in both record shapes."""
    return {"$or": [{f"{field}.{_ID_KEY}": {"$in": list(asset_ids)}} for field in ID_FIELDS]}

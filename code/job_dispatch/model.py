"""What moves between the wings: assets, their files and groups, and what a step skips."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from job_dispatch import frames

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Asset:
    """One data asset; texts are empty where its record has no value.

    `location` is `s3://bucket/prefix` or `file:///folder`, without a trailing slash; `asset_id` that at Code Ocean.
    Project, subject, session and day are known if the record was read with `TRAIT_FIELDS`: `day` is `YYYY-MM-DD`,
    `session` the time of its start, and `modality` has sorted abbreviations. `role` is `derived` or `raw` in a pair.
    `files` are all its files, where its record lists them; None: they are listed where it lies.
    """

    record_id: str
    name: str
    location: str
    asset_id: str
    project: str = ""
    subject: str = ""
    day: str = ""
    role: str = ""
    files: tuple[File, ...] | None = field(default=None, compare=False, repr=False)
    session: str = ""
    modality: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} ({self.location or 'no location'})"


class File(NamedTuple):
    """A file or a store that matched; `size` is in bytes, where it is known.

    `version` changes when the file does: its ETag in S3, its time of modification (in ns) on a disk, for a store the
    newest of its folder and what is directly in it; empty for a store in S3. `path` is that within the asset, empty
    where the address tells it.
    """

    address: str
    size: int | None
    version: str = ""
    path: str = ""


class Folder(NamedTuple):
    """What lies directly in a folder: addresses of folders, without a trailing slash, and files; both by path."""

    folders: list[str]
    files: list[File]


@dataclass(frozen=True, slots=True)
class LocatedAsset:
    """An asset with its files by path, or None where no file extension was asked for.

    `size` is the bytes of the whole asset where that was measured.
    """

    asset: Asset
    files: tuple[File, ...] | None
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Assets that are analysed together: a single one, or those that share the values in `metadata`.

    `parameters` are those of their rows in a table; they go into the parameter set of each job, which wins.
    """

    assets: tuple[Asset, ...]
    metadata: Mapping[str, Any] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


class Reason(Enum):
    """Why an asset or a job is skipped; the value is how a summary counts it."""

    NO_RECORD = "without a record"
    NOT_IN_QUERY = "not selected by the query"
    DUPLICATE = "registered twice"
    QUALITY_CONTROL = "not passed by quality control"
    NO_VALUE = "without a value"
    NOT_LATEST = "not the latest"
    EXCLUDED = "excluded"
    RAW_OF_A_PAIR = "raw, taken with what was made from it"
    NO_RAW = "without its raw asset"
    NO_PARTNER = "without the other asset of its pair"
    NOT_IN_SAMPLE = "not in the sample"
    NO_FILE = "without a matching file"
    NO_REQUIRED_FILE = "without a required file"
    NOT_READABLE = "not readable"
    PROCESSED = "processed already"


@dataclass(frozen=True, slots=True)
class Skipped:
    """One thing that is not analysed, as far as it is known: a row of `skipped.csv`.

    Parameters
    ----------
    reason : Reason
    name, asset_id, record_id, location : str
        Those of the asset, each empty where it is unknown; of a job, those of its assets joined by `; `.
    detail : str
        The whole reason in words.
    job : str
        The name of a job that is not written although its assets are there, else empty.
    subject, day : str
        Those of the asset, as far as they are known.
    """

    reason: Reason
    name: str = ""
    asset_id: str = ""
    record_id: str = ""
    location: str = ""
    detail: str = ""
    job: str = ""
    subject: str = ""
    day: str = ""

    @classmethod
    def asset(cls, reason: Reason, asset: Asset, detail: str = "") -> Self:
        """Return that an asset is skipped."""
        known = (asset.name, asset.asset_id, asset.record_id, asset.location)
        return cls(reason, *known, detail or reason.value, subject=asset.subject, day=asset.day)

    @classmethod
    def of_job(cls, reason: Reason, job: str, assets: Iterable[Asset], detail: str = "") -> Self:
        """Return that a job is skipped; its assets may be analysed by others."""
        parts = ((one.name, one.asset_id, one.record_id, one.location) for one in assets)
        name, asset_id, record_id, location = map("; ".join, zip(*parts, strict=True))
        return cls(reason, name, asset_id, record_id, location, detail or reason.value, job)

    @classmethod
    def row(cls, column: str, value: str) -> Self:
        """Return that a row of a table is skipped, since no record is known that has its value in a column."""
        known = {"docdb_record_id": "record_id", "asset_id": "asset_id", "location": "location"}.get(column, "name")
        return cls(Reason.NO_RECORD, detail=Reason.NO_RECORD.value, **{known: value})

    @property
    def known_as(self) -> str:
        """Its name, or else what it was asked for by."""
        return self.name or self.asset_id or self.record_id or self.location


_ASSET_COLUMNS = ("name", "subject", "session", "project", "modality", "location", "asset_id", "record_id", "role")
_FILE_COLUMNS = ("asset_name", "file", "size")


class Skips(tuple[Skipped, ...]):
    """What a step skipped, in the order in which that was found out."""

    __slots__ = ()
    _COLUMNS = ("name", "asset_id", "record_id", "location", "reason", "detail", "job")

    def _rows(self) -> Iterator[dict[str, Any]]:
        for one in self:
            yield {**{name: getattr(one, name) for name in self._COLUMNS}, "reason": one.reason.value}

    def to_pandas(self) -> pd.DataFrame:
        """Return one row for each, with its reason."""
        return frames.frame(self._rows(), self._COLUMNS)

    def _repr_html_(self) -> str:
        return frames.html(f"{len(self):,} skipped", self._rows(), ("name", "reason", "detail"))


@dataclass(frozen=True)
class ExcludedJob:
    """A job that is skipped: the file or folder that excludes it, and the fingerprint of its input when it was done.

    With another input it is to be run; None: whatever its input.
    """

    place: str
    input: str | None = None


@dataclass(frozen=True, repr=False)
class Cohort:
    """What was selected.

    Parameters
    ----------
    groups : sequence of Group
        One group per asset, ordered by name, then `_id` (with a table in its order); with `group_by` one per
        combination of values, ordered by them. Where rows of a table have other parameters, one group for each.
    matched : int
        Number of records that matched.
    skipped : sequence of Skipped
        What matched and is in no group, in the order in which that was found out.
    partners : mapping of str to sequence of str
        By the `_id` of each derived asset, those of its raw assets, where pairs were asked for.
    query : str or None
        The query as compact JSON, None where a table alone selected.
    may_be_local : bool
        Whether locations may name local folders: they come from a file of the user's own.
    excluded_jobs : mapping of str to ExcludedJob
        Jobs that are skipped, by name.
    """

    groups: Sequence[Group] = ()
    matched: int = 0
    skipped: Skips = field(default_factory=Skips)
    partners: Mapping[str, Sequence[str]] = field(default_factory=dict)
    query: str | None = None
    may_be_local: bool = False
    excluded_jobs: Mapping[str, ExcludedJob] = field(default_factory=dict)

    @property
    def assets(self) -> list[Asset]:
        """All assets, each once."""
        return list({asset.record_id: asset for group in self.groups for asset in group.assets}.values())

    def _rows(self) -> Iterator[dict[str, Any]]:
        for asset in self.assets:
            yield {**{name: getattr(asset, name) for name in _ASSET_COLUMNS}, "modality": list(asset.modality)}

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per asset."""
        return frames.frame(self._rows(), _ASSET_COLUMNS)

    def __repr__(self) -> str:
        return f"<Cohort: {len(self.assets):,} assets in {len(self.groups):,} groups, {len(self.skipped):,} skipped>"

    def _repr_html_(self) -> str:
        return frames.html(repr(self)[1:-1], self._rows(), _ASSET_COLUMNS[:6])


@dataclass(frozen=True, repr=False)
class Files:
    """The files of a cohort's assets.

    Parameters
    ----------
    cohort : Cohort
        Its groups may still hold assets that are skipped here.
    assets : sequence of LocatedAsset
        In the order of the cohort.
    skipped : sequence of Skipped
        Assets whose files were not found.
    """

    cohort: Cohort = field(default_factory=Cohort)
    assets: Sequence[LocatedAsset] = ()
    skipped: Skips = field(default_factory=Skips)

    def _rows(self) -> Iterator[dict[str, Any]]:
        for one in self.assets:
            for file in one.files or ():
                yield {"asset_name": one.asset.name, "file": file.address, "size": file.size}

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per file, with its size in bytes where that is known."""
        return frames.frame(self._rows(), _FILE_COLUMNS).astype({"size": "Int64"})

    def __repr__(self) -> str:
        number = sum(len(one.files or ()) for one in self.assets)
        return f"<Files: {number:,} files of {len(self.assets):,} assets, {len(self.skipped):,} skipped>"

    def _repr_html_(self) -> str:
        return frames.html(repr(self)[1:-1], self._rows(), _FILE_COLUMNS)

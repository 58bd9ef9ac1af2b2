"""The job that an analysis gets: the job file, and its files as something that can be opened."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from pydantic import PrivateAttr

from job_dispatch.jobs.model import AnalysisDispatchModel

if TYPE_CHECKING:
    from obstore import ReadableFile

_READ_AT_ONCE = 1 << 20


class Job(AnalysisDispatchModel):
    """One job of an analysis.

    >>> job = Job(s3_location=["file:///data/a"], asset_name=["a"], docdb_record_id=["1"],
    ...           file_location=["file:///data/a/x.nwb"], subject=["774659"])
    >>> job.paths
    [PosixPath('/data/a/x.nwb')]
    >>> job.metadata[0]["subject"]
    '774659'
    """

    @cached_property
    def paths(self) -> list[Path | str]:
        """What an analysis can open: a `Path` for each local file, the address for each file in S3.

        They are the files of the job, or the folders of its assets if no files were asked for. A store is one path.
        """
        addresses = self.s3_location if self.file_location is None else self.file_location
        return [Path(one.removeprefix("file://")) if one.startswith("file://") else one for one in addresses]

    def open(self, number: int = 0) -> IO[bytes]:
        """Open one of `paths` for reading bytes, on this machine or in S3.

        Parameters
        ----------
        number : int
            Its place in `paths`.
        """
        path = self.paths[number]
        if isinstance(path, Path):
            return path.open("rb")
        return _open_in_s3(path)

    _records: list[dict[str, Any] | None] = PrivateAttr(default_factory=list)

    def with_records(self, records: Mapping[str, Any]) -> Self:
        """Add the metadata records of its assets, from some by `_id`."""
        self._records = [records.get(one) for one in self.docdb_record_id] if records else []
        return self

    @property
    def metadata(self) -> list[dict[str, Any]]:
        """What the metadata tells of each asset: a dict with `subject`, `session`, `project` and `modality`.

        With `job-dispatch run --metadata_catalog`, `record` is the whole record as well.
        """
        traits = {"subject": self.subject, "session": self.session, "project": self.project, "modality": self.modality}
        found: list[dict[str, Any]] = [
            {name: values[number] if values else None for name, values in traits.items()}
            for number in range(len(self.s3_location))
        ]
        for one, record in zip(found, self._records, strict=False):
            one["record"] = record
        return found


def _open_in_s3(address: str) -> IO[bytes]:
    """Open an object, with the credentials that boto3 finds, or else anonymously."""
    import obstore
    from obstore.exceptions import BaseError

    from job_dispatch.storage import access

    bucket, _, key = address.removeprefix("s3://").partition("/")
    for way in access.find_access():
        try:
            file = obstore.open_reader(way.store(bucket, way.client(bucket)), key)
            return io.BufferedReader(_Object(file), _READ_AT_ONCE)
        except (BaseError, FileNotFoundError) as error:
            failure = error
    if isinstance(failure, FileNotFoundError):
        failure = FileNotFoundError(f"{address}: no such object; a store is opened by its own library, as zarr")
    raise failure from None


class _Object(io.RawIOBase):
    """An object in S3 as Python's file objects are: obstore's reader is no context manager."""

    def __init__(self, file: ReadableFile) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        text = bytes(self._file.read(len(buffer)))
        buffer[: len(text)] = text
        return len(text)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

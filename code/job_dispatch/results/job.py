"""The job that an analysis gets: the job file, and its files as something that can be opened."""

from __future__ import annotations

import contextlib
from functools import cached_property
from pathlib import Path
from typing import IO, Any, cast

from job_dispatch.jobs.model import AnalysisDispatchModel


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

    @property
    def metadata(self) -> list[dict[str, Any]]:
        """What the metadata tells of each asset: a dict with `subject`, `session`, `project` and `modality`."""
        traits = {"subject": self.subject, "session": self.session, "project": self.project, "modality": self.modality}
        return [
            {name: values[number] if values else None for name, values in traits.items()}
            for number in range(len(self.s3_location))
        ]


def _open_in_s3(address: str) -> IO[bytes]:
    """Open an object, with the credentials that boto3 finds, or else anonymously."""
    import obstore
    from obstore.exceptions import BaseError

    from job_dispatch.storage import access

    bucket, _, key = address.removeprefix("s3://").partition("/")
    *first, last = access.find_access()
    for way in first:
        with contextlib.suppress(BaseError):
            return cast(IO[bytes], obstore.open_reader(way.store(bucket, way.client(bucket)), key))
    return cast(IO[bytes], obstore.open_reader(last.store(bucket, last.client(bucket)), key))

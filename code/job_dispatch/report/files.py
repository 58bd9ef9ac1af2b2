"""The folder of a report, and the files in it."""

from __future__ import annotations

import os
from pathlib import Path

from job_dispatch.jobs.output_folder import HIDDEN
from job_dispatch.messages import RequestError

_NAME_BYTES = 255


def check_directory(report: Path, output: Path) -> None:
    """Refuse a report directory in which a pipeline would take the report for work.

    Raises
    ------
    RequestError
        It is the output folder, contains it, or lies in it other than hidden and directly below.
    """
    inner, outer = (Path(os.path.realpath(path)) for path in (report, output))
    is_hidden = inner.parent == outer and inner.name.startswith(".") and not inner.name.startswith(HIDDEN)
    if not is_hidden and (inner.is_relative_to(outer) or outer.is_relative_to(inner)):
        raise RequestError(
            f"--report_directory: {report}: every visible entry of the output folder becomes a worker in a pipeline;"
            f" choose a folder apart from {output}, or a hidden one directly below it such as {output / '.report'}"
        )
    try:
        existing = next(path for path in (inner, *inner.parents) if os.path.lexists(path))
    except OSError as error:
        raise RequestError(f"--report_directory: {report}: {error.strerror}") from None
    if not existing.is_dir():
        raise RequestError(f"--report_directory: not a folder: {existing}")
    if not os.access(existing, os.W_OK | os.X_OK) or len(os.fsencode(inner.name)) > _NAME_BYTES:
        raise RequestError(f"--report_directory: {report} cannot be made or written; choose another folder")

"""What the process of a job does: import the analysis, call it, and return what came of it."""

from __future__ import annotations

import faulthandler
import logging
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from job_dispatch.messages import RequestError
from job_dispatch.results import analysis, records


class AnalysisError(Exception):
    """An analysis did not do what an analysis must."""


def work(
    path: Path, content: Mapping[str, Any], given: Mapping[str, Any], folder: Path, whole: Mapping[str, Any]
) -> dict[str, Any]:
    """Run the analysis on a job in this process.

    Parameters
    ----------
    path : pathlib.Path
        The analysis file.
    content : mapping
        What the job file holds.
    given : mapping
        The parameters of `--set`.
    folder : pathlib.Path
        The folder of the job, which is made empty.
    whole : mapping
        Whole metadata records by `_id`, as far as they are known.

    Returns
    -------
    dict
        `files` and `versions`; and `values`, or `error` and `where`.

    Raises
    ------
    RequestError
        The analysis cannot be imported or has no function `analyse`: no job can run.
    """
    _begin_afresh()
    faulthandler.enable()  # a crash writes to the log where it happened
    loaded = analysis.load(path)
    analyse = loaded.function("analyse")
    if analyse is None:
        raise RequestError(f"{path}: no function analyse(job, parameters, results); see docs/results.md")
    records.empty(folder)
    from job_dispatch.results.job import Job  # pydantic takes 0.2 s; `prepare` has loaded it

    told: dict[str, Any] = {}
    try:
        job = Job.model_validate(content).with_records(whole)
        values = analyse(job, analysis.merged(content, given), folder)
        if values is not None and not isinstance(values, dict):
            raise AnalysisError(f"analyse returned {type(values).__name__}; it must return a dict of values, or None")
        if written := [name for name in records.RECORDS if (folder / name).exists()]:
            raise AnalysisError(f"the analysis wrote {written[0]}, which is a record of the job; choose another name")
        told["values"] = analysis.plain(values or {})
    except BaseException as error:  # nothing but the analysis can raise one here
        traceback.print_exc()
        told["error"] = str(error) if isinstance(error, AnalysisError) else analysis.reason(error)
        told["where"] = analysis.place(error, path.resolve().parent)
        records.remove(folder)
    return told | {"files": analysis.own_files(path), "versions": analysis.versions()}


def _begin_afresh() -> None:
    """Undo what this project has set up for itself in the process from which this one was forked."""
    logging.getLogger().handlers.clear()
    logging.getLogger().setLevel(logging.WARNING)
    # By lines, so that a crash loses nothing that was printed.
    sys.stdout, sys.stderr = (
        open(number, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        for number in (1, 2)
    )

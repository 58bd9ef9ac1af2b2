"""The report of a run: a page to look at, tables of its jobs and of what it left out, a manifest for machines.

Files of somebody else in its folder are not replaced.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from job_dispatch import __version__, stopping
from job_dispatch.frames import no_formula
from job_dispatch.jobs import output_folder
from job_dispatch.jobs.building import Job
from job_dispatch.messages import DispatchError, RequestError, ServiceError, logger
from job_dispatch.model import Asset, Skipped
from job_dispatch.report import page
from job_dispatch.report.dispatched import Dispatch

PAGE, JOBS, SKIPPED, MANIFEST = "report.html", "jobs.csv", "skipped.csv", "manifest.json"
# The folder, in that of the report, for the report of a run that failed.
FAILED = "failed"
_NAMES = (PAGE, JOBS, SKIPPED, MANIFEST)
_NAME_BYTES = 255
_READY = ".ready"
_STAGING = re.compile(r"\.report\.[0-9a-f]{32}\.(unfinished|ready)")
_DEPENDENCIES = ("aind-data-access-api", "boto3", "obstore", "pandas", "pydantic")


def _of_assets(field: str) -> Callable[[str, Job], str]:
    return lambda _, job: "; ".join(getattr(asset, field) for asset in job.group.assets)


def _json(value: object) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False)


# What each cell of a table holds; several values are separated by `; `.
_JOB_COLUMNS: Mapping[str, Callable[[str, Job], str]] = {
    "worker": lambda worker, _: worker,
    "file name": lambda _, job: f"{job.name}.json",
    "asset names": _of_assets("name"),
    "asset ids": _of_assets("asset_id"),
    "record ids": _of_assets("record_id"),
    "locations": _of_assets("location"),
    "files": lambda _, job: "; ".join(file.address for file in job.files or ()),
    "bytes": lambda _, job: "" if job.size is None else str(job.size),
    "parameter set": lambda _, job: _json(job.parameter_set),
    "group": lambda _, job: _json(job.group.metadata),
    "subjects": _of_assets("subject"),
    "sessions": _of_assets("day"),
    "projects": _of_assets("project"),
}
_SKIPPED_COLUMNS = {
    "name": "name",
    "asset id": "asset_id",
    "record id": "record_id",
    "location": "location",
    "reason": "detail",
    "job": "job",
}


def check_directory(report: Path, output: Path, overwrite: bool) -> None:
    """Refuse a report directory in which a pipeline would take the report for work, or files of others are in the way.

    A RequestError is raised if it is the output folder, contains it, or lies in it other than hidden and directly
    below; and if it holds files of the report's names that no report has written, and `overwrite` is false.
    """
    inner, outer = (Path(os.path.realpath(path)) for path in (report, output))
    is_hidden = inner.parent == outer and inner.name.startswith(".") and not inner.name.startswith(output_folder.HIDDEN)
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
    if report.is_dir():
        recover(report)
        _check_files(report, overwrite)


def write(run: Dispatch, directory: Path, command: Sequence[str]) -> None:
    """Write `report.html`, `jobs.csv`, `skipped.csv` and `manifest.json`.

    The report of a run that failed has a folder of its own, since `--exclude` may need that of an earlier run, and its
    error then names the file with all details; the next run that succeeds removes it. Unless the run failed, a
    RequestError is raised if files are in the way that no report has written, and a ServiceError if the disk fails.
    """
    error = run.error
    if error is None:
        _write(run, directory, command)
        return
    try:
        _write(run, directory / FAILED, command)
    except DispatchError as unwritten:
        logger.warning("%s", unwritten.headline)
        return
    is_told_by_table = len(run.skipped) >= len(error.details)
    error.all_details_in = str(directory / FAILED / (SKIPPED if is_told_by_table else MANIFEST))


def _write(run: Dispatch, directory: Path, command: Sequence[str]) -> None:
    finished = datetime.now(UTC)
    dependencies = {name: importlib.metadata.version(name) for name in _DEPENDENCIES}
    versions = {"aind-analysis-job-dispatch": __version__, "python": platform.python_version(), **dependencies}
    jobs = ((worker, job) for worker, jobs in run.folder_jobs() for job in jobs)
    texts = {
        JOBS: _csv(_JOB_COLUMNS, ([cell(*one) for cell in _JOB_COLUMNS.values()] for one in jobs)),
        SKIPPED: _csv(
            _SKIPPED_COLUMNS, ([getattr(one, name) for name in _SKIPPED_COLUMNS.values()] for one in run.skipped)
        ),
        PAGE: page.render(page.of(run, versions, command, finished)),
    }
    texts[MANIFEST] = _manifest(run, command, versions, finished, texts)
    try:
        replace(directory, texts, run.settings.overwrite)
        if run.error is None:
            _remove(directory / FAILED)
    except OSError as error:
        state = "nothing else is written" if run.settings.dry_run or run.error else "the jobs are written"
        raise ServiceError(
            f"--report_directory: {state}, but no report: cannot write into {directory}: {error.strerror}"
        ) from error
    skipped = f"; {SKIPPED} in the same folder lists what was skipped ({len(run.skipped):,})" if run.skipped else ""
    logger.info("report in %s%s", directory / PAGE, skipped)


def _manifest(
    run: Dispatch, command: Sequence[str], versions: Mapping[str, str], finished: datetime, texts: Mapping[str, str]
) -> str:
    """Return what a run did, for machines; `texts` are the files beside the manifest."""
    query, table, left_off, error = run.selection.query, run.selection.table, run.jobs.left_off, run.error
    content = {
        "is_preview": run.settings.dry_run,
        "error": error.headline if error else None,
        "error_details": error.details if error else [],
        "source": run.settings.source,
        "query": query.filter if query else None,
        "asset_ids": table.values("asset_id") if table else None,
        # How many are left after each step, and worker folders.
        "counts": {**dict(run.funnel), "worker folders": len(run.folders.shares)},
        "left_out": run.skipped_by_reason(),
        # Jobs that a cap left off: an upper bound, unless it is exact.
        "left_off": left_off.number if left_off else 0,
        "left_off_is_exact": left_off.is_exact if left_off else True,
        "assets": [
            _ids(one) | {"subject": one.subject, "session": one.day, "project": one.project} for one in run.analysed
        ],
        "skipped": [_ids(one) | {"reason": one.detail, "job": one.job} for one in run.skipped],
        "versions": versions,
        "command": command,
        "started": run.started.isoformat().replace("+00:00", "Z"),
        "finished": finished.isoformat().replace("+00:00", "Z"),
        "seconds": {step: round(seconds, 3) for step, seconds in run.seconds.items()},
        "sha256": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()},
    }
    text = json.dumps(content, indent=4, ensure_ascii=False)
    # What UTF-8 cannot hold is written as in the tables.
    return re.sub(r"[\ud800-\udfff]", lambda found: rf"\\u{ord(found[0]):x}", text) + "\n"


def _ids(one: Asset | Skipped) -> dict[str, str]:
    return {name: getattr(one, name) for name in ("name", "asset_id", "record_id", "location")}


def _csv(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    text = io.StringIO()
    # All cells are quoted: before 3.13 Python leaves one with a lone carriage return as it is, which breaks the row.
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(map(no_formula, row) for row in rows)
    return text.getvalue().encode("utf-8", "backslashreplace").decode()


def replace(directory: Path, texts: Mapping[str, str], overwrite: bool) -> None:
    """Replace the files of a report as a whole: new files never lie beside old ones.

    They are written into a hidden folder, which gets another name when all are there, and moved from it. If the run is
    killed, `recover` removes the folder with the first name and goes on moving from one with the second. A RequestError
    is raised if files of others have turned up since, and an OSError if they cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    recover(directory)
    _check_files(directory, overwrite)
    staging = directory / f".report.{secrets.token_hex(16)}.unfinished"
    stopping.note(report=str(directory.absolute()))
    staging.mkdir(mode=0o700)
    with output_folder.lock(staging):
        try:
            for name, text in texts.items():
                (staging / name).write_bytes(text.encode())
            ready = staging.rename(staging.with_suffix(_READY))
        except BaseException:
            shutil.rmtree(staging)
            raise
        _move(ready, directory)
    stopping.note(report="")


def _remove(directory: Path) -> None:
    """Remove a report as it was written; what somebody has changed or added stays."""
    if directory.is_symlink() or not directory.is_dir():
        return
    for name in _written_by_a_report(directory):
        (directory / name).unlink()
    with contextlib.suppress(OSError):  # something else is in it
        directory.rmdir()


def recover(directory: Path) -> None:
    """Finish or remove what a killed run of this user left in a report directory."""
    for path in directory.iterdir():
        if _STAGING.fullmatch(path.name) is None or not _is_own(path):
            continue
        with contextlib.suppress(ServiceError), output_folder.lock(path):  # or another run is writing it
            if path.suffix == _READY:
                _move(path, directory)
            else:
                shutil.rmtree(path)


def _is_own(staging: Path) -> bool:
    status = staging.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) == 0o700


def _move(ready: Path, directory: Path) -> None:
    for path in sorted(ready.iterdir(), key=lambda path: path.name == MANIFEST):
        path.rename(directory / path.name)
    ready.rmdir()


def _check_files(directory: Path, overwrite: bool) -> None:
    there = [name for name in _NAMES if os.path.lexists(directory / name)]
    if folders := [name for name in there if stat.S_ISDIR((directory / name).lstat().st_mode)]:
        raise RequestError(
            f"--report_directory: {directory} holds folders where a report has files; choose another folder", folders
        )
    if not there or overwrite:
        return
    own = _written_by_a_report(directory)
    if foreign := [name for name in there if name not in own]:
        raise RequestError(
            f"--report_directory: {directory} holds files that no report has written, or that were changed since;"
            " choose another folder, or --overwrite=1 replaces them",
            foreign,
        )


def _written_by_a_report(directory: Path) -> set[str]:
    """Return the files that are as the manifest beside them says, and the manifest, if it says so of any."""
    try:
        hashes = dict(json.loads(content(directory / MANIFEST))["sha256"])
    except (ValueError, TypeError, KeyError):
        return set()
    own = {
        name
        for name in _NAMES
        if name in hashes and hashlib.sha256(content(directory / name)).hexdigest() == hashes[name]
    }
    return {*own, MANIFEST} if own else set()


def content(path: Path) -> bytes:
    """Return what a regular file holds; nothing of a link, a pipe or what is not there."""
    with contextlib.suppress(OSError):
        if stat.S_ISREG(path.lstat().st_mode):
            return path.read_bytes()
    return b""

"""The report of a run as one HTML page that needs nothing beside itself."""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from job_dispatch import pages
from job_dispatch.frames import is_number
from job_dispatch.jobs.building import Job, total
from job_dispatch.messages import counted, with_unit
from job_dispatch.model import Asset, Skipped
from job_dispatch.report import charts
from job_dispatch.report.dispatched import Dispatch

_PAGE_BYTES = 2_000_000
# Rows of a table and files of a job: the first pair with which the page is small enough is taken.
_ROWS_AND_FILES = ((40_000, 20), (15_000, 2), (5_000, 2), (1_000, 1), (100, 1), (10, 1))
_BLOCK_CHARACTERS = 100_000
_FIRST_JOB_CHARACTERS = 10_000
_BARS = 12
_VALUES = 300
_SETS = 100
_SETS_OPEN = 10
_PARAMETERS = 12
# A name within a path that begins as its asset's does is shortened if it shares so much with it.
_SHARED_CHARACTERS = 12
_TIME = "%Y-%m-%d %H:%M:%S UTC"

_Counts = Sequence[tuple[str, int]]


@dataclass(frozen=True)
class Page:
    """What the page shows; text may come from records, whatever it holds.

    `command` is shell text that runs it again in `folder`, `amount` the bytes and files of all jobs in words.
    `sessions` has None for an asset without subject or day, which cannot be drawn. `funnel` is how many are left after
    each step, `factors` what the number of jobs is the product of, and `jobs` has each job after its worker folder.
    `selection` is the query as indented JSON, or which ids were asked for, and `first_job` the file of the first job.
    """

    headline: str
    is_preview: bool = False
    has_failed: bool = False
    details: Sequence[str] = ()
    amount: str = ""
    command: str = ""
    folder: str = ""
    reasons: Mapping[str, int] = field(default_factory=dict)
    sessions: Sequence[charts.Session | None] = ()
    assets_by: Mapping[str, _Counts] = field(default_factory=dict)
    funnel: _Counts = ()
    factors: str = ""
    folders: Sequence[charts.Folder] = ()
    skipped: Sequence[Skipped] = ()
    fixed_parameters: Mapping[str, object] = field(default_factory=dict)
    parameter_sets: Sequence[Mapping[str, object]] = ()
    jobs: Sequence[tuple[str, Job]] = ()
    selection: str = ""
    first_job: str = ""
    source: str = ""
    finished: str = ""
    seconds: Sequence[tuple[str, float]] = ()
    versions: Mapping[str, str] = field(default_factory=dict)


def of(run: Dispatch, versions: Mapping[str, str], command: Sequence[str], finished: datetime) -> Page:
    """Return what the page shows of a run."""
    loads = list(run.folder_jobs())
    sessions = list(_sessions(run))
    query, table = run.selection.query, run.selection.table
    selection = [] if table is None else [str(table)]
    if query:
        selection.append(json.dumps(query.filter, indent=4, ensure_ascii=False))
    traits = ("project",) if _has_days(sessions) else ("project", "subject")
    return Page(
        headline=run.headline,
        is_preview=run.settings.dry_run,
        has_failed=run.error is not None,
        details=run.error.details if run.error else (),
        amount=_amount(run.jobs.planned),
        command=" \\\n    ".join([shlex.join(command[:2]), *map(shlex.quote, command[2:])]),
        folder=str(Path.cwd()),
        reasons=run.skipped_by_reason(),
        sessions=sessions,
        assets_by={trait: run.assets_by(trait) for trait in traits},
        funnel=run.funnel,
        factors=run.factors if len(run.jobs) else "",
        folders=[charts.Folder(worker, len(jobs), total(job.size for job in jobs)) for worker, jobs in loads],
        skipped=run.skipped,
        fixed_parameters=run.parameters.fixed or {},
        parameter_sets=run.parameters.sets,
        jobs=[(worker, job) for worker, jobs in loads for job in jobs],
        selection="\nand ".join(selection),
        first_job=run.jobs.model(loads[0][1][0]).to_json() if loads else "",
        source=run.settings.source,
        finished=finished.strftime(_TIME),
        seconds=list(run.seconds.items()),
        versions=versions,
    )


def _sessions(run: Dispatch) -> Iterator[charts.Session | None]:
    """Yield each asset once as far as it is known, whether it is in a job or skipped; None without subject or day."""
    analysed = {asset.record_id: asset for asset in run.analysed}
    skipped = {one.record_id or one.known_as: one for one in run.skipped if not one.job}
    yield from (_session(one.subject, one.day, False) for one in analysed.values())
    yield from (_session(one.subject, one.day, True) for name, one in skipped.items() if name not in analysed)


def _session(subject: str, day: str, is_skipped: bool) -> charts.Session | None:
    try:
        return charts.Session(subject, date.fromisoformat(day), is_skipped) if subject else None
    except ValueError:
        return None


def _has_days(sessions: Sequence[charts.Session | None]) -> bool:
    return len({one.day for one in sessions if one}) > 1


def _amount(jobs: Sequence[Job]) -> str:
    """Return the bytes of the jobs' files, each file once."""
    files = {file.address: file.size for job in jobs for file in job.files or ()}
    sizes = [size for size in files.values() if size is not None]
    known = [f"{with_unit(sum(sizes))} in {counted(len(sizes), 'file')}"] if sizes else []
    stores = [f"{counted(len(files) - len(sizes), 'store')} of unknown size"] if len(sizes) < len(files) else []
    return " and ".join([*known, *stores])


def _short_path(address: str, assets: Iterable[Asset]) -> str:
    """Return an address within its asset, with `…` for what its parts repeat of the asset's name."""
    for asset in assets:
        if address.startswith(f"{asset.location}/"):
            parts = address.removeprefix(f"{asset.location}/").split("/")
            return "/".join(_without_name(part, asset.name) for part in parts)
    return address


def _without_name(part: str, name: str) -> str:
    shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(part, name, strict=False)))
    while part[shared - 1 : shared + 1].isalnum() and 0 < shared < len(part):  # within a word
        shared -= 1
    return f"…{part[shared:]}" if shared >= _SHARED_CHARACTERS else part


def render(page: Page) -> str:
    """Return the page as HTML, less than 2 MB of UTF-8.

    Tables have their first 40,000 rows and each job its first 20 files, fewer where the page would be larger.
    """
    contents = (_contents(page, rows, files) for rows, files in _ROWS_AND_FILES)
    return pages.render("report/page.html.j2", _PAGE_BYTES, contents)


def _contents(page: Page, rows: int, files: int) -> dict[str, Any]:
    cells, block = min(rows, _VALUES), min(rows * 100, _BLOCK_CHARACTERS)
    drawn = [one for one in page.sessions if one]
    matrix = charts.matrix(drawn) if _has_days(drawn) else None
    return {
        "page": page,
        "command": pages.lines(page.command, block),
        "selection": pages.lines(page.selection, block),
        "first_job": pages.lines(page.first_job, min(block, _FIRST_JOB_CHARACTERS)),
        "details": page.details[:cells],
        "matrix": matrix,
        "undrawn": len(page.sessions) - len(drawn),
        "matrix_data": pages.script_json(matrix["data"]) if matrix else Markup(),
        "traits": [
            {
                "name": name,
                "number": len(values),
                "bars": [_bar(value, number, values[0][1]) for value, number in values[:_BARS]],
                "table": values[_BARS:cells],
            }
            for name, values in page.assets_by.items()
            if values
        ],
        "funnel": _funnel(page.funnel),
        "work": charts.work(page.folders),
        "folders": page.folders[:cells],
        "skipped_rows": min(rows, len(page.skipped)),
        "skipped": pages.script_json(_skipped_table(page.skipped[:rows])),
        "fixed": [(".".join(path), pages.shown(value)) for path, value in pages.flat(page.fixed_parameters)],
        "sets": pages.parameter_sets(page.parameter_sets, min(rows, _SETS)),
        "sets_open": _SETS_OPEN,
        "job_rows": min(rows, len(page.jobs)),
        "jobs": pages.script_json(_jobs_table(page.jobs[:rows], files)),
    }


def _skipped_table(skipped: Sequence[Skipped]) -> dict[str, Any]:
    details = ["" if one.detail == one.reason.value else one.detail for one in skipped]
    further = {
        ("Detail", "text"): details,
        ("Asset id", "id"): [one.asset_id for one in skipped],
        ("Record id", "id"): [one.record_id for one in skipped],
    }
    return {
        "noun": "row",
        "label": "Skipped",
        "filter": "Filter by name, reason or id",
        "rows": len(skipped),
        "columns": [
            pages.column("Name", "asset", [one.known_as for one in skipped]),
            pages.column("Reason", "text", [one.reason.value for one in skipped]),
            *(pages.column(*column, values) for column, values in further.items() if any(values)),
        ],
    }


def _jobs_table(placed: Sequence[tuple[str, Job]], files: int) -> dict[str, Any]:
    """Lay out the jobs; of their parameters those that differ are columns."""
    jobs = [job for _, job in placed]
    groups = [job.group.assets for job in jobs]
    columns = [
        pages.column("Job", "id", [job.name[:8] for job in jobs]),
        pages.column("Worker", "short number", [int(name) if name.isdecimal() else name for name, _ in placed]),
        _list_column("Assets", "asset", [[asset.name for asset in assets[:files]] for assets in groups], groups),
    ]
    if any(job.files is not None for job in jobs):
        listed = [job.files or () for job in jobs]
        pairs = zip(listed, groups, strict=True)
        paths = [[_short_path(file.address, assets) for file in found[:files]] for found, assets in pairs]
        columns.append(_list_column("Files", "file", paths, listed))
    if any(job.size is not None for job in jobs):
        columns.append(pages.column("Size", "short number bytes", [job.size for job in jobs]))
    columns += _named_columns([job.parameter_set or {} for job in jobs], only_differing=True)
    columns += _named_columns([job.group.metadata or {} for job in jobs], only_differing=False)
    return {
        "noun": "job",
        "label": "Jobs",
        "filter": "Filter by job, asset, file …",
        "rows": len(jobs),
        "columns": columns,
    }


def _list_column(label: str, noun: str, shown: Sequence[Sequence[str]], all_: Sequence[Sized]) -> dict[str, Any]:
    more = {row: len(all_[row]) - len(one) for row, one in enumerate(shown) if len(all_[row]) > len(one)}
    return pages.column(label, f"list {noun}", ["\n".join(one) for one in shown], noun=noun, none="none", more=more)


def _named_columns(mappings: Sequence[Mapping[str, object]], only_differing: bool) -> list[dict[str, Any]]:
    """Return a column for each of the first names; nested ones have dotted names."""
    named = ((name, list(map(_cell, values))) for name, values in pages.named(mappings))
    differing = ((name, cells) for name, cells in named if not only_differing or len(set(cells)) > 1)
    return [pages.column(name, "parameter", cells) for name, cells in itertools.islice(differing, _PARAMETERS)]


def _cell(value: object) -> str | int | float | None:
    if value is None or (is_number(value) and abs(value) < 2**53):
        return value
    return pages.shown(value)


def _bar(name: str, number: int, most: int, remark: str = "") -> dict[str, Any]:
    return {"name": name, "number": number, "percent": f"{100 * number / max(1, most):.1f}%", "remark": remark}


def _funnel(steps: _Counts) -> list[tuple[str, list[dict[str, Any]]]]:
    """Draw what is left of the assets, and apart from it what is left of the jobs, which are another number."""
    first_of_jobs = next((place for place, (label, _) in enumerate(steps) if label.startswith("jobs")), len(steps))
    parts = (("assets", steps[:first_of_jobs], "skipped"), ("jobs", steps[first_of_jobs:], "left out"))
    return [(name, list(_steps(part, lost))) for name, part, lost in parts if part]


def _steps(steps: _Counts, lost: str) -> Iterator[dict[str, Any]]:
    before = most = steps[0][1]
    for label, number in steps:
        yield _bar(label, number, most, f"{before - number:,} {lost}" if number < before else "")
        before = number

"""The preview of a run: tables of what would be dispatched, on stdout."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from job_dispatch.messages import LISTED_AT_MOST, counted, printable
from job_dispatch.model import File
from job_dispatch.report.dispatched import Dispatch

_NOT_LISTED = "not listed"
_TOP = 10
# Elsewhere than on a terminal lines are not broken.
_PLAIN_WIDTH = 10_000


def show(run: Dispatch) -> None:
    """Print the assets, the files, what is skipped, the selection, the jobs, and at the end one sentence on all of it.

    With `--log_level=DEBUG` the first job comes first.
    """
    if sys.stdout is None:
        return
    is_terminal = sys.stdout.isatty()
    console = Console(
        file=sys.stdout, width=None if is_terminal else _PLAIN_WIDTH, highlight=False, markup=False, emoji=False
    )
    if run.jobs.planned and run.settings.log_level == "DEBUG":
        worker, [first, *_] = next(run.folder_jobs())
        print(f"First job: {worker}/{first.name}.json")
        for line in run.jobs.model(first).to_json().split("\n"):
            print(printable(line, sys.maxsize))
        print()
    tables = [
        _table("Assets by project", ("project", "assets"), _top(run.assets_by("project"))),
        _table("Assets by subject", ("subject", "assets"), _top(run.assets_by("subject"))),
        _table("Files", ("ending", "files", "bytes"), _files(run)),
        _table("Skipped", ("name", "reason"), _skipped(run)),
        _table("Selection", (), _selection(run)),
        _table("Jobs", (), _jobs(run)),
    ]
    for table in tables:
        table.box = box.SIMPLE_HEAD if is_terminal else None
        with console.capture() as captured:
            console.print(table)
        print("\n".join(line.rstrip() for line in captured.get().splitlines()), end="\n\n")
    print(printable(f"Preview: {run.headline}; nothing was written"))


def _table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", show_header=bool(header), padding=(0, 2, 0, 0))
    filled = list(rows)
    for number in range(max(map(len, filled), default=len(header))):
        column = header[number] if header else ""
        table.add_column(column, justify="right" if column in ("assets", "files", "bytes") else "left", overflow="fold")
    for row in filled:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def _selection(run: Dispatch) -> list[tuple[str, str]]:
    return [
        ("from", run.settings.source),
        ("by", str(run.selection)),
        *((step, f"{number:,}") for step, number in run.funnel),
    ]


def _top(counts: Sequence[tuple[str, int]]) -> list[tuple[str, str]]:
    rows = [(value, f"{number:,}") for value, number in counts[:_TOP]]
    if rest := counts[_TOP:]:
        rows.append((f"{len(rest):,} more", f"{sum(number for _, number in rest):,}"))
    return rows


def _files(run: Dispatch) -> list[tuple[str, str, str]]:
    if not run.settings.wants_files:
        return [("any", _NOT_LISTED, _NOT_LISTED)]
    return [(way, f"{len(files):,}", _bytes(files)) for way, files in run.files_by_way()]


def _bytes(files: Sequence[File]) -> str:
    known = [file.size for file in files if file.size is not None]
    stores = len(files) - len(known)
    return f"{sum(known):,}" + f" and {counted(stores, 'store')} not measured" * bool(stores)


def _jobs(run: Dispatch) -> list[tuple[str, str]]:
    lengths = sorted(map(len, run.folders.shares)) or [0]
    folders = f"{lengths[0]:,} / {lengths[len(lengths) // 2]:,} / {counted(lengths[-1], 'job')}"
    rows = [
        ("parameter sets", f"{len(run.parameters.sets):,}"),
        ("jobs", f"{len(run.jobs.planned):,}"),
        *([("", run.nothing_left)] if run.nothing_left else []),
        *([("left off", run.left_off)] if run.left_off else []),
        *([("asked for", str(run.jobs.too_many))] if run.jobs.too_many else []),
        ("worker folders", f"{len(run.folders.shares):,}"),
        ("smallest / median / largest", folders),
    ]
    if run.folders.sizes:
        loads = sorted(sum(run.folders.sizes[number] for number in share) for share in run.folders.shares)
        rows.append(("", f"{loads[0]:,} / {loads[len(loads) // 2]:,} / {loads[-1]:,} bytes"))
    return rows


def _skipped(run: Dispatch) -> list[tuple[str, str]]:
    skipped = run.skipped
    rows = [(one.known_as, one.detail) for one in skipped[:LISTED_AT_MOST]]
    if len(skipped) > LISTED_AT_MOST:
        rows.append((f"… and {len(skipped) - LISTED_AT_MOST:,} more", ""))
    return rows or [("nothing", "")]

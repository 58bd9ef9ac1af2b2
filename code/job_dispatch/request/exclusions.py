"""What `--exclude` leaves out: jobs that are done, jobs of an earlier run, or assets."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from job_dispatch.messages import RequestError, counted, logger
from job_dispatch.model import ExcludedJob
from job_dispatch.request import table_files, tables
from job_dispatch.request.table_files import Line

# Of the report of a dispatch, and of the table of results.
_FILE_COLUMN, _JOB_COLUMN, _STATUS_COLUMN = "file_name", "job", "status"
_JOB = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(\.json)?")
# The most certain first: of each row the first that is filled in counts.
_ASSET_COLUMNS = ("docdb_record_id", "record_id", "_id", "asset_id", "asset_name", "name")
_RESULTS, _RECORD = "analysis_results", "job.json"


@dataclass(frozen=True)
class Exclusions:
    """What is excluded.

    Attributes
    ----------
    jobs : mapping of str to ExcludedJob
        By name.
    assets : mapping of str to str
        By whatever an asset is known by (its ids, name or record id), the file that excludes it.
    """

    jobs: Mapping[str, ExcludedJob] = field(default_factory=dict)
    assets: Mapping[str, str] = field(default_factory=dict)

    def place_of(self, *known_as: str) -> str:
        """Return the file that excludes an asset with these ids and names, "" if none does."""
        return next((self.assets[one] for one in known_as if one in self.assets), "")


def read_exclusions(paths: Sequence[Path]) -> Exclusions:
    """Return what files and folders exclude; the log reports how each was understood.

    A file is the `jobs.csv` of an earlier run's report, a `table.csv` of results, a table (text or a workbook) with a
    column of asset ids, names or record ids, or a list of such, one per line. Cells are read as in the table of data
    assets. A folder holds results: jobs that are done there are excluded unless their input has changed.

    Raises
    ------
    RequestError
        One cannot be read, is a table without such a column, or a cell holds a formula that failed.
    """
    jobs: dict[str, ExcludedJob] = {}
    assets: dict[str, str] = {}
    for path in paths:
        found = _done_in(path) if path.is_dir() else _listed_in(path)
        if not (found.jobs or found.assets):
            nothing = "no job in it is done" if path.is_dir() else "it lists no job that is done, and no asset"
            logger.warning("--exclude: %s excludes nothing: %s", path, nothing)
        jobs = {**found.jobs, **jobs}
        assets = {**found.assets, **assets}
    return Exclusions(jobs, assets)


def report_unmatched(places: Mapping[str, str], matched: Collection[str], noun: tuple[str, str], what: str) -> None:
    """Log how many entries of each file matched nothing; warn of a file of which none did.

    Parameters
    ----------
    places : mapping of str to str
        By entry, the file that has it.
    matched : collection of str
        Entries that matched.
    noun : tuple of str
        What an entry is, in the singular and in the plural.
    what : str
        What it should have matched.
    """
    for place in dict.fromkeys(places.values()):
        entries = [one for one, its_place in places.items() if its_place == place]
        unmatched = sum(one not in matched for one in entries)
        if unmatched == len(entries):
            logger.warning("--exclude: %s excludes nothing: it names no %s", place, what)
        elif unmatched:
            number = counted(len(entries), *noun)
            logger.info("--exclude: %d of %s in %s match no %s", unmatched, number, place, what)


def _done_in(folder: Path) -> Exclusions:
    """Return the jobs that are done in a folder of results, each with its input."""
    results = folder / _RESULTS if (folder / _RESULTS).is_dir() else folder
    jobs = dict(_records(results, str(folder)))
    if jobs:
        logger.info("--exclude: %s: %s done, unless the input has changed", folder, counted(len(jobs), "job"))
    return Exclusions(jobs)


def _records(results: Path, place: str) -> Iterator[tuple[str, ExcludedJob]]:
    for path in sorted(results.glob(f"*/{_RECORD}")):
        try:
            record = json.loads(path.read_bytes())
        except (OSError, ValueError):  # removed meanwhile, or damaged: such a job is to be run
            continue
        if isinstance(record, dict) and record.get("job") == path.parent.name:
            yield path.parent.name, ExcludedJob(place, str(record.get("input", "")))


def _listed_in(path: Path) -> Exclusions:
    content = table_files.read(path, lambda title: _plain(title) in (_FILE_COLUMN, _JOB_COLUMN, *_ASSET_COLUMNS))
    lines = list(content.rows)
    header = [table_files.text(cell) for cell in lines[0].cells] if lines else []
    columns = {_plain(title): place for place, title in reversed(list(enumerate(header)))}
    for column in (_FILE_COLUMN, _JOB_COLUMN):
        # The table of results begins with its jobs; `skipped.csv` has such a column as well.
        is_there = columns.get(column) == 0 if column == _JOB_COLUMN else column in columns
        if is_there and all(map(_JOB.fullmatch, _values(lines[1:], columns, (column,), path))):
            return _jobs(path, lines[1:], columns, column)
    if known := [column for column in _ASSET_COLUMNS if column in columns]:
        assets = dict.fromkeys(_values(lines[1:], columns, known, path), str(path))
        titles = ", ".join(header[columns[column]] for column in known)
        logger.info("--exclude: %s: a table of %s by %s", path, counted(len(assets), "asset"), titles)
        return Exclusions(assets=assets)
    if any(len(line.cells) > 1 for line in lines):
        titles = ", ".join(header)
        raise RequestError(f"{path}: no column 'asset_id', 'name' or 'docdb_record_id' (columns: {titles})")
    assets = dict.fromkeys(_values(lines, {"": 0}, ("",), path), str(path))
    logger.info("--exclude: %s: a list of %s, one per line", path, counted(len(assets), "asset"))
    return Exclusions(assets=assets)


def _jobs(path: Path, lines: Sequence[Line], columns: Mapping[str, int], column: str) -> Exclusions:
    """Return the jobs of a report, or those that are done of a table of results."""
    if column == _JOB_COLUMN and _STATUS_COLUMN in columns:
        lines = [line for line in lines if _values([line], columns, (_STATUS_COLUMN,), path) == ["done"]]
    names = [name.removesuffix(".json") for name in _values(lines, columns, (column,), path)]
    kind = "of an earlier run" if column == _FILE_COLUMN else "done"
    logger.info("--exclude: %s: %s %s", path, counted(len(names), "job"), kind)
    return Exclusions(dict.fromkeys(names, ExcludedJob(str(path))))


def _values(lines: Sequence[Line], columns: Mapping[str, int], wanted: Sequence[str], path: Path) -> list[str]:
    """Return of each row the first of the wanted values that is filled in."""
    found = []
    for line in lines:
        for column in wanted:
            cell = line.cells[columns[column]] if columns[column] < len(line.cells) else None
            try:
                table_files.check(cell, f"its {column or 'value'}")
            except RequestError as error:
                raise RequestError(f"{path}, line {line.number}: {error.headline}") from None
            if said := table_files.text(cell):
                # A name is never a UUID or an address, so that it stays as it is.
                found.append(tables.asset_id(said))
                break
    return found


def _plain(title: str) -> str:
    """Return a column's title in the spelling of a field: `Asset IDs` is `asset_id`."""
    return re.sub(r"(_id|name)s$", r"\1", re.sub(r"[\s-]+", "_", table_files.text(title).lower()))

"""What `--exclude` leaves out: jobs of an earlier run, or assets."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from job_dispatch.messages import RequestError, counted, logger
from job_dispatch.request import table_files, tables
from job_dispatch.request.table_files import Line

_JOB_COLUMN = "file_name"
_JOB = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(\.json)?")
# The most certain first: of each row the first that is filled in counts.
_ASSET_COLUMNS = ("docdb_record_id", "record_id", "_id", "asset_id", "asset_name", "name")


@dataclass(frozen=True)
class Exclusions:
    """Names of jobs, or whatever assets are known by: their ids, names or record ids."""

    jobs: frozenset[str] = frozenset()
    assets: frozenset[str] = frozenset()
    place: str = ""

    def has_asset(self, *known_as: str) -> bool:
        """Tell whether an asset with these ids and names is excluded."""
        return not self.assets.isdisjoint(known_as)


def read_exclusions(path: Path) -> Exclusions:
    """Return what a file excludes; the log reports how the file was understood.

    It is the `jobs.csv` of an earlier run's report, a table (text or a workbook) with a column of asset ids, names or
    record ids, or a list of such, one per line. Cells are read as in the table of data assets.

    Raises
    ------
    RequestError
        It cannot be read, is a table without such a column, or a cell holds a formula that failed.
    """
    content = table_files.read(path, lambda title: _plain(title) in (_JOB_COLUMN, *_ASSET_COLUMNS))
    lines = list(content.rows)
    header = [table_files.text(cell) for cell in lines[0].cells] if lines else []
    columns = {_plain(title): place for place, title in reversed(list(enumerate(header)))}
    files = _values(lines[1:], columns, (_JOB_COLUMN,), path) if _JOB_COLUMN in columns else []
    if _JOB_COLUMN in columns and all(map(_JOB.fullmatch, files)):
        jobs = frozenset(name.removesuffix(".json") for name in files)
        logger.info("--exclude: %s: %s of an earlier run", path, counted(len(jobs), "job"))
        return Exclusions(jobs=jobs, place=str(path))
    if known := [column for column in _ASSET_COLUMNS if column in columns]:
        assets = frozenset(_values(lines[1:], columns, known, path))
        titles = ", ".join(header[columns[column]] for column in known)
        logger.info("--exclude: %s: a table of %s by %s", path, counted(len(assets), "asset"), titles)
        return Exclusions(assets=assets, place=str(path))
    if any(len(line.cells) > 1 for line in lines):
        titles = ", ".join(header)
        raise RequestError(f"{path}: no column 'asset_id', 'name' or 'docdb_record_id' (columns: {titles})")
    assets = frozenset(_values(lines, {"": 0}, ("",), path))
    logger.info("--exclude: %s: a list of %s, one per line", path, counted(len(assets), "asset"))
    return Exclusions(assets=assets, place=str(path))


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

"""What `--exclude` leaves out: jobs of an earlier run, or assets."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from job_dispatch.messages import RequestError, counted, logger
from job_dispatch.request import table_files

_JOB_COLUMN = "file_name"
_JOB = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(\.json)?")
# The most certain first: of each row the first that is filled in counts.
_ASSET_COLUMNS = ("docdb_record_id", "record_id", "_id", "asset_id", "asset_name", "name")


@dataclass(frozen=True)
class Exclusions:
    """Names of jobs, and whatever assets are known by: their ids, names or record ids."""

    jobs: frozenset[str] = frozenset()
    assets: frozenset[str] = frozenset()
    place: str = ""

    def have_asset(self, *known_as: str) -> bool:
        """Tell whether an asset that is known by these ids and names is left out."""
        return not self.assets.isdisjoint(known_as)


def read_exclusions(path: Path) -> Exclusions:
    """Return what a file leaves out; what kind of file it was taken for is logged.

    It is the `jobs.csv` of an earlier run's report, a table (text or a workbook) with a column of asset ids, names or
    record ids, or a list of such, one a line.

    Raises
    ------
    RequestError
        It cannot be read, or is a table without such a column.
    """
    content = table_files.read(path, lambda title: _plain(title) in (_JOB_COLUMN, *_ASSET_COLUMNS))
    header, *rows = [[_text(cell) for cell in line.cells] for line in content.rows] or [[]]
    columns = {_plain(title): place for place, title in reversed(list(enumerate(header)))}
    files = _cells(rows, columns, (_JOB_COLUMN,)) if _JOB_COLUMN in columns else []
    if _JOB_COLUMN in columns and all(map(_JOB.fullmatch, files)):
        jobs = frozenset(cell.removesuffix(".json") for cell in files)
        logger.info("--exclude: %s is taken for jobs of an earlier run: %s", path, counted(len(jobs), "job"))
        return Exclusions(jobs=jobs, place=str(path))
    if known := [column for column in _ASSET_COLUMNS if column in columns]:
        assets = frozenset(_cells(rows, columns, known))
        titles = ", ".join(header[columns[column]] for column in known)
        logger.info("--exclude: %s is taken for a table of %s by %s", path, counted(len(assets), "asset"), titles)
        return Exclusions(assets=assets, place=str(path))
    if any(len(row) > 1 for row in (header, *rows)):
        titles = ", ".join(header)
        raise RequestError(f"{path}: no column 'asset_id', 'name' or 'docdb_record_id' (columns: {titles})")
    assets = frozenset(cell for row in (header, *rows) for cell in row if cell)
    logger.info("--exclude: %s is taken for a list of %s, one a line", path, counted(len(assets), "asset"))
    return Exclusions(assets=assets, place=str(path))


def _text(cell: object) -> str:
    return "" if cell is None else f"{cell}".strip()


def _cells(rows: Sequence[Sequence[str]], columns: Mapping[str, int], wanted: Sequence[str]) -> list[str]:
    """Return of each row the first of the wanted cells that is filled in."""
    places = [columns[column] for column in wanted]
    filled = ([row[place] for place in places if place < len(row) and row[place]] for row in rows)
    return [cells[0] for cells in filled if cells]


def _plain(title: str) -> str:
    """Return a column's title in the spelling of a field: `Asset IDs` is `asset_id`."""
    return re.sub(r"(_id|name)s$", r"\1", re.sub(r"[\s-]+", "_", title.strip().lower()))

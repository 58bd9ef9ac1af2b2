"""What `--exclude` leaves out: jobs of an earlier run, or assets."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from job_dispatch.messages import RequestError, counted, logger
from job_dispatch.request import json_text

_JOB_COLUMN = "file_name"
# The most certain first: of each row the first that is filled in counts.
_ASSET_COLUMNS = ("docdb_record_id", "record_id", "_id", "asset_id", "asset_name", "name")
_SEPARATORS = ",;\t"


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

    It is the `jobs.csv` of an earlier run's report, a table with a column of asset ids, names or record ids, or a
    list of such, one a line.

    Raises
    ------
    RequestError
        It cannot be read, or is a table without such a column.
    """
    header, *rows = _rows(json_text.read_file(path)) or [[]]
    columns = {_plain(title): place for place, title in reversed(list(enumerate(header)))}
    if _JOB_COLUMN in columns:
        jobs = frozenset(cell.removesuffix(".json") for cell in _cells(rows, columns, (_JOB_COLUMN,)))
        logger.info("--exclude: %s is taken for jobs of an earlier run: %s", path, counted(len(jobs), "job"))
        return Exclusions(jobs=jobs, place=str(path))
    if known := [column for column in _ASSET_COLUMNS if column in columns]:
        assets = frozenset(_cells(rows, columns, known))
        titles = ", ".join(header[columns[column]].strip() for column in known)
        logger.info("--exclude: %s is taken for a table of %s by %s", path, counted(len(assets), "asset"), titles)
        return Exclusions(assets=assets, place=str(path))
    if any(len(row) > 1 for row in (header, *rows)):
        titles = ", ".join(title.strip() for title in header)
        raise RequestError(f"{path}: no column 'asset_id', 'name' or 'docdb_record_id' (columns: {titles})")
    assets = frozenset(cell.strip() for row in (header, *rows) for cell in row if cell.strip())
    logger.info("--exclude: %s is taken for a list of %s, one a line", path, counted(len(assets), "asset"))
    return Exclusions(assets=assets, place=str(path))


def _rows(text: str) -> list[list[str]]:
    """Return the rows of a table that have anything in them; its first line tells what separates cells."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    separator = max(_SEPARATORS, key=first.count)
    rows = csv.reader(io.StringIO(text.lstrip("\ufeff"), newline=""), delimiter=separator, skipinitialspace=True)
    try:
        return [row for row in rows if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise RequestError(f"--exclude: line {rows.line_num} cannot be read: {error}") from None


def _cells(rows: Sequence[Sequence[str]], columns: Mapping[str, int], wanted: Sequence[str]) -> list[str]:
    """Return of each row the first of the wanted cells that is filled in."""
    places = [columns[column] for column in wanted]
    filled = ([row[place].strip() for place in places if place < len(row) and row[place].strip()] for row in rows)
    return [cells[0] for cells in filled if cells]


def _plain(title: str) -> str:
    """Return a column's title in the spelling of a field: `Asset IDs` is `asset_id`."""
    return re.sub(r"(_id|name)s$", r"\1", re.sub(r"[\s-]+", "_", title.strip().lower()))

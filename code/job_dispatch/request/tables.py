"""The table of data assets that people bring: which rows it has, and what each of them asks for."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from job_dispatch.messages import RequestError, counted, logger
from job_dispatch.request import json_text

if TYPE_CHECKING:
    import pandas as pd

CSV_NAME = "data_asset_input.csv"


class Key(NamedTuple):
    """What one or more rows ask for: records whose `column` is `value`."""

    column: str
    value: str

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Row:
    """One row: its line in the file, what it asks for, and the parameters of its jobs."""

    line: int
    key: Key
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """The rows of a table, in their order.

    `noun` is what they ask by, in the singular: `id`, `name`, …
    """

    rows: tuple[Row, ...]
    file_name: str
    noun: str = "id"

    def __str__(self) -> str:
        return f"{self.file_name}, {counted(len(self.keys), self.noun)}"

    @property
    def keys(self) -> dict[Key, list[Row]]:
        """What is asked for, each once, in the order of the rows; and the rows that do."""
        found: dict[Key, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.key, []).append(row)
        return found

    def values(self, column: str) -> list[str]:
        """Return what is asked for in a column, each once."""
        return [key.value for key in self.keys if key.column == column]


def read_table(folders: Sequence[Path]) -> Table:
    """Return the ids in column `asset_id` of the CSV in the first of these folders that has one.

    Raises
    ------
    RequestError
        No CSV or several candidates, no such column, no ids, or a file that is no CSV.
    """
    path = _find_csv(folders)
    rows = _read_csv(path)
    columns = [name.strip() for name in rows.iloc[0] if name.strip()]
    if "asset_id" not in columns:
        raise RequestError(f"{path.name}: no column 'asset_id' (columns: {', '.join(columns)})")
    column = rows.loc[1:, rows.iloc[0].str.strip() == "asset_id"].iloc[:, 0].str.strip()
    ids = column[column != ""]
    if ids.empty:
        raise RequestError(f"{path.name}: no ids in column 'asset_id'")
    unique = tuple(ids.drop_duplicates())
    if len(unique) < len(ids):
        logger.warning("%s: %s dropped", path.name, counted(len(ids) - len(unique), "repeated id"))
    return Table(tuple(Row(0, Key("asset_id", one)) for one in unique), path.name)


def _read_csv(path: Path) -> pd.DataFrame:
    """Return all rows as text, the header among them, blank where a row is short."""
    import pandas as pd

    text = json_text.read_file(path)
    # Rows may have cells beyond the header; commas inside quotes only make this too wide.
    width = max((line.count(",") for line in text.splitlines()), default=0) + 1
    try:
        rows = pd.read_csv(
            io.StringIO(text), header=None, names=range(width), dtype=str, keep_default_na=False, skipinitialspace=True
        )
    except (pd.errors.ParserError, ValueError) as error:
        raise RequestError(f"{path.name}: not a readable CSV: {' '.join(str(error).split())}") from None
    if rows.empty:
        raise RequestError(f"{path.name}: the file is empty; it needs a column 'asset_id'")
    return rows


def _find_csv(folders: Sequence[Path]) -> Path:
    for path in (folder / CSV_NAME for folder in folders):
        if path.is_file():
            return path
    first, second = folders
    candidates = sorted(path for path in _files_in(first) if path.suffix.lower() == ".csv")
    if not candidates:
        raise RequestError(f"--use_data_asset_csv: no {CSV_NAME} in {first} or its {second.name}/")
    if len(candidates) > 1:
        raise RequestError(
            f"--use_data_asset_csv: several CSV files in {first}; name the one to use {CSV_NAME}",
            [path.name for path in candidates],
        )
    return candidates[0]


def _files_in(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))

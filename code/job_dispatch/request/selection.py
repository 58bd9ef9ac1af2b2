"""What selects the assets: a query, or the ids of a CSV."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job_dispatch.messages import RequestError, counted, logger
from job_dispatch.request import json_text
from job_dispatch.request.flags import Settings

if TYPE_CHECKING:
    import pandas as pd

CSV_NAME = "data_asset_input.csv"
# A pipeline mounts its input files in this folder of the input directory.
PIPELINE_FOLDER = "input_files"


@dataclass(frozen=True)
class Query:
    """A MongoDB-style filter; `{}` selects every record."""

    filter: dict[str, Any]

    def __str__(self) -> str:
        """Return the filter as compact JSON, its keys in the order of the user."""
        return json.dumps(self.filter, separators=(",", ":"))


@dataclass(frozen=True)
class AssetIds:
    """Code Ocean data asset ids in the order of the CSV, each once."""

    ids: tuple[str, ...]
    file_name: str

    def __str__(self) -> str:
        return f"{self.file_name}, {counted(len(self.ids), 'id')}"


def read_selection(settings: Settings) -> Query | AssetIds:
    """Return what selects the assets: the ids of the CSV, or else the query.

    Raises
    ------
    RequestError
        Neither is asked for, or the one that is cannot be read.
    """
    if settings.use_data_asset_csv:
        if settings.docdb_query:
            logger.warning("--use_data_asset_csv=1 wins over --docdb_query, which is not used")
        return read_asset_ids(settings.input_directory)
    if settings.docdb_query:
        return read_query(settings.docdb_query, settings.input_directory)
    raise RequestError("no assets selected: give --docdb_query, or --use_data_asset_csv=1 with a CSV of asset ids")


def read_query(text: str, input_directory: Path) -> Query:
    """Return the query that `text` is, or that the file of that name holds.

    Raises
    ------
    RequestError
        The file is missing, the text cannot be read, or it is not one object.
    """
    place = "--docdb_query"
    if not text.strip().lstrip("\ufeff").lstrip().startswith(("{", "[")):
        remedy = "give a query that starts with {, or the path of a file with one"
        path = find_file("--docdb_query", text.strip(), input_directory, remedy)
        place, text = str(path), json_text.read_file(path)
    value = json_text.read(text, place)
    if isinstance(value, list):
        raise RequestError(
            f"{place}: a list is an aggregation pipeline, which is not supported; give the object of its $match"
        )
    if not isinstance(value, dict):
        raise RequestError(f'{place}: a query is an object such as {{"subject.subject_id": "774659"}}')
    if not value:
        logger.warning("%s: {} selects every record", place)
    return Query(value)


def find_file(flag: str, name: str, input_directory: Path, remedy: str) -> Path:
    """Return the file that a flag names, as given or inside the input directory.

    Raises
    ------
    RequestError
        There is none; the places looked in are shown with the remedy.
    """
    places = list(dict.fromkeys([Path(name), input_directory / name]))
    for path in places:
        if os.path.isfile(path):  # noqa: PTH113 - unlike Path.is_file, False for names too long to be one
            return path
    if os.path.isdir(name):  # noqa: PTH112
        raise RequestError(f"{flag}: {name} is a folder; {remedy}")
    raise RequestError(f"{flag}: no such file: {name}; {remedy}", [f"looked for {path}" for path in places])


def read_asset_ids(input_directory: Path) -> AssetIds:
    """Return the ids in column `asset_id` of the CSV in the input directory.

    Raises
    ------
    RequestError
        No CSV or several candidates, no such column, no ids, or a file that is no CSV.
    """
    path = _find_csv(input_directory)
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
    return AssetIds(unique, path.name)


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


def _find_csv(input_directory: Path) -> Path:
    for path in (input_directory / CSV_NAME, input_directory / PIPELINE_FOLDER / CSV_NAME):
        if path.is_file():
            return path
    candidates = sorted(path for path in _files_in(input_directory) if path.suffix.lower() == ".csv")
    if not candidates:
        raise RequestError(f"--use_data_asset_csv: no {CSV_NAME} in {input_directory} or its {PIPELINE_FOLDER}/")
    if len(candidates) > 1:
        raise RequestError(
            f"--use_data_asset_csv: several CSV files in {input_directory}; name the one to use {CSV_NAME}",
            [path.name for path in candidates],
        )
    return candidates[0]


def _files_in(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def check_input_directory(folder: Path) -> None:
    """Refuse an input directory that is not there: without it a run would go on without its parameters.

    Raises
    ------
    RequestError
        It is missing, no folder, or cannot be read.
    """
    try:
        next(folder.iterdir(), None)
    except FileNotFoundError:
        raise RequestError(f"--input_directory: no such folder: {folder}") from None
    except OSError as error:
        raise RequestError(f"--input_directory: {folder}: {error.strerror}") from None

"""What selects the assets: a query, a table, or both."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from job_dispatch.messages import RequestError, logger, printable
from job_dispatch.request import fields, json_text, tables, values
from job_dispatch.request.exclusions import Exclusions, read_exclusions
from job_dispatch.request.fields import Query
from job_dispatch.request.flags import Settings
from job_dispatch.request.query import is_query, query_in

# A pipeline mounts its input files in this folder of the input directory.
PIPELINE_FOLDER = "input_files"
# The input directory of a capsule.
_DATA = Path("/data")
_NAME_SHOWN = 100
_NOTHING_ASKED = (
    "no assets selected: give --subject, --project, --modality, --from, --to or --docdb_query,"
    " or --use_data_asset_csv=1 with a CSV of asset ids"
)


@dataclass(frozen=True)
class Selection:
    """What selects the assets: records must match the query and a row of the table, if there are any.

    Parameters
    ----------
    query : Query or None
    table : Table or None
        Without both, everything is selected.
    exclusions : Exclusions
        Assets and jobs that are excluded.
    modality : tuple of str
        Abbreviations of the modalities whose quality control counts; empty: all.
    """

    query: Query | None = None
    table: tables.Table | None = None
    exclusions: Exclusions = field(default_factory=Exclusions)
    modality: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " and ".join(str(part) for part in (self.table, self.query) if part is not None) or "all assets"

    @property
    def query_text(self) -> str | None:
        """The query as compact JSON, None where there is none."""
        return None if self.query is None else str(self.query)


def read_selection(settings: Settings) -> Selection:
    """Return what selects the assets: the query, the table, or both.

    Raises
    ------
    RequestError
        Neither is given and assets are not only described, or one cannot be read.
    """
    query = read_query(settings.docdb_query, settings.input_directory) if settings.docdb_query else None
    table = None
    if settings.use_data_asset_csv:
        if isinstance(settings.use_data_asset_csv, Path):
            name, remedy = str(settings.use_data_asset_csv), "give 1 or the path of a table"
            paths = [find_file("--use_data_asset_csv", name, settings.input_directory, remedy)]
        else:
            paths = [settings.input_directory, settings.input_directory / PIPELINE_FOLDER]
        table = tables.read_table(paths)
    remedy = "give a folder of results, jobs.csv or table.csv, or a file of asset ids, names or record ids"
    excluding = [find_file("--exclude", one, settings.input_directory, remedy, True) for one in settings.exclude]
    exclusions = read_exclusions(excluding)
    selection = selected_by(query, settings, table, exclusions)
    if selection.query is None and table is None and not settings.describe and settings.metadata_catalog is None:
        raise RequestError(_NOTHING_ASKED)
    return selection


def selected_by(
    query: Query | None, settings: Settings, table: tables.Table | None, exclusions: Exclusions
) -> Selection:
    """Return what a query, the flags that select without one, and a table select together."""
    queries = [Query.of(one) for one in _by_flags(settings)]
    if query is not None:
        if not query.filter and not queries:
            logger.warning("--docdb_query: {} selects every record")
        queries.insert(0, query)
    return Selection(Query.all_of(queries) if queries else None, table, exclusions, settings.modality)


def _by_flags(settings: Settings) -> list[fields.Filter]:
    """Return the conditions of the flags that select without a query."""
    filters: list[fields.Filter] = []
    for name in ("subject", "project", "modality"):
        wanted = getattr(settings, name)
        if wanted:
            filters.append({f"@{name}": wanted[0] if len(wanted) == 1 else {"$in": list(wanted)}})
    days: dict[str, str] = {}
    if settings.from_:
        days["$gte"] = f"{settings.from_}"
    if settings.to:
        days["$lt"] = fields.day_after(settings.to)
    if days:
        # As text, since a day is that of the session's own clock.
        filters.append({"|".join(fields.NAMES["@session"]): days})
    return filters


def read_query(text: str, input_directory: Path) -> Query:
    """Return the query in a text, or in the file of that name.

    Raises
    ------
    RequestError
        The file is missing, or there is no filter that can be used.
    """
    if is_query(text):
        return query_in(text, "--docdb_query")
    remedy = "give a query that starts with {, or the path of a file with one"
    path = find_file("--docdb_query", text.strip(), input_directory, remedy)
    return query_in(json_text.read_file(path), str(path))


def find_file(flag: str, name: str, input_directory: Path, remedy: str, is_folder_too: bool = False) -> Path:
    """Return the file (or folder) that a flag names, as given or inside the input directory or its `input_files`.

    A name below the input directory, or below the `/data` of a capsule, is looked for in `input_files` as well:
    whether a file lies there depends on whether a pipeline or a capsule runs.

    Raises
    ------
    RequestError
        There is none; the places looked in are shown with the remedy.
    """
    places = file_places(name, input_directory)
    for path in places:
        # Unlike those of Path, these are False for names too long to be one.
        if os.path.isfile(path) or (is_folder_too and os.path.isdir(path)):  # noqa: PTH112, PTH113
            return path
    if os.path.isdir(name):  # noqa: PTH112
        raise RequestError(f"{flag}: {name} is a folder; {remedy}")
    details = [f"looked for {path}" for path in places] if len(name) <= _NAME_SHOWN else []
    raise RequestError(f"{flag}: no such file: {printable(name, _NAME_SHOWN)}; {remedy}", details)


def file_places(name: str, input_directory: Path) -> list[Path]:
    """Return where a file that a flag names may be."""
    names = [values.path(name)]
    for root in (_DATA, input_directory):
        if names[0].is_relative_to(root):
            names.append(names[0].relative_to(root))
    folders = (input_directory, input_directory / PIPELINE_FOLDER)
    return list(dict.fromkeys([names[0], *(folder / one for folder in folders for one in names)]))


def check_input_directory(folder: Path, is_read: bool) -> None:
    """Refuse a missing input directory: the run would go on without its parameters.

    The default, `data` in the current folder, may be missing unless `is_read`.

    Raises
    ------
    RequestError
        It is missing, no folder, or cannot be read.
    """
    try:
        next(folder.iterdir(), None)
    except FileNotFoundError:
        if is_read or folder != Path("data"):
            raise RequestError(f"--input_directory: no such folder: {folder}") from None
    except OSError as error:
        raise RequestError(f"--input_directory: {folder}: {error.strerror}") from None

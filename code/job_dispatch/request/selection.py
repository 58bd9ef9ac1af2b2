"""What selects the assets: a query, a table, or both, without what `--exclude` leaves out."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

from job_dispatch.messages import RequestError, counted, logger, printable
from job_dispatch.model import ExcludedJob
from job_dispatch.request import fields, flag_values, json_text, table_files, tables
from job_dispatch.request.fields import Query
from job_dispatch.request.flags import Settings
from job_dispatch.request.query import is_query, query_in
from job_dispatch.request.table_files import Line

# A pipeline mounts its input files in this folder of the input directory.
PIPELINE_FOLDER = "input_files"
# The input directory of a capsule.
_DATA = Path("/data")
_NAME_SHOWN = 100
_NOTHING_ASKED = (
    "no assets selected: give --subject, --project, --modality, --from, --to or --docdb_query,"
    " or --use_data_asset_csv=1 with a CSV of asset ids"
)
# Of the report of a dispatch, and of the table of results.
_FILE_COLUMN, _JOB_COLUMN, _STATUS_COLUMN = "file_name", "job", "status"
_JOB = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(\.json)?")
# The most certain first: of each row the first that is filled in counts.
_ASSET_COLUMNS = ("docdb_record_id", "record_id", "_id", "asset_id", "asset_name", "name")
_RESULTS, _RECORD = "analysis_results", "job.json"


@dataclass(frozen=True)
class Exclusions:
    """Jobs that are excluded, by name; and by what an asset is known by (an id, a name), the file that excludes it."""

    jobs: Mapping[str, ExcludedJob] = field(default_factory=dict)
    assets: Mapping[str, str] = field(default_factory=dict)

    def place_of(self, *known_as: str) -> str:
        """Return the file that excludes an asset with these ids and names, "" if none does."""
        return next((self.assets[one] for one in known_as if one in self.assets), "")


@dataclass(frozen=True)
class Selection:
    """What selects the assets: records must match the query and a row of the table, if there are any."""

    query: Query | None = None
    table: tables.Table | None = None
    exclusions: Exclusions = field(default_factory=Exclusions)

    def __str__(self) -> str:
        return " and ".join(str(part) for part in (self.table, self.query) if part is not None) or "all assets"


def read_selection(settings: Settings) -> Selection:
    """Return what selects the assets: the query, the table, or both.

    RequestError if neither is given and assets are not only described, or if one cannot be read.
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
    filters: list[fields.Filter] = []
    for name in ("subject", "project", "modality"):
        if wanted := getattr(settings, name):
            filters.append({f"@{name}": wanted[0] if len(wanted) == 1 else {"$in": list(wanted)}})
    days: dict[str, str] = {}
    if settings.from_:
        days["$gte"] = f"{settings.from_}"
    if settings.to:
        days["$lt"] = fields.AFTER_ALL_DAYS if settings.to == date.max else f"{settings.to + timedelta(1)}"
    if days:
        # As text, since a day is that of the session's own clock.
        filters.append({"|".join(fields.NAMES["@session"]): days})
    queries = [Query.of(one) for one in filters]
    if query is not None:
        if not query.filter and not queries:
            logger.warning("--docdb_query: {} selects every record")
        queries.insert(0, query)
    return Selection(Query.all_of(queries) if queries else None, table, exclusions)


def read_query(text: str, input_directory: Path) -> Query:
    """Return the query in a text, or in the file of that name; RequestError if there is none that can be used."""
    if is_query(text):
        return query_in(text, "--docdb_query")
    remedy = "give a query that starts with {, or the path of a file with one"
    path = find_file("--docdb_query", text.strip(), input_directory, remedy)
    return query_in(json_text.read_file(path), str(path))


def find_file(flag: str, name: str, input_directory: Path, remedy: str, is_folder_too: bool = False) -> Path:
    """Return the file (or folder) that a flag names, as given or inside the input directory or its `input_files`.

    A name below the input directory, or below the `/data` of a capsule, is looked for in `input_files` as well:
    whether a file lies there depends on whether a pipeline or a capsule runs.
    RequestError with the remedy and the places looked in, if there is none.
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
    names = [flag_values.path(name)]
    for root in (_DATA, input_directory):
        if names[0].is_relative_to(root):
            names.append(names[0].relative_to(root))
    folders = (input_directory, input_directory / PIPELINE_FOLDER)
    return list(dict.fromkeys([names[0], *(folder / one for folder in folders for one in names)]))


def check_input_directory(folder: Path, is_read: bool) -> None:
    """Refuse an input directory that is missing or cannot be read: the run would go on without its parameters.

    The default, `data` in the current folder, may be missing unless `is_read`.
    """
    try:
        next(folder.iterdir(), None)
    except FileNotFoundError:
        if is_read or folder != Path("data"):
            raise RequestError(f"--input_directory: no such folder: {folder}") from None
    except OSError as error:
        raise RequestError(f"--input_directory: {folder}: {error.strerror}") from None


def read_exclusions(paths: Sequence[Path]) -> Exclusions:
    """Return what files and folders exclude; the log reports how each was understood.

    A file is the `jobs.csv` of an earlier run's report, a `table.csv` of results, a table (text or a workbook) with a
    column of asset ids, names or record ids, or a list of such, one per line. Cells are read as in the table of data
    assets. A folder holds results: jobs that are done there are excluded unless their input has changed.
    RequestError if one cannot be read, is a table without such a column, or a cell holds a formula that failed.
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

    `places` has the file of each entry; `noun` names an entry, in the singular and in the plural, and `what` that which
    it should have matched.
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
    jobs = {}
    for path in sorted(results.glob(f"*/{_RECORD}")):
        with contextlib.suppress(OSError, ValueError):  # removed meanwhile, or damaged: such a job is to be run
            record = json.loads(path.read_bytes())
            if isinstance(record, dict) and record.get("job") == path.parent.name:
                jobs[path.parent.name] = ExcludedJob(str(folder), str(record.get("input", "")))
    if jobs:
        logger.info("--exclude: %s: %s done, unless the input has changed", folder, counted(len(jobs), "job"))
    return Exclusions(jobs)


def _listed_in(path: Path) -> Exclusions:
    content = table_files.read(path, lambda title: _plain(title) in (_FILE_COLUMN, _JOB_COLUMN, *_ASSET_COLUMNS))
    lines = list(content.rows)
    header = [table_files.text(cell) for cell in lines[0].cells] if lines else []
    columns = {_plain(title): place for place, title in reversed(list(enumerate(header)))}
    for column in (_FILE_COLUMN, _JOB_COLUMN):
        # The table of results begins with its jobs; `skipped.csv` has such a column as well.
        is_there = columns.get(column) == 0 if column == _JOB_COLUMN else column in columns
        if not is_there or not all(map(_JOB.fullmatch, _values(lines[1:], columns, (column,), path))):
            continue
        rows, kind = lines[1:], "of an earlier run" if column == _FILE_COLUMN else "done"
        if column == _JOB_COLUMN and _STATUS_COLUMN in columns:
            rows = [line for line in rows if _values([line], columns, (_STATUS_COLUMN,), path) == ["done"]]
        jobs = [name.removesuffix(".json") for name in _values(rows, columns, (column,), path)]
        logger.info("--exclude: %s: %s %s", path, counted(len(jobs), "job"), kind)
        return Exclusions(dict.fromkeys(jobs, ExcludedJob(str(path))))
    wanted: Sequence[str] = [column for column in _ASSET_COLUMNS if column in columns]
    if not wanted and any(len(line.cells) > 1 for line in lines):
        titles = ", ".join(header)
        raise RequestError(f"{path}: no column 'asset_id', 'name' or 'docdb_record_id' (columns: {titles})")
    if wanted:
        assets = dict.fromkeys(_values(lines[1:], columns, wanted, path), str(path))
        titles = ", ".join(header[columns[column]] for column in wanted)
        logger.info("--exclude: %s: a table of %s by %s", path, counted(len(assets), "asset"), titles)
    else:
        assets = dict.fromkeys(_values(lines, {"": 0}, ("",), path), str(path))
        logger.info("--exclude: %s: a list of %s, one per line", path, counted(len(assets), "asset"))
    return Exclusions(assets=assets)


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

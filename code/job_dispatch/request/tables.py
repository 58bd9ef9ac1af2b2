"""The table of data assets: its rows, and which assets each of them selects."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from job_dispatch.messages import RequestError, counted, logger, printable, warn_listing
from job_dispatch.request import fields, json_text, table_files
from job_dispatch.request.table_files import Content, Line

_NAME = "data_asset_input"
_ENDINGS = (".csv", ".xlsx", ".tsv")
# A row selects by one of these columns …
_NOUNS = {"asset_id": "id", "name": "name", "docdb_record_id": "record id", "location": "location"}
# … or by these two together.
_SUBJECT, _SESSION = "subject_id", "session"
_COLUMNS = (*_NOUNS, _SUBJECT, _SESSION)
_PREFIX = "parameters."
_PARAMETER = re.compile(r"parameters\.(.*)", re.IGNORECASE | re.DOTALL)
_ALMOST_A_PARAMETER = re.compile(r"param(?:eter)?s?\s*[._:-]\s*\S", re.IGNORECASE)
_LINES_BEFORE_HEADER = 20
_SHOWN = 60
_UUID = r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}"
_ID = re.compile(rf"(?:.*data[-_]assets/)?({_UUID})(?:[/?#].*)?", re.IGNORECASE)
_SCIENTIFIC = re.compile(r"[+-]?\d+(?:[.,]\d+)?[eE][+-]?\d+")
_WHOLE = re.compile(r"(-?\d+)\.0+")
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+(?:[eE][+-]?\d+)?")
# As Excel, R and pandas spell them in a CSV.
_TRUTHS = {"TRUE": True, "FALSE": False, "True": True, "False": False}


class Key(NamedTuple):
    """What one or more rows select: records whose `column` is `value`, and that began at `session`, if given."""

    column: str
    value: str
    session: str = ""

    def __str__(self) -> str:
        return f"{self.value}, {self.session}" if self.session else self.value


@dataclass(frozen=True)
class Row:
    """One row: its line in the file, what it selects, and the parameters of its jobs."""

    line: int
    key: Key
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """The rows of a table, in their order; `noun` is what they select by, in the singular, such as `id`."""

    rows: tuple[Row, ...]
    file_name: str
    noun: str = "id"

    def __str__(self) -> str:
        return f"{self.file_name}, {counted(len(self.keys), self.noun)}"

    @cached_property
    def keys(self) -> dict[Key, list[Row]]:
        """What is selected, each once, in the order of the rows, with its rows."""
        found: dict[Key, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.key, []).append(row)
        return found

    @property
    def has_parameters(self) -> bool:
        """Whether any row has parameters of its own."""
        return any(row.parameters for row in self.rows)

    def values(self, column: str) -> list[str]:
        """Return the values of a column, each once."""
        return [key.value for key in self.keys if key.column == column]


def read_table(places: Sequence[Path]) -> Table:
    """Return the table of data assets: a file, or the one in the first of two folders that has one.

    RequestError if there is none or several could be it, no column selects or several do, there are no rows, or cells
    cannot be read.
    """
    path = places[0] if len(places) == 1 else _find_table(places)
    content = table_files.read(path, _selects)
    header, columns, lines = _header(content, path.name)
    named = _Columns.of(header, columns, path.name)
    rows, unused = _rows(named, lines, content.has_decimal_comma, path.name)
    if not rows:
        raise RequestError(f"{path.name}: no {named.noun}s in column '{named.shown}'", unused)
    if unused:
        warn_listing(f"{path.name}: {counted(len(unused), 'row')} without {named.wanted} not used:", unused)
    parameters = ", ".join(name.removeprefix(_PREFIX) for name in named.places if name.startswith(_PREFIX))
    selecting = f"{named.noun}s in column '{named.shown}' (line {header.number})"
    also = f", parameters: {parameters}" if parameters else ""
    logger.info("%s: %s, %s, %s%s", path.name, content.form, selecting, counted(len(rows), "row"), also)
    unique = json_text.distinct(rows, lambda row: [row.key, row.parameters])
    if len(unique) < len(rows):
        repeats = counted(len(rows) - len(unique), f"repeated {named.noun}")
        logger.warning("%s: %s dropped", path.name, repeats)
    return Table(tuple(unique), path.name, named.noun)


def _find_table(folders: Sequence[Path]) -> Path:
    for folder in folders:
        found = [path for path in (folder / f"{_NAME}{ending}" for ending in _ENDINGS) if path.is_file()]
        if len(found) > 1:
            warn_listing(f"{found[0]} is used; not read:", [str(path) for path in found[1:]])
        if found:
            return found[0]
    first, second = folders
    # Excel puts ~$name beside a workbook that is open, macOS ._name beside any file.
    files = sorted(path for path in first.iterdir() if path.is_file() and not path.name.startswith((".", "~$")))
    for ending in _ENDINGS:
        candidates = [path for path in files if path.suffix.lower() == ending]
        if len(candidates) > 1:
            raise RequestError(
                f"--use_data_asset_csv: several {ending[1:].upper()} files in {first};"
                f" name the one to use {_NAME}{ending}",
                [path.name for path in candidates],
            )
        if candidates:
            return candidates[0]
    raise RequestError(f"--use_data_asset_csv: no {_NAME}.csv (nor .xlsx, .tsv) in {first} or its {second.name}/")


def _header(content: Content, name: str) -> tuple[Line, list[str], Iterator[Line]]:
    """Return the header, the text of its cells, and the rows below; there may be titles above it."""
    lines = iter(content.rows)
    first: list[str] = []
    for line in islice(lines, _LINES_BEFORE_HEADER):
        columns = [table_files.text(cell) for cell in line.cells]
        if any(map(_selects, columns)):
            return line, columns, lines
        first = first or columns
    unread = [content.unread] if content.unread else []
    if not first:
        raise RequestError(f"{name}: the file is empty; it needs a column 'asset_id'", unread)
    shown = ", ".join(filter(None, first))
    others = ", ".join(f"'{column}'" for column in _NOUNS if column != "asset_id")
    raise RequestError(
        f"{name}: no column 'asset_id' (columns: {shown})",
        [f"{others}, or '{_SUBJECT}' with '{_SESSION}' can select assets as well", *unread],
    )


def _selects(column: str) -> bool:
    return _canonical(table_files.text(column)) in (*_NOUNS, _SUBJECT)


def _canonical(column: str) -> str:
    """Return the name that a column has here, whatever its case, blanks and underscores; itself where none."""
    if parameter := _PARAMETER.fullmatch(column):
        return _PREFIX + parameter[1].strip()
    bare = re.sub(r"[\s_-]+", "", column).casefold()
    return next((known for known in _COLUMNS if known.replace("_", "") == bare), column)


@dataclass(frozen=True)
class _Columns:
    """The columns that matter by their names, and the one that selects."""

    places: dict[str, int]
    by: str
    """Empty if rows select by subject and session alone."""
    shown: str
    """How the table calls the one that selects."""
    width: int
    """How many columns the header names."""

    @classmethod
    def of(cls, header: Line, columns: Sequence[str], file_name: str) -> _Columns:
        place = f"{file_name}, line {header.number}"
        names = list(map(_canonical, columns))
        by = ["asset_id"] if "asset_id" in names else [column for column in _NOUNS if column in names]
        several = [column for column, name in zip(columns, names, strict=True) if name in by]
        if len(several) > 1:
            named = " and ".join(f"'{column}'" for column in several)
            remedy = "keep one" if by == ["asset_id"] else "keep one, or call one 'asset_id'"
            raise RequestError(f"{place}: several columns could be the ids: {named}; {remedy}")
        if not by and _SESSION not in names:
            raise RequestError(f"{place}: a column '{_SUBJECT}' needs a column '{_SESSION}' with a day or a time")
        if near := [f"'{name}'" for name in names if _ALMOST_A_PARAMETER.match(name) and not name.startswith(_PREFIX)]:
            logger.warning("%s: not taken as parameters: %s; write parameters.NAME", place, ", ".join(near))
        if _PREFIX in names:
            raise RequestError(f"{place}: a column '{_PREFIX}' names no parameter; write its name after the dot")
        for name, number in Counter(names).items():
            if number > 1 and (name in (_SUBJECT, _SESSION) or name.startswith(_PREFIX)):
                raise RequestError(f"{place}: several columns '{name}'; keep one")
        places = {name: number for number, name in enumerate(names) if name in _COLUMNS or name.startswith(_PREFIX)}
        shown = several[0] if several else columns[places[_SUBJECT]]
        return cls(places, by[0] if by else "", shown, len(columns))

    @property
    def noun(self) -> str:
        return _NOUNS.get(self.by, "session")

    @property
    def wanted(self) -> str:
        return f"a {_SUBJECT} and a {_SESSION}" if not self.by else f"{'an' if self.noun == 'id' else 'a'} {self.noun}"

    def key(self, cells: Mapping[str, Any]) -> Key | None:
        """Return what a row selects by: its id, else its subject and session; None if it has neither."""
        for column in (self.by,) if self.by else (_SUBJECT, _SESSION):
            table_files.check(cells.get(column), f"its {column}")
        if said := table_files.text(cells.get(self.by)):
            return Key(self.by, _value(self.by, said))
        subject, session = table_files.text(cells.get(_SUBJECT)), table_files.text(cells.get(_SESSION))
        if subject and session:
            return Key(_SUBJECT, _value(_SUBJECT, subject), _value(_SESSION, session))
        return None


def _rows(columns: _Columns, lines: Iterator[Line], has_decimal_comma: bool, name: str) -> tuple[list[Row], list[str]]:
    """Return the rows that select something, and a line about each of the others."""
    rows: list[Row] = []
    unused: list[str] = []
    wrong: list[str] = []
    longer: list[str] = []
    for line in lines:
        if any(map(table_files.text, line.cells[columns.width :])):
            longer.append(_shown(line))
        cells = {name: line.cells[place] for name, place in columns.places.items() if place < len(line.cells)}
        try:
            key = columns.key(cells)
            if key is None:
                unused.append(_shown(line))
            else:
                rows.append(Row(line.number, key, _parameters(cells, has_decimal_comma)))
        except RequestError as error:
            wrong.append(f"line {line.number}: {error.headline}")
    if longer:
        told = f"{counted(len(longer), 'row')} with more cells than the header"
        warn_listing(f"{name}: {told}; is a title missing there, or the quotes around a cell?", longer)
    if wrong:
        raise RequestError(f"{name}: {counted(len(wrong), 'row')} cannot be read; correct them", wrong)
    return rows, unused


def _shown(line: Line) -> str:
    cells = ", ".join(filter(None, map(table_files.text, line.cells)))
    return f"line {line.number}: {printable(cells, _SHOWN)}"


# Values


def _parameters(cells: Mapping[str, Any], has_decimal_comma: bool) -> dict[str, Any]:
    values = {}
    for name, cell in cells.items():
        if name.startswith(_PREFIX) and not table_files.is_blank(cell):
            table_files.check(cell, name)
            try:
                values[name.removeprefix(_PREFIX)] = parameter_value(cell, has_decimal_comma)
            except (RequestError, json_text.NotReadableError) as error:
                raise RequestError(f"{name}: {error}") from None
    return values


def _value(column: str, said: str) -> str:
    if column in ("asset_id", "docdb_record_id"):
        said = asset_id(said)
    elif column == "location":
        said = said.rstrip("/")
    elif column == _SUBJECT:
        if _SCIENTIFIC.fullmatch(said):
            raise RequestError(
                f"the {_SUBJECT} {said} is in scientific notation, which loses digits; format the column as text in"
                " Excel, and write the id again"
            )
        if whole := _WHOLE.fullmatch(said):  # some programs write 774659.0 in a column with blank cells
            said = whole[1]
    elif column == _SESSION:
        said = fields.session(said)
    if "\n" in said:
        raise RequestError(f"its {column} has several lines; is a quote not closed?")
    return said


def asset_id(said: str) -> str:
    """Return an id, also from an address of Code Ocean; a UUID in lower case."""
    found = _ID.fullmatch(said)
    return found[1].lower() if found else said


def parameter_value(cell: Any, has_decimal_comma: bool) -> Any:
    """Return the value of a parameter in a cell that is not blank: its value as JSON, else its text.

    RequestError or NotReadableError for a value that no job file can hold.
    """
    if isinstance(cell, bool | int | float):
        return int(cell) if isinstance(cell, float) and cell.is_integer() else cell
    said = table_files.date_text(cell) if isinstance(cell, datetime) else str(cell).strip()
    if formula := table_files.FORMULA_TEXT.fullmatch(said):
        return formula[1]
    if said in _TRUTHS:
        return _TRUTHS[said]
    if has_decimal_comma and _DECIMAL_COMMA.fullmatch(said):
        said = said.replace(",", ".")
    try:
        value = json.loads(said, parse_constant=_no_json, object_pairs_hook=json_text.unique_keys)
    except json.JSONDecodeError:
        return said
    except (ValueError, RecursionError):
        raise RequestError(f"{printable(said, _SHOWN)} is too long or too deep to read") from None
    json_text.check(value)
    return value


def _no_json(name: str) -> NoReturn:
    raise json.JSONDecodeError(f"{name} is no JSON", name, 0)

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
    parameters = f", parameters: {', '.join(named.parameters.values())}" if named.parameters else ""
    logger.info(
        "%s: %s, %ss in column '%s' (line %d), %s%s",
        *(path.name, content.form, named.noun, named.shown, header.number, counted(len(rows), "row"), parameters),
    )
    unique: dict[tuple[Key, str], Row] = {}
    for row in rows:
        unique.setdefault((row.key, json_text.compact(row.parameters)), row)
    if len(unique) < len(rows):
        repeats = counted(len(rows) - len(unique), f"repeated {named.noun}")
        logger.warning("%s: %s dropped", path.name, repeats)
    return Table(tuple(unique.values()), path.name, named.noun)


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
    bare = re.sub(r"[\s_-]+", "", column).casefold()
    return next((known for known in _COLUMNS if known.replace("_", "") == bare), column)


@dataclass(frozen=True)
class _Columns:
    """The columns that matter: the one that selects, and those of parameters by their names."""

    by: str
    """Empty if rows select by subject and session alone."""
    places: dict[str, int]
    parameters: dict[int, str]
    shown: str
    """The column's own name."""
    width: int
    """How many columns the header names."""

    @classmethod
    def of(cls, header: Line, columns: Sequence[str], name: str) -> _Columns:
        place = f"{name}, line {header.number}"
        found: dict[str, list[int]] = {}
        for number, column in enumerate(columns):
            found.setdefault(_canonical(column), []).append(number)
        by = ["asset_id"] if "asset_id" in found else [column for column in _NOUNS if column in found]
        several = [number for column in by for number in found[column]]
        if len(several) > 1:
            named = " and ".join(f"'{columns[number]}'" for number in several)
            remedy = "keep one" if by == ["asset_id"] else "keep one, or call one 'asset_id'"
            raise RequestError(f"{place}: several columns could be the ids: {named}; {remedy}")
        for column in (_SUBJECT, _SESSION):
            if len(found.get(column, ())) > 1:
                raise RequestError(f"{place}: several columns '{column}'; keep one")
        if not by and _SESSION not in found:
            raise RequestError(f"{place}: a column '{_SUBJECT}' needs a column '{_SESSION}' with a day or a time")
        places = {column: numbers[0] for column, numbers in found.items() if column in _COLUMNS}
        shown = columns[several[0]] if several else columns[places[_SUBJECT]]
        return cls(by[0] if by else "", places, _parameters(columns, place), shown, len(columns))

    @property
    def noun(self) -> str:
        return _NOUNS.get(self.by, "session")

    @property
    def wanted(self) -> str:
        return f"a {_SUBJECT} and a {_SESSION}" if not self.by else f"{'an' if self.noun == 'id' else 'a'} {self.noun}"

    def key(self, line: Line) -> Key | None:
        """Return what a row selects by: its id, else its subject and session; None if it has neither."""
        said = {}
        for column, number in self.places.items():
            if number < len(line.cells):
                if not self.by or column == self.by:
                    table_files.check(line.cells[number], f"its {column}")
                said[column] = table_files.text(line.cells[number])
        if self.by and said.get(self.by):
            return Key(self.by, _value(self.by, said))
        if said.get(_SUBJECT) and said.get(_SESSION):
            return Key(_SUBJECT, _value(_SUBJECT, said), _value(_SESSION, said))
        return None


def _parameters(columns: Sequence[str], place: str) -> dict[int, str]:
    found = {number: match[1].strip() for number, one in enumerate(columns) if (match := _PARAMETER.fullmatch(one))}
    near = [f"'{one}'" for number, one in enumerate(columns) if number not in found and _ALMOST_A_PARAMETER.match(one)]
    if near:
        logger.warning("%s: not taken as parameters: %s; write parameters.NAME", place, ", ".join(near))
    if "" in found.values():
        raise RequestError(f"{place}: a column 'parameters.' names no parameter; write its name after the dot")
    if repeated := [parameter for parameter, number in Counter(found.values()).items() if number > 1]:
        raise RequestError(f"{place}: several columns 'parameters.{repeated[0]}'; keep one")
    return found


def _rows(columns: _Columns, lines: Iterator[Line], has_decimal_comma: bool, name: str) -> tuple[list[Row], list[str]]:
    """Return the rows that select something, and a line about each of the others."""
    rows: list[Row] = []
    unused: list[str] = []
    wrong: list[str] = []
    longer: list[str] = []
    for line in lines:
        if any(map(table_files.text, line.cells[columns.width :])):
            longer.append(f"line {line.number}: {_shown(line)}")
        try:
            key = columns.key(line)
            if key is None:
                unused.append(f"line {line.number}: {_shown(line)}")
                continue
            rows.append(Row(line.number, key, _values(columns, line, has_decimal_comma)))
        except RequestError as error:
            wrong.append(f"line {line.number}: {error.headline}")
    if longer:
        told = f"{counted(len(longer), 'row')} with more cells than the header"
        warn_listing(f"{name}: {told}; is a title missing there, or the quotes around a cell?", longer)
    if wrong:
        raise RequestError(f"{name}: {counted(len(wrong), 'row')} cannot be read; correct them", wrong)
    return rows, unused


def _values(columns: _Columns, line: Line, has_decimal_comma: bool) -> dict[str, Any]:
    values = {}
    for number, parameter in columns.parameters.items():
        if number >= len(line.cells):
            continue
        table_files.check(line.cells[number], f"parameters.{parameter}")
        try:
            if not table_files.is_blank(line.cells[number]):
                values[parameter] = parameter_value(line.cells[number], has_decimal_comma)
        except (RequestError, json_text.NotReadableError) as error:
            raise RequestError(f"parameters.{parameter}: {error}") from None
    return values


def _shown(line: Line) -> str:
    cells = (table_files.text(cell) for cell in line.cells)
    return printable(", ".join(cell for cell in cells if cell), _SHOWN)


# Values


def _value(column: str, said: Mapping[str, str]) -> str:
    value = said[column]
    if column in ("asset_id", "docdb_record_id"):
        value = asset_id(value)
    elif column == "location":
        value = value.rstrip("/")
    elif column == _SUBJECT:
        value = _subject(value)
    elif column == _SESSION:
        value = fields.session(value)
    if "\n" in value:
        raise RequestError(f"its {column} has several lines; is a quote not closed?")
    return value


def asset_id(said: str) -> str:
    """Return an id, also from an address of Code Ocean; a UUID in lower case."""
    found = _ID.fullmatch(said)
    return found[1].lower() if found else said


def _subject(said: str) -> str:
    """Return the id of a subject; some programs write 774659.0 in a column with blank cells."""
    if _SCIENTIFIC.fullmatch(said):
        raise RequestError(
            f"the {_SUBJECT} {said} is in scientific notation, which loses digits; format the column as text in Excel,"
            " and write the id again"
        )
    whole = _WHOLE.fullmatch(said)
    return whole[1] if whole else said


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

"""A table as a file: text with separators in any usual encoding, or an Excel workbook; its rows and their cells.

Rows come one by one, so that neither a cell of thousands of commas nor a far corner of a sheet takes memory. pandas
does not fit: it drops the line numbers by which mistakes are named, and ignores hidden rows and formulas that failed.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from job_dispatch.messages import RequestError, counted, logger, printable

_INVISIBLE = "\u200b\u200e\u200f\u2060\ufeff"
FORMULA_TEXT = re.compile(r'="(.*)"', re.DOTALL)
_QUOTES = ('""', "''", "\u201c\u201d", "\u201e\u201c", "\u2018\u2019")
# What Excel shows where a formula has no result, in English and in German.
_NO_RESULT = re.compile(r"#(?:N/A|NV|(?:REF|VALUE|DIV/0|NUM|NULL|SPILL|CALC|BEZUG|WERT|ZAHL)!|NAME\?)")
_SHOWN = 60
_BYTES_AT_MOST = 200_000_000
_ZIP, _OLD_EXCEL = b"PK\x03\x04", b"\xd0\xcf\x11\xe0"
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8"),
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)
_SEPARATORS = {",": "','", ";": "';'", "\t": "tabs"}
_SEPARATOR_LINE = re.compile(r'"?sep=([,;\t])"?\s*', re.IGNORECASE)
_COMMENT = "#"
_BEFORE_SEPARATOR = re.compile(r"[,;\t]")
_FORMULA = re.compile(rb"<f[> ]")
_HIDDEN_ROW = re.compile(rb'<(?:\w+:)?row\b(?=[^>]*\bhidden="(?:1|true)")[^>]*?\br="(\d+)"')
_MERGED = re.compile(rb'<(?:\w+:)?mergeCell\b[^>]*\bref="([A-Z]+)(\d+):[A-Z]+(\d+)"')
_LINES_LOOKED_AT = 50
_BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError)


class Line(NamedTuple):
    """A row of a table: the number of its line, and its cells: text, or in a workbook numbers, dates and such."""

    number: int
    cells: list[Any]


@dataclass(frozen=True)
class Content:
    """The rows of a file that are neither blank nor comments, to be read once; and its form, for the log.

    With `has_decimal_comma`, `0,5` is a number: a comma does not separate the cells. `unread` is a sentence about the
    parts of the file that are not read, if there are any.
    """

    rows: Iterable[Line]
    form: str
    has_decimal_comma: bool = False
    unread: str = ""


def read(path: Path, is_known: Callable[[str], bool]) -> Content:
    """Return the rows of a table, whatever its name ends in; `is_known` returns whether a text names a column.

    RequestError if the file cannot be read, or is no table; while rows are taken as well.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_BYTES_AT_MOST + 1)
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > _BYTES_AT_MOST:
        raise RequestError(f"{path}: more than {_BYTES_AT_MOST:,} bytes are too many for a table")
    if data.startswith(_OLD_EXCEL):
        raise RequestError(f"{path.name}: an Excel file of the old form, or with a password; save it as .xlsx or CSV")
    if data.startswith(_ZIP):
        return _workbook(data, path.name)
    text, encoding = _decoded(data, path)
    return _separated(text, encoding, path.name, is_known)


def _decoded(data: bytes, path: Path) -> tuple[str, str]:
    """Return the text and the name of its encoding."""
    tried = [(codec, name) for mark, codec, name in _MARKS if data.startswith(mark)]
    if not tried:
        tried = [("utf-8", "UTF-8"), ("cp1252", "Windows-1252")]
        if 0 in data[:2]:  # in Latin script every second byte is null
            tried = [("utf-16-be" if data[0] == 0 else "utf-16-le", "UTF-16")]
    for codec, name in tried:
        try:
            text = data.decode(codec)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text, name
    raise RequestError(f"{path}: neither UTF-8, UTF-16 nor Windows-1252 text; save it as CSV UTF-8 or as .xlsx")


def _separated(text: str, encoding: str, name: str, is_known: Callable[[str], bool]) -> Content:
    lines = io.StringIO(text, newline=None)  # any kind of line end
    if declared := _SEPARATOR_LINE.fullmatch(lines.readline()):
        number, separator = 1, declared[1]
    else:
        lines.seek(0)
        number, separator = 0, _separator(list(islice(lines, _LINES_LOOKED_AT)), is_known)
        lines.seek(0)
    rows = _text_rows(lines, number, separator, name)
    return Content(rows, f"{encoding}, separated by {_SEPARATORS[separator]}", has_decimal_comma=separator == ";")


def _separator(lines: list[str], is_known: Callable[[str], bool]) -> str:
    """Return the separator that gives a line a known column and occurs most often in it."""
    spoken = [line for line in lines if line.strip() and not _is_comment(line)]

    def rank(separator: str) -> tuple[int, int]:
        headers = [line for line in spoken if any(map(is_known, _cells(line, separator)))]
        counted = headers[:1] if any(separator in line for line in headers) else spoken
        return len(headers[:1]), sum(len(_cells(line, separator)) - 1 for line in counted)

    return max(_SEPARATORS, key=rank)


def _cells(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
    except csv.Error:
        return []


def _is_comment(line: str) -> bool:
    said = line.lstrip()
    return said.startswith(_COMMENT) and has_result(_BEFORE_SEPARATOR.split(said, maxsplit=1)[0])


def _text_rows(lines: io.StringIO, number: int, separator: str, name: str) -> Iterator[Line]:
    """Yield the rows; a comment begins only where a row may begin, not within a cell of several lines."""
    read: list[str] = []

    def source() -> Iterator[str]:
        nonlocal number
        for line in lines:
            number += 1
            if not read and _is_comment(line):
                continue
            read.append(line)
            yield line

    reader = csv.reader(source(), delimiter=separator, skipinitialspace=separator != "\t")
    try:
        for cells in reader:
            start = number - len(read) + 1
            if len(read) > 1 and "".join(read).count('"') % 2:
                raise RequestError(f"{name}, line {start}: a quote is opened there and never closed")
            read.clear()
            if any(cell.strip() for cell in cells):
                yield Line(start, cells)
    except csv.Error as error:
        raise RequestError(f"{name}, line {number}: not a readable CSV: {error}") from None


def _workbook(data: bytes, name: str) -> Content:
    """Read the first visible sheet of a workbook.

    openpyxl, not the faster calamine: that one keeps a sheet as a rectangle, and a single cell in the last
    corner ends the process for want of 550 GB.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as parts:
            size = sum(part.file_size for part in parts.infolist())
            if size > _BYTES_AT_MOST:
                raise RequestError(f"{name}: its sheets take {size:,} bytes; at most {_BYTES_AT_MOST:,} are read")
            sheets = _sheets(data, name, data_only=True)
            if not sheets:
                raise RequestError(f"{name}: the workbook has no sheet with cells")
            first = next((sheet for sheet in sheets if sheet.sheet_state == "visible"), sheets[0])
            source = parts.read(_part_of(parts, first.title))
    except (KeyError, StopIteration, ElementTree.ParseError, *_BROKEN_ZIP):
        raise RequestError(f"{name}: a broken .xlsx file; save it again") from None
    rows: Iterable[Sequence[Any]] = first.iter_rows(values_only=True)
    if _FORMULA.search(source):
        rows = _results(first, _sheets(data, name, data_only=False)[sheets.index(first)])
    rows = _sheet_rows(rows, source, first.title, name)
    form = f"Excel, sheet '{first.title}'"
    if len(sheets) == 1:
        return Content(rows, form)
    which = "the first" if first is sheets[0] else "the first visible one"
    unread = f"only {which} of {len(sheets)} sheets is read, '{first.title}'; move the one with the table to the front"
    return Content(rows, f"{form}, {which} of {len(sheets)}", unread=unread)


def _part_of(parts: zipfile.ZipFile, title: str) -> str:
    """Return which file of a workbook holds a sheet."""
    sheets = ElementTree.fromstring(parts.read("xl/workbook.xml")).iter()
    sheet = next(one for one in sheets if one.tag.endswith("}sheet") and one.get("name") == title)
    key = next(value for name, value in sheet.items() if name.endswith("}id"))
    relations = ElementTree.fromstring(parts.read("xl/_rels/workbook.xml.rels"))
    target = next(one.get("Target", "") for one in relations if one.get("Id") == key)
    return target.lstrip("/") if target.startswith("/") else f"xl/{target}"


def _sheets(data: bytes, name: str, data_only: bool) -> list[Any]:
    """Return the sheets with the results of formulas, or with the formulas themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of styles and extensions that do not matter for cells
        import openpyxl

        try:
            sheets = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=data_only).worksheets
            for sheet in sheets:
                sheet.reset_dimensions()  # they may be wrong in the file, and rows would be padded to them
        except Exception:  # whatever openpyxl raises, the file is at fault
            raise RequestError(f"{name}: not a workbook that can be read; save it as .xlsx or CSV") from None
    return list(sheets)


def _results(sheet: Any, formulas: Any) -> Iterator[Sequence[Any]]:
    """Yield the rows, with the formula where one was never computed.

    The result of a computed formula may be empty; it is marked as text then.
    """
    for cells, written in zip(sheet.iter_rows(), formulas.iter_rows(values_only=True), strict=True):
        yield [
            Formula(getattr(formula, "text", formula))
            if cell.value is None and formula is not None and cell.data_type == "n"
            else cell.value
            for cell, formula in zip(cells, written, strict=True)
        ]


def _sheet_rows(rows: Iterable[Sequence[Any]], source: bytes, title: str, name: str) -> Iterator[Line]:
    """Yield the visible rows of a sheet; a merged cell counts for each row that it goes over.

    Which are hidden and which are merged is in the XML of the sheet; openpyxl reads that only with all cells.
    """
    from openpyxl.utils import column_index_from_string

    hidden_rows = set(map(int, _HIDDEN_ROW.findall(source)))
    filled: dict[int, tuple[int, Any]] = {}  # by column, counted from 0, the last row and the value of a merged cell
    hidden = 0
    try:
        merged: dict[int, list[tuple[int, int]]] = {}
        for column, start, end in _MERGED.findall(source):
            merged.setdefault(int(start), []).append((column_index_from_string(column.decode()) - 1, int(end)))
        for number, row in enumerate(rows, 1):
            cells = list(row)
            for column, last in merged.get(number, ()):
                filled[column] = last, cells[column] if column < len(cells) else None
            if all(map(is_blank, cells)) or _is_comment(str(cells[0] or "")):
                continue
            if number in hidden_rows:
                hidden += 1
                continue
            for column, (last, value) in filled.items():
                if number <= last:
                    cells += [None] * (column + 1 - len(cells))
                    cells[column] = value
            yield Line(number, cells)
    except RequestError:
        raise
    except Exception:  # of broken XML, numbers that are none, …
        raise RequestError(f"{name}: sheet '{title}' cannot be read; save it as .xlsx or CSV again") from None
    if hidden:
        told = counted(hidden, "row is", "rows are")
        logger.warning("%s: %s hidden in sheet '%s' and left out; show them in Excel to use them", name, told, title)


# Cells


class Formula(str):
    """A formula of a workbook without its result: some programs write them, only a spreadsheet computes them."""

    __slots__ = ()


def has_result(cell: Any) -> bool:
    """Tell whether a cell is anything but a formula that failed or was never computed."""
    return not isinstance(cell, Formula) and _NO_RESULT.fullmatch(str(cell).strip()) is None


def is_blank(cell: Any) -> bool:
    """Tell whether a cell holds nothing."""
    return cell is None or not str(cell).strip()


def check(cell: Any, column: str) -> None:
    """Raise RequestError for a cell whose formula failed or was never computed."""
    if has_result(cell):
        return
    shown = printable(str(cell).strip(), _SHOWN)
    problem = f"a formula failed and left {shown}; correct it, or clear the cell"
    if isinstance(cell, Formula):
        problem = f"the formula {shown} was never computed; save the file in Excel, or write the value"
    raise RequestError(f"{column}: {problem}")


def text(cell: Any) -> str:
    """Return the text of a cell, without blanks and quotes around it and what makes Excel take it for text."""
    if cell is None:
        return ""
    if isinstance(cell, datetime):
        return date_text(cell)
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    said = str(cell).strip().strip(_INVISIBLE).strip()
    if formula := FORMULA_TEXT.fullmatch(said):
        said = formula[1].strip()
    while len(said) > 1 and said[0] + said[-1] in _QUOTES:
        said = said[1:-1].strip()
    return said.removeprefix("'")


def date_text(moment: datetime) -> str:
    """Return a date of Excel as text, without the time at midnight and rounded to seconds."""
    moment = (moment + timedelta(milliseconds=500)).replace(microsecond=0)
    if moment.time() == datetime.min.time():
        return moment.date().isoformat()
    return moment.isoformat(" ", "seconds" if moment.second else "minutes")

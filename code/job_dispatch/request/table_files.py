"""The cells of a table file: text with separators in any usual encoding, or an Excel workbook.

Rows come one by one, so that neither a cell of thousands of commas nor a far corner of a sheet takes memory.
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
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from job_dispatch.messages import RequestError
from job_dispatch.request import table_cells

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
_FORMULA_TAGS = (b"<f>", b"<f ")
_LINES_LOOKED_AT = 50


class Line(NamedTuple):
    """A row of a table: the number of its line, and its cells: text, or in a workbook numbers, dates and such."""

    number: int
    cells: list[Any]


@dataclass(frozen=True)
class Content:
    """What a file holds.

    Parameters
    ----------
    rows : iterable of Line
        Rows that are neither blank nor comments; to be read once.
    form : str
        What kind of file it is, for who reads the log.
    has_decimal_comma : bool
        Whether `0,5` is a number there: where it is not what separates the cells.
    unread : str
        That the file has more which is not read, and what to do; empty where it has not.
    """

    rows: Iterable[Line]
    form: str
    has_decimal_comma: bool = False
    unread: str = ""


def read(path: Path, is_known: Callable[[str], bool]) -> Content:
    """Return the rows of a table, whatever kind its name says; `is_known` tells the names of columns.

    Raises
    ------
    RequestError
        The file cannot be read, or is no table; while rows are taken as well.
    """
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= _BYTES_AT_MOST else b""
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from None
    if size > _BYTES_AT_MOST:
        raise RequestError(f"{path}: {size:,} bytes are too many for a table; at most {_BYTES_AT_MOST:,} are read")
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
    first = lines.readline()
    declared = _SEPARATOR_LINE.fullmatch(first)
    if declared is None:
        lines.seek(0)
        separator = _separator(list(islice(lines, _LINES_LOOKED_AT)), is_known)
        lines.seek(0)
    else:
        separator = declared[1]
    rows = _text_rows(lines, 0 if declared is None else 1, separator, name)
    return Content(rows, f"{encoding}, separated by {_SEPARATORS[separator]}", has_decimal_comma=separator == ";")


def _separator(lines: list[str], is_known: Callable[[str], bool]) -> str:
    """Return what separates cells: that by which a line has a known column, and which occurs most there."""
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
    return said.startswith(_COMMENT) and table_cells.has_result(_BEFORE_SEPARATOR.split(said, maxsplit=1)[0])


def _text_rows(lines: io.StringIO, number: int, separator: str, name: str) -> Iterator[Line]:
    """Yield the rows; a comment is one only where a row may begin, not within a cell of several lines."""
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
    """Read the first sheet of a workbook.

    openpyxl, not the faster calamine: that one keeps a sheet as a rectangle, and a single cell in the last
    corner ends the process for want of 550 GB.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as parts:
            size = sum(part.file_size for part in parts.infolist())
            if size > _BYTES_AT_MOST:
                raise RequestError(f"{name}: its sheets take {size:,} bytes; at most {_BYTES_AT_MOST:,} are read")
            has_formulas = any(_has_formulas(parts.read(part)) for part in parts.namelist() if "/worksheets/" in part)
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError):
        raise RequestError(f"{name}: a broken .xlsx file; save it again") from None
    sheets = _sheets(data, name, data_only=True)
    if not sheets:
        raise RequestError(f"{name}: the workbook has no sheet with cells")
    first = sheets[0]
    cells = _results(first, _sheets(data, name, data_only=False)[0]) if has_formulas else _values(first)
    rows = _sheet_rows(cells, first.title, name)
    form = f"Excel, sheet '{first.title}'"
    if len(sheets) == 1:
        return Content(rows, form)
    unread = (
        f"only the first of {len(sheets)} sheets is read, '{first.title}'; move the one with the table to the front"
    )
    return Content(rows, f"{form}, the first of {len(sheets)}", unread=unread)


def _has_formulas(sheet: bytes) -> bool:
    return any(tag in sheet for tag in _FORMULA_TAGS)


def _sheets(data: bytes, name: str, data_only: bool) -> list[Any]:
    """Return the sheets with the results of formulas, or with the formulas themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of styles and extensions that do not matter for cells
        import openpyxl

        try:
            sheets = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=data_only).worksheets
            for sheet in sheets:
                sheet.reset_dimensions()  # what the file says may be wrong, and rows would be padded to it
        except Exception:  # whatever openpyxl raises, the file is at fault
            raise RequestError(f"{name}: not a workbook that can be read; save it as .xlsx or CSV") from None
    return list(sheets)


def _values(sheet: Any) -> Iterator[Sequence[Any]]:
    return iter(sheet.iter_rows(values_only=True))


def _results(sheet: Any, formulas: Any) -> Iterator[Sequence[Any]]:
    """Yield the rows; where a formula was never computed, the formula.

    A computed one may well be empty: then its result is told to be text, and else nothing is told.
    """
    for cells, written in zip(sheet.iter_rows(), _values(formulas), strict=True):
        yield [
            table_cells.Formula(getattr(formula, "text", formula))
            if cell.value is None and formula is not None and cell.data_type == "n"
            else cell.value
            for cell, formula in zip(cells, written, strict=True)
        ]


def _sheet_rows(rows: Iterable[Sequence[Any]], title: str, name: str) -> Iterator[Line]:
    try:
        for number, cells in enumerate(rows, 1):
            shown = [cell for cell in cells if cell is not None and str(cell).strip()]
            if shown and not _is_comment(str(cells[0] or "")):
                yield Line(number, list(cells))
    except RequestError:
        raise
    except Exception:  # of broken XML, numbers that are none, …
        raise RequestError(f"{name}: sheet '{title}' cannot be read; save it as .xlsx or CSV again") from None

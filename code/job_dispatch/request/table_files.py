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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from job_dispatch.messages import RequestError

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
    """

    rows: Iterable[Line]
    form: str
    has_decimal_comma: bool = False


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
        is_utf16 = len(data) > 1 and data[1] == 0  # in Latin script every second byte is null
        tried = [("utf-16-le", "UTF-16")] if is_utf16 else [("utf-8", "UTF-8"), ("cp1252", "Windows-1252")]
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
    spoken = [line for line in lines if line.strip() and not line.lstrip().startswith(_COMMENT)]

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


def _text_rows(lines: io.StringIO, number: int, separator: str, name: str) -> Iterator[Line]:
    """Yield the rows; a comment is one only where a row may begin, not within a cell of several lines."""
    read: list[str] = []

    def source() -> Iterator[str]:
        nonlocal number
        for line in lines:
            number += 1
            if not read and line.lstrip().startswith(_COMMENT):
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
    except (zipfile.BadZipFile, ValueError):
        raise RequestError(f"{name}: a broken .xlsx file; save it again") from None
    if size > _BYTES_AT_MOST:
        raise RequestError(f"{name}: its sheets take {size:,} bytes; at most {_BYTES_AT_MOST:,} are read")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of styles and extensions that do not matter for cells
        import openpyxl

        try:
            sheets = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True).worksheets
        except Exception:  # whatever openpyxl raises, the file is at fault
            raise RequestError(f"{name}: not a workbook that can be read; save it as .xlsx or CSV") from None
    if not sheets:
        raise RequestError(f"{name}: the workbook has no sheet with cells")
    return Content(_sheet_rows(sheets[0], name), f"Excel, sheet '{sheets[0].title}'")


def _sheet_rows(sheet: Any, name: str) -> Iterator[Line]:
    sheet.reset_dimensions()  # what the file says of its size may be wrong, and rows would be padded to it
    try:
        for number, cells in enumerate(sheet.iter_rows(values_only=True), 1):
            shown = [cell for cell in cells if cell is not None and str(cell).strip()]
            if shown and not (str(cells[0] or "").lstrip().startswith(_COMMENT)):
                yield Line(number, list(cells))
    except RequestError:
        raise
    except Exception:  # of broken XML, numbers that are none, …
        raise RequestError(f"{name}: sheet '{sheet.title}' cannot be read; save it as .xlsx or CSV again") from None

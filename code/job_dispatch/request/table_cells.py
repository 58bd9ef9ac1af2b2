"""What stands in the cells of a table: ids, sessions and the values of parameters."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any

from job_dispatch.messages import RequestError, printable

_INVISIBLE = "\u200b\u200e\u200f\u2060\ufeff"
_FORMULA_TEXT = re.compile(r'="(.*)"', re.DOTALL)
_QUOTES = ('""', "''", "\u201c\u201d", "\u201e\u201c", "\u2018\u2019")
_UUID = r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}"
_ID = re.compile(rf"(?:.*data[-_]assets/)?({_UUID})(?:[/?#].*)?", re.IGNORECASE)
_WHOLE = re.compile(r"(-?\d+)\.0+")
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+(?:[eE][+-]?\d+)?")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_TIME = re.compile(
    r"(?P<day>\d{4}-\d{2}-\d{2})[T ](?P<hour>\d{1,2}):(?P<minute>\d{2})"
    r"(?P<second>:\d{2})?(?P<part>[.,]\d{1,9})? ?(?P<zone>Z|[+-]\d{2}(?::?\d{2})?)?",
    re.IGNORECASE,
)
# As Excel, R and pandas spell them in a CSV.
_TRUTHS = {"TRUE": True, "FALSE": False, "True": True, "False": False}
# What Excel shows where a formula has no result, in English and in German.
_NO_RESULT = re.compile(r"#(?:N/A|NV|(?:REF|VALUE|DIV/0|NUM|NULL|SPILL|CALC|BEZUG|WERT|ZAHL)!|NAME\?)")
_SHOWN = 60


class Formula(str):
    """A formula of a workbook without its result: some programs write them, only a spreadsheet computes them."""

    __slots__ = ()


def has_result(cell: Any) -> bool:
    """Tell whether a cell is anything but a formula that failed or was never computed."""
    return not isinstance(cell, Formula) and _NO_RESULT.fullmatch(str(cell).strip()) is None


def check(cell: Any, column: str) -> None:
    """Refuse a cell that has no result.

    Raises
    ------
    RequestError
        Its formula failed or was never computed.
    """
    if has_result(cell):
        return
    shown = printable(str(cell).strip(), _SHOWN)
    if isinstance(cell, Formula):
        raise RequestError(
            f"{column}: the formula {shown} was never computed; save the file in Excel, or write the value"
        )
    raise RequestError(f"{column}: a formula failed and left {shown}; correct it, or clear the cell")


def text(cell: Any) -> str:
    """Return what a cell says: without blanks around it, quotes, or what makes Excel take it for text."""
    if cell is None:
        return ""
    if isinstance(cell, datetime):
        return _date_text(cell)
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    said = str(cell).strip().strip(_INVISIBLE).strip()
    if formula := _FORMULA_TEXT.fullmatch(said):
        said = formula[1].strip()
    while len(said) > 1 and said[0] + said[-1] in _QUOTES:
        said = said[1:-1].strip()
    return said.removeprefix("'")


def _date_text(moment: datetime) -> str:
    """Return a date of Excel as text: without a time of day at midnight, without what its arithmetic adds."""
    moment = (moment + timedelta(milliseconds=500)).replace(microsecond=0)
    if moment.time() == datetime.min.time():
        return moment.date().isoformat()
    return moment.isoformat(" ", "seconds" if moment.second else "minutes")


def asset_id(said: str) -> str:
    """Return the id that is said: as it is, or in an address of Code Ocean, in lower case where it is a UUID."""
    found = _ID.fullmatch(said)
    return found[1].lower() if found else said


def location(said: str) -> str:
    """Return an address of an asset as records compare."""
    return said.rstrip("/")


def subject(said: str) -> str:
    """Return the id of a subject; a column with blank cells makes 774659.0 of it in some programs."""
    whole = _WHOLE.fullmatch(said)
    return whole[1] if whole else said


def session(said: str) -> str:
    """Return a day as it is, and a time as UTC with the precision with which it is said.

    Raises
    ------
    RequestError
        It is neither; days and months in another order are not guessed at.
    """
    try:
        if _DAY.fullmatch(said):
            return date.fromisoformat(said).isoformat()
        if time := _TIME.fullmatch(said):
            zone = (time["zone"] or "Z").upper()
            clock = f"{int(time['hour']):02d}:{time['minute']}{time['second'] or ':00'}"
            part = f".{time['part'][1:7]:0<6}" if time["part"] else ""
            precision = "microseconds" if part else "seconds" if time["second"] else "minutes"
            return _instant(datetime.fromisoformat(f"{time['day']}T{clock}{part}{zone}"), precision)
    except (ValueError, OverflowError):
        pass
    raise RequestError(
        f"{printable(said, _SHOWN)!r} is neither a day such as 2025-06-07 nor a time such as 2025-06-07T21:31:15Z"
    )


def sessions_of(start: str) -> Iterable[str]:
    """Yield each way in which a row may say the start of a session, as `session` returns it.

    The day is that on the session's own clock; a time that names no zone is UTC.
    """
    if not _DAY.match(start):
        return
    yield start[:10]
    try:
        moment = datetime.fromisoformat(start)
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return
    for precision in ("minutes", "seconds", "microseconds"):
        yield _instant(moment, precision)


def _instant(moment: datetime, precision: str) -> str:
    return moment.astimezone(UTC).isoformat(timespec=precision).replace("+00:00", "Z")


def parameter(cell: Any, has_decimal_comma: bool) -> Any:
    """Return the value of a parameter: what the cell reads as in JSON, else its text; None for a blank one.

    Returns
    -------
    tuple of one value, or None
        So that a null that is written differs from a blank cell.

    Raises
    ------
    RequestError
        It is a number or a list that no job file can hold.
    """
    if isinstance(cell, bool | int | float):
        return (int(cell) if isinstance(cell, float) and cell.is_integer() else cell,)
    said = _date_text(cell) if isinstance(cell, datetime) else str(cell if cell is not None else "").strip()
    if not said:
        return None
    if formula := _FORMULA_TEXT.fullmatch(said):
        return (formula[1],)
    if said in _TRUTHS:
        return (_TRUTHS[said],)
    if has_decimal_comma and _DECIMAL_COMMA.fullmatch(said):
        said = said.replace(",", ".")
    try:
        value = json.loads(said, parse_constant=_no_json, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError:
        return (said,)
    except (ValueError, RecursionError):
        raise RequestError(f"{printable(said, _SHOWN)} is too long or too deep to read") from None
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except ValueError:
        raise RequestError(f"{printable(said, _SHOWN)} is a value that JSON cannot hold") from None
    return (value,)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise RequestError("an object has a key twice; keep one of the two")
    return found


def _no_json(name: str) -> Any:
    raise json.JSONDecodeError(f"{name} is no JSON", name, 0)

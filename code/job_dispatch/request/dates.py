"""Dates and times as metadata records write them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta

from job_dispatch.messages import RequestError, printable

# A day, a time of day, and a zone. Hyphens or a comma may replace the separators of ISO 8601.
_MOMENT = re.compile(
    r"(?P<day>\d{4}(?:-\d{2}-\d{2}|/\d{2}/\d{2}))"
    r"(?:[T ,_] ?(?P<time>\d{2}(?:[:-]\d{2}(?:[:-]\d{2})?)?(?P<fraction>[.,]\d+)?)"
    r" ?(?P<zone>Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)?)?",
    re.IGNORECASE,
)
DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
LONG_AGO = datetime.min.replace(tzinfo=UTC)
# The start of a session in a table.
_SESSION = re.compile(
    r"(?P<day>\d{4}-\d{2}-\d{2})[T ](?P<hour>\d{1,2}):(?P<minute>\d{2})"
    r"(?P<second>:\d{2})?(?P<part>[.,]\d{1,9})? ?(?P<zone>Z|[+-]\d{2}(?::?\d{2})?)?",
    re.IGNORECASE,
)
_ISO = re.compile(r"\d{4}-\d{2}-\d{2}([T ].*)?")
_TIME_OF_DAY = re.compile(r"\d{2}:\d{2}(:\d{2})?.*")
# Larger numbers are milliseconds: as seconds they would be after the year 5138.
_FIRST_MILLISECONDS = 1e11


def instant(value: object) -> datetime | None:
    """Return the instant that a date or time names, universal time where it has no zone; None for anything else.

    Besides ISO 8601 it takes `2025/06/30`, hyphens or a comma in the time (`2023-05-11,19:29:48`), a zone `UTC`, the
    times `24:00:00` and `23:59:60`, and `{"$date": …}` of MongoDB.

    Examples
    --------
    >>> instant("2025/06/30 23:59:60 UTC").isoformat()
    '2025-07-01T00:00:00+00:00'
    """
    if isinstance(value, Mapping) and set(value) == {"$date"}:
        inner = value["$date"]
        if isinstance(inner, Mapping) and set(inner) == {"$numberLong"} and str(inner["$numberLong"]).isdecimal():
            inner = int(inner["$numberLong"])
        return _since_1970(inner / 1000) if is_number(inner) else instant(inner)
    if isinstance(value, str) and _ISO.fullmatch(value):
        with contextlib.suppress(ValueError):
            moment = datetime.fromisoformat(value)
            return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    if not isinstance(value, str) or (found := _MOMENT.fullmatch(value.strip())) is None:
        return None
    time = re.split("[:-]", (found["time"] or "00").replace(",", ".").partition(".")[0])
    hour, minute, second = [*map(int, time), 0, 0][:3]
    try:
        midnight = datetime.fromisoformat(f"{found['day'].replace('/', '-')}T00:00:00{_zone(found['zone'])}")
        if minute > 59 or second > 60 or hour > 24 or (hour == 24 and minute + second > 0):
            return None
        fraction = float(f"0{found['fraction'].replace(',', '.')}") if found["fraction"] else 0.0
        return midnight + timedelta(hours=hour, minutes=minute, seconds=second, microseconds=round(fraction * 1e6))
    except (ValueError, OverflowError):
        return None


def session(said: str) -> str:
    """Return the start of a session in a table: a day as it is, and a time in UTC with the precision that it has.

    Raises
    ------
    RequestError
        It is neither; the order of days and months is not guessed.
    """
    try:
        if DAY.fullmatch(said):
            return date.fromisoformat(said).isoformat()
        if time := _SESSION.fullmatch(said):
            zone = (time["zone"] or "Z").upper()
            clock = f"{int(time['hour']):02d}:{time['minute']}{time['second'] or ':00'}"
            part = f".{time['part'][1:7]:0<6}" if time["part"] else ""
            precision = "microseconds" if part else "seconds" if time["second"] else "minutes"
            return _in_utc(datetime.fromisoformat(f"{time['day']}T{clock}{part}{zone}"), precision)
    except (ValueError, OverflowError):
        if DAY.match(said):
            raise RequestError(f"there is no day or time {printable(said, 60)}") from None
    raise RequestError(
        f"{printable(said, 60)!r} is neither a day such as 2025-06-07 nor a time such as 2025-06-07T21:31:15Z"
    )


def sessions_of(start: str) -> Iterable[str]:
    """Yield each form in which a row may give the start of a session, as `session` returns it.

    The day is that on the session's own clock; a time that names no zone is UTC.
    """
    if not DAY.match(start):
        return
    yield start[:10]
    if moment := instant(start):
        with contextlib.suppress(OverflowError):
            yield from (_in_utc(moment, precision) for precision in ("minutes", "seconds", "microseconds"))


def _in_utc(moment: datetime, precision: str) -> str:
    return moment.astimezone(UTC).isoformat(timespec=precision).replace("+00:00", "Z")


def of_number(value: float) -> datetime | None:
    """Return the instant that a number of seconds or milliseconds since 1970 is."""
    return _since_1970(value if abs(value) < _FIRST_MILLISECONDS else value / 1000)


def is_number(value: object) -> bool:
    """Tell whether a value is a number, and not true or false."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_time_of_day(value: object) -> bool:
    """Tell whether a value is a time of day alone, which orders nothing without its day."""
    return isinstance(value, str) and _TIME_OF_DAY.fullmatch(value) is not None


def _since_1970(seconds: float) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _zone(text: str | None) -> str:
    if text is None or text.upper() in ("Z", "UTC", "GMT"):
        return "+00:00"
    digits = text[1:].replace(":", "").ljust(4, "0")
    return f"{text[0]}{digits[:2]}:{digits[2:]}"

"""Fields of metadata records: their names in flags and in queries, and the dates in them.

A name is a dotted path; several with `|` between them, of which the first that has a value counts; or one of the
names that stand for the fields of both versions of the metadata, such as `@subject`.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from job_dispatch.frames import is_number
from job_dispatch.messages import RequestError, printable

Filter = Mapping[str, Any]

# Version 1, version 2; the start of light-sheet acquisitions in version 1.
NAMES: dict[str, tuple[str, ...]] = {
    "@subject": ("subject.subject_id",),
    "@session": ("session.session_start_time", "acquisition.acquisition_start_time", "acquisition.session_start_time"),
    "@project": ("data_description.project_name",),
    "@modality": ("data_description.modality.abbreviation", "data_description.modalities.abbreviation"),
    "@raw": ("data_description.input_data_name", "data_description.source_data"),
    "@created": ("data_description.creation_time", "created", "_created"),
}
# The day of what old records write as a time of day alone.
DAY_OF = {"data_description.creation_time": "data_description.creation_date"}
# Compared as an instant in queries and as a key of groups; other dates are instants only where they are ordered.
INSTANT = "@session"
# Several of the fields may have a value; the first of them counts.
_ELSE = "@created"
_HAS_TIME_OF_DAY = {"$regex": "^[0-9]{2}:[0-9]{2}"}
# Always unwound, into one row per element.
SPREAD = ("@modality",)
AFTER_ALL_DAYS = "9999-12-32"
_COMBINING = ("$and", "$or", "$nor")
# A day, a time of day, and a zone. Hyphens or a comma may replace the separators of ISO 8601.
_MOMENT = re.compile(
    r"(?P<day>\d{4}(?:-\d{2}-\d{2}|/\d{2}/\d{2}))"
    r"(?:[T ,_] ?(?P<hour>\d{1,2})(?:[:-](?P<minute>\d{2})(?:[:-](?P<second>\d{2}))?)?(?P<fraction>[.,]\d+)?"
    r" ?(?P<zone>Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)?)?",
    re.IGNORECASE,
)
DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
LONG_AGO = datetime.min.replace(tzinfo=UTC)
_ISO = re.compile(r"\d{4}-\d{2}-\d{2}([T ].*)?")
TIME_OF_DAY = re.compile(r"\d{2}:\d{2}(:\d{2})?.*")
# Larger numbers are milliseconds: as seconds they would be after the year 5138.
_FIRST_MILLISECONDS = 1e11


@lru_cache(maxsize=1024)
def paths(name: str) -> tuple[str, ...]:
    """Return the dotted paths that a name stands for, in the order in which they are tried.

    RequestError if it begins with `@` and is none of `NAMES`, or a path has an empty part or begins with `$`.
    """
    if name.startswith("@"):
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"known are {', '.join(NAMES)}"
            raise RequestError(f"{printable(name, 60)!r} is not the name of a field; {remedy}")
        return NAMES[name]
    parts = tuple(part.strip() for part in name.split("|"))
    for part in parts:
        if part.startswith(("$", "@")) or not all(part.split(".")):
            raise RequestError(f"{printable(name, 60)!r} is not a record field such as subject.subject_id")
    return parts


def paths_of_key(key: str) -> tuple[str, ...]:
    """Return the dotted paths of a key of a query, which may be any text."""
    return paths(key) if key.startswith("@") or "|" in key else (key,)


@dataclass(frozen=True)
class Instant:
    """The operand of a comparison with text that names an instant, however its zone is written."""

    text: str
    moment: datetime

    def day(self, days_later: int) -> str:
        """Return the day so many days later in universal time, or text that sorts before or after all days."""
        try:
            return f"{(self.moment.astimezone(UTC) + timedelta(days_later)).date()}"
        except OverflowError:
            return "0000" if days_later < 0 else AFTER_ALL_DAYS


@dataclass(frozen=True)
class Query:
    """A MongoDB-style filter, compiled once; `{}` selects every record.

    `filter` is as the user wrote it; `paths` is what MongoDB takes, but for operands that are an `Instant`.
    """

    filter: dict[str, Any]
    paths: Filter

    @classmethod
    def of(cls, written: Filter) -> Query:
        """Return the query that a filter is; RequestError for an unknown name, or `@session` compared with no date."""
        return cls(dict(written), _with_paths(written))

    @classmethod
    def all_of(cls, queries: Sequence[Query]) -> Query:
        """Return the query that holds where all of these hold."""
        if len(queries) == 1:
            return queries[0]
        return cls(all_of([one.filter for one in queries]), all_of([one.paths for one in queries]))

    def __str__(self) -> str:
        """Return the filter as compact JSON, its keys in the order of the user."""
        return json.dumps(self.filter, separators=(",", ":"))


def _with_paths(query: Filter) -> Filter:
    """Return a query with paths for names.

    A condition on several paths is `$or` of them; one that a missing field meets (`$ne`, `$nin`, `$not`,
    `$exists: false`, null) must hold for all of them.
    """
    parts: list[Filter] = []
    for key, condition in query.items():
        if key in _COMBINING and isinstance(condition, list):
            parts.append({key: [_with_paths(part) if isinstance(part, dict) else part for part in condition]})
        else:
            parts.append({key: condition} if paths_of_key(key) == (key,) else _on_paths(key, condition))
    return all_of(parts)


def all_of(filters: Sequence[Filter]) -> dict[str, Any]:
    """Return the filter that holds where all of these hold: one object, if no key is in two of them."""
    merged = {key: condition for one in filters for key, condition in one.items()}
    if len(merged) == sum(map(len, filters)):
        return merged
    return {"$and": [one for one in filters if one]}


def any_of(filters: Sequence[Filter]) -> Filter:
    """Return the filter that holds where one of these holds."""
    return filters[0] if len(filters) == 1 else {"$or": list(filters)}


def conditions(query: Filter) -> Iterator[Filter]:
    """Yield the conditions that must all hold, each an object of one key."""
    for key, condition in query.items():
        if key == "$and" and isinstance(condition, list):
            for part in condition:
                yield from conditions(part)
        elif key != "$comment":
            yield {key: condition}


def fields_in(query: Filter) -> Iterator[str]:
    """Yield the names of the fields that a query is about, also below `$or` and its like."""
    for key, condition in query.items():
        if not key.startswith("$"):
            yield key
        elif isinstance(condition, list):
            for part in condition:
                yield from fields_in(part)


def _on_paths(name: str, condition: Any) -> Filter:
    wanted = paths(name)
    if name == INSTANT:
        condition = _as_instants(condition)
    if len(wanted) == 1:
        return {wanted[0]: condition}
    if name == _ELSE:
        return _on_first(wanted, condition)
    parts: list[Filter] = []
    for part, meets_missing in _by_missing(condition):
        each = [{path: part} for path in wanted]
        parts.append(all_of(each) if meets_missing else {"$or": each})
    return all_of(parts)


def _on_first(wanted: Sequence[str], condition: Any) -> Filter:
    """Return a condition on the first of several fields that has a value; a time of day counts with its day."""
    first, *others = wanted
    if not others:
        return {first: condition}
    there: list[Filter] = [{"$and": [{first: {"$ne": None}}, {first: condition}]}]
    absent: Filter = {first: None}
    if day := DAY_OF.get(first):
        there = [
            {"$and": [{first: {"$ne": None}}, {first: {"$not": _HAS_TIME_OF_DAY}}, {first: condition}]},
            {"$and": [{first: _HAS_TIME_OF_DAY}, {day: {"$ne": None}}, _on_both(day, first, condition)]},
        ]
        absent = {"$or": [{first: None}, {first: _HAS_TIME_OF_DAY, day: None}]}
    return {"$or": [*there, {"$and": [absent, _on_first(others, condition)]}]}


def _on_both(day: str, time: str, condition: Any) -> Filter:
    """Return a condition on a day and a time of day in two fields, as it would be on the text of both."""
    parts: list[Filter] = []
    for operator, operand in condition.items() if is_expression(condition) else [("$eq", condition)]:
        date, clock = (operand[:10], operand[11:]) if isinstance(operand, str) else (operand, "")
        same = {day: date, time: clock}
        if operator in ("$gt", "$gte", "$lt", "$lte") and clock:
            parts.append({"$or": [{day: {operator[:3]: date}}, {day: date, time: {operator: clock}}]})
        elif operator in ("$gt", "$lte"):  # any time of a day is greater than the text of the day
            parts.append({day: {"$gte" if operator == "$gt" else "$lt": date}})
        elif operator in ("$eq", "$ne") and clock:
            parts.append(same if operator == "$eq" else {"$nor": [same]})
        else:
            parts.append({day: {operator: operand}})
    return all_of(parts)


def _by_missing(condition: Any) -> list[tuple[Any, bool]]:
    """Return a condition in up to two parts, each with whether a missing field meets it."""
    if not is_expression(condition):
        return [(condition, condition is None)]
    parts: dict[bool, dict[str, Any]] = {False: {}, True: {}}
    for operator, operand in condition.items():
        parts[_missing_meets(operator, operand)][operator] = operand
    return [(part, meets) for meets, part in parts.items() if part]


def _missing_meets(operator: str, operand: Any) -> bool:
    match operator:
        case "$ne":
            return operand is not None
        case "$in":
            return isinstance(operand, list) and None in operand
        case "$nin":
            return isinstance(operand, list) and None not in operand
        case "$exists":
            return not operand
        case "$eq" | "$gte" | "$lte":
            return operand is None
        case "$not":
            return not (is_expression(operand) and all(_missing_meets(*one) for one in operand.items()))
    return False


def is_expression(condition: Any) -> bool:
    """Tell whether a condition is an object of operators, and no value: its first key decides."""
    return isinstance(condition, dict) and next(iter(condition), "").startswith("$")


def _as_instants(condition: Any) -> Any:
    if not is_expression(condition):
        return _as_instant(condition)
    found = {}
    for operator, operand in condition.items():
        if operator in ("$eq", "$ne", "$gt", "$gte", "$lt", "$lte"):
            operand = _as_instant(operand)
        elif operator in ("$in", "$nin") and isinstance(operand, list):
            operand = [_as_instant(one) for one in operand]
        elif operator == "$not":
            operand = _as_instants(operand)
        found[operator] = operand
    return found


def _as_instant(value: Any) -> Any:
    if value is None:
        return None
    moment = instant(value)
    if moment is None and isinstance(value, str) and DAY.match(value):
        raise RequestError(f"{INSTANT}: there is no day or time {printable(value, 60)}")
    if moment is None:
        raise RequestError(f"{INSTANT} takes a date or time such as 2025-06-07T14:31:15-07:00, not {value!r}")
    return Instant(value, moment)


# Dates


def instant(value: object) -> datetime | None:
    """Return the instant that a date or time names, universal time where it has no zone; None for anything else.

    Besides ISO 8601 it takes `2025/06/30`, hyphens or a comma in the time (`2023-05-11,19:29:48`), a zone `UTC`, the
    times `24:00:00` and `23:59:60`, and `{"$date": …}` of MongoDB.
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
    hour, minute, second = (int(found[part] or 0) for part in ("hour", "minute", "second"))
    try:
        zone = re.sub("UTC|GMT", "Z", (found["zone"] or "Z").upper())
        midnight = datetime.fromisoformat(f"{found['day'].replace('/', '-')}T00:00:00{zone}")
        if minute > 59 or second > 60 or hour > 24 or (hour == 24 and minute + second > 0):
            return None
        fraction = float(f"0{found['fraction'].replace(',', '.')}") if found["fraction"] else 0.0
        return midnight + timedelta(hours=hour, minutes=minute, seconds=second, microseconds=round(fraction * 1e6))
    except (ValueError, OverflowError):
        return None


def session(said: str) -> str:
    """Return the start of a session in a table: a day as it is, and a time in UTC with the precision that it has.

    RequestError if it is neither; the order of days and months is not guessed.
    """
    moment, found = instant(said), _MOMENT.fullmatch(said)
    if moment is not None and DAY.fullmatch(said):
        return said
    if moment is not None and found and found["minute"]:
        with contextlib.suppress(OverflowError):
            return _in_utc(moment, "microseconds" if found["fraction"] else "seconds" if found["second"] else "minutes")
    if DAY.match(said) and found and (moment is None or found["minute"]):
        raise RequestError(f"there is no day or time {printable(said, 60)}")
    raise RequestError(
        f"{printable(said, 60)!r} is neither a day such as 2025-06-07 nor a time such as 2025-06-07T21:31:15Z"
    )


def sessions_of(start: str) -> Iterable[str]:
    """Yield the forms in which a row may give the start of a session, as `session` returns them; the day is local."""
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


def _since_1970(seconds: float) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None

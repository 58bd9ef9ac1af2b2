"""`table.csv`: one row per job, done or not, with its assets, parameters and what the analysis returned."""

from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job_dispatch.frames import is_number, no_formula
from job_dispatch.results import records
from job_dispatch.results.gathering import Results, Row

if TYPE_CHECKING:
    import pandas as pd

NAME, PARQUET = "table.csv", "table.parquet"
_OWN = ("job", "status", *records.TRAITS, *records.LISTS)
_LAST = ("seconds", "attempts", "reason")


def write(results: Results) -> Path:
    """Write `table.csv`, and `table.parquet` if pyarrow is installed; return the path of the first."""
    rows = [_row(row) for row in results.rows]
    columns = _columns(rows)
    path = results.folder / NAME
    with records.whole(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([_cell(_title(name, columns)) for name in columns])
        writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)
    if importlib.util.find_spec("pyarrow") is not None:
        _write_parquet(rows, columns, results.folder / PARQUET)
    return path


def _write_parquet(rows: Sequence[dict[str, Any]], columns: Sequence[str], path: Path) -> None:
    """Write numbers as numbers; a column that mixes them with other things is text, as in the CSV."""
    import pyarrow  # type: ignore[import-not-found, import-untyped, unused-ignore]
    import pyarrow.parquet  # type: ignore[import-not-found, import-untyped, unused-ignore]

    arrays = {}
    for name in columns:
        cells = [row.get(name) for row in rows]
        has_numbers = all(one is None or is_number(one) for one in cells)
        arrays[_title(name, columns)] = cells if has_numbers else [_cell(one) for one in cells]
    pyarrow.parquet.write_table(pyarrow.table(arrays), path)


def frame(results: Results) -> pd.DataFrame:
    """Return the table as a data frame, in which values are as the analysis returned them.

    `session` is a date-time in UTC, and `day` a date; both are missing where a job has several sessions.
    """
    import pandas as pd  # takes half a second to load

    rows = [_row(row) for row in results.rows]
    columns = _columns(rows)
    starts = pd.Series([row["session"] for row in rows], dtype=str)
    cells: dict[str, Any] = {}
    for name in columns:
        cells[_title(name, [*columns, "day"])] = _numbers([row.get(name) for row in rows])
        if name == "session":
            cells[name] = pd.to_datetime(starts, utc=True, format="ISO8601", errors="coerce")
            cells["day"] = [_day(start) for start in starts]
    return pd.DataFrame(cells).astype({"seconds": float})


def _numbers(cells: list[Any]) -> list[Any]:
    """Return infinite numbers, which JSON has as text, as numbers again if all others are numbers."""
    others = {repr(one) for one in cells if not is_number(one)}
    if not others <= {"None", "'inf'", "'-inf'"} or not any(map(is_number, cells)):
        return cells
    return [float(one) if isinstance(one, str) else one for one in cells]


def _day(start: str) -> date | None:
    try:
        return datetime.fromisoformat(start).date()
    except ValueError:  # of several sessions
        return None


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    columns = [*_OWN]
    for part in ("group", "parameters", "values"):
        columns += dict.fromkeys(name for row in rows for name in row if name.startswith(f"{part}."))
    return [*columns, *_LAST]


def _title(name: str, columns: Sequence[str]) -> str:
    """Return what the analysis calls a value, unless another column has that name."""
    bare = name.removeprefix("values.")
    return name if bare in columns else bare


def _row(row: Row) -> dict[str, Any]:
    lists = {name: "; ".join(getattr(row, name)) for name in records.LISTS}
    own = {name: getattr(row, name) for name in ("job", *records.TRAITS, "seconds", "attempts")}
    parts = {"group": row.group, "parameters": row.parameters, "values": row.values}
    named = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
    return own | lists | named | {"status": row.status.value, "reason": row.failure}


def _cell(value: Any) -> str:
    if isinstance(value, str):
        safe = no_formula(value)
        return value if safe != value and _reads_as_number(value) else safe
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

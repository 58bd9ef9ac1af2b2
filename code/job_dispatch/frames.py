"""Rows for others to read: as a data frame, in a notebook, and as cells for a spreadsheet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    import pandas as pd

_ROWS_SHOWN = 5
_CELL_SHOWN = 80


def frame(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Return rows as a data frame with these columns, also where there is no row."""
    import pandas as pd  # takes half a second to load

    return pd.DataFrame(list(rows), columns=list(columns))


def html(headline: str, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return a headline and the first rows as HTML."""
    from html import escape  # takes 3 ms, for which --help need not wait

    shown = list(islice(rows, _ROWS_SHOWN))
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    cells = [[f"<td>{escape(_text(row[column]))}</td>" for column in columns] for row in shown]
    body = "".join(f"<tr>{''.join(one)}</tr>" for one in cells)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if shown else ""
    return f"<div><p>{escape(headline)}</p>{table}</div>"


def _text(value: Any) -> str:
    text = "" if value is None else ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= _CELL_SHOWN else f"{text[:_CELL_SHOWN]}…"


def is_number(value: object) -> TypeGuard[int | float]:
    """Tell whether a value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def no_formula(text: str) -> str:
    """Keep a spreadsheet from taking text for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text

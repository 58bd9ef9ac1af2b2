"""Parameters as rows and columns: nested ones by their dotted names, values as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from job_dispatch.messages import printable

_CELLS_OF_SETS = 3_000
_VALUE_WIDTH = 500


@dataclass(frozen=True)
class Sets:
    """Parameter sets as a table: names, which of them differ, and the rows that are shown of all."""

    names: Sequence[str]
    differs: Sequence[bool]
    rows: Sequence[Sequence[str | None]]
    total: int


_Path = tuple[str, ...]


def table(sets: Sequence[Mapping[str, object]], rows: int) -> Sets:
    """Lay out the sets, one a row; a value is None where a set lacks the parameter."""
    cells = [{path: _text(value) for path, value in flat(one)} for one in sets]
    paths = list(dict.fromkeys(path for one in cells for path in one))
    number = min(rows, max(10, _CELLS_OF_SETS // max(1, len(paths))))
    return Sets(
        names=[".".join(path) for path in paths],
        differs=[len({one.get(path) for one in cells}) > 1 for path in paths],
        rows=[[_cut(one.get(path)) for path in paths] for one in cells[:number]],
        total=len(sets),
    )


def flat(parameters: Mapping[str, object], parents: _Path = ()) -> Iterator[tuple[_Path, object]]:
    """Yield each parameter with the path to it; an empty object is a value."""
    for name, value in parameters.items():
        path = (*parents, str(name))
        if isinstance(value, Mapping) and value:
            yield from flat(value, path)
        else:
            yield path, value


def _text(value: object) -> str:
    """Write a value as JSON; text without quotes where it cannot be taken for something else."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
    if isinstance(value, str) and value == value.strip() and not _is_json(value):
        return value
    return text


def _cut(text: str | None) -> str | None:
    return None if text is None else printable(text, _VALUE_WIDTH)


def _is_json(text: str) -> bool:
    try:
        json.loads(text or "0")
    except ValueError:
        return False
    return True


def shown(value: object) -> str:
    """Return a value as the page shows it: JSON, or text without quotes where it cannot be taken for something else."""
    return printable(_text(value), _VALUE_WIDTH)

"""A table that a page shows part by part: its columns as JSON for `table.js.j2`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from job_dispatch.messages import printable

_TEXT = 500


def column(label: str, kind: str, values: Sequence[str | int | float | None], **more: Any) -> dict[str, Any]:
    """Lay out a column: its values one by one, or where many are alike as indexes into a list.

    `kind` is the class of its cells. The lines of a text of the kind `list` are items.
    """
    texts: dict[str, str] = {}
    cells = [
        texts.setdefault(value, "\n".join(printable(line, _TEXT) for line in value.split("\n")))
        if isinstance(value, str)
        else value
        for value in values
    ]
    laid_out = {"label": printable(label, _TEXT), "kind": kind, **more}
    places = {value: place for place, value in enumerate(dict.fromkeys(cells))}
    if len(places) <= len(cells) / 2:
        return {**laid_out, "values": list(places), "codes": [places[cell] for cell in cells]}
    return {**laid_out, "values": cells}

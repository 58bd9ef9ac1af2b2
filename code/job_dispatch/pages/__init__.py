"""What the pages of a dispatch, of a description and of results have in common: templates, columns, parameters."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from job_dispatch.messages import counted, printable, with_unit

_TEXT = 500
_CELLS_OF_SETS = 3_000
_PACKAGE = Path(__file__).resolve().parent.parent
# HTML cannot carry these (a lone surrogate stands for a byte that is not UTF-8).
_NOT_IN_HTML = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_Path = tuple[str, ...]


def render(name: str, size: int, contents: Iterable[Mapping[str, Any]]) -> str:
    """Return a page with the first contents for which it has less than so many bytes, or else the last.

    `name` is the path of its template within `job_dispatch`.
    """
    page = ""
    for content in contents:
        page = _template(name).render(content)
        if len(page.encode()) < size:
            break
    return page


@functools.cache
def _template(name: str) -> Template:
    environment = Environment(
        loader=FileSystemLoader(_PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"hash": _hash, "number": "{:,}".format, "counted": counted, "unit": with_unit}
    return environment.get_template(name)


def _shown(value: object) -> object:
    """Escape what does not print in text that the template shows; markup is the template's own."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _hash(text: str) -> str:
    """Return a text's hash as the Content-Security-Policy writes it."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def lines(text: str, limit: int) -> Markup:
    """Return text of several lines as markup, cut at `limit` characters."""
    safe = _NOT_IN_HTML.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text[:limit])
    rest = f"\n… (cut here; {len(text):,} characters in all)" if len(text) > limit else ""
    return escape(safe + rest)


def script_json(value: object) -> Markup:
    """Return JSON for a script element; nothing in it can end the element."""
    text = json.dumps(value, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def column(label: str, kind: str, values: Sequence[str | int | float | None], **more: Any) -> dict[str, Any]:
    """Lay out a column: its values one by one, or where many are alike as indexes into a list.

    `kind` is the class of its cells. The lines of a text of the kind `list` are items.
    """
    texts = {
        value: "\n".join(printable(line, _TEXT) for line in value.split("\n"))
        for value in set(values)
        if isinstance(value, str)
    }
    cells = [texts[value] if isinstance(value, str) else value for value in values]
    laid_out = {"label": printable(label, _TEXT), "kind": kind, **more}
    places = {value: place for place, value in enumerate(dict.fromkeys(cells))}
    if len(places) <= len(cells) / 2:
        return {**laid_out, "values": list(places), "codes": [places[cell] for cell in cells]}
    return {**laid_out, "values": cells}


def flat(parameters: Mapping[str, object], parents: _Path = ()) -> Iterator[tuple[_Path, object]]:
    """Yield each parameter with the path to it; an empty object is a value."""
    for name, value in parameters.items():
        path = (*parents, str(name))
        if isinstance(value, Mapping) and value:
            yield from flat(value, path)
        else:
            yield path, value


def named(mappings: Sequence[Mapping[str, object]]) -> Iterator[tuple[str, list[Any]]]:
    """Yield each dotted name in some mappings with its values, one per mapping, None where that lacks it."""
    known = {id(one): {".".join(path): value for path, value in flat(one)} for one in mappings}
    rows = [known[id(one)] for one in mappings]
    for name in dict.fromkeys(name for one in known.values() for name in one):
        yield name, [row.get(name) for row in rows]


def shown(value: object) -> str:
    """Return a value as a page shows it: JSON, or text without quotes where it cannot be taken for something else."""
    return printable(_text(value), _TEXT)


def _text(value: object) -> str:
    if isinstance(value, str) and value == value.strip() and not _is_json(value):
        return value
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def _is_json(text: str) -> bool:
    try:
        json.loads(text or "0")
    except ValueError:
        return False
    return True


def parameter_sets(sets: Sequence[Mapping[str, object]], rows: int) -> dict[str, Any]:
    """Lay out the first sets, one a row, with None where one lacks a parameter, and which parameters differ in all."""
    cells = [{path: _text(value) for path, value in flat(one)} for one in sets]
    paths = list(dict.fromkeys(path for one in cells for path in one))
    number = min(rows, max(10, _CELLS_OF_SETS // max(1, len(paths))))
    return {
        "names": [".".join(path) for path in paths],
        "differs": [len({one.get(path) for one in cells}) > 1 for path in paths],
        "rows": [[printable(one[path], _TEXT) if path in one else None for path in paths] for one in cells[:number]],
        "total": len(sets),
    }

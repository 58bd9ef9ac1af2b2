"""The templates of pages, and how text from records gets into them."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from job_dispatch.messages import counted, printable, with_unit

_PACKAGE = Path(__file__).resolve().parent.parent
# HTML cannot carry these (a lone surrogate stands for a byte that is not UTF-8).
_NOT_IN_HTML = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


@functools.cache
def template(name: str) -> Template:
    """Return a template by its path within `job_dispatch`."""
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


def first_below(size: int, pages: Iterable[str]) -> str:
    """Return the first page that has less than so many bytes, or else the last."""
    page = ""
    for page in pages:
        if len(page.encode()) < size:
            break
    return page


def lines(text: str, limit: int) -> Markup:
    """Return text of several lines as markup, cut at `limit` characters."""
    safe = _NOT_IN_HTML.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text[:limit])
    rest = f"\n… (cut here; {len(text):,} characters in all)" if len(text) > limit else ""
    return escape(safe + rest)


def script_json(value: object) -> Markup:
    """Return JSON for a script element; nothing in it can end the element."""
    text = json.dumps(value, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))

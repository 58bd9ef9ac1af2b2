"""What people paste around and inside a query: taken for what it can only mean, or told what to write instead."""

from __future__ import annotations

import ast
import contextlib
import json
import re
from datetime import datetime
from typing import Any

_FENCE = re.compile(r"\s*```[\w-]*[ \t]*\n(?P<text>.*?)\n?\s*```\s*", re.DOTALL)
_NAMED = re.compile(r"(?:(?:const|let|var)\s+)?[A-Za-z_]\w*\s*(?::\s*[\w\[\], .]+)?=\s*(?=[{\[]|[^{=]+\(\s*\{)")
_CALL = re.compile(r"[\w.\[\]\"'() -]*\.(?:find|findOne|find_one|countDocuments|count_documents)\s*\(\s*(?=\{)")
_AFTER_FILTER = re.compile(r"\s*(?:,\s*\{[^{}]*\}\s*)?,?\s*\)")
_STRING = r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\''
_BRACKET_OR_STRING = re.compile(rf"(?P<string>{_STRING})|[{{}}]", re.DOTALL)
# What MongoDB's shell and Python write for values that JSON has no form for; strings are passed over.
_VALUE = re.compile(
    rf"""(?P<string>{_STRING})
    |(?P<date>(?:new\s+)?(?:ISODate|Date|datetime(?:\.datetime)?)\s*\((?P<moment>[^()]*)\))
    |(?:new\s+)?(?:ObjectId|UUID)\s*\(\s*(?P<id>{_STRING})\s*\)
    |Number(?:Int|Long|Decimal)\s*\(\s*["']?(?P<number>-?[0-9.]+)["']?\s*\)
    |(?:re|regex)\.compile\s*\(\s*(?P<compiled>r?(?:{_STRING}))\s*(?:,\s*re\.(?P<flag>\w+)\s*)?\)
    |(?<=[:,\[])(?P<blanks>\s*)/(?P<pattern>(?![/*])(?:\\.|[^/\\\n])+)/(?P<options>[a-z]*)""",
    re.DOTALL | re.VERBOSE,
)
_FLAGS = {"I": "i", "IGNORECASE": "i", "M": "m", "MULTILINE": "m", "S": "s", "DOTALL": "s", "X": "x", "VERBOSE": "x"}
_AROUND = ("filter", "query", "filter_query", "$match")


class PastedError(Exception):
    """What was pasted cannot be taken; the message says what to write instead."""


def unwrapped(text: str) -> str:
    """Return a query without what stands around it: a fence, `query = …`, `db.x.find(…)`, quotes, a last `;`."""
    before, text = text, text.strip().lstrip("\ufeff").strip()
    if text.startswith(("{", "[")):
        # Lines before it count for the place of a mistake.
        lines = before[: before.index(text[0])].count("\n")
        return "\n" * lines + text.rstrip("; \t\r\n")
    if fence := _FENCE.fullmatch(text):
        text = fence["text"].strip()
    if named := _NAMED.match(text):
        text = text[named.end() :]
    text = text.rstrip("; \t\r\n")
    if call := _CALL.match(text):
        return _filter_of_call(text[call.end() :])
    if len(text) > 1 and text[0] in "\"'" and text[0] == text[-1] and text[1:].lstrip().startswith("{"):
        with contextlib.suppress(ValueError):
            inner = json.loads(text) if text[0] == '"' else text[1:-1]
            return str(inner)
    return text


def _filter_of_call(text: str) -> str:
    """Return the first argument of a call; what else it asks for must not change which records it finds."""
    level = 0
    for match in _BRACKET_OR_STRING.finditer(text):
        if match["string"]:
            continue
        level += 1 if match[0] == "{" else -1
        if level == 0:
            rest = text[match.end() :]
            if _AFTER_FILTER.fullmatch(rest):
                return text[: match.end()]
            raise PastedError(
                f"give the filter alone, that is {text[: match.end()]}; not used would be: {rest.strip()}"
            )
    return text


def translated(text: str) -> str:
    """Return text with JSON for the values that MongoDB's shell and Python write otherwise.

    Raises
    ------
    PastedError
        It has a date, which is text in the metadata.
    """
    return _VALUE.sub(_as_json, text)


def _as_json(match: re.Match[str]) -> str:
    if match["string"] is not None:
        return match[0]
    if match["date"] is not None:
        raise PastedError(dates_are_text(match["date"], _moment(match["moment"])))
    if match["id"] is not None:
        return json.dumps(ast.literal_eval(match["id"]))
    if match["number"] is not None:
        return match["number"]
    if match["compiled"] is not None:
        return _regex(ast.literal_eval(match["compiled"]), _FLAGS.get(match["flag"] or "", ""))
    return match["blanks"] + _regex(match["pattern"].replace(r"\/", "/"), match["options"])


def _regex(pattern: str, options: str) -> str:
    return json.dumps({"$regex": pattern, **({"$options": options} if options else {})})


def _moment(text: str) -> str:
    """Return the date that the arguments of a date name, as text, where that is known."""
    with contextlib.suppress(ValueError, SyntaxError, TypeError):
        value = ast.literal_eval(f"({text.strip()},)")
        if len(value) == 1 and isinstance(value[0], str):
            return value[0]
        moment = datetime(*value)
        return f"{moment.date()}" if len(value) == 3 else moment.isoformat()
    return ""


def dates_are_text(shown: str, text: str) -> str:
    """Return the sentence about a date that is not text."""
    return f'dates are text in the metadata: write "{text or "2025-06-07T14:31:15"}" instead of {shown}'


def meant(query: dict[str, Any]) -> dict[str, Any]:
    """Return the filter that an object holds: itself, or what it names `filter`; `{"$oid": "…"}` is its text.

    Raises
    ------
    PastedError
        It has `{"$date": …}`, or something beside the filter.
    """
    for name in _AROUND:
        if isinstance(query.get(name), dict):
            if len(query) > 1:
                others = ", ".join(key for key in query if key != name)
                raise PastedError(f"give the object of {name} alone; not used would be: {others}")
            return meant(query[name])
    found: dict[str, Any] = _without_extended(query)
    return found


def _without_extended(value: Any) -> Any:
    """Return a value without the objects by which MongoDB writes its types in JSON."""
    if isinstance(value, list):
        return [_without_extended(one) for one in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"$oid"}:
        return value["$oid"]
    if set(value) == {"$date"}:
        text = value["$date"] if isinstance(value["$date"], str) else ""
        raise PastedError(dates_are_text(json.dumps(value), text))
    return {key: _without_extended(one) for key, one in value.items()}

"""A query as people paste it: the filter in it, or a sentence about what to write instead."""

from __future__ import annotations

import ast
import contextlib
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from job_dispatch.messages import RequestError, printable
from job_dispatch.request import fields, json_text
from job_dispatch.request.fields import Query
from job_dispatch.request.json_text import STRING, NotReadableError, Reader, closing, variable

# No message shows more of a text.
_SHOWN = 60
_FENCED = re.compile(r"^[ \t]*```[^\n]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)
_PROMPT = re.compile(r"^[ \t]*(?:>>>|\.\.\.(?=[ \t]|$)|(?:In|Out) ?\[\d*\]:|\.\.\.:)[ \t]?", re.MULTILINE)
_COMMENT = re.compile(r"(?<!:)//[^\n]*|/\*.*?\*/|#(?=\s)[^\n]*", re.DOTALL)
_BEFORE = re.compile(
    r"(?:\.\s*(?P<method>\w+)\s*\(\s*|[\"']?(?P<name>[\w$]+)[\"']?(?:\s*:\s*[\w\[\], .]+)?\s*[:=]\s*)$"
)
_BEFORE_STRING = re.compile(r"(?<!\w)(?:[rbfu]|rb|br|fr|rf)?\Z", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"\{\w+\}")
_SCRIPT = re.compile(r"^\s*(?:import|from|def|class|for|if|while|with|async|function|print)\b", re.MULTILINE)
_FILTER_NAMES = ("filter", "filter_query", "query", "docdb_query", "mongo_query", "mongodb_query", "$match")
_PIPELINE_NAMES = ("pipeline", "agg_pipeline", "aggregation_pipeline")
# They choose and order what is returned of the records, and select none.
_SELECTING_NOTHING = frozenset(
    {"projection", "project", "fields", "sort", "paginate", "paginate_batch_size", "batch_size"}
)
_LIMIT = re.compile(
    r"\.\s*(?:limit|skip)\s*\((?!\s*0?\s*\))[^)]*\)|\b(?:limit|skip)\s*=\s*[1-9]\d*|\)\s*\[[^\]]*\](?=\s*;?\s*$)"
)
_STRAIGHT = str.maketrans("\u201c\u201d\u201e\u2018\u2019", '"""\'\'')
_LESS = "is not applied; to dispatch less, give --sample or --max_number_of_tasks_dispatched"
_NO_FILTER = 'no filter found; a query is an object such as {"subject.subject_id": "774659"}'
# What MongoDB's shell and Python write for values for which JSON has no form.
_DATE = re.compile(r"(?:new\s+)?(?:\w+\s*\.\s*)*(?P<name>ISODate|Date|datetime|date|Timestamp|timedelta)\b[^(]*\(")
_ID = re.compile(r"(?:new\s+)?(?:\w+\.)?(?:ObjectId|UUID)\s*\((.*)\)", re.DOTALL)
_NUMBER = re.compile(
    r"(?:new\s+)?(?:Number(?:Int|Long|Decimal)|Int32|Int64|Long|Double|int|float)\s*\((.*)\)", re.DOTALL
)
_COMPILED = re.compile(r"(?:new\s+)?(?:\w+\.)?(?:RegExp|Regex|compile)\s*\(\s*(.*)\)", re.DOTALL)
_OPTIONS = {"I": "i", "IGNORECASE": "i", "M": "m", "MULTILINE": "m", "S": "s", "DOTALL": "s", "X": "x", "VERBOSE": "x"}


def is_query(text: str) -> bool:
    """Tell whether a text is a query, rather than the name of a file with one."""
    stripped = text.strip("\ufeff \t\r\n")
    return stripped.startswith("[") or any(character in stripped for character in "{}\n")


def query_in(text: str, place: str) -> Query:
    """Return the query in a text, with whatever people paste around it.

    RequestError, which begins with `place`, if it holds no filter or several, or asks for more than a filter can.
    """
    if '"' not in text and "'" not in text:
        text = text.translate(_STRAIGHT)  # as a word processor writes quotes
    try:
        try:
            value = json.loads(text.lstrip("\ufeff"), object_pairs_hook=json_text.unique_keys)
        except ValueError:
            value = text
        found = _plain(_in_pasted(value) if isinstance(value, str) else _of_value(value), "")
        if not isinstance(found, dict):
            raise NotReadableError(_NO_FILTER)
        json_text.check(found)
        return Query.of(found)
    except (NotReadableError, RequestError) as error:
        raise RequestError(f"{place}: {error}") from None
    except (RecursionError, MemoryError):
        raise RequestError(f"{place}: {json_text.TOO_DEEP}") from None


def _of_value(value: Any) -> Any:
    """Return the filter that an object or a pipeline is, or has under a name."""
    if isinstance(value, list):
        return _of_pipeline(value)
    if not isinstance(value, dict):
        raise NotReadableError(_NO_FILTER)
    for name in (*_PIPELINE_NAMES, *_FILTER_NAMES):
        if not isinstance(value.get(name), list if name in _PIPELINE_NAMES else dict):
            continue
        for key in ("limit", "skip"):
            if value.get(key):
                raise NotReadableError(f"{key} {_LESS}")
        if unknown := value.keys() - {name, "limit", "skip"} - _SELECTING_NOTHING:
            shown = printable(", ".join(sorted(unknown)), _SHOWN)
            raise NotReadableError(f"give the object of {name} alone; not used would be: {shown}")
        return _of_value(value[name])
    return value


def _is_step(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and next(iter(value)).startswith("$")


def _of_pipeline(steps: list[Any]) -> dict[str, Any]:
    """Return the filter of an aggregation pipeline that does nothing but select."""
    filters: list[dict[str, Any]] = []
    is_projected = False
    for step in steps:
        name = next(iter(step)) if _is_step(step) else ""
        if name == "$match" and isinstance(step[name], dict) and not is_projected:
            filters.append(step[name])
        elif name == "$project":
            is_projected = True
        elif name in ("$limit", "$skip", "$sample"):
            raise NotReadableError(f"{name} of the aggregation pipeline {_LESS}")
        elif name.startswith("$"):
            after = " after $project" if name == "$match" else ""
            raise NotReadableError(
                f"an aggregation pipeline with the step {printable(name, _SHOWN)}{after} is not supported;"
                " give the object of its $match alone"
            )
        else:
            raise NotReadableError("a list is an aggregation pipeline only if each element is a step such as $match")
    if not filters:
        raise NotReadableError("an aggregation pipeline without a $match selects nothing; give a filter in { }")
    return fields.all_of(filters)


# What is around it


class _Part(NamedTuple):
    """An object or a pipeline in a text, and the name or the method that it is given to."""

    value: Any
    start: int
    end: int
    name: str
    method: str


def _in_pasted(text: str) -> Any:
    text = _PROMPT.sub("", _unquoted(_unfenced(text)))
    if not text.strip("\ufeff \t\r\n"):
        raise NotReadableError("is empty; it must hold an object in { }")
    try:
        parts = list(_parts(text))
    except NotReadableError as error:
        if _SCRIPT.search(text):
            raise NotReadableError(f"{error}; of a script, give the part in {{ }} alone") from None
        raise
    parts = [part for number, part in enumerate(parts) if not _selects_nothing(part, parts[:number], text)]
    named = [part for part in parts if part.name in (*_FILTER_NAMES, *_PIPELINE_NAMES)]
    if len(named) == 1:
        parts = named
    if not parts:
        return _in_string(text)
    if len(parts) > 1 and all(_is_step(part.value) for part in parts):
        return _of_pipeline([part.value for part in parts])
    if any(part.value != parts[0].value for part in parts):
        raise NotReadableError(f"this text holds {len(parts)} objects; give the one filter in {{ }} alone")
    _refuse_more(text, parts[0])
    return _of_value(parts[0].value)


def _in_string(text: str) -> Any:
    """Return the filter in the only string that holds an object, as in `json.loads('{…}')` or a command of a shell."""
    strings = (one[0][len(one["prefix"]) :].strip("\"'`").strip() for one in STRING.finditer(text))
    objects = [one for one in strings if one.startswith("{")]
    if len(objects) != 1:
        raise NotReadableError(_NO_FILTER)
    return _in_pasted(objects[0])


def _unfenced(text: str) -> str:
    """Return the blocks of code that hold objects, if there are any; errors count the lines before the first."""
    blocks = [block for block in _FENCED.finditer(text) if "{" in block[1]]
    if not blocks:
        return text
    return "\n" * text.count("\n", 0, blocks[0].start(1)) + "\n".join(block[1] for block in blocks)


def _unquoted(text: str) -> str:
    """Return a text without the quotes around it as a whole."""
    stripped = text.strip("\ufeff \t\r\n;")
    inner = stripped.strip("\"'`").lstrip()
    if stripped[:1] not in tuple("\"'`") or stripped[:1] != stripped[-1:] or not inner.startswith(("{", "[")):
        return text
    if stripped[0] == '"' and STRING.fullmatch(stripped):
        return str(Reader(stripped).only_value())
    return inner


def _parts(text: str) -> Iterator[_Part]:
    """Yield all objects and pipelines that are not within another, in a string or in a comment."""
    reader = Reader(text, _expression, _regex)
    position = 0
    while position < len(text):
        character = text[position]
        if comment := _COMMENT.match(text, position):
            position = comment.end()
        elif _begins_string(text, position) and (string := STRING.match(text, position)):
            position = string.end()
        elif (word := _PLACEHOLDER.match(text, position)) and len(word[0]) < len(text.strip()):
            position = word.end()
        elif character == "{" or (character == "[" and re.match(r"\[\s*\{", text[position : position + 100])):
            value = reader.value_at(position)
            before = _BEFORE.search(text[max(0, position - 100) : position])
            name, method = before.group("name", "method") if before else ("", "")
            yield _Part(value, position, reader.position, (name or "").lower(), method or "")
            position = reader.position
        elif character == "}":
            raise reader.expected("no } here", position)
        else:
            position += 1


def _begins_string(text: str, position: int) -> bool:
    """Tell whether a quote is there that begins a string, and is no apostrophe."""
    return text[position] in "\"'`" and _BEFORE_STRING.search(text[max(0, position - 3) : position]) is not None


def _selects_nothing(part: _Part, before: list[_Part], text: str) -> bool:
    """Tell whether a part chooses or orders what is returned of the records."""
    if part.name in _SELECTING_NOTHING or part.method in _SELECTING_NOTHING or re.match("proj|sort", part.name):
        return True
    values = part.value.values() if isinstance(part.value, dict) else [part.value]
    is_projection = all(value in (0, 1) or (isinstance(value, str) and value.startswith("$")) for value in values)
    return is_projection and bool(before) and not text[before[-1].end : part.start].strip(", \t\r\n")


def _refuse_more(text: str, part: _Part) -> None:
    """Refuse what is around a filter and changes which records it finds."""
    before, after = text[: part.start], text[part.end :]
    if limit := _LIMIT.search(after) or _LIMIT.search(before):
        raise NotReadableError(f"{printable(limit[0].lstrip(') '), _SHOWN)} {_LESS}")
    changed = rf"^\s*{re.escape(part.name)}\s*(?:\[[^\]]*\]\s*=(?!=)|\.(?:update|setdefault|pop)\b|\|=|=(?!=))"
    if part.name and re.search(changed, after, re.MULTILINE | re.IGNORECASE):
        raise NotReadableError(
            f"{printable(part.name, _SHOWN)} is changed after it is defined; write the filter as it is in the end"
        )


# Values that JSON has no form for


def _regex(pattern: str, options: str) -> dict[str, str]:
    return {"$regex": pattern, "$options": options} if options else {"$regex": pattern}


def _expression(text: str) -> Any:
    """Return the value of an expression that begins with a name."""
    if found := _ID.fullmatch(text):
        return _argument(found[1], text)
    if found := _NUMBER.fullmatch(text):
        value = _argument(found[1], text)
        return Reader(value).only_value() if isinstance(value, str) else value
    if found := _COMPILED.fullmatch(text):
        string = STRING.match(found[1])
        if string is None:
            raise variable(text)
        return _regex(_argument(string[0], text), _options(found[1][string.end() :]))
    if found := _DATE.match(text):
        raise NotReadableError(_dates_are_text(text, _moment(text[found.end() - 1 :], found["name"])))
    raise variable(text)


def _argument(text: str, shown: str) -> Any:
    try:
        return Reader(text).only_value()
    except NotReadableError:
        raise variable(shown) from None


def _options(text: str) -> str:
    flags = re.findall(r"\b(?:re|regex)\.(\w+)", text)
    letters = re.findall(r"[\"']([a-z]*)[\"']", text)
    if any(flag not in _OPTIONS for flag in flags):
        raise NotReadableError(
            f"flags of a regular expression are re.I, re.M, re.S and re.X, not {printable(text, _SHOWN)}"
        )
    return "".join(dict.fromkeys([*(_OPTIONS[flag] for flag in flags), *"".join(letters)]))


def _moment(text: str, name: str) -> str:
    """Return the date that the arguments of a call name, as text, where that is known."""
    with contextlib.suppress(ValueError, SyntaxError, TypeError, OverflowError, OSError):
        call = ast.parse("f" + text[: closing(text, 0)], mode="eval").body
        assert isinstance(call, ast.Call)
        named = [one.value for one in call.keywords if one.arg in ("year", "month", "day", "hour", "minute", "second")]
        values: list[Any] = [one.value for one in (*call.args, *named) if isinstance(one, ast.Constant)]
        if not values or name == "timedelta":
            return ""
        if isinstance(values[0], str):
            return values[0]
        if len(values) == 1:
            moment = datetime.fromtimestamp(values[0] / (1000 if name == "Date" else 1), UTC).replace(tzinfo=None)
        else:
            year, month, *rest = values
            moment = datetime(year, month + (name == "Date"), *(rest or [1]))
        return moment.isoformat().removesuffix("T00:00:00")
    return ""


def _dates_are_text(shown: str, text: str) -> str:
    remedy = f'"{printable(text, _SHOWN)}"' if text else 'a date such as "2025-06-07T14:31:15"'
    return f"dates are text in the metadata: write {remedy} instead of {printable(shown, _SHOWN)}"


def _plain(value: Any, field: str) -> Any:
    """Return a value as MongoDB takes it, with ids as plain text; `field` is what it is compared with."""
    if isinstance(value, list):
        return [_plain(one, field) for one in value]
    if not isinstance(value, dict):
        return value
    if set(value) in ({"$oid"}, {"$uuid"}):
        return next(iter(value.values()))
    if set(value) == {"$date"}:
        date = value["$date"]
        number = date.get("$numberLong") if isinstance(date, dict) else date
        moment = date if isinstance(date, str) else _moment(f"({number})", "Date")
        raise NotReadableError(_dates_are_text(json.dumps(value), moment))
    found: dict[str, Any] = {}
    for key, one in value.items():
        found.update(_condition(key, one, key if not key.startswith("$") else field))
    return found


def _condition(key: str, value: Any, field: str) -> dict[str, Any]:
    """Return a condition as MongoDB takes it where it holds a regular expression."""
    regex = _regex_of(value)
    if key in ("$regex", "$eq") and regex:
        return regex
    if key == "$ne" and regex:
        regex["$regex"] = printable(str(regex["$regex"]), _SHOWN)
        remedy = json.dumps({printable(field, _SHOWN): {"$not": regex}})
        raise NotReadableError(f"$ne takes no regular expression and would select every record; write {remedy}")
    if key in ("$in", "$nin") and isinstance(value, list) and any(map(_regex_of, value)):
        joined = _joined([_regex_of(one) for one in value], key, field)
        return joined if key == "$in" else {"$not": joined}
    return {key: _plain(value, field)}


def _regex_of(value: Any) -> dict[str, str] | None:
    """Return the regular expression that a value is, as a condition."""
    if not isinstance(value, dict) or "$regex" not in value or not value.keys() <= {"$regex", "$options"}:
        return None
    inner = value["$regex"]  # itself one, as in {"$regex": /x/}
    return dict(inner if isinstance(inner, dict) and "$regex" in inner else value)


def _joined(regexes: list[dict[str, str] | None], operator: str, field: str) -> dict[str, str]:
    """Return one regular expression for a list of them."""
    if len({regex.get("$options", "") if regex else None for regex in regexes}) > 1 or None in regexes:
        raise NotReadableError(
            f"{operator} of {printable(field, _SHOWN)} holds a regular expression beside others or beside text;"
            ' write {"$or": [{…}, {"$regex": …}]}'
        )
    patterns = [regex["$regex"] for regex in regexes if regex]
    pattern = patterns[0] if len(patterns) == 1 else "|".join(f"(?:{one})" for one in patterns)
    return {**(regexes[0] or {}), "$regex": pattern}

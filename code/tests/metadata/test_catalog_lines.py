"""A catalog is read fast, and gives exactly what a strict reader gives, line by line."""

from __future__ import annotations

import json
import math
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from job_dispatch.messages import RequestError
from job_dispatch.metadata.catalog import Catalog, read_plain
from job_dispatch.metadata.matching import Matching
from job_dispatch.request.fields import Query

LETTERS = 'ab:{}[]," \\\x07\x7féµ🐭\u2028\ud800'
KEYS = ["a", "b", "a:", ":", "", "é", '"']
NUMBERS = ["0", "-0", "-0.0", "1", "1.0", "1e2", "18446744073709551616", "-9223372036854775809", "1" * 40]
WRONG = ["1e999", "-1E400", "NaN", "Infinity", "-Infinity", "01", "1.", "tru", "'a'", "[1,]", '{"a":1,}', "1 2"]


def spelt(text: str, escaped: bool) -> str:
    """Write text in JSON, plainly or with each character as an escape."""
    if not escaped:
        return json.dumps(text, ensure_ascii=False)
    units = text.encode("utf-16-be", "surrogatepass").hex()
    return '"' + "".join(f"\\u{units[place : place + 4]}" for place in range(0, len(units), 4)) + '"'


def texts_of(letters: str) -> st.SearchStrategy[str]:
    return st.builds(spelt, st.text(letters, max_size=3), st.booleans())


keys = st.builds(spelt, st.sampled_from(KEYS), st.booleans())
blanks = st.sampled_from(["", "", " ", "\t"])


def object_of(pairs: list[tuple[str, str]], blank: str) -> str:
    return "{" + f"{blank},{blank}".join(f"{key}{blank}:{blank}{value}" for key, value in pairs) + "}"


def list_of(values: list[str], blank: str) -> str:
    return f"[{blank}{f'{blank},'.join(values)}]"


plain_leaves = st.one_of(texts_of(LETTERS[:-1]), st.sampled_from([*NUMBERS, "true", "false", "null"]))
leaves = st.one_of(plain_leaves, plain_leaves, plain_leaves, texts_of(LETTERS), st.sampled_from(WRONG))
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(object_of, st.lists(st.tuples(keys, inner), max_size=3), blanks),
        st.builds(list_of, st.lists(inner, max_size=3), blanks),
    ),
    max_leaves=5,
)


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """Draw a line: mostly an object with an id and a few values, in which anything may be wrong."""
    pairs = draw(st.lists(st.tuples(keys, values), max_size=3))
    identity = draw(st.one_of(texts_of("abcdefgh"), texts_of("abcdefgh"), values))
    pairs.insert(draw(st.integers(0, len(pairs))), (draw(st.sampled_from(['"_id"', '"\\u005fid"'])), identity))
    text = draw(st.one_of(st.just(object_of(pairs, draw(blanks))), st.just(object_of(pairs, "")), values))
    content = text.encode("utf-8", "surrogatepass") + draw(st.sampled_from([b"", b"", b" ", b"\r", b"\xff", b"x"]))
    return draw(st.sampled_from([content, content, content, b"", b"\xef\xbb\xbf" + content]))


def strictly(line: bytes) -> Any:
    """Read a line as strictly as can be said, or raise ValueError."""

    def finite(text: str) -> float:
        if math.isinf(float(text)):
            raise ValueError(text)
        return float(text)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key stands twice")
        return dict(pairs)

    def refuse(name: str) -> Any:
        raise ValueError(name)

    text = line.decode("utf-8-sig")
    value = json.loads(text, parse_float=finite, parse_constant=refuse, object_pairs_hook=unique)
    json.dumps(value, ensure_ascii=False).encode()
    return value


def read_strictly(content: bytes) -> tuple[list[dict[str, Any]], int | None]:
    """Return the records before the first line that is none, and the number of that line."""
    records: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.removeprefix(b"\xef\xbb\xbf").strip():
            continue
        try:
            value = strictly(line)
        except ValueError:
            return [*records.values()], number
        if not isinstance(value, dict) or not isinstance(value.get("_id"), str) or value["_id"] in records:
            return [*records.values()], number
        records[value["_id"]] = value
    return [*records.values()], None


def exact(value: object) -> str:
    """Write a value so that `1`, `1.0`, `-0.0` and `true` differ."""
    return repr(value)


def in_a_file(content: bytes, ask: Callable[[Path], list[Any]]) -> list[Any] | str:
    """Return the answer, or the refusal."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "catalog.jsonl"
        path.write_bytes(content)
        try:
            return ask(path)
        except RequestError as error:
            return str(error)


def all_of(path: Path) -> list[Any]:
    return [record for page in Catalog(path).find(Query.of({}), None) for record in page]


@settings(deadline=None, max_examples=500)
@given(st.lists(lines(), max_size=5))
@example([b'{"_id":"a","x":"\\u003a","x":"\\u003A:"}'])
@example([b'{"_id":"a"}', b'{"_id":"b","x":1,"\\u0078":1}'])
@example([b'{"_id":"a"},{"_id":"b","x":[1', b"2]}"])
@example([b'{"_id":""}', b'{"_id":""}', b'""'])
@example([b'{"_id":"a"', b"}"])
@example([b'{"_id":"a"} {"_id":"b"}', b""])
@pytest.mark.long
def test_what_is_read_is_what_a_strict_reader_reads_and_the_first_line_it_refuses_is_named(drawn: list[bytes]) -> None:
    content = b"\n".join(drawn)
    first = next((line for line in drawn if line.removeprefix(b"\xef\xbb\xbf").strip()), b"")
    if first.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        return  # an array, read by the strict reader alone
    records, refused = read_strictly(content)

    answer = in_a_file(content, all_of)

    if refused is None:
        assert exact(answer) == exact(records)
    else:
        assert isinstance(answer, str)
        assert f"catalog.jsonl, line {refused}: " in answer


@settings(deadline=None, max_examples=300)
@given(st.lists(values, max_size=3))
@pytest.mark.long
def test_an_array_holds_what_its_lines_would(drawn: list[str]) -> None:
    one_a_line = [f'{{"_id": "{number}", "x": {value}}}' for number, value in enumerate(drawn)]
    as_lines = "\n".join(one_a_line).encode("utf-8", "surrogatepass")
    as_array = f"[{','.join(one_a_line)}]".encode("utf-8", "surrogatepass")

    answers = [in_a_file(content, all_of) for content in (as_lines, as_array)]

    assert isinstance(answers[0], str) == isinstance(answers[1], str)
    if not isinstance(answers[0], str):
        assert exact(answers[0]) == exact(answers[1])


equals = st.one_of(st.text('ab"é🐭:\x07\\', max_size=2), st.sampled_from([1, True, None]))
conditions = st.one_of(
    equals,
    equals,
    st.builds(lambda operator, one: {operator: one}, st.sampled_from(["$eq", "$ne", "$gt"]), equals),
    st.builds(lambda some: {"$in": some}, st.lists(equals, max_size=2)),
    st.builds(lambda one: {"$not": {"$eq": one}}, equals),
    st.builds(lambda one, other: {"$eq": one, "$ne": other}, equals, equals),
)
simple = st.dictionaries(st.sampled_from(["a", "b", "a.b", "b.a", "_id", "a|b"]), conditions, max_size=2)
queries = st.recursive(
    simple,
    lambda inner: st.builds(
        lambda operator, parts, beside: {**beside, operator: parts},
        st.sampled_from(["$and", "$or", "$nor"]),
        st.lists(inner, min_size=1, max_size=2),
        simple,
    ),
    max_leaves=4,
)
texts = st.text('ab"é🐭:\x07\\', max_size=2)
shallow = st.one_of(texts, st.lists(texts, max_size=2), st.dictionaries(st.sampled_from("ab"), texts, max_size=2))


@settings(deadline=None, max_examples=300)
@given(st.lists(st.dictionaries(st.sampled_from("ab"), shallow, max_size=2), max_size=4), queries, st.booleans())
@pytest.mark.long
def test_no_record_that_matches_is_left_out_unjudged(
    drawn: list[dict[str, Any]], query: dict[str, Any], ascii_only: bool
) -> None:
    records = [{"_id": f"{number}", **record} for number, record in enumerate(drawn)]
    content = "".join(json.dumps(record, ensure_ascii=ascii_only) + "\n" for record in records).encode()
    judge = Matching(Query.of(query), "here")

    def found(path: Path) -> list[Any]:
        return [record["_id"] for page in Catalog(path).find(Query.of(query), ()) for record in page]

    assert in_a_file(content, found) == [record["_id"] for record in records if judge(record)]


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ({"a": "x"}, "x"),
        ({"a": {"$eq": "x"}}, "x"),
        ({"@subject": "774659"}, "774659"),
        ({"a": "x", "$and": [{"b": "longer"}]}, "longer"),
        ({"$or": [{"a": "x"}, {"b": "x", "c": "y"}]}, "x"),
        ({"$or": [{"a": "x"}, {"b": "y"}]}, None),
        ({"$nor": [{"a": "x"}]}, None),
        ({"a": {"$ne": "x"}}, None),
        ({"a": {"b": "x"}}, None),
        ({"a": {"$in": ["x"]}}, None),
        ({}, None),
    ],
    ids=str,
)
def test_a_record_that_matches_must_have_the_text_that_the_query_asks_for(
    query: dict[str, Any], text: str | None
) -> None:
    assert Matching(Query.of(query), "here").holding == text


def test_records_of_many_blocks_and_of_more_than_a_block_are_all_there(tmp_path: Path) -> None:
    draw = random.Random(1)
    lengths = [draw.choice([1, 100, 10_000, 100_000]) for _ in range(200)]
    path = tmp_path / "catalog.jsonl"
    path.write_text("".join(json.dumps({"_id": f"{n}", "x": length * "x"}) + "\n" for n, length in enumerate(lengths)))

    assert [len(record["x"]) for record in all_of(path)] == lengths


@pytest.mark.parametrize("bad", [b'{"_id": "7"}\n', b'{"_id": 5}\n', b'{"_id": "new", "x": 1e999}\n'])
def test_one_line_among_thousands_is_named(tmp_path: Path, bad: bytes) -> None:
    lines = [b'{"_id": "%d"}\n' % number for number in range(5_000)]
    lines.insert(4_321, bad)
    path = tmp_path / "catalog.jsonl"
    path.write_bytes(b"".join(lines))

    with pytest.raises(RequestError, match=r"catalog\.jsonl, line 4322: "):
        all_of(path)


def test_plain_lines_are_not_left_to_the_strict_reader() -> None:
    record = {"_id": "a:b", "path": 'C:\\x "y"', "unit": "µm", "n": [1, 2.5, None, {"t": "10:30"}]}

    for ascii_only in (True, False):
        lines = [json.dumps(record, ensure_ascii=ascii_only).encode() + b"\r\n"] * 2
        assert read_plain(lines)[0] == [record] * 2

"""What people paste for a query is taken for what it can only mean, or answered with what to write instead."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job_dispatch.messages import RequestError
from job_dispatch.request import flags, selection
from job_dispatch.request.query import query_in
from tests.request.corpus import KINDS, MOUSE, REFUSED, TEXT, UNDERSTOOD


@pytest.mark.parametrize(("text", "query"), UNDERSTOOD)
def test_a_text_with_one_complete_filter_is_understood(tmp_path: Path, text: str, query: dict[str, Any]) -> None:
    assert repr(selection.read_query(text, tmp_path).filter) == repr(query)


@pytest.mark.parametrize(("text", "kind"), REFUSED)
def test_any_other_text_is_refused_with_the_line_that_helps(tmp_path: Path, text: str, kind: str) -> None:
    with pytest.raises(RequestError) as refused:
        selection.read_query(text, tmp_path)

    message = refused.value.headline
    assert message.startswith("--docdb_query: ")
    assert KINDS[kind] in message
    assert refused.value.details == ()


def test_the_corpus_has_150_texts_or_more_and_each_once() -> None:
    texts = [text for text, _ in (*UNDERSTOOD, *REFUSED)]
    assert len(set(texts)) == len(texts) >= 150


@pytest.mark.parametrize("text", [f"```json\n{TEXT}\n```", f"query = {TEXT}", f"db.x.find({TEXT})"])
def test_a_query_is_understood_in_a_file_as_well(tmp_path: Path, text: str) -> None:
    (tmp_path / "query.txt").write_text(text)

    assert selection.read_query("query.txt", tmp_path).filter == MOUSE


LONG = "x" * 5_000


@pytest.mark.parametrize(
    "text",
    [
        f"{LONG}\n{LONG}",
        f"{{{LONG}",
        f"{{'a': {LONG}}}",
        f"{{'a': f'{LONG}'}}",
        f"{{'a': '{LONG}' '{LONG}'}}",
        f"{{'{LONG}': 1, '{LONG}': 1}}",
        f"{{'a': {{'{LONG}', 1}}}}",
        f"{{'a': b'{LONG}'}}",
        f"{{'a': 0{'1' * 5_000}}}",
        f"{{'a': datetime('{LONG}')}}",
        f"{{'{LONG}': {{'$ne': /{LONG}/}}}}",
        f"{{'{LONG}': {{'$in': [/{LONG}/, 1]}}}}",
        f"[{{'${LONG}': 1}}]",
        f"{{'filter': {{}}, '{LONG}': 1}}",
        f"find({{}}).limit({LONG})",
        f"{{'@{LONG}': 1}}",
        f"{{'a': re.compile('x', re.{LONG})}}",
        f"{{'a': '{LONG}\n",
        LONG,
        "a/" * 3_000,
    ],
)
def test_no_message_echoes_more_than_100_characters(tmp_path: Path, text: str) -> None:
    with pytest.raises(RequestError) as refused:
        selection.read_query(text, tmp_path)

    for line in str(refused.value).splitlines():
        assert all(len(echo) <= 100 for echo in re.findall(r"x+|(?:a/)+|1+", line))


@settings(max_examples=300)
@given(st.text(alphabet="{}[]()\"'`;=/.$ \nabdfinqtuxy0#:,\\", max_size=60))
def test_any_text_is_understood_or_refused(text: str) -> None:
    with contextlib.suppress(RequestError):
        assert isinstance(query_in(text, "here").filter, dict)


@settings(max_examples=300)
@given(st.lists(st.sampled_from([text for text, _ in (*UNDERSTOOD, *REFUSED)]), min_size=1, max_size=2), st.data())
def test_any_part_of_what_people_paste_is_understood_or_refused(texts: list[str], data: st.DataObject) -> None:
    text = "\n".join(texts)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    for part in (text[start:end], text[:start] + text[end:]):
        with contextlib.suppress(RequestError):
            assert isinstance(query_in(part, "here").filter, dict)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--subjct=774659", "unrecognized arguments: --subjct=774659; did you mean --subject?"),
        ("--docdb-query={}", "unrecognized arguments: --docdb-query={}; did you mean --docdb_query?"),
        ("-subject=1", "unrecognized arguments: -subject=1; did you mean --subject?"),
        ("--zzzzzz", "unrecognized arguments: --zzzzzz"),
        ("subject", "unrecognized arguments: subject"),
    ],
)
def test_a_misspelt_flag_gets_the_nearest_one(argument: str, message: str) -> None:
    with pytest.raises(RequestError) as refused:
        flags.parse([argument], "")

    assert refused.value.headline == message

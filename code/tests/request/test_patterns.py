"""A regular expression of a user answers as MongoDB's would, and ends."""

from __future__ import annotations

import threading
import time

import pytest

from job_dispatch.messages import RequestError
from job_dispatch.request import patterns
from job_dispatch.request.patterns import Pattern

ENDLESS = "^(a|aa)+$"
VALUE = "a" * 100 + "b"


@pytest.mark.parametrize(
    ("text", "options", "found", "not_found"),
    [
        ("^behavior_", "", "behavior_1", "a behavior_1"),
        ("^behavior_", "i", "BEHAVIOR_1", "a behavior_1"),
        ("^b", "m", "a\nb", "ab"),
        ("a.b", "s", "a\nb", "ab"),
        ("a.b", "", "a b", "a\nb"),
        ("a b # both", "x", "ab", "a b"),
        (r"\d{6}_2025", "u", "774659_2025", "77465_2025"),
        # What RE2 lacks.
        ("^(?!.*_processed)", "", "behavior_1", "behavior_1_processed"),
        (r"(\d)\1", "", "655", "656"),
        ("(?<=sub-)7", "", "sub-7", "sub7"),
        # What Python's re lacks.
        ("^[[:alpha:]]+$", "", "abc", "abc1"),
        (r"^\p{Lu}", "", "Éa", "éa"),
        # What is special to the engine only.
        ("^ab{e}$", "", "ab{e}", "ac"),
        ("^a{b$", "", "a{b", "ab"),
        (r"^\{a\}$", "", "{a}", "a"),
    ],
)
def test_a_pattern_finds_what_mongodb_would(text: str, options: str, found: str, not_found: str) -> None:
    pattern = Pattern(text, options)

    assert pattern.search(found)
    assert not pattern.search(not_found)


@pytest.mark.parametrize(
    ("text", "options", "reason"),
    [
        ("(", "", "missing ) at position 1"),
        ("a", "iq", "'q' is none of the options i, m, s, x, u"),
        ("a" * 32_765, "", "32,765 characters; at most 32,764 are accepted"),
        ("a\0", "", "it holds a null character"),
        ("((((((a){2}){2}){2}){2}){2}){2}", "", "groups repeated inside more than 5 that are repeated"),
        ("((((((a) +) +) +) +) +) +", "x", "groups repeated inside more than 5 that are repeated"),
    ],
    ids=["syntax", "option", "length", "null", "repeats", "repeats apart"],
)
def test_a_pattern_that_cannot_be_used_is_refused_with_the_reason(text: str, options: str, reason: str) -> None:
    with pytest.raises(RequestError, match=r"^the regular expression .* is wrong: ") as refused:
        Pattern(text, options)

    assert refused.value.headline.endswith(f" is wrong: {reason}")


@pytest.mark.parametrize("text", ["((((((a))))))+", "(((((a)+)+)+)+)+", r"\(\(\(\(\(\(\(a)+".replace(")", "")])
def test_many_brackets_are_no_mistake_where_they_do_not_repeat(text: str) -> None:
    assert Pattern(text).search("((((((((aaaa")


def test_a_pattern_that_takes_too_long_on_a_value_is_stopped_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "SECONDS_A_VALUE", 0.2)

    with pytest.raises(RequestError) as refused:
        Pattern(ENDLESS).search(VALUE)

    assert refused.value.headline == (
        "the regular expression '^(a|aa)+$' takes longer than 0.2 s on one value of 101 characters;"
        " write it without a repeat of what is itself repeated, such as (a+)+"
    )
    assert refused.value.details[0].startswith("value: aaa")


def test_the_limit_is_half_a_minute() -> None:
    assert patterns.SECONDS_A_VALUE == 30


def test_other_threads_run_while_a_pattern_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "SECONDS_A_VALUE", 1.0)
    ran_at: list[float] = []
    timer = threading.Timer(0.1, lambda: ran_at.append(time.monotonic()))
    timer.start()

    with pytest.raises(RequestError):
        Pattern(ENDLESS).search(VALUE)

    assert ran_at != []
    timer.join()


def test_the_same_text_is_compiled_once() -> None:
    assert patterns.compiled("^a") is patterns.compiled("^a")
    assert patterns.compiled("^a", "i") is not patterns.compiled("^a")

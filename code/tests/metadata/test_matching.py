"""A bank of cases: query, record, and whether it matches, with the source of each verdict; and laws.

`manual` is MongoDB's manual (https://www.mongodb.com/docs/manual/reference/operator/query/ and the page of the
operator), `null` its test `jstests/core/null_query_semantics.js`, `paths` its tests of paths through arrays,
`jstests/core/arrayfind*.js`, `array_match*.js` and `elemMatch*.js`.
"""

from __future__ import annotations

import json
import re
from typing import Any

import mgqpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job_dispatch.messages import RequestError
from job_dispatch.metadata.matching import Matching
from job_dispatch.request.fields import Query

PROCESSES = {"p": [{"start": "2025-01"}, {"start": "2025-12"}]}
Case = tuple[dict[str, Any], dict[str, Any], bool, str]

# fmt: off
CASES: list[Case] = [
    # $not is the opposite of what it holds, also below an empty list and where nothing is there.
    ({"a.b": {"$not": {"$eq": 1}}}, {"a": []}, True, "manual $not"),
    ({"a.b": {"$not": {"$eq": 1}}}, {"a": [{"b": 1}]}, False, "manual $not"),
    ({"a": {"$not": {"$gt": 5}}}, {}, True, "manual $not"),
    ({"a": {"$not": {"$gt": 5}}}, {"a": 6}, False, "manual $not"),
    ({"a": {"$not": {"$regex": "^x", "$options": "i"}}}, {"a": "Xy"}, False, "manual $not"),
    ({"a": {"$not": {"$regex": "^x", "$options": "i"}}}, {"a": "yx"}, True, "manual $not"),
    ({"a": {"$not": {"$gt": 5, "$lt": 8}}}, {"a": [1, 9]}, False, "manual: one element above, another below"),
    # Conditions on a list may be met by different elements; $elemMatch wants one element for all.
    ({"p.start": {"$gte": "2025-02", "$lt": "2025-11"}}, PROCESSES, True, "manual: query an array"),
    ({"p.start": {"$gte": "2025-02", "$lt": "2025-11"}}, {"p": [{"start": "2026"}]}, False, "manual: query an array"),
    ({"p": {"$elemMatch": {"start": {"$gte": "2025-02", "$lt": "2025-11"}}}}, PROCESSES, False, "manual $elemMatch"),
    ({"p": {"$elemMatch": {"start": {"$gte": "2025-02", "$lt": "2026"}}}}, PROCESSES, True, "manual $elemMatch"),
    ({"a": {"$gt": 15, "$lt": 20}}, {"a": [10, 30]}, True, "manual: query an array"),
    ({"a": {"$elemMatch": {"$gt": 15, "$lt": 20}}}, {"a": [10, 30]}, False, "manual $elemMatch"),
    ({"a": {"$elemMatch": {"$gt": 15, "$lt": 20}}}, {"a": [10, 17]}, True, "manual $elemMatch"),
    ({"a": {"$elemMatch": {"$gt": 15}}}, {"a": 17}, False, "manual $elemMatch: lists only"),
    # Indexes.
    ({"a.2": {"$exists": False}}, {"a": [1, 2]}, True, "paths: beyond the end is missing"),
    ({"a.2": {"$exists": True}}, {"a": [1, 2, 3]}, True, "paths"),
    ({"a.1": 2}, {"a": [1, 2]}, True, "manual: query for an element by its index"),
    ({"a.0": 2}, {"a": [1, 2]}, False, "manual: query for an element by its index"),
    ({"a.0.b": 1}, {"a": [{"b": 1}]}, True, "paths"),
    ({"a.0.b": 1}, {"a": [{"b": 2}, {"b": 1}]}, False, "paths"),
    ({"a.0": 1}, {"a": {"0": 1}}, True, "paths: a number may be a key"),
    # $in and $nin with lists and null.
    ({"a": {"$in": [[1, 2]]}}, {"a": [1, 2]}, True, "manual $in"),
    ({"a": {"$in": [[1, 2]]}}, {"a": [2, 1]}, False, "manual $in"),
    ({"a": {"$in": [None]}}, {}, True, "null"),
    ({"a": {"$in": [None]}}, {"a": 1}, False, "null"),
    ({"a": {"$nin": [None]}}, {}, False, "null"),
    ({"a": {"$nin": [None]}}, {"a": 1}, True, "null"),
    ({"a": {"$nin": [1]}}, {}, True, "manual $nin: the field is not there"),
    ({"a": {"$nin": [1]}}, {"a": [1, 2]}, False, "manual $nin: no element"),
    ({"a": {"$in": [1]}}, {"a": [1, 2]}, True, "manual $in: any element"),
    ({"a": {"$in": []}}, {"a": 1}, False, "manual $in"),
    ({"a": {"$nin": []}}, {"a": 1}, True, "manual $nin"),
    ({"a.b": {"$nin": [None]}}, {"a": []}, True, "null"),
    # $size on what is a list, and what is none.
    ({"a": {"$size": 1}}, {"a": "x"}, False, "manual $size"),
    ({"a": {"$size": 1}}, {"a": {"b": 1}}, False, "manual $size"),
    ({"a": {"$size": 1}}, {"a": ["x"]}, True, "manual $size"),
    ({"a": {"$size": 0}}, {"a": []}, True, "manual $size"),
    ({"a": {"$size": 0}}, {}, False, "manual $size"),
    ({"a": {"$size": 2}}, {"a": [[1, 2]]}, False, "manual $size: not of elements"),
    # $exists where only some elements have the key.
    ({"a.b": {"$exists": False}}, {"a": [{"b": 1}, {"c": 1}]}, False, "null"),
    ({"a.b": {"$exists": True}}, {"a": [{"b": 1}, {"c": 1}]}, True, "null"),
    ({"a.b": {"$exists": False}}, {"a": [{"c": 1}]}, True, "null"),
    ({"a.b": {"$exists": False}}, {"a": []}, True, "null"),
    ({"a": {"$exists": True}}, {"a": None}, True, "manual $exists: null is there"),
    ({"a": {"$exists": False}}, {"a": None}, False, "manual $exists"),
    # Null and what is missing.
    ({"a": None}, {"a": None}, True, "null"),
    ({"a": None}, {}, True, "null"),
    ({"a": None}, {"a": [None]}, True, "null"),
    ({"a": None}, {"a": []}, False, "null"),
    ({"a.b": None}, {"a": []}, False, "null"),
    ({"a.b": None}, {"a": [{"c": 1}]}, True, "null"),
    ({"a.b": None}, {"a": ["x"]}, False, "null"),
    ({"a.b": None}, {"a": "x"}, True, "null"),
    ({"a.b": {"$ne": None}}, {"a": [{"b": 1}, {}]}, False, "null"),
    ({"a.b": {"$ne": None}}, {"a": [{"b": 1}]}, True, "null"),
    ({"a": {"$ne": 1}}, {}, True, "manual $ne: the field is not there"),
    ({"a": {"$ne": 1}}, {"a": [1, 2]}, False, "manual $ne: no element"),
    ({"a": {"$gte": None}}, {}, True, "null"),
    ({"a": {"$gt": None}}, {"a": None}, False, "null"),
    ({"a": {"$lte": None}}, {"a": 0}, False, "null"),
    # Types: true is not 1, numbers are not text.
    ({"a": True}, {"a": 1}, False, "manual: comparison by type"),
    ({"a": 1}, {"a": True}, False, "manual: comparison by type"),
    ({"a": 1}, {"a": 1.0}, True, "manual: numbers compare by value"),
    ({"a": {"$in": [0]}}, {"a": False}, False, "manual: comparison by type"),
    ({"a": {"$gt": 0}}, {"a": "1"}, False, "manual: type bracketing"),
    ({"a": {"$gt": 0}}, {"a": True}, False, "manual: type bracketing"),
    ({"a": {"$lt": "b"}}, {"a": "a"}, True, "manual: type bracketing"),
    ({"a": {"$ne": 1}}, {"a": "1"}, True, "manual: comparison by type"),
    ({"a": "1"}, {"a": 1}, False, "manual: comparison by type"),
    # $mod.
    ({"a": {"$mod": [4, 0]}}, {"a": 12}, True, "manual $mod"),
    ({"a": {"$mod": [4, 0]}}, {"a": 13}, False, "manual $mod"),
    ({"a": {"$mod": [4, 1]}}, {"a": [2, 5]}, True, "manual $mod"),
    ({"a": {"$mod": [4, 0]}}, {"a": "12"}, False, "manual $mod"),
    # $type.
    ({"a": {"$type": "string"}}, {"a": "x"}, True, "manual $type"),
    ({"a": {"$type": "string"}}, {"a": 1}, False, "manual $type"),
    ({"a": {"$type": 2}}, {"a": "x"}, True, "manual $type: numbers of types"),
    ({"a": {"$type": "number"}}, {"a": 2.5}, True, "manual $type: number is int, long, double"),
    ({"a": {"$type": "number"}}, {"a": True}, False, "manual $type"),
    ({"a": {"$type": "int"}}, {"a": 2**31 - 1}, True, "manual: BSON types"),
    ({"a": {"$type": "int"}}, {"a": 2**31}, False, "manual: BSON types"),
    ({"a": {"$type": "long"}}, {"a": 2**31}, True, "manual: BSON types"),
    ({"a": {"$type": "double"}}, {"a": 1.0}, True, "manual: BSON types"),
    ({"a": {"$type": ["string", "null"]}}, {"a": None}, True, "manual $type: several"),
    ({"a": {"$type": ["string", 10]}}, {"a": 5}, False, "manual $type: several"),
    ({"a": {"$type": "null"}}, {}, False, "manual $type: the field must be there"),
    ({"a": {"$type": "array"}}, {"a": [1]}, True, "manual $type: of lists the list itself"),
    ({"a": {"$type": "array"}}, {"a": 1}, False, "manual $type"),
    ({"a": {"$type": "string"}}, {"a": [1, "x"]}, True, "manual $type: any element"),
    ({"a": {"$type": "object"}}, {"a": {"b": 1}}, True, "manual $type"),
    ({"a": {"$type": "bool"}}, {"a": False}, True, "manual $type"),
    ({"a": {"$type": "date"}}, {"a": "2025-06-07"}, False, "manual $type: JSON has no dates"),
    ({"a": {"$not": {"$type": "string"}}}, {"a": 1}, True, "manual $type"),
    # $all.
    ({"a": {"$all": [1, 2]}}, {"a": [2, 3, 1]}, True, "manual $all"),
    ({"a": {"$all": [1, 2]}}, {"a": [1]}, False, "manual $all"),
    ({"a": {"$all": [1]}}, {"a": 1}, True, "manual $all: a value that is no list"),
    ({"a": {"$all": []}}, {"a": []}, False, "manual $all"),
    ({"a": {"$all": [[1, 2]]}}, {"a": [1, 2]}, True, "manual $all: a list as the element"),
    ({"a": {"$all": [{"$elemMatch": {"b": 1}}, {"$elemMatch": {"c": 1}}]}}, {"a": [{"b": 1}, {"c": 1}]}, True,
        "manual $all with $elemMatch"),
    # Lists and objects as a whole.
    ({"a": [1, 2]}, {"a": [1, 2]}, True, "manual: match an array"),
    ({"a": [1, 2]}, {"a": [2, 1]}, False, "manual: match an array"),
    ({"a": [1]}, {"a": [[1]]}, True, "manual: or as an element"),
    ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 2}}, True, "manual: match an embedded document"),
    ({"a": {"b": 1, "c": 2}}, {"a": {"c": 2, "b": 1}}, False, "manual: with the order of its fields"),
    ({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}}, False, "manual: match an embedded document"),
    # Logic, and what is no condition.
    ({"$nor": [{"a": 1}, {"b": 1}]}, {"a": 2}, True, "manual $nor"),
    ({"$nor": [{"a": 1}, {"b": 1}]}, {"b": 1}, False, "manual $nor"),
    ({"$or": [{"a": 1}, {"b": 1}]}, {"b": 1}, True, "manual $or"),
    ({"$or": [{"a": 1}, {"b": 1}]}, {}, False, "manual $or"),
    ({"$and": [{"a": {"$gt": 1}}, {"a": {"$lt": 3}}]}, {"a": 2}, True, "manual $and"),
    ({"$and": [{"a": {"$gt": 1}}, {"a": {"$lt": 3}}]}, {"a": 3}, False, "manual $and"),
    ({"a": 1, "$comment": "why"}, {"a": 1}, True, "manual $comment"),
    ({"a": 1, "$comment": "why"}, {"a": 2}, False, "manual $comment"),
    ({"$and": [{"$comment": "why", "a": 1}]}, {"a": 1}, True, "manual $comment"),
    # $regex.
    ({"a": {"$regex": "^b"}}, {"a": ["x", "by"]}, True, "manual $regex: any element"),
    ({"a": {"$regex": "^b"}}, {"a": "ab"}, False, "manual $regex"),
    ({"a": {"$regex": "1"}}, {"a": 1}, False, "manual $regex: text only"),
    ({"a": {"$regex": "A B", "$options": "ix"}}, {"a": "ab"}, True, "manual $options"),
    ({"a": {"$regex": "^s.d$", "$options": "s"}}, {"a": "s\nd"}, True, "manual $options"),
    ({"a": {"$regex": "^s.d$"}}, {"a": "s\nd"}, False, "manual $options"),
    ({"a": {"$regex": "b", "$ne": "b"}}, {"a": "ab"}, True, "manual $regex beside others"),
    ({"a": {"$regex": "b", "$type": "string", "$in": ["ab"]}}, {"a": "ab"}, True, "manual $regex beside others"),
]
# fmt: on


def matches(query: dict[str, Any], record: dict[str, Any]) -> bool:
    return Matching(Query(query, query), "here")({"_id": "x", **record})


@pytest.mark.parametrize(
    ("query", "record", "expected", "source"),
    CASES,
    ids=[f"{json.dumps(query)} on {json.dumps(record)}" for query, record, _, _ in CASES],
)
def test_a_record_matches_where_mongodb_says_so(
    query: dict[str, Any], record: dict[str, Any], expected: bool, source: str
) -> None:
    assert matches(query, record) == expected, source


@pytest.mark.parametrize(
    ("query", "record", "expected", "source"),
    [case for case in CASES if "$comment" not in json.dumps(case[0])],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_and_the_other_way_round_below_nor(
    query: dict[str, Any], record: dict[str, Any], expected: bool, source: str
) -> None:
    assert matches({"$nor": [query]}, record) != expected, source


# Laws

scalars = st.sampled_from([None, True, False, 0, 1, 1.0, 2.5, "", "a", "b", "1"])
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("bc"), inner, max_size=2),
    max_leaves=5,
)
records = st.dictionaries(st.sampled_from("ab"), values, max_size=2)
paths = st.sampled_from(["a", "b", "a.b", "a.0", "a.b.c", "a.0.b"])
operators = st.one_of(
    scalars.map(lambda one: {"$eq": one}),
    scalars.map(lambda one: {"$ne": one}),
    scalars.map(lambda one: {"$gte": one}),
    st.booleans().map(lambda one: {"$exists": one}),
    st.integers(0, 2).map(lambda one: {"$size": one}),
    st.sampled_from([{"$type": "string"}, {"$type": ["number", "bool"]}, {"$regex": "a|1"}, {"$mod": [2, 1]}]),
    st.lists(scalars, max_size=3).map(lambda one: {"$in": one}),
)
queries = st.dictionaries(paths, operators, min_size=1, max_size=3)


@given(st.lists(queries, min_size=1, max_size=3), records)
def test_nor_is_not_or(parts: list[dict[str, Any]], record: dict[str, Any]) -> None:
    assert matches({"$nor": parts}, record) != matches({"$or": parts}, record)


@given(st.lists(queries, min_size=1, max_size=3), records)
def test_or_and_and_are_any_and_all_of_their_parts(parts: list[dict[str, Any]], record: dict[str, Any]) -> None:
    verdicts = [matches(part, record) for part in parts]
    assert matches({"$or": parts}, record) == any(verdicts)
    assert matches({"$and": parts}, record) == all(verdicts)


@given(paths, operators, records)
def test_not_is_the_opposite(path: str, operator: dict[str, Any], record: dict[str, Any]) -> None:
    assert matches({path: {"$not": operator}}, record) != matches({path: operator}, record)


@given(paths, st.lists(scalars, min_size=1, max_size=4), records)
def test_in_is_or_of_equals_and_nin_its_opposite(path: str, wanted: list[Any], record: dict[str, Any]) -> None:
    equals = matches({"$or": [{path: one} for one in wanted]}, record)
    assert matches({path: {"$in": wanted}}, record) == equals
    assert matches({path: {"$nin": wanted}}, record) != equals


@given(st.lists(st.tuples(paths, operators), min_size=1, max_size=3, unique_by=lambda one: one[0]), records, st.data())
def test_the_order_of_the_keys_of_a_query_changes_nothing(
    conditions: list[tuple[str, Any]], record: dict[str, Any], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(conditions))
    assert matches(dict(conditions), record) == matches(dict(shuffled), record)


@given(paths, operators, operators, records)
def test_two_operators_on_a_field_are_both(
    path: str, first: dict[str, Any], second: dict[str, Any], record: dict[str, Any]
) -> None:
    if first.keys().isdisjoint(second):
        both = matches({path: first}, record) and matches({path: second}, record)
        assert matches({path: {**first, **second}}, record) == both


@given(queries, records)
def test_a_comment_changes_nothing(query: dict[str, Any], record: dict[str, Any]) -> None:
    assert matches({**query, "$comment": "x"}, record) == matches(query, record)


def test_a_type_that_is_none_is_refused_before_any_record() -> None:
    none: list[Any] = ["text", 0, True, [], [2, "x"], None, {}]
    for wanted in none:
        with pytest.raises(RequestError, match=r"^here cannot evaluate the query: "):
            Matching(Query.of({"a": {"$type": wanted}}), "here")


# The same answers as another implementation


MORE_OPERATORS = st.one_of(
    operators,
    values.map(lambda one: {"$eq": one}),
    values.map(lambda one: {"$nin": [one]}),
    values.map(lambda one: {"$gt": one}),
    values.map(lambda one: {"$lte": one}),
    st.lists(values, max_size=2).map(lambda some: {"$all": some}),
    operators.map(lambda one: {"$not": one}),
    operators.map(lambda one: {"$elemMatch": one}),
    st.dictionaries(st.sampled_from(["b", "b.c", "c"]), operators, min_size=1, max_size=2).map(
        lambda one: {"$elemMatch": one}
    ),
).filter(lambda one: "$type" not in json.dumps(one))


@settings(max_examples=500, deadline=None)
@given(st.dictionaries(paths, st.one_of(MORE_OPERATORS, values), min_size=1, max_size=2), records)
@pytest.mark.long
def test_a_query_finds_what_mgqpy_finds(query: dict[str, Any], record: dict[str, Any]) -> None:
    assert matches(query, record) == mgqpy.Query(query).test(record)


@pytest.mark.parametrize(
    ("query", "record"),
    [case[:2] for case in CASES if not {"$type", "$comment"} & set(re.findall(r"\$\w+", json.dumps(case[0])))],
    ids=json.dumps,
)
def test_the_bank_has_the_same_answers_from_mgqpy(query: dict[str, Any], record: dict[str, Any]) -> None:
    assert matches(query, record) == mgqpy.Query(query).test(record)


# Regular expressions


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
def test_a_regular_expression_finds_what_mongodb_would(text: str, options: str, found: str, not_found: str) -> None:
    query = {"a": {"$regex": text, "$options": options}}

    assert matches(query, {"a": found})
    assert not matches(query, {"a": not_found})


@pytest.mark.parametrize(
    ("text", "options", "reason"),
    [("(", "", "missing ) at position 1"), ("a", "iq", "'q' is no option; use i, m, s, x, u")],
)
def test_a_regular_expression_that_cannot_be_used_is_refused_with_the_reason(
    text: str, options: str, reason: str
) -> None:
    with pytest.raises(RequestError) as refused:
        matches({"a": {"$regex": text, "$options": options}}, {})

    assert refused.value.headline.endswith(f"the regular expression {text!r} is wrong: {reason}")

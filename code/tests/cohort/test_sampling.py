"""A sample that is spread over subjects and days."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from job_dispatch.cohort.selecting import spread_sample
from job_dispatch.model import Asset, Group, Reason
from tests.conftest import World

TRAITS = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("123")), min_size=1, max_size=30)
SIZES = st.integers(1, 35)


def groups(traits: Sequence[tuple[str, str]]) -> list[Group]:
    return [
        Group((Asset(f"id{n:02d}", f"name{n:02d}", f"s3://b/{n}", "", subject=subject, day=day),))
        for n, (subject, day) in enumerate(traits)
    ]


def taken(found: list[Group], size: int) -> list[Asset]:
    return [group.assets[0] for group in spread_sample(found, size)[0]]


@given(traits=TRAITS, size=SIZES)
def test_as_many_as_asked_for_are_taken_in_their_order_and_the_rest_is_skipped(
    traits: list[tuple[str, str]], size: int
) -> None:
    found = groups(traits)
    kept, skipped = spread_sample(found, size)
    assets = [group.assets[0] for group in kept]
    assert len(assets) == min(size, len(traits))
    assert [asset.name for asset in assets] == sorted(asset.name for asset in assets)
    rest = {item.record_id for item in skipped}
    assert rest == {group.assets[0].record_id for group in found} - {asset.record_id for asset in assets}
    assert [one.reason for one in skipped] == [Reason.NOT_IN_SAMPLE] * len(rest)


@given(traits=TRAITS, size=SIZES)
def test_no_subject_has_fewer_than_another_minus_one_unless_it_has_no_more(
    traits: list[tuple[str, str]], size: int
) -> None:
    there = Counter(subject for subject, _ in traits)
    got = Counter(asset.subject for asset in taken(groups(traits), size))
    assert all(got[one] >= max(got.values()) - 1 for one in there if got[one] < there[one])


@given(days=st.lists(st.sampled_from("1234"), min_size=1, max_size=30), size=SIZES)
def test_no_day_of_a_subject_has_fewer_than_another_minus_one_unless_it_has_no_more(days: list[str], size: int) -> None:
    there = Counter(days)
    got = Counter(asset.day for asset in taken(groups([("a", day) for day in days]), size))
    assert all(got[one] >= max(got.values()) - 1 for one in there if got[one] < there[one])


@given(traits=TRAITS, size=SIZES, data=st.data())
def test_the_order_of_the_groups_does_not_matter(traits: list[tuple[str, str]], size: int, data: st.DataObject) -> None:
    found = groups(traits)
    shuffled = data.draw(st.permutations(found))
    assert {asset.name for asset in taken(shuffled, size)} == {asset.name for asset in taken(found, size)}


def test_a_sample_is_taken_before_files_are_listed_and_told_in_the_summary(world: World) -> None:
    done = world.call("--docdb_query={}", "--sample=3")
    assert done.returncode == 0
    assert len({job["asset_name"][0].split("_")[1] for job in done.jobs}) == len(done.jobs) == 3
    assert "matched  6 assets\nskipped  3: 3 not in the sample;" in done.stdout
    assert world.call("--docdb_query={}", "--sample=3", "--overwrite=1").folders == done.folders


def test_with_groups_a_sample_takes_groups(world: World) -> None:
    done = world.call("--docdb_query={}", "--group_by=subject.subject_id", "--sample=1")
    assert [len(job["asset_id"]) > 1 for job in done.jobs] == [True]

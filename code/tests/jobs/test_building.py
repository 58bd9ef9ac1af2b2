"""From located assets, files and parameter sets to jobs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from job_dispatch.jobs import building
from job_dispatch.jobs.model import AnalysisDispatchModel
from job_dispatch.messages import RequestError
from job_dispatch.model import Asset, Cohort, File, Files, Group, LocatedAsset, Reason, Skipped
from job_dispatch.request.parameters import Parameters

QUERY = '{"subject.subject_id":"774659"}'
NAMES = st.lists(st.text("abc", min_size=1, max_size=3), unique=True, min_size=1, max_size=6)
SETS = st.lists(st.dictionaries(st.text("xyz", max_size=2), st.integers()), max_size=4, unique_by=repr)


def located(name: str, files: tuple[File, ...] | None = None) -> LocatedAsset:
    return LocatedAsset(Asset(f"id-{name}", name, f"s3://bucket/{name}", ""), files)


def files_of_groups(assets: list[LocatedAsset], query: str | None = QUERY) -> Files:
    """Return files of which each asset is a group of its own."""
    return Files(Cohort([Group((one.asset,)) for one in assets], query=query), assets)


def build(
    assets: list[LocatedAsset], parameters: Parameters, split_files: bool = True, max_jobs: int | None = None
) -> building.Jobs:
    return building.plan(files_of_groups(assets), parameters, split_files=split_files, max_jobs=max_jobs)


def files_of(names: list[str], counts: list[int]) -> list[LocatedAsset]:
    return [
        located(name, tuple(File(f"s3://bucket/{name}/{number}.nwb", number) for number in range(count)))
        for name, count in zip(names, counts, strict=False)
    ]


@given(names=NAMES, sets=SETS)
def test_n_assets_and_m_sets_make_n_times_m_jobs_asset_by_asset(names: list[str], sets: list[dict[str, Any]]) -> None:
    plan = build([located(name) for name in names], Parameters(None, tuple(sets)))
    expected = [(name, one) for name in names for one in sets or (None,)]
    assert [(job.group.assets[0].name, job.parameter_set) for job in plan.planned] == expected
    assert len({job.name for job in plan.planned}) == len(plan.planned)


@given(names=NAMES, counts=st.lists(st.integers(1, 4), min_size=6, max_size=6))
def test_splitting_puts_every_file_into_exactly_one_job_and_not_splitting_every_asset(
    names: list[str], counts: list[int]
) -> None:
    assets = files_of(names, counts)
    every_file = [file for one in assets for file in one.files or ()]
    split = build(assets, Parameters())
    assert [job.files for job in split.planned] == [(file,) for file in every_file]
    whole = build(assets, Parameters(), split_files=False)
    assert [file for job in whole.planned for file in job.files or ()] == every_file
    assert len(whole.planned) == len(assets)


@given(names=NAMES, at_most=st.integers(1, 10))
def test_a_limit_keeps_the_first_jobs(names: list[str], at_most: int) -> None:
    assets = [located(name) for name in names]
    every = build(assets, Parameters()).planned
    assert build(assets, Parameters(), max_jobs=at_most).planned == every[:at_most]


def test_no_job_beyond_the_limit_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[AnalysisDispatchModel] = []
    name = AnalysisDispatchModel.uuid

    def count(model: AnalysisDispatchModel) -> UUID:
        built.append(model)
        return name(model)

    monkeypatch.setattr(AnalysisDispatchModel, "uuid", count)
    sets = tuple({"x": number} for number in range(1_000))
    plan = build([located(f"a{number}") for number in range(2_000)], Parameters(None, sets), max_jobs=5)
    assert len(plan.planned) == len(built) == 5
    assert plan.left_off == (1_999_995, True)


@given(names=NAMES, sets=SETS, at_most=st.integers(1, 30))
def test_taken_and_left_off_are_all_jobs(names: list[str], sets: list[dict[str, Any]], at_most: int) -> None:
    plan = build([located(name) for name in names], Parameters(None, tuple(sets)), max_jobs=at_most)
    assert len(plan.planned) + (plan.left_off.number if plan.left_off else 0) == len(names) * max(1, len(sets))
    assert plan.left_off is None or plan.left_off.is_exact


def test_what_is_left_out_does_not_count_against_the_limit_and_makes_what_is_left_off_an_upper_bound() -> None:
    def leave_out(jobs: Iterable[building.Job]) -> Iterator[building.Job | Skipped]:
        for job in jobs:
            is_left_out = job.group.assets[0].name in ("a0", "a2")
            yield Skipped.of_job(Reason.EXCLUDED, job.name, job.group.assets) if is_left_out else job

    files = files_of_groups([located(f"a{number}") for number in range(6)])
    plan = building.plan(files, Parameters(), max_jobs=3, leave_out=leave_out)
    assert [job.group.assets[0].name for job in plan.planned] == ["a1", "a3", "a4"]
    assert [one.name for one in plan.skipped] == ["a0", "a2"]
    assert str(plan.left_off) == "up to 1 job"


def test_jobs_of_the_same_content_count_once_and_what_is_left_off_is_said_to_be_an_upper_bound(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assets = [located("a"), located("b")]
    twice = Files(Cohort([Group((one.asset,)) for one in (*assets, *assets)]), assets)
    assert [job.group.assets[0].name for job in building.plan(twice, Parameters()).planned] == ["a", "b"]
    assert caplog.messages == ["2 jobs with the same content as another counted once"]
    assert building.plan(twice, Parameters(), max_jobs=1).left_off == (3, False)


def test_more_than_200_000_jobs_are_not_built_unless_a_number_allows_them(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assets = files_of(["a", "b"], [2, 1])
    parameters = Parameters(None, tuple({"x": number} for number in range(100_000)))
    with pytest.raises(RequestError) as stopped:
        build(assets, parameters)
    assert stopped.value.headline == (
        "2 assets, 3 files, 100,000 parameter sets: 300,000 jobs, about 1.23 GB on disk; more than 200,000 are written"
        " only where --max_number_of_tasks_dispatched names a number; narrow the request or name one"
    )
    # So many take half a minute, and fewer show the same.
    monkeypatch.setattr(building, "JOBS_UNASKED", 2_000)
    files = files_of_groups(assets)
    shown = building.plan(files, parameters, is_preview=True)
    assert (len(shown), shown.left_off) == (2_000, (298_000, True))
    assert shown.too_many is not None
    assert shown.too_many.jobs == 300_000
    assert "a run would stop here" in caplog.text
    with pytest.raises(RequestError):
        building.plan(files, parameters, leave_out=lambda jobs: iter(jobs))
    assert len(building.plan(files, parameters, max_jobs=2_001)) == 2_001


def test_jobs_of_a_csv_name_no_query() -> None:
    assert building.plan(files_of_groups([located("a")], query=None), Parameters())[0].query is None


def test_a_job_file_leaves_out_null_keys_but_keeps_nulls_inside_parameters() -> None:
    plan = build([located("a")], Parameters({"threshold": None}))
    text = plan[0].to_json()
    assert '"threshold": null' in text
    assert "distributed_parameters" not in text
    assert AnalysisDispatchModel.model_validate_json(text).fixed_parameters == {"threshold": None}


def test_early_job_files_with_a_list_of_one_set_are_read() -> None:
    job = {"s3_location": [], "asset_name": [], "docdb_record_id": [], "distributed_parameters": [{"foo": 10}]}
    assert AnalysisDispatchModel.model_validate(job).distributed_parameters == {"foo": 10}
    with pytest.raises(ValidationError):
        AnalysisDispatchModel.model_validate({**job, "distributed_parameters": [{"foo": 10}, {"foo": 11}]})

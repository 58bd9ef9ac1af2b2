"""From located assets, files and parameter sets to jobs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from job_dispatch.jobs import building
from job_dispatch.jobs.model import AnalysisDispatchModel
from job_dispatch.metadata.records import Asset, File, Group, LocatedAsset
from job_dispatch.request.parameters import Parameters
from job_dispatch.request.selection import Query, Selection
from job_dispatch.request.tables import Key, Row, Table

QUERY = Selection(Query({"subject.subject_id": "774659"}))
NAMES = st.lists(st.text("abc", min_size=1, max_size=3), unique=True, min_size=1, max_size=6)
SETS = st.lists(st.dictionaries(st.text("xyz", max_size=2), st.integers()), max_size=4, unique_by=repr)


def located(name: str, files: tuple[File, ...] | None = None) -> LocatedAsset:
    return LocatedAsset(Asset(f"id-{name}", name, f"s3://bucket/{name}", ""), files)


def build(
    assets: list[LocatedAsset], parameters: Parameters, split_files: bool = True, at_most: int | None = None
) -> building.Plan:
    """Build jobs where each asset is a group of its own."""
    groups = [Group((one.asset,)) for one in assets]
    return building.build(groups, assets, parameters, QUERY, split_files, at_most)


def files_of(names: list[str], counts: list[int]) -> list[LocatedAsset]:
    return [
        located(name, tuple(File(f"s3://bucket/{name}/{number}.nwb", number) for number in range(count)))
        for name, count in zip(names, counts, strict=False)
    ]


@given(names=NAMES, sets=SETS)
def test_n_assets_and_m_sets_make_n_times_m_jobs_asset_by_asset(names: list[str], sets: list[dict[str, Any]]) -> None:
    plan = build([located(name) for name in names], Parameters(None, tuple(sets)))
    expected = [(name, one) for name in names for one in sets or (None,)]
    assert [(job.group.assets[0].name, job.parameter_set) for job in plan.jobs] == expected
    assert len({job.name for job in plan.jobs}) == len(plan.jobs)


@given(names=NAMES, counts=st.lists(st.integers(1, 4), min_size=6, max_size=6))
def test_splitting_puts_every_file_into_exactly_one_job_and_not_splitting_every_asset(
    names: list[str], counts: list[int]
) -> None:
    assets = files_of(names, counts)
    every_file = [file for one in assets for file in one.files or ()]
    split = build(assets, Parameters())
    assert [job.files for job in split.jobs] == [(file,) for file in every_file]
    whole = build(assets, Parameters(), split_files=False)
    assert [file for job in whole.jobs for file in job.files or ()] == every_file
    assert len(whole.jobs) == len(assets)


@given(names=NAMES, at_most=st.integers(1, 10))
def test_a_limit_keeps_the_first_jobs(names: list[str], at_most: int) -> None:
    assets = [located(name) for name in names]
    every = build(assets, Parameters()).jobs
    assert build(assets, Parameters(), at_most=at_most).jobs == every[:at_most]


def test_jobs_of_a_csv_name_no_query() -> None:
    by_csv = Selection(table=Table((Row(2, Key("asset_id", "id")),), "data_asset_input.csv"))
    plan = building.build([Group((located("a").asset,))], [located("a")], Parameters(), by_csv, True, None)
    assert plan.model(plan.jobs[0]).query is None


def test_a_job_file_leaves_out_null_keys_but_keeps_nulls_inside_parameters() -> None:
    plan = build([located("a")], Parameters({"threshold": None}))
    text = plan.model(plan.jobs[0]).to_json()
    assert '"threshold": null' in text
    assert "distributed_parameters" not in text
    assert AnalysisDispatchModel.model_validate_json(text).fixed_parameters == {"threshold": None}


def test_early_job_files_with_a_list_of_one_set_are_read() -> None:
    job = {"s3_location": [], "asset_name": [], "docdb_record_id": [], "distributed_parameters": [{"foo": 10}]}
    assert AnalysisDispatchModel.model_validate(job).distributed_parameters == {"foo": 10}
    with pytest.raises(ValidationError):
        AnalysisDispatchModel.model_validate({**job, "distributed_parameters": [{"foo": 10}, {"foo": 11}]})

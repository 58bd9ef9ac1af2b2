"""The released wrapper, in a process of its own, runs the jobs as it runs those of the public dispatcher."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job_dispatch.jobs.code import Code, analysis_code
from job_dispatch.processed import code_ocean as asking
from job_dispatch.processed.remaining import record_names
from tests.conftest import Job, World, load_job
from tests.processed.code_ocean import CodeOceanGateway, process
from tests.processed.library import call_library
from tests.processed.released import Ran, run_wrapper
from tests.processed.wrappers import needs_wrapper
from tests.test_dispatch import succeeded

pytestmark = needs_wrapper

NUMBERS = {
    "whole": 1,
    "float": 1.0,
    "large": 1e16,
    "small": 1e-7,
    "tiny": 5e-324,
    "big": 123456789012345678901234567890,
}
FIXED: dict[str, Any] = {
    **NUMBERS,
    "cutoff": 0.05,
    "null": None,
    "nested": {"z": [1, 2.0, None, {"é": "ü\u2028"}], "a": {}},
    "text": 'naïve "quoted" \U0001f9e0',
    "no": False,
}
SETS: list[dict[str, Any]] = [
    {"method": "a", "cutoff": 1e22},
    {"method": "b", **NUMBERS},
    {"text": "again", "new": [], "method": "c"},
]
FIELDS = {"cutoff": "float", "method": "str"}
ATTACHED = ("s3://aind-open-data/an_atlas", "s3://bucket/models/")


CASES = {
    "assets": (12, ()),
    "groups": (6, ("--group_by=subject.subject_id",)),
    "files": (24, ("--file_extension=.nwb",)),
    "files of an asset": (12, ("--file_extension=.nwb", "--split_files=0")),
}


def job_paths(directory: Path) -> list[Path]:
    return sorted(directory.glob("*/*.json"))


def write_parameters(world: World) -> None:
    text = json.dumps({"fixed_parameters": FIXED, "distributed_parameters": SETS})
    (world.input_directory / "analysis_parameters.json").write_text(text)


def public_jobs(jobs: Iterable[Job], directory: Path) -> list[Path]:
    """Let the public dispatcher write the same work: it is given what it finds itself, and adds the code."""
    directory.mkdir()
    own = ("s3_location", "asset_name", "docdb_record_id", "file_location", "distributed_parameters", "group_metadata")
    work = [{name: job[name] for name in own if name in job} for job in jobs]
    paths = []
    for text in call_library("jobs_of_the_public_dispatcher", work, FIXED):
        paths.append(directory / f"{uuid.uuid4()}.json")
        paths[-1].write_text(text)
    return paths


def rows(ran: Ran, has_query: bool | None = None) -> list[tuple[Any, ...]]:
    """Give what the wrapper did in an order of its own: as text, where 1 and 1.0 and the order of keys differ."""
    return sorted(
        (json.dumps({**given, "query": None}), json.dumps(code), name)
        for given, code, name in zip(ran.given, ran.codes, ran.hashes, strict=True)
        if has_query in (None, given["query"] is not None)
    )


def make_files(world: World) -> None:
    """Turn the records to assets in folders of this machine, which a catalog may name."""
    for number, record in enumerate(world.records):
        folder = world.catalog.parent / "assets" / str(number)
        folder.mkdir(parents=True)
        record["location"] = f"file://{folder}"
        for name in ("one.nwb", "two.nwb"):
            (folder / name).touch()
    world.write_catalog(world.records)


@pytest.mark.parametrize("version", [3, None], ids=["released", "at a commit"])
@pytest.mark.long
def test_it_does_what_it_does_for_the_public_dispatcher(
    lab: World, code_ocean: CodeOceanGateway, tmp_path: Path, version: int | None
) -> None:
    filled = process(("dry run", "dry_run", "1"), ("A comment", None, "by hand"), version=version)
    code_ocean.serve_pipeline(filled, attached=ATTACHED)
    code_ocean.make_repository([1_700_000_000])
    make_files(lab)
    write_parameters(lab)
    for case, (number, flags) in CASES.items():
        folder = tmp_path / "jobs" / case
        given = ("--docdb_query={}", f"--metadata_catalog={lab.catalog}", f"--output_directory={folder}")
        assert lab.call(*given, *flags).returncode == 0
        assert len(job_paths(folder)) == number
    ours = sorted((tmp_path / "jobs").glob("*/*/*.json"))
    jobs = [load_job(path) for path in ours]
    paths = [*ours, *public_jobs(jobs, tmp_path / "public")]
    ran = run_wrapper(code_ocean, paths, tmp_path / "run", FIELDS, "--dry_run=1")
    assert rows(ran, has_query=True) == rows(ran, has_query=False)
    assert len(ran.given) == len(paths) == 108
    wrapper = asking.Inquiry(10, True).answer()
    assert wrapper is not None
    names = [
        record_names(wrapper, job["s3_location"], job.get("file_location"), FIXED, job["distributed_parameters"])
        for job in jobs
    ]
    assert sorted(row[2] for row in rows(ran, has_query=True)) == sorted(both[0] for both in names if both)


@pytest.mark.parametrize("is_known", [True, False])
def test_fixed_parameters_give_way_to_the_panel_and_that_to_distributed_ones(
    lab: World, code_ocean: CodeOceanGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_known: bool
) -> None:
    code_ocean.serve_pipeline(process(("cutoff", "cutoff", "0.5"), ("The method", "method", "panel")))
    if not is_known:
        monkeypatch.delenv("CODEOCEAN_API_TOKEN")
    parameters = {"fixed_parameters": {"cutoff": 0.05, "kept": 1.0}, "distributed_parameters": [{"method": "a"}, {}]}
    (lab.input_directory / "analysis_parameters.json").write_text(json.dumps(parameters))
    done = succeeded(lab.call("--docdb_query={}", "--max_number_of_tasks_dispatched=2"))
    assert ("name" in done.jobs[0]["analysis_code"]) == is_known
    ran = run_wrapper(
        code_ocean, job_paths(lab.output_directory), tmp_path / "run", FIELDS, "--cutoff=0.5", "--method=panel"
    )
    told = {"The method": "panel"} if is_known else {}
    assert sorted((one["parameters"] for one in ran.given), key=lambda one: str(one["method"])) == [
        {"cutoff": 0.5, "method": "a", **told, "kept": 1.0},
        {"cutoff": 0.5, "method": "panel", **told, "kept": 1.0},
    ]


def test_jobs_without_parameters_run(lab: World, code_ocean: CodeOceanGateway, tmp_path: Path) -> None:
    code_ocean.serve_pipeline(process())
    known = succeeded(lab.call("--docdb_query={}", "--max_number_of_tasks_dispatched=2"))
    assert [job["analysis_code"]["parameters"] for job in known.jobs] == [{}, {}]
    lab.output_directory.rename(tmp_path / "known")
    code_ocean.documents.clear()
    others = '--docdb_query={"subject.subject_id": "781162"}'
    unknown = succeeded(lab.call(others))
    assert not any("analysis_code" in job for job in unknown.jobs)
    code_ocean.serve_pipeline(process())
    paths = [*job_paths(tmp_path / "known"), *job_paths(lab.output_directory)]
    ran = run_wrapper(code_ocean, paths, tmp_path / "run", {})
    assert [one["parameters"] for one in ran.given] == [{}] * 4


def test_a_dry_run_among_the_fixed_parameters_is_not_told(lab: World, code_ocean: CodeOceanGateway) -> None:
    code_ocean.serve_pipeline(process())
    (lab.input_directory / "analysis_parameters.json").write_text('{"fixed_parameters": {"dry_run": 1, "a": 2}}')
    known = succeeded(lab.call("--docdb_query={}"))
    assert known.jobs[0]["analysis_code"]["parameters"] == {"a": 2}
    assert known.jobs[0]["fixed_parameters"] == {"dry_run": 1, "a": 2}


def test_it_skips_what_is_recorded(lab: World, code_ocean: CodeOceanGateway, tmp_path: Path) -> None:
    code_ocean.serve_pipeline(process())
    write_parameters(lab)
    jobs = succeeded(lab.call("--docdb_query={}")).jobs
    first = run_wrapper(code_ocean, job_paths(lab.output_directory), tmp_path / "first", FIELDS)
    code_ocean.collections["v1", "analysis", "results"] = [
        {**record, "_id": record["name"]} for record in first.records
    ]
    second = run_wrapper(code_ocean, job_paths(lab.output_directory), tmp_path / "second", FIELDS)
    assert second.given == []
    assert len(second.skipped) == len(jobs)
    done = lab.call("--docdb_query={}", "--skip_processed=1", "--overwrite=1")
    assert (done.returncode, done.jobs) == (0, [])
    assert f"all {len(jobs)} jobs are processed already" in done.stdout


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.text(alphabet="abcdé_ .", min_size=1, max_size=3)
PARAMETERS = st.dictionaries(NAMES, VALUES, max_size=4)


@settings(deadline=None, max_examples=60)
@given(
    fixed=PARAMETERS,
    parameter_set=st.none() | PARAMETERS,
    panel=st.dictionaries(st.text(max_size=3), st.text(max_size=3)),
)
def test_the_name_of_a_record_is_the_librarys_hash_of_the_code_that_a_job_tells(
    fixed: dict[str, Any], parameter_set: dict[str, Any] | None, panel: dict[str, str]
) -> None:
    code = Code("https://somewhere/capsule/1", "A wrapper", "1.0", "code/run", ATTACHED, panel)
    names = record_names(asking.Wrapper(code, {}), ["s3://aind-open-data/x/y", "s3://b/c"], None, fixed, parameter_set)
    assert names is not None
    told = analysis_code(code, ["s3://aind-open-data/x/y", "s3://b/c"], None, fixed, parameter_set)
    job: Job = {"s3_location": [], "asset_name": [], "docdb_record_id": [], "analysis_code": told}
    assert call_library("hash_of_the_code", json.dumps(job)) == names[0]

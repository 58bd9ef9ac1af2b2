"""What is processed already is left out, and nothing else: looked up in the results database, over HTTPS."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from job_dispatch.processed import remaining as results
from tests.conftest import S3, Job, World
from tests.gateway import Fault
from tests.processed.code_ocean import RESULTS, WRAPPER, CodeOceanGateway, capsule, process
from tests.s3_front import S3Front
from tests.test_dispatch import succeeded

SKIP = ("--docdb_query={}", "--skip_processed=1", "--overwrite=1")
FIXED = {"cutoff": 0.05}


def record_name(job: Job, is_old: bool = False) -> str:
    """Name a job's results as schemas from 2.8 on do, or those before: an account of its own, from the facts alone."""
    code = job["analysis_code"]
    assets = [
        {"object_type": "Data asset", "name": open_data_name(asset["url"]), "url": asset["url"]}
        for asset in code["input_data"]
    ]
    if is_old:
        assets = [{"object_type": "Data asset", "url": asset["url"]} for asset in assets]
    content = {
        **{"object_type": "Code", "url": code["url"], "name": code["name"], "version": code["version"]},
        **({} if is_old else {"commit_hash": None}),
        **{"container": None, "run_script": code["run_script"], "language": None, "language_version": None},
        **{"input_data": assets, "parameters": code["parameters"], "core_dependency": None},
    }
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


def open_data_name(url: str) -> str | None:
    return url.split("/")[3] if url.startswith("s3://aind-open-data/") else None


def record(server: CodeOceanGateway, names: Iterable[str]) -> None:
    server.collections[RESULTS] += [{"_id": name, "name": name, "location": f"s3://results/{name}"} for name in names]


def lookups(server: CodeOceanGateway) -> list[Any]:
    return [request for request in server.requests if request.path.startswith("/v1/analysis/results/")]


def write_sets(world: World, number: int) -> None:
    parameters = {"fixed_parameters": FIXED, "parameter_grid": {"seed": list(range(number))}}
    (world.input_directory / "analysis_parameters.json").write_text(json.dumps(parameters))


def ask_for(world: World, number_of_sets: int) -> list[Job]:
    """Ask for all jobs of four assets and so many parameter sets, as if nothing was done; give them."""
    write_sets(world, number_of_sets)
    jobs = succeeded(world.call("--docdb_query={}")).jobs
    world.gateway.requests.clear()
    return jobs


def seeds(jobs: Iterable[Job]) -> list[tuple[str, int]]:
    return sorted((job["docdb_record_id"][0], job["distributed_parameters"]["seed"]) for job in jobs)


def skipped(report: Path) -> list[dict[str, str]]:
    with (report / "skipped.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def pipeline(lab: World, code_ocean: CodeOceanGateway) -> World:
    code_ocean.serve_pipeline(process(("dry run", "dry_run", "0")))
    return lab


@pytest.mark.long
def test_600_of_1252_are_done_in_records_of_either_schema(
    pipeline: World, code_ocean: CodeOceanGateway, tmp_path: Path
) -> None:
    jobs = ask_for(pipeline, 313)
    assert len(jobs) == 1_252
    done, left = jobs[::2][:600], [job for number, job in enumerate(jobs) if number % 2 or number >= 1_200]
    record(code_ocean, [record_name(job, is_old=number % 3 == 0) for number, job in enumerate(done)])
    record(code_ocean, ["0" * 64])
    ran = succeeded(pipeline.call(*SKIP, f"--report_directory={tmp_path / 'report'}"))
    assert seeds(ran.jobs) == seeds(left)
    assert len(lookups(code_ocean)) <= 1 + len(jobs) / 500
    assert "skipped  600: 600 processed already" in ran.stdout
    manifest = json.loads((tmp_path / "report" / "manifest.json").read_text())
    assert manifest["left_out"] == {"processed already": 600}
    assert manifest["counts"]["jobs asked for"] == 1_252
    assert manifest["counts"]["not processed already"] == manifest["counts"]["jobs"] == 652
    rows = skipped(tmp_path / "report")
    assert [row["reason"] for row in rows] == ["processed already"] * 600
    assert {row["job"] for row in rows}.isdisjoint(
        name.removesuffix(".json") for names in ran.folders.values() for name in names
    )
    assert "not processed already" in (tmp_path / "report" / "report.html").read_text()


@pytest.mark.long
def test_a_lookup_asks_for_nothing_but_names_of_500_jobs(pipeline: World, code_ocean: CodeOceanGateway) -> None:
    ask_for(pipeline, 200)
    succeeded(pipeline.call(*SKIP))
    bodies = [request.body for request in lookups(code_ocean)]
    assert sorted(len(body[0]["$match"]["name"]["$in"]) for body in bodies) == [600, 1_000]
    assert {json.dumps(body[1]) for body in bodies} == {'{"$project": {"name": 1}}'}


def test_where_all_is_done_a_line_says_so_and_nothing_is_written(
    pipeline: World, code_ocean: CodeOceanGateway, tmp_path: Path
) -> None:
    jobs = ask_for(pipeline, 5)
    record(code_ocean, map(record_name, jobs))
    report = tmp_path / "report"
    for flags in (SKIP, (*SKIP, "--dry_run=1"), (*SKIP, "--balance=size", f"--report_directory={report}")):
        ran = pipeline.call(*flags)
        assert (ran.returncode, ran.jobs) == (0, []), ran.stderr
        assert "all 20 jobs are processed already" in ran.stdout
    assert not [path for path in pipeline.output_directory.iterdir() if path.is_dir()]
    assert len(skipped(report)) == 20
    assert "all 20 jobs are processed already" in (report / "report.html").read_text()


def test_the_cap_counts_what_is_left_so_that_repeating_works_through_a_backlog(
    pipeline: World, code_ocean: CodeOceanGateway
) -> None:
    asked = seeds(ask_for(pipeline, 4))
    found: list[tuple[str, int]] = []
    for expected in (5, 5, 5, 1, 0):
        ran = pipeline.call(*SKIP, "--max_number_of_tasks_dispatched=5")
        assert (ran.returncode, len(ran.jobs)) == (0, expected), ran.stderr
        found += seeds(ran.jobs)
        record(code_ocean, map(record_name, ran.jobs))
    assert sorted(found) == asked


def test_a_small_cap_asks_for_no_more_than_it_must(pipeline: World, code_ocean: CodeOceanGateway) -> None:
    write_sets(pipeline, 1_000)
    ran = succeeded(pipeline.call(*SKIP, "--max_number_of_tasks_dispatched=3"))
    assert len(ran.jobs) == 3
    assert len(lookups(code_ocean)) == 1


def test_the_preview_tells_how_many_were_left_out(pipeline: World, code_ocean: CodeOceanGateway) -> None:
    jobs = ask_for(pipeline, 2)
    record(code_ocean, map(record_name, jobs[:3]))
    ran = pipeline.call(*SKIP, "--dry_run=1")
    lines = [" ".join(line.split()) for line in ran.stdout.splitlines()]
    assert "jobs asked for 8" in lines
    assert "not processed already 5" in lines
    assert sum(line.endswith("processed already") for line in lines) == 3


@pytest.mark.parametrize(
    ("parameters", "is_left_to_the_wrapper"),
    [
        ([("dry run", "dry_run", "1"), ("Folder", "input_directory", "/data")], False),
        ([("cutoff", "cutoff", "0.05")], True),  # replaces a fixed one, here even by the same value
        ([("Cutoff", "cutoff", "text")], True),
        ([("seed", "seed", "17")], False),  # the parameter set wins
        ([("other", "other", "17")], True),  # a number, or text?
        ([("other", "other", "true")], True),
        ([("other", "other", "[1]")], True),
        ([("one", "one", "a"), ("Two", "two", "b"), ("Three", "three", "c")], True),  # in which order?
        ([("unnamed", None, "17")], False),  # reaches no parameter
        ([("empty", "cutoff", "")], False),
    ],
)
@pytest.mark.long
def test_nothing_is_skipped_where_the_wrapper_alone_knows_a_value(
    pipeline: World,
    code_ocean: CodeOceanGateway,
    parameters: list[tuple[str, str | None, str]],
    is_left_to_the_wrapper: bool,
) -> None:
    code_ocean.serve_pipeline(process(*parameters))
    jobs = ask_for(pipeline, 2)
    # As the public dispatcher names them.
    record(code_ocean, map(record_name, jobs))
    ran = pipeline.call(*SKIP)
    assert len(ran.jobs) == (8 if is_left_to_the_wrapper else 0)
    told = "whether 8 jobs were processed is left to the wrapper"
    assert (told in ran.stderr) == is_left_to_the_wrapper


def test_a_word_in_the_panel_is_one_for_the_wrapper_too(pipeline: World, code_ocean: CodeOceanGateway) -> None:
    code_ocean.serve_pipeline(process(("The method", "method", "isolation_distance")))
    jobs = ask_for(pipeline, 2)
    for job in jobs[:5]:
        job["analysis_code"]["parameters"]["method"] = "isolation_distance"
    record(code_ocean, map(record_name, jobs))
    assert seeds(succeeded(pipeline.call(*SKIP)).jobs) == seeds(jobs[5:])


RELEASE = "5a8f0000-0000-4000-8000-0000000e1ea5"
RELEASED = 1_720_000_000


def serve_releases(server: CodeOceanGateway, *versions: tuple[int, int]) -> None:
    """Serve the wrapper's releases, each a major and a minor version, as Code Ocean does: objects with a time."""
    server.documents[f"capsules/{WRAPPER}"] = capsule(release_capsule=RELEASE)
    told = [{"major_version": one, "minor_version": two, "release_time": RELEASED} for one, two in versions]
    server.documents[f"capsules/{RELEASE}"] = capsule(RELEASE, versions=told)


@pytest.mark.parametrize(("recorded_as", "left"), [("3.0", 0), ("3.2", 0), ("3.1", 8), ("4.0", 8), ("3", 8)])
def test_results_count_however_the_library_writes_a_released_version(
    pipeline: World, code_ocean: CodeOceanGateway, recorded_as: str, left: int
) -> None:
    serve_releases(code_ocean, (2, 5), (3, 0), (3, 1), (3, 2), (4, 0))
    jobs = ask_for(pipeline, 2)
    assert {job["analysis_code"]["version"] for job in jobs} == {"3.0"}
    for job in jobs:
        job["analysis_code"]["version"] = recorded_as
    record(code_ocean, map(record_name, jobs))
    assert len(pipeline.call(*SKIP).jobs) == left


@pytest.mark.parametrize(("patched", "left"), [(False, 8), (True, 0)])
def test_results_of_a_release_count_for_a_later_commit_only_where_it_is_a_patch(
    pipeline: World, code_ocean: CodeOceanGateway, monkeypatch: pytest.MonkeyPatch, patched: bool, left: int
) -> None:
    code_ocean.serve_pipeline(process(version=None))
    serve_releases(code_ocean, (3, 0), (3, 2))
    later = code_ocean.make_repository([RELEASED - 1, RELEASED + 1])[-1]
    monkeypatch.setenv("PATCH_COMMITS", later if patched else "")
    jobs = ask_for(pipeline, 2)
    assert {job["analysis_code"]["version"] for job in jobs} == {"3.2" if patched else later}
    for job in jobs:
        job["analysis_code"]["version"] = "3.2"
    record(code_ocean, map(record_name, jobs))
    assert len(pipeline.call(*SKIP).jobs) == left


def test_a_results_database_that_is_down_ends_the_run_without_a_job(
    pipeline: World, code_ocean: CodeOceanGateway
) -> None:
    ask_for(pipeline, 2)

    def fault(request: Any) -> Fault | None:
        code_ocean.faults.append(fault)
        return Fault(503, "no database") if request.path.startswith("/v1/analysis/") else None

    code_ocean.faults = [fault]
    before = sorted(pipeline.output_directory.rglob("*"))
    ran = pipeline.call(*SKIP)
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1] == (
        f"error: the results database analysis/results of {code_ocean.host} cannot be asked:"
        f" DocDB {code_ocean.host}: HTTP 503: no database"
    )
    assert sorted(pipeline.output_directory.rglob("*")) == before


def test_the_collection_of_the_results_must_be_named(
    pipeline: World, code_ocean: CodeOceanGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DOCDB_COLLECTION")
    ran = pipeline.call(*SKIP)
    assert ran.returncode == 2
    assert ran.stderr.splitlines()[-1] == (
        'error: --skip_processed ("Skip processed"): DOCDB_COLLECTION, the collection of the results, is not set'
    )
    assert code_ocean.requests == []


@pytest.mark.long
def test_10_000_jobs_are_asked_for_by_21_requests_several_at_once(
    pipeline: World, code_ocean: CodeOceanGateway
) -> None:
    write_sets(pipeline, 2_500)
    ran = pipeline.call(*SKIP, "--dry_run=1")
    assert ran.returncode == 0
    assert len(lookups(code_ocean)) <= 21


def test_folders_without_a_record_are_named_by_few_listings(
    pipeline: World, code_ocean: CodeOceanGateway, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = ask_for(pipeline, 3)
    names = [record_name(job) for job in jobs]
    s3.put("results", [f"{name}/metadata.nd.json" for name in names[:5]] + ["notes.txt", f"{'f' * 64}/x"])
    record(code_ocean, names[:3])
    monkeypatch.setenv("ANALYSIS_BUCKET", "results")
    ran = succeeded(pipeline.call(*SKIP))
    lines = ran.stderr.splitlines()
    [start] = [number for number, line in enumerate(lines) if "ANALYSIS_BUCKET: 2 folders without a record" in line]
    shown = {line.split()[0] for line in lines[start + 1 : start + 3]}
    assert shown == {f"s3://results/{name}" for name in names[3:5]}
    monkeypatch.setenv("ANALYSIS_BUCKET", "no-such-bucket")
    assert "ANALYSIS_BUCKET: whether folders in it block jobs is not known" in succeeded(pipeline.call(*SKIP)).stderr


@pytest.mark.parametrize("body", ["<ListBucketResult/>", "<html>", "<ListBucketResult><IsTruncated>true</IsTruncated>"])
def test_a_results_bucket_with_a_malformed_answer_ends_no_run(
    pipeline: World, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    ask_for(pipeline, 3)
    with S3Front({"results": ["x"]}) as front:
        for name, value in front.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("ANALYSIS_BUCKET", "results")
        front.failing = {"": Fault(200, body)}
        ran = succeeded(pipeline.call(*SKIP))
    assert len(ran.jobs) == 12
    [told] = [line for line in ran.stderr.splitlines() if "ANALYSIS_BUCKET: whether folders in it block" in line]
    assert "s3://results cannot be listed: " in told


def test_folders_are_found_among_thousands(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    from job_dispatch.processed.remaining import existing_folders

    # More than a page of them begin alike.
    there = [f"a{hashlib.sha256(f'{number}'.encode()).hexdigest()[1:]}" for number in range(1_050)]
    s3.put("many", [f"{name}/x" for name in there])
    not_there = [hashlib.sha256(f"-{number}".encode()).hexdigest() for number in range(300)]
    wanted = [*there[::50], max(there), *not_there]
    assert existing_folders("many", wanted) == {*there[::50], max(there)}
    assert existing_folders("many", []) == set()


def test_several_jobs_in_a_worker_folder_are_warned_of_in_a_pipeline(
    pipeline: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = "worker folders hold more than one job"
    shared = succeeded(pipeline.call("--docdb_query={}", "--num_parallel_workers=3"))
    assert told in shared.stderr
    assert "jobs per worker folder: shared out evenly (--num_parallel_workers=3 " in shared.stderr
    assert told not in succeeded(pipeline.call("--docdb_query={}", "--overwrite=1", "--tasks_per_job=1")).stderr
    monkeypatch.delenv("CO_PIPELINE_ID")
    again = succeeded(pipeline.call("--docdb_query={}", "--overwrite=1", "--num_parallel_workers=3"))
    assert told not in again.stderr


def test_each_job_has_a_worker_folder_of_its_own_in_a_pipeline_unless_a_flag_says_otherwise(
    pipeline: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sets(pipeline, 20)
    default = succeeded(pipeline.call("--docdb_query={}"))
    assert [len(names) for names in default.folders.values()] == [1] * 80
    assert "jobs per worker folder: 1 (the default in a pipeline; --tasks_per_job " in default.stderr
    four = succeeded(pipeline.call("--docdb_query={}", "--overwrite=1", "--tasks_per_job=4"))
    assert [len(names) for names in four.folders.values()] == [4] * 20
    assert "jobs per worker folder: 4 (--tasks_per_job=4 " in four.stderr
    ten = succeeded(pipeline.call("--docdb_query={}", "--overwrite=1", "--num_parallel_workers=10"))
    assert len(ten.folders) == 10
    monkeypatch.delenv("CO_PIPELINE_ID")
    elsewhere = succeeded(pipeline.call("--docdb_query={}", "--overwrite=1"))
    assert len(elsewhere.folders) == 50
    assert "jobs per worker folder" not in elsewhere.stderr


def test_a_pipeline_step_with_nothing_left_to_dispatch_has_an_output(
    pipeline: World, code_ocean: CodeOceanGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = ask_for(pipeline, 5)
    record(code_ocean, map(record_name, jobs))
    assert pipeline.call(*SKIP, "--dry_run=1").returncode == 0
    assert not (pipeline.output_directory / "no_new_jobs").exists()
    for _ in range(2):
        assert pipeline.call(*SKIP).returncode == 0
        assert [path.name for path in pipeline.output_directory.iterdir()] == ["no_new_jobs"]
        assert (pipeline.output_directory / "no_new_jobs").read_bytes() == b""
    (pipeline.output_directory / "no_new_jobs").unlink()
    monkeypatch.delenv("CO_PIPELINE_ID")
    assert pipeline.call(*SKIP).returncode == 0
    assert list(pipeline.output_directory.iterdir()) == []


def test_results_are_looked_for_where_the_wrapper_writes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"DOCDB_HOST": "", "DOCDB_DATABASE": "", "DOCDB_COLLECTION": "mine"}.items():
        monkeypatch.setenv(name, value)
    assert str(results.ResultsDatabase("somewhere", 1)) == "analysis/mine of somewhere"
    monkeypatch.setenv("DOCDB_HOST", "elsewhere")
    assert str(results.ResultsDatabase("somewhere", 1)) == "analysis/mine of elsewhere"

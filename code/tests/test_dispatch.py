"""The command as its users run it: through DocDB's gateway, S3 and the file system."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import uuid
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import BUCKET, CODE, EXAMPLE, Completed, World, asset_id, load_job

SUBJECT = '{"subject.subject_id": "774659"}'
TWO_SETS = {"fixed_parameters": {"cutoff": 0.05}, "distributed_parameters": [{"method": "a"}, {"method": "b"}]}


def succeeded(done: Completed) -> Completed:
    assert (done.returncode, "error:" in done.stderr) == (0, False), done.stderr
    return done


def test_a_query_becomes_one_job_a_file_and_parameter_set(world: World) -> None:
    (world.input_directory / "analysis_parameters.json").write_text(json.dumps(TWO_SETS))
    done = succeeded(world.run(f"--docdb_query={SUBJECT}", "--file_extension=.nwb"))
    behavior, ecephys = world.records[0], world.records[1]
    files = [
        f"{behavior['location']}/nwb/behavior_774659_2025-06-07_14-31-15.nwb",
        f"{ecephys['location']}/nwb/experiment1_recording1.nwb",
        f"{ecephys['location']}/nwb/experiment1_recording2.nwb",
    ]
    assert [(job["file_location"], job["distributed_parameters"]) for job in done.jobs] == [
        ([file], {"method": method}) for file in files for method in "ab"
    ]
    assert list(done.folders) == [str(number) for number in range(6)]
    assert done.jobs[0] == {
        "s3_location": [behavior["location"]],
        "asset_id": [asset_id(0)],
        "asset_name": [behavior["name"]],
        "docdb_record_id": [behavior["_id"]],
        "subject": ["774659"],
        "session": [behavior["session"]["session_start_time"]],
        "project": ["Behavior Platform"],
        "modality": [["behavior"]],
        "file_location": [files[0]],
        "fixed_parameters": {"cutoff": 0.05},
        "distributed_parameters": {"method": "a"},
        "query": '{"subject.subject_id":"774659"}',
        "analysis_code": {"url": "", "parameters": {"cutoff": 0.05}},
    }


def test_the_closing_summary_has_four_lines_on_stdout(world: World) -> None:
    done = succeeded(world.call(f"--docdb_query={SUBJECT}", "--file_extension=.nwb"))
    seconds = r"\d+\.\d s"
    patterns = [
        r"matched  3 assets",
        rf"skipped  1: 1 without a matching file; found in {seconds}",
        rf"jobs     3 of 3 files, written in {seconds}",
        rf"folders  3 in {re.escape(str(world.output_directory))}, 1 job each, {seconds} in all",
    ]
    lines = done.stdout.splitlines()
    assert len(lines) == len(patterns)
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(pattern, line), line


@pytest.fixture
def two_sets(desk: World) -> World:
    """A world whose summary holds a `×`."""
    (desk.input_directory / "analysis_parameters.json").write_text(json.dumps(TWO_SETS))
    return desk


def test_a_terminal_that_cannot_show_a_letter_gets_its_code(two_sets: World) -> None:
    done = succeeded(two_sets.run("--docdb_query={}", env={"PYTHONIOENCODING": "ascii"}))
    assert len(done.jobs) == 6
    assert r"jobs     6 of 3 assets \xd7 2 parameter sets, written in " in done.stdout


@pytest.mark.parametrize(
    "redirection",
    [
        "| true",
        "> /dev/full",
        ">&-",
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.long
def test_the_jobs_are_there_whether_or_not_the_summary_can_be_read(
    two_sets: World, monkeypatch: pytest.MonkeyPatch, redirection: str, unbuffered: str
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    command = " ".join(map(shlex.quote, two_sets.command("--docdb_query={}")))
    script = f"set -o pipefail; {command} {redirection}"
    process = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    done = succeeded(two_sets.completed(process.returncode, process.stdout, process.stderr))
    assert len(done.jobs) == 6
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("redirection", ["2> /dev/full", "2>&-"])
def test_the_exit_code_tells_an_error_that_cannot_be_shown(world: World, redirection: str) -> None:
    command = " ".join(map(shlex.quote, world.command("--docdb_query={")))
    process = subprocess.run(["bash", "-c", f"{command} {redirection}"], capture_output=True, timeout=60)
    assert process.returncode == 2


def test_the_first_log_line_names_version_source_and_host(world: World) -> None:
    done = succeeded(world.call(f"--docdb_query={SUBJECT}"))
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ INFO    aind-analysis-job-dispatch \d+\.\d+\.\d+, assets from DocDB "
        rf"{re.escape(world.gateway.host)} v1 metadata_index/data_assets",
        done.stderr.splitlines()[0],
    )


def test_without_an_extension_each_asset_is_a_job_and_nothing_is_listed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    done = succeeded(world.call(f"--docdb_query={SUBJECT}"))
    assert [job["s3_location"] for job in done.jobs] == [
        [record["location"]]
        for record in sorted(world.records, key=lambda record: str(record["name"]))
        if record["subject"]["subject_id"] == "774659"
    ]
    assert all("file_location" not in job for job in done.jobs)


def test_split_files_0_puts_all_files_of_an_asset_into_one_job(world: World) -> None:
    done = succeeded(world.call(f"--docdb_query={SUBJECT}", "--file_extension=.nwb", "--split_files=0"))
    assert [len(job["file_location"]) for job in done.jobs] == [1, 2]


def test_csv_ids_select_records_of_both_shapes_in_the_order_of_the_csv(world: World) -> None:
    ids = [asset_id(5), asset_id(1), asset_id(0)]
    (world.input_directory / "data_asset_input.csv").write_text("\n".join(["asset_id", *ids]))
    done = succeeded(world.call("--use_data_asset_csv=1"))
    assert [job["asset_id"] for job in done.jobs] == [[one] for one in ids]
    assert all("query" not in job for job in done.jobs)


def test_an_asset_with_two_ids_has_one_job_name_whichever_of_them_selects_it(world: World) -> None:
    (world.input_directory / "data_asset_input.csv").write_text(f"asset_id\n{asset_id(102)}\n{asset_id(2)}\n")
    by_csv = succeeded(world.call("--use_data_asset_csv=1"))
    assert [job["asset_id"] for job in by_csv.jobs] == [[asset_id(2)]]
    by_query = succeeded(
        world.call('--docdb_query={"data_description.modality.abbreviation": "pophys"}', "--overwrite=1")
    )
    assert [job["asset_id"] for job in by_query.jobs] == [[asset_id(2)]]
    assert by_query.folders == by_csv.folders


@pytest.mark.long
def test_a_table_of_2000_ids_is_one_query_and_one_count(world: World) -> None:
    template = world.records[0]
    world.records[:] = [
        {**template, "_id": f"r{n:05d}", "name": f"n{n:05d}", "external_links": {"Code Ocean": [f"id-{n}"]}}
        for n in range(2_000)
    ]
    ids = [f"id-{n}" for n in reversed(range(2_000))]
    (world.input_directory / "data_asset_input.csv").write_text("\n".join(["asset_id", *ids]))
    done = succeeded(world.call("--use_data_asset_csv=1", "--tasks_per_job=1"))
    assert [job["asset_id"][0] for job in done.jobs] == ids
    assert (len(world.gateway.requests), len(world.gateway.counts)) == (1, 1)


@pytest.mark.long
def test_the_catalog_gives_the_same_jobs_as_docdb(world: World) -> None:
    flags = ("--docdb_query={}", "--file_extension=nwb,.ome.zarr")
    by_docdb = succeeded(world.call(*flags))
    by_catalog = succeeded(world.run_catalog(world.records, *flags, "--overwrite=1"))
    assert by_catalog.folders == by_docdb.folders
    assert by_catalog.jobs == by_docdb.jobs


def test_v2_host_and_collection_of_a_lab_are_asked_where_the_flags_and_environment_say(world: World) -> None:
    world.gateway.collections["v2", "lab", "assets"] = world.records[:1]
    host = world.gateway.host
    done = succeeded(
        world.call(
            "--docdb_query={}",
            f"--docdb_host=https://{host}/",
            "--docdb_version=v2",
            "--docdb_database=lab",
            "--docdb_collection=assets",
        )
    )
    assert len(done.jobs) == 1


def test_the_environment_names_host_and_version_but_never_database_and_collection(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCDB_HOST", world.gateway.host)
    monkeypatch.setenv("DOCDB_VERSION", "v1")
    monkeypatch.setenv("DOCDB_DATABASE", "analysis")
    monkeypatch.setenv("DOCDB_COLLECTION", "some-project")
    done = succeeded(world.call("--docdb_query={}", "--docdb_host="))
    assert len(done.jobs) == len(world.records)
    assert {request.path for request in world.gateway.requests} == {"/v1/metadata_index/data_assets/aggregate"}


def test_the_same_request_gives_the_same_names_and_each_name_is_made_of_the_work_alone(world: World) -> None:
    first = succeeded(world.run("--docdb_query={}", "--file_extension=.nwb"))
    again = succeeded(world.call("--docdb_query={}", "--file_extension=.nwb", "--overwrite=1"))
    assert again.folders == first.folders
    names = [name for names in first.folders.values() for name in names]
    for name, job in zip(names, first.jobs, strict=True):
        others = ("query", "analysis_code", "asset_id", "docdb_record_id", "file_version")
        traits = ("subject", "session", "project", "modality")
        work = {field: value for field, value in job.items() if field not in (*others, *traits)}
        content = json.dumps(work, sort_keys=True, separators=(",", ":"))
        assert name == f"{uuid.uuid5(uuid.NAMESPACE_URL, content)}.json"


def test_other_words_for_the_same_work_give_the_same_names_and_without_the_query_the_same_bytes(world: World) -> None:
    worded = (
        '{"subject.subject_id": "774659"}',
        '{"$or": [{"subject.subject_id": {"$in": ["774659", "774659"]}}]}',
    )
    files = []
    for place, query in enumerate(worded):
        for told in ("0", "1"):
            folder = world.output_directory / f".{place}{told}"
            flags = (f"--docdb_query={query}", "--file_extension=.nwb", f"--query_in_jobs={told}")
            assert world.call(*flags, f"--output_directory={folder}").returncode == 0
            files.append({path.relative_to(folder): path.read_bytes() for path in folder.glob("*/*.json")})
    silent, telling, silent_again, telling_again = files
    assert silent == silent_again != telling
    assert telling.keys() == silent.keys() == telling_again.keys()
    assert telling != telling_again
    assert not any(b'774659\\"' in text for text in silent.values())


def test_jobs_are_indented_by_four_and_parameters_arrive_as_they_were_written(world: World) -> None:
    text = (
        '{"fixed_parameters": {"int": 1, "float": 1.0, "true": true, "null": null, "big": 123456789012345678901234,'
        ' "tiny": 5e-324, "text": "é\\u2028\\"", "empty": {}, "list": [null, [], {"deep": null}]},'
        ' "distributed_parameters": [{}]}'
    )
    (world.input_directory / "analysis_parameters.json").write_text(text)
    done = succeeded(world.call("--docdb_query={}", "--max_number_of_tasks_dispatched=1"))
    [job] = done.jobs
    assert json.dumps(job["fixed_parameters"]) == json.dumps(json.loads(text)["fixed_parameters"])
    assert job["distributed_parameters"] == {}
    written = next(world.output_directory.glob("0/*.json")).read_text()
    assert written.startswith('{\n    "s3_location": [\n        "')


def test_no_more_jobs_than_asked_for_and_a_warning_says_how_many_were_left_off(world: World) -> None:
    done = succeeded(world.call("--docdb_query={}", "--max_number_of_tasks_dispatched=4"))
    assert len(done.jobs) == 4
    assert "WARNING --max_number_of_tasks_dispatched=4: 2 jobs left off" in done.stderr
    assert "jobs     4 of 6 assets, 2 jobs left off by --max_number_of_tasks_dispatched=4, written" in done.stdout
    every = succeeded(world.call("--docdb_query={}", "--overwrite=1"))
    assert done.jobs == every.jobs[:4]


def test_what_the_limit_leaves_off_stands_in_preview_report_and_manifest(world: World, tmp_path: Path) -> None:
    flags = ("--docdb_query={}", "--max_number_of_tasks_dispatched=4", f"--report_directory={tmp_path / 'report'}")
    done = succeeded(world.call(*flags, "--dry_run=1"))
    said = "2 jobs left off by --max_number_of_tasks_dispatched=4"
    assert f"left off                     {said}\n" in done.stdout
    assert said in (tmp_path / "report" / "report.html").read_text()
    manifest = json.loads((tmp_path / "report" / "manifest.json").read_text())
    assert (manifest["left_off"], manifest["left_off_is_exact"]) == (2, True)
    assert manifest["counts"]["jobs asked for"] == 6


def test_without_a_limit_all_jobs_are_written(world: World) -> None:
    template = world.records[0]
    world.records[:] = [{**template, "_id": f"r{n:05d}", "name": f"n{n:05d}"} for n in range(1_200)]
    done = succeeded(world.call("--docdb_query={}"))
    assert len(done.jobs) == 1_200
    assert len(done.folders) == 50


def test_jobs_with_the_same_content_are_one_job(world: World) -> None:
    elsewhere = f"s3://{BUCKET}/elsewhere"
    records = [{**world.records[0], "_id": "same"}, {**world.records[0], "_id": "other", "location": elsewhere}]
    ids = f"asset_id\n{asset_id(0)}\n"
    (world.input_directory / "data_asset_input.csv").write_text(ids)
    done = succeeded(world.run_catalog(records, "--use_data_asset_csv=1"))
    assert Counter(job["docdb_record_id"][0] for job in done.jobs) == {"same": 1, "other": 1}
    assert "ids with several records" in done.stderr


def test_two_files_that_differ_only_in_how_they_were_asked_for_count_once(world: World) -> None:
    done = succeeded(world.call("--docdb_query={}", "--file_extension=nwb,*.nwb,.nwb, recording1.nwb"))
    files = [job["file_location"][0] for job in done.jobs]
    assert len(files) == len(set(files)) == 5


def test_records_of_one_mind_are_ordered_by_name_then_id(world: World) -> None:
    twin = {"_id": "00000000-0000-4000-7000-000000000000", "location": f"s3://{BUCKET}/elsewhere"}
    world.records.append({**world.records[0], **twin})
    done = succeeded(world.call("--docdb_query={}"))
    order = [(job["asset_name"][0], job["docdb_record_id"][0]) for job in done.jobs]
    assert order == sorted(order)
    assert len(order) == 7


def test_a_record_without_a_name_is_called_by_the_last_part_of_its_location(world: World) -> None:
    world.records[:] = [{**world.records[0], "name": None, "location": f"s3://{BUCKET}/folder/the-asset/"}]
    [job] = succeeded(world.call("--docdb_query={}")).jobs
    assert (job["asset_name"], job["s3_location"]) == (["the-asset"], [f"s3://{BUCKET}/folder/the-asset"])


def test_a_record_without_code_ocean_ids_has_an_empty_asset_id(world: World) -> None:
    [job] = succeeded(world.call('--docdb_query={"data_description.data_level": "raw"}')).jobs
    assert job["asset_id"] == [""]


def test_only_worker_folders_lie_in_the_output_folder(world: World) -> None:
    succeeded(world.call("--docdb_query={}", "--file_extension=.nwb"))
    assert {path.name for path in world.output_directory.iterdir()} == {str(n) for n in range(5)}


def test_a_blank_flag_means_its_default(world: World) -> None:
    blank = [
        f"--{name}="
        for name in (
            "file_extension",
            "split_files",
            "num_parallel_workers",
            "tasks_per_job",
            "overwrite",
            "max_number_of_tasks_dispatched",
            "docdb_version",
            "skip_errors",
            "log_level",
            "metadata_catalog",
            "use_data_asset_csv",
        )
    ]
    assert len(succeeded(world.call("--docdb_query={}", *blank)).jobs) == len(world.records)


def test_a_table_and_a_query_are_joined_by_and(world: World) -> None:
    ids = [asset_id(number) for number in (3, 0, 1)]
    (world.input_directory / "data_asset_input.csv").write_text("\n".join(["asset_id", *ids]))
    flags = ("--use_data_asset_csv=1", f"--docdb_query={SUBJECT}")
    by_docdb = succeeded(world.call(*flags, "--tasks_per_job=1"))
    assert [job["asset_id"] for job in by_docdb.jobs] == [[asset_id(0)], [asset_id(1)]]
    assert {json.loads(job["query"])["subject.subject_id"] for job in by_docdb.jobs} == {"774659"}
    assert "skipped  1: 1 not selected by the query;" in by_docdb.stdout
    by_catalog = succeeded(world.run_catalog(world.records, *flags, "--tasks_per_job=1", "--overwrite=1"))
    assert by_catalog.jobs == by_docdb.jobs


def test_an_id_without_a_record_is_told_apart_from_one_that_the_query_does_not_select(world: World) -> None:
    (world.input_directory / "data_asset_input.csv").write_text(f"asset_id\n{asset_id(3)}\n{asset_id(0)}\nunknown\n")
    done = world.call("--use_data_asset_csv=1", f"--docdb_query={SUBJECT}")
    assert done.returncode == 2
    assert "error: data_asset_input.csv: 1 of 3 ids without a record;" in done.stderr
    assert done.stderr.endswith("\n  line 4: unknown\n")


def test_a_table_of_which_the_query_selects_nothing_is_refused(world: World) -> None:
    (world.input_directory / "data_asset_input.csv").write_text(f"asset_id\n{asset_id(3)}\n")
    done = world.call("--use_data_asset_csv=1", f"--docdb_query={SUBJECT}")
    assert done.returncode == 2
    assert "error: no record fits both data_asset_input.csv and the query\n  query: {" in done.stderr


def test_the_bundled_example_dispatches_by_query_and_by_csv(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(CODE / "run_capsule.py"),
        f"--input_directory={EXAMPLE}",
        f"--metadata_catalog={EXAMPLE / 'catalog.jsonl'}",
        "--file_extension=.nwb",
    ]
    for number, flag in enumerate([f"--docdb_query={SUBJECT}", "--use_data_asset_csv=1"]):
        output = tmp_path / str(number)
        subprocess.run([*command, flag, f"--output_directory={output}"], check=True, capture_output=True)
        jobs = [load_job(path) for path in output.glob("*/*.json")]
        assert len(jobs) == 10
        assert all(Path(job["file_location"][0].removeprefix("file://")).exists() for job in jobs)


def test_the_database_is_asked_before_what_lists_files_and_makes_jobs_is_loaded() -> None:
    script = "import sys; from job_dispatch import dispatching; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], cwd=CODE, capture_output=True, text=True, check=True)
    assert not {"pydantic", "boto3", "obstore"} & set(loaded.stdout.split())


def test_help_does_not_wait_for_heavy_imports() -> None:
    script = "import sys; from job_dispatch import main; main.flags.build_parser('').format_help(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], cwd=CODE, check=True, capture_output=True, text=True)
    heavy = {
        "pandas",
        "boto3",
        "obstore",
        "pydantic",
        "requests",
        "regex",
        "msgspec",
        "aind_data_access_api",
        "asyncio",
        "tqdm",
    }
    assert not heavy & set(loaded.stdout.split())


@pytest.mark.parametrize("count", [1, 7])
def test_pages_of_docdb_add_up_to_all_records(world: World, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr("job_dispatch.metadata.docdb._RECORDS_A_PAGE", count)
    assert len(succeeded(world.call("--docdb_query={}")).jobs) == len(world.records)


def test_a_page_too_large_for_the_gateway_is_halved_until_it_fits(world: World) -> None:
    template = world.records[0]
    world.records[:] = [{**template, "_id": f"r{n:05d}", "name": f"n{n:05d}"} for n in range(500)]
    world.gateway.payload_limit = 20_000
    done = succeeded(world.call("--docdb_query={}"))
    assert len(done.jobs) == 500
    assert 413 in {request.status for request in world.gateway.requests}


def test_a_record_that_vanishes_between_pages_ends_the_run_since_none_may_be_lost_in_silence(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("job_dispatch.metadata.docdb._RECORDS_A_PAGE", 2)
    gone = world.records[5]

    def take_away(_: object) -> None:
        world.gateway.wait_for_count()
        world.records.remove(gone)
        world.records.append(world.records[0])

    world.gateway.faults.extend([None, None, take_away])
    done = world.call("--docdb_query={}")
    assert done.returncode == 1
    assert "it counted 6 records and returned 5; some may have been removed meanwhile; try again" in done.stderr
    assert done.jobs == []


def test_a_query_longer_than_any_url_is_asked_by_post(world: World) -> None:
    ids = [f"{n:030d}" for n in range(1_000)] + ["774659"]
    done = succeeded(world.call(f"--docdb_query={json.dumps({'subject.subject_id': {'$in': ids}})}"))
    assert len(done.jobs) == 3


def test_too_many_assets_are_refused_before_their_files_are_listed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("job_dispatch.jobs.building.JOBS_UNASKED", 5)
    for record in world.records:
        record["location"] = "s3://no-such-bucket/of-it"
    done = world.call("--docdb_query={}", "--file_extension=.nwb")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "error: 6 assets: 6 jobs; more than 5 are written only where"
        " --max_number_of_tasks_dispatched names a number; narrow the request or name one"
    )


def test_nothing_is_said_of_code_ocean_where_nothing_of_it_is_in_the_environment(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [one for one in os.environ if one.startswith(("CO_", "CODEOCEAN_"))]:
        monkeypatch.delenv(name)
    assert "job files will not name" not in succeeded(world.call("--docdb_query={}")).stderr
    monkeypatch.setenv("CO_COMPUTATION_ID", "a")
    told = succeeded(world.call("--docdb_query={}", "--overwrite=1")).stderr
    assert "job files will not name the analysis code: CODEOCEAN_API_TOKEN is not set" in told

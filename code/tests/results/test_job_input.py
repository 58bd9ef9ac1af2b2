"""What job files tell of their assets and the versions of their files, and what an analysis gets of it."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

import job_dispatch as jd
from job_dispatch.main import main
from job_dispatch.results.job import Job
from tests.conftest import World
from tests.results.conftest import Desk

ANALYSIS = """
def analyse(job, parameters, results):
    with job.open(0) as file:
        first = file.read(4)
    return {
        "paths": [str(path) for path in job.paths],
        "is_path": hasattr(job.paths[0], "open"),
        "first": first.decode(),
        "metadata": job.metadata,
    }
"""


@pytest.fixture
def lab(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A desk with a catalog of one asset, which has a file and a store."""
    monkeypatch.chdir(desk.folder)
    (desk.folder / "assets" / "a" / "x.ome.zarr" / "0").mkdir(parents=True)
    (desk.folder / "assets" / "a" / "y.nwb").write_text("data")
    record = {
        "_id": "1",
        "name": "a",
        "location": (desk.folder / "assets" / "a").as_uri(),
        "subject": {"subject_id": "774659"},
        "session": {"session_start_time": "2025-06-07T14:31:15-07:00"},
        "data_description": {
            "project_name": "Platform",
            "modality": [{"abbreviation": "pophys"}, {"abbreviation": "behavior"}],
        },
    }
    (desk.folder / "catalog.jsonl").write_text(json.dumps(record) + "\n")
    (desk.folder / "data").mkdir()
    (desk.folder / "analysis.py").write_text(ANALYSIS)
    return desk


def dispatch(lab: Desk, *flags: str) -> dict[str, dict[str, Any]]:
    """Dispatch and return the job files by name."""
    folder = lab.folder
    code = main(
        [
            f"--input_directory={folder / 'data'}",
            f"--output_directory={folder / 'results'}",
            f"--metadata_catalog={folder / 'catalog.jsonl'}",
            "--docdb_query={}",
            "--overwrite=1",
            *flags,
        ]
    )
    assert code == 0
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("results/*/*.json")}


def test_a_job_file_tells_subject_session_project_and_modality_of_its_assets(lab: Desk) -> None:
    [job] = dispatch(lab).values()
    assert job["subject"] == ["774659"]
    assert job["session"] == ["2025-06-07T14:31:15-07:00"]
    assert job["project"] == ["Platform"]
    assert job["modality"] == [["behavior", "pophys"]]


def test_a_file_that_is_overwritten_keeps_the_name_of_its_job_and_is_new_work(lab: Desk) -> None:
    path = lab.folder / "assets" / "a" / "y.nwb"
    os.utime(path, ns=(0, 1_700_000_000_123_456_789))
    before = dispatch(lab, "--file_extension=.nwb")
    assert [job["file_version"] for job in before.values()] == [
        [{"size": 4, "modified": "2023-11-14T22:13:20.123456789Z"}]
    ]
    assert lab.run().code == 0
    path.write_text("more data")
    after = dispatch(lab, "--file_extension=.nwb")
    assert before.keys() == after.keys()
    assert before != after
    assert lab.counts() == {"left": 1}
    assert lab.run().code == 0
    assert [row["first"] for row in lab.table()] == ["more"]


def test_the_version_of_a_local_store_is_the_newest_change_of_its_folder_and_what_is_directly_in_it(lab: Desk) -> None:
    store = lab.folder / "assets" / "a" / "x.ome.zarr"
    for path, seconds in ((store / "0", 1_700_000_020), (store, 1_700_000_010)):
        os.utime(path, (0, seconds))
    [job] = dispatch(lab, "--file_extension=.ome.zarr").values()
    assert job["file_version"] == [{"modified": "2023-11-14T22:13:40.000000000Z"}]


def test_an_analysis_opens_its_files_by_path_and_gets_the_metadata(lab: Desk) -> None:
    dispatch(lab, "--file_extension=.nwb")
    assert lab.run().code == 0
    [path] = (lab.folder / "analysis_results").glob("*/job.json")
    values = json.loads(path.read_text())["values"]
    assert values["paths"] == [str(lab.folder / "assets" / "a" / "y.nwb")]
    assert values["is_path"] is True
    assert values["first"] == "data"
    assert values["metadata"] == [
        {
            "subject": "774659",
            "session": "2025-06-07T14:31:15-07:00",
            "project": "Platform",
            "modality": ["behavior", "pophys"],
        }
    ]


@pytest.mark.long
def test_whole_records_come_with_a_saved_catalog(lab: Desk) -> None:
    dispatch(lab, f"--save_catalog={lab.folder / 'saved.jsonl.gz'}")
    (lab.folder / "analysis.py").write_text(
        "def analyse(job, parameters, results):\n    return {'record': job.metadata[0].get('record')}\n"
    )
    assert lab.run("--metadata_catalog=saved.jsonl.gz").code == 0
    [row] = lab.table()
    given = json.loads((lab.folder / "catalog.jsonl").read_text())
    assert json.loads(row["record"]) == given
    assert jd.run("analysis.py", "results", metadata_catalog="saved.jsonl.gz", again=True).counts["done"] == 1
    [path] = (lab.folder / "analysis_results").glob("*/job.json")
    assert json.loads(path.read_text())["values"]["record"] == given

    (lab.folder / "other.jsonl").write_text('{"_id": "2"}\n')
    refused = lab.run("--metadata_catalog=other.jsonl", "--again")
    assert refused.code == 2
    remedy = "give the catalog that --save_catalog wrote for these jobs"
    assert refused.error == f"error: other.jsonl: no record of 1 of 1 asset; {remedy}"
    assert json.loads(path.read_text())["values"]["record"] == given


def test_a_job_of_several_assets_has_paths_and_metadata_in_the_order_of_its_assets() -> None:
    assets = {"s3_location": ["s3://b/raw", "file:///data/derived"], "asset_name": ["r", "d"]}
    traits = {"subject": ["7", "7"], "modality": [["ecephys"], []]}
    job = Job.model_validate({**assets, **traits, "docdb_record_id": ["1", "2"]})
    assert job.paths == ["s3://b/raw", Path("/data/derived")]
    assert [(one["subject"], one["modality"]) for one in job.metadata] == [("7", ["ecephys"]), ("7", [])]
    records = {"1": {"_id": "1"}}
    assert [one["record"] for one in job.with_records(records).metadata] == [{"_id": "1"}, None]
    files = Job.model_validate({**job.model_dump(), "file_location": ["file:///data/derived/x y#.nwb", "s3://b/raw/z"]})
    assert files.paths == [Path("/data/derived/x y#.nwb"), "s3://b/raw/z"]


def test_without_files_the_paths_of_a_job_are_the_folders_of_its_assets(lab: Desk) -> None:
    (lab.folder / "analysis.py").write_text(
        "def analyse(job, parameters, results):\n    return {'paths': [str(path) for path in job.paths]}\n"
    )
    dispatch(lab)
    assert lab.run().code == 0
    assert [row["paths"] for row in lab.table()] == [json.dumps([str(lab.folder / "assets" / "a")])]


def test_in_s3_the_version_of_a_file_is_its_size_and_etag_and_an_analysis_can_open_it(world: World) -> None:
    world.put(world.records[3], "x.csv", "y.ome.zarr/0")
    name = world.records[3]["name"]
    world.s3.put("open-data", [f"{name}/x.csv"], b"a,b\n1,2\n")
    done = world.call(
        "--docdb_query=" + json.dumps({"name": name}), "--file_pattern=x.csv, y.ome.zarr", "--split_files=0"
    )
    assert done.returncode == 0
    [job] = done.jobs
    # S3 hashes an object that was put in one part by MD5.
    etag = hashlib.md5(b"a,b\n1,2\n").hexdigest()
    assert job["file_version"] == [{"size": 8, "etag": etag}, None]
    opened = Job.model_validate(job)
    assert opened.paths == [f"s3://open-data/{name}/x.csv", f"s3://open-data/{name}/y.ome.zarr"]
    with opened.open(0) as file:
        file.seek(2)
        assert bytes(file.read()) == b"b\n1,2\n"
    with pytest.raises(FileNotFoundError, match=r"y.ome.zarr: no such object; a store is opened by its own library"):
        opened.open(1)

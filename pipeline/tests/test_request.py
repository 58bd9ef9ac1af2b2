"""What the pipeline is asked for reaches the dispatcher and the analysis as it was meant."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import PIPELINE, ROOT, SECONDS_AT_MOST, TESTS, Lab, failed, succeeded
from job_dispatch.request import flags

# What a shell or a template would take for something else.
HARD = 'it\'s "$HOME" `id` \\n $(id) ; é — #x'


def record(lab: Lab) -> dict[str, Any]:
    """Return what stands beside the results of the only job."""
    [path] = (lab.results / "analysis_results").glob("*/job.json")
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def manifest(lab: Lab) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((lab.results / "manifest.json").read_text())
    return loaded


def test_relative_paths_and_hard_texts_arrive_as_they_are(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "it's my lab")
    lab.assets(HARD, "another")
    lab.parameters({"threshold": 1})
    other = lab.folder / "other"
    other.mkdir()
    (lab.folder / "input" / "catalog.jsonl").rename(other / "records.jsonl")
    (lab.folder / "linked.jsonl").symlink_to("other/records.jsonl")
    (lab.folder / "analysis.py").rename(lab.folder / "my 'new' analysis.py")
    (lab.folder / "schema.json").write_text('{"required": ["threshold"]}')
    query = json.dumps({"name": {"$in": [HARD]}}, ensure_ascii=False)
    succeeded(
        lab.run(
            "--metadata_catalog=linked.jsonl",
            "--skip_errors",
            "--parameter_schema=schema.json",
            "--analysis=my 'new' analysis.py",
            f"--set=note={HARD}; cutoff=[1, 2]; threshold=9; word = NaN; bin-size.é=3; rule=x; y==1",
            "--output_directory=my results/today",
            query=query,
        )
    )
    moved = Lab.__new__(Lab)
    moved.folder = lab.folder / "my results" / "today"
    (moved.folder / "results").symlink_to(".")
    assert manifest(moved)["query"] == {"name": {"$in": [HARD]}}
    assert record(moved)["s3_location"] == [f"file://{other}/assets/{HARD}"]
    # Fixed, then --set, then distributed; JSON where it parses.
    assert record(moved)["parameters"] == {
        **{"cutoff": [1, 2], "threshold": 1, "note": HARD},
        **{"word": "NaN", "bin-size.é": 3, "rule": "x; y==1"},
    }


def test_a_file_of_parameters_may_hold_objects_lists_and_nothing(lab: Lab) -> None:
    lab.parameters({"threshold": 1})
    (lab.folder / "query.json").write_text('{"name": {"$in": ["a", "c", "e"]}}')
    parameters = {
        "docdb_query": "query.json",
        "group_by": ["location", "name"],
        "skip_errors": False,
        "file_extension": None,
        "max_number_of_tasks_dispatched": 1,
        "set": {"note": "a; b=c", "deep": {"x": [1]}},
    }
    (lab.folder / "request.json").write_text(json.dumps(parameters))
    succeeded(lab.run("-params-file", "request.json", query=None))
    assert record(lab)["parameters"] == {"cutoff": 0.5, "threshold": 1, "note": "a; b=c", "deep": {"x": [1]}}
    assert record(lab)["group_metadata"] == {"location": f"file://{lab.folder}/input/assets/a", "name": "a"}


def test_a_file_of_parameters_may_hold_texts_of_several_lines_and_lists_of_numbers(lab: Lab) -> None:
    lab.parameters({"threshold": 1})
    records = [{"_id": one, "name": one, "location": one, "subject": {"subject_id": one}} for one in ("7", "8", "9")]
    (lab.folder / "input" / "catalog.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in records))
    note = "first\n        'indented'\r\n    $last"
    parameters = {"subject": [7, 8], "max_number_of_tasks_dispatched": 1, "set": [f"note={note}", "limit=0.10"]}
    (lab.folder / "request.json").write_text(json.dumps(parameters))
    succeeded(lab.run("-params-file", "request.json", query='{\n        "name": "8"\n}'))
    assert record(lab)["asset_name"] == ["8"]
    assert record(lab)["parameters"] == {"cutoff": 0.5, "threshold": 1, "note": note, "limit": 0.1}


def test_the_pipeline_knows_each_flag_of_the_dispatcher_that_names_a_file_or_a_folder() -> None:
    places = {
        name for name, flag in flags.declared().items() if flag.takes in ("FILE", "DIR", "QUERY", "PLACE", "PATHS")
    }
    text = (PIPELINE / "main.nf").read_text()
    own = re.search(r"def ownFlags.*?\[(.*?)\]", text, re.DOTALL)
    named = re.search(r"name in \[('analysis_parameters'.*?)\]", text)
    assert own is not None
    assert named is not None
    known = {*re.findall(r"'(\w+)'", own[1] + named[1]), "save_catalog"}
    assert places <= known <= set(flags.declared())


def test_every_profile_can_be_read_and_says_what_to_fill_in() -> None:
    done = subprocess.run(
        [TESTS / "nextflow", "config", "-show-profiles", PIPELINE],
        check=True,
        capture_output=True,
        text=True,
        timeout=SECONDS_AT_MOST,
    )
    profiles = dict(re.findall(r"^   (\w+) \{\n(.*?)^   \}", done.stdout, re.MULTILINE | re.DOTALL))
    assert profiles.keys() | {"standard"} == {"standard", "slurm", "awsbatch", "k8s", "docker", "singularity"}
    assert "'PARTITION'" in profiles["slurm"]
    assert all(word in profiles["awsbatch"] for word in ("'QUEUE'", "BUCKET", "'REGION'", "cliPath"))
    assert all("registry.example/my-analysis" in profiles[name] for name in ("awsbatch", "k8s", "singularity"))


def test_the_container_takes_what_is_in_the_repository() -> None:
    text = (PIPELINE / "Dockerfile").read_text()
    sources = [line.split()[1] for line in text.splitlines() if line.startswith("COPY ")]
    assert sources
    assert all((ROOT / source).exists() for source in sources)


def test_a_value_that_looks_like_a_number_arrives_as_it_was_typed(lab: Lab) -> None:
    lab.parameters({"threshold": 1})
    records = [
        {"_id": name, "name": name, "location": name, "subject": {"subject_id": subject}}
        for name, subject in (("a", "007123"), ("b", "7123"))
    ]
    (lab.folder / "input" / "catalog.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in records))
    for given in (["--subject=007123"], ["--subject", "007123"]):
        done = succeeded(lab.run(*given, query=None))
        assert lab.analysed_assets == ["a"]
        assert "Access to undefined parameter" not in done.output
    assert "--subject=007123" in manifest(lab)["command"]
    # What the tasks used is kept with the results.
    rows = [line.split("\t") for line in (lab.results / "resources.tsv").read_text().splitlines()]
    assert rows[0][:4] == ["process", "tag", "status", "exit"]
    assert [row[0] for row in rows[1:] if row[0] == "ANALYSE"] == ["ANALYSE"]


@pytest.mark.parametrize("profile", ["docker,slurm", "k8s", "singularity"])
def test_what_nobody_has_filled_in_is_refused_by_name_before_anything_is_submitted(lab: Lab, profile: str) -> None:
    lab.engine = ()
    done = failed(lab.run("-profile", profile))
    assert done.tasks == []
    named = re.findall(r"^(?:ERROR ~ )?(\S+): '(\S+)' is to be filled in", done.output, re.MULTILINE)
    is_slurm = "slurm" in profile
    assert (("process.queue", "PARTITION") in named) == is_slurm
    assert ("k8s.namespace" in dict(named)) == ("k8s.storageClaimName" in dict(named)) == (profile == "k8s")
    assert ("process.container" in dict(named)) == (not is_slurm)


def test_every_image_has_a_name_that_docker_takes() -> None:
    text = (PIPELINE / "nextflow.config").read_text()
    images = re.findall(r"container = '(?:docker://)?(.*?)'", text)
    assert len(images) >= 6
    assert all(re.fullmatch(r"([a-z0-9.-]+/)?[a-z0-9-]+:latest", image) for image in images)


def test_folders_of_assets_and_patterns_count_from_where_nextflow_is_started(lab: Lab) -> None:
    for name in ("a", "b", "c"):
        (lab.folder / "mice" / "lab" / name).mkdir(parents=True)
    (lab.folder / "before.csv").write_text("name\na\n")
    wanted = ["--exclude=before.csv", "--dry_run=1"]
    for place, names in (("mice/lab", ["b", "c"]), ("mi*/lab/[bz]", ["b"])):
        saved = lab.folder / "kept" / f"{names[-1]}.jsonl"
        given = f"--save_catalog={saved.relative_to(lab.folder)}"
        succeeded(lab.run(f"--metadata_catalog={place}", given, *wanted, query=None))
        locations = [json.loads(line)["location"] for line in saved.read_text().splitlines()]
        assert locations == [f"file://{lab.folder}/mice/lab/{name}" for name in names]
    assert not lab.results.exists()


def test_a_table_and_a_parameters_file_are_found_where_nextflow_is_started(lab: Lab) -> None:
    (lab.folder / "cohort.csv").write_text("name\nc\n")
    (lab.folder / "trial.json").write_text('{"fixed_parameters": {"threshold": 7}}')
    succeeded(lab.run("--use_data_asset_csv=cohort.csv", "--analysis_parameters=trial.json", query=None))
    assert record(lab)["asset_name"] == ["c"]
    assert record(lab)["parameters"]["threshold"] == 7

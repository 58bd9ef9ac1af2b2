"""`run_analysis.py` and `collect.py` on their own, as on a laptop or in a Slurm job."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import PIPELINE, ROOT, TESTS

JOB = {"s3_location": ["s3://b/a"], "asset_name": ["a"], "docdb_record_id": ["1"]}


@dataclass(frozen=True)
class Desk:
    """A folder with an analysis and a folder of jobs."""

    folder: Path

    def analysis(self, body: str) -> None:
        (self.folder / "analysis.py").write_text(f"def analyse(job, parameters, results):\n    {body}\n")

    def job(self, name: str, **fields: Any) -> None:
        (self.folder / "jobs").mkdir(exist_ok=True)
        (self.folder / "jobs" / f"{name}.json").write_text(json.dumps({**JOB, **fields}))

    def run(self, *arguments: str, script: str = "run_analysis.py") -> subprocess.CompletedProcess[str]:
        given = arguments if arguments[:1] else ("analysis.py", "jobs")
        return subprocess.run(
            [sys.executable, PIPELINE / script, *given], cwd=self.folder, capture_output=True, text=True, timeout=120
        )

    def record(self, name: str) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.folder / "analysis_results" / name / "job.json").read_text())
        return loaded


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    desk = Desk(tmp_path)
    desk.analysis("return {'sum': sum(parameters.get('numbers', []))}")
    return desk


def test_parameters_win_in_the_order_fixed_then_set_then_distributed(desk: Desk) -> None:
    desk.job("1", fixed_parameters={"a": 1, "b": 1, "c": 1}, distributed_parameters={"c": 3})
    done = desk.run("analysis.py", "jobs", "--set", "b=2", "c=2", "--set", "text=x y", "numbers=[1, 2.5]")
    assert (done.returncode, done.stderr) == (0, "")
    assert desk.record("1")["parameters"] == {"a": 1, "b": 2, "c": 3, "text": "x y", "numbers": [1, 2.5]}
    assert desk.record("1")["values"] == {"sum": 3.5}


def test_each_job_finds_an_empty_folder_of_its_own(desk: Desk) -> None:
    desk.job("1")
    desk.job("2")
    left_behind = desk.folder / "analysis_results" / "1" / "old.txt"
    left_behind.parent.mkdir(parents=True)
    left_behind.touch()
    desk.analysis("assert not list(results.iterdir()); (results / 'new.txt').write_text(results.name)")
    assert desk.run().returncode == 0
    files = sorted(str(path.relative_to(desk.folder)) for path in (desk.folder / "analysis_results").glob("*/*"))
    assert files == [f"analysis_results/{name}/{file}" for name in "12" for file in ("job.json", "new.txt")]


def test_nothing_is_written_into_the_folder_of_jobs(desk: Desk) -> None:
    desk.job("1")
    inside = desk.folder / "jobs" / "analysis.py"
    inside.write_text("def analyse(job, parameters, results):\n    parameters.clear()\n")
    assert desk.run("jobs/analysis.py", "jobs").returncode == 0
    assert sorted(path.name for path in inside.parent.iterdir()) == ["1.json", "analysis.py"]
    refused = subprocess.run(
        [sys.executable, PIPELINE / "run_analysis.py", "analysis.py", "."],
        cwd=inside.parent,
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 2
    assert "results are written into the folder that this is started in; start it elsewhere" in refused.stderr


def test_a_job_that_fails_is_named_at_the_end_and_the_others_are_done(desk: Desk) -> None:
    for name in ("1", "2", "3"):
        desk.job(name, asset_name=[f"asset {name}"])
    desk.analysis("assert job.asset_name != ['asset 2'], 'no trials'")
    (desk.folder / "jobs" / "4.json").write_text("{")
    done = desk.run()
    assert done.returncode == 1
    first, second, third = done.stderr.splitlines()[-3:]
    assert first == "error: 2 of 4 jobs failed:"
    assert second == "  2 (asset 2): AssertionError: no trials"
    assert third.startswith("  4: ValidationError: 1 validation error")
    assert {path.parent.name for path in (desk.folder / "analysis_results").glob("*/job.json")} == {"1", "3"}


@pytest.mark.parametrize(
    "raised", ["KeyboardInterrupt()", "GeneratorExit()", "SystemExit(0)", "__import__('asyncio').CancelledError()"]
)
def test_whatever_one_job_raises_the_others_are_done(desk: Desk, raised: str) -> None:
    desk.analysis(f"\n    if job.asset_name == ['b']:\n        raise {raised}")
    for name in "abc":
        desk.job(name, asset_name=[name])
    done = desk.run()
    assert done.returncode == 1
    kind = raised.partition("(")[0] if "import" not in raised else "CancelledError"
    assert f"b (b): {kind}" in done.stderr.splitlines()[-1]
    assert {path.parent.name for path in desk.folder.glob("analysis_results/*/job.json")} == {"a", "c"}


def test_a_group_of_errors_is_named_by_the_first_of_them(desk: Desk) -> None:
    desk.analysis("raise ExceptionGroup('unhandled errors in a TaskGroup', [ValueError('no licks')])")
    desk.job("a")
    assert desk.run().stderr.splitlines()[-1] == "error: job a (a): ValueError: no licks"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("none.py", "jobs"), "error: none.py: no such Python file; give the file that has the function analyse"),
        (("analysis.py", "none"), "error: none: no such folder; give a folder of job files, such as results/0"),
        (("analysis.py", "empty"), "error: empty: no job files (*.json) in it"),
        (("empty.py", "jobs"), "error: empty.py: no function analyse(job, parameters, results); see docs/pipeline.md"),
        (("analysis.py", "jobs", "--set", "x"), "error: --set: 'x' is not name=value"),
        (("analysis.py", "jobs", "--set", "x=1", "x=2"), "error: --set: x is given twice; keep one"),
    ],
)
def test_what_no_job_can_do_is_one_sentence_and_exit_code_2(
    desk: Desk, arguments: tuple[str, ...], sentence: str
) -> None:
    desk.job("1")
    (desk.folder / "empty").mkdir()
    (desk.folder / "empty.py").touch()
    done = desk.run(*arguments)
    assert (done.returncode, done.stderr) == (2, f"{sentence}\n")
    assert not (desk.folder / "analysis_results").exists()


def test_numbers_of_numpy_and_what_is_no_number_go_into_the_record_as_json(desk: Desk) -> None:
    desk.job("1")
    desk.analysis(
        "import numpy as np; "
        "return {'a': np.float32(0.5), 'b': np.arange(3), 'c': float('nan'), 'd': np.inf, 'e': results}"
    )
    assert desk.run().returncode == 0
    folder = str(desk.folder / "analysis_results" / "1")
    assert desk.record("1")["values"] == {"a": 0.5, "b": [0, 1, 2], "c": None, "d": "inf", "e": folder}
    assert "numpy" in desk.record("1")["versions"]


def test_an_analysis_may_go_into_its_results_folder(desk: Desk) -> None:
    for name in ("1", "2"):
        desk.job(name)
    desk.analysis("import os; os.chdir(results); open('here.txt', 'w').close()")
    done = desk.run()
    assert (done.returncode, done.stderr) == (0, "")
    files = sorted(str(path.relative_to(desk.folder)) for path in (desk.folder / "analysis_results").glob("*/*"))
    assert files == [f"analysis_results/{name}/{file}" for name in "12" for file in ("here.txt", "job.json")]


def test_the_table_holds_what_json_can_and_a_file_cannot(desk: Desk) -> None:
    desk.job("1")
    desk.analysis("return {'low': float('-inf'), 'half': '\\ud800', 'sum': '-1+1'}")
    assert desk.run().returncode == 0
    done = desk.run("analysis_results", script="collect.py")
    assert (done.returncode, done.stderr) == (0, "")
    with (desk.folder / "table.csv").open(newline="", encoding="utf-8") as file:
        [row] = csv.DictReader(file)
    assert (row["low"], row["half"], row["sum"]) == ("-inf", "\\ud800", "'-1+1")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "error: jobs: no job is done in it; give the folder that run_analysis.py wrote"),
        ("{", "error: jobs/1/job.json: not one record of a job; run that job again"),
        ("", "error: jobs/1/job.json: not one record of a job; run that job again"),
    ],
)
def test_what_cannot_be_collected_is_one_sentence(desk: Desk, text: str | None, sentence: str) -> None:
    desk.job("1")
    if text is not None:
        (desk.folder / "jobs" / "1").mkdir()
        (desk.folder / "jobs" / "1" / "job.json").write_text(text)
    done = desk.run("jobs", script="collect.py")
    assert (done.returncode, done.stderr) == (2, f"{sentence}\n")
    assert not (desk.folder / "table.csv").exists()


def test_the_table_has_a_row_a_job_and_keeps_columns_of_one_name_apart(desk: Desk) -> None:
    desk.job("2", distributed_parameters={"method": "b"}, group_metadata={"subject": "7"})
    desk.job("1", distributed_parameters={"method": "a"}, file_location=["s3://b/a/1.nwb", "s3://b/a/2.nwb"])
    desk.analysis("return {'method': '=1+1', 'job': 5} if parameters['method'] == 'a' else {'list': [1, 'é']}")
    assert desk.run().returncode == 0
    assert desk.run("analysis_results", script="collect.py").returncode == 0
    with (desk.folder / "table.csv").open(newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert first["job"] == "1"
    assert first["file_location"] == "s3://b/a/1.nwb; s3://b/a/2.nwb"
    assert (first["parameters.method"], first["method"], first["values.job"]) == ("a", "'=1+1", "5")
    assert (second["group.subject"], second["list"], second["method"]) == ("7", '[1, "é"]', "")


def test_the_job_array_of_the_documentation_analyses_every_worker_folder(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "running.md").read_text()
    [script] = re.findall(r"```sh\n(#!/bin/bash\n#SBATCH.*?)```", page, re.DOTALL)
    assert len(script.splitlines()) <= 10
    dispatched = subprocess.run(
        [
            sys.executable,
            ROOT / "code" / "run_capsule.py",
            f"--input_directory={ROOT / 'data' / 'example'}",
            f"--metadata_catalog={ROOT / 'data' / 'example' / 'catalog.jsonl'}",
            '--docdb_query={"subject.subject_id": "774659"}',
            "--num_parallel_workers=3",
            f"--output_directory={tmp_path / 'my_jobs'}",
        ],
        capture_output=True,
        text=True,
    )
    assert dispatched.returncode == 0, dispatched.stderr
    Desk(tmp_path).analysis("return {'name': job.asset_name[0]}")
    (tmp_path / "pipeline").symlink_to(PIPELINE)
    activate = tmp_path / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.write_text(f'PATH="{Path(sys.executable).parent}:$PATH"\n')
    (tmp_path / "my_analysis.py").symlink_to(tmp_path / "analysis.py")
    for number in range(4):  # one more than there are folders
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=tmp_path,
            env={"SLURM_ARRAY_TASK_ID": str(number), "SLURM_SUBMIT_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    jobs = {path.stem for path in tmp_path.glob("my_jobs/*/*.json")}
    assert {path.parent.name for path in tmp_path.glob("analysis_results/*/job.json")} == jobs


def test_without_nextflow_and_java_it_says_how_to_get_them(tmp_path: Path) -> None:
    done = subprocess.run(
        ["/bin/bash", TESTS / "nextflow", "-version"], env={"PATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "error: neither nextflow nor java is installed; Nextflow needs Java 17 or newer" in done.stderr
    assert "pip install nextflow" in done.stderr

"""An analysis of jobs: what one job does is its own affair, and what is collected is what was asked for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CODE
from tests.faults.command import COMMAND, ROOT, SECONDS, Desk

pytestmark = pytest.mark.long


@pytest.mark.parametrize("code", [0, 2])
def test_a_job_whose_process_leaves_by_itself_fails_alone(desk: Desk, code: int) -> None:
    names = [desk.job(asset, f"os._exit({code})" if asset == "b" else "") for asset in "abc"]
    ended = desk.analyse()
    # 0: all jobs are done. 2: none could be run, which ends the pipeline.
    assert ended.code not in (0, 2, None), ended.stderr
    assert desk.done() == sorted({*names} - {names[1]})


def test_two_runs_in_one_folder_do_not_mix_files_of_one_with_the_record_of_the_other(desk: Desk) -> None:
    started, second = desk.folder / "started", desk.folder / "second"
    how = f"""
import time
from pathlib import Path
(results / "mark.txt").write_text(str(os.getpid()))
values["pid"] = os.getpid()
if Path({str(started)!r}).exists():
    Path({str(second)!r}).touch()
    time.sleep(3)
else:
    Path({str(started)!r}).touch()
    end = time.monotonic() + 6
    while not Path({str(second)!r}).exists() and time.monotonic() < end:
        time.sleep(0.02)
"""
    name = desk.job("a", how)
    first = desk.start_analysis()
    end = time.monotonic() + SECONDS
    while not started.exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    desk.analyse()
    desk.ended(first)
    folder = desk.folder / "analysis_results" / name
    assert (folder / "mark.txt").read_text() == str(json.loads((folder / "job.json").read_text())["values"]["pid"])


# Collecting


DAMAGED: dict[str, Any] = {
    "a list": lambda record: [record],
    "null": lambda record: None,
    "an empty object": lambda record: {},
    "no assets": lambda record: {name: record[name] for name in record if name != "asset_name"},
    "parameters that are a list": lambda record: {**record, "parameters": [1]},
    "values that are a number": lambda record: {**record, "values": 1},
    "a name that is a number": lambda record: {**record, "asset_name": 1},
}


def test_a_damaged_record_ends_no_collecting_with_a_traceback(desk: Desk) -> None:
    names = [desk.job("a"), desk.job("b")]
    assert desk.analyse().code == 0
    path = desk.folder / "analysis_results" / names[0] / "job.json"
    whole = json.loads(path.read_text())
    for shape, damage in DAMAGED.items():
        path.write_text(json.dumps(damage(whole)))
        ended = desk.collect()
        assert ended.code is not None
        assert "Traceback" not in ended.stderr, (shape, ended.stderr)


def test_two_returned_keys_that_are_one_in_json_are_not_silently_one(desk: Desk) -> None:
    desk.job("a", "values[1] = 'number'; values['1'] = 'text'")
    ended = desk.analyse()
    assert ended.code != 0
    assert desk.done() == []


def test_a_returned_name_is_no_formula_in_the_header_of_the_table(desk: Desk) -> None:
    desk.job("a", "values['=HYPERLINK(1)'] = 1; values['@x'] = 2")
    assert desk.analyse().code == 0
    desk.collect()
    assert [cell for cell in desk.table()[0] if cell.startswith(("=", "+", "-", "@"))] == []


# Nextflow

ENGINE = CODE.parent / "pipeline" / "tests" / "nextflow"
HAS_ENGINE = shutil.which("nextflow") or (ENGINE.with_name(".engine_cache") / "version").exists()


@pytest.mark.skipif(not HAS_ENGINE, reason="no Nextflow; `make pipeline-test` gets it")
def test_a_semicolon_inside_quotes_does_not_split_what_is_set(desk: Desk) -> None:
    desk.put("catalog.jsonl", json.dumps({"_id": "1", "name": "a", "location": "s3://b/a"}) + "\n")
    desk.write_analysis()
    words = [str(ENGINE), "run", str(ROOT / "pipeline" / "main.nf"), "-ansi-log", "false", "--input_files=data"]
    words += ["--analysis=analysis.py", "--metadata_catalog=catalog.jsonl", "--docdb_query={}"]
    path = f"{Path(COMMAND[0]).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [*words, '--set=note="first; second=2"'],
        cwd=desk.folder,
        env={**desk.environment, "PATH": path, "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=300,
    )
    records = [json.loads(path.read_text()) for path in desk.results.glob("analysis_results/*/job.json")]
    assert (done.returncode != 0) == (not records), done.stdout
    for record in records:
        assert record["parameters"]["note"].strip('"') == "first; second=2"
        assert "second" not in record["parameters"]

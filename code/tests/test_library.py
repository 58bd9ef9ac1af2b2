"""The public functions: from a notebook to jobs, the same as those of the command."""

from __future__ import annotations

import asyncio
import doctest
import json
import logging
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pandas as pd
import pytest

import job_dispatch as jd
from job_dispatch.messages import naming_flags
from tests.conftest import CODE, EXAMPLE

CATALOG = EXAMPLE / "catalog.jsonl"
PARAMETERS = {"fixed_parameters": {"name": "x"}, "parameter_grid": {"cutoff": [0.1, 0.2]}}


@pytest.fixture(autouse=True)
def _arguments_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("job_dispatch.messages._labels", None)


def files_of_the_example() -> jd.Files:
    return jd.locate(jd.select(jd.Catalog(CATALOG), subject="774659"), endings=[".nwb"])


def test_import_loads_nothing_heavy() -> None:
    script = "import job_dispatch, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], cwd=CODE, check=True, capture_output=True, text=True)
    assert not {"pandas", "boto3", "pydantic", "asyncio", "requests"} & set(loaded.stdout.split())


def test_every_public_name_is_there_and_documented() -> None:
    assert set(jd.__all__) <= set(dir(jd))
    assert [name for name in jd.__all__ if not getattr(jd, name).__doc__] == []


def test_jobs_are_byte_for_byte_those_of_the_command(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "analysis_parameters.json").write_text(json.dumps(PARAMETERS))
    command = [sys.executable, str(CODE / "run_capsule.py"), f"--metadata_catalog={CATALOG}", "--subject=774659"]
    places = [f"--input_directory={tmp_path / 'data'}", f"--output_directory={tmp_path / 'command'}"]
    subprocess.run([*command, "--file_extension=.nwb", *places], check=True, capture_output=True)
    jd.write(jd.plan(files_of_the_example(), PARAMETERS), tmp_path / "library")
    texts = [
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("*/*.json")}
        for folder in (tmp_path / "command", tmp_path / "library")
    ]
    assert texts[0] == texts[1]
    assert len(texts[0]) == 10


def test_results_are_data_frames_and_show_their_counts_in_a_notebook() -> None:
    files = files_of_the_example()
    jobs = jd.plan(files, PARAMETERS)
    cohort = files.cohort.to_pandas()
    assert set(cohort["subject"]) == {"774659"}
    assert list(cohort.columns)[:6] == ["name", "subject", "session", "project", "modality", "location"]
    assert len(files.to_pandas()) == 5
    assert len(jobs.to_pandas()) == len(jobs) == 10
    assert isinstance(jobs[0], jd.AnalysisDispatchModel)
    assert isinstance(files.skipped.to_pandas(), pd.DataFrame)
    assert "10 jobs" in jobs._repr_html_()
    assert "5 files of" in files._repr_html_()


def test_steps_work_in_a_running_event_loop_a_thread_and_a_process_and_twice() -> None:
    async def in_a_loop() -> int:
        return len(files_of_the_example().assets)

    expected = len(files_of_the_example().assets)
    assert asyncio.run(in_a_loop()) == expected
    with ThreadPoolExecutor(1) as threads, ProcessPoolExecutor(1) as processes:
        assert len(threads.submit(files_of_the_example).result().assets) == expected
        assert processes.submit(files_of_the_example).result() == files_of_the_example()


def test_progress_is_shown_elsewhere_than_in_a_terminal_where_it_is_asked_for(
    capfd: pytest.CaptureFixture[str],
) -> None:
    cohort = jd.select(jd.Catalog(CATALOG), subject="774659", progress=False)
    assert capfd.readouterr().err == ""
    jd.locate(cohort, endings=[".nwb"], progress=True)
    assert "listing files" in capfd.readouterr().err


def test_docdb_takes_host_and_version_from_the_environment_unless_they_are_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DOCDB_HOST", "docdb.example.org")
    monkeypatch.setenv("DOCDB_VERSION", "v2")
    assert (jd.DocDb().host, jd.DocDb().version) == ("docdb.example.org", "v2")
    given = jd.DocDb(host="other.example.org", version="v1")
    assert (given.host, given.version) == ("other.example.org", "v1")


INTERRUPTED = """
import sys, threading
import job_dispatch as jd

cohort = jd.select(jd.Catalog("records.jsonl"))
try:
    jd.locate(cohort, endings=".nwb")
except KeyboardInterrupt:
    print("interrupted", [one.name for one in threading.enumerate() if not one.daemon])
"""


def test_ctrl_c_ends_a_listing_that_waits_for_a_server_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text('{"_id": "1", "name": "a", "location": "s3://bucket/a"}\n')
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environment = {
            **os.environ,
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "PYTHONPATH": str(CODE),
        }
        process = subprocess.Popen(
            [sys.executable, "-c", INTERRUPTED], cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE
        )
        with silent.accept()[0], silent.accept()[0]:  # by obstore, and after a second by boto3
            process.send_signal(signal.SIGINT)
            # Else it asks again and again for 120 seconds, or waits for boto3 for a minute.
            said, _ = process.communicate(timeout=30)
    assert said == "interrupted ['MainThread']\n"
    assert [path.name for path in tmp_path.iterdir()] == ["records.jsonl"]


def test_results_can_be_pickled() -> None:
    jobs = jd.plan(files_of_the_example(), PARAMETERS)
    assert list(pickle.loads(pickle.dumps(jobs))) == list(jobs)


def test_an_error_names_arguments_and_the_command_flags() -> None:
    with pytest.raises(jd.RequestError) as raised:
        jd.select(jd.Catalog(CATALOG), latest="@created")
    assert str(raised.value).startswith("latest needs by:")
    with naming_flags({}):
        assert str(raised.value).startswith("--filter_latest needs --filter_by:")


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda _: jd.select(jd.Catalog(CATALOG), query=cast("str", 5)), "query: give a dict or a text, not int"),
        (lambda _: jd.select(jd.Catalog(CATALOG), subject="774659", sample=0), "sample must be a whole number from 1"),
        (lambda _: jd.plan(files_of_the_example(), max_jobs=0), "max_jobs must be a whole number from 1"),
        (
            lambda folder: jd.write(jd.plan(files_of_the_example()), folder, balance="bytes"),
            "balance: 'bytes' is neither",
        ),
    ],
    ids=["query", "sample", "max_jobs", "balance"],
)
def test_an_argument_that_means_nothing_is_refused(call: Callable[[Path], object], reason: str, tmp_path: Path) -> None:
    with pytest.raises(jd.RequestError) as raised:
        call(tmp_path / "results")
    assert str(raised.value).startswith(reason)
    assert not list(tmp_path.glob("results/*"))


def test_nothing_is_printed_and_nothing_outside_is_changed(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def outside() -> tuple[object, ...]:
        handlers = [signal.getsignal(number) for number in sorted(signal.valid_signals())]
        return dict(os.environ), handlers, logging.root.level, list(logging.root.handlers), Path.cwd()

    before = outside()
    jd.write(jd.plan(files_of_the_example()), tmp_path / "results", workers=3)
    assert capfd.readouterr() == ("", "")
    assert outside() == before
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["0", "1", "2"]


def test_zipped_lists_make_sets_element_by_element_and_cross_with_the_others() -> None:
    jobs = jd.plan(
        files_of_the_example(),
        {
            "distributed_parameters": [{"method": "a"}, {"method": "b"}],
            "parameter_grid": {"cutoff": [1, 2]},
            "parameter_zip": {"low": [1, 2], "high": [10, 20]},
        },
    )
    sets = [job.distributed_parameters for job in jobs[:8]]
    assert sets[:3] == [
        {"method": "a", "low": 1, "high": 10, "cutoff": 1},
        {"method": "a", "low": 1, "high": 10, "cutoff": 2},
        {"method": "a", "low": 2, "high": 20, "cutoff": 1},
    ]
    assert len(jobs) == 40


def test_zipped_lists_of_unequal_length_are_named() -> None:
    with pytest.raises(jd.RequestError) as raised:
        jd.plan(files_of_the_example(), {"parameter_zip": {"low": [1, 2], "high": [10]}})
    assert str(raised.value).splitlines() == [
        "parameters: the lists of parameter_zip must have the same length",
        "  low: 2 values",
        "  high: 1 value",
    ]


@pytest.mark.parametrize(
    "name", ["Catalog", "DocDb", "Folder", "select", "locate", "plan", "write", "run", "status", "read_results"]
)
def test_the_example_of_a_public_name_does_what_it_shows(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(EXAMPLE, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    found = doctest.DocTestFinder(recurse=False).find(getattr(jd, name), name, globs={})
    runner = doctest.DocTestRunner()
    for test in found:
        runner.run(test)
    assert runner.summarize(verbose=False).attempted > 0
    assert runner.failures == 0

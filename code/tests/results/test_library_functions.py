"""`run`, `status` and `read_results` as Python functions: in a notebook, in a thread, and interrupted."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from job_dispatch.messages import RequestError, ServiceError
from job_dispatch.results import library
from tests.conftest import wait_until
from tests.results.conftest import Desk

# The process that runs the jobs: the parent of the one that minds a job.
RUN = "int(Path(f'/proc/{os.getppid()}/stat').read_text().rpartition(')')[2].split()[1])"


@pytest.fixture(autouse=True)
def _in_the_folder_of_the_desk(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk.folder)


@pytest.mark.long
def test_run_works_in_a_thread_and_in_an_event_loop_and_leaves_everything_else_of_the_process_alone(
    desk: Desk, capfd: pytest.CaptureFixture[str]
) -> None:
    desk.job("good")
    desk.job("bad", "raise ValueError('no licks')")
    other = subprocess.Popen(["true"])
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)]
    handlers, environment = list(logging.getLogger().handlers), dict(os.environ)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(library.run, "analysis.py", "results", workers=2).result()
    assert first.counts == {"done": 1, "failed": 1, "running": 0, "left": 0}
    assert first.failed[0].reason == "ValueError: no licks"

    async def in_a_loop() -> dict[str, int]:
        return library.run(Path("analysis.py"), Path("results"), again=True).counts

    assert asyncio.run(in_a_loop()) == first.counts
    assert sorted(desk.started()) == ["bad", "bad", "good", "good"]
    assert other.wait() == 0  # its end was left for this process to see
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)] == before
    assert (logging.getLogger().handlers, dict(os.environ)) == (handlers, environment)
    assert capfd.readouterr() == ("", "")
    assert (desk.folder / "analysis_results" / "results.html").exists()
    assert len(desk.table()) == 2


@pytest.mark.long
def test_run_takes_what_the_flags_of_the_verb_take(desk: Desk) -> None:
    job = desk.job("a", fixed_parameters={"cutoff": 1, "name": "x"})
    slow = desk.job("slow", "time.sleep(1000)")
    library.run("analysis.py", "results", set={"cutoff": np.int64(2)}, timeout=0.01, output="elsewhere")
    stands = library.status("elsewhere")
    assert stands.counts == {"done": 1, "failed": 1, "running": 0, "left": 0}
    rows = {row.job: row for row in stands.results.rows}
    assert rows[job].parameters == {"cutoff": 2, "name": "x"}
    assert rows[slow].reason == "took longer than --timeout=0.01 minutes"
    desk.job("new")
    library.run("analysis.py", "results", only="new", set={"cutoff": 2}, output="elsewhere")
    assert desk.started().count("slow") == 1
    assert desk.started().count("new") == 1


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        (("none.py", "results"), {}, "none.py: no such Python file; give the file that has the function analyse"),
        (("analysis.py", "none"), {}, "none: no such folder; give the output folder of a dispatch, such as results"),
        (("analysis.py",), {}, "run: no folder of jobs; give the output folder of a dispatch"),
        (("broken.py", "results"), {}, "broken.py: cannot be imported: ModuleNotFoundError"),
        (("analysis.py", "results"), {"workers": 0}, "run: workers=0 is not above 0"),
        (("analysis.py", "results"), {"timeout": math.nan}, "run: timeout=nan is not above 0"),
        (("analysis.py", "results"), {"only": "old"}, "run: only is 'failed' or 'new', and not both only and again"),
    ],
)
def test_what_cannot_be_run_is_a_request_error(
    desk: Desk, arguments: tuple[str, ...], options: dict[str, object], error: str
) -> None:
    desk.job("a")
    Path("broken.py").write_text("import no_such_package\n")
    with pytest.raises(RequestError) as raised:
        library.run(*arguments, **options)  # type: ignore[arg-type]
    assert error in str(raised.value)


def test_a_process_of_jobs_that_is_killed_is_a_service_error(desk: Desk) -> None:
    desk.job("a", "os.kill(RUN, signal.SIGKILL)".replace("RUN", RUN))
    with pytest.raises(ServiceError, match="the process that runs the jobs ended early: -9"):
        library.run("analysis.py", "results")
    assert library.status().counts["done"] == 0


def test_an_interrupted_run_ends_its_jobs_and_what_is_done_stays(desk: Desk) -> None:
    desk.job("done")
    desk.job("sleeps", "(Path('pid')).write_text(str(os.getpid())); time.sleep(1000)")

    def interrupt() -> None:
        wait_until(lambda: list(desk.folder.glob("analysis_results/*/job.json")) and (desk.folder / "pid").exists())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        library.run("analysis.py", "results", workers=2)
    thread.join()
    assert not Path(f"/proc/{(desk.folder / 'pid').read_text()}").exists()
    assert library.status().counts == {"done": 1, "failed": 0, "running": 0, "left": 1}


def test_jobs_end_with_the_process_that_called_run_also_if_that_is_killed(desk: Desk) -> None:
    desk.job("a", "(Path('pid')).write_text(str(os.getpid())); time.sleep(1000)")
    script = "from job_dispatch.results.library import run; run('analysis.py', 'results')"
    caller = subprocess.Popen([sys.executable, "-c", script])
    wait_until(lambda: (desk.folder / "pid").exists() and (desk.folder / "pid").read_text())
    caller.kill()
    caller.wait()
    wait_until(lambda: not Path(f"/proc/{(desk.folder / 'pid').read_text()}").exists())
    wait_until(lambda: library.status().counts == {"done": 0, "failed": 0, "running": 0, "left": 1})


def test_a_data_frame_of_results_has_numbers_date_times_days_and_values_as_they_were_returned(desk: Desk) -> None:
    traits = {"subject": ["7"], "session": ["2025-06-07T22:31:15-07:00"]}
    desk.job("a", "values.update(rate=1.5, peak=float('inf'), name='=x', trace=[1, 2], day='mine')", **traits)
    desk.job("b", "values.update(rate=2, peak=3.5)", subject=["7"], session=["2025-06-07T22:31:15.5Z"])
    two = {"asset_name": ["c", "d"], "session": ["2025-06-07T22:31:15Z", "2025-06-08T22:31:15Z"]}
    desk.job("c", "raise ValueError('no licks')", **two)
    library.run("analysis.py", "results")
    table = library.read_results()
    first, second, third = (table.iloc[number] for number in range(3))
    assert list(table.columns[:6]) == ["job", "status", "subject", "session", "day", "project"]
    assert list(table["status"]) == ["done", "done", "failed"]
    assert isinstance(table["session"].dtype, pd.DatetimeTZDtype)
    assert first["session"] == pd.Timestamp("2025-06-08T05:31:15Z")
    assert (first["day"], second["day"]) == (date(2025, 6, 7), date(2025, 6, 7))
    assert pd.isna(third["session"])
    assert pd.isna(third["day"])
    assert table["rate"].dtype == table["peak"].dtype == table["seconds"].dtype == float
    assert (first["peak"], first["name"], first["trace"], first["values.day"]) == (math.inf, "=x", [1, 2], "mine")
    assert table["attempts"].sum() == 3
    assert third["reason"].startswith("ValueError: no licks")
    assert library.status().to_pandas().equals(table)


def test_a_status_shows_in_a_notebook_what_the_verb_prints(desk: Desk) -> None:
    desk.job("<a>", "raise ValueError('no licks')")
    stands = library.run("analysis.py", "results")
    assert repr(stands) == desk.call("status").stdout.rstrip("\n")
    assert stands._repr_html_().startswith("<pre>1 job in ")
    assert "(&lt;a&gt;)" in stands._repr_html_()
    desk.job("b")
    assert library.status().estimate is None

"""`job-dispatch run`: whatever a job does, it ends alone and leaves one record."""

from __future__ import annotations

import hashlib
import os
import pty
import re
import signal
import socket
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from job_dispatch.results.gathering import Results, Row, Status
from job_dispatch.results.status import summary
from tests.conftest import wait_until
from tests.results.conftest import COMMAND, Desk, ended


def test_a_job_that_is_done_leaves_its_files_what_it_printed_and_a_record_of_how_it_was_made(desk: Desk) -> None:
    before = datetime.now(UTC)
    job = desk.job(
        "a",
        "print('licks counted'); (results / 'plot.txt').write_text('x'); values['threshold'] = parameters['threshold']",
        distributed_parameters={"threshold": 0.5},
        subject=["774659"],
        session=["2025-06-07T14:31:15Z"],
        project=["Platform"],
        modality=[["behavior", "pophys"]],
    )
    done = desk.run()
    assert done.code == 0
    assert {path.name for path in desk.place(job).iterdir()} == {"plot.txt", "log.txt", "job.json", "processing.json"}
    assert desk.log(job) == "licks counted\n"
    record = desk.record(job)
    assert record["values"] == {"letters": 1, "threshold": 0.5}
    assert record["parameters"]["threshold"] == 0.5
    assert (record["subject"], record["session"]) == ("774659", "2025-06-07T14:31:15Z")
    assert (record["project"], record["modality"]) == ("Platform", "behavior, pophys")
    assert before <= datetime.fromisoformat(record["start"]) <= datetime.now(UTC)
    assert 0 < record["seconds"] < 60
    assert record["peak_memory_bytes"] > 1_000_000
    assert record["host"] == socket.gethostname()
    assert record["attempt"] == 1
    assert record["files"] == {"analysis.py": hashlib.sha256((desk.folder / "analysis.py").read_bytes()).hexdigest()}
    assert record["versions"]["python"].startswith("3.")


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("raise ValueError('no licks')", "ValueError: no licks"),
        ("raise SystemExit('the analysis left')", "SystemExit: the analysis left"),
        ("os._exit(0)", "the process ended with exit code 0 before analyse returned"),
        ("os._exit(2)", "the process ended with exit code 2 before analyse returned"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "crashed (SIGSEGV); log.txt shows where"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed (SIGKILL), most likely because memory ran out"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt: "),
        ("raise GeneratorExit", "GeneratorExit: "),
        ("import asyncio; raise asyncio.CancelledError", "CancelledError: "),
        ("values = [1]", "analyse returned list; it must return a dict of values, or None"),
        ("(results / 'failed.json').mkdir()", "the analysis wrote failed.json, which is a record of the job;"),
        ("(results / 'job.json').mkdir(); os._exit(0)", "the process ended with exit code 0 before analyse returned"),
        ("(results / 'job.json').write_text('{}')", "the analysis wrote job.json, which is a record of the job;"),
    ],
    ids=[
        "raise",
        "exit",
        "_exit 0",
        "_exit 2",
        "crash",
        "killed",
        "interrupt",
        "generator",
        "cancelled",
        "no dict",
        "folder in place of a record",
        "folder, and exit",
        "record",
    ],
)
@pytest.mark.long
def test_a_job_that_fails_leaves_its_reason_and_its_log_and_the_others_are_done(
    desk: Desk, how: str, reason: str
) -> None:
    if how == "values = [1]":
        (desk.folder / "analysis.py").write_text(
            "def analyse(job, parameters, results):\n    return [1] if parameters['how'] else {}\n"
        )
    failing, other = desk.job("failing", f"print('I begin'); {how}"), desk.job("other")
    done = desk.run("--workers=1")
    assert done.code == 4
    assert desk.record(failing)["reason"].startswith(reason)
    assert not (desk.place(failing) / "job.json").exists()
    if how != "values = [1]":
        assert "I begin" in desk.log(failing)
    assert (desk.place(other) / "job.json").exists()
    assert f"{failing} (failing): {reason}" in done.stdout
    assert done.stdout.startswith("1 done, 1 failed of 2 jobs\n")


def test_a_job_whose_record_cannot_be_written_failed_and_the_log_names_it_with_the_reason(desk: Desk) -> None:
    job = desk.job("a", "results.rmdir(); results.touch()")
    done = desk.run()
    assert done.code == 4
    assert f"{job}: its record cannot be written: [Errno 17] File exists" in done.stderr
    assert desk.counts() == {"failed": 1}


def test_a_failed_job_names_the_line_of_the_users_own_file(desk: Desk) -> None:
    (desk.folder / "helpers.py").write_text("import json\n\n\ndef read():\n    return json.loads('{')\n")
    job = desk.job("a", "import helpers; helpers.read()")
    assert desk.run().code == 4
    assert desk.record(job)["where"] == "helpers.py:5 in read"


def test_a_segmentation_fault_leaves_the_place_in_the_log(desk: Desk) -> None:
    job = desk.job("a", "os.kill(os.getpid(), signal.SIGSEGV)")
    desk.run()
    assert "Fatal Python error: Segmentation fault" in desk.log(job)
    assert "in analyse" in desk.log(job)


def test_a_job_that_takes_too_long_is_ended_and_the_flag_takes_fractions_of_minutes(desk: Desk) -> None:
    job = desk.job("a", "time.sleep(1000)")
    done = desk.run("--timeout=0.01")
    assert done.code == 4
    assert desk.record(job)["reason"] == "took longer than --timeout=0.01 minutes"


@pytest.mark.long
def test_of_what_a_job_prints_the_first_and_the_last_five_megabytes_are_kept(desk: Desk) -> None:
    job = desk.job("a", "[print(number, 90 * 'x') for number in range(200_000)]")
    assert desk.run().code == 0
    path = desk.place(job) / "log.txt"
    assert 10_000_000 <= path.stat().st_size < 10_200_000
    lines = path.read_text().splitlines()
    assert lines[0].startswith("0 x")
    assert lines[-1].startswith("199999 x")
    assert sum("bytes are left out here" in line for line in lines) == 1


@pytest.mark.skipif(not Path("/proc/self/ns").exists(), reason="only Linux gives orphans to another process than init")
@pytest.mark.parametrize("session", [False, True], ids=["child", "in a session of its own"])
def test_children_that_a_job_leaves_behind_are_ended_with_it(desk: Desk, session: bool) -> None:
    job = desk.job("a", f"values['pid'] = subprocess.Popen(['sleep', '1000'], start_new_session={session}).pid")
    assert desk.run().code == 0
    assert not Path(f"/proc/{desk.record(job)['values']['pid']}").exists()


def test_modules_and_folders_beside_the_analysis_can_be_imported_and_count_among_its_files(desk: Desk) -> None:
    (desk.folder / "tools").mkdir()
    (desk.folder / "tools" / "__init__.py").write_text("")
    (desk.folder / "tools" / "licks.py").write_text("NUMBER = 7\n")
    job = desk.job("a", "from tools import licks; values['number'] = licks.NUMBER")
    assert desk.run().code == 0
    assert desk.record(job)["values"]["number"] == 7
    assert set(desk.record(job)["files"]) == {"analysis.py", "tools/__init__.py", "tools/licks.py"}


def test_parameters_win_in_the_order_fixed_then_set_then_distributed(desk: Desk) -> None:
    job = desk.job("a", fixed_parameters={"a": 1, "b": 1, "c": 1}, distributed_parameters={"c": 3})
    assert desk.run("--set", "b=2", "c=2", "text=x y", "--set", "numbers=[1, 2.5]").code == 0
    assert desk.record(job)["parameters"] == {"a": 1, "b": 2, "c": 3, "text": "x y", "numbers": [1, 2.5]}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("run", "none.py", "results"), "error: none.py: no such Python file; give the file that has the function"),
        (("run", "analysis.py", "none"), "error: none: no such folder; give the output folder of a dispatch"),
        (("run", "analysis.py", "empty"), "error: empty: no job files (*.json) in it; give the output folder"),
        (
            ("run", "broken.py", "results"),
            "broken.py: cannot be imported: ModuleNotFoundError: No module named 'no_such",
        ),
        (("run", "without.py", "results"), "without.py: no function analyse(job, parameters, results); see"),
        (("run", "analysis.py", "results", "--set", "x"), "error: --set: 'x' is not name=value"),
        (("run", "analysis.py", "results", "--set", "x=[1e999]"), "error: --set: 1e999 is infinity, which JSON cannot"),
        (("run", "analysis.py", "results", "--output", "broken.py"), "error: --output: broken.py is no folder; give"),
        (("status", "none"), "error: none: no such folder; give the one that `job-dispatch run` wrote"),
        (("collect", "empty"), "error: empty: no job in it; give the folder that `job-dispatch run` wrote"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
@pytest.mark.long
def test_what_cannot_be_done_is_one_sentence_and_exit_code_2(
    desk: Desk, arguments: tuple[str, ...], error: str
) -> None:
    desk.job("a")
    (desk.folder / "empty").mkdir()
    (desk.folder / "broken.py").write_text("import no_such_package\n")
    (desk.folder / "without.py").write_text("")
    done = desk.call(*arguments)
    assert done.code == 2
    assert error in done.error
    assert not list(desk.folder.glob("analysis_results/*/*.json"))


def test_an_analysis_that_cannot_be_imported_any_more_leaves_earlier_results(desk: Desk) -> None:
    job = desk.job("a")
    assert desk.run().code == 0
    (desk.folder / "analysis.py").write_text("import no_such_package\n")
    assert desk.run().code == 2
    assert desk.record(job)["values"] == {"letters": 1}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.long
def test_a_signal_ends_all_jobs_at_once_and_what_is_done_stays(desk: Desk, number: signal.Signals) -> None:
    done = desk.job("done")
    desk.job("sleeps", "subprocess.Popen(['sleep', '1000']); time.sleep(1000)")
    desk.job("waits", "time.sleep(1000)")
    process = desk.start("run", "analysis.py", "results", "--workers=3")
    wait_until(lambda: (desk.place(done) / "job.json").exists() and len(desk.started()) == 3)
    running = [int(pid) for pid in children_of_all(process.pid)]
    process.send_signal(number)
    run = ended(process)
    assert run.code == 128 + number
    name = "Ctrl-C (SIGINT)" if number == signal.SIGINT else number.name
    assert run.error == f"error: stopped by {name}; 1 done, 2 left; start it again to run the rest"
    wait_until(lambda: not any(map(lives, running)))
    assert desk.counts() == {"done": 1, "left": 2}


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def children_of_all(pid: int) -> list[int]:
    """Return all processes below a process."""
    own = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [one for child in own for one in (child, *children_of_all(child))]


def test_what_an_analysis_prints_and_logs_is_in_its_log_alone(desk: Desk) -> None:
    job = desk.job("a", "import logging; logging.basicConfig(level='INFO'); logging.info('mine'); print('printed')")
    done = desk.run()
    assert "mine" not in done.stdout + done.stderr
    assert desk.log(job).splitlines() == ["INFO:root:mine", "printed"]


def test_jobs_run_so_many_at_a_time(desk: Desk) -> None:
    barrier = "Path(job.asset_name[0]).touch(); exec(\"while len(list(Path().glob('j?'))) < 3: time.sleep(0.01)\")"
    for name in ("j1", "j2", "j3"):
        desk.job(name, barrier)
    assert desk.run("--workers=3", "--timeout=1").code == 0


def test_in_a_terminal_a_line_tells_how_many_jobs_are_done_failed_and_left_and_the_time_left(desk: Desk) -> None:
    desk.job("good")
    desk.job("bad", "raise ValueError")
    terminal, its_end = pty.openpty()
    command = [*COMMAND, "run", "analysis.py", "results", "--workers=1"]
    subprocess.run(command, cwd=desk.folder, stdout=subprocess.DEVNULL, stderr=its_end, check=False)
    shown = os.read(terminal, 1 << 16).decode()
    assert re.search(r"(1 done, 0 failed|0 done, 1 failed), 1 left, about [0-9.]+ s", shown)
    assert "1 done, 1 failed, 0 left, about 0.0 s" in shown


def test_the_paragraph_at_the_end_of_a_run_gives_the_first_five_failures_and_the_page() -> None:
    rows = [Row(f"job-{number}", Status.FAILED, Path(), (f"a{number}",), reason="ValueError") for number in range(7)]
    lines = summary(Results(Path(), (*rows, Row("done", Status.DONE, Path()))))
    assert lines == [
        "1 done, 7 failed of 8 jobs",
        *(f"  job-{number} (a{number}): ValueError" for number in range(5)),
        "  … and 2 more",
    ]

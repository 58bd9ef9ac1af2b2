"""A run that is ended says truly what became of its jobs, clears up, and is never in the way of the next one."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path

import pytest

from tests.conftest import wait_until
from tests.faults.command import Desk, Ended, Record, assert_no_crash, assert_refused
from tests.gateway import Fault, Gateway

pytestmark = pytest.mark.long

RECORDS: list[Record] = [{"_id": f"{n:02}", "name": f"n{n:02}", "location": f"s3://b/{n:02}"} for n in range(20)]
# Sends signals after a file or folder was moved to its place; SIGKILL to the process that waits for this one as well.
AFTER_A_MOVE = """
import os, signal, sys
from pathlib import Path
_waiting, _rename = os.getpid(), os.rename
def rename(source, target, **options):
    _rename(source, target, **options)
    if os.getpid() != _waiting and IS_IT:
        if NUMBER == signal.SIGKILL:
            os.kill(_waiting, NUMBER)
        os.kill(os.getpid(), NUMBER)
os.rename = rename
"""
# When the summary is printed, all jobs are in place.
AT_SUMMARY = """
import builtins, os, signal
_print = print
def show(*words, **options):
    if str(words[0]).startswith("matched"):
        os.kill(os.getpid(), signal.SIGTERM)
    _print(*words, **options)
builtins.print = show
"""


def after_a_move(is_it: str, number: signal.Signals) -> str:
    """Lines that send a signal after the move of `source` to `target` of which an expression is true."""
    return AFTER_A_MOVE.replace("IS_IT", is_it).replace("NUMBER", f"signal.{number.name}")


# Notes


def test_a_run_that_is_ended_when_all_jobs_are_in_place_says_so_however_long_its_path_is(desk: Desk) -> None:
    deep = desk.folder.joinpath(*(18 * [200 * "x"]))
    desk.before.append(AT_SUMMARY)
    ended = desk.run(RECORDS, f"--output_directory={deep}")
    assert_no_crash(ended)
    jobs = list(deep.glob("[0-9]*/*.json"))
    assert ended.code == 128 + signal.SIGTERM, ended.stderr
    assert ("no job is written" in ended.error) == (not jobs), (len(jobs), ended.error)


# Reports

FILES = {"jobs.csv", "skipped.csv", "report.html", "manifest.json"}
AT_TABLE = "Path(target).name == 'jobs.csv'"


def changed(report: Path) -> list[str]:
    """Return the files of a report that are not those of its manifest."""
    digests = json.loads((report / "manifest.json").read_text())["sha256"]
    return [name for name, one in digests.items() if hashlib.sha256((report / name).read_bytes()).hexdigest() != one]


@pytest.fixture
def report(desk: Desk, tmp_path: Path) -> Path:
    """A whole report of a run on fewer records."""
    report = tmp_path / "report"
    assert desk.run(RECORDS[:-1], f"--report_directory={report}").code == 0
    assert changed(report) == []
    return report


def reported(desk: Desk, report: Path, *flags: str, results: str = "results") -> Ended:
    return desk.run(RECORDS, f"--report_directory={report}", f"--output_directory={desk.folder / results}", *flags)


def test_sigterm_while_a_report_is_moved_leaves_no_new_file_beside_old_ones(desk: Desk, report: Path) -> None:
    desk.before.append(after_a_move(AT_TABLE, signal.SIGTERM))
    ended = reported(desk, report, "--overwrite=1")
    assert ended.code == 128 + signal.SIGTERM, ended.stderr
    desk.before.clear()
    assert changed(report) == []
    assert reported(desk, report, results="others").code == 0


def test_sigkill_while_a_report_is_moved_leaves_nothing_for_good(desk: Desk, report: Path) -> None:
    desk.before.append(after_a_move(AT_TABLE, signal.SIGKILL))
    ended = reported(desk, report, "--overwrite=1")
    assert ended.code == -signal.SIGKILL, ended.stderr
    desk.before.clear()
    assert reported(desk, report, "--overwrite=1").code == 0
    assert {path.name for path in report.iterdir()} == FILES
    assert changed(report) == []


# Signals


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize(
    ("number", "is_to_child"),
    [(40, True), (50, True), (signal.SIGQUIT, False), (signal.SIGUSR1, False)],
    ids=["40 to the child", "50 to the child", "SIGQUIT", "SIGUSR1"],
)
def test_every_signal_ends_a_run_with_a_sentence_and_its_folder_cleared(
    desk: Desk, gateway: Gateway, number: int, is_to_child: bool
) -> None:
    gateway.faults.append(Fault(delay=600))
    desk.before.append("import resource\nresource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n")
    process = desk.start(None)
    wait_until(lambda: gateway.requests)
    os.kill(children(process.pid)[0] if is_to_child else process.pid, number)
    ended = desk.ended(process)
    assert_no_crash(ended)
    assert ended.error, ended.stderr
    assert not list(desk.results.glob(".dispatch*"))


# Services


def test_an_answer_of_docdb_that_cannot_be_decompressed_is_not_told_as_no_connection(
    desk: Desk, gateway: Gateway
) -> None:
    gateway.faults = [Fault(200, b"\x1f\x8b garbage", {"Content-Encoding": "gzip"})] * 9
    ended = desk.run(None)
    assert_refused(ended)
    assert "no connection" not in ended.error


def test_too_few_file_descriptors_are_not_told_as_no_trusted_connection(desk: Desk, gateway: Gateway) -> None:
    desk.before.append("import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (10, 10))\n")
    ended = desk.run(None)
    assert_refused(ended)
    assert "trusted" not in ended.error

"""A run that is stopped leaves all of its jobs or none, at once, and never in the way of the next run."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import gzip
import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from job_dispatch import main
from tests.conftest import CODE, S3, World, make_record, wait_until
from tests.gateway import Fault, Gateway
from tests.s3_front import S3Front

pytestmark = pytest.mark.long

MANY, FEW = 600, 20
SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
STOPS = pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)


def called(number: signal.Signals) -> str:
    """How the command calls a signal."""
    return "Ctrl-C (SIGINT)" if number == signal.SIGINT else number.name


def catalog_of(path: Path, count: int) -> Path:
    records = ({"_id": f"{n:05}", "name": f"asset-{n:05}", "location": f"s3://bucket/{n:05}"} for n in range(count))
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@dataclass
class Ended:
    """A run that has ended: `code` is negative where a signal ended it, `errors` are its lines of an error."""

    code: int
    stderr: str
    errors: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.errors = [line for line in self.stderr.splitlines() if line.startswith("error: ")]


@dataclass
class Desk:
    """A folder in which runs on catalogs write into `output`."""

    folder: Path

    @property
    def output(self) -> Path:
        return self.folder / "results"

    def start(self, catalog: Path, *flags: str, script: Path = CODE / "run_capsule.py") -> subprocess.Popen[str]:
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        return subprocess.Popen(
            [sys.executable, str(script), *self._flags(catalog), *flags],
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def _flags(self, catalog: Path) -> list[str]:
        directories = [f"--input_directory={self.folder / 'data'}", f"--output_directory={self.output}"]
        return [*directories, f"--metadata_catalog={catalog}", "--docdb_query={}"]

    def run(self, catalog: Path, *flags: str) -> Ended:
        """Run to the end, inside this process: a run before or after the one that is stopped."""
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        stderr = io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(stderr):
            code = main.main([*self._flags(catalog), *flags])
        return Ended(code, stderr.getvalue())

    def run_patched(self, patch: str, catalog: Path, *flags: str) -> Ended:
        """Run with the lines of `patch` executed first; they can end the process at a moment of their choice."""
        return ended(self.start(catalog, *flags, script=self.patched(patch)))

    def patched(self, patch: str) -> Path:
        """Return the command with the lines of `patch` before it."""
        script = self.folder / "patched.py"
        script.write_text(
            f"""
import builtins, fcntl, os, resource, runpy, shutil, signal, sys
from pathlib import Path
sys.path.insert(0, {str(CODE)!r})
waiting = os.getpid()
def send(number):
    if number == signal.SIGKILL:
        os.kill(os.getppid(), number)  # the process that waits for this one, as when a machine is switched off
    os.kill(os.getpid(), number)
def after(owner, name, when, number):
    real = getattr(owner, name)
    def patched(*arguments, **options):
        result = real(*arguments, **options)
        if os.getpid() != waiting and when(*arguments):
            send(number)
        return result
    setattr(owner, name, patched)
def countdown(count):
    left = [count]
    def is_it(*_):
        left[0] -= 1
        return left[0] == 0
    return is_it
def moves(count):
    is_it = countdown(count)
    return lambda source, target: Path(source).name == Path(target).name and is_it()
def hang():
    import re
    re.match("^(a+)+$", 60 * "a" + "b")
{patch}
runpy.run_path({str(CODE / "run_capsule.py")!r}, run_name="__main__")
"""
        )
        return script

    def contents(self) -> dict[str, set[str]]:
        """Return the files in each worker folder."""
        folders = [path for path in self.output.glob("*") if path.name.isdigit()]
        return {folder.name: {path.name for path in folder.iterdir()} for folder in folders}

    def jobs(self) -> int:
        return sum(map(len, self.contents().values()))

    def written(self) -> int:
        """Count the jobs that a run at work has written into its staging folder so far."""
        try:
            return sum(1 for _ in self.output.glob(".dispatch.*/new/*/*"))
        except FileNotFoundError:  # a folder among them has just been moved into place
            return MANY

    def named_by_record(self) -> set[str]:
        """Return the worker folders that a killed run was about to move into place."""
        return {
            name for path in self.output.glob(".dispatch.*/moves.json") for name in json.loads(path.read_text())["new"]
        }

    def holds_staging(self) -> bool:
        """Tell whether a run is writing here, or has left something."""
        return any(self.output.glob(".dispatch*"))


def is_free(desk: Desk) -> bool:
    """Tell whether no run has the output folder."""
    try:
        folder = os.open(desk.output, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(folder)
    return True


def ended(process: subprocess.Popen[str]) -> Ended:
    _, stderr = process.communicate(timeout=60)
    assert "Traceback" not in stderr
    assert "panicked" not in stderr
    return Ended(process.returncode, stderr)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def few(tmp_path: Path) -> Path:
    return catalog_of(tmp_path / "few.jsonl", FEW)


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def open_files(pid: int) -> set[Path]:
    found = set()
    for one in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.add(one.readlink())
    return found


def cpu_seconds(pid: int) -> float:
    """Seconds of computing of a process: https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


# Requests in flight


@pytest.fixture
def front() -> Iterator[S3Front]:
    with S3Front({"bucket": ["asset/a.nwb", "asset//b.nwb"]}) as front:
        yield front


@pytest.fixture
def world(gateway: Gateway, front: S3Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """One record in DocDB, whose asset has two files in S3, one of which only boto3 lists."""
    for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in front.environment.items():
        monkeypatch.setenv(name, value)
    for folder in ("data", "results"):
        (tmp_path / folder).mkdir()
    gateway.records = [
        {**make_record(0, "asset", "774659", "Platform", "behavior", []), "location": "s3://bucket/asset"}
    ]
    return World(
        gateway,
        S3(front.url),
        gateway.records,
        tmp_path / "data",
        tmp_path / "results",
        tmp_path / "catalog.jsonl",
    )


@STOPS
@pytest.mark.parametrize("where", ["DocDB", "obstore", "boto3"])
def test_a_signal_ends_a_run_at_once_with_a_request_in_flight(
    world: World, front: S3Front, number: signal.Signals, where: str
) -> None:
    stalled = Fault(delay=600)
    if where == "DocDB":
        world.gateway.faults.append(stalled)
    else:
        front.faults.extend([None] * (where == "boto3"))
        front.failing = {"": stalled}
    process = world.start("--docdb_query={}", "--file_extension=.nwb")
    wait_until(lambda: len(world.gateway.requests if where == "DocDB" else front.requests) > (where == "boto3"))

    process.send_signal(number)
    run = ended(process)  # long before the answer would come

    assert run.code == 128 + number
    assert run.errors == [f"error: stopped by {called(number)}; no job is written"]
    assert run.stderr.splitlines()[-1] == run.errors[0]
    assert list(world.output_directory.iterdir()) == []


def test_of_two_runs_into_one_folder_the_second_says_so_before_any_request(world: World) -> None:
    world.gateway.faults.append(Fault(delay=60))
    first = world.start("--docdb_query={}")
    wait_until(lambda: world.gateway.requests)

    second = world.run("--docdb_query={}", "--overwrite=1")

    assert second.returncode == 1
    assert second.stderr.splitlines()[-1] == (
        f"error: --output_directory: another run is writing into {world.output_directory};"
        " wait for it or choose another folder"
    )
    assert len(world.gateway.requests) == 1
    assert first.poll() is None
    first.kill()
    ended(first)

    third = world.run("--docdb_query={}")

    assert third.returncode == 0
    assert len(third.jobs) == 1
    assert [path.name for path in world.output_directory.iterdir()] == ["0"]


# Random moments


@dataclass(frozen=True)
class Moment:
    """When to send a signal: once so many jobs lie in the staging folder, and so long after that."""

    number: signal.Signals
    jobs: int
    seconds: float


def random_moments() -> list[Moment]:
    chance = random.Random(4)
    moments = []
    for index in range(30):
        number = (signal.SIGTERM, signal.SIGKILL)[index % 2]
        is_writing = index % 3 != 0
        jobs = chance.randrange(MANY) if is_writing else 0
        moments.append(Moment(number, jobs, chance.uniform(0, 0.05 if is_writing else 1)))
    return moments


def stop_at(moment: Moment, desk: Desk, many: Path) -> str:
    """Stop a run at a moment and check what it left; tell what became of it."""
    process = desk.start(many)
    wait_until(lambda: desk.written() >= moment.jobs or process.poll() is not None)
    time.sleep(moment.seconds)
    process.send_signal(moment.number)
    run = ended(process)

    written = desk.jobs()
    if run.code == 0:
        assert written == MANY, moment
        return "finished"
    if run.code == 128 + signal.SIGTERM:
        became = "all its jobs are written" if written else "no job is written"
        assert run.errors == [f"error: stopped by SIGTERM; {became}"], moment
        assert written in (0, MANY), moment
        assert not desk.holds_staging(), moment
        return "stopped"
    if run.code == -signal.SIGTERM:
        assert run.stderr == "", moment
        assert not desk.output.exists(), moment
        return "stopped before it had begun"
    assert run.code == -signal.SIGKILL, (moment, run)
    assert written in (0, MANY) or set(desk.contents()) <= desk.named_by_record(), moment
    return "killed"


def test_thirty_random_moments_leave_all_jobs_or_none_and_the_next_run_succeeds(tmp_path: Path, few: Path) -> None:
    many = catalog_of(tmp_path / "many.jsonl", MANY)
    moments = random_moments()
    desks = [Desk(tmp_path / f"run-{index}") for index in range(len(moments))]
    with ThreadPoolExecutor(6) as pool:
        became = list(pool.map(lambda moment, desk: stop_at(moment, desk, many), moments, desks))
    # The moments are no proof unless they meet runs at work.
    assert became.count("stopped") >= 3
    assert became.count("killed") >= 3
    for moment, desk in zip(moments, desks, strict=True):
        # A run whose waiting process is killed is ended by the kernel a moment later.
        wait_until(functools.partial(is_free, desk))
        is_whole = desk.jobs() == MANY and not desk.named_by_record()
        again = desk.run(few, f"--overwrite={int(is_whole)}")
        assert again.code == 0, (moment, again)
        assert desk.jobs() == FEW, moment
        assert not desk.holds_staging(), moment


# Chosen moments

AT_RENAME = "after(os, 'rename', moves({}), signal.{})"


@STOPS
@pytest.mark.parametrize("rename", [1, 2, FEW - 1])
def test_a_signal_during_the_final_moves_takes_them_back(
    desk: Desk, few: Path, number: signal.Signals, rename: int
) -> None:
    run = desk.run_patched(AT_RENAME.format(rename, number.name), few)

    assert run.errors == [f"error: stopped by {called(number)}; no job is written"]
    assert run.code == 128 + number
    assert not desk.output.exists()


@STOPS
@pytest.mark.parametrize("rename", [1, 3, 4, 9])
def test_a_signal_while_earlier_folders_are_replaced_brings_them_back(
    desk: Desk, few: Path, number: signal.Signals, rename: int
) -> None:
    assert desk.run(few, "--num_parallel_workers=3").code == 0
    before = desk.contents()

    run = desk.run_patched(AT_RENAME.format(rename, number.name), few, "--num_parallel_workers=7", "--overwrite=1")

    assert run.errors == [f"error: stopped by {called(number)}; no job is written"]
    assert desk.contents() == before
    assert not desk.holds_staging()


@pytest.mark.parametrize(
    "patch",
    [
        "after(os, 'rename', moves(MOVES), signal.SIGTERM)",
        "after(os, 'unlink', lambda path, *_: path.name == 'moves.json', signal.SIGTERM)",
        "after(os, 'rmdir', lambda path, *_: path.name == 'old', signal.SIGTERM)",
        "after(os, 'rmdir', lambda path, *_: path.name.startswith('.dispatch'), signal.SIGTERM)",
        "after(builtins, 'print', lambda *words: str(words[0]).startswith('matched'), signal.SIGTERM)",
    ],
    ids=[
        "after the last move",
        "noted",
        "while the staging folder is removed",
        "removed",
        "while the summary is printed",
    ],
)
@pytest.mark.parametrize("is_second", [False, True], ids=["first run", "instead of an earlier run"])
def test_a_signal_after_the_final_moves_says_that_all_jobs_are_written(
    desk: Desk, few: Path, patch: str, is_second: bool
) -> None:
    if is_second:
        assert desk.run(few, "--num_parallel_workers=3").code == 0
    run = desk.run_patched(patch.replace("MOVES", str(FEW + 3 * is_second)), few, "--overwrite=1")

    assert run.errors == ["error: stopped by SIGTERM; all its jobs are written"]
    assert run.code == 128 + signal.SIGTERM
    assert len(list(desk.output.iterdir())) == desk.jobs() == FEW


REPORT = {"jobs.csv", "skipped.csv", "report.html", "manifest.json"}


def manifest_of_a_whole_report(report: Path) -> dict[str, Any]:
    """Check that each file of a report is the one that its manifest names, and that nothing else lies beside them."""
    assert {path.name for path in report.iterdir()} == REPORT
    manifest: dict[str, Any] = json.loads((report / "manifest.json").read_text())
    for name, digest in manifest["sha256"].items():
        assert hashlib.sha256((report / name).read_bytes()).hexdigest() == digest, name
    return manifest


AT_FILE = "after(Path, {}, lambda path, *_: path.name == '{}' and '.report.' in str(path), signal.{})"


@pytest.mark.parametrize("number", ["SIGTERM", "SIGKILL"])
@pytest.mark.parametrize("name", ["jobs.csv", "manifest.json"])
@pytest.mark.parametrize("call", ["'write_bytes'", "'rename'"], ids=["written", "moved"])
def test_a_report_that_a_run_is_stopped_in_is_the_old_one_or_the_new_one_and_never_in_the_way(
    desk: Desk, few: Path, tmp_path: Path, call: str, name: str, number: str
) -> None:
    report = desk.folder / "report"
    flags = (f"--report_directory={report}", "--overwrite=1")
    assert desk.run(few, *flags).code == 0
    before = manifest_of_a_whole_report(report)
    more = catalog_of(tmp_path / "more.jsonl", FEW + 1)

    run = desk.run_patched(AT_FILE.format(call, name, number), more, *flags)

    assert desk.jobs() == FEW + 1
    if number == "SIGTERM":
        assert run.errors == ["error: stopped by SIGTERM; all its jobs are written"]
        after = manifest_of_a_whole_report(report)
        assert (after == before) == (call == "'write_bytes'")
        assert after["counts"]["jobs"] == (FEW if after == before else FEW + 1)
    assert desk.run(few, f"--report_directory={report}", "--overwrite=1").code == 0
    assert manifest_of_a_whole_report(report)["counts"]["jobs"] == FEW


def test_a_killed_runs_whole_report_is_put_into_place_by_the_next_run_even_if_that_is_refused(
    desk: Desk, few: Path, tmp_path: Path
) -> None:
    report = desk.folder / "report"
    desk.run_patched(AT_FILE.format("'rename'", "jobs.csv", "SIGKILL"), few, f"--report_directory={report}")
    wait_until(lambda: is_free(desk))
    assert desk.run(few, f"--report_directory={report}").code == 2  # worker folders of an earlier run
    assert manifest_of_a_whole_report(report / "failed")
    shutil.rmtree(report / "failed")
    assert manifest_of_a_whole_report(report)


def test_a_folder_of_another_user_that_is_named_like_an_unfinished_report_is_left_alone(desk: Desk, few: Path) -> None:
    report = desk.folder / "report"
    foreign = report / f".report.{16 * 'a1'}.ready"
    foreign.mkdir(parents=True, mode=0o755)
    (foreign / "jobs.csv").write_text("planted")
    assert desk.run(few, f"--report_directory={report}").code == 0
    assert (foreign / "jobs.csv").read_text() == "planted"
    assert "planted" not in (report / "jobs.csv").read_text()


ENDING = [3, 10, 40, 50]  # SIGQUIT, SIGUSR1 and two real-time signals


@pytest.mark.parametrize("number", [*ENDING, signal.SIGSEGV])
def test_every_signal_that_ends_a_process_ends_the_run_with_a_sentence_and_its_folder_cleared(
    desk: Desk, few: Path, number: int
) -> None:
    process = desk.start(few, script=desk.patched("after(fcntl, 'flock', lambda *_: hang(), 0)"))
    wait_until(lambda: not is_free(desk))
    process.send_signal(number)
    run = ended(process)
    name = signal.Signals(number).name if number < 34 else f"signal {number}"
    assert run.errors == [f"error: stopped by {name}; no job is written"]
    assert run.code == 128 + number
    assert not desk.output.exists()


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_that_reaches_the_working_process_alone_is_told_as_well(desk: Desk, few: Path, number: int) -> None:
    run = desk.run_patched(f"after(fcntl, 'flock', lambda *_: True, {number})", few)
    assert run.code == 128 + number
    assert re.fullmatch(r"error: stopped by (SIG\w+|signal \d+); no job is written", run.errors[0])
    assert not desk.output.exists()


def test_a_run_that_the_kernel_kills_for_want_of_memory_says_so_and_leaves_nothing(desk: Desk, few: Path) -> None:
    kill = "after(os, 'open', lambda path, *_: str(path).endswith('.json'), -signal.SIGKILL)"
    run = desk.run_patched(f"send = lambda number: os.kill(os.getpid(), -number)\n{kill}", few)

    assert run.errors == ["error: the run was killed, most likely for want of memory; no job is written"]
    assert run.code == 128 + signal.SIGKILL
    assert not desk.output.exists()


@STOPS
def test_a_signal_ends_a_run_while_python_lets_no_other_thread_run(
    desk: Desk, few: Path, number: signal.Signals
) -> None:
    script = desk.patched("after(fcntl, 'flock', lambda *_: hang(), 0)")
    process = desk.start(few, script=script)
    wait_until(lambda: not is_free(desk))

    process.send_signal(number)
    run = ended(process)

    assert run.errors == [f"error: stopped by {called(number)}; no job is written"]
    assert run.code == 128 + number
    assert not desk.output.exists()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="whether a file is open is looked up in /proc")
@STOPS
def test_a_signal_ends_a_run_while_a_pattern_of_its_query_takes_for_ever_on_a_record(
    desk: Desk, tmp_path: Path, number: signal.Signals
) -> None:
    catalog = tmp_path / "catalog.jsonl"
    catalog.write_text(json.dumps({"_id": "1", "name": 60 * "1,", "location": "s3://bucket/1"}) + "\n")
    process = desk.start(catalog, '--docdb_query={"name": {"$regex": "^(.*?,){25}P"}}')
    wait_until(lambda: any(catalog in open_files(pid) for pid in children(process.pid)))
    [child] = children(process.pid)
    used = cpu_seconds(child)
    wait_until(lambda: cpu_seconds(child) > used + 1)
    assert catalog in open_files(child)

    process.send_signal(number)
    run = ended(process)

    # After 30 s the pattern would have been stopped by itself, with an error of its own.
    assert run.errors == [f"error: stopped by {called(number)}; no job is written"]
    assert run.code == 128 + number
    assert not desk.output.exists()
    assert not Path(f"/proc/{child}").exists()


def test_a_run_whose_waiting_process_is_killed_ends_too(desk: Desk, few: Path) -> None:
    process = desk.start(few, script=desk.patched("after(fcntl, 'flock', lambda *_: hang(), 0)"))
    wait_until(lambda: not is_free(desk))

    process.kill()
    ended(process)

    wait_until(lambda: is_free(desk))
    assert desk.run(few).code == 0
    assert desk.jobs() == FEW


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT], ids=["nohup", "in the background of a shell"])
def test_a_signal_that_is_ignored_from_the_start_stays_ignored(
    world: World, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.gateway.faults.append(Fault(delay=1))
    before = signal.signal(number, signal.SIG_IGN)
    try:
        process = world.start("--docdb_query={}")
    finally:
        signal.signal(number, before)
    wait_until(lambda: world.gateway.requests)
    process.send_signal(number)
    assert ended(process).code == 0


@pytest.mark.parametrize(
    "patch",
    [
        "after(fcntl, 'flock', lambda *_: True, signal.SIGTERM)",
        "after(os, 'open', lambda path, *_: str(path).endswith('results'), signal.SIGTERM)",
        "after(Path, 'mkdir', lambda path: path.name == 'results', signal.SIGTERM)",
    ],
    ids=["locked", "about to be locked", "made"],
)
def test_a_signal_just_when_the_output_folder_is_taken_leaves_no_staging_folder(
    desk: Desk, few: Path, patch: str
) -> None:
    run = desk.run_patched(patch, few)

    assert run.code == 128 + signal.SIGTERM
    assert run.errors == ["error: stopped by SIGTERM; no job is written"]
    assert list(desk.output.glob("*")) == []


@pytest.mark.parametrize("rename", [1, 7, FEW - 1])
def test_a_kill_during_the_final_moves_is_cleared_by_the_next_run_without_overwrite(
    desk: Desk, few: Path, rename: int
) -> None:
    killed = desk.run_patched(AT_RENAME.format(rename, "SIGKILL"), few)
    assert killed.code == -signal.SIGKILL
    assert len(desk.contents()) == rename
    assert set(desk.contents()) <= desk.named_by_record()

    run = desk.run(few, "--num_parallel_workers=3")

    assert run.code == 0
    assert re.search("WARNING .*: folders of a run that was killed in its last moment are removed:", run.stderr)
    assert set(desk.contents()) == {"0", "1", "2"}
    assert desk.jobs() == FEW
    assert not desk.holds_staging()


@pytest.mark.parametrize("rename", [2, 4, 9])
def test_a_kill_while_earlier_folders_are_replaced_brings_them_back(desk: Desk, few: Path, rename: int) -> None:
    assert desk.run(few, "--num_parallel_workers=3").code == 0
    before = desk.contents()

    killed = desk.run_patched(AT_RENAME.format(rename, "SIGKILL"), few, "--num_parallel_workers=7", "--overwrite=1")
    run = desk.run(few)

    assert killed.code == -signal.SIGKILL
    assert run.code == 2
    assert "holds worker folders of an earlier run" in run.errors[0]
    assert desk.contents() == before
    assert not desk.holds_staging()


@pytest.mark.parametrize("rename", [1, 3])
def test_a_kill_while_earlier_folders_are_brought_back_loses_none_of_them(desk: Desk, few: Path, rename: int) -> None:
    assert desk.run(few, "--num_parallel_workers=3").code == 0
    before = desk.contents()
    desk.run_patched(AT_RENAME.format(5, "SIGKILL"), few, "--num_parallel_workers=7", "--overwrite=1")

    killed = desk.run_patched(AT_RENAME.format(rename, "SIGKILL"), few)
    run = desk.run(few)

    assert killed.code == -signal.SIGKILL
    assert run.code == 2
    assert desk.contents() == before


@pytest.mark.parametrize("text", ["", '{"old": ["0', "\0\0"])
def test_a_kill_while_the_record_of_the_moves_is_written_does_not_block_the_next_run(
    desk: Desk, few: Path, text: str
) -> None:
    staging = desk.output / f".dispatch.{16 * 'a1'}"
    for folder in ("new/0", "old"):
        (staging / folder).mkdir(parents=True)
    (staging / "moves.json").write_text(text)

    run = desk.run(few)

    assert run.errors == []
    assert run.code == 0
    assert desk.jobs() == FEW


# The disk


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_folder_that_cannot_be_written_is_named(desk: Desk, few: Path) -> None:
    desk.output.mkdir(mode=0o500)

    run = desk.run(few)

    assert run.code == 1
    assert run.errors == [
        f"error: --output_directory: cannot write into {desk.output}: Permission denied; choose another folder"
    ]
    assert list(desk.output.iterdir()) == []


def test_a_disk_that_takes_no_more_leaves_nothing(desk: Desk, few: Path) -> None:
    (desk.folder / "data").mkdir()
    parameters = {"fixed_parameters": {"text": "x" * 50_000}}
    (desk.folder / "data" / "analysis_parameters.json").write_text(json.dumps(parameters))

    run = desk.run_patched("resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))", few)

    assert run.code == 1
    assert run.errors == [
        f"error: --output_directory: cannot write into {desk.output}: File too large; choose another folder"
    ]
    assert not desk.output.exists()


def test_a_disk_that_takes_no_more_leaves_the_folders_of_an_earlier_run(desk: Desk, few: Path) -> None:
    assert desk.run(few).code == 0
    before = desk.contents()

    run = desk.run_patched("resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))", few, "--overwrite=1")

    assert run.code == 1
    assert desk.contents() == before
    assert not desk.holds_staging()


@pytest.mark.parametrize(
    ("moment", "number", "is_new"),
    [
        ('after(gzip.GzipFile, "write", countdown(3), signal.SIGKILL)', signal.SIGKILL, False),
        ('after(os, "fsync", countdown(1), signal.SIGKILL)', signal.SIGKILL, False),
        ('after(os, "fsync", countdown(1), signal.SIGTERM)', signal.SIGTERM, False),
        ('after(Path, "replace", lambda _, to: to.name == "frozen.jsonl.gz", signal.SIGKILL)', signal.SIGKILL, True),
    ],
    ids=["while records are written", "before it is moved", "before it is moved, by a scheduler", "when it is moved"],
)
def test_a_kill_leaves_a_saved_catalog_whole_or_as_it_was_and_the_next_run_clears_the_rest(
    desk: Desk, few: Path, moment: str, number: signal.Signals, is_new: bool
) -> None:
    frozen = desk.folder / "frozen.jsonl.gz"
    frozen.write_bytes(gzip.compress(b"earlier"))
    flags = (f"--save_catalog={frozen}", "--overwrite=1")

    run = desk.run_patched(f"import gzip\n{moment}", few, *flags)

    assert abs(run.code) == number or run.code == 128 + number
    saved = gzip.decompress(frozen.read_bytes()).splitlines()
    assert len(saved) == (FEW if is_new else 1)
    again = desk.run(few, *flags)
    assert (again.code, again.stderr.count("error: ")) == (0, 0)
    assert len(gzip.decompress(frozen.read_bytes()).splitlines()) == FEW
    assert [path.name for path in desk.folder.glob(".*")] == []


def test_a_disk_that_takes_no_catalog_leaves_neither_catalog_nor_jobs(desk: Desk, few: Path) -> None:
    fails = 'def fsync(_): raise OSError(28, "No space left on device")\nos.fsync = fsync'
    run = desk.run_patched(fails, few, f"--save_catalog={desk.folder / 'frozen.jsonl'}")
    assert run.errors == [
        f"error: --save_catalog: {desk.folder}/frozen.jsonl cannot be written: No space left on device"
    ]
    assert run.code == 1
    assert desk.jobs() == 0
    assert sorted(path.name for path in desk.folder.iterdir()) == ["data", "few.jsonl", "patched.py"]

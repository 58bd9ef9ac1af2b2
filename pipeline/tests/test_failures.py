"""Whatever fails, Nextflow's output ends with a sentence that says what, and what is done counts."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from conftest import ANALYSIS, SECONDS_AT_MOST, Lab, failed, succeeded

SERVICE = "error: a service is away"


def counting_dispatcher(lab: Lab, *beginnings: str) -> tuple[str, Callable[[], int]]:
    """Put a `job-dispatch` on the PATH that begins its first runs with these commands, and count its dispatches."""
    folder = lab.folder / "bin"
    folder.mkdir()
    counter = lab.folder / "tries"
    program = folder / "job-dispatch"
    own = Path(sys.executable).parent / "job-dispatch"
    cases = "\n".join(f"{number}) {command} ;;" for number, command in enumerate(beginnings, 1))
    program.write_text(
        f'#!/bin/bash\n[[ $1 == --* ]] || exec {own} "$@"\n'
        f'echo >> {counter}\ncase $(wc -l < {counter} | tr -d " ") in\n{cases}\nesac\n'
        f'exec {own} "$@"\n'
    )
    program.chmod(0o755)
    return f"{folder}{os.pathsep}{lab.variables()['PATH']}", lambda: len(counter.read_text().splitlines())


def test_what_was_asked_wrongly_is_said_last_and_not_tried_again(lab: Lab) -> None:
    path, tries = counting_dispatcher(lab)
    misspelt = failed(lab.run("--docdb_qery={}", PATH=path))
    assert misspelt.last_line == "error: unrecognized arguments: --docdb_qery={}; did you mean --docdb_query?"
    assert tries() == 1
    unanswered = failed(lab.run(query='{"name": "z"}', PATH=path))
    sentence = unanswered.output[unanswered.output.rindex("\nerror: ") :]
    assert sentence.startswith("\nerror: no record matches the query")
    assert "Work dir" not in sentence
    assert tries() == 2
    assert not lab.results.exists()


def test_a_dispatcher_that_a_signal_or_a_service_ended_is_tried_again(lab: Lab) -> None:
    path, tries = counting_dispatcher(lab, "kill -KILL $$", f"echo '{SERVICE}' >&2; exit 1")
    succeeded(lab.run(PATH=path))
    assert tries() == 3
    assert lab.analysed_assets == ["a", "a", "c", "c", "e", "e"]


def test_a_service_that_stays_away_ends_the_run_with_the_dispatchers_sentence(lab: Lab) -> None:
    path, tries = counting_dispatcher(lab, *[f"echo '{SERVICE}' >&2; exit 1"] * 3)
    assert failed(lab.run(PATH=path)).last_line == SERVICE
    assert tries() == 3


def test_jobs_that_fail_in_different_ways_are_each_named_with_the_reason(lab: Lab) -> None:
    lab.assets("a", "b", "c", "d", "e")
    lab.parameters({"threshold": 1})
    earlier = lab.results / "analysis_summary"
    earlier.mkdir(parents=True)
    done = failed(lab.run(WRONG="b=exit c=list d=kill", WRONG_SUMMARY="1"))
    assert not earlier.exists()
    assert "(b): SystemExit: the analysis left by itself" in done.output
    assert "(c): analyse returned list; it must return a dict of values, or None" in done.output
    assert "(d): killed (SIGKILL), most likely because memory ran out" in done.output
    assert [row["attempts"] for row in lab.all_rows if row["asset_name"] == "d"] == ["3"], "it is tried again twice"
    assert lab.reasons.keys() == {"b", "c", "d"}
    # The page is where its links lead to the table, and to folders and logs of jobs.
    page = lab.results / "analysis_results" / "results.html"
    links = re.findall(r'"\./([^"]+)"', page.read_text())
    logs = {f"{path.parent.name}/log.txt" for path in page.parent.glob("*/failed.json")}
    assert {"table.csv", *logs} <= set(links)
    assert [link for link in links if not (page.parent / link).exists()] == []
    assert "error: summarise over 2 jobs: KeyError: 'letters'" in done.output
    assert done.last_line == "error: 4 failed, 2 jobs are done; -resume tries again only what failed"
    assert lab.analysed_assets == ["a", "e"]


def test_an_analysis_that_no_job_can_run_ends_the_run_at_once(lab: Lab) -> None:
    (lab.folder / "analysis.py").write_text(f"import no_such_module\n{ANALYSIS}")
    done = failed(lab.run())
    reason = "cannot be imported: ModuleNotFoundError: No module named 'no_such_module'; install it for /"
    assert f"error: analysis/analysis.py: {reason}" in done.output
    assert not (lab.results / "table.csv").exists()


def test_mistakes_in_the_pipelines_own_parameters_are_all_told_before_anything_runs(lab: Lab) -> None:
    done = failed(
        lab.run(
            *("--input_files=nowhere", "--analysis=none.py", "--jobs_per_task=0", "--overwrite=1"),
            '--set=threshold; note="first; second=2"',
            *("--max_failures=20 percent", "--save_catalog=analysis.py"),
        )
    )
    for sentence in (
        "--overwrite is set by the pipeline itself; leave it out",
        "--analysis: no such file: none.py; give the Python file with the function analyse",
        "--input_files: no such folder: nowhere",
        "--jobs_per_task: '0' is not a whole number from 1",
        "--set: 'threshold' is not name=value",
        "--set: 'note=\"first' has an open quote; give a text that holds a semicolon with -params-file",
        "--max_failures: '20 percent' is neither a number of jobs nor a share of them, such as 20%",
        f"--save_catalog: {lab.folder}/analysis.py exists; give the name of a new file",
    ):
        assert sentence in done.output
    assert done.tasks == []


def test_a_run_in_which_more_jobs_fail_than_may_ends_early(lab: Lab) -> None:
    lab.assets(*"abcdefg")
    lab.parameters({"threshold": 1})
    wrong = " ".join(f"{name}=raise" for name in "abcdefg")
    for given, most in (("1", 4), ("20%", 4)):
        done = failed(lab.run(f"--max_failures={given}", "-qs", "1", WRONG=wrong))
        assert re.fullmatch(
            rf"error: \d+ of 7 jobs failed, more than --max_failures={given}: the rest was not run; -resume runs it",
            done.last_line,
        )
        assert len(done.analysed) <= most
    succeeded(lab.run("--max_failures=20%"))


def running_below(folder: Path) -> list[str]:
    """Return the command lines of processes that work in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink().is_relative_to(folder):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue  # it has ended meanwhile, or is another user's
    return found


def wait_until(is_so: Callable[[], bool]) -> None:
    latest = time.monotonic() + SECONDS_AT_MOST
    while not is_so():
        assert time.monotonic() < latest
        time.sleep(0.1)


def test_sigterm_ends_all_that_runs_and_the_next_run_does_only_the_rest(lab: Lab) -> None:
    lab.parameters({"threshold": 1})
    waiting = f"{ANALYSIS}\n_analyse = analyse\n\n\ndef analyse(job, parameters, results):\n    import time\n"
    waiting += "    if os.path.exists(job.s3_location[0].removeprefix('file://')):\n        time.sleep(600)\n"
    waiting += "    return _analyse(job, parameters, results)\n"
    (lab.folder / "analysis.py").write_text(waiting)
    waits = lab.folder / "input" / "assets" / "e"
    waits.mkdir(parents=True)
    log = lab.folder / "output.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            lab.command(), cwd=lab.folder, env=lab.variables(), stdout=output, stderr=subprocess.STDOUT
        )
    published = lab.results / "analysis_results"
    wait_until(lambda: len(list(published.glob("*/job.json"))) == 2)
    wait_until(lambda: any("job-dispatch run" in line for line in running_below(lab.folder / "work")))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=SECONDS_AT_MOST) != 0
    wait_until(lambda: not running_below(lab.folder))
    waits.rmdir()
    assert len(succeeded(lab.run()).analysed) == 1
    assert lab.analysed_assets == ["a", "c", "e"]

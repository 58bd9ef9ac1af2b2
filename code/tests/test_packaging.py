"""What is installed from a wheel is the command, whole, and takes no more names than it must."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import job_dispatch
from tests.conftest import CODE, EXAMPLE, load_job

QUERY = '--docdb_query={"subject.subject_id": "774659"}'


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built from a copy since a build leaves folders beside its source."""
    source = tmp_path_factory.mktemp("source") / "code"
    shutil.copytree(CODE, source, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", ".venv*"))
    built = source.parent / "built"
    pip("wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={built}", str(source))
    [path] = built.iterdir()
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of an empty environment, into which the wheel and what it needs were installed."""
    environment = tmp_path_factory.mktemp("installed")
    uv("venv", "--quiet", "--python", sys.executable, str(environment))
    into = [
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--python",
        str(environment / "bin/python"),
    ]
    # What `make` installed before is in uv's cache.
    pinned = [*into, "--requirement", str(CODE.parent / "environment" / "requirements.txt")]
    if uv(*pinned, "--offline", is_tried=True) != 0:
        uv(*pinned, "--system-certs")
    uv(*into, "--offline", str(wheel))
    return environment / "bin"


def uv(*arguments: str, is_tried: bool = False) -> int:
    """Run uv, which reads no settings of pip's: the address of a mirror is passed on as `make` does."""
    command = [sys.executable, "-m", "uv"] if importlib.util.find_spec("uv") else ["uv"]
    asked = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    index = subprocess.run(asked, text=True, capture_output=True, timeout=60).stdout.strip()
    environment = {**({"UV_DEFAULT_INDEX": index} if index else {}), **os.environ}
    done = subprocess.run([*command, *arguments], env=environment, text=True, capture_output=True, timeout=300)
    assert is_tried or done.returncode == 0, done.stderr
    return done.returncode


def pip(*arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments], check=True, timeout=300
    )


def run(command: Path, *arguments: str, folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    process = subprocess.run(
        [command, *arguments], cwd=folder, env=environment, text=True, capture_output=True, timeout=120
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.mark.long
def test_a_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    metadata = f"aind_analysis_job_dispatch-{job_dispatch.__version__}.dist-info"
    assert {name.partition("/")[0] for name in names} == {"job_dispatch", metadata}
    modules = {
        str(path.relative_to(CODE))
        for path in (CODE / "job_dispatch").rglob("*")
        if path.suffix in (".py", ".j2", ".typed")
    }
    assert {name for name in names if name.startswith("job_dispatch/")} == modules
    assert "job_dispatch/report/page.html.j2" in names


@pytest.mark.long
def test_the_installed_command_tells_its_flags_and_the_version_of_the_package(installed: Path, tmp_path: Path) -> None:
    assert "--docdb_query QUERY" in run(installed / "job-dispatch", "--help", folder=tmp_path)
    told = run(installed / "job-dispatch", "--version", folder=tmp_path)
    code = "import importlib.metadata; print(importlib.metadata.version('aind-analysis-job-dispatch'))"
    assert told.split()[-1] == run(installed / "python", "-c", code, folder=tmp_path).strip()


@pytest.mark.long
def test_the_installed_command_dispatches_from_data_to_results_of_the_folder_it_is_started_in(
    installed: Path, tmp_path: Path
) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "data")
    told = run(
        installed / "job-dispatch",
        "--metadata_catalog=data/catalog.jsonl",
        QUERY,
        "--file_extension=.nwb",
        "--report_directory=report",
        folder=tmp_path,
    )
    assert "folders  10 in results, 1 job each" in told
    jobs = [load_job(path) for path in (tmp_path / "results").glob("*/*.json")]
    assert len(jobs) == 10
    assert {Path(job["file_location"][0].removeprefix("file://")).exists() for job in jobs} == {True}
    assert "774659" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")


def test_the_installed_command_works_beside_somebody_elses_utils(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "utils.py").write_text("raise SystemExit('the wrong utils')\n")
    process = subprocess.run(
        [installed / "job-dispatch", f"--metadata_catalog={EXAMPLE / 'catalog.jsonl'}", QUERY],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "theirs")},
        text=True,
        capture_output=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr


def test_the_command_of_an_editable_install_means_the_current_folder(tmp_path: Path) -> None:
    script = "from job_dispatch.main import run; run()"
    process = subprocess.run(
        [sys.executable, "-c", script, f"--metadata_catalog={EXAMPLE / 'catalog.jsonl'}", QUERY],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(CODE)},
        text=True,
        capture_output=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    assert list((tmp_path / "results").glob("*/*.json"))


@pytest.mark.long
def test_a_missing_data_folder_matters_only_where_something_is_read_from_it(installed: Path, tmp_path: Path) -> None:
    command = [str(installed / "job-dispatch"), f"--metadata_catalog={EXAMPLE / 'catalog.jsonl'}"]

    def dispatch(*flags: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *flags], cwd=tmp_path, text=True, capture_output=True, timeout=120)

    assert dispatch(QUERY, "--dry_run=1").returncode == 0
    with_table = dispatch("--use_data_asset_csv=1")
    assert (with_table.returncode, with_table.stderr.splitlines()[-1]) == (
        2,
        "error: --input_directory: no such folder: data",
    )
    named = dispatch(QUERY, "--input_directory=there")
    assert (named.returncode, named.stderr.splitlines()[-1]) == (2, "error: --input_directory: no such folder: there")


SCRIPT = """
import asyncio
import sys
from pathlib import Path

import job_dispatch as jd

ANALYSIS = "def analyse(job, parameters, results): return {'doubled': 2 * parameters['cutoff']}"


def main(example: Path, folder: Path) -> None:
    folder.mkdir()
    cohort: jd.Cohort = jd.select(jd.Catalog(example / "catalog.jsonl"), subject="643634")
    files: jd.Files = jd.locate(cohort, endings=[".csv"])
    skipped: list[jd.Skipped] = list(files.skipped)
    jobs: jd.Jobs = jd.plan(files, {"parameter_grid": {"cutoff": [1, 2]}})
    first: jd.AnalysisDispatchModel = jobs[0]
    assert len(skipped) == len(files.skipped.to_pandas()) == len(cohort.assets) - 1
    assert first.distributed_parameters == {"cutoff": 1}
    folders: list[Path] = jd.write(jobs, folder / "jobs", workers=1)
    (folder / "analysis.py").write_text(ANALYSIS)
    stands: jd.RunStatus = jd.run(folder / "analysis.py", *folders, output=folder / "results")
    assert stands.counts == jd.status(folder / "results").counts == {"done": 2, "failed": 0, "running": 0, "left": 0}
    assert sorted(jd.read_results(folder / "results")["doubled"]) == [2, 4]
    assert len(jd.select(jd.Folder(example / "assets" / "behavior_*_processed_*")).assets) == 4
    for subject, error in (([], jd.RequestError), (["774659"], jd.ServiceError)):
        try:
            jd.select(jd.DocDb(host="127.0.0.1:1"), subject=subject)
        except error:
            continue
        raise AssertionError(subject)


async def in_a_loop(example: Path, folder: Path) -> None:
    main(example, folder)


main(Path(sys.argv[1]), Path("plain"))
asyncio.run(in_a_loop(Path(sys.argv[1]), Path("in_a_loop")))
"""


@pytest.mark.long
def test_a_script_with_each_public_name_runs_on_the_installed_package_also_in_a_running_event_loop(
    installed: Path, tmp_path: Path
) -> None:
    assert [name for name in job_dispatch.__all__ if not re.search(rf"\bjd\.{name}\b", SCRIPT)] == []
    (tmp_path / "script.py").write_text(SCRIPT)
    assert run(installed / "python", "script.py", str(EXAMPLE), folder=tmp_path) == ""


@pytest.mark.long
def test_mypy_in_strict_mode_accepts_a_script_with_each_public_name_and_sees_wrong_types(
    installed: Path, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "wrong.py").write_text("import job_dispatch as jd\n\njd.write(1, 'results')\n")
    command = [sys.executable, "-m", "mypy", "--strict", f"--python-executable={installed / 'python'}"]
    for name, told in (("script.py", "Success"), ("wrong.py", 'incompatible type "int"; expected "Jobs"')):
        checked = subprocess.run([*command, name], cwd=tmp_path, text=True, capture_output=True, timeout=300)
        assert told in checked.stdout

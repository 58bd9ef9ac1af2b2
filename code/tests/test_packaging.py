"""What is installed from a wheel is the command, whole, and takes no more names than it must."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
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
    """The folder of commands of a fresh environment, into which the wheel alone was installed.

    The dependencies are those of this interpreter, so that nothing is fetched.
    """
    environment = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True, timeout=120)
    commands = environment / "bin"
    pip("--python", str(commands / "python"), "install", "--no-deps", "--no-index", str(wheel))
    [packages] = environment.glob("lib/python*/site-packages")
    paths = sysconfig.get_paths()
    # What an installed .pth file names is not searched for further ones: an editable installation stays out of sight.
    (packages / "dependencies.pth").write_text(f"{paths['purelib']}\n{paths['platlib']}\n")
    return commands


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


def test_mypy_in_strict_mode_accepts_a_script_that_uses_the_public_names_of_the_installed_package(
    installed: Path, tmp_path: Path
) -> None:
    names = getattr(job_dispatch, "__all__", [name for name in vars(job_dispatch) if not name.startswith("_")])
    script = tmp_path / "script.py"
    script.write_text(
        f"from job_dispatch import {', '.join(['__version__', *names])}\n"
        "from job_dispatch.main import main\n\n"
        "version: str = __version__\n"
        'code: int = main(["--version"])\n'
        f"print({', '.join(names)})\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", f"--python-executable={installed / 'python'}", str(script)]
    checked = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, timeout=300)
    assert checked.returncode == 0, checked.stdout
    (tmp_path / "wrong.py").write_text("from job_dispatch.main import main\nmain(1)\n")
    checked = subprocess.run([*command[:-1], "wrong.py"], cwd=tmp_path, text=True, capture_output=True, timeout=300)
    assert 'incompatible type "int"' in checked.stdout

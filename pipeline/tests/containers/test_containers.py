"""The images build, and what runs in them is right: `make container-test`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import EXAMPLE, PIPELINE, ROOT, TESTS, ended
from engine import docker, is_there, make_base_image, running
from packages import MissingError

PYTHON = "3.12"
USER = 12_345
QUERY = '{"name": {"$regex": "^behavior_.*_processed_"}}'


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A folder that an ordinary user may enter, other than pytest's."""
    with tempfile.TemporaryDirectory(prefix="containers-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="session")
def base(folder: Path) -> Iterator[str]:
    """A running daemon with the base images; gives the registry of the capsule's."""
    image = json.loads((ROOT / ".codeocean" / "environment.json").read_text())["base_image"]
    [slim] = re.findall(r"^FROM (\S+)$", (PIPELINE / "Dockerfile").read_text(), re.MULTILINE)
    made = ["my-analysis-test", "job-dispatch-test", "capsule-test", f"registry.test/{image}"]
    with contextlib.ExitStack() as stack:
        try:
            is_own = stack.enter_context(running())
            if not is_there(slim):
                made.append(slim)
                make_base_image(slim, PYTHON, folder)
        except (MissingError, subprocess.SubprocessError) as error:
            pytest.skip(str(error))
        if not is_own:
            stack.callback(docker, "image", "rm", "--force", *made, check=False)
        docker("tag", slim, f"registry.test/{image}")
        yield "registry.test"


@pytest.fixture(scope="session")
def capsule(base: str) -> str:
    """The capsule's image, built as Code Ocean builds it."""
    docker("build", "--network=host", f"--build-arg=REGISTRY_HOST={base}", "--tag=capsule-test", ROOT / "environment")
    return "capsule-test"


@pytest.fixture(scope="session")
def image(base: str, folder: Path) -> str:
    """The pipeline's image, and from it one for the analysis of the example."""
    docker("build", "--network=host", f"--file={PIPELINE / 'Dockerfile'}", "--tag=job-dispatch-test", ROOT)
    (folder / "analysis").mkdir()
    text = "FROM job-dispatch-test\nRUN pip install --no-cache-dir zarr matplotlib\n"
    (folder / "analysis" / "Dockerfile").write_text(text)
    docker("build", "--network=host", "--tag=my-analysis-test", folder / "analysis")
    return "my-analysis-test"


def test_the_capsule_dispatches_with_code_and_data_that_it_cannot_write_to(capsule: str, folder: Path) -> None:
    results = folder / "results"
    results.mkdir()
    mounts = (f"--volume={ROOT / 'code'}:/code:ro", f"--volume={EXAMPLE}:/data:ro", f"--volume={results}:/results")
    flags = ("--metadata_catalog=catalog.jsonl", f"--docdb_query={QUERY}", "--file_extension=.nwb")
    printed = docker("run", "--rm", "--network=none", "--workdir=/code", *mounts, capsule, "/code/run", *flags)
    jobs = [json.loads(path.read_text()) for path in results.glob("*/*.json")]
    assert len(jobs) == 8, printed
    assert {Path(job["file_location"][0].removeprefix("file://")).parts[1] for job in jobs} == {"data"}


def test_the_pipeline_runs_as_an_ordinary_user_on_data_that_it_cannot_write_to(image: str, folder: Path) -> None:
    home, data = folder / "home", folder / "data"
    home.mkdir()
    shutil.copytree(EXAMPLE, data)
    (home / "lab.config").write_text(
        f"process.container = 'job-dispatch-test'\n"
        f"process.containerOptions = '--network=none -v {data}:{data}:ro'\n"
        f"process {{ withName: 'ANALYSE|ANALYSE_GROUP|SUMMARISE' {{ container = '{image}' }} }}\n"
    )
    for path in (home, home / "lab.config"):
        os.chown(path, USER, USER)
    command = [
        *(str(TESTS / "nextflow"), "run", str(PIPELINE / "main.nf"), "-ansi-log", "false", "-profile", "docker"),
        *("-c", "lab.config", f"--input_files={data}", "--metadata_catalog=catalog.jsonl", f"--docdb_query={QUERY}"),
        *(f"--analysis={PIPELINE / 'example' / 'reward_response.py'}", "--file_extension=.nwb"),
    ]
    socket = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
    returncode, output = ended(
        command,
        home,
        {**os.environ, "HOME": str(home), "NXF_HOME": str(home / ".nextflow")},
        **{"user": USER, "group": USER, "extra_groups": [Path(socket).stat().st_gid]},
    )
    assert returncode == 0, output
    assert len(list(home.glob("results/analysis_results/*/*.png"))) == 8
    assert {path.stat().st_uid for path in (home / "results").rglob("*")} == {USER}
    assert "MPLCONFIGDIR" not in output


def test_an_image_that_is_missing_ends_the_run_with_its_name(image: str, folder: Path) -> None:
    home = folder / "elsewhere"
    home.mkdir()
    (home / "analysis.py").write_text("def analyse(job, parameters, results):\n    return {}\n")
    (home / "lab.config").write_text("process.container = 'no-such-image:1'\n")
    command = [
        *(str(TESTS / "nextflow"), "run", str(PIPELINE / "main.nf"), "-ansi-log", "false", "-profile", "docker"),
        *("-c", "lab.config", f"--input_files={EXAMPLE}", "--metadata_catalog=catalog.jsonl", "--docdb_query={}"),
        "--analysis=analysis.py",
    ]
    returncode, output = ended(command, home, os.environ)
    assert returncode == 1
    # Nextflow may warn of its own threads at the very end.
    last = [line for line in output.splitlines() if line and not line.startswith("WARN: ")][-1]
    assert last.startswith("error: the container cannot be started: ")
    assert "no-such-image" in last

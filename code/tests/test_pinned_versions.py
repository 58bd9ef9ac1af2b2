"""The capsule is built from pinned versions, which stand in two files and agree with `pyproject.toml`."""

import hashlib
import importlib.metadata
import json
import shutil
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import CODE
from tools import pin

# What markers are evaluated for: the Python and the machine of the capsule.
CAPSULE = {
    "python_version": "3.12",
    "python_full_version": "3.12.4",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "os_name": "posix",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
    "extra": "",
}


def applying(lines: list[str]) -> dict[str, Requirement]:
    """The requirements that apply in the capsule, by name."""
    requirements = [Requirement(line) for line in lines]
    return {
        canonicalize_name(requirement.name): requirement
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate(CAPSULE)
    }


DIRECT = applying(tomllib.loads((CODE / "pyproject.toml").read_text())["project"]["dependencies"])
PINS = pin.pins()


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Copies of the Dockerfile and of environment.json."""
    return Path(shutil.copy(pin.DOCKERFILE, tmp_path)), Path(shutil.copy(pin.ENVIRONMENT, tmp_path))


def test_every_direct_dependency_is_pinned_within_its_bounds() -> None:
    assert {
        name: PINS.get(name)
        for name, requirement in DIRECT.items()
        if not requirement.specifier.contains(PINS.get(name, "0"))
    } == {}


def test_what_the_pinned_packages_need_is_pinned_too() -> None:
    """Looked up for those that are installed here in the pinned version."""
    for name, version in PINS.items():
        try:
            installed = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if installed.version == version:
            needed = applying(installed.requires or [])
            assert {need for need in needed if need not in PINS} == set(), name


def test_both_files_are_what_the_command_writes(files: tuple[Path, Path]) -> None:
    dockerfile, environment = files
    pin.write(PINS, dockerfile, environment)
    assert dockerfile.read_text() == pin.DOCKERFILE.read_text()
    assert environment.read_text() == pin.ENVIRONMENT.read_text()


def test_a_new_version_is_written_into_both_files_and_hashed(files: tuple[Path, Path]) -> None:
    dockerfile, environment = files
    pin.write({"boto3": "99.1", "attrs": "1.0.post1"}, dockerfile, environment)
    first_line, _, rest = dockerfile.read_text().partition("\n")
    assert "pip install -U --no-cache-dir \\\n    attrs==1.0.post1 \\\n    boto3==99.1\n\nCOPY" in rest
    assert first_line == f"# hash:sha256:{hashlib.sha256(rest.encode()).hexdigest()}"
    assert json.loads(environment.read_text())["installers"]["pip"]["packages"] == [
        {"name": "attrs", "version": "1.0.post1"},
        {"name": "boto3", "version": "99.1"},
    ]


def test_dockerfile_and_environment_start_from_the_same_image() -> None:
    assert f"\nFROM $REGISTRY_HOST/{pin.base_image()}\n" in pin.DOCKERFILE.read_text()


def test_dockerfile_carries_the_hash_by_which_code_ocean_knows_it_as_generated() -> None:
    first_line, _, rest = pin.DOCKERFILE.read_text().partition("\n")
    assert first_line == f"# hash:sha256:{hashlib.sha256(rest.encode()).hexdigest()}"

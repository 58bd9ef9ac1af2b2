"""What users run, what the images hold and what the tests run with are the same pinned versions."""

from __future__ import annotations

import importlib.metadata
import json
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import CODE
from tools import pin

ROOT = CODE.parent
PROJECT = tomllib.loads((CODE / "pyproject.toml").read_text())["project"]
DOCKERFILES = (ROOT / "environment" / "Dockerfile", ROOT / "pipeline" / "Dockerfile")
FILES = (pin.REQUIREMENTS, pin.TEST, *pin.OTHERS)
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
SYSTEMS = (("linux", "Linux", "x86_64"), ("darwin", "Darwin", "arm64"))


def marked(python: str, system: tuple[str, str, str]) -> dict[str, str]:
    """What markers are evaluated for."""
    platform, name, machine = system
    return {
        "python_version": python,
        "python_full_version": f"{python}.1",
        "sys_platform": platform,
        "platform_system": name,
        "platform_machine": machine,
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "extra": "",
    }


def applying(requirements: list[Requirement], environment: dict[str, str] | None = None) -> list[Requirement]:
    return [one for one in requirements if one.marker is None or one.marker.evaluate(environment)]


def versions(path: Path, environment: dict[str, str] | None = None) -> dict[str, str]:
    """The pinned version of each package, on this machine by default."""
    return {canonicalize_name(one.name): str(one.specifier)[2:] for one in applying(pin.pins(path), environment)}


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system[0])
@pytest.mark.parametrize("python", PYTHONS)
def test_each_dependency_is_pinned_once_and_within_its_bounds(python: str, system: tuple[str, str, str]) -> None:
    environment = marked(python, system)
    extras = [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
    for path, lines in ((pin.REQUIREMENTS, PROJECT["dependencies"]), (pin.TEST, PROJECT["dependencies"] + extras)):
        pinned = applying(pin.pins(path), environment)
        assert len({one.name for one in pinned}) == len(pinned)
        found = versions(path, environment)
        needed = applying([Requirement(line) for line in lines], environment)
        wrong = [
            f"{one.name}: {found.get(canonicalize_name(one.name), 'not pinned')}"
            for one in needed
            if one.name != PROJECT["name"]
            and not one.specifier.contains(found.get(canonicalize_name(one.name), "0"), prereleases=True)
        ]
        assert wrong == [], "run `make pin`"


def test_the_tests_run_with_the_versions_that_users_get() -> None:
    pinned = versions(pin.REQUIREMENTS)
    assert {name: importlib.metadata.version(name) for name in pinned} == pinned, "run `make test`, which installs them"


def test_what_is_pinned_for_tests_includes_what_users_get() -> None:
    # A package that more systems need for tests has a wider marker there.
    ours, for_tests = (
        {(one.name, str(one.specifier)) for one in pin.pins(path)} for path in (pin.REQUIREMENTS, pin.TEST)
    )
    assert ours - for_tests == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_pin_has_hashes_and_no_address(path: Path) -> None:
    text = path.read_text()
    assert "://" not in text
    assert "index" not in text.partition("==")[0]
    packages = re.split(r"\n(?=\S)", text.rstrip())
    pinned = [package for package in packages if not package.startswith("#")]
    assert pinned
    assert [package for package in pinned if not re.search(r"==\S+.*(\\\n    --hash=sha256:\w{64}.*)+$", package)] == []


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_images_install_the_pinned_file_and_name_no_package_themselves(path: Path) -> None:
    text = path.read_text()
    assert re.search(r"^COPY \S*requirements.txt ", text, flags=re.MULTILINE)
    installed = re.findall(r"^RUN pip install (.*?)(?: \\)?$", text, flags=re.MULTILINE)
    assert "--require-hashes --requirement" in installed[0]
    assert installed[1:] in ([], ["--no-cache-dir --no-deps /source/code"])


def test_the_capsules_image_is_built_from_the_base_image_that_code_ocean_shows() -> None:
    environment = json.loads((ROOT / ".codeocean" / "environment.json").read_text())
    assert f"\nFROM $REGISTRY_HOST/{environment['base_image']}\n" in DOCKERFILES[0].read_text()

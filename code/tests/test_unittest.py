"""`python -m unittest discover tests/` runs what pytest runs, and its closing lines count those tests."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.conftest import CODE


# Discovery asks modules for their load_tests, never the __init__.py of the folder that it starts in.
def load_tests(_loader: unittest.TestLoader, _tests: unittest.TestSuite, _pattern: str | None) -> unittest.TestSuite:
    return PytestSuite()


class PytestSuite(unittest.TestSuite):
    """Runs pytest first, then repeats to unittest how each test ended."""

    def __init__(self, arguments: Sequence[str] = (), folder: Path = CODE) -> None:
        super().__init__()
        self._arguments, self._folder = arguments, folder

    def run(self, result: unittest.TestResult, debug: bool = False) -> unittest.TestResult:
        self.addTests(unittest.FunctionTestCase(outcome) for outcome in run_pytest(self._arguments, self._folder))
        return super().run(result, debug)


def run_pytest(arguments: Sequence[str], folder: Path) -> list[Callable[[], None]]:
    """Return one function a test, which ends as the test did.

    pytest runs in a process of its own: in this one, test modules were imported without it.
    """
    with tempfile.TemporaryDirectory() as temporary:
        report = Path(temporary) / "report.xml"
        command = [sys.executable, "-m", "pytest", f"--junitxml={report}", *arguments]
        code = subprocess.run(command, cwd=folder, check=False).returncode
        cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    outcomes = [outcome(case) for case in cases]
    has_failed = any(case.find(tag) is not None for case in cases for tag in ("failure", "error"))
    if code != 0 and not has_failed:
        outcomes.append(failed("pytest", f"it ended with exit code {code}, see above"))
    return outcomes


def outcome(case: ElementTree.Element) -> Callable[[], None]:
    name = f"{case.get('classname')}.{case.get('name')}"
    for tag in ("failure", "error"):
        if (found := case.find(tag)) is not None:
            return failed(name, found.text or "")
    if (found := case.find("skipped")) is not None:
        return unittest.skip(found.get("message", ""))(passed(name))
    return passed(name)


def passed(name: str) -> Callable[[], None]:
    def end() -> None:
        pass

    end.__name__ = name
    return end


def failed(name: str, text: str) -> Callable[[], None]:
    def end() -> None:
        raise AssertionError(text)

    end.__name__ = name
    return end


@pytest.fixture(autouse=True)
def _pytest_starts_without_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking for them takes longer than these tests."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


@pytest.mark.long
def test_discovery_from_the_code_folder_runs_pytest_and_counts_its_tests() -> None:
    chosen = "tests/test_pinned_versions.py::test_what_is_pinned_for_tests_includes_what_users_get"
    process = subprocess.run(
        [sys.executable, "-m", "unittest", "discover", "tests/"],
        cwd=CODE,
        env={**os.environ, "PYTEST_ADDOPTS": chosen},
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert "1 passed" in process.stdout
    assert process.stderr.splitlines()[-3].startswith("Ran 1 test in ")
    assert process.stderr.splitlines()[-1] == "OK"


def test_each_ending_of_a_test_is_counted_as_what_it_was(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_four.py").write_text(
        "import pytest\n"
        "@pytest.fixture\ndef broken():\n    raise OSError('no disk')\n"
        "def test_good(): pass\n"
        "def test_bad(): assert 1 == 2\n"
        "def test_broken(broken): pass\n"
        "def test_elsewhere(): pytest.skip('not here')\n"
    )
    result = PytestSuite(folder=tmp_path).run(unittest.TestResult())
    assert (result.testsRun, len(result.failures), len(result.skipped), result.errors) == (4, 2, 1, [])
    assert [reason for _, reason in result.skipped] == ["not here"]
    assert "assert 1 == 2" in result.failures[0][1]
    assert "no disk" in result.failures[1][1]


def test_a_pytest_that_could_not_run_is_a_failure(tmp_path: Path) -> None:
    result = PytestSuite(["no_such_file.py"], tmp_path).run(unittest.TestResult())
    assert (result.testsRun, len(result.failures)) == (1, 1)


def test_no_test_module_hides_a_module_of_the_code_from_discovery() -> None:
    in_tests = {path.name for path in (CODE / "tests").glob("*.py")}
    assert not in_tests & {path.name for path in CODE.glob("*.py")}

"""How `make` sets up its environment: which interpreter it takes, and what it says where none will do."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import CODE

NO_WHEEL = "error: No solution found when resolving dependencies"
# What the script asks an interpreter: its version, whether it can make environments, one of them, pip and uv in that.
INTERPRETER = """#!/bin/sh
case "$1 $2" in
    "-c import sys; print(sys.version_info[1] if"*) echo {minor} ;;
    '-c import sys; print("Python'*) echo "Python 3.{minor} lacks a dependency" >&2 ;;
    "-m venv") mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
    "-m pip") case "$3 $4" in "config list") echo "global.index-url='https://mirror.example/simple'" ;; esac ;;
    "-m uv") echo "$UV_DEFAULT_INDEX" >{index}
        case "$*" in
            *requirements.txt*) echo {minor} >>{tried}; if [ {fails} = 1 ]; then echo {says} >&2; exit 1; fi ;;
        esac ;;
esac
"""


class Place:
    """A folder with interpreters, of which each fails to install where it says why."""

    def __init__(self, folder: Path) -> None:
        self.environment = folder / "venv"
        self.index = folder / "index"
        self._folder, self._tried = folder, folder / "tried"

    def interpreter(self, minor: int, says: str = "") -> str:
        path = self._folder / f"python3.{minor}"
        tried, index, says = (shlex.quote(str(text)) for text in (self._tried, self.index, says))
        path.write_text(INTERPRETER.format(minor=minor, tried=tried, index=index, says=says, fails=int(says != "''")))
        path.chmod(0o755)
        return str(path)

    def install(self, *interpreters: str) -> subprocess.CompletedProcess[str]:
        command = [str(CODE / "tools" / "install"), str(self.environment), "--extra dev", *interpreters]
        return subprocess.run(command, text=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=60)

    def tried(self) -> list[int]:
        """The minor versions with which an installation was tried."""
        return [int(line) for line in self._tried.read_text().split()] if self._tried.exists() else []


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_the_newest_interpreter_is_taken_whatever_their_order(place: Place) -> None:
    done = place.install(
        place.interpreter(12), "python-that-is-not-there", place.interpreter(14), place.interpreter(11)
    )
    assert (done.returncode, place.tried()) == (0, [14])
    assert "with Python 3.14" in done.stdout
    assert not (place.environment / "unfinished").exists()


def test_where_a_dependency_has_no_wheel_the_next_newest_is_taken_and_the_reason_told(place: Place) -> None:
    done = place.install(place.interpreter(15, NO_WHEEL), place.interpreter(14, NO_WHEEL), place.interpreter(13))
    assert (done.returncode, place.tried()) == (0, [15, 14, 13])
    assert done.stderr.splitlines() == [
        NO_WHEEL,
        "Python 3.15 lacks a dependency",
        NO_WHEEL,
        "Python 3.14 lacks a dependency",
    ]


def test_where_no_interpreter_has_all_dependencies_it_says_what_would(place: Place) -> None:
    done = place.install(place.interpreter(15, NO_WHEEL))
    assert (done.returncode, place.tried()) == (1, [15])
    assert done.stderr.splitlines()[-1].startswith(
        "error: none of the interpreters found has wheels of all dependencies"
    )


def test_a_failure_that_is_no_missing_wheel_ends_it(place: Place) -> None:
    done = place.install(place.interpreter(14, "error: no space left on device"), place.interpreter(13))
    assert (done.returncode, place.tried()) == (1, [14])
    assert done.stderr == "error: no space left on device\n"


def test_without_any_interpreter_it_names_what_it_tried(place: Place) -> None:
    done = place.install("python3.99", place.interpreter(0))
    assert done.returncode == 1
    assert done.stderr.startswith("error: no CPython 3.11 or newer found (tried: python3.99 ")


def test_an_environment_that_is_there_is_kept_and_one_that_is_unfinished_made_again(place: Place) -> None:
    older, newer = place.interpreter(12), place.interpreter(13)
    assert place.install(older).returncode == 0
    assert "Making" not in place.install(newer, older).stdout
    (place.environment / "unfinished").touch()
    assert "with Python 3.13" in place.install(newer, older).stdout
    assert place.tried() == [12, 12, 13]


def test_the_mirror_that_pip_is_configured_for_is_used_as_well(place: Place) -> None:
    assert place.install(place.interpreter(13)).returncode == 0
    assert place.index.read_text() == "https://mirror.example/simple\n"


def test_without_a_python_that_the_released_wrapper_supports_its_environment_stays_empty(tmp_path: Path) -> None:
    uv = tmp_path / "python"
    uv.write_text('#!/bin/sh\n[ "$1 $2 $3" = "-m uv python" ] && exit 1\nexit 2\n')
    uv.chmod(0o755)
    command = [str(CODE / "tools" / "install-wrapper"), str(tmp_path / "wrapper"), "pins.txt", str(uv)]
    done = subprocess.run(command, text=True, capture_output=True, timeout=60)
    assert (done.returncode, list((tmp_path / "wrapper").iterdir())) == (0, [])
    assert done.stdout == (
        f"No Python 3.11 to 3.13 was found for {tmp_path / 'wrapper'}: the tests that need it are skipped\n"
    )


def make_chromium(path: Path) -> subprocess.CompletedProcess[str]:
    """Run `make chromium` where `path` alone has the commands."""
    return subprocess.run(
        [shutil.which("make") or "make", "chromium"],
        cwd=CODE.parent,
        env={"PATH": str(path)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_chromium_is_not_installed_twice_and_for_nobody_but_root(tmp_path: Path) -> None:
    (tmp_path / "grep").symlink_to(shutil.which("grep") or "")
    (tmp_path / "id").write_text("#!/bin/sh\necho 1000\n")
    (tmp_path / "id").chmod(0o755)
    refused = make_chromium(tmp_path)
    assert refused.returncode == 2
    assert "Chromium is missing, and only root on Debian can install it with this command" in refused.stdout
    (tmp_path / "chromium").symlink_to(tmp_path / "id")
    assert make_chromium(tmp_path).returncode == 0

"""Every command that the README and `docs/` show on the bundled example prints what stands below it."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import job_dispatch
from job_dispatch import main
from tests.conftest import CODE
from tools import reference

ROOT = CODE.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGE_NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
COMMAND = ["python", "code/run_capsule.py"]
# Line breaks are part of a quoted query.
OPERATORS = set("|&;<>()")


@dataclass(frozen=True)
class Block:
    """A fenced block: the word behind its opening fence, and its lines, of which the first has this number."""

    language: str
    number: int
    lines: list[str]


@dataclass(frozen=True)
class Command:
    number: int
    text: str
    printed: list[str]


def blocks(page: Path) -> Iterator[Block]:
    fence, block = "", Block("", 0, [])
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if fence and line != fence:
            block.lines.append(line)
        elif fence:
            yield block
            fence = ""
        elif opened := re.match("(```+)(.*)", line):
            fence, block = opened[1], Block(opened[2], number + 1, [])
    assert fence == "", f"{page.name}:{block.number - 1}: this fence is not closed"


def commands(block: Block) -> Iterator[Command]:
    """Yield the commands of a block: each begins with `$ ` and goes on while a quote or a backslash is open."""
    found: list[Command] = []
    is_open = False
    for number, line in enumerate(block.lines, start=block.number):
        if is_open:
            found[-1] = Command(found[-1].number, f"{found[-1].text}\n{line}", [])
        elif line.startswith("$ "):
            found.append(Command(number, line.removeprefix("$ "), []))
        else:
            assert found, f"line {number}: a console block begins with a command"
            found[-1].printed.append(line)
            continue
        is_open = is_unfinished(found[-1].text)
    yield from found


def is_unfinished(text: str) -> bool:
    try:
        shlex.split(text)
    except ValueError:
        return True
    return text.endswith("\\")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a command needs of a clone after `make run`, with an empty folder of results, as the working folder."""
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "tests", "benchmarks")
    for name in ("code", "data/example", "environment", "pipeline"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=None if name.startswith("data") else ignored)
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "results").mkdir()
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    # The project is installed there in editable mode, and its other dependencies are those of this interpreter.
    python.write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(tmp_path / "code"))} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (tmp_path / ".venv" / "run.stamp").touch()
    for variable in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "DOCDB_HOST", "DOCDB_VERSION"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", f"{python.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(text: str, checkout: Path) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of a command; the dispatcher alone needs no process of its own."""
    lexer = shlex.shlex(text.replace("\\\n", " "), posix=True, punctuation_chars="".join(OPERATORS))
    lexer.whitespace_split = True
    words = list(lexer)
    if words[:2] != COMMAND or any(set(word) <= OPERATORS for word in words):
        process = subprocess.run(
            ["bash", "-c", text], cwd=checkout, text=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=120
        )
        return process.returncode, process.stdout, process.stderr
    folders = [f"--input_directory={checkout / 'data'}", f"--output_directory={checkout / 'results'}"]
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        try:
            code = main.main([*folders, *words[2:]])
        except SystemExit as error:  # of --help and --version
            code = int(error.code or 0)
    return code, stdout.getvalue(), stderr.getvalue()


def without_times(text: str) -> str:
    text = re.sub(r"\b\d\S*\d(?= (DEBUG|INFO|WARNING|ERROR) )", "TIME", text)
    return re.sub(r"\b\d[\d,.]*(?= (ms|s)\b)", "TIME", text)


def pattern(printed: Sequence[str]) -> str:
    """Return the regular expression that printed lines stand for: `…` is any text, alone on a line any lines."""
    lines = [
        r"(?:.*\n)*" if line.strip() == "…" else re.escape(line).replace("…", ".*") + r"\n"
        for line in without_times("\n".join(printed)).splitlines()
    ]
    return "".join(lines)


def prints(printed: Sequence[str], stdout: str, stderr: str) -> bool:
    """Tell whether a terminal shows the printed lines, with the log or without."""
    lines = stderr.splitlines(keepends=True)
    errors = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    without_log = stdout + "".join(lines[errors[0] :] if errors else [])
    expected = re.compile(pattern(printed))
    # A job file ends without a line break.
    return any(expected.fullmatch(without_times(text.rstrip("\n") + "\n")) for text in (without_log, stderr + stdout))


@pytest.mark.parametrize("page", PAGES, ids=PAGE_NAMES)
def test_every_command_prints_what_the_documentation_says(page: Path, checkout: Path) -> None:
    for command in [command for block in blocks(page) if block.language == "console" for command in commands(block)]:
        code, stdout, stderr = run(command.text, checkout)
        where = f"{page.relative_to(ROOT)}:{command.number}: {command.text}\nexit code {code}\n{stdout}{stderr}"
        assert prints(command.printed, stdout, stderr), where
        assert (code != 0) == any(line.startswith("error: ") for line in command.printed), where


@pytest.mark.parametrize("page", PAGES, ids=PAGE_NAMES)
def test_no_command_on_the_example_stands_where_it_is_not_run(page: Path) -> None:
    wrong = [
        block.number for block in blocks(page) if block.language != "console" and "data/example" in str(block.lines)
    ]
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=PAGE_NAMES)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if target.startswith("https://"):
            continue
        leads_to = page.parent / path if path else page
        assert leads_to.exists(), target
        assert not anchor or anchor in anchors(leads_to), target


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", reference.PARTS)
def test_a_generated_part_of_the_documentation_is_what_the_code_says(name: str) -> None:
    path = reference.DOCS / name
    assert path.read_text(encoding="utf-8") == reference.page(path), "run `make reference`"


def test_the_reference_has_every_public_name_once() -> None:
    assert sorted(name for names in reference.SECTIONS.values() for name in names) == sorted(job_dispatch.__all__)


def test_the_site_has_every_page_of_the_documentation_once() -> None:
    listed = re.findall(r"[\w-]+\.(?:md|ipynb)\b", (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2])
    assert sorted(listed) == sorted(path.name for path in (ROOT / "docs").iterdir() if path.suffix in (".md", ".ipynb"))


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_what_differs_from_the_printed_output_is_found() -> None:
    printed = ["matched  5 assets", "…", "folders  10 in …/results, 0.0 s in all"]
    shown = "matched  5 assets\nskipped  0\njobs     10\nfolders  10 in /tmp/x/results, 1.3 s in all\n"
    assert prints(printed, shown, "14:30:48 INFO    a log line\n")
    assert not prints(printed, shown.replace("5 assets", "6 assets"), "")
    assert not prints(printed, shown + "one line more\n", "")
    assert prints(["error: it …"], "", "14:30:48 INFO    a log line\nerror: it failed\n")

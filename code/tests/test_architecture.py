"""The rules of the house: which way imports run, and how large a room may be."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import CODE

# A wing may import from those before it and from itself; wings of one row do not know each other.
ROWS = (
    ("messages", "model", "frames", "stopping", "failures", "retrying", "pages"),
    ("request",),
    ("metadata", "storage", "jobs"),
    ("cohort", "processed"),
    ("report", "results"),
    ("dispatching",),
    ("main",),
)
LINES_OF_A_FILE = 450
LINES_OF_A_FUNCTION = 60

MODULES = sorted((CODE / "job_dispatch").rglob("*.py"))
FILES = [*MODULES, CODE / "run_capsule.py", CODE / "utils.py"]


def wing(path: Path) -> str:
    return path.relative_to(CODE / "job_dispatch").parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of each module of this project that a file imports, wherever it does so."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def row(wing: str) -> int:
    return next((number for number, wings in enumerate(ROWS) if wing in wings), 0)


def may_import(importer: str, imported: str) -> bool:
    if row(importer) == row(imported):
        return importer == imported or row(importer) == 0
    return row(importer) > row(imported)


def forbidden(path: Path) -> Iterator[str]:
    for line, name in imported(path):
        top, *below = name.split(".")
        is_forbidden = top in ("run_capsule", "utils", "tests", "benchmarks") or (
            top == "job_dispatch" and not may_import(wing(path), below[0])
        )
        if is_forbidden:
            yield f"{path.relative_to(CODE)}:{line} imports {name}"


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(CODE).with_suffix("").parts)


def circles() -> list[list[str]]:
    names = {module_name(path) for path in MODULES}
    below = {
        module_name(path): {
            target for _, name in imported(path) for target in (name, name.rpartition(".")[0]) if target in names
        }
        for path in MODULES
    }
    found = []

    def follow(name: str, way: list[str]) -> None:
        if name in way:
            found.append(way[way.index(name) :])
        elif name not in done:
            for target in sorted(below[name]):
                follow(target, [*way, name])
            done.add(name)

    done: set[str] = set()
    for name in sorted(below):
        follow(name, [])
    return found


def undocumented(function: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
    """Return a function without its docstring, which says at length what a public one takes."""
    body = function.body[ast.get_docstring(function) is not None :]
    return ast.Module(body, [])


def test_no_wing_imports_a_later_one_or_a_sibling() -> None:
    assert [line for path in MODULES for line in forbidden(path) if path.name != "__init__.py"] == []


def test_no_imports_run_in_a_circle() -> None:
    assert circles() == []


def test_an_import_upward_is_named_by_file_and_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.test_architecture.CODE", tmp_path)
    wrong = tmp_path / "job_dispatch" / "storage" / "wrong.py"
    wrong.parent.mkdir(parents=True)
    wrong.write_text("def f():\n    from job_dispatch.report import page\n")
    assert list(forbidden(wrong)) == ["job_dispatch/storage/wrong.py:2 imports job_dispatch.report.page"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CODE)))
def test_no_file_and_no_function_is_too_long_to_be_one_subject(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LINES_OF_A_FILE
    long = [
        f"{path.name}:{node.lineno} {node.name}"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and len(ast.unparse(undocumented(node)).splitlines()) > LINES_OF_A_FUNCTION
    ]
    assert long == []


def test_an_import_of_a_sibling_wing_is_named_by_file_and_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.test_architecture.CODE", tmp_path)
    wrong = tmp_path / "job_dispatch" / "storage" / "wrong.py"
    wrong.parent.mkdir(parents=True)
    wrong.write_text("from job_dispatch.metadata import catalog\n")
    assert list(forbidden(wrong)) == ["job_dispatch/storage/wrong.py:1 imports job_dispatch.metadata.catalog"]


def test_groups_of_tasks_are_made_in_one_place_alone() -> None:
    """A bare one raises a group of errors, which no `except` of a single error meets."""
    using = [module_name(path) for path in FILES if "TaskGroup(" in path.read_text()]
    assert using == ["job_dispatch.storage.loop"]

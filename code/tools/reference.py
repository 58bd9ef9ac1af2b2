"""Write the generated parts of `docs/`: all flags, the Python functions, and the fields of the job file.

`make reference` runs it. A page holds its part between two marks; the text around them is written by hand.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import job_dispatch
from job_dispatch.request.flags import declared

DOCS = Path(__file__).resolve().parents[2] / "docs"
_BEGIN, _END = "<!-- generated -->", "<!-- end -->"
_PART = re.compile(f"(?<={re.escape(_BEGIN)}\n).*?(?={re.escape(_END)})", re.DOTALL)

# Where a page tells more about a flag.
_MORE = {
    "docdb_query": "queries.md#writing-a-query",
    "use_data_asset_csv": "queries.md#a-table-of-data-assets",
    "group_by": "queries.md#groups-and-latest-versions",
    "describe": "pick-a-cohort.md#see-what-there-is",
    "qc": "queries.md#quality-control",
    "filter_latest": "queries.md#the-latest-version",
    "with_raw": "pair-raw-and-derived.md",
    "skip_processed": "only-what-is-new.md#with-a-results-database",
    "exclude": "only-what-is-new.md#with-a-list",
    "file_extension": "files-and-folders.md#files",
    "file_pattern": "files-and-folders.md#files-by-pattern",
    "report_directory": "files-and-folders.md#looking-before-and-after",
    "sample": "how-long.md#the-jobs",
    "analysis_parameters": "parameters.md",
    "parameter_schema": "parameters.md#checking-them-first",
    "balance": "files-and-folders.md#worker-folders",
    "save_catalog": "sources.md#a-frozen-cohort",
    "metadata_catalog": "sources.md",
    "name_pattern": "sources.md#a-folder-or-a-bucket",
    "docdb_database": "fields.md",
}
# The public names, in the order in which a reader meets them.
SECTIONS = {
    "Sources of records": ("DocDb", "Catalog", "Folder"),
    "The four steps": ("select", "locate", "plan", "write"),
    "After the dispatch": ("run", "status", "read_results"),
    "Results of the steps": ("Cohort", "Files", "Jobs", "AnalysisDispatchModel", "RunStatus", "Skipped"),
    "Errors": ("RequestError", "ServiceError"),
}


def flags() -> Iterator[str]:
    """Yield a table of flags for each group of `--help`."""
    group = ""
    for name, flag in declared().items():
        if flag.group != group:
            group = flag.group
            yield from (
                f"\n## {group.capitalize()}\n",
                "| flag | value | default | meaning |",
                "| --- | --- | --- | --- |",
            )
        more = f" [More]({_MORE[name]})" if name in _MORE else ""
        default = f"`{flag.default}`" if flag.default else ""
        takes = flag.takes.replace("|", r"\|")
        yield f"| `--{name}` | {takes} | {default} | {_cell(flag.meaning)}.{more} |"
    yield ""


def _cell(text: str) -> str:
    """Return text for a cell of a table, with code as such."""
    code = r'(?<![\w/.])(--\w+(?:=\S*[\w/])?|@\w+(?:,@\w+)*|\{\S+|""|__?(?!\w)|_id)'
    text = re.sub(code, r"`\1`", text.replace("|", r"\|"))
    return text[:1].upper() + text[1:]


def job_fields() -> Iterator[str]:
    """Yield the table of the fields of a job file."""
    yield from ("| field | type | meaning |", "| --- | --- | --- |")
    for name, field in job_dispatch.AnalysisDispatchModel.model_fields.items():
        kind = str(field.annotation).replace("typing.", "").removesuffix(" | None")
        kind = kind if "[" in kind else getattr(field.annotation, "__name__", kind)
        yield f"| `{name}` | `{kind}` | {_cell(str(field.description))} |".replace(" | None]", r" \| None]")


def library() -> Iterator[str]:
    """Yield the public names of the library with their docstrings."""
    for title, names in SECTIONS.items():
        yield f"## {title}\n"
        for name in names:
            value = getattr(job_dispatch, name)
            yield f"### {name}\n"
            yield from _signature(name, value)
            is_result = name in SECTIONS["Results of the steps"]
            yield from _docstring(inspect.getdoc(value) or "", "Attributes" if is_result else "Parameters")
            if inspect.isclass(value) and not issubclass(value, BaseException):
                yield from _members(value)


def _signature(name: str, value: Any) -> Iterator[str]:
    """Yield how a function or a source is called; results of the steps are not made by a user."""
    if inspect.isclass(value) and name not in SECTIONS["Sources of records"]:
        return
    shown, is_named = [], False
    for one in inspect.signature(value).parameters.values():
        if one.kind is one.KEYWORD_ONLY and not is_named:
            shown.append("*")
        is_named = is_named or one.kind in (one.KEYWORD_ONLY, one.VAR_POSITIONAL)
        default = repr(str(one.default) if isinstance(one.default, Path) else one.default).replace("<factory>", "…")
        shown.append(str(one).partition(":")[0].partition("=")[0] + ("" if one.default is one.empty else f"={default}"))
    line = f"{name}({', '.join(shown)})"
    if len(line) > 90:
        line = f"{name}(\n    {', '.join(shown)},\n)"
        line = re.sub(r"(.{60,88}?,) ", r"\1\n    ", line)
    yield f"```python\n{line}\n```\n"


def _docstring(text: str, parameters: str) -> Iterator[str]:
    """Yield a docstring in numpy style as Markdown."""
    first, *sections = re.split(r"^(\w+)\n-+\n", text, flags=re.MULTILINE)
    yield f"{first.strip()}\n"
    for title, body in zip(sections[::2], sections[1::2], strict=True):
        if title == "Examples":
            yield f"```pycon\n{body.strip()}\n```\n"
            continue
        yield f"**{parameters if title == 'Parameters' else title}**\n"
        for entry in re.split(r"^(?=\S)", body, flags=re.MULTILINE)[1:]:
            head, _, rest = entry.partition("\n")
            names, _, kind = head.partition(" : ")
            described = " ".join(inspect.cleandoc(rest).split())
            yield f"- `{names}`{f' ({kind})' if kind else ''}{f': {described}' if described else ''}"
        yield ""


def _members(value: type) -> Iterator[str]:
    """Yield the public properties and methods of a class, each with the first line of its docstring."""
    for name, member in vars(value).items():
        documented = member.fget if isinstance(member, property) else member
        is_shown = not name.startswith(("_", "model_")) and (inspect.isfunction(documented))
        if is_shown and documented.__doc__ and name not in ("open", "find", "count", "can_count", "close"):
            called = name if isinstance(member, property) else f"{name}()"
            yield f"- `.{called}`: {documented.__doc__.splitlines()[0]}"
    yield ""


PARTS = {"flags.md": flags, "python.md": library, "job-file.md": job_fields}


def page(path: Path) -> str:
    """Return a page with a generated part, as it should be."""
    written = re.sub(r"\n{3,}", "\n\n", "\n".join(PARTS[path.name]())).strip("\n")
    return _PART.sub(lambda _: f"\n{written}\n\n", path.read_text(encoding="utf-8"), count=1)


if __name__ == "__main__":
    for name in PARTS:
        (DOCS / name).write_text(page(DOCS / name), encoding="utf-8")

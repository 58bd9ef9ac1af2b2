"""Execute `docs/notebook.ipynb` and keep what its cells show; `make reference` runs it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from tools.reference import DOCS

NOTEBOOK = DOCS / "notebook.ipynb"
_SECONDS_A_CELL = 600
_ADDRESS = re.compile("file://[^<']*")


def executed(path: Path) -> nbformat.NotebookNode:
    """Return a notebook with its outputs, but for progress and for where the files are; it runs in its folder."""
    notebook: nbformat.NotebookNode = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=_SECONDS_A_CELL,
        startup_timeout=_SECONDS_A_CELL,
        record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    for cell in _code(notebook):
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.outputs:
            texts = {kind: text for kind, text in output.get("data", {}).items() if kind.startswith("text/")}
            output.get("data", {}).update({kind: _ADDRESS.sub("file://…", text) for kind, text in texts.items()})
    return notebook


def shown(notebook: nbformat.NotebookNode) -> list[list[dict[str, Any]]]:
    """Return what each cell of code shows; of a picture that there is one, since its bytes depend on fonts."""
    return [[_content(output) for output in cell.outputs] for cell in _code(notebook)]


def _code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _content(output: nbformat.NotebookNode) -> dict[str, Any]:
    if "data" not in output:
        return dict(output)
    return {kind: "…" if kind == "image/png" else text for kind, text in output.data.items()}


if __name__ == "__main__":
    written = executed(NOTEBOOK)
    # Which Python ran it is no content.
    written.metadata.language_info = {"name": "python"}
    nbformat.write(written, NOTEBOOK)

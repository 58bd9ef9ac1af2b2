"""The notebook of the documentation shows what its cells compute."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from tools import notebook


@pytest.mark.long
@pytest.mark.filterwarnings("default")  # those of the client of Jupyter's kernels
def test_the_notebook_goes_in_ten_cells_from_the_example_to_a_figure_and_shows_what_it_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    saved = notebook.shown(nbformat.read(notebook.NOTEBOOK, as_version=4))
    assert len(saved) == 10
    assert [sorted(output) for output in saved[-1]] == [["image/png", "text/plain"]]
    assert notebook.shown(notebook.executed(notebook.NOTEBOOK)) == saved

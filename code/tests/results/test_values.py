"""What an analysis returns arrives in the table as it was named."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from job_dispatch.results import analysis, status
from job_dispatch.results.gathering import Results
from tests.results.test_page import make_row


def test_the_name_of_a_value_is_no_formula_in_the_table(tmp_path: Path) -> None:
    path = status.write_table(Results(tmp_path, (make_row(values={"=1+1": 2, "-inf": 3}),)))
    with path.open(newline="") as file:
        header = next(csv.reader(file))
    assert "'=1+1" in header
    assert "-inf" in header


def test_two_keys_that_are_one_in_json_are_refused() -> None:
    with pytest.raises(ValueError, match="two keys of a dict become '1' in JSON"):
        analysis.plain({"rates": {1: 2.0, "1": 3.0}})
    assert analysis.plain({"rates": {1: 2.0, 2: 3.0}}) == {"rates": {"1": 2.0, "2": 3.0}}

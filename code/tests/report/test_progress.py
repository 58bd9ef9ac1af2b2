"""Progress: a share of what is known, with thousands separators and without decimals."""

from __future__ import annotations

import gzip
import json
import logging
import re
from pathlib import Path

import pytest

import job_dispatch as jd
from job_dispatch import messages
from job_dispatch.messages import progress, showing_progress
from tests.conftest import BUCKET, World


def test_a_count_has_thousands_separators_and_no_decimals(capsys: pytest.CaptureFixture[str]) -> None:
    with showing_progress(True):
        with progress("reading metadata", "records") as shown:
            shown.advance(12_345)
        with progress("listing files", "assets", 40_000) as shown:
            shown.advance(10_000)
    drawn = capsys.readouterr().err
    assert "reading metadata: 12,345 records [00:00]" in drawn
    assert re.search(r"listing files:  25% .*10,000 of 40,000 assets \[00:00\]", drawn)
    assert not re.search(r"\d\.\d", drawn)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_catalog_shows_what_share_of_it_is_read_before_any_record_matches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    path = tmp_path / f"catalog.jsonl{ending}"
    text = "".join(json.dumps({"_id": str(number)}) + "\n" for number in range(50)).encode()
    path.write_bytes(gzip.compress(text) if ending else text)
    with pytest.raises(jd.RequestError, match="no record matches"):
        jd.select(jd.Catalog(path), {"name": "none such"}, progress=True)
    assert re.search(r"reading metadata: 100% .*0 records", capsys.readouterr().err)


def test_elsewhere_than_on_a_terminal_a_log_line_has_share_and_count(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(messages, "_SECONDS_BETWEEN_LINES", 0.0)
    with caplog.at_level(logging.INFO, "job_dispatch"), progress("listing files", "assets", 40_000) as shown:
        shown.advance(10_000)
    assert caplog.messages == ["listing files: 25%, 10,000 of 40,000 assets"]


def test_objects_that_are_listed_are_shown_with_the_share_of_all_that_is_done_by_then(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "job_dispatch"), progress("listing files", "assets", 4) as shown:
        shown.advance(3)
        shown._next_line = 0.0
        shown.see(1_000)
    assert caplog.messages == ["listing files: 75%, 3 of 4 assets, 1,000 objects listed"]


@pytest.mark.long
def test_while_one_asset_takes_long_the_objects_listed_so_far_are_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "_SECONDS_BETWEEN_LINES", 0.0)
    name = world.records[4]["name"]
    prefix = world.records[4]["location"].removeprefix(f"s3://{BUCKET}/")
    world.s3.put(BUCKET, (f"{prefix}/{number:04}.nwb" for number in range(1_500)), b"1")
    done = world.call(f'--docdb_query={{"name": "{name}"}}', "--file_extension=.nwb")
    assert "INFO    listing files: 0%, 0 of 1 assets, 1,000 objects listed\n" in done.stderr

"""What is a file of an asset: nothing inside a store, no marker of a folder, and names as they are."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.broken_s3 import Broken
from tests.faults.command import Desk, assert_whole

pytestmark = pytest.mark.long

CHUNKS = 40


def test_a_pattern_that_leads_into_a_store_takes_no_chunk_of_it(desk: Desk, front: Broken) -> None:
    front.buckets["bucket"] = {f"a{asset}/sub/data.nwb/{chunk}" for asset in range(3) for chunk in range(CHUNKS)}
    records = [{"_id": f"{n}", "name": f"{n}", "location": f"s3://bucket/a{n}"} for n in range(3)]
    ended = desk.run(records, '--file_pattern=["sub/data.nwb/"]')
    assert_whole(ended, {f"s3://bucket/a{n}/sub/data.nwb" for n in range(3)})
    assert len(ended.jobs) == 3


@pytest.mark.parametrize("pattern", ["notes*", "data/**", "*"])
def test_the_empty_marker_of_a_folder_is_no_file(desk: Desk, front: Broken, pattern: str) -> None:
    front.buckets["bucket"] = {"one/notes/", "one/data/notes/", "one/notes.txt", "one/data/x.txt", "two/x.txt"}
    record = {"_id": "1", "name": "one", "location": "s3://bucket/one"}
    ended = desk.run([record], f"--file_pattern={json.dumps([pattern])}")
    expected = {"notes*": {"notes.txt"}, "data/**": {"data/x.txt"}, "*": {"notes.txt", "data/x.txt"}}[pattern]
    assert_whole(ended, {f"s3://bucket/one/{path}" for path in expected})


WITHOUT_UTF8 = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def local(desk: Desk, folder: str) -> tuple[dict[str, str], str]:
    """Return a record of a local asset, and the address of its file, whose name is UTF-8."""
    place = desk.data / folder
    place.mkdir()
    (place / "dätä.csv").touch()
    return {"_id": "1", "name": "one", "location": f"file://{place}"}, f"file://{place}/dätä.csv"


def test_in_a_latin_1_locale_a_local_name_is_written_as_it_is(desk: Desk, tmp_path: Path) -> None:
    places = tmp_path / "locales"
    places.mkdir()
    words = ["localedef", "-f", "ISO-8859-1", "-i", "C", "--no-archive", "-c", str(places / "latin.ISO-8859-1")]
    try:
        subprocess.run(words, capture_output=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("localedef is not installed")
    if not any(places.iterdir()):
        pytest.skip("localedef cannot make a locale: its sources are not installed")
    changes = {**WITHOUT_UTF8, "LOCPATH": str(places), "LC_ALL": "latin.ISO-8859-1"}
    record, address = local(desk, "asset")
    assert_whole(desk.run([record], "--file_extension=.csv", env=changes), {address})


def test_in_the_c_locale_a_local_name_is_written_as_it_is(desk: Desk) -> None:
    record, address = local(desk, "ässet")
    ended = desk.run([record], "--file_extension=.csv", env={**WITHOUT_UTF8, "LC_ALL": "C"})
    assert_whole(ended, {address})

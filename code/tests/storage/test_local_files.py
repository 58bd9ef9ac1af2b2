"""Which files of an asset in a local folder match: by the rules of S3, and links on top."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from job_dispatch.messages import RequestError, ServiceError
from job_dispatch.storage import local_files
from job_dispatch.storage.matching import ByEnding
from tests.storage.tree import matches as matches_in_s3


def find(folder: Path | str, *endings: str) -> list[str]:
    return [file.address for file in asyncio.run(local_files.find_files(f"file://{folder}", ByEnding(endings)))]


def matches(folder: Path, *endings: str) -> list[str]:
    """Return the matches below a folder, written from there."""
    return [address.removeprefix(f"file://{folder}/") for address in find(folder, *endings)]


def make(folder: Path, *paths: str) -> Path:
    """Make empty files below a folder, and the folder; a path that ends in `/` makes a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).mkdir() if path.endswith("/") else (folder / path).touch()
    return folder


@pytest.fixture
def asset(tmp_path: Path) -> Path:
    """An asset with one file, `a.nwb`, in the folder `sub`."""
    return make(tmp_path / "asset", "sub/a.nwb")


def warned_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert {record.levelname for record in caplog.records} <= {"WARNING"}
    return ["\n  ".join([record.getMessage(), *getattr(record, "details", ())]) for record in caplog.records]


# The rules of S3


def test_stores_are_matches_or_passed_over_and_never_entered(asset: Path) -> None:
    make(asset, "x.nwb/deep/y.nwb", "other.zarr/z.nwb", "old.n5/z.nwb", "run.h5/b.nwb", "B.NWB", "empty.nwb/")
    assert matches(asset, ".nwb") == ["empty.nwb", "run.h5/b.nwb", "sub/a.nwb", "x.nwb"]


SEGMENTS = ["a.zarr", "b.nwb", "c.h5", "d", ".zarr", "e.n5", "f_dff.h5", "g.ome.zarr", "é %2F"]
ENDINGS = (".nwb", ".zarr", ".ome.zarr", ".h5", "_dff.h5", "d")

paths = st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=4).map("/".join)
numbers = itertools.count()


def without_folders(paths: Iterable[str]) -> set[str]:
    """Leave out what is a file and a folder at once: S3 has that, a disk has not."""
    return {path for path in paths if not any(other.startswith(f"{path}/") for other in paths)}


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sets(paths, min_size=1, max_size=10).map(without_folders),
    st.lists(st.sampled_from(ENDINGS), min_size=1, max_size=3, unique=True).map(tuple),
)
def test_the_same_tree_on_disk_and_in_s3_has_the_same_matches(
    tmp_path: Path, paths: set[str], endings: tuple[str, ...]
) -> None:
    folder = make(tmp_path / str(next(numbers)), *paths)
    assert matches(folder, *endings) == sorted(matches_in_s3(paths, "", endings))


# Links


def test_links_to_files_count(asset: Path, tmp_path: Path) -> None:
    make(tmp_path, "elsewhere/target")
    (asset / "linked.nwb").symlink_to(tmp_path / "elsewhere" / "target")
    (asset / "again.nwb").symlink_to("sub/a.nwb")
    assert matches(asset, ".nwb") == ["again.nwb", "linked.nwb", "sub/a.nwb"]


def test_a_link_to_a_folder_is_followed(asset: Path, tmp_path: Path) -> None:
    make(tmp_path, "elsewhere/deep/b.nwb", "elsewhere/x.zarr/c.nwb")
    (asset / "linked").symlink_to(tmp_path / "elsewhere")
    assert matches(asset, ".nwb") == ["linked/deep/b.nwb", "sub/a.nwb"]


def test_a_link_to_a_store_is_a_store(asset: Path, tmp_path: Path) -> None:
    make(tmp_path, "store/0/b.nwb")
    (asset / "x.nwb").symlink_to(tmp_path / "store")
    (asset / "y.zarr").symlink_to(tmp_path / "store")
    assert matches(asset, ".nwb") == ["sub/a.nwb", "x.nwb"]


def test_two_links_to_one_folder_are_followed_once(
    asset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, "elsewhere/b.nwb")
    (asset / "l1").symlink_to(tmp_path / "elsewhere")
    (asset / "l2").symlink_to(tmp_path / "elsewhere")
    assert matches(asset, ".nwb") == ["l1/b.nwb", "sub/a.nwb"]
    assert warned_of(caplog) == [f"{asset}: 1 link skipped:\n  {asset}/l2: a link to a folder that is listed already"]


@pytest.mark.parametrize("link", ["a_link_before_it", "z_link_after_it", "sub/link"])
def test_a_link_to_a_folder_that_is_walked_anyway_lists_nothing_twice(
    asset: Path, link: str, caplog: pytest.LogCaptureFixture
) -> None:
    make(asset, "sub/deep/b.nwb")
    (asset / link).symlink_to(asset / "sub" / "deep")
    assert matches(asset, ".nwb") == ["sub/a.nwb", "sub/deep/b.nwb"]
    assert warned_of(caplog) == [
        f"{asset}: 1 link skipped:\n  {asset}/{link}: a link to a folder that is listed already"
    ]


@pytest.mark.parametrize("target", [".", "..", "../..", "/", "../asset"])
def test_a_link_to_a_folder_above_is_skipped_with_a_warning(
    asset: Path, target: str, caplog: pytest.LogCaptureFixture
) -> None:
    make(asset.parent, "beside/b.nwb")
    (asset / "up").symlink_to(target)
    assert matches(asset, ".nwb") == ["sub/a.nwb"]
    assert warned_of(caplog) == [f"{asset}: 1 link skipped:\n  {asset}/up: a link to a folder that is listed already"]


def test_two_folders_that_link_to_each_other_are_listed_once_each(
    asset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, "one/1.nwb", "two/2.nwb")
    (tmp_path / "one" / "two").symlink_to("../two")
    (tmp_path / "two" / "one").symlink_to("../one")
    (asset / "one").symlink_to("../one")
    assert matches(asset, ".nwb") == ["one/1.nwb", "one/two/2.nwb", "sub/a.nwb"]
    assert warned_of(caplog) == [
        f"{asset}: 1 link skipped:\n  {asset}/one/two/one: a link to a folder that is listed already"
    ]


@pytest.mark.parametrize("links", [{"x": "missing"}, {"x": "x"}, {"x": "y", "y": "x"}, {"x.nwb": "missing"}])
def test_links_that_lead_nowhere_are_skipped_with_a_warning(
    asset: Path, links: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    for name, target in links.items():
        (asset / name).symlink_to(target)
    assert matches(asset, ".nwb") == ["sub/a.nwb"]
    [warning] = warned_of(caplog)
    assert warning.splitlines() == [
        f"{asset}: {len(links)} link{'s' * (len(links) > 1)} skipped:",
        *(f"  {asset}/{name}: a broken link" for name in links),
    ]


def test_a_location_may_be_a_link(asset: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(asset)
    assert find(tmp_path / "link", ".nwb") == [f"file://{tmp_path}/link/sub/a.nwb"]


# Names and places


def test_addresses_are_written_as_the_path_is(tmp_path: Path) -> None:
    asset = make(tmp_path / "é %41 a", "a b/100% é#?.nwb")
    assert find(asset, ".nwb") == [f"file://{tmp_path}/é %41 a/a b/100% é#?.nwb"]


def test_a_missing_folder_is_an_error_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as raised:
        find(tmp_path / "missing", ".nwb")
    assert str(raised.value) == f"no such local folder: {tmp_path}/missing"


def test_a_missing_store_is_an_error_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as raised:
        find(tmp_path / "missing.nwb", ".nwb")
    assert str(raised.value) == f"no such local folder: {tmp_path}/missing.nwb"


def test_a_path_that_no_disk_can_hold_is_an_error_with_its_path(tmp_path: Path) -> None:
    with pytest.raises((RequestError, ServiceError), match="x" * 300):
        find(tmp_path / ("x" * 300), ".nwb")


def test_a_location_that_is_a_file_matches_itself_or_nothing(asset: Path) -> None:
    assert find(asset / "sub" / "a.nwb", ".nwb") == [f"file://{asset}/sub/a.nwb"]
    assert find(asset / "sub" / "a.nwb", ".h5") == []
    make(asset, "notes.txt")
    assert find(asset / "notes.txt", ".nwb") == []


def test_a_location_that_is_a_store_matches_itself_or_nothing(asset: Path) -> None:
    make(asset, "x.zarr/a.nwb")
    assert find(asset / "x.zarr", ".zarr") == [f"file://{asset}/x.zarr"]
    assert find(asset / "x.zarr", ".nwb") == []


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS takes no name that is not UTF-8")
def test_a_match_whose_name_is_not_utf_8_is_an_error_that_shows_it(asset: Path) -> None:
    (asset / os.fsdecode(b"\xff.nwb")).touch()
    with pytest.raises(ServiceError) as raised:
        find(asset, ".nwb")
    path = os.fsencode(asset) + b"/\xff.nwb"
    assert str(raised.value) == f"the name of a file is not UTF-8: {path!r}; rename it"


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS takes no name that is not UTF-8")
def test_other_names_may_be_anything(asset: Path) -> None:
    make(asset, os.fsdecode(b"\xff.txt"), os.fsdecode(b"\xff/b.txt"), "tab\t.txt", "line\n.txt")
    assert matches(asset, ".nwb") == ["sub/a.nwb"]


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root reads every folder")
def test_an_unreadable_folder_is_an_error_with_its_path(asset: Path) -> None:
    (asset / "sub").chmod(0)
    try:
        with pytest.raises(ServiceError) as raised:
            find(asset, ".nwb")
    finally:
        (asset / "sub").chmod(0o755)
    assert str(raised.value) == f"cannot be read: {asset}/sub: Permission denied"


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root reads every folder")
def test_a_location_below_an_unreadable_folder_is_an_error_with_its_path(asset: Path) -> None:
    make(asset, "sub/deep/b.nwb")
    (asset / "sub").chmod(0)
    try:
        with pytest.raises((RequestError, ServiceError), match="sub/deep"):
            find(asset / "sub" / "deep", ".nwb")
    finally:
        (asset / "sub").chmod(0o755)


def test_links_to_files_count_with_their_size_where_a_store_is_measured(asset: Path, tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"12345")
    make(asset, "x.zarr/0")
    (asset / "x.zarr" / "1").symlink_to(tmp_path / "blob")
    assert asyncio.run(local_files.measure(f"file://{asset}/x.zarr")) == 5


def test_a_folder_of_great_depth_is_measured(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1_100):  # more than Python can call one function within itself
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    try:
        assert asyncio.run(local_files.measure(f"file://{tmp_path}/d")) == 0
    finally:
        subprocess.run(["rm", "-r", str(tmp_path / "d")], check=True)


def test_a_location_that_holds_a_nul_is_named() -> None:
    with pytest.raises(RequestError, match=r"^no such local folder: "):
        find("/no\0where", ".nwb")

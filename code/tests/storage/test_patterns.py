"""Files by pattern: git's own reading of them is the truth, a store stays one thing, fixed folders save requests."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job_dispatch.messages import RequestError
from job_dispatch.request import flag_values
from job_dispatch.storage.keys import Experience, Order
from job_dispatch.storage.listing import Slots, list_keys
from job_dispatch.storage.matching import ByEnding, ByPattern, Matches, Matching
from tests.both_sources import error_block
from tests.conftest import BUCKET, Completed, World
from tests.storage.tree import Tree

PATTERNS = [
    "*.csv", "**/*_events.csv", "plane_*/dff.h5", "a/b", "/a", "a/", "a/**", "**/raw/**", "b/*.h5", "[ab]*.csv",
    "?.csv", "/*.csv", "a/**/c.h5", "dff.h5", "**", "*", "plane_0", "raw/",
    "[!a]*.csv", "[^a]*.csv", "[a-c].*", "[]a].csv", "x\\_events.csv", "\\*.csv", "[a&&b].csv", "[[a].csv",
]  # fmt: skip
names = st.sampled_from(["a", "b", "raw", "plane_0", "plane_1", "c.h5", "dff.h5", "a.csv", "x_events.csv", "ab.csv"])
trees = st.sets(st.lists(names, min_size=1, max_size=4).map("/".join), min_size=1, max_size=12)


def taken(patterns: Sequence[str], paths: Sequence[str]) -> list[str]:
    matching = ByPattern(patterns)
    return [path for path in paths if matching.matches(path)]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("git") is None:
        pytest.skip("needs git")
    folder = tmp_path_factory.mktemp("repository")
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    return folder


def ignored_by_git(repository: Path, patterns: Sequence[str], paths: Sequence[str]) -> list[str]:
    (repository / ".gitignore").write_text("\n".join(patterns))
    command = ["git", "-c", "core.excludesFile=/dev/null", "check-ignore", "--no-index", "--stdin", "-z"]
    done = subprocess.run(command, cwd=repository, input="\0".join(paths) + "\0", capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return [path for path in done.stdout.split("\0") if path]


@settings(max_examples=120, deadline=None)
@given(patterns=st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=3), paths=trees)
def test_patterns_take_what_git_would_ignore(repository: Path, patterns: list[str], paths: set[str]) -> None:
    assert taken(patterns, sorted(paths)) == ignored_by_git(repository, patterns, sorted(paths))


PLANES = [
    "plane_0/dff.h5",
    "plane_0/raw/dff.h5",
    "plane_1/dff.h5",
    "x/plane_2/dff.h5",
    "raw/a_events.csv",
    "a_events.csv",
]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("plane_*/dff.h5", ["plane_0/dff.h5", "plane_1/dff.h5"]),
        ("dff.h5, !**/raw/**", ["plane_0/dff.h5", "plane_1/dff.h5", "x/plane_2/dff.h5"]),
        ("!**/raw/**, dff.h5", ["plane_0/dff.h5", "plane_0/raw/dff.h5", "plane_1/dff.h5", "x/plane_2/dff.h5"]),
        ("dff.h5, !raw/, plane_0/raw/dff.h5", PLANES[:4]),
        ("**/*_events.csv", PLANES[4:]),
        ("plane_0", PLANES[:2]),
        ('["plane_1/*", "/*.csv"]', ["plane_1/dff.h5", "a_events.csv"]),
    ],
)
def test_order_counts_and_an_exclamation_mark_takes_back(text: str, found: list[str]) -> None:
    assert taken(flag_values.patterns(text), PLANES) == found


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("!**/raw/**", "includes no file; give a pattern without ! first, such as **/*.nwb"),
        (",,", "includes no file"),
        ("**/x.zarr/**", "leads into a store, which counts as one file; end the pattern with '**/x.zarr'"),
        ("a.nwb/acquisition/*, *.csv", "leads into a store"),
        ("*.csv, !*.zarr/0", "leads into a store"),
        ("!", "is not a pattern of files"),
        ("*.{nwb,csv}", "braces are not supported; write each pattern in full, separated by commas"),
        ("*_[[:digit:]].csv", "named character classes are not supported; write them out, such as [0-9]"),
        ("*[1,2].csv", '; a pattern with commas goes into a JSON list: ["[1,2].csv"]'),
        ("*[a--z].csv", "is not a pattern of files"),
        ("./x.csv", "patterns are relative to the folder of each asset"),
        ("*.csv, !../x.csv", "patterns are relative to the folder of each asset"),
        ("s3://bucket/*.csv", "patterns are relative to the folder of each asset"),
        ("#x", "begins with #, which starts a comment"),
        ('["a", 1]', 'is not a JSON list of texts such as ["**/*.nwb"]'),
    ],
)
def test_what_includes_nothing_or_leads_into_a_store_is_refused(text: str, refused: str) -> None:
    with pytest.raises(RequestError) as error:
        flag_values.patterns(text)
    assert refused in error.value.headline


@pytest.mark.parametrize(
    ("text", "folders"),
    [
        ("nwb/*.nwb", ["nwb/"]),
        ("/nwb/*.nwb", ["nwb/"]),
        ("a/b/**/x.csv, a/b/c/*, d/x.csv", ["a/b/", "d/"]),
        ("a/b*/x.csv", ["a/"]),
        ("nwb/", [""]),
        ("/x.csv", [""]),
        ("*.csv, a/b/*", [""]),
        ("a/b/*, !*.csv", ["a/b/"]),
        (r"a\ b/*", [""]),
        ("sub/data.nwb/", ["sub/"]),
        ("sub/x.zarr/", ["sub/"]),
        ("*.h5, !old/*, sub/run.h5/", [""]),
    ],
)
def test_a_pattern_that_begins_with_fixed_folders_has_only_those_listed(text: str, folders: list[str]) -> None:
    assert ByPattern(flag_values.patterns(text)).folders == folders


def find(tree: Tree, matching: Matching, is_walked: bool | None = None) -> dict[str, int | None]:
    async def run() -> dict[str, int | None]:
        experience = Experience(Order.TEXT, is_walked)
        prefixes = [f"a/{folder}" for folder in matching.folders]
        taken = await list_keys(tree, prefixes, lambda: Matches(matching, "a/"), Slots(256), experience)
        return {key: match.size for key, match in taken.found.items()}

    return asyncio.run(run())


SEGMENTS = ["s.zarr", "b.nwb", "c.h5", "d", "e", "0", "d.x"]
keys = st.sets(
    st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=5).map(lambda parts: "a/" + "/".join(parts)), max_size=30
)


@settings(max_examples=150, deadline=None)
@given(
    keys=keys, ending=st.sampled_from([".nwb", ".zarr", ".h5", ".x"]), is_walked=st.sampled_from([None, True, False])
)
def test_an_ending_is_the_pattern_of_that_ending(keys: set[str], ending: str, is_walked: bool | None) -> None:
    for pattern in (f"**/*{ending}", f"*{ending}"):
        assert find(Tree(keys), ByPattern([pattern]), is_walked) == find(Tree(keys), ByEnding((ending,)), is_walked)


@settings(max_examples=100, deadline=None)
@given(keys=keys, pattern=st.sampled_from(["d/*.nwb", "d/e/**", "d/**/c.h5", "e/d/0", "/d/e/*"]))
def test_listing_only_fixed_folders_loses_nothing(keys: set[str], pattern: str) -> None:
    matching = ByPattern([pattern])
    everywhere = ByPattern([pattern, "no-such-name"])
    assert list(everywhere.folders) == [""]
    assert find(Tree(keys), matching) == find(Tree(keys), everywhere)


@pytest.mark.parametrize("pattern", ["sub/data.nwb/", "sub/data.nwb"])
def test_a_fixed_folder_that_is_a_store_is_one_match_and_its_chunks_are_none(pattern: str) -> None:
    keys = {"a/sub/data.nwb/.zgroup", *(f"a/sub/data.nwb/acquisition/{chunk}" for chunk in range(100))}
    assert find(Tree(keys), ByPattern([pattern])) == {"a/sub/data.nwb": None}


def test_a_fixed_folder_takes_a_fraction_of_the_requests() -> None:
    keys = {f"a/raw/{folder:03}/{number:04}.tif" for folder in range(20) for number in range(1_000)} | {"a/nwb/x.nwb"}
    requests: dict[str, int] = {}
    for pattern in ("nwb/*.nwb", "*.nwb"):
        tree = Tree(keys)
        assert find(tree, ByPattern([pattern])).keys() == {"a/nwb/x.nwb"}
        requests[pattern] = tree.requests
    assert requests["nwb/*.nwb"] <= 2 < 20 <= requests["*.nwb"]


# Whole runs, on S3


@pytest.fixture
def planes(world: World) -> World:
    first, second = world.records[0], world.records[1]
    world.put(
        first, "plane_1/dff.h5", "plane_0/dff.h5", "plane_0/raw/dff.h5", "lick_events.csv", "plane_0/x.ome.zarr/0/0"
    )
    world.put(second, "plane_0/dff.h5")
    return world


def files(done: Completed) -> list[list[str]]:
    assert done.returncode == 0, done.stderr
    return [
        [address.removeprefix(f"{job['s3_location'][0]}/") for address in job["file_location"]] for job in done.jobs
    ]


MOUSE = '--docdb_query={"subject.subject_id": "774659"}'


def test_files_of_a_job_come_in_the_order_of_the_patterns_and_by_path_within_one(planes: World) -> None:
    done = planes.call(
        MOUSE, "--split_files=0", "--file_pattern=*_events.csv, plane_*/, *.nwb, !**/raw/**", "--tasks_per_job=1"
    )
    assert files(done) == [
        [
            "lick_events.csv",
            "plane_0/dff.h5",
            "plane_0/x.ome.zarr",
            "plane_1/dff.h5",
            "nwb/behavior_774659_2025-06-07_14-31-15.nwb",
        ],
        ["plane_0/dff.h5", "nwb/experiment1_recording1.nwb", "nwb/experiment1_recording2.nwb"],
    ]
    assert "1 asset without a file that fits *_events.csv, plane_*/, *.nwb, !**/raw/**; skipped:" in done.stderr


@pytest.mark.parametrize(
    ("flag", "lacking"),
    [
        ("--file_pattern=plane_0/dff.h5,*_events.csv", "*_events.csv"),
        ("--file_extension=dff.h5,_events.csv", "_events.csv"),
    ],
)
def test_an_asset_without_a_match_for_each_is_skipped_by_name(
    planes: World, flag: str, lacking: str, tmp_path: Path
) -> None:
    done = planes.call(MOUSE, "--split_files=0", flag, "--require_files=1", f"--report_directory={tmp_path}/report")
    assert [job["docdb_record_id"] for job in done.jobs] == [[planes.records[0]["_id"]]]
    asset = f"{planes.records[1]['name']} (s3://{BUCKET}/{planes.records[1]['name']})"
    warned = f"WARNING 1 asset without a required file; skipped:\n  {asset}: without a file for {lacking}\n"
    assert warned in done.stderr
    assert f"without a file for {lacking}" in (tmp_path / "report" / "skipped.csv").read_text()


def test_where_no_asset_has_every_required_file_the_run_stops(planes: World) -> None:
    done = planes.call(MOUSE, "--file_pattern=dff.h5,nowhere.csv", "--require_files=1")
    assert done.returncode == 2
    assert error_block(done)[0] == "error: --require_files=1: no asset has every file that is required"


def test_a_catalog_of_local_folders_gives_the_same(planes: World, tmp_path: Path) -> None:
    from tests.both_sources import call_catalog

    record = planes.records[0]
    for path in ("plane_1/dff.h5", "plane_0/dff.h5", "plane_0/raw/dff.h5", "plane_0/x.ome.zarr/0/0"):
        (tmp_path / "asset" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "asset" / path).write_text("")
    planes.records[:] = [{**record, "location": f"file://{tmp_path}/asset"}]
    done = call_catalog(planes, MOUSE, "--split_files=0", "--file_pattern=plane_*/**, !raw/")
    assert files(done) == [["plane_0/dff.h5", "plane_0/x.ome.zarr", "plane_1/dff.h5"]]


@pytest.mark.parametrize(
    ("flag", "hints"),
    [
        ("--file_extension=.mp4", []),
        ("--file_extension=.CSV", ["upper and lower case differ: there is behavior/trials.csv"]),
        ("--file_pattern=Plane_0/*.h5", ["upper and lower case differ: there is plane_0/dff.h5"]),
        ("--file_extension=.mp4 .avi", ["several are separated by commas: .mp4,.avi"]),
        ("--file_pattern=*.mp4;*.avi", ["several are separated by commas: *.mp4,*.avi"]),
    ],
)
@pytest.mark.long
def test_where_nothing_matches_what_does_occur_is_said(planes: World, flag: str, hints: list[str]) -> None:
    done = planes.call(MOUSE, flag)
    headline, seen, *more = error_block(done)
    assert headline.startswith(f"error: {flag.partition('=')[0]}: no asset has a file ")
    assert seen == "  in 3 assets looked at: .h5 4, .csv 3, .json 2, .nwb 2, .nwb 1 (stores), .zarr 1 (stores)"
    assert more[: len(hints)] == [f"  {hint}" for hint in hints]


def test_endings_and_patterns_together_and_required_files_of_none_are_refused(desk: World) -> None:
    for flags, said in (
        (
            ("--file_pattern=*.csv", "--file_extension=nwb,_dff.h5"),
            "--file_pattern and --file_extension: give one; as patterns the endings are **/*.nwb,**/*_dff.h5",
        ),
        (
            ("--require_files=1",),
            "--require_files=1 needs --file_pattern or --file_extension: the files that are required",
        ),
    ):
        assert error_block(desk.call(*flags, "--docdb_query={}")) == [f"error: {said}"]


def test_the_preview_counts_files_by_pattern(planes: World) -> None:
    done = planes.call(MOUSE, "--file_pattern=plane_*/dff.h5,*_events.csv", "--dry_run=1")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "plane_*/dff.h5 3 0" in lines
    assert "*_events.csv 1 0" in lines

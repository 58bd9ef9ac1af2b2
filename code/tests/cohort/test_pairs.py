"""A derived asset and its raw one in one job, and the same asset registered twice in one as well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from job_dispatch.cohort.grouping import origins_of
from job_dispatch.metadata.records import asset_of
from tests.both_sources import EVERYTHING, call_both, error_block, logged, make_world, record
from tests.conftest import BUCKET, S3, Completed, World
from tests.gateway import Gateway, Record

PAIRS = ("--docdb_query", '{"data_description.data_level": "derived"}', "--with_raw=1")


def made(name: str, *raw: str, version: str = "v1", **fields: Any) -> Record:
    """Give the record of an asset that was made from others; of a raw one where there are none."""
    field, value = ("input_data_name", raw[0] if raw else None) if version == "v1" else ("source_data", list(raw))
    level = "derived" if raw else "raw"
    return record(name, data_description={"data_level": level, field: value}, **fields)


@pytest.fixture
def world(gateway: Gateway, s3: S3, tmp_path: Path) -> World:
    world = make_world(gateway, tmp_path, s3)
    world.records.extend(
        [
            made("raw-1", subject=1),
            made("raw-2", subject=9),
            made("a", "raw-1", subject=1),
            made("b", "raw-1", version="v2", subject=1),
            made("c", "raw-2", version="v2", subject=2),
        ]
    )
    files = ["a/a.nwb", "b/b.txt", "c/c.txt", "raw-1/z.csv", "raw-2/2.nwb", "raw-2/1.nwb", "torn/t.nwb"]
    s3.put(BUCKET, files)
    return world


def pairs(completed: Completed) -> list[tuple[list[str], list[str]]]:
    assert completed.returncode == 0, completed.stderr
    for job in completed.jobs:
        assert job["docdb_record_id"] == job["asset_name"]
        assert len(job["asset_role"]) == len(job["s3_location"]) == len(job["asset_id"]) == len(job["asset_name"])
    return [(job["asset_name"], job["asset_role"]) for job in completed.jobs]


PAIR = ["derived", "raw"]


def test_each_derived_asset_and_its_raw_one_are_in_one_job_derived_first(world: World) -> None:
    completed = call_both(world, *PAIRS)

    assert pairs(completed) == [(["a", "raw-1"], PAIR), (["b", "raw-1"], PAIR), (["c", "raw-2"], PAIR)]


def test_without_the_flag_no_job_has_roles(world: World) -> None:
    assert all("asset_role" not in job for job in call_both(world, EVERYTHING).jobs)


def test_raw_assets_that_are_selected_come_with_what_was_made_from_them_alone(world: World) -> None:
    completed = call_both(world, EVERYTHING, "--with_raw=1")

    assert pairs(completed) == [(["a", "raw-1"], PAIR), (["b", "raw-1"], PAIR), (["c", "raw-2"], PAIR)]
    assert "--with_raw=1: 2 raw assets that were selected by themselves skipped" in logged(completed, "INFO")


def test_a_group_holds_the_pairs_of_its_derived_assets_and_each_raw_asset_once(world: World) -> None:
    completed = call_both(world, *PAIRS, "--group_by=subject")

    assert pairs(completed) == [
        (["a", "raw-1", "b"], ["derived", "raw", "derived"]),
        (["c", "raw-2"], PAIR),
    ]
    assert [job["group_metadata"] for job in completed.jobs] == [{"subject": 1}, {"subject": 2}]


def test_pairs_are_made_of_the_latest_only(world: World) -> None:
    for number, one in enumerate(world.records):
        one["created"] = f"2025-06-0{number + 1}"

    completed = call_both(world, *PAIRS, "--filter_latest=created", "--filter_by=@raw")

    assert pairs(completed) == [(["b", "raw-1"], PAIR), (["c", "raw-2"], PAIR)]


def test_files_are_looked_for_in_both_and_a_pair_stays_whole_where_only_one_has_some(world: World) -> None:
    completed = call_both(world, *PAIRS, "--file_extension=.nwb")

    assert pairs(completed) == [(["a", "raw-1"], PAIR), (["c", "raw-2"], PAIR)]
    assert [job["file_location"] for job in completed.jobs] == [
        [f"s3://{BUCKET}/a/a.nwb"],
        [f"s3://{BUCKET}/raw-2/1.nwb", f"s3://{BUCKET}/raw-2/2.nwb"],
    ]
    assert "--split_files does not apply with --with_raw: each job lists all files of its pair" in completed.stderr


@pytest.mark.parametrize(
    ("excluded", "left"),
    [
        ("raw-1", [["c", "raw-2"]]),
        ("a", [["b", "raw-1"], ["c", "raw-2"]]),
        ("a\nraw-2", [["b", "raw-1"]]),
        ("raw-1\nraw-2", []),
    ],
)
@pytest.mark.parametrize("asked", [PAIRS, (EVERYTHING, "--with_raw=1")], ids=["derived", "both"])
def test_a_pair_of_which_either_asset_is_excluded_is_left_out_as_excluded(
    world: World, excluded: str, left: list[list[str]], asked: tuple[str, ...]
) -> None:
    (world.input_directory / "done.txt").write_text(f"{excluded}\n")

    completed = call_both(world, *asked, "--exclude=done.txt")

    assert [names for names, _ in pairs(completed)] == left
    assert " excluded" in next(line for line in completed.stdout.splitlines() if line.startswith("skipped"))


def test_the_report_says_that_it_is_the_raw_asset_which_is_excluded(world: World, tmp_path: Path) -> None:
    (world.input_directory / "done.txt").write_text("raw-2\n")

    call_both(world, *PAIRS, "--exclude=done.txt", f"--report_directory={tmp_path / 'report'}", "--overwrite=1")

    rows = (tmp_path / "report" / "skipped.csv").read_text().splitlines()[1:]
    assert len(rows) == 1
    assert rows[0].startswith('"c",')
    assert f"its raw asset is excluded by {world.input_directory / 'done.txt'}" in rows[0]


def test_a_derived_asset_without_its_raw_one_is_an_error_or_left_out_by_name(world: World) -> None:
    world.records.extend([made("d", "gone"), {**made("e"), "data_description": {"data_level": "derived"}}])
    block = [
        "error: --with_raw=1: 2 of 5 derived assets have no raw asset; --skip_errors=1 skips them",
        "  d: no record of its raw asset gone",
        "  e: its record names no raw asset",
    ]

    assert error_block(call_both(world, *PAIRS)) == block
    skipping = call_both(world, *PAIRS, "--skip_errors=1")
    assert [names for names, _ in pairs(skipping)] == [["a", "raw-1"], ["b", "raw-1"], ["c", "raw-2"]]
    assert block[1] in skipping.stderr.splitlines()
    assert "2 without its raw asset" in skipping.stdout


def test_where_no_derived_asset_has_its_raw_one_nothing_is_skipped(world: World) -> None:
    world.records[:] = [made("d", "gone")]

    completed = call_both(world, *PAIRS, "--skip_errors=1")

    assert completed.returncode == 2
    assert error_block(completed)[0] == "error: --with_raw=1: 1 of 1 derived asset has no raw asset"


def test_what_was_made_from_a_derived_asset_is_paired_with_the_raw_one_at_the_start(world: World) -> None:
    world.records.extend([made("f", "c", version="v2"), made("g", "f", "a")])

    completed = call_both(world, "--docdb_query", '{"name": {"$in": ["f", "g"]}}', "--with_raw=1")

    assert pairs(completed) == [(["f", "raw-2"], PAIR), (["g", "raw-2"], PAIR)]


def test_assets_that_name_each_other_as_raw_end_in_an_error(world: World) -> None:
    world.records.extend([made("x", "y"), made("y", "x")])

    completed = call_both(world, "--docdb_query", '{"name": "x"}', "--with_raw=1")

    assert error_block(completed)[1:] == ["  x: no raw asset is behind y"]


def test_where_only_raw_assets_are_selected_there_is_nothing_to_pair(world: World) -> None:
    completed = call_both(world, '--docdb_query={"name": "raw-1"}', "--with_raw=1")

    assert error_block(completed) == [
        "error: --with_raw=1: no derived asset is selected; raw ones come with what was made from them"
    ]


def test_a_pair_of_which_one_asset_cannot_be_read_is_left_out_whole(world: World) -> None:
    world.records[0]["location"] = None

    completed = call_both(world, *PAIRS, "--file_extension=.nwb", "--skip_errors=1")

    assert pairs(completed) == [(["c", "raw-2"], PAIR)]
    assert "1 without the other asset of its pair" in completed.stdout


@pytest.mark.parametrize("level", ["data", "data, version 0.12"])
def test_levels_of_old_records_count_as_raw_and_derived(world: World, level: str) -> None:
    for one in world.records:
        one["data_description"]["data_level"] += f" {level}"
    completed = call_both(world, EVERYTHING, "--with_raw=1")
    assert pairs(completed) == [(["a", "raw-1"], PAIR), (["b", "raw-1"], PAIR), (["c", "raw-2"], PAIR)]
    assert "2 raw assets that were selected by themselves skipped" in completed.stderr


def test_a_location_in_place_of_a_name_means_the_asset_there(world: World) -> None:
    world.records.append(made("d", f"s3://{BUCKET}/raw-2/"))
    assert pairs(call_both(world, "--docdb_query", '{"name": "d"}', "--with_raw=1")) == [(["d", "raw-2"], PAIR)]


def test_a_whole_chain_of_sources_is_followed_to_the_raw_asset_and_only_what_is_missing_is_named(world: World) -> None:
    """As version 2 has it: an element more than once, and one between the two that has no record any more."""
    world.records += [
        made("d", "raw-1", "raw-1", "raw-1_sorted", version="v2"),
        made("e", "raw-1", "raw-3", "raw-3", version="v2"),
    ]
    completed = call_both(world, "--docdb_query", '{"name": {"$in": ["d", "e"]}}', "--with_raw=1", "--skip_errors=1")
    assert pairs(completed) == [(["d", "raw-1"], PAIR)]
    assert "  e: no record of its raw asset raw-3" in completed.stderr.splitlines()


def test_sources_that_name_each_other_crosswise_are_each_looked_at_once(world: World) -> None:
    """A diamond of 42 records, and a chain of 1,100: each was followed along all ways, and by recursion."""
    wide = [made(f"{side}{row}", f"l{row + 1}", f"r{row + 1}", version="v2") for row in range(20) for side in "lr"]
    world.records += [*wide, made("l20", "raw-1"), made("r20", "raw-1")]
    found = pairs(call_both(world, "--docdb_query", '{"name": "l0"}', "--with_raw=1"))
    assert found == [(["l0", "raw-1"], PAIR)]
    chain = [made(f"n{number}", f"n{number + 1}") for number in range(1_100)]
    known = {one["name"]: [(asset_of(one), one)] for one in (*chain, made("n1100"))}
    [raw] = origins_of(asset_of(chain[0]), chain[0], known).raw.values()
    assert raw.name == "n1100"


def test_of_two_raw_assets_of_one_name_that_in_the_bucket_of_the_derived_is_taken_with_a_warning(world: World) -> None:
    elsewhere = {**made("raw-1"), "_id": "another", "location": "s3://another-bucket/raw-1"}
    world.records.append(elsewhere)
    completed = call_both(world, *PAIRS)
    assert pairs(completed) == [(["a", "raw-1"], PAIR), (["b", "raw-1"], PAIR), (["c", "raw-2"], PAIR)]
    assert [job["s3_location"][1] for job in completed.jobs] == [f"s3://{BUCKET}/raw-{number}" for number in (1, 1, 2)]
    assert f"  a: s3://{BUCKET}/raw-1" in completed.stderr.splitlines()


@pytest.mark.parametrize("places", [("x", "y"), (BUCKET, BUCKET)], ids=["in neither bucket", "both in its bucket"])
def test_a_pair_with_two_raw_assets_of_one_name_that_no_bucket_decides_is_refused_or_skipped(
    world: World, places: tuple[str, str]
) -> None:
    world.records[0]["location"] = f"s3://{places[0]}/raw-1"
    world.records.append({**made("raw-1"), "_id": "another", "location": f"s3://{places[1]}/other/raw-1"})
    told = f"several assets are named raw-1: s3://{places[1]}/other/raw-1, s3://{places[0]}/raw-1"
    if places[0] < places[1]:
        told = f"several assets are named raw-1: s3://{places[0]}/raw-1, s3://{places[1]}/other/raw-1"
    assert f"  a: {told}" in error_block(call_both(world, *PAIRS))
    skipping = call_both(world, *PAIRS, "--skip_errors=1")
    assert pairs(skipping) == [(["c", "raw-2"], PAIR)]


def test_one_name_in_two_buckets_is_two_assets_with_a_warning(world: World) -> None:
    world.records.append({**made("raw-2"), "_id": "another", "location": "s3://another-bucket/raw-2"})
    completed = call_both(world, "--docdb_query", '{"name": "raw-2"}')
    assert len(completed.jobs) == 2
    assert "several assets have the same name, all of which are taken:" in logged(completed, "WARNING")
    assert "  raw-2: s3://another-bucket/raw-2" in completed.stderr.splitlines()


# Registered twice


def test_an_asset_has_one_job_name_by_whichever_of_its_ids_and_records_it_is_selected(world: World) -> None:
    at = {"name": "n", "location": f"s3://{BUCKET}/n"}
    world.records[:] = [
        {**record("1"), **at, "external_links": {"Code Ocean": ["id-1", "id-2"]}},
        {**record("2"), **at, "created": "2025-06-01", "other_identifiers": {"Code Ocean": ["id-3"]}},
    ]
    names = [call_both(world, EVERYTHING).folders]
    for asset_id in ("id-1", "id-2", "id-3"):
        (world.input_directory / "data_asset_input.csv").write_text(f"asset_id\n{asset_id}\n")
        completed = call_both(world, "--use_data_asset_csv=1")
        names.append(completed.folders)
    assert names == [names[0]] * 4


def test_of_two_records_of_an_asset_that_with_a_code_ocean_id_is_taken(world: World) -> None:
    at = {"name": "n", "location": f"s3://{BUCKET}/n", "created": "2025-06-01"}
    world.records[:] = [
        {**record("1"), **at, "external_links": {"Code Ocean": ["id-1"]}},
        {**record("2"), **at, "other_identifiers": {}},
    ]
    assert [job["docdb_record_id"] for job in call_both(world, EVERYTHING).jobs] == [["1"]]


def test_an_asset_that_is_registered_twice_makes_one_job_of_the_record_that_was_made_last(world: World) -> None:
    world.records[:] = [
        {**record("1"), "name": "n", "location": f"s3://{BUCKET}/n", "created": "2025-06-03"},
        {**record("2"), "name": "n", "location": f"s3://{BUCKET}/n/", "created": "2025-06-01"},
        {
            **record("3"),
            "name": "n",
            "location": f"s3://{BUCKET}/n",
            "created": "2025-06-01",
            "data_description": {"creation_time": "2025-06-03T02:00:00+02:00"},
        },
        {**record("4"), "name": "n", "location": f"s3://{BUCKET}/elsewhere"},
        {**record("5"), "name": "another", "location": f"s3://{BUCKET}/n"},
    ]

    completed = call_both(world, EVERYTHING)

    assert completed.returncode == 0, completed.stderr
    assert sorted(job["docdb_record_id"][0] for job in completed.jobs) == ["3", "4", "5"]
    assert "2 records of assets that are registered twice skipped:" in logged(completed, "WARNING")
    assert "  n: 3 is taken, 1 is not" in completed.stderr.splitlines()
    assert "2 registered twice" in completed.stdout


def test_the_parameters_of_rows_for_either_record_of_an_asset_are_kept(world: World) -> None:
    world.records[:] = [
        {**record("1"), "name": "n", "location": f"s3://{BUCKET}/n", "external_links": {"Code Ocean": ["id-1"]}},
        {**record("2"), "name": "n", "location": f"s3://{BUCKET}/n", "external_links": {"Code Ocean": ["id-2"]}},
    ]
    rows = "asset_id,parameters.x\nid-1,1\nid-2,2\n"
    (world.input_directory / "data_asset_input.csv").write_text(rows)

    completed = call_both(world, "--use_data_asset_csv=1")

    found = [(job["docdb_record_id"], json.dumps(job["distributed_parameters"])) for job in completed.jobs]
    assert sorted(found) == [(["2"], '{"x": 1}'), (["2"], '{"x": 2}')]

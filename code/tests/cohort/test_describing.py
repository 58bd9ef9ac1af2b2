"""What there is, counted: DocDB counts by `$group`, a catalog is read, and both say what a plain count says."""

from __future__ import annotations

import json
import random
import shlex
from collections import Counter
from pathlib import Path

import pytest

from tests.both_sources import assert_refused, call_catalog, make_world
from tests.conftest import Completed, World
from tests.gateway import Fault, Gateway, Record

PROJECTS = ("Behavior Platform", "Ephys, chronic", "Zoë's", "unknown", None)
MODALITIES = ("behavior", "ecephys", "pophys")
# The first word is the level.
LEVELS = ("raw", "derived", "raw data", "derived data")
STATUSES = ("Pass", "Pending", "Fail")


@pytest.fixture
def lab(gateway: Gateway, tmp_path: Path) -> World:
    world = make_world(gateway, tmp_path)
    draw = random.Random(3)
    for number in range(120):
        modalities = [{"abbreviation": one} for one in draw.sample(MODALITIES, draw.randint(0, 2))]
        start = draw.choice([f"2025-0{draw.randint(1, 3)}-{draw.randint(10, 28)}T23:30:00-07:00", None])
        record: Record = {
            "_id": f"r{number:03d}",
            "name": f"asset_{number:03d}",
            "location": f"s3://open-data/asset_{number:03d}",
            "subject": draw.choice([None, {"subject_id": str(draw.randint(1, 9))}]),
            "data_description": {"project_name": draw.choice(PROJECTS), "data_level": draw.choice(LEVELS)},
            "rig": {"0.025": {"gain": 4}, "depth": draw.choice([1, 1.0, True, "1"]), "grid": [[1, 2], [{"x": 3}]]},
        }
        history = [{"status": draw.choice(STATUSES), "timestamp": "2024-01-01T00:00:00Z"}]
        if number % 2:
            record["data_description"]["modality"] = modalities
            record["session"] = {"session_start_time": start}
            judged = [{"modality": one, "metrics": [{"status_history": history}]} for one in modalities]
            record["quality_control"] = draw.choice([None, {"evaluations": judged}])
        else:
            record["data_description"]["modalities"] = modalities
            record["acquisition"] = {"acquisition_start_time": start}
            judged = [{"modality": one, "status_history": history} for one in modalities]
            record["quality_control"] = draw.choice([None, {"metrics": judged}])
        world.records.append(record)
    return world


def described(completed: Completed) -> dict[str, dict[str, int]]:
    """Give the tables that a description prints: by the name of a trait, its values and their numbers."""
    assert completed.returncode == 0, completed.stderr
    assert completed.folders == {}
    tables: dict[str, dict[str, int]] = {}
    for block in completed.stdout.split("\n\n")[1:-1]:
        head, *lines = block.splitlines()
        width = head.index("assets") + len("assets")
        name = head[:width].split()[0]
        rows = [
            line[:width].rsplit(None, 1) for line in lines if line[:width].strip() and line[width - 1 : width].isdigit()
        ]
        tables[name] = {value.strip(): int(number) for value, number in rows}
    return tables


def plain_counts(records: list[Record]) -> dict[str, dict[str, int]]:
    """Count by a few lines that know nothing of the code under test."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("project", "modality", "level", "month", "subject")}
    for record in records:
        description = record["data_description"]
        counts["project"][description["project_name"] or "(unknown)"] += 1
        counts["level"][description["data_level"].split()[0]] += 1
        listed = description.get("modality", []) + description.get("modalities", [])
        counts["modality"].update([one["abbreviation"] for one in listed] or ["(unknown)"])
        v1, v2 = record.get("session") or {}, record.get("acquisition") or {}
        start = v1.get("session_start_time") or v2.get("acquisition_start_time") or ""
        counts["month"][start[:7] or "(unknown)"] += 1
        counts["subject"][(record["subject"] or {}).get("subject_id") or "(unknown)"] += 1
    return {name: dict(found) for name, found in counts.items()}


def stages(world: World) -> list[str]:
    return [name for request in world.gateway.requests for stage in request.body for name in stage]


def test_docdb_and_a_catalog_count_what_a_plain_count_counts(lab: World) -> None:
    wire = lab.call("--describe=1")
    catalog = call_catalog(lab, "--describe=1")
    for done in (wire, catalog):
        found = described(done)
        assert {name: found[name] for name in plain_counts(lab.records)} == plain_counts(lab.records)
    assert wire.stdout.split("\n\n")[1:-1] == catalog.stdout.split("\n\n")[1:-1]


@pytest.mark.long
def test_each_value_stands_with_what_selects_as_many_assets(lab: World) -> None:
    done = call_catalog(lab, "--describe=1")
    tried = 0
    for block in done.stdout.split("\n\n")[1:-1]:
        for line in block.splitlines()[1:]:
            left, _, flags = line.partition("   --")
            if flags and "assets" not in left:
                selected = call_catalog(lab, *shlex.split(f"--{flags}"), *["--docdb_query={}"] * flags.startswith("qc"))
                assert f"matched  {left.rsplit(None, 1)[1]} asset" in selected.stdout or "skipped (" in selected.stderr
                assert len(selected.jobs) == int(left.rsplit(None, 1)[1]), line
                tried += 1
    assert tried > 30


def test_flags_that_only_matter_to_jobs_change_nothing(lab: World) -> None:
    done = call_catalog(lab, "--describe=1", "--sample=5", "--group_by=@subject")
    assert done.stdout.startswith("120 assets in ")


def test_each_frequent_value_of_a_field_stands_with_what_selects_its_records(lab: World) -> None:
    block = call_catalog(lab, "--describe=1").stdout.split("\n\n")[-1]
    found = [line.partition("   --docdb_query=") for line in block.splitlines()[1:] if " --docdb_query=" in line]
    assert len(found) > 20
    of_rig = [line for line in found if "rig." in line[2]]
    assert len(of_rig) == 3
    for left, _, query in [*found[::5], *of_rig]:
        selected = call_catalog(lab, f"--docdb_query={shlex.split(query)[0]}", "--skip_errors=1")
        assert len(selected.jobs) == int(left.split()[-1].replace(",", "")), left


def test_docdb_groups_in_few_requests_by_stages_that_amazon_documentdb_has(lab: World) -> None:
    assert lab.call("--describe=1").returncode == 0
    assert (
        {"$group", "$match"}
        <= set(stages(lab))
        <= {"$match", "$group", "$sort", "$skip", "$limit", "$project", "$sample"}
    )
    assert stages(lab).count("$group") == 1
    # Only records of which something was judged are read, without the values of their metrics.
    [read] = [request.body for request in lab.gateway.requests if any("$project" in stage for stage in request.body)]
    assert "quality_control.evaluations.0" in json.dumps(read[0])


@pytest.mark.parametrize(
    "flags", [("--qc=pass",), ("--qc=not_fail",), ("--modality=ecephys", "--qc=pass"), ("--from=2025-02-01",)]
)
def test_a_selection_narrows_what_is_described_alike_in_both(lab: World, flags: tuple[str, ...]) -> None:
    wire, catalog = lab.call("--describe=1", *flags), call_catalog(lab, "--describe=1", *flags)
    assert wire.stdout.split("\n\n")[1:-1] == catalog.stdout.split("\n\n")[1:-1]
    jobs = call_catalog(lab, *flags, *["--docdb_query={}"] * (flags[0] in ("--qc=pass", "--qc=not_fail"))).jobs
    assert wire.stdout.startswith(f"{len(jobs)} assets in ")


def test_a_condition_on_an_instant_is_counted_from_the_records(lab: World) -> None:
    query = '--docdb_query={"@session": {"$gte": "2025-02-11T00:00:00Z"}}'
    wire, catalog = lab.call("--describe=1", query), call_catalog(lab, "--describe=1", query)
    assert wire.stdout.split("\n\n")[1:-1] == catalog.stdout.split("\n\n")[1:-1]
    assert "$group" not in stages(lab)


def test_a_table_is_described_as_well(lab: World) -> None:
    (lab.input_directory / "data_asset_input.csv").write_text("name\nasset_001\nasset_002\nasset_003\n")
    for done in (
        lab.call("--describe=1", "--use_data_asset_csv=1"),
        call_catalog(lab, "--describe=1", "--use_data_asset_csv=1"),
    ):
        assert done.stdout.startswith("3 assets in ")
        assert "Of all 3 records (2 v1, 1 v2)." in done.stdout


def test_counts_too_large_for_one_answer_come_in_pages(lab: World) -> None:
    whole = lab.call("--describe=1").stdout
    lab.gateway.requests.clear()
    too_large = Fault(status=413)
    lab.gateway.faults[:] = [too_large] * 11  # 10,000 groups a page become 4
    assert lab.call("--describe=1").stdout.split("\n\n")[1:-1] == whole.split("\n\n")[1:-1]
    assert stages(lab).count("$group") > 10


def test_fields_are_told_of_both_versions_with_their_most_frequent_values(lab: World) -> None:
    for number, record in enumerate(lab.records):
        record["data_description"]["data_level"] = "raw" if number % 3 else "derived"
    done = lab.call("--describe=1")
    lines = done.stdout.splitlines()
    [place] = [number for number, line in enumerate(lines) if line.startswith("data_description.data_level")]
    assert lines[place].split(maxsplit=4)[1:] == [
        "100%", "100%", "80", """--docdb_query='{"data_description.data_level": "raw"}'""",
    ]  # fmt: skip
    assert lines[place + 1].split(maxsplit=1) == [
        "40",
        """--docdb_query='{"data_description.data_level": "derived"}'""",
    ]
    [line] = [line for line in done.stdout.splitlines() if line.startswith("session.session_start_time")]
    assert line.split()[2] == "0%"
    assert "Of all 120 records (60 v1, 60 v2). Not shown: 3 fields that differ in every record" in done.stdout


def test_a_sample_of_many_records_says_that_it_is_one(lab: World) -> None:
    records = [{**lab.records[number % 2], "_id": f"s{number}"} for number in range(3_000)]
    done = lab.call(f"--metadata_catalog={lab.write_catalog(records)}", "--describe=1")
    assert "Of a random sample of 2,000 of 3,000 records (" in done.stdout


def test_where_there_is_nothing_the_condition_to_blame_is_named(lab: World) -> None:
    done = lab.call("--describe=1", "--project=Ephys, none")
    assert done.returncode == 2
    assert "error: there is nothing to describe: no record matches" in done.stderr
    lab.records.clear()
    assert_refused(
        lab,
        lab.call("--describe=1"),
        "error: there is nothing to describe: no record matches",
        "  there is no record at all",
    )


def test_a_page_of_somebody_else_is_replaced_only_if_that_is_wanted(lab: World, tmp_path: Path) -> None:
    page = tmp_path / "report" / "describe.html"
    page.parent.mkdir()
    page.write_text("my thesis")
    flags = ("--describe=1", f"--report_directory={page.parent}")
    refused = lab.call(*flags)
    assert (refused.returncode, page.read_text()) == (2, "my thesis")
    assert "not a page that a description wrote; remove it, or replace it by --overwrite=1" in refused.stderr
    for more in ("--overwrite=1", "--overwrite=0"):
        assert lab.call(*flags, more).returncode == 0
        assert "my thesis" not in page.read_text()
    assert [path.name for path in page.parent.iterdir()] == ["describe.html"]


def test_what_is_excluded_is_not_counted(lab: World) -> None:
    (lab.input_directory / "done.txt").write_text("asset_001\nr002\n")
    flags = ("--describe=1", "--exclude=done.txt")
    for done in (lab.call(*flags), call_catalog(lab, *flags)):
        assert done.stdout.startswith("118 assets in ")


def test_endings_of_files_are_told_where_files_are_asked_for(world: World) -> None:
    done = world.call("--describe=1", "--file_extension=.nwb", "--docdb_query={}")
    [block] = [block for block in done.stdout.split("\n\n") if block.startswith("ending")]
    assert " ".join(block.split()[:4]) == "ending files selected by"
    assert "--file_extension=.nwb" in block
    assert block.endswith("Of the files and stores in 5 assets looked at.")
    assert "ending" not in world.call("--describe=1").stdout.split()

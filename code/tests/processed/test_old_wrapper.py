"""The wrapper that the image of the public pipeline template pins, 0.2.1 on `aind-data-schema` 2.6.0, runs the jobs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from job_dispatch.processed import code_ocean as asking
from job_dispatch.processed.remaining import record_names
from tests.conftest import World
from tests.processed.code_ocean import RESULTS, CodeOceanGateway, process
from tests.processed.released import run_wrapper
from tests.processed.test_wrapper import ATTACHED, FIELDS, FIXED, SETS, job_paths, write_parameters
from tests.processed.wrappers import OLD, needs_old_wrapper
from tests.test_dispatch import succeeded

pytestmark = needs_old_wrapper


@pytest.mark.long
def test_it_runs_jobs_of_known_code_and_names_their_results_as_foreseen(
    lab: World, code_ocean: CodeOceanGateway, tmp_path: Path
) -> None:
    # It fails by itself where a capsule is released: the version is a number then, which its schema refuses.
    code_ocean.serve_pipeline(process(("dry run", "dry_run", "1"), version=None), attached=ATTACHED)
    code_ocean.make_repository([1_700_000_000])
    write_parameters(lab)
    jobs = succeeded(lab.call("--docdb_query={}", "--max_number_of_tasks_dispatched=3")).jobs
    wrapper = asking.Inquiry(10, True).answer()
    assert wrapper is not None
    foreseen, hashes = set(), set()
    # One by one: this wrapper carries parameters and input data over from one job to the next.
    for number, path in enumerate(job_paths(lab.output_directory)):
        ran = run_wrapper(code_ocean, [path], tmp_path / f"{number}", FIELDS, "--dry_run=1", python=OLD)
        hashes.update(ran.hashes)
        [given] = ran.given
        one = next(one for one in SETS if one["method"] == given["parameters"]["method"])
        assert given["parameters"] == {"dry run": "1", **FIXED, **one}
    for job in jobs:
        both = record_names(wrapper, job["s3_location"], None, FIXED, job["distributed_parameters"])
        assert both is not None
        foreseen.add(both[1])
    assert hashes == foreseen
    code_ocean.collections[RESULTS] = [{"_id": name, "name": name} for name in hashes]
    flags = ("--docdb_query={}", "--skip_processed=1", "--overwrite=1")
    assert len(succeeded(lab.call(*flags)).jobs) == 4 * len(SETS) - 3


def test_it_runs_jobs_of_unknown_code_with_and_without_parameters(
    lab: World, code_ocean: CodeOceanGateway, tmp_path: Path
) -> None:
    succeeded(lab.call("--docdb_query={}", "--max_number_of_tasks_dispatched=1"))
    [without] = job_paths(lab.output_directory)
    without = without.rename(tmp_path / without.name)
    fixed = '{"fixed_parameters": {"cutoff": 0.5, "one": 1.0}}'
    (lab.input_directory / "analysis_parameters.json").write_text(fixed)
    succeeded(lab.call("--docdb_query={}", "--max_number_of_tasks_dispatched=1", "--overwrite=1"))
    [with_fixed] = job_paths(lab.output_directory)
    assert json.loads(with_fixed.read_text())["analysis_code"] == {"url": "", "parameters": {"cutoff": 0.5, "one": 1.0}}
    code_ocean.serve_pipeline(process(version=None))
    code_ocean.make_repository([1_700_000_000])
    [given] = run_wrapper(code_ocean, [without], tmp_path / "0", {}, python=OLD).given
    assert given["parameters"] == {}
    fields = {"cutoff": "float"}
    [given] = run_wrapper(code_ocean, [with_fixed], tmp_path / "1", fields, "--cutoff=0.75", python=OLD).given
    assert given["parameters"] == {"cutoff": 0.75, "one": 1.0}

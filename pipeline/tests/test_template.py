"""In a pipeline as Code Ocean generates it, the released wrapper can load every job."""

from __future__ import annotations

import json
from typing import Any

from conftest import ROOT, TESTS, Lab, succeeded
from tests.processed.library import call_library
from tests.processed.wrappers import needs_wrapper


def each(text: str) -> list[dict[str, Any]]:
    """Return the JSON objects that stand behind each other in a text."""
    found, rest, decoder = [], text.lstrip(), json.JSONDecoder()
    while rest:
        value, end = decoder.raw_decode(rest)
        found.append(value)
        rest = rest[end:].lstrip()
    return found


@needs_wrapper
def test_the_released_model_loads_every_job_with_its_fixed_parameters(lab: Lab) -> None:
    (lab.folder / "input" / "query.json").write_text("{}")
    (lab.folder / "trace.config").write_text("trace.fields = 'process,tag,status,exit'")
    command = [str(TESTS / "nextflow"), "run", str(TESTS / "template.nf"), "-ansi-log", "false", "-c", "trace.config"]
    done = succeeded(lab.nextflow([*command, f"--code={ROOT / 'code'}", "--input_files=input"]))
    assert len([task for task in done.tasks if task.process == "WRAPPER"]) == 2
    jobs = [job for path in (lab.folder / "loaded").glob("*.txt") for job in each(path.read_text())]
    assert sorted(job["asset_name"][0] for job in jobs) == ["a", "a", "c", "c", "e", "e"]
    for job in jobs:
        loaded = call_library("load", json.dumps(job))
        assert loaded["code"]["parameters"] == {"cutoff": 0.5}
        assert loaded["values"]["distributed_parameters"] in ({"threshold": 1}, {"threshold": 2})

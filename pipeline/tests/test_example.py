"""The bundled example: an analysis that finds in the recordings what was put into them."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from conftest import EXAMPLE, PIPELINE, Lab, succeeded

ANALYSIS = PIPELINE / "example" / "reward_response.py"
BYTES_AT_MOST = 300_000


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, PIPELINE / "example" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the pipeline over the example's processed behaviour sessions."""
    lab = Lab(tmp_path_factory.mktemp("example") / "lab")
    request = (f"--input_files={EXAMPLE}", f"--analysis={ANALYSIS}", "--file_extension=.nwb", "--jobs_per_task=8")
    succeeded(lab.run(*request, query='{"name": {"$regex": "^behavior_.*_processed_"}}'))
    return lab.results


def records(results: Path, method: str) -> list[dict[str, Any]]:
    loaded = [json.loads(path.read_text()) for path in sorted((results / "analysis_results").glob("*/job.json"))]
    return [record for record in loaded if record["parameters"]["method"] == method]


def events(record: dict[str, Any], name: str) -> list[float]:
    """Return the times of both spouts, read without the library that the analysis reads them with."""
    store = Path(record["file_location"][0].removeprefix("file://"))
    files = [store / "acquisition" / f"{side}_{name}_time" / "timestamps" / "0" for side in ("left", "right")]
    return sorted(time for file in files for time in np.frombuffer(file.read_bytes(), "<f8").tolist())


def test_every_job_has_a_picture_and_all_together_have_one(results: Path) -> None:
    pictures = [path.name for path in (results / "analysis_results").glob("*/*.png")]
    assert sorted(pictures) == ["choice_history.png"] * 4 + ["lick_histogram.png"] * 4
    everything = [*results.glob("analysis_results/*/*.png"), results / "analysis_summary" / "licking_around_reward.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in everything)


def test_the_histogram_counts_the_licks_around_each_reward(results: Path) -> None:
    found = records(results, "peri_event_histogram")
    assert len(found) == 4
    for record in found:
        rewards, licks = events(record, "reward_delivery"), events(record, "lick")
        values = record["values"]
        assert values["rewards"] == len(rewards)
        assert len(values["licks_per_second"]) == 150  # 3 s in bins of 20 ms
        within = sum(0.02 < lick - reward < 1 for reward in rewards for lick in licks)
        assert values["licks_per_second_after_reward"] == pytest.approx(within / len(rewards), abs=0.02)
        before = np.mean(values["licks_per_second"][:45])
        assert values["licks_per_second_after_reward"] > 10 * before


def test_a_rewarded_choice_makes_the_mouse_choose_that_side_again(results: Path) -> None:
    found = records(results, "logistic_regression")
    assert len(found) == 4
    assert all(record["values"]["weight_of_last_reward"] > 0.5 for record in found)


def test_the_regression_finds_the_weights_that_made_the_choices() -> None:
    random = np.random.RandomState(3)
    predictors = random.normal(size=(20_000, 3))
    true = np.array([0.3, 1.0, -0.5, 0.0])
    outcome = random.uniform(size=20_000) < 1 / (1 + np.exp(-(true[0] + predictors @ true[1:])))
    assert module("reward_response").fit_logistic(predictors, outcome) == pytest.approx(true, abs=0.07)


def test_the_recordings_are_what_the_simulation_writes_and_stay_small(tmp_path: Path) -> None:
    subprocess.run([sys.executable, PIPELINE / "example" / "simulate.py", tmp_path], check=True, timeout=120)
    written = {path.relative_to(tmp_path): path for path in tmp_path.rglob("*") if path.is_file()}
    assert written
    for relative, path in written.items():
        bundled = EXAMPLE / "assets" / relative
        if path.name == "0":
            assert np.frombuffer(bundled.read_bytes()) == pytest.approx(np.frombuffer(path.read_bytes()), abs=1e-9)
        else:
            assert bundled.read_bytes() == path.read_bytes()
    assert sum(path.stat().st_size for path in EXAMPLE.rglob("*") if path.is_file()) < BYTES_AT_MOST

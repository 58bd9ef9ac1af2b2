"""Write the lick times of the bundled example: sessions of a mouse that chooses between two spouts, simulated.

The task is dynamic foraging. After a go cue the mouse licks left or right; each side gives water with a probability
that changes in blocks of trials. The mouse of this simulation learns the value of each side from its rewards.
Layout and names are those of the NWB-Zarr files that the Allen Institute's behaviour rigs make.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]

TRIALS = 300
_SIDES = ("left", "right")
_PROBABILITIES = ((0.7, 0.1), (0.1, 0.7), (0.5, 0.1), (0.1, 0.5))
_TRIALS_A_BLOCK = (20, 45)
_LEARNING_RATE, _FORGETTING, _CHOICE_NOISE = 0.35, 0.1, 0.28
_SECONDS_BETWEEN_LICKS = 0.145
# Each processed asset: its session's seed, and whether the rig's second detection of one lick is still in it.
SESSIONS = {
    "behavior_774659_2025-06-07_14-31-15_processed_2025-06-08_03-49-49": (7, True),
    "behavior_774659_2025-06-07_14-31-15_processed_2025-07-01_18-02-27": (7, False),
    "behavior_774659_2025-06-10_13-58-40_processed_2025-06-11_02-10-33": (10, False),
    "behavior_781162_2025-06-09_15-20-11_processed_2025-06-10_04-12-56": (9, False),
}


def session(seed: int, with_double_detections: bool) -> dict[str, Times]:
    """Return the times of all events in seconds, by their paths in the file, and the response of each trial."""
    # The older generator: its stream of numbers is promised to stay the same for ever.
    random = np.random.RandomState(seed)
    vigour = random.uniform(0.85, 1.15)
    licks: dict[str, list[float]] = {side: [] for side in _SIDES}
    rewards: dict[str, list[float]] = {side: [] for side in _SIDES}
    cues, responses = [], []
    value, block, left_in_block, time = [0.3, 0.3], 0, 0, 5.0
    for _ in range(TRIALS):
        if left_in_block == 0:
            block, left_in_block = (block + random.randint(1, 4)) % 4, random.randint(*_TRIALS_A_BLOCK)
        left_in_block -= 1
        time += 2.0 + min(random.exponential(3.0), 12.0)
        cues.append(time)
        if random.uniform() < 0.04:
            responses.append(2)  # no answer
            continue
        chosen = int(random.uniform() < 1 / (1 + np.exp((value[0] - value[1]) / _CHOICE_NOISE)))
        responses.append(chosen)
        first = time + 0.12 + random.gamma(3.0, 0.05) / vigour
        is_rewarded = random.uniform() < _PROBABILITIES[block][chosen]
        if is_rewarded:
            rewards[_SIDES[chosen]].append(first)
        value[chosen] += _LEARNING_RATE * (is_rewarded - value[chosen])
        value[1 - chosen] *= 1 - _FORGETTING
        number = random.poisson(9 * vigour) + 3 if is_rewarded else random.poisson(1.6) + 1
        gaps = np.maximum(random.normal(_SECONDS_BETWEEN_LICKS / vigour, 0.018, number), 0.07)
        bout = first + np.concatenate([[0.0], np.cumsum(gaps)[:-1]])
        licks[_SIDES[chosen]].extend(bout)
        time = float(bout[-1])
    for side in _SIDES:
        licks[side].extend(random.uniform(5.0, time, int(time * 0.05)))  # now and then without a cue
    doubled = {side: random.uniform(size=len(licks[side])) < 0.03 for side in _SIDES}
    events: dict[str, Times] = {}
    for side in _SIDES:
        times = np.array(licks[side])
        if with_double_detections:
            times = np.concatenate([times, times[doubled[side]] + 0.006])
        events[f"acquisition/{side}_lick_time/timestamps"] = np.sort(times).round(4)
        events[f"acquisition/{side}_reward_delivery_time/timestamps"] = np.array(rewards[side]).round(4)
    events["intervals/trials/goCue_start_time"] = np.array(cues).round(4)
    events["intervals/trials/animal_response"] = np.array(responses, dtype=np.float64)
    return events


def write(events: Mapping[str, Times], store: Path, session_id: str) -> None:
    """Write events as an NWB-Zarr store, one uncompressed chunk an array."""
    attributes = {"namespace": "core", "neurodata_type": "NWBFile", "nwb_version": "2.8.0", "session_id": session_id}
    _write_json(store / ".zattrs", attributes)
    for path, times in events.items():
        folder = store / path
        for parent in list(folder.relative_to(store).parents):
            _write_json(store / parent / ".zgroup", {"zarr_format": 2})
        array = {"chunks": [len(times)], "compressor": None, "dtype": "<f8", "fill_value": 0.0, "filters": None}
        _write_json(folder / ".zarray", {**array, "order": "C", "shape": [len(times)], "zarr_format": 2})
        (folder / "0").write_bytes(times.astype("<f8").tobytes())


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Write all sessions into a folder of assets, such as `data/example/assets`."""
    parser = argparse.ArgumentParser(prog="simulate.py", description="Write the example's lick times.")
    parser.add_argument("assets", metavar="DIR", type=Path, help="folder of assets, such as data/example/assets")
    assets = parser.parse_args().assets
    for asset, (seed, with_double_detections) in SESSIONS.items():
        session_id = asset.partition("_processed")[0]
        write(session(seed, with_double_detections), assets / asset / "nwb" / f"{session_id}.nwb", session_id)


if __name__ == "__main__":
    main()

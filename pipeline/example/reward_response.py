"""How a mouse responds to reward: licking around water, and how past choices and rewards steer the next choice.

An analysis of the bundled example: two methods, of which a job's parameter `method` names one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import zarr
from numpy.typing import NDArray

matplotlib.use("Agg")
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from job_dispatch.jobs.model import AnalysisDispatchModel
    from matplotlib.axes import Axes

Numbers = NDArray[np.float64]

_SIDES = ("left", "right")
# Water follows the lick that earns it within milliseconds.
_EARNED_WITHIN_SECONDS = 0.02
_NAMED_AT_MOST = 12


def analyse(job: AnalysisDispatchModel, parameters: Mapping[str, Any], results: Path) -> dict[str, Any]:
    """Draw one picture of a session and return the numbers in it."""
    if not job.file_location:
        raise ValueError("no NWB file in this job; dispatch with --file_extension=.nwb")
    session = zarr.open_group(job.file_location[0].removeprefix("file://"), mode="r")
    title = job.asset_name[0].replace("_processed_", "\nprocessed ")
    match parameters["method"]:
        case "peri_event_histogram":
            return peri_event_histogram(session, parameters, title, results)
        case "logistic_regression":
            return logistic_regression(session, parameters, title, results)
        case method:
            raise ValueError(f"method {method!r} is neither peri_event_histogram nor logistic_regression")


def times(session: zarr.Group, name: str) -> Numbers:
    """Return the times of both spouts' events in seconds, ascending."""
    both = [np.asarray(session[f"acquisition/{side}_{name}_time/timestamps"], dtype=np.float64) for side in _SIDES]
    return np.sort(np.concatenate(both))


# ---- licks around reward


def peri_event_histogram(
    session: zarr.Group, parameters: Mapping[str, Any], title: str, results: Path
) -> dict[str, Any]:
    """Count licks around each reward, in licks per second, but for the one that earned it."""
    start, stop = parameters["window_seconds"]
    rewards, licks = times(session, "reward_delivery"), times(session, "lick")
    around = [licks[(licks >= reward + start) & (licks < reward + stop)] - reward for reward in rewards]
    around = [one[np.abs(one) > _EARNED_WITHIN_SECONDS] for one in around]
    edges = bin_edges(parameters)
    rate = np.histogram(np.concatenate(around), edges)[0] / len(rewards) / parameters["bin_size_seconds"]
    centres = (edges[:-1] + edges[1:]) / 2

    figure, (raster, histogram) = plt.subplots(
        2, 1, sharex=True, figsize=(5.2, 5.6), height_ratios=(3, 2), layout="constrained"
    )
    raster.eventplot(around, colors="black", linelengths=1.0, linewidths=1.2)
    raster.set(ylabel="reward", title=title, ylim=(-0.5, len(rewards) - 0.5))
    histogram.bar(centres, rate, width=parameters["bin_size_seconds"], color="tab:blue")
    histogram.set(xlabel="time from reward (s)", ylabel="licks / s", xlim=(start, stop))
    for axes in (raster, histogram):
        axes.axvline(0, color="tab:red", linewidth=1)
        _open(axes)
    raster.title.set_fontsize(9)
    figure.savefig(results / "lick_histogram.png", dpi=110)
    plt.close(figure)
    after = rate[(centres > 0) & (centres < 1)].mean()
    return {
        "rewards": len(rewards),
        "licks_per_second_after_reward": round(float(after), 3),
        "licks_per_second": rate.round(3),
    }


def bin_edges(parameters: Mapping[str, Any]) -> Numbers:
    """Return the edges of the histogram's bins in seconds from reward."""
    start, stop = parameters["window_seconds"]
    return np.linspace(start, stop, round((stop - start) / parameters["bin_size_seconds"]) + 1)


# ---- past choices and rewards


def logistic_regression(
    session: zarr.Group, parameters: Mapping[str, Any], title: str, results: Path
) -> dict[str, Any]:
    """Predict each choice from earlier rewarded and unrewarded ones, as Lau and Glimcher (2005) do.

    A choice counts 1 on the right and -1 on the left; trials without an answer are left out.
    """
    back = parameters["trials_back"]
    response = np.asarray(session["intervals/trials/animal_response"], dtype=np.float64)
    answered = response < 2
    cue = np.asarray(session["intervals/trials/goCue_start_time"], dtype=np.float64)
    which = np.searchsorted(cue, times(session, "reward_delivery")) - 1
    rewarded = np.isin(np.arange(len(cue)), which)[answered]
    choice = 2 * response[answered] - 1
    past = [np.lib.stride_tricks.sliding_window_view(choice * mask, back)[:-1, ::-1] for mask in (rewarded, ~rewarded)]
    weights = fit_logistic(np.hstack(past), choice[back:] > 0)
    trials_ago = np.arange(1, back + 1)

    figure, axes = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.plot(trials_ago, weights[1 : back + 1], "o-", color="tab:blue", label="rewarded choice")
    axes.plot(trials_ago, weights[back + 1 :], "o-", color="tab:orange", label="unrewarded choice")
    axes.set(xlabel="trials ago", ylabel="weight on choosing the same side", title=title, xticks=trials_ago)
    axes.title.set_fontsize(9)
    axes.legend(frameon=False)
    _open(axes)
    figure.savefig(results / "choice_history.png", dpi=110)
    plt.close(figure)
    return {"trials": int(answered.sum()), "weight_of_last_reward": round(float(weights[1]), 3)}


def fit_logistic(predictors: Numbers, outcome: NDArray[np.bool_], penalty: float = 1.0) -> Numbers:
    """Return intercept and weights of a logistic regression with a ridge penalty on the weights.

    Newton's method, for predictors of shape (observations, weights) and one outcome an observation.
    """
    design = np.column_stack([np.ones(len(predictors)), predictors])
    ridge = penalty * np.diag([0.0, *np.ones(predictors.shape[1])])
    weights = np.zeros(design.shape[1])
    for _ in range(25):
        expected = 1 / (1 + np.exp(-design @ weights))
        curvature = design.T @ (design * (expected * (1 - expected))[:, None]) + ridge
        step = np.linalg.solve(curvature, design.T @ (outcome - expected) - ridge @ weights)
        weights = weights + step
        if np.abs(step).max() < 1e-9:
            break
    return weights


# ---- all jobs together


def summarise(jobs: Sequence[Mapping[str, Any]], results: Path) -> None:
    """Draw the licking around reward of all recordings, and their mean where they share their bins."""
    shown = [job for job in jobs if "licks_per_second" in job["values"]]
    if not shown:
        return
    figure, axes = plt.subplots(figsize=(6.4, 5.4), layout="constrained")
    for job in shown:
        label = job["asset_name"][0].replace("behavior_", "").replace("_processed_", ", processed ")
        axes.stairs(job["values"]["licks_per_second"], bin_edges(job["parameters"]), linewidth=0.9, label=label)
    if len({tuple(bin_edges(job["parameters"])) for job in shown}) == 1:
        mean = np.mean([job["values"]["licks_per_second"] for job in shown], axis=0)
        axes.stairs(mean, bin_edges(shown[0]["parameters"]), linewidth=2, color="black", label="mean")
    axes.axvline(0, color="tab:red", linewidth=1)
    axes.set(xlabel="time from reward (s)", ylabel="licks / s", title=f"Licking around reward, {len(shown)} recordings")
    if len(shown) <= _NAMED_AT_MOST:
        figure.legend(loc="outside lower left", frameon=False, fontsize=8)
    _open(axes)
    figure.savefig(results / "licking_around_reward.png", dpi=110)
    plt.close(figure)


def _open(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)

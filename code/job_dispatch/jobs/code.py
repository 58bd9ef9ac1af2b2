"""The code that will run the jobs, and what a job file says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# A switch of the wrapper itself, which it would pass on to the analysis as a parameter.
_SWITCH_OF_WRAPPER = "dry_run"


@dataclass(frozen=True)
class Code:
    """The code that will run the jobs, as the wrapper itself will record it in their results.

    `attached` are the locations of the data assets that are attached to the run, and `panel` has the values of the
    wrapper's app panel, by label.
    """

    url: str
    name: str
    version: str
    run_script: str
    attached: tuple[str, ...] = ()
    panel: Mapping[str, str] = field(default_factory=dict)


def analysis_code(
    code: Code | None,
    locations: Sequence[str],
    files: Sequence[str] | None,
    fixed: Mapping[str, Any] | None,
    parameter_set: Mapping[str, Any] | None,
) -> dict[str, Any] | None:
    """Return what a job's file says of its code: the place where the wrapper looks for fixed parameters.

    The wrapper merges `analysis_code.parameters`, its command line and app panel, the files, and
    `distributed_parameters`, in this order. Where the code is not known, only the fixed parameters are told;
    where it is, they stand as in the record of the results, in the same order. Never told are `commit_hash`, nulls
    and names of input data, which schemas (`aind-data-schema`) before 2.8 refuse.
    """
    own = {name: value for name, value in (fixed or {}).items() if name != _SWITCH_OF_WRAPPER}
    if code is None:
        return {"url": "", "parameters": own} if fixed or parameter_set else None
    located = {"file_location": list(files)} if files else {}
    return {
        "url": code.url,
        "name": code.name,
        "version": code.version,
        "run_script": code.run_script,
        "input_data": [{"object_type": "Data asset", "url": url} for url in (*code.attached, *locations)],
        # A later one replaces an earlier one of the same name in its place.
        "parameters": {**code.panel, **own, **located, **(parameter_set or {})},
    }

"""The peer's side: the public dispatcher's own functions, in its own environment.

python -m benchmarks.peer list SHAPE COUNT
python -m benchmarks.peer dispatch ENDING QUERY INPUT_DIRECTORY OUTPUT_DIRECTORY
python -m benchmarks.peer unprocessed QUERY INPUT_DIRECTORY OUTPUT_DIRECTORY
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from analysis_pipeline_utils import utils_analysis_dispatch as dispatch
from analysis_pipeline_utils.analysis_dispatch_model import AnalysisDispatchModel

from benchmarks.measuring import print_and_leave, report
from benchmarks.shapes import SHAPES, locations, names

_NO_LIMIT = 10**9
_FOLDERS = 50


def _list(shape: str, count: int) -> int:
    files = 0
    for name, location in zip(names(shape, count), locations(shape, count), strict=True):
        record = AnalysisDispatchModel(s3_location=[location], asset_name=[name], docdb_record_id=[name])
        found = dispatch.get_asset_file_path_records(record, SHAPES[shape].ending)
        files += sum(len(one.file_location) for one in found)
    return files


def _dispatch(ending: str, query: str, inputs: Path, output: Path) -> None:
    """Do what its capsule does, without its limit of 1,000 jobs."""
    records = dispatch.get_data_asset_records(inputs, docdb_query=query)
    sets = json.loads((inputs / "analysis_parameters.json").read_text())["distributed_parameters"]
    jobs = list(dispatch.expand_task_list(records, ending, True, sets))
    dispatch.write_input_model_list(jobs, output, -(-len(jobs) // _FOLDERS), _NO_LIMIT)
    print_and_leave({"jobs": len(jobs)})


def _dispatch_unprocessed(query: str, inputs: Path, output: Path) -> None:
    records = dispatch.get_data_asset_records(inputs, docdb_query=query)
    parameters = json.loads((inputs / "analysis_parameters.json").read_text())
    jobs = dispatch.expand_task_list(records, "", True, parameters["distributed_parameters"])
    left = list(dispatch.check_task_parameters(jobs, parameters["fixed_parameters"]))
    dispatch.write_input_model_list(left, output, 1, _NO_LIMIT)
    print_and_leave({"jobs": len(left)})


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    if what == "unprocessed":
        _dispatch_unprocessed(arguments[0], Path(arguments[1]), Path(arguments[2]))
    if what == "list":
        report(lambda: _list(arguments[0], int(arguments[1])))
    _dispatch(arguments[0], arguments[1], Path(arguments[2]), Path(arguments[3]))

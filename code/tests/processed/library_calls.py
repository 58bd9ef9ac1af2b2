"""The released library in its own environment, called by `library.py`.

Each line of standard input is a JSON object with the `name` of a function below, its `arguments` and the `environment`
to call it in. Each is answered by a line with the `result`, or with the `error` that it raised.
"""

import json
import os
import sys
import traceback
import warnings
from typing import Any

from analysis_pipeline_utils import metadata, result_files, utils_analysis_dispatch
from analysis_pipeline_utils.analysis_dispatch_model import AnalysisDispatchModel


def load(text: str) -> dict[str, Any]:
    """Load a job as the wrapper does: its fields, the values of those that it has, and what is set in its code."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # An empty version is what the smallest form of `analysis_code` has.
        warnings.filterwarnings("ignore", "Neither commit_hash nor version provided", UserWarning)
        job = AnalysisDispatchModel.model_validate_json(text)
    code = job.analysis_code
    return {
        "fields": list(AnalysisDispatchModel.model_fields),
        "values": job.model_dump(exclude_none=True, exclude={"analysis_code"}, mode="json"),
        "code": code and code.model_dump(exclude_unset=True, exclude={"input_data"}, mode="json"),
    }


def code_of_the_wrapper() -> dict[str, Any]:
    """Ask Code Ocean which code the wrapper is."""
    code = metadata.get_codeocean_process_metadata(capsule_name="wrapper").code
    return {
        "url": code.url,
        "name": code.name,
        "version": code.version,
        "run_script": str(code.run_script),
        "attached": [asset.url for asset in code.input_data],
        "panel": code.parameters.model_dump(),
    }


def jobs_of_the_public_dispatcher(jobs: list[dict[str, Any]], fixed: dict[str, Any]) -> list[str]:
    """Write jobs as the public dispatcher does for the same work: it adds the code."""
    models = iter([AnalysisDispatchModel(**job) for job in jobs])
    written = utils_analysis_dispatch.check_task_parameters(models, fixed, filter_processed=False)
    return [job.model_dump_json(indent=4) for job in written]


def hash_of_the_code(job: str) -> str:
    """Name the results of a job."""
    code: Any = AnalysisDispatchModel.model_validate_json(job).analysis_code
    prefix: str = result_files.processing_prefix(code)
    return prefix


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library prints
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        asked = json.loads(line)
        os.environ.clear()
        os.environ.update(asked["environment"])
        try:
            answer = {"result": globals()[asked["name"]](*asked["arguments"])}
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)


main()

"""The code of a wrapper capsule, as the pipeline template has it: run in a process of its own by `released.py`.

Its analysis function writes down what it was given. `WRAPPER_FIELDS` is a JSON object of the fields of its model and
their types. What the library writes into `/results`, which is fixed in it, goes into the folder `WRAPPER_RESULTS`.
"""

import builtins
import json
import os
from pathlib import Path
from typing import Any

from aind_data_schema.base import GenericModel
from analysis_pipeline_utils import metadata, utils_analysis_wrapper
from pydantic import create_model

_RESULTS = Path(os.environ["WRAPPER_RESULTS"])
_TYPES = {"any": Any, "int": int, "float": float, "str": str}
_FIELDS: Any = {name: (_TYPES[kind], ...) for name, kind in json.loads(os.environ["WRAPPER_FIELDS"]).items()}

given: list[dict[str, Any]] = []


def analyse(job: Any, parameters: Any) -> dict[str, Any]:
    given.append(
        {
            "assets": job.docdb_record_id,
            "files": job.file_location,
            "query": job.query,
            "parameters": parameters.model_dump(),
        }
    )
    return {"analysed": len(given)}


def opened(path: Any, *options: Any) -> Any:
    """Open a file for the library: each record of results in a file of its own."""
    if str(path).startswith("/results/"):
        path = _RESULTS / f"{len(given)}.json"
    return builtins.open(path, *options)  # noqa: PTH123 - stands for the library's own


def make_node(path: str) -> None:
    (_RESULTS / Path(path).name).touch()


setattr(metadata, "open", opened)  # noqa: B010 - shadows the built-in one there
setattr(utils_analysis_wrapper.os, "mknod", make_node)  # noqa: B010

utils_analysis_wrapper.run_analysis_jobs(
    create_model("Specification", __base__=GenericModel, **_FIELDS),
    create_model("Output", __base__=GenericModel),
    analyse,
)
(_RESULTS / "given.json").write_text(json.dumps(given))

"""The code of a wrapper capsule, as the pipeline template has it: run in a process of its own by `released.py`.

Each line of its standard input asks for one run: a JSON object with the `environment`, the `flags` of the command
line, and a `log` for what the run prints. Each run is a process of its own, too: a child that begins with the library
imported, since that takes seconds. Its exit code is answered by a line.

Its analysis function writes down what it was given. `WRAPPER_FIELDS` is a JSON object of the fields of its model and
their types. What the library writes into `/results`, which is fixed in it, goes into the folder `WRAPPER_RESULTS`.
"""

import builtins
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from aind_data_schema.base import GenericModel
from analysis_pipeline_utils import metadata, utils_analysis_wrapper
from pydantic import create_model

_TYPES = {"any": Any, "int": int, "float": float, "str": str}
_SECONDS = 300

given: list[dict[str, Any]] = []


def results() -> Path:
    return Path(os.environ["WRAPPER_RESULTS"])


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
        path = results() / f"{len(given)}.json"
    return builtins.open(path, *options)  # noqa: PTH123 - stands for the library's own


def make_node(path: str) -> None:
    (results() / Path(path).name).touch()


def run(environment: dict[str, str], flags: list[str], log: str) -> None:
    signal.alarm(_SECONDS)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[1:] = flags
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(written, stream)
    fields: Any = {name: (_TYPES[kind], ...) for name, kind in json.loads(os.environ["WRAPPER_FIELDS"]).items()}
    utils_analysis_wrapper.run_analysis_jobs(
        create_model("Specification", __base__=GenericModel, **fields),
        create_model("Output", __base__=GenericModel),
        analyse,
    )
    (results() / "given.json").write_text(json.dumps(given))


def main() -> None:
    setattr(metadata, "open", opened)  # noqa: B010 - shadows the built-in one there
    setattr(utils_analysis_wrapper.os, "mknod", make_node)  # noqa: B010
    for line in sys.stdin:
        if os.fork() == 0:
            run(**json.loads(line))
            return
        _, status = os.wait()
        print(os.waitstatus_to_exitcode(status), flush=True)


main()

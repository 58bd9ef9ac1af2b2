"""The analysis job dispatcher: from a request to jobs in worker folders, and to their results.

The same functions run the command `job-dispatch`:

    import job_dispatch as jd

    cohort = jd.select(jd.DocDb(), subject="774659", modality="behavior")
    files = jd.locate(cohort, endings=[".nwb"])
    jobs = jd.plan(files, parameters={"parameter_grid": {"cutoff": [0.1, 0.2]}})
    jd.write(jobs, "results", workers=50)
    jd.run("my_analysis.py", "results")
    jd.read_results()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from job_dispatch.cohort.selecting import select
    from job_dispatch.cohort.sources import Folder
    from job_dispatch.jobs.building import Jobs, plan
    from job_dispatch.jobs.model import AnalysisDispatchModel
    from job_dispatch.jobs.sharing import write
    from job_dispatch.messages import RequestError, ServiceError
    from job_dispatch.metadata.catalog import Catalog
    from job_dispatch.metadata.docdb import DocDb
    from job_dispatch.model import Cohort, Files, Skipped
    from job_dispatch.results.library import read_results, run, status
    from job_dispatch.results.status import RunStatus
    from job_dispatch.storage.locating import locate

__version__ = "0.3.0"

__all__ = [
    "AnalysisDispatchModel",
    "Catalog",
    "Cohort",
    "DocDb",
    "Files",
    "Folder",
    "Jobs",
    "RequestError",
    "RunStatus",
    "ServiceError",
    "Skipped",
    "locate",
    "plan",
    "read_results",
    "run",
    "select",
    "status",
    "write",
]

# Each is loaded when it is asked for: `import job_dispatch` takes no time.
_MODULES = {
    "AnalysisDispatchModel": "jobs.model",
    "Catalog": "metadata.catalog",
    "Cohort": "model",
    "DocDb": "metadata.docdb",
    "Files": "model",
    "Folder": "cohort.sources",
    "Jobs": "jobs.building",
    "RequestError": "messages",
    "RunStatus": "results.status",
    "ServiceError": "messages",
    "Skipped": "model",
    "locate": "storage.locating",
    "plan": "jobs.building",
    "read_results": "results.library",
    "run": "results.library",
    "select": "cohort.selecting",
    "status": "results.library",
    "write": "jobs.sharing",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

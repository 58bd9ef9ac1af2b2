"""The public Python functions from a query to job files, in a process of their own.

python -m benchmarks.library QUERY ENDING DIRECTORY
"""

from __future__ import annotations

import sys
from pathlib import Path

import job_dispatch as jd

if __name__ == "__main__":
    query, ending, directory = sys.argv[1:]
    files = jd.locate(jd.select(jd.DocDb(), query), endings=ending)
    jobs = jd.plan(files, Path(directory) / "analysis_parameters.json")
    jd.write(jobs, Path(directory) / "results")

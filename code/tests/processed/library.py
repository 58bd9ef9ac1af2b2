"""The released library inside this process, whose warnings are its own affair."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def released_library() -> Iterator[Any]:
    """Give the modules of the library that name code, results and jobs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from analysis_pipeline_utils import metadata, result_files, utils_analysis_dispatch

        class Library:
            codes = metadata
            results = result_files
            dispatch = utils_analysis_dispatch

        yield Library

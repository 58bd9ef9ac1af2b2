"""The names that the wrapper gives the records of its results: each is a hash of the code that it runs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import to_json

from job_dispatch.jobs.code import analysis_code
from job_dispatch.processed.code_ocean import Wrapper

# What the wrapper takes from its command line for itself.
_OF_THE_WRAPPER = ("dry_run", "input_directory")
_OPEN_DATA = re.compile(r"s3://aind-open-data/([^/]+)(/.*)?$")
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_. -]*")
_WORDS_OF_OTHER_TYPES = frozenset(
    ["true", "false", "t", "f", "y", "n", "yes", "no", "on", "off", "none", "null", "nan", "inf", "infinity"]
)


def record_names(
    wrapper: Wrapper,
    locations: Sequence[str],
    files: Sequence[str] | None,
    fixed: Mapping[str, Any] | None,
    parameter_set: Mapping[str, Any] | None,
) -> tuple[str, str] | None:
    """Return the names that a job's record may have, None where they cannot be known.

    There are two, since `aind-data-schema` 2.8 brought fields that enter the hash. They cannot be known where the
    wrapper's panel gives a value that the wrapper converts to a type which only the wrapper knows.
    """
    told = analysis_code(wrapper.code, locations, files, fixed, parameter_set)
    assert told is not None, "the code is known"
    parameters = _merged(told["parameters"], wrapper.arguments, files, fixed, parameter_set)
    if parameters is None:
        return None
    urls = [asset["url"] for asset in told["input_data"]]
    return _hash(_record(told, urls, parameters)), _hash(_record_before_2_8(told, urls, parameters))


def _merged(
    parameters: dict[str, Any],
    arguments: Mapping[str, str],
    files: Sequence[str] | None,
    fixed: Mapping[str, Any] | None,
    parameter_set: Mapping[str, Any] | None,
) -> dict[str, Any] | None:
    """Return what the wrapper makes of a job's parameters and its own command line, None where that is not known."""
    replaced = {*_OF_THE_WRAPPER, *(parameter_set or {}), *(("file_location",) if files else ())}
    effective = {name: text for name, text in arguments.items() if name not in replaced}
    if not all(name not in (fixed or {}) and _is_text(text) for name, text in effective.items()):
        return None
    # They are added in the order of the fields of the analysis, which only the wrapper knows.
    if sum(name not in parameters for name in effective) > 1:
        return None
    return {**parameters, **effective}


def _is_text(value: str) -> bool:
    return bool(_WORD.fullmatch(value)) and value.lower() not in _WORDS_OF_OTHER_TYPES


def _record(told: Mapping[str, Any], urls: Sequence[str], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the code as `aind-data-schema` from 2.8 on writes it, with its fields in its order."""
    return {
        "object_type": "Code",
        "url": told["url"],
        "name": told["name"],
        "version": told["version"],
        "commit_hash": None,
        "container": None,
        "run_script": told["run_script"],
        "language": None,
        "language_version": None,
        "input_data": [{"object_type": "Data asset", "name": _asset_name(url), "url": url} for url in urls],
        "parameters": parameters,
        "core_dependency": None,
    }


def _record_before_2_8(told: Mapping[str, Any], urls: Sequence[str], parameters: Mapping[str, Any]) -> dict[str, Any]:
    record = _record(told, urls, parameters)
    del record["commit_hash"]
    return {**record, "input_data": [{"object_type": "Data asset", "url": url} for url in urls]}


def _asset_name(url: str) -> str | None:
    match = _OPEN_DATA.match(url)
    return match[1] if match else None


def _hash(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(to_json(record, inf_nan_mode="null")).hexdigest()

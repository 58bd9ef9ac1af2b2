"""Collect what jobs returned: one table, and what the analysis makes of all jobs together.

`collect.py SOURCE` writes `table.csv`. `collect.py SOURCE --summarise ANALYSIS` calls the analysis file's function
`summarise(jobs, results)`, if it has one, with the records of all jobs and the folder `analysis_summary`.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import run_analysis

TABLE = Path("table.csv")
SUMMARY = Path("analysis_summary")
_LISTS = ("asset_name", "asset_id", "docdb_record_id", "s3_location", "file_location")


def read(source: Path) -> list[dict[str, Any]]:
    """Return the records of all jobs that are done, in the order of assets, parameters and names.

    Parameters
    ----------
    source : pathlib.Path
        A folder with a folder for each job, or a file with one `job.json` after the other.

    Raises
    ------
    RefusedError
        No job is done in the folder, or the record of one is damaged.
    """
    if source.is_dir():
        paths = sorted(source.glob(f"*/{run_analysis.DONE}"))
        if not paths:
            raise run_analysis.RefusedError(
                f"{source}: no job is done in it; give the folder that run_analysis.py wrote"
            )
        records = [_record(path) for path in paths]
    else:
        records = list(_each(source.read_text(encoding="utf-8")))
    return sorted(records, key=lambda record: (record["asset_name"], json.dumps(record["parameters"]), record["job"]))


def _record(path: Path) -> dict[str, Any]:
    try:
        [record] = _each(path.read_text(encoding="utf-8"))
    except ValueError:
        raise run_analysis.RefusedError(f"{path}: not one record of a job; run that job again") from None
    return record


def _each(text: str) -> Iterator[dict[str, Any]]:
    decoder, start = json.JSONDecoder(), 0
    while rest := text[start : start + 1]:
        if rest.isspace():
            start += 1
            continue
        record, start = decoder.raw_decode(text, start)
        yield record


def write_table(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Write one row a job: its assets, group and parameters, and what the analysis returned for it."""
    rows = [_row(record) for record in records]
    columns = ["job", *_LISTS]
    for part in ("group", "parameters", "values"):
        columns += dict.fromkeys(name for row in rows for name in row if name.startswith(f"{part}."))
    # Half a character, which JSON may hold, is spelled out.
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([_title(name, columns) for name in columns])
        writer.writerows([row.get(name, "") for name in columns] for row in rows)


def _title(name: str, columns: Sequence[str]) -> str:
    """Return what the analysis calls a value, unless another column has that name."""
    bare = name.removeprefix("values.")
    return name if bare in columns else bare


def _row(record: dict[str, Any]) -> dict[str, str]:
    row = {"job": record["job"]} | {name: _cell("; ".join(record.get(name, ()))) for name in _LISTS}
    parts = {"group": record.get("group_metadata", {}), "parameters": record["parameters"], "values": record["values"]}
    return row | {f"{part}.{name}": _cell(value) for part, named in parts.items() for name, value in named.items()}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    # A spreadsheet takes such a text for a formula, but for a number as "-inf".
    is_formula = value.startswith(("=", "+", "-", "@", "\t", "\r")) and not _is_number(value)
    return f"'{value}" if is_formula else value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def summarise(records: Sequence[dict[str, Any]], analysis: Path) -> None:
    """Let the analysis look at all jobs together, where it has a function for that and there are jobs."""
    SUMMARY.mkdir(exist_ok=True)
    function = run_analysis.load(analysis).function("summarise") if records else None
    if function is not None:
        function(records, SUMMARY.absolute())


def main(argv: Iterable[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="collect.py", description="Collect what jobs returned.", allow_abbrev=False)
    parser.add_argument("source", metavar="SOURCE", type=Path, help=f"such as {run_analysis.RESULTS}")
    parser.add_argument("--summarise", metavar="ANALYSIS", type=Path, help="call its function summarise instead")
    arguments = parser.parse_args(None if argv is None else list(argv))
    if not arguments.source.exists():
        print(f"error: {arguments.source}: no such folder; give the one that run_analysis.py wrote", file=sys.stderr)
        return 2
    try:
        records = read(arguments.source)
    except run_analysis.RefusedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if arguments.summarise is None:
        write_table(records, TABLE)
        return 0
    try:
        summarise(records, arguments.summarise)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        print(f"error: summarise over {len(records)} jobs: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

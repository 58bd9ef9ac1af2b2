"""The analysis job dispatcher: from flags to worker folders, one step after the other."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import stopping
from messages import DispatchError, RequestError, ServiceError, configure_logging, counted, logger

if TYPE_CHECKING:
    from account import Account
    from inputs import AssetIds, Query, Settings
    from parameters import Parameters

__version__ = "0.1.0"

_ROOT = Path(__file__).resolve().parent.parent
_PRODUCTION_HOST = "api.allenneuraldynamics.org"
_SECONDS_A_DAY = 86_400
_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


def main(argv: Sequence[str] | None = None) -> int:
    """Dispatch the jobs that the flags ask for and return the exit code.

    0: done. 2: what was asked cannot be done. 1: a service or the disk failed.
    """
    debug = False
    try:
        settings = parse_settings(argv)
        debug = settings.log_level == "DEBUG"
        configure_logging(settings.log_level)
        _dispatch(settings, ["python", *(sys.argv if argv is None else ("run_capsule.py", *argv))])
    except DispatchError as error:
        return _failed(error, debug)
    except Exception as error:  # no traceback reaches a user who did not ask for it
        return _failed(
            DispatchError(f"unexpected {type(error).__name__}: {error}; --log_level=DEBUG shows where"), debug
        )
    return 0


def _dispatch(settings: Settings, command: Sequence[str]) -> None:
    import account
    import inputs
    import output_folder
    import parameters as parameter_sets
    import workers

    started = datetime.now(UTC)
    logger.info("aind-analysis-job-dispatch %s, assets from %s", __version__, account.source(settings))
    inputs.check_input_directory(settings.input_directory)
    if settings.report_directory is not None:
        import report

        report.check_directory(settings.report_directory, settings.output_directory)
    selection = inputs.read_selection(settings)
    parameters = parameter_sets.read_parameters(settings.input_directory)
    if settings.parameter_schema:
        parameter_sets.check_schema(parameters, settings.parameter_schema, settings.input_directory)
    if settings.dry_run:
        output_folder.inspect(settings.output_directory, settings.overwrite)
        run = _prepare(settings, selection, parameters)
        _preview(run)
    else:
        with output_folder.OutputFolder(settings.output_directory, settings.overwrite) as output:
            run = _prepare(settings, selection, parameters)
            prepared = datetime.now(UTC)
            workers.write(output, run.plan, run.shares)
        _print(account.summary(run, _seconds(started, prepared), _seconds(prepared, datetime.now(UTC))))
    if settings.report_directory is not None:
        report.write(run, settings.report_directory, command, __version__, started)


def _prepare(settings: Settings, selection: Query | AssetIds, parameters: Parameters) -> Account:
    """Find the assets and their files, build the jobs and share them out."""
    import jobs
    import utils
    import workers
    from account import Account

    with utils.open_metadata(settings) as metadata:
        selected, located = utils.find_assets(metadata, selection, settings)
    if settings.group_by and settings.file_extension and settings.split_files:
        logger.info("--split_files does not apply with --group_by: each job lists all files of its group")
    at_most = settings.max_number_of_tasks_dispatched
    plan = jobs.build(selected.groups, located.assets, parameters, selection, settings.split_files, at_most)
    sizes = workers.known_sizes([job.size for job in plan.jobs]) if settings.balance == "size" else []
    if sizes:
        shares = workers.share_by_size(sizes, settings.num_parallel_workers, settings.tasks_per_job)
    else:
        shares = workers.share(len(plan.jobs), settings.num_parallel_workers, settings.tasks_per_job)
    logger.info("%s for %s", counted(len(plan.jobs), "job"), counted(len(shares), "worker folder"))
    return Account(settings, selection, parameters, selected, located, plan, shares, sizes)


def _preview(run: Account) -> None:
    import preview

    try:
        preview.show(run)
    except BrokenPipeError:
        return  # whoever read it has seen enough
    except OSError as error:
        raise ServiceError(f"the preview cannot be shown: {error.strerror}") from error


def _seconds(start: datetime, end: datetime) -> float:
    return (end - start).total_seconds()


def _print(lines: Sequence[str]) -> None:
    for line in lines:
        with contextlib.suppress(OSError):  # the jobs are there, whether or not anybody reads this
            print(line)


def _failed(error: DispatchError, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    with stopping.deferred():  # a run that a signal is ending says so itself
        print(f"error: {error}", file=sys.stderr)
    return error.exit_code


class _Parser(argparse.ArgumentParser):
    """Raises its errors like all others, instead of printing the usage and leaving."""

    def error(self, message: str) -> NoReturn:
        raise RequestError(message.removeprefix("argument "))


def parse_settings(argv: Sequence[str] | None = None) -> Settings:
    """Return the settings that the flags ask for; an empty value means the default.

    Raises
    ------
    RequestError
        A flag is unknown or its value is not one that it takes.
    """
    from inputs import Settings

    values = vars(build_parser().parse_args(argv))
    values["file_extension"] = values["file_extension"] or ()
    values["docdb_host"] = values["docdb_host"] or _from_environment("DOCDB_HOST", _host) or _PRODUCTION_HOST
    values["docdb_version"] = values["docdb_version"] or _from_environment("DOCDB_VERSION", _name) or "v1"
    for several in ("group_by", "filter_by", "unwind_list_fields"):
        values[several] = values[several] or ()
    settings = Settings(**values)
    _check_combinations(settings)
    return settings


def _check_combinations(settings: Settings) -> None:
    if settings.filter_latest and not settings.filter_by:
        raise RequestError("--filter_latest needs --filter_by: the fields of whose values only the latest counts")
    if settings.filter_by and not settings.filter_latest:
        raise RequestError("--filter_by needs --filter_latest: the field that says which record is the latest")
    if settings.unwind_list_fields and not settings.group_by:
        raise RequestError("--unwind_list_fields needs --group_by: the fields by which the spread rows are grouped")


def _from_environment(variable: str, convert: Callable[[str], str]) -> str | None:
    text = os.environ.get(variable, "").strip()
    try:
        return convert(text) if text else None
    except argparse.ArgumentTypeError as error:
        raise RequestError(f"environment variable {variable}: {error}") from None


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all flags; each is a field of `inputs.Settings`."""
    parser = _Parser(
        prog="run_capsule.py",
        description="Write one job file per piece of work into numbered worker folders.",
        allow_abbrev=False,
    )

    def flag(name: str, takes: str, meaning: str, default: str = "", convert: Callable[[str], Any] = str) -> None:
        def convert_or_default(text: str) -> Any:
            """Take a blank value for the default: an app panel passes its empty fields."""
            value = text.strip() or default
            try:
                return convert(value) if value else None
            except RequestError as error:
                raise argparse.ArgumentTypeError(error.headline) from None

        meaning = f"{meaning} (default: {default})" if default else meaning
        parser.add_argument(name, metavar=takes, default=default, type=convert_or_default, help=meaning)

    flag("--docdb_query", "QUERY", "JSON query, or path of a file with it, as given or inside the input directory")
    flag("--use_data_asset_csv", "0|1", "1: take asset ids from the CSV in the input directory", "0", _switch)
    flag("--file_extension", "ENDINGS", "endings of the files to look for, comma separated", convert=_endings)
    flag("--split_files", "0|1", "1: one job a matched file; 0: one job an asset", "1", _switch)
    flag("--num_parallel_workers", "N", "at most this many worker folders", "50", _count)
    flag(
        "--balance",
        "count|size",
        "share out by number of jobs, or by bytes",
        "count",
        _balance_by,
    )
    flag("--tasks_per_job", "N", "jobs a worker folder; decides the number of folders instead", convert=_count)
    flag("--max_number_of_tasks_dispatched", "N", "at most this many jobs", convert=_count)
    flag("--input_directory", "DIR", "where query, CSV and parameters are", f"{_ROOT / 'data'}", Path)
    flag("--output_directory", "DIR", "where worker folders go", f"{_ROOT / 'results'}", Path)
    flag("--docdb_host", "HOST", f"host of DocDB; else DOCDB_HOST, else {_PRODUCTION_HOST}", convert=_host)
    flag("--docdb_version", "VERSION", "version of its API; else DOCDB_VERSION, else v1", convert=_name)
    flag("--docdb_database", "NAME", "database of the metadata", "metadata_index", _name)
    flag("--docdb_collection", "NAME", "collection of the metadata", "data_assets", _name)
    flag("--metadata_catalog", "FILE", "file of metadata records to use instead of DocDB", convert=Path)
    flag("--docdb_timeout", "SECONDS", "how long DocDB may take to answer one request", "60", _seconds_asked)
    flag("--max_concurrency", "N", "at most this many requests to S3 in flight", "256", _count)
    flag("--overwrite", "0|1", "1: replace the worker folders of an earlier run", "0", _switch)
    flag("--skip_errors", "0|1", "1: go on without assets that could not be read", "0", _switch)
    flag("--group_by", "FIELDS", "record fields, comma separated: one job a group", convert=_fields)
    flag("--filter_latest", "FIELD", "keep only the record with the greatest value of it", convert=_field)
    flag("--filter_by", "FIELDS", "for each distinct value of these fields", convert=_fields)
    flag("--unwind_list_fields", "FIELDS", "spread the lists of these fields before grouping", convert=_fields)
    flag("--drop_null_groups", "0|1", "1: leave out records without a value to group by", "1", _switch)
    flag("--parameter_schema", "FILE", "JSON Schema that every parameter set must meet")
    flag("--dry_run", "0|1", "1: show what would be dispatched and write no jobs", "0", _switch)
    flag("--report_directory", "DIR", "write a report of the run into this folder", convert=Path)
    flag("--log_level", "LEVEL", f"least level of log lines: {', '.join(_LOG_LEVELS)}", "INFO", _log_level)
    parser.add_argument("--version", action="version", version=f"aind-analysis-job-dispatch {__version__}")
    return parser


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,99}", text) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _seconds_asked(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= _SECONDS_A_DAY:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of seconds from 1 to {_SECONDS_A_DAY}")
    return int(text)


def _switch(text: str) -> bool:
    if text not in ("0", "1"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither 0 nor 1")
    return text == "1"


def _endings(text: str) -> tuple[str, ...]:
    from inputs import parse_file_extensions

    return parse_file_extensions(text)


def _fields(text: str) -> tuple[str, ...]:
    from inputs import parse_fields

    return parse_fields(text)


def _field(text: str) -> str:
    [field, *more] = _fields(text)
    if more:
        raise argparse.ArgumentTypeError(f"{text!r} are several fields; give one")
    return field


def _host(text: str) -> str:
    host = text.removeprefix("https://").rstrip("/")
    if not re.fullmatch(r"([\w.-]+|\[[0-9a-fA-F:]+\])(:[0-9]+)?", host):
        raise argparse.ArgumentTypeError(f"not a host name such as {_PRODUCTION_HOST}")
    return host


def _name(text: str) -> str:
    if not re.fullmatch(r"[\w-][\w.-]*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a name of letters, digits, '_', '-' and '.'")
    return text


def _balance_by(text: str) -> str:
    if text not in ("count", "size"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither count nor size")
    return text


def _log_level(text: str) -> str:
    if text.upper() not in _LOG_LEVELS:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(_LOG_LEVELS)}")
    return text.upper()


def _run() -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    stopping.leave(main())


if __name__ == "__main__":
    stopping.install()
    _run()

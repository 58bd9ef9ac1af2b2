"""The analysis job dispatcher: from flags to worker folders, one step after the other."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from job_dispatch import __version__, stopping
from job_dispatch.messages import (
    DispatchError,
    ServiceError,
    configure_logging,
    counted,
    is_in_capsule,
    logger,
    naming_flags,
    showing_progress,
)
from job_dispatch.request import flags

if TYPE_CHECKING:
    from job_dispatch.jobs.building import Jobs
    from job_dispatch.jobs.output_folder import OutputFolder
    from job_dispatch.jobs.sharing import Folders
    from job_dispatch.metadata.records import MetadataSource
    from job_dispatch.model import Cohort, Files
    from job_dispatch.processed.code_ocean import Wrapper
    from job_dispatch.processed.remaining import ResultsDatabase
    from job_dispatch.report.dispatched import Dispatch
    from job_dispatch.request.flags import Settings
    from job_dispatch.request.selection import Selection

# A run makes many objects and few circles of them, for which Python would look after every 700.
OBJECTS_UNTIL_A_LOOK_FOR_CIRCLES = 50_000
# What `job-dispatch` does besides a dispatch: see `results/commands.py`.
VERBS = ("run", "status", "collect")


def main(argv: Sequence[str] | None = None, home: Path = Path()) -> int:
    """Dispatch the jobs that the flags ask for and return the exit code.

    0: done. 2: what was asked cannot be done. 1: a service or the disk failed.

    Parameters
    ----------
    argv : sequence of str, optional
        The flags; those of the command line by default.
    home : pathlib.Path, optional
        The folder of `data` and `results`, where no flag names others; the current folder by default.
    """
    debug = False
    program = "run_capsule.py" if argv is not None else sys.argv[0]
    command = ["python", program] if program.endswith(".py") else [Path(program).name]
    with naming_flags(flags.panel_labels() if is_in_capsule() else {}):
        try:
            settings = flags.parse(argv, __version__, home)
            debug = settings.log_level == "DEBUG"
            configure_logging(settings.log_level)
            flags.warn_of_ignored(sys.argv[1:] if argv is None else argv, home)
            logger.info("aind-analysis-job-dispatch %s, assets from %s", __version__, settings.source)
            if settings.has_own_catalog:
                logger.info("%s is used since no other source of metadata is named", settings.metadata_catalog)
            with showing_progress(None if logger.isEnabledFor(logging.INFO) else False):
                if settings.describe:
                    _describe(settings, home, command)
                else:
                    _dispatch(settings, [*command, *(sys.argv[1:] if argv is None else argv)])
        except BaseException as error:  # no traceback reaches a user who did not ask for it
            from job_dispatch import failures

            return _failed(failures.explained(error), debug)
    return 0


def dispatch(settings: Settings) -> Dispatch:
    """Return the run that the settings ask for; a failed run has its error and the steps before it."""
    from job_dispatch import failures
    from job_dispatch.report.dispatched import Dispatch

    run = Dispatch(settings)
    seconds: dict[str, float] = {}
    error: DispatchError | None = None
    start = time.monotonic()
    try:
        for step, after in _steps(run):
            run = after
            seconds[step] = seconds.get(step, 0.0) + time.monotonic() - start
            start = time.monotonic()
    except BaseException as failure:
        error = failures.explained(failure)
        error.__cause__ = None if error is failure else failure
    return replace(run, seconds=seconds, error=error)


def _steps(run: Dispatch) -> Iterator[tuple[str, Dispatch]]:
    """Yield what is done, and the run after each step of it."""
    from job_dispatch.cohort.sources import open_source, save, saving
    from job_dispatch.jobs.output_folder import write
    from job_dispatch.processed.code_ocean import Inquiry
    from job_dispatch.processed.remaining import ResultsDatabase
    from job_dispatch.report.dispatched import BUILDING, FINDING, READING, WRITING
    from job_dispatch.request import parameters, selection

    settings = run.settings
    selection.check_input_directory(settings.input_directory, is_read=bool(settings.use_data_asset_csv))
    asked = selection.read_selection(settings)
    yield READING, (run := replace(run, selection=asked))
    given = parameters.read_parameters(settings.input_directory, settings.analysis_parameters or "")
    if settings.parameter_schema:
        parameters.check(given, settings.parameter_schema, settings.input_directory, asked.table)
    yield READING, (run := replace(run, parameters=given))
    with contextlib.ExitStack() as opened:
        output = _output_folder(settings, opened)
        saved = opened.enter_context(saving(settings.save_catalog, settings.overwrite))
        database = ResultsDatabase(settings.docdb_host, settings.docdb_timeout) if settings.skip_processed else None
        inquiry = opened.enter_context(Inquiry(settings.docdb_timeout, settings.skip_processed))
        source = opened.enter_context(open_source(settings))
        cohort = _select(settings, source, asked)
        yield FINDING, (run := replace(run, cohort=cohort))
        _refuse_too_many(run)
        files = _locate(settings, cohort)
        wrapper = inquiry.answer()
        yield FINDING, (run := replace(run, files=files))
        jobs, folders = _plan(run, wrapper, database)
        yield BUILDING, (run := replace(run, jobs=jobs, folders=folders))
        if saved is not None:
            also = [one.record_id for one in cohort.skipped if one.record_id] if asked.table else []
            save(saved, source, cohort.assets, also, files if settings.wants_files else None)
        if output is not None:
            write(output, jobs, folders)
            yield WRITING, run


def _select(settings: Settings, source: MetadataSource, selection: Selection) -> Cohort:
    from job_dispatch.cohort.selecting import select
    from job_dispatch.metadata.records import Opened
    from job_dispatch.storage import locating

    if settings.wants_files and source.is_database:
        locating.load()
    return select(
        Opened(source),
        selection,
        qc=settings.qc,
        group_by=settings.group_by,
        latest=settings.filter_latest,
        by=settings.filter_by,
        unwind=settings.unwind_list_fields,
        drop_null_groups=settings.drop_null_groups,
        with_raw=settings.with_raw,
        sample=settings.sample,
        skip_errors=settings.skip_errors,
    )


def _refuse_too_many(run: Dispatch) -> None:
    """Refuse too many jobs before files are listed for minutes; what leaves jobs out may leave few enough."""
    from job_dispatch.jobs.building import refuse_too_many

    settings = run.settings
    may_be_fewer = settings.skip_processed or run.selection.exclusions.jobs
    is_asked = settings.max_number_of_tasks_dispatched or settings.dry_run
    if settings.wants_files and not (may_be_fewer or is_asked):
        refuse_too_many(run.cohort, run.parameters)


def _locate(settings: Settings, cohort: Cohort) -> Files:
    from job_dispatch.storage import locating

    return locating.locate(
        cohort,
        endings=settings.file_extension,
        patterns=settings.file_pattern,
        require_files=settings.require_files,
        skip_errors=settings.skip_errors,
        sizes=settings.balance == "size",
        # Each asset makes a job at least, so what a limit leaves off need not be measured.
        sizes_at_most=None if settings.group_by else settings.max_number_of_tasks_dispatched,
        max_concurrency=settings.max_concurrency,
    )


def _plan(run: Dispatch, wrapper: Wrapper | None, database: ResultsDatabase | None) -> tuple[Jobs, Folders]:
    from job_dispatch.jobs.building import plan
    from job_dispatch.jobs.sharing import share_out
    from job_dispatch.processed.remaining import leave_out_processed

    settings = run.settings
    remaining = leave_out_processed(run.selection.exclusions, wrapper, run.parameters.fixed, database)
    jobs = plan(
        run.files,
        run.parameters,
        split_files=settings.split_files,
        query_in_jobs=settings.query_in_jobs,
        max_jobs=settings.max_number_of_tasks_dispatched,
        code=wrapper.code if wrapper else None,
        leave_out=remaining,
        is_preview=settings.dry_run,
    )
    if remaining is not None:
        remaining.warn(jobs)
    folders = share_out(
        jobs, settings.num_parallel_workers, tasks_per_job=settings.tasks_per_job, balance=settings.balance
    )
    logger.info("%s for %s", counted(len(jobs), "job"), counted(len(folders.shares), "worker folder"))
    return jobs, folders


def _output_folder(settings: Settings, opened: contextlib.ExitStack) -> OutputFolder | None:
    """Return the output folder, locked, or None for a preview, which only looks whether it could be written."""
    from job_dispatch.jobs import output_folder

    output_folder.warn_of_input(settings.output_directory, settings.input_directory)
    if settings.dry_run:
        output_folder.inspect(settings.output_directory, settings.overwrite)
        return None
    return opened.enter_context(output_folder.locked(settings.output_directory, settings.overwrite))


def _dispatch(settings: Settings, command: Sequence[str]) -> None:
    """Dispatch, and show what was done: a preview or a summary, and the report where one is asked for."""
    from job_dispatch.report import dispatched, files

    if settings.report_directory is not None:
        files.check_directory(settings.report_directory, settings.output_directory, settings.overwrite)
    run = dispatch(settings)
    if run.error is None and settings.dry_run:
        run = replace(run, error=_preview(run))
    elif run.error is None:
        _print(dispatched.summary(run))
    if settings.report_directory is not None:
        from job_dispatch.report import writing

        write = writing.write if run.error is None else writing.write_failure
        write(run, settings.report_directory, command, __version__)
    if run.error is not None:
        raise run.error


def _preview(run: Dispatch) -> DispatchError | None:
    """Show what would be dispatched; return why that is not possible."""
    from job_dispatch.report import dispatched

    try:
        dispatched.preview(run)
    except BrokenPipeError:
        return None  # the reader of the pipe is gone
    except OSError as error:
        return ServiceError(f"the preview cannot be shown: {error.strerror}")
    return None


def _describe(settings: Settings, home: Path, command: Sequence[str]) -> None:
    """Show what there is to select, instead of dispatching it."""
    from job_dispatch.cohort.describing import describe
    from job_dispatch.cohort.quality_control import Quality
    from job_dispatch.cohort.sources import open_source
    from job_dispatch.report import files, overview
    from job_dispatch.request import selection
    from job_dispatch.storage import locating, matching

    if settings.report_directory is not None:
        files.check_directory(settings.report_directory, settings.output_directory, overwrite=True)
    if settings.docdb_query or settings.use_data_asset_csv:
        selection.check_input_directory(settings.input_directory, is_read=bool(settings.use_data_asset_csv))
    selected = selection.read_selection(settings)
    with open_source(settings) as source:
        found = describe(source, selected, Quality(settings.qc or "", settings.modality))
    if settings.wants_files:
        wanted = matching.wanted(settings.file_extension, settings.file_pattern)
        seen = locating.look_at(found.examples, wanted, source.may_name_local_files, settings.max_concurrency)
        found = replace(found, endings=seen.endings())
    _print(list(overview.lines(found, settings.source, settings.modality)))
    if settings.report_directory is not None:
        kept = flags.arguments(settings, home, without=overview.COMPOSED)
        text = overview.render(found, overview.base(settings, [*command, *kept]), settings.source)
        overview.write(settings.report_directory, text, settings.overwrite)


def _print(lines: Sequence[str]) -> None:
    for line in lines:
        with contextlib.suppress(OSError):  # the jobs are there, whether or not anybody reads this
            print(line)


def _failed(error: DispatchError, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    with contextlib.suppress(OSError):  # the exit code is enough
        print(f"error: {error}", file=sys.stderr)
    return error.exit_code


def _clear(noted: Mapping[str, Any]) -> str:
    """Remove what a killed run left, and return whether its jobs are written, in words."""
    from job_dispatch.jobs import output_folder
    from job_dispatch.report import files

    logger.disabled = True  # the last line is enough
    is_written = bool(noted.get("is_written"))
    if noted.get("output"):
        is_written |= output_folder.clear(Path(noted["output"]), list(map(Path, noted["made"])))
    if noted.get("report"):
        with contextlib.suppress(OSError):
            files.recover(Path(noted["report"]))
    if noted.get("unfinished"):
        Path(noted["unfinished"]).unlink(missing_ok=True)
    if noted.get("git_folder"):
        from job_dispatch.processed.code_ocean import clear_git

        clear_git(noted.get("git", 0), noted["git_folder"])
    return "all its jobs are written" if is_written else "no job is written"


def run(home: Path = Path()) -> NoReturn:
    """Be the command: dispatch in a process that signals end at any moment, then leave with the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if sys.argv[1:2] and sys.argv[1] in VERBS:
        from job_dispatch.results import commands

        stopping.supervise(lambda: commands.main(sys.argv[1], sys.argv[2:]), commands.clear)
    gc.set_threshold(OBJECTS_UNTIL_A_LOOK_FOR_CIRCLES)
    stopping.supervise(lambda: main(home=home), _clear)

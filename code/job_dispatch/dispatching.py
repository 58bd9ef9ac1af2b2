"""The steps of a dispatch, each of which takes values and returns a value; a description; and what is shown of both."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from job_dispatch import failures
from job_dispatch.cohort.describing import describe as describe_cohort
from job_dispatch.cohort.quality_control import Quality
from job_dispatch.cohort.selecting import selected
from job_dispatch.cohort.sources import open_source, save, saving
from job_dispatch.jobs import output_folder
from job_dispatch.jobs.building import Jobs, plan, refuse_too_many
from job_dispatch.jobs.sharing import Folders, share_out
from job_dispatch.messages import DispatchError, ServiceError, counted, logger
from job_dispatch.model import Cohort, Files
from job_dispatch.processed.code_ocean import Inquiry, Wrapper
from job_dispatch.processed.remaining import ResultsDatabase, leave_out_processed
from job_dispatch.report import dispatched
from job_dispatch.report.dispatched import BUILDING, FINDING, READING, WRITING, Dispatch
from job_dispatch.request import flags, parameters, selection
from job_dispatch.request.flags import Settings
from job_dispatch.storage import locating, matching


def show(settings: Settings, command: Sequence[str]) -> None:
    """Dispatch, and show what was done: a preview or a summary, and the report where one is asked for."""
    if settings.report_directory is not None:
        from job_dispatch.report import writing  # Jinja takes 0.1 s

        writing.check_directory(settings.report_directory, settings.output_directory, settings.overwrite)
    run = dispatch(settings)
    if run.error is None and settings.dry_run:
        try:
            dispatched.preview(run)
        except BrokenPipeError:
            pass  # the reader of the pipe is gone
        except OSError as error:
            run = replace(run, error=ServiceError(f"the preview cannot be shown: {error.strerror}"))
    elif run.error is None:
        _print(dispatched.summary(run))
    if settings.report_directory is not None:
        writing.write(run, settings.report_directory, command)
    if run.error is not None:
        raise run.error


def describe(settings: Settings, home: Path, command: Sequence[str]) -> None:
    """Show what there is to select, instead of dispatching it."""
    from job_dispatch.report import overview, writing  # Jinja takes 0.1 s

    if settings.report_directory is not None:
        writing.check_directory(settings.report_directory, settings.output_directory, overwrite=True)
    if settings.docdb_query or settings.use_data_asset_csv:
        selection.check_input_directory(settings.input_directory, is_read=bool(settings.use_data_asset_csv))
    selected = selection.read_selection(settings)
    with open_source(settings) as source:
        found = describe_cohort(source, selected, Quality(settings.qc or "", settings.modality))
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


def dispatch(settings: Settings) -> Dispatch:
    """Return the run that the settings ask for; a failed run has its error and the steps before it."""
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
    settings = run.settings
    selection.check_input_directory(settings.input_directory, is_read=bool(settings.use_data_asset_csv))
    asked = selection.read_selection(settings)
    yield READING, (run := replace(run, selection=asked))
    given = parameters.read_parameters(settings.input_directory, settings.analysis_parameters or "")
    if settings.parameter_schema:
        parameters.check(given, settings.parameter_schema, settings.input_directory, asked.table)
    yield READING, (run := replace(run, parameters=given))
    with contextlib.ExitStack() as opened:
        output_folder.warn_of_input(settings.output_directory, settings.input_directory)
        if settings.dry_run:
            output_folder.inspect(settings.output_directory, settings.overwrite)
        else:
            output = opened.enter_context(output_folder.locked(settings.output_directory, settings.overwrite))
        saved = opened.enter_context(saving(settings.save_catalog, settings.overwrite))
        database = ResultsDatabase(settings.docdb_host, settings.docdb_timeout) if settings.skip_processed else None
        inquiry = opened.enter_context(Inquiry(settings.docdb_timeout, settings.skip_processed))
        source = opened.enter_context(open_source(settings))
        if source.is_database:
            threading.Thread(target=_load, args=(settings.wants_files,), daemon=True).start()
        cohort = selected(source, asked, settings)
        yield FINDING, (run := replace(run, cohort=cohort))
        _refuse_too_many(run)
        located = _locate(settings, cohort)
        wrapper = inquiry.answer()
        yield FINDING, (run := replace(run, files=located))
        jobs, folders = _plan(run, wrapper, database)
        yield BUILDING, (run := replace(run, jobs=jobs, folders=folders))
        if saved is not None:
            also = [one.record_id for one in cohort.skipped if one.record_id] if asked.table else []
            save(saved, source, cohort.assets, also, located if settings.wants_files else None)
        if not settings.dry_run:
            output_folder.write(output, jobs, folders.shares)
            yield WRITING, run


def _load(wants_files: bool) -> None:
    """Load what is needed after the metadata; that takes a quarter of a second, in which the database answers."""
    with contextlib.suppress(Exception):  # it fails again where it is needed, and is told there
        if wants_files:
            from job_dispatch.storage import access, s3  # noqa: F401

            access.load()
        from job_dispatch.jobs import model  # noqa: F401


def _refuse_too_many(run: Dispatch) -> None:
    """Refuse too many jobs before files are listed for minutes; what leaves jobs out may leave few enough."""
    settings = run.settings
    may_be_fewer = settings.skip_processed or run.selection.exclusions.jobs
    is_asked = settings.max_number_of_tasks_dispatched or settings.dry_run
    if settings.wants_files and not (may_be_fewer or is_asked):
        refuse_too_many(run.cohort, run.parameters)


def _locate(settings: Settings, cohort: Cohort) -> Files:
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

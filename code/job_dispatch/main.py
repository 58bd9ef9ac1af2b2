"""The analysis job dispatcher: from flags to worker folders, one step after the other."""

from __future__ import annotations

import contextlib
import gc
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from job_dispatch import __version__, failures, stopping
from job_dispatch.messages import DispatchError, ServiceError, configure_logging, counted, label_flags, logger
from job_dispatch.request import flags, panel

if TYPE_CHECKING:
    from job_dispatch.report.account import Account
    from job_dispatch.request.flags import Settings

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
    label_flags(panel.LABELS if panel.is_used() else {})
    try:
        settings = flags.parse(argv, __version__, home)
        debug = settings.log_level == "DEBUG"
        configure_logging(settings.log_level)
        _dispatch(settings, _command(argv))
    except BaseException as error:  # no traceback reaches a user who did not ask for it
        return _failed(failures.explained(error), debug)
    return 0


def _command(argv: Sequence[str] | None) -> list[str]:
    """Return the command as somebody would type it again."""
    program, *flags = sys.argv if argv is None else ("run_capsule.py", *argv)
    return ["python", program, *flags] if program.endswith(".py") else [Path(program).name, *flags]


def _dispatch(settings: Settings, command: Sequence[str]) -> None:
    from job_dispatch.report import account, files

    logger.info("aind-analysis-job-dispatch %s, assets from %s", __version__, account.source(settings))
    if settings.describe:
        _describe(settings, command)
        return
    if settings.report_directory is None:
        _run(account.Account(settings))
        return
    files.check_directory(settings.report_directory, settings.output_directory, settings.overwrite)
    run = account.Account(settings)
    try:
        _run(run)
    except BaseException as error:
        from job_dispatch.report import writing

        run.error = failures.explained(error)
        writing.write_failure(run, settings.report_directory, command, __version__)
        raise run.error from error
    from job_dispatch.report import writing

    writing.write(run, settings.report_directory, command, __version__)


def _describe(settings: Settings, command: Sequence[str]) -> None:
    """Show what there is to select instead of dispatching it."""
    from job_dispatch import finding
    from job_dispatch.report import account, cohort_page, cohort_table, files
    from job_dispatch.request import selection

    if settings.report_directory is not None:
        files.check_directory(settings.report_directory, settings.output_directory, overwrite=True)
    unused = [name for name in ("group_by", "filter_latest", "with_raw", "sample") if getattr(settings, name)]
    if unused:
        logger.warning("--describe=1 shows all that is selected, whatever --%s say", " and --".join(unused))
    if settings.docdb_query or settings.use_data_asset_csv:
        selection.check_input_directory(settings.input_directory, is_read=settings.use_data_asset_csv)
    selected = selection.read_selection(settings)
    with finding.open_metadata(settings) as metadata:
        cohort = finding.describe(metadata, selected, settings)
    source = account.source(settings)
    _print(list(cohort_table.lines(cohort, source, settings.modality)))
    if settings.report_directory is not None:
        text = cohort_page.render(cohort, cohort_page.base(settings, command), source)
        cohort_page.write(settings.report_directory, text, settings.overwrite)


def _run(run: Account) -> None:
    """Do what is asked for, and note it in the account step by step."""
    from job_dispatch.jobs import output_folder
    from job_dispatch.report import account

    settings = run.settings
    with run.timed(account.READING):
        _read_request(run)
    output_folder.warn_of_input(settings.output_directory, settings.input_directory)
    if settings.dry_run:
        output_folder.inspect(settings.output_directory, settings.overwrite)
        _prepare(run)
        _preview(run)
    else:
        with output_folder.locked(settings.output_directory, settings.overwrite) as output:
            _prepare(run)
            with run.timed(account.WRITING):
                output_folder.write(output, run.plan, run.shares)
        _print(account.summary(run))


def _read_request(run: Account) -> None:
    from job_dispatch.request import parameters, schema, selection

    settings = run.settings
    selection.check_input_directory(settings.input_directory, is_read=settings.use_data_asset_csv)
    run.selection = selection.read_selection(settings)
    run.parameters = parameters.read_parameters(settings.input_directory)
    if settings.parameter_schema:
        schema.check(run.parameters, settings.parameter_schema, settings.input_directory, run.selection.table)


def _prepare(run: Account) -> None:
    """Find the assets and their files, build the jobs and share them out."""
    from job_dispatch import finding
    from job_dispatch.jobs import building, sharing
    from job_dispatch.processed import code_ocean, results, wanted
    from job_dispatch.report import account

    settings = run.settings
    database = None
    if settings.skip_processed:
        database = results.ResultsDatabase(settings.docdb_host, settings.docdb_timeout)
    with code_ocean.Inquiry(settings.docdb_timeout, settings.skip_processed) as inquiry:
        with run.timed(account.FINDING), finding.open_metadata(settings) as metadata:
            run.selected, run.located = finding.find_assets(metadata, run.selection, settings, run.left_out)
        wrapper = inquiry.answer()
    if settings.wants_files and settings.split_files and (settings.group_by or settings.with_raw):
        flag, whole = ("group_by", "group") if settings.group_by else ("with_raw", "pair")
        logger.info("--split_files does not apply with --%s: each job lists all files of its %s", flag, whole)
    with run.timed(account.BUILDING):
        query = run.selection.query_text if settings.query_in_jobs else None
        code = wrapper.code if wrapper else None
        jobs = building.Jobs(run.selected.groups, run.located.assets, run.parameters, query, settings.split_files, code)
        left = wanted.Wanted(jobs, run.selection.exclusions, run.left_out, wrapper, database)
        run.plan = building.plan(jobs, left.jobs, settings.max_number_of_tasks_dispatched, settings.dry_run)
        left.tell(run.plan)
        run.sizes = sharing.known_sizes([job.size for job in run.plan.jobs]) if settings.balance == "size" else []
        run.shares = sharing.shares(
            len(run.plan.jobs), run.sizes, settings.num_parallel_workers, settings.tasks_per_job
        )
    logger.info("%s for %s", counted(len(run.plan.jobs), "job"), counted(len(run.shares), "worker folder"))


def _preview(run: Account) -> None:
    from job_dispatch.report import preview

    try:
        preview.show(run)
    except BrokenPipeError:
        return  # whoever read it has seen enough
    except OSError as error:
        raise ServiceError(f"the preview cannot be shown: {error.strerror}") from error


def _print(lines: Sequence[str]) -> None:
    for line in lines:
        with contextlib.suppress(OSError):  # the jobs are there, whether or not anybody reads this
            print(line)


def _failed(error: DispatchError, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    with contextlib.suppress(OSError):  # the exit code tells it as well
        print(f"error: {error}", file=sys.stderr)
    return error.exit_code


def _clear(noted: Mapping[str, Any]) -> str:
    """Clear what a killed run left, and say what became of its jobs."""
    from job_dispatch.jobs import output_folder
    from job_dispatch.processed import repository
    from job_dispatch.report import files

    logger.disabled = True  # the one sentence says it all
    is_written = bool(noted.get("is_written"))
    if noted.get("output"):
        is_written |= output_folder.clear(Path(noted["output"]), list(map(Path, noted["made"])))
    if noted.get("report"):
        with contextlib.suppress(OSError):
            files.recover(Path(noted["report"]))
    repository.clear(noted.get("git", 0), noted.get("git_folder", ""))
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

"""The analysis job dispatcher: from flags to worker folders, one step after the other."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NoReturn

from job_dispatch import stopping
from job_dispatch.messages import DispatchError, ServiceError, configure_logging, counted, logger
from job_dispatch.request import flags

if TYPE_CHECKING:
    from job_dispatch.report.account import Account
    from job_dispatch.request.flags import Settings
    from job_dispatch.request.parameters import Parameters
    from job_dispatch.request.selection import Selection

__version__ = "0.1.0"


def main(argv: Sequence[str] | None = None) -> int:
    """Dispatch the jobs that the flags ask for and return the exit code.

    0: done. 2: what was asked cannot be done. 1: a service or the disk failed.
    """
    debug = False
    try:
        settings = flags.parse(argv, __version__)
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
    from job_dispatch.jobs import output_folder, sharing
    from job_dispatch.report import account
    from job_dispatch.request import parameters as parameter_sets
    from job_dispatch.request import selection as selecting

    started = datetime.now(UTC)
    logger.info("aind-analysis-job-dispatch %s, assets from %s", __version__, account.source(settings))
    selecting.check_input_directory(settings.input_directory)
    if settings.report_directory is not None:
        from job_dispatch.report import writing

        writing.check_directory(settings.report_directory, settings.output_directory)
    selection = selecting.read_selection(settings)
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
            sharing.write(output, run.plan, run.shares)
        _print(account.summary(run, _seconds(started, prepared), _seconds(prepared, datetime.now(UTC))))
    if settings.report_directory is not None:
        writing.write(run, settings.report_directory, command, __version__, started)


def _prepare(settings: Settings, selection: Selection, parameters: Parameters) -> Account:
    """Find the assets and their files, build the jobs and share them out."""
    import utils
    from job_dispatch.jobs import building, sharing
    from job_dispatch.report.account import Account

    with utils.open_metadata(settings) as metadata:
        selected, located = utils.find_assets(metadata, selection, settings)
    if settings.group_by and settings.file_extension and settings.split_files:
        logger.info("--split_files does not apply with --group_by: each job lists all files of its group")
    query = selection.query_text if settings.query_in_jobs else None
    jobs = building.Jobs(selected.groups, located.assets, parameters, query, settings.split_files)
    wanted = jobs  # what lets only some of them through stands here, so that the cap counts what it leaves
    plan = building.plan(jobs, wanted, settings.max_number_of_tasks_dispatched, settings.dry_run)
    sizes = sharing.known_sizes([job.size for job in plan.jobs]) if settings.balance == "size" else []
    if sizes:
        shares = sharing.share_by_size(sizes, settings.num_parallel_workers, settings.tasks_per_job)
    else:
        shares = sharing.share(len(plan.jobs), settings.num_parallel_workers, settings.tasks_per_job)
    logger.info("%s for %s", counted(len(plan.jobs), "job"), counted(len(shares), "worker folder"))
    return Account(settings, selection, parameters, selected, located, plan, shares, sizes)


def _preview(run: Account) -> None:
    from job_dispatch.report import preview

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


def run() -> NoReturn:
    """Be the command: dispatch, then leave with the exit code; signals end it from the start."""
    stopping.install()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    stopping.leave(main())


if __name__ == "__main__":
    run()

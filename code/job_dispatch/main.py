"""The commands: a dispatch, and the verbs of `results/commands.py`, each in a process that a signal can end."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from job_dispatch import __version__, stopping
from job_dispatch.messages import configure_logging, is_in_capsule, logger, naming_flags, showing_progress
from job_dispatch.request import flags

# A run makes many objects and few circles of them, for which Python would look after every 700. Loading the modules
# makes a hundred thousand, and two looks at those took 70 ms.
OBJECTS_UNTIL_A_LOOK_FOR_CIRCLES = 200_000
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
                from job_dispatch import dispatching  # half a second, for which --help and a typing error need not wait

                if settings.describe:
                    dispatching.describe(settings, home, command)
                else:
                    dispatching.show(settings, [*command, *(sys.argv[1:] if argv is None else argv)])
        except SystemExit:  # argparse has said why
            raise
        except BaseException as error:  # no traceback reaches a user who did not ask for it
            from job_dispatch import failures

            failure = failures.explained(error)
            if debug:
                import traceback

                traceback.print_exc()
            with contextlib.suppress(OSError):  # the exit code is enough
                print(f"error: {failure}", file=sys.stderr)
            return failure.exit_code
    return 0


def _clear(noted: Mapping[str, Any]) -> str:
    """Remove what a killed run left, and return whether its jobs are written, in words."""
    from job_dispatch.jobs import output_folder

    logger.disabled = True  # the last line is enough
    is_written = bool(noted.get("is_written"))
    if noted.get("output"):
        is_written |= output_folder.clear(Path(noted["output"]), list(map(Path, noted["made"])))
    if noted.get("report"):
        from job_dispatch.report import writing

        with contextlib.suppress(OSError):
            writing.recover(Path(noted["report"]))
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

"""The border for failures: whatever an asset, a piece of advice or the job of an analysis raises becomes a sentence."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

from job_dispatch.messages import DispatchError, ServiceError, logger, printable

_TEXT_SHOWN = 300
HOW_TO_SEE_WHERE = "; --log_level=DEBUG shows where"
_TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)
# What interrupts code from outside, and is no failure of it.
_SIGNALS = (KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError)

T = TypeVar("T")


def explained(error: BaseException, may_be_signal: bool = True) -> DispatchError:
    """Return what was raised as an error of this project.

    That is the first such error in a group or among the causes; else one that names the innermost cause, of the first
    of a group. A panic of Rust code derives from BaseException, too. A KeyboardInterrupt and its like are raised again,
    unless signals end the process at once, so that only the code that was called can have raised them.
    """
    found = list(_behind(error))
    if may_be_signal and any(isinstance(one, _SIGNALS) for one in found):
        raise error
    own = next((one for one in found if isinstance(one, DispatchError)), None)
    if own is not None:
        return own
    if any(isinstance(one, OSError) and one.errno in _TOO_MANY_FILES for one in found):
        return ServiceError("too many open files; raise the limit (ulimit -n)")
    cause = innermost(error)
    if isinstance(cause, MemoryError):
        return ServiceError("the memory is full")
    if isinstance(cause, OSError) and cause.strerror:
        place = f"{os.fsdecode(cause.filename)}: " if isinstance(cause.filename, str | bytes) else ""
        return ServiceError(f"{place}{cause.strerror}")
    text = printable(" ".join(str(cause).split()), _TEXT_SHOWN)
    return DispatchError(f"unexpected {type(cause).__name__}: {text}{HOW_TO_SEE_WHERE}")


def advice(ask: Callable[[], T], otherwise: T) -> T:
    """Return what `ask` returns, which only helps a user, or something else where it fails: that never ends a run."""
    try:
        return ask()
    except BaseException as error:
        logger.debug("no advice: %s", explained(error).headline)
        return otherwise


def _behind(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, or the members of a group, each with its causes."""
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _behind(one)
        return
    yield error
    if error.__cause__ is not None and not isinstance(error, DispatchError):
        yield from _behind(error.__cause__)


def innermost(error: BaseException) -> BaseException:
    """Return the cause behind an error, of the first in a group."""
    if isinstance(error, BaseExceptionGroup):
        return innermost(error.exceptions[0])
    return error if error.__cause__ is None else innermost(error.__cause__)

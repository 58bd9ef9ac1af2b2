"""Leaving: at once on SIGTERM and SIGINT, with what was half done cleaned up, and at the end of a run.

Nothing heavy is imported here, so that the handler stands before anything that takes time. It leaves by
`os._exit`: threads in `requests` would delay an ordinary exit to their timeout, and obstore's may abort it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_clean_ups: list[Callable[[], None]] = []
_held = False


def install() -> None:
    """Take SIGTERM and SIGINT from here on; the exit code is 128 + the signal's number, as in a shell."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)


def leave(code: int) -> NoReturn:
    """End the process with everything written out."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # None where the stream was closed
            stream.flush()
    os._exit(code)


@contextmanager
def cleaned_up_by(clean_up: Callable[[], None]) -> Iterator[None]:
    """Run `clean_up` if a signal ends the process inside this block."""
    _clean_ups.append(clean_up)
    try:
        yield
    finally:
        _clean_ups.remove(clean_up)


@contextmanager
def held() -> Iterator[None]:
    """Let a signal wait for the end of this block; what is done by then stays done."""
    global _held
    _held = True
    try:
        yield
    finally:
        _held = False


def _stop(number: int, _frame: FrameType | None) -> None:
    if _held:
        return
    for ignored in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ignored, signal.SIG_IGN)
    for clean_up in reversed(_clean_ups):
        with contextlib.suppress(OSError):
            clean_up()
    # Not by print: the signal may have come while a line was being written.
    with contextlib.suppress(OSError):
        os.write(2, f"error: stopped by {signal.Signals(number).name}; no job is written\n".encode())
    os._exit(128 + number)

"""Leaving: at once on SIGTERM and SIGINT, with what was half done cleaned up, and at the end of a run.

A thread of its own waits for the signals, since a handler would run in the main thread only, which may be
waiting for an answer that does not come. It leaves by `os._exit`: threads in `requests` would delay an
ordinary exit to their timeout, and obstore's may abort it. Nothing heavy is imported here, so that the
thread stands before anything that takes time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Held by whoever may not be interrupted; once a signal is being acted upon, it is never free again.
_guard = threading.RLock()
_clean_ups: list[Callable[[], None]] = []
_is_finishing = False


def install() -> None:
    """Take SIGTERM and SIGINT from here on; the exit code is 128 + the signal's number, as in a shell."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    threading.Thread(target=_wait, name="signals", daemon=True).start()


def leave(code: int) -> NoReturn:
    """End the process with everything written out."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # None where the stream was closed
            stream.flush()
    with _guard:
        os._exit(code)


@contextmanager
def deferred() -> Iterator[None]:
    """Let a signal wait for the end of this block."""
    with _guard:
        yield


@contextmanager
def finishing() -> Iterator[None]:
    """Let signals count for nothing from here on, unless the block fails: what is done by then is the whole run."""
    global _is_finishing
    with _guard:
        _is_finishing = True
    try:
        yield
    except BaseException:
        _is_finishing = False
        raise


def clean_up_by(clean_up: Callable[[], None]) -> None:
    """Run `clean_up` if a signal ends the process before `need_no_clean_up`."""
    with _guard:
        _clean_ups.append(clean_up)


def need_no_clean_up(clean_up: Callable[[], None]) -> None:
    """Take back what `clean_up_by` asked for."""
    with _guard:
        _clean_ups.remove(clean_up)


def _wait() -> None:
    while True:
        number = signal.sigwait(_SIGNALS)
        with _guard:
            if not _is_finishing:
                _stop(number)


def _stop(number: int) -> NoReturn:
    for clean_up in reversed(_clean_ups):
        with contextlib.suppress(OSError):
            clean_up()
    # Not by print: the stream may be in use.
    with contextlib.suppress(OSError):
        os.write(2, f"error: stopped by {signal.Signals(number).name}; no job is written\n".encode())
    os._exit(128 + number)

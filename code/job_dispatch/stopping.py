"""Ending a run at once, whatever it is doing, and leaving nothing of it behind.

The run is a child of a process that does nothing but wait. A signal that ends the run ends the child in the
kernel: SIGTERM, SIGINT and SIGHUP have their default effect there, which needs no cooperation, and what arrives at
the parent alone is passed on as SIGKILL. So it makes no difference that Python lets no other thread run while it
matches a regular expression, reads 100 MB of JSON or sorts in pandas, and there is no list of such places that
could have gaps, no lock that a signal waits for, and no thread. The parent then clears what the run left, with the
code that clears it for the next run where nobody could, says what ended it, and leaves with 128 + the signal's
number. A run that the kernel kills for want of memory ends in the same way, with a sentence.

The parent is forked before anything heavy is imported: it costs 2 ms and shares its pages. If it is killed itself,
the kernel ends the child.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_NOTES_BYTES = 1 << 20
# What the run has noted, and where to; the descriptor is None in a run that nobody watches.
_notes: dict[str, Any] = {}
_descriptor: int | None = None
_noting = threading.Lock()


def supervise(work: Callable[[], int], clear: Callable[[Mapping[str, Any]], str]) -> NoReturn:
    """Do the work in a child process, and leave with its exit code.

    Parameters
    ----------
    work : callable
        Returns the exit code.
    clear : callable
        Called if the child is killed, with what it has noted by then: removes what it left, and returns what
        became of its jobs.
    """
    _open_what_is_closed()
    # Where nohup or a shell has set a signal to be ignored, it stays so.
    ending = {number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN}
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, {*ending, signal.SIGCHLD})
    notes, noting = os.pipe()
    alive, living = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(notes)
        os.close(living)
        _begin(ending, noting, alive, parent)
        leave(work())
    os.close(noting)
    os.close(alive)
    stopped_by, status = _wait(child, ending)
    if os.WIFEXITED(status):
        os._exit(os.WEXITSTATUS(status))
    number = stopped_by or signal.Signals(os.WTERMSIG(status))
    became = clear(_noted(notes))
    _say(f"error: {_reason(number, stopped_by is not None or number in ending)}; {became}")
    os._exit(128 + number)


def _open_what_is_closed() -> None:
    """Lead stdin, stdout and stderr to nowhere where they were closed: else files that are opened take their numbers.

    Then what some library writes to stderr would stand in a file of the run.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def note(**news: Any) -> None:
    """Note what must be known to clear up after a kill; what was noted before under the same name is replaced."""
    with _noting:  # several threads have something to clear up
        _notes.update(news)
        if _descriptor is None:
            return
        with contextlib.suppress(BlockingIOError):  # more than a pipe holds: the last that fitted counts
            os.write(_descriptor, json.dumps(_notes).encode() + b"\n")


def leave(code: int) -> NoReturn:
    """End the process with everything written out, without waiting for threads that wait for an answer."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # None where the stream was closed
            stream.flush()
    os._exit(code)


def _begin(ending: set[signal.Signals], noting: int, alive: int, parent: int) -> None:
    """Let signals end this process, and let the kernel end it when the parent is gone."""
    global _descriptor
    _descriptor = noting
    os.set_blocking(noting, False)
    # The pipe's other end closes with the parent, whatever ends it, and then the kernel sends SIGIO.
    with contextlib.suppress(OSError):  # a system without this: such a run goes on to its end
        fcntl.fcntl(alive, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(alive, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    for number in ending:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*ending, signal.SIGCHLD})
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)


def _wait(child: int, ending: set[signal.Signals]) -> tuple[signal.Signals | None, int]:
    """Wait for the end of the child; return the signal that ended it, if it came to this process, and its status."""
    stopped_by = None
    while True:
        number = signal.Signals(signal.sigwait({*ending, signal.SIGCHLD}))
        if number != signal.SIGCHLD:
            stopped_by = stopped_by or number
            os.kill(child, signal.SIGKILL)
            continue
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return stopped_by, status


def _noted(notes: int) -> Mapping[str, Any]:
    os.set_blocking(notes, False)
    with contextlib.suppress(BlockingIOError):
        text = os.read(notes, _NOTES_BYTES)
        whole = text[: text.rfind(b"\n") + 1].splitlines()
        noted: Mapping[str, Any] = json.loads(whole[-1]) if whole else {}
        return noted
    return {}


def _reason(number: signal.Signals, was_asked_for: bool) -> str:
    if was_asked_for:
        return f"stopped by {number.name}"
    if number == signal.SIGKILL:
        return "the run was killed, most likely for want of memory"
    return f"the run crashed ({number.name})"


def _say(sentence: str) -> None:
    with contextlib.suppress(OSError):
        beginning = "\r\x1b[K" if os.isatty(2) else ""  # over a progress bar
        os.write(2, f"{beginning}{sentence}\n".encode("utf-8", "backslashreplace"))

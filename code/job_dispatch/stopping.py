"""Ending a run at once, whatever it is doing, and leaving nothing of it behind.

The run is a child of a process that does nothing but wait. A signal that ends the run ends the child in the
kernel: signals have their default effect there, which needs no cooperation, and any signal that would end the parent
is passed on as SIGKILL. So it makes no difference that Python lets no other thread run while it
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

# Those that end no process by default, and the two that nobody can wait for.
_HARMLESS = frozenset(
    getattr(signal, f"SIG{name}")
    for name in ("CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "WINCH", "KILL", "INFO")
    if hasattr(signal, f"SIG{name}")
)
# What the code of a process that goes wrong raises in it; at the parent they come from outside like all others.
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS)
# Where the run notes what it makes; None in a run without a supervisor.
_notes: int | None = None
_noting = threading.Lock()


def supervise(work: Callable[[], int], clear: Callable[[Mapping[str, Any]], str]) -> NoReturn:
    """Do the work in a child process, and leave with the exit code that it returns.

    If the child is killed, `clear` gets what it has noted by then, removes what it left, and returns what became of its
    jobs.
    """
    _open_what_is_closed()
    # Where nohup or a shell has set a signal to be ignored, it stays so.
    ending = {
        int(number) for number in signal.valid_signals() - _HARMLESS if signal.getsignal(number) != signal.SIG_IGN
    }
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, {*ending, signal.SIGCHLD})
    notes = _file_without_name()
    alive, living = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(living)
        _begin(ending, notes, alive, parent)
        leave(work())
    os.close(alive)
    stopped_by, status = _wait(child, ending)
    if os.WIFEXITED(status):
        os._exit(os.WEXITSTATUS(status))
    number = stopped_by or os.WTERMSIG(status)
    became = clear(_noted(notes))
    _say(f"error: {_reason(number, stopped_by is not None or number in ending - {*_CRASHES})}; {became}")
    os._exit(128 + number)


def _file_without_name() -> int:
    """Open a file for notes, of which a pipe would hold no more than 64 kB."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("notes")
    import tempfile

    return os.dup(tempfile.TemporaryFile().fileno())


def _open_what_is_closed() -> None:
    """Lead stdin, stdout and stderr to nowhere where they were closed: else files that are opened take their numbers.

    Otherwise output of a library to stderr would end up in a file of the run.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def note(**news: Any) -> None:
    """Note what must be known to clear up after a kill; what was noted before under the same name is replaced."""
    if _notes is None:
        return
    # Several threads have something to note; where memory is short, the next run clears what this one leaves.
    with _noting, contextlib.suppress(OSError):
        os.write(_notes, b"\n" + json.dumps(news).encode())


def leave(code: int) -> NoReturn:
    """End the process with everything written out, without waiting for threads that wait for an answer."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # None where the stream was closed
            stream.flush()
    os._exit(code)


def _begin(ending: set[int], notes: int, alive: int, parent: int) -> None:
    """Let signals end this process, and let the kernel end it when the parent is gone."""
    global _notes
    _notes = notes
    end_with(alive)
    for number in ending:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*ending, signal.SIGCHLD})
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)


def end_with(pipe: int) -> None:
    """Let the kernel end this process when the other end of a pipe is closed, as it is when its process ends."""
    with contextlib.suppress(OSError):  # a system without this: such a run goes on to its end
        fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(pipe, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)


def _wait(child: int, ending: set[int]) -> tuple[int | None, int]:
    """Wait for the end of the child; return the signal that ended it, if it came to this process, and its status."""
    stopped_by = None
    while True:
        number = int(signal.sigwait({*ending, signal.SIGCHLD}))
        if number != signal.SIGCHLD:
            stopped_by = stopped_by or number
            os.kill(child, signal.SIGKILL)
            continue
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return stopped_by, status


def _noted(notes: int) -> Mapping[str, Any]:
    os.lseek(notes, 0, os.SEEK_SET)
    noted: dict[str, Any] = {}
    with open(notes, "rb") as lines:
        for line in lines:
            with contextlib.suppress(ValueError):  # the run was killed while it wrote this one
                noted |= json.loads(line)
    return noted


def _reason(number: int, was_asked_for: bool) -> str:
    if number == signal.SIGINT and was_asked_for:
        return "stopped by Ctrl-C (SIGINT)"
    if was_asked_for:
        return f"stopped by {_name(number)}"
    if number == signal.SIGKILL:
        return "the run was killed, most likely for want of memory"
    return f"the run crashed ({_name(number)})"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _say(sentence: str) -> None:
    with contextlib.suppress(OSError):
        beginning = "\r\x1b[K" if os.isatty(2) else ""  # over a progress bar
        os.write(2, f"{beginning}{sentence}\n".encode("utf-8", "backslashreplace"))

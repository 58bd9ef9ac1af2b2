"""What a process measures about itself; loaded by both sides."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn


def peak_megabytes() -> float:
    """Return the peak memory of this process; Linux' `ru_maxrss` would start with that of the parent."""
    status = Path("/proc/self/status")
    if status.exists():
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) / 1_024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS


def report(work: Callable[[], int]) -> NoReturn:
    """Do some work, print what it took and the number that it returns, and leave."""
    started, cpu = time.perf_counter(), time.process_time()
    files = work()
    measured = {"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu}
    print_and_leave({**measured, "peak": peak_megabytes(), "files": files})


def print_and_leave(answer: dict[str, Any]) -> NoReturn:
    """Print an answer; leave without the clean-up of libraries, which may take long or abort."""
    print(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)

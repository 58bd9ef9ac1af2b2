"""Who runs a job: a claim file per job, which also holds on a disk that several machines share.

Claims are made under a lock, one process after the other, also on network file systems. The process of a claim touches
it every half minute. On the same machine, a claim counts as long as its process lives; that of another machine until it
was not touched for five minutes. Times are compared as the file server keeps them. Where a disk has no locks, two
processes may claim a job; the one whose claim is replaced notices, and writes no record.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

SECONDS_BETWEEN_BEATS = 30.0
SECONDS_UNHEARD = 300.0
_FOLDER = ".running"
_CLAIM = ".claim"


@dataclass(frozen=True)
class Claim:
    """A process that runs a job.

    `machine` identifies the machine since it was started, and the container, within which `pid` means a process;
    `started` is when the process was, since a later one can have the same `pid`. `since` is in seconds since 1970.
    `run` identifies the run that started it.
    """

    job: str
    host: str
    machine: str
    pid: int
    started: str
    since: float
    attempt: int
    run: str


def folder(results: Path) -> Path:
    """Return the hidden folder for claims in a results folder."""
    return results / _FOLDER


def _path(results: Path, job: str) -> Path:
    return folder(results) / f"{job}{_CLAIM}"


def read(results: Path, job: str) -> Claim | None:
    """Return the claim on a job, None if there is none."""
    try:
        return Claim(**json.loads(_path(results, job).read_bytes()))
    except FileNotFoundError:
        return None


def read_all(results: Path) -> dict[str, Claim]:
    """Return all claims of a results folder by job."""
    found = (read(results, path.name.removesuffix(_CLAIM)) for path in folder(results).glob(f"*{_CLAIM}"))
    return {claim.job: claim for claim in found if claim is not None}


def is_alive(results: Path, claim: Claim) -> bool:
    """Tell whether the process of a claim lives, as far as that can be known here."""
    if claim.machine == _machine():
        return _started(claim.pid) == claim.started
    try:
        heard = _path(results, claim.job).stat().st_mtime
    except FileNotFoundError:
        return False
    return _now(results) - heard < SECONDS_UNHEARD


def take(results: Path, job: str, run: str) -> Claim | None:
    """Claim a job for this process; return None if a living process has it.

    The claim of a process that was killed is replaced; its attempt counts.
    """
    path, own = _path(results, job), os.getpid()
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / ".lock").open("w") as file:
        with contextlib.suppress(OSError):  # no locks here
            fcntl.flock(file, fcntl.LOCK_EX)
        earlier = read(results, job)
        if earlier is not None and is_alive(results, earlier):
            return None
        attempt = earlier.attempt + 1 if earlier else 1
        claim = Claim(job, socket.gethostname(), _machine(), own, _started(own), time.time(), attempt, run)
        whole = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        whole.write_text(json.dumps(asdict(claim)))
        whole.replace(path)
    return claim


def beat(results: Path, claim: Claim) -> bool:
    """Touch a claim; tell whether it still is this process's own."""
    with contextlib.suppress(FileNotFoundError):
        os.utime(_path(results, claim.job))
    return read(results, claim.job) == claim


def release(results: Path, claim: Claim) -> None:
    """Remove a claim if it still is this process's own."""
    if read(results, claim.job) == claim:
        _path(results, claim.job).unlink(missing_ok=True)


def _now(results: Path) -> float:
    """Return the time of the file server."""
    probe = folder(results) / ".now"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:  # nothing can be written there
        return time.time()


def _machine() -> str:
    """Return what identifies this machine since it was started, and the container."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _started(pid: int) -> str:
    """Return when a process was started, in a form that only serves to compare; "" if it does not live."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "" if Path("/proc/self").exists() or not _lives(pid) else "lives"
    return "" if fields[0] in "ZX" else fields[19]


def _lives(pid: int) -> bool:
    with contextlib.suppress(PermissionError):  # somebody else's
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return True

"""Who runs a job: a claim file per job, which also holds on a disk that several machines share.

A claim is made by a hard link, which succeeds for one process only, also on network file systems. Its process
touches it every half minute. On the same machine, a claim counts as long as its process lives; that of another
machine until it was not touched for five minutes. Times are compared as the file server keeps them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

SECONDS_BETWEEN_BEATS = 30.0
SECONDS_UNHEARD = 300.0
_FOLDER = ".running"
_CLAIM = ".claim"
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


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
    path = _path(results, job)
    try:
        return Claim(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):  # on a disk without links, before it was written whole
        return Claim(job, "", "", 0, "", path.stat().st_mtime, 1, "")


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
    with _locked(results):
        attempt = 1
        if (earlier := read(results, job)) is not None:
            if is_alive(results, earlier):
                return None
            path.unlink(missing_ok=True)
            attempt = earlier.attempt + 1
        claim = Claim(job, socket.gethostname(), _machine(), own, _started(own), time.time(), attempt, run)
        return claim if _create(path, json.dumps(asdict(claim)).encode()) else None


def beat(results: Path, claim: Claim) -> bool:
    """Touch a claim; tell whether it still is this process's own."""
    with contextlib.suppress(FileNotFoundError):
        os.utime(_path(results, claim.job))
    return read(results, claim.job) == claim


def release(results: Path, claim: Claim) -> None:
    """Remove a claim if it still is this process's own."""
    if read(results, claim.job) == claim:
        _path(results, claim.job).unlink(missing_ok=True)


def _create(path: Path, text: bytes) -> bool:
    """Create a file with its content at once, if there is none."""
    whole = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    whole.write_bytes(text)
    try:
        os.link(whole, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return False
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a Path takes no descriptor
            file.write(text)
    finally:
        whole.unlink()
    return True


@contextmanager
def _locked(results: Path) -> Iterator[None]:
    """Let one process after the other replace claims; on Linux this holds on network file systems, too."""
    with (folder(results) / ".lock").open("w") as file:
        with contextlib.suppress(OSError):  # no locks here: two runs may start the same killed job at the same moment
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _now(results: Path) -> float:
    """Return the time of the file server."""
    probe = folder(results) / f".now.{secrets.token_hex(8)}"
    try:
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
    except OSError:  # nothing can be written there
        return time.time()
    return now


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

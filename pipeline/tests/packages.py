"""Programs of Debian's packages that an engine needs here, and the word for what cannot be had."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path


class MissingError(Exception):
    """An engine cannot run here; the text is the reason."""


def install(programs: Sequence[str], packages: Sequence[str]) -> None:
    """Install packages if one of the programs is missing.

    Raises
    ------
    MissingError
        They cannot be installed here.
    """
    with Path(tempfile.gettempdir(), f"packages-{os.geteuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests that run side by side install them once
        missing = [name for name in programs if shutil.which(name) is None]
        if not missing:
            return
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise MissingError(f"{missing[0]} is missing, and only root on Debian can install it here")
        _apt_get("update")
        _apt_get("install", "--yes", "--no-install-recommends", *packages)


def _apt_get(*words: str) -> None:
    try:
        done = subprocess.run(
            ["apt-get", "--quiet", *words],
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
    except subprocess.TimeoutExpired:
        raise MissingError(f"apt-get {words[0]} takes more than five minutes") from None
    if done.returncode != 0:
        raise MissingError(f"apt-get {words[0]}: {(done.stderr.strip().splitlines() or ['it failed'])[-1]}")

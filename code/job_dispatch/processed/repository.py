"""The git repository of a capsule on Code Ocean's own server, asked by `git`."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote

from job_dispatch import stopping
from job_dispatch.messages import ServiceError


class Repository:
    """The commits of one capsule.

    Credentials reach `git` by its environment, where no list of processes and no message of its shows them.

    Parameters
    ----------
    host : str
    slug : str
        The capsule's number in its address.
    credentials : str
        `user:password`, or a token alone, as in an address.
    branch : str
        A branch, or `HEAD`.
    timeout : float
        Seconds that one call of `git` may take.
    """

    def __init__(self, host: str, slug: str, credentials: str, branch: str, timeout: float) -> None:
        self._branch, self._timeout = branch, timeout
        self._address = f"https://{host}/capsule-{slug}.git"
        self._environment = _environment(host, credentials)
        self._running: subprocess.Popen[str] | None = None
        self._folder = ""
        self._is_closed = False
        self._lock = threading.Lock()

    def newest_commit(self) -> str:
        """Return the hash of the branch's last commit.

        Raises
        ------
        ServiceError
            The server does not answer or refuses, or there is no such branch.
        """
        answer = self._git("ls-remote", self._address, self._branch).split()
        if not answer:
            raise ServiceError(f"{self._address}: no branch {self._branch}")
        return answer[0]

    def commits_since(self, moment: float | str) -> list[str]:
        """Return the hashes of all commits since a moment, in Unix seconds or as git reads a date. Raises as above."""
        branch = [] if self._branch in ("", "HEAD") else ["--branch", self._branch]
        with self._scratch() as folder:
            # The whole history: a shallow one fails where nothing is newer.
            self._git("clone", "--quiet", "--bare", "--single-branch", *branch, self._address, str(folder))
            since = moment if isinstance(moment, str) else f"@{int(moment)}"
            return self._git("--git-dir", str(folder), "log", f"--since={since}", "--pretty=format:%H").split()

    def close(self) -> None:
        """Stop the running git, and remove its folder."""
        with self._lock:
            self._is_closed = True
            clear(self._running.pid if self._running and self._running.poll() is None else 0, self._folder)

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[Path]:
        self._folder = tempfile.mkdtemp(prefix="dispatch-")
        stopping.note(git_folder=self._folder)
        try:
            yield Path(self._folder)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
            stopping.note(git_folder="")

    def _git(self, *words: str) -> str:
        try:
            running = self._start(words)
            answer, _ = running.communicate(timeout=self._timeout)
        except FileNotFoundError:
            raise ServiceError("the wrapper's commit cannot be asked for: git is not installed") from None
        except OSError as error:
            raise ServiceError(f"the wrapper's commit cannot be asked for: git: {error.strerror}") from None
        except subprocess.TimeoutExpired:
            running.kill()
            running.communicate()
            stopping.note(git=0)
            raise ServiceError(f"{self._address}: no answer in time; try again") from None
        stopping.note(git=0)
        if running.returncode:
            raise ServiceError(
                f"{self._address}: git cannot read it; check GIT_ACCESS_TOKEN and GIT_HOST, or CODEOCEAN_EMAIL and"
                " CODEOCEAN_API_TOKEN"
            )
        return answer

    def _start(self, words: tuple[str, ...]) -> subprocess.Popen[str]:
        with self._lock:
            if self._is_closed:
                raise ServiceError(f"{self._address}: not asked any more")
            self._running = subprocess.Popen(
                ["git", *words],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,  # so that its own helpers end with it
            )
            stopping.note(git=self._running.pid)
            return self._running


def clear(process: int, folder: str) -> None:
    """End a process of git, where there is one, and remove the folder that it was making."""
    if process:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)
    if folder:
        shutil.rmtree(folder, ignore_errors=True)


def _environment(host: str, credentials: str) -> Mapping[str, str]:
    """Return the environment of git: the user's settings, and the credentials for one host.

    git fixes a header before it follows a redirect and would send it to any host, so it follows none.
    """
    user, _, password = unquote(credentials).partition(":")
    header = base64.b64encode(f"{user}:{password}".encode()).decode()
    settings = {
        f"http.https://{host}/.extraHeader": f"Authorization: Basic {header}",
        "http.followRedirects": "false",
    }
    given = os.environ.get("GIT_CONFIG_COUNT", "")
    first = int(given) if given.isdecimal() else 0
    own = {"GIT_CONFIG_COUNT": str(first + len(settings)), "GIT_TERMINAL_PROMPT": "0"}
    for number, (name, value) in enumerate(settings.items(), first):
        own |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
    return {**os.environ, **own}

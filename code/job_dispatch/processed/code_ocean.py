"""Which code will run the jobs: the wrapper in the pipeline of this run, as Code Ocean knows it."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Self, TypeVar
from urllib.parse import unquote

import msgspec
import requests

from job_dispatch import failures, retrying, stopping
from job_dispatch.jobs.code import Code
from job_dispatch.messages import RequestError, ServiceError, counted, logger, printable

_TOKEN, _COMPUTATION = "CODEOCEAN_API_TOKEN", "CO_COMPUTATION_ID"
_DEFAULT_DOMAIN = "codeocean.allenneuraldynamics.org"
_IN_ITS_NAME = "wrapper"
_ANSWER_SHOWN = 200
_AT_ONCE = 8


class _Parameter(msgspec.Struct):
    name: str | None = None
    param_name: str | None = None
    value: str | None = None


class _Process(msgspec.Struct):
    name: str
    capsule_id: str
    version: int | None = None
    parameters: list[_Parameter] | None = None


class _Attached(msgspec.Struct):
    id: str


class _Computation(msgspec.Struct):
    id: str
    processes: list[_Process] | None = None
    data_assets: list[_Attached] | None = None


class _Capsule(msgspec.Struct):
    name: str
    slug: str
    cloned_from_url: str | None = None
    original_capsule: dict[str, Any] | None = None
    release_capsule: str | None = None


# Finite, as git needs them.
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=datetime.max.replace(tzinfo=UTC).timestamp())]


class _Version(msgspec.Struct):
    major_version: int
    minor_version: int
    release_time: _Seconds | str


class _Released(msgspec.Struct):
    versions: list[_Version]


class _Bucket(msgspec.Struct):
    origin: str
    bucket: str
    prefix: str | None = None


class _DataAsset(msgspec.Struct):
    source_bucket: _Bucket | None = None


_Answer = TypeVar("_Answer", bound=msgspec.Struct)


@dataclass(frozen=True)
class Wrapper:
    """The process that will run the jobs.

    `code` is its record, as it will compute it itself; `arguments` are what its app panel passes on its command line,
    by name of the parameter. Other releases of the wrapper's library write the version as `other_versions`.
    """

    code: Code
    arguments: Mapping[str, str]
    other_versions: tuple[str, ...] = ()


class _UnknownError(Exception):
    """Code Ocean cannot be asked, or the run does not have exactly one wrapper; the text is the reason."""


class _RefusedError(ServiceError):
    """Code Ocean refuses the request, or its answer lacks what is needed."""


class Inquiry:
    """Asks which code will run the jobs, while the run does everything else; a context manager.

    One answer may take `timeout` seconds. RequestError if the answer is needed, and the environment lacks a token or
    the computation.
    """

    def __init__(self, timeout: float, is_needed: bool) -> None:
        self._is_needed = is_needed
        self._answer: Future[Wrapper] | None = None
        self._asked: _CodeOcean | None = None
        missing = [name for name in (_TOKEN, _COMPUTATION) if not os.environ.get(name)]
        if missing:
            self._not_known(f"{missing[0]} is not set")
            return
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="code-ocean")
        self._asked = _CodeOcean(timeout)
        self._answer = self._pool.submit(self._asked.wrapper, os.environ[_COMPUTATION], is_needed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._asked is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._asked.close()

    def answer(self) -> Wrapper | None:
        """Return the wrapper, or None where it is neither known nor needed.

        Where it is needed, RequestError if the run does not have exactly one; ServiceError if Code Ocean failed.
        """
        try:
            return None if self._answer is None else self._answer.result()
        except _UnknownError as reason:
            self._not_known(str(reason))
        except BaseException as error:
            if self._is_needed:
                raise
            logger.warning("%s; job files will not name the analysis code", failures.explained(error).headline)
        return None

    def _not_known(self, reason: str) -> None:
        if self._is_needed:
            raise RequestError(f"--skip_processed: the code that will run the jobs is not known: {reason}")
        # Only on Code Ocean somebody expects it.
        if any(name.startswith(("CO_", "CODEOCEAN_")) for name in os.environ):
            logger.info("job files will not name the analysis code: %s", reason)


class _CodeOcean:
    """The API of one Code Ocean.

    Its SDK is not used: each version of it refuses servers older than itself (`Min-Server-Version`), and every server
    since 4.0 answers these three questions.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._domain = os.environ.get("CODEOCEAN_DOMAIN") or _DEFAULT_DOMAIN
        self._token = os.environ[_TOKEN]
        self._session = retrying.Session(timeout, (self._token, ""))
        self._repositories: list[_Repository] = []

    def close(self) -> None:
        """Stop what is under way, here and in other processes."""
        self._session.close()
        for repository in self._repositories:
            repository.close()

    def wrapper(self, computation_id: str, with_other_versions: bool) -> Wrapper:
        """Return the wrapper of the pipeline that a computation is a run of."""
        computation = self._ask("computations", computation_id, _Computation)
        process = _wrapper_process(computation)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            attached = pool.map(self._location, [asset.id for asset in computation.data_assets or ()])
            capsule = self._ask("capsules", process.capsule_id, _Capsule)
            parameters = process.parameters or ()
            is_clone = capsule.cloned_from_url and capsule.original_capsule is not None
            code = Code(
                url=str(capsule.cloned_from_url) if is_clone else f"https://{self._domain}/capsule/{capsule.slug}",
                name=capsule.name,
                version=self._version(process, capsule),
                run_script="code/run",
                attached=tuple(attached),
                # By label; what has no label goes by its place.
                panel={one.name or f"ordered_param_{n}": one.value for n, one in enumerate(parameters) if one.value},
            )
        others = self._other_versions(process, capsule) if with_other_versions else ()
        return Wrapper(code, {one.param_name: one.value for one in parameters if one.value and one.param_name}, others)

    def _location(self, asset_id: str) -> str:
        bucket = self._ask("data_assets", asset_id, _DataAsset).source_bucket
        if bucket is None or bucket.origin != "aws":
            raise _UnknownError(f"the attached data asset {asset_id} is not in an S3 bucket")
        return f"s3://{bucket.bucket}/{bucket.prefix or ''}"

    def _version(self, process: _Process, capsule: _Capsule) -> str:
        """Return the version as the released library computes it."""
        if process.version is not None:
            return f"{process.version}.0"
        repository = self._repository(capsule.slug)
        if versions := self._released(capsule):
            patches = (os.environ.get("PATCH_COMMITS") or "").split(",")
            if set(repository.commits_since(versions[-1].release_time)) <= set(patches):
                return f"{versions[-1].major_version}.{versions[-1].minor_version}"
        return repository.newest_commit()

    def _other_versions(self, process: _Process, capsule: _Capsule) -> tuple[str, ...]:
        """Return what the library's next release will write for a process that is fixed to a released version.

        It expands the major version to the newest minor version of it. A capsule that has changed since its release
        has no other version: which library its wrapper has is not known, so that its commit alone counts.
        """
        minors = [one.minor_version for one in self._released(capsule) if one.major_version == process.version]
        return (f"{process.version}.{minors[-1]}",) if minors and minors[-1] else ()

    def _released(self, capsule: _Capsule) -> list[_Version]:
        if not capsule.release_capsule:
            return []
        try:
            return self._ask("capsules", capsule.release_capsule, _Released).versions
        except _RefusedError:  # the library ignores such a release as well
            return []

    def _repository(self, slug: str) -> _Repository:
        host, credentials = os.environ.get("GIT_HOST"), os.environ.get("GIT_ACCESS_TOKEN")
        if not host or not credentials:
            email = os.environ.get("CODEOCEAN_EMAIL")
            if not email:
                raise _UnknownError("its commit cannot be asked for without GIT_ACCESS_TOKEN and GIT_HOST")
            host, credentials = self._domain, f"{email}:{self._token}"
        branch = os.environ.get("CO_CAPSULE_BRANCH") or "HEAD"
        self._repositories.append(_Repository(host, slug, credentials, branch, self._timeout))
        return self._repositories[-1]

    def _ask(self, kind: str, identifier: str, model: type[_Answer]) -> _Answer:
        """Return one document, asking again where that may help: every request passes here."""
        name = f"Code Ocean {self._domain}"

        def get() -> object:
            response = self._session.get(f"https://{self._domain}/api/v1/{kind}/{identifier}")
            response.raise_for_status()
            return response.json()

        try:
            return msgspec.convert(retrying.retried(get, "Code Ocean"), model)
        except requests.HTTPError as error:
            raise self._refused(retrying.status(error) or 0, error.response.text) from None
        except msgspec.ValidationError:
            raise _RefusedError(f"{name}: the answer lacks what was asked for") from None
        except (OSError, ValueError, RecursionError) as error:  # the last two for numbers or lists without end
            raise retrying.service_error(error, name, "", "CODEOCEAN_DOMAIN") from None

    def _refused(self, status: int, text: str) -> ServiceError:
        said = printable(text.replace(self._token, "…"), _ANSWER_SHOWN) or "no reason given"
        remedy = f"; check {_TOKEN}" if status in (401, 403) else ""
        kind = _RefusedError if 400 <= status < 500 else ServiceError
        return kind(f"Code Ocean {self._domain}: HTTP {status}: {said}{remedy}")


def _wrapper_process(computation: _Computation) -> _Process:
    processes = computation.processes or ()
    named = [process for process in processes if _IN_ITS_NAME in process.name.lower()]
    if len(named) == 1:
        return named[0]
    has = counted(len(processes), "process", "processes")
    raise _UnknownError(f"the run has {has}, {len(named)} of them with '{_IN_ITS_NAME}' in the name, instead of one")


# The git repository of a capsule


class _Repository:
    """The commits of one capsule on Code Ocean's own server, asked by `git`.

    Credentials, which are `user:password` or a token alone, reach `git` by its environment, where no list of processes
    and no message of its shows them. One call of it may take `timeout` seconds.
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
        """Return the hash of the branch's last commit; ServiceError if the server has none."""
        answer = self._git("ls-remote", self._address, self._branch).split()
        if not answer:
            raise ServiceError(f"{self._address}: no branch {self._branch}")
        return answer[0]

    def commits_since(self, moment: float | str) -> list[str]:
        """Return the hashes of all commits since a moment, in Unix seconds or as git reads a date. Raises as above."""
        branch = [] if self._branch in ("", "HEAD") else ["--branch", self._branch]
        with tempfile.TemporaryDirectory(prefix="dispatch-", ignore_cleanup_errors=True) as self._folder:
            stopping.note(git_folder=self._folder)
            # The whole history: a shallow one fails where nothing is newer.
            self._git("clone", "--quiet", "--bare", "--single-branch", *branch, self._address, self._folder)
            since = moment if isinstance(moment, str) else f"@{int(moment)}"
            return self._git("--git-dir", self._folder, "log", f"--since={since}", "--pretty=format:%H").split()

    def close(self) -> None:
        """Stop the running git, and remove its folder."""
        with self._lock:
            self._is_closed = True
            clear_git(self._running.pid if self._running and self._running.poll() is None else 0, self._folder)

    def _git(self, *words: str) -> str:
        try:
            with self._lock:
                if self._is_closed:
                    raise ServiceError(f"{self._address}: not asked any more")
                running = self._running = subprocess.Popen(
                    ["git", *words],
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                    start_new_session=True,  # so that its own helpers end with it
                )
                stopping.note(git=running.pid)
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


def clear_git(process: int, folder: str) -> None:
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

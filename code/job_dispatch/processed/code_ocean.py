"""Which code will run the jobs: the wrapper in the pipeline of this run, as Code Ocean knows it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import requests
from pydantic import BaseModel, FiniteFloat, ValidationError

from job_dispatch import failures, retrying
from job_dispatch.jobs.model import Code
from job_dispatch.messages import RequestError, ServiceError, counted, logger, printable
from job_dispatch.processed.repository import Repository

_TOKEN, _COMPUTATION = "CODEOCEAN_API_TOKEN", "CO_COMPUTATION_ID"
_DEFAULT_DOMAIN = "codeocean.allenneuraldynamics.org"
_IN_ITS_NAME = "wrapper"
_ANSWER_SHOWN = 200
_AT_ONCE = 8


class _Parameter(BaseModel):
    name: str | None = None
    param_name: str | None = None
    value: str | None = None


class _Process(BaseModel):
    name: str
    capsule_id: str
    version: int | None = None
    parameters: list[_Parameter] | None = None


class _Attached(BaseModel):
    id: str


class _Computation(BaseModel):
    id: str
    processes: list[_Process] | None = None
    data_assets: list[_Attached] | None = None


class _Capsule(BaseModel):
    name: str
    slug: str
    cloned_from_url: str | None = None
    original_capsule: dict[str, Any] | None = None
    release_capsule: str | None = None


class _Version(BaseModel):
    major_version: int
    minor_version: int
    release_time: FiniteFloat | str


class _Released(BaseModel):
    versions: list[_Version]


class _Bucket(BaseModel):
    origin: str
    bucket: str
    prefix: str | None = None


class _DataAsset(BaseModel):
    source_bucket: _Bucket | None = None


_Answer = TypeVar("_Answer", bound=BaseModel)


@dataclass(frozen=True)
class Wrapper:
    """The process that will run the jobs.

    Parameters
    ----------
    code : Code
        Its record, as it will compute it itself.
    arguments : mapping of str to str
        What its app panel passes on its command line, by name of the parameter.
    other_versions : tuple of str
        How other releases of the wrapper's library write the version of the same released capsule.
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

    Parameters
    ----------
    timeout : float
        Seconds that one answer may take.
    is_needed : bool
        Whether the run cannot go on without an answer.

    Raises
    ------
    RequestError
        The answer is needed, and the environment lacks a token or the computation.
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

        Raises
        ------
        RequestError
            The wrapper is needed, and the run does not have exactly one.
        ServiceError
            The wrapper is needed, and Code Ocean failed.
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
        self._repositories: list[Repository] = []

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
            code = Code(
                url=self._url(capsule),
                name=capsule.name,
                version=self._version(process, capsule),
                run_script="code/run",
                attached=tuple(attached),
                panel=_panel(process),
            )
        others = self._other_versions(process, capsule) if with_other_versions else ()
        filled = [one for one in process.parameters or () if one.value and one.param_name]
        return Wrapper(code, {str(one.param_name): str(one.value) for one in filled}, others)

    def _url(self, capsule: _Capsule) -> str:
        if capsule.cloned_from_url and capsule.original_capsule is not None:
            return capsule.cloned_from_url
        return f"https://{self._domain}/capsule/{capsule.slug}"

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

    def _repository(self, slug: str) -> Repository:
        host, credentials = os.environ.get("GIT_HOST"), os.environ.get("GIT_ACCESS_TOKEN")
        if not host or not credentials:
            email = os.environ.get("CODEOCEAN_EMAIL")
            if not email:
                raise _UnknownError("its commit cannot be asked for without GIT_ACCESS_TOKEN and GIT_HOST")
            host, credentials = self._domain, f"{email}:{self._token}"
        branch = os.environ.get("CO_CAPSULE_BRANCH") or "HEAD"
        repository = Repository(host, slug, credentials, branch, self._timeout)
        self._repositories.append(repository)
        return repository

    def _ask(self, kind: str, identifier: str, model: type[_Answer]) -> _Answer:
        """Return one document, asking again where that may help: every request passes here."""
        name = f"Code Ocean {self._domain}"
        address = f"https://{self._domain}/api/v1/{kind}/{identifier}"
        try:
            return model.model_validate(retrying.retried(lambda: self._get(address), "Code Ocean"))
        except requests.HTTPError as error:
            raise self._refused(retrying.status(error) or 0, error.response.text) from None
        except ValidationError:
            raise _RefusedError(f"{name}: the answer lacks what was asked for") from None
        except (OSError, ValueError, RecursionError) as error:  # the last two for numbers or lists without end
            raise retrying.service_error(error, name, "", "CODEOCEAN_DOMAIN") from None

    def _get(self, address: str) -> object:
        response = self._session.get(address)
        response.raise_for_status()
        return response.json()

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


def _panel(process: _Process) -> dict[str, str]:
    """Return what is filled in, by label; what has no label goes by its place."""
    parameters = process.parameters or ()
    return {one.name or f"ordered_param_{place}": one.value for place, one in enumerate(parameters) if one.value}

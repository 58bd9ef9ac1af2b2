"""Which code will run the jobs: what Code Ocean knows of the wrapper in the pipeline that this run belongs to."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

from job_dispatch.jobs.code import Code
from job_dispatch.messages import RequestError, ServiceError, counted, logger, printable

if TYPE_CHECKING:
    from codeocean.capsule import Capsule
    from codeocean.computation import Computation, PipelineProcess

    from job_dispatch.processed.repository import Repository

_TOKEN, _COMPUTATION = "CODEOCEAN_API_TOKEN", "CO_COMPUTATION_ID"
_DEFAULT_DOMAIN = "codeocean.allenneuraldynamics.org"
_IN_ITS_NAME = "wrapper"
_ANSWER_SHOWN = 200
_AT_ONCE = 8
# Nothing to be found where these are answered, however often it is asked.
_REFUSED = range(400, 500)
# What is raised where an answer is not made as it should be.
_MALFORMED = (ValueError, LookupError, TypeError, AttributeError)

T = TypeVar("T")


@dataclass(frozen=True)
class Wrapper:
    """The process that will run the jobs.

    Parameters
    ----------
    code : Code
        Its record, as it will compute it itself.
    arguments : mapping of str to str
        What its app panel passes on its command line, by name of the parameter.
    """

    code: Code
    arguments: Mapping[str, str]


class _NotKnownError(Exception):
    """There is nothing to ask, or not one wrapper to be found; the text says why."""


class _RefusedError(ServiceError):
    """Code Ocean answers, but not what it was asked for."""


class Inquiry:
    """The question which code will run the jobs, asked beside everything else; a context manager.

    Parameters
    ----------
    timeout : float
        Seconds that one answer may take.
    is_needed : bool
        Whether the run cannot go on without an answer.

    Raises
    ------
    RequestError
        It is needed, and there is nobody to ask.
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
        self._answer = self._pool.submit(self._asked.wrapper, os.environ[_COMPUTATION])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._asked is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._asked.close()

    def answer(self) -> Wrapper | None:
        """Return the wrapper, None where it is not known and need not be.

        Raises
        ------
        RequestError
            It is needed, and the run has none or several.
        ServiceError
            It is needed, and Code Ocean failed.
        """
        try:
            return None if self._answer is None else self._answer.result()
        except _NotKnownError as reason:
            self._not_known(str(reason))
        except ServiceError as error:
            if self._is_needed:
                raise
            logger.warning("%s; jobs tell their parameters, but not the code that will run them", error.headline)
        return None

    def _not_known(self, reason: str) -> None:
        if self._is_needed:
            raise RequestError(f"--skip_processed: the code that will run the jobs is not known: {reason}")
        logger.info("jobs tell their parameters, but not the code that will run them: %s", reason)


def warn_of_shared_folders(shares: Sequence[Sequence[int]]) -> None:
    """Warn, in a pipeline, of worker folders with several jobs, which released wrappers mix up."""
    if os.environ.get("CO_PIPELINE_ID") and any(len(share) > 1 for share in shares):
        logger.warning(
            "worker folders hold more than one job: released analysis wrappers leave the files of the first in the"
            " results of the second; --tasks_per_job=1 gives each a folder of its own"
        )


class _CodeOcean:
    """The API of one Code Ocean, through its SDK."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._domain = os.environ.get("CODEOCEAN_DOMAIN") or _DEFAULT_DOMAIN
        self._token = os.environ[_TOKEN]
        self._repositories: list[Repository] = []

    def close(self) -> None:
        """Stop what is under way in other processes."""
        for repository in self._repositories:
            repository.close()

    def wrapper(self, computation_id: str) -> Wrapper:
        """Return the wrapper of the pipeline that a computation is a run of."""
        try:
            return self._wrapper(computation_id)
        except _MALFORMED:
            raise ServiceError(f"Code Ocean {self._domain}: the answer lacks what was asked for") from None

    def _wrapper(self, computation_id: str) -> Wrapper:
        from codeocean import CodeOcean

        self._client = CodeOcean(domain=f"https://{self._domain}", token=self._token)
        self._client.session.mount(self._client.domain, _adapter(self._timeout))
        computation = self._ask(lambda: self._client.computations.get_computation(computation_id))
        process = _wrapper_process(computation)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            attached = pool.map(self._location, [asset.id for asset in computation.data_assets or ()])
            capsule = self._ask(lambda: self._client.capsules.get_capsule(process.capsule_id))
            code = Code(
                url=self._url(capsule),
                name=capsule.name,
                version=self._version(process, capsule),
                run_script="code/run",
                attached=tuple(attached),
                panel=_panel(process),
            )
        filled = [one for one in process.parameters or () if one.value and one.param_name]
        return Wrapper(code, {str(one.param_name): str(one.value) for one in filled})

    def _url(self, capsule: Capsule) -> str:
        if capsule.cloned_from_url and capsule.original_capsule:
            return str(capsule.cloned_from_url)
        return f"https://{self._domain}/capsule/{capsule.slug}"

    def _location(self, asset_id: str) -> str:
        asset = self._ask(lambda: self._client.data_assets.get_data_asset(asset_id))
        bucket = asset.source_bucket
        if bucket is None or bucket.origin != "aws":
            raise _NotKnownError(f"the data asset {asset_id}, which is attached to the run, lies in no bucket of S3")
        return f"s3://{bucket.bucket}/{bucket.prefix or ''}"

    def _version(self, process: PipelineProcess, capsule: Capsule) -> str:
        """Return the released version, or the commit where it is none; patches that are told do not count."""
        if process.version is not None:
            return f"{process.version}.0"
        repository = self._repository(capsule.slug)
        return self._version_but_for_patches(capsule, repository) or repository.newest_commit()

    def _version_but_for_patches(self, capsule: Capsule, repository: Repository) -> str | None:
        if not capsule.release_capsule:
            return None
        try:
            released = self._ask(lambda: self._client.capsules.get_capsule(str(capsule.release_capsule)))
            latest: dict[str, Any] = (released.versions or [])[-1]
            version, moment = f"{latest['major_version']}.{latest['minor_version']}", latest["release_time"]
        except (_RefusedError, *_MALFORMED):  # the wrapper then takes the commit as well
            return None
        if moment is None:
            return None
        patches = (os.environ.get("PATCH_COMMITS") or "").split(",")
        return version if set(repository.commits_since(moment)) <= set(patches) else None

    def _repository(self, slug: str) -> Repository:
        from job_dispatch.processed.repository import Repository

        host, credentials = os.environ.get("GIT_HOST"), os.environ.get("GIT_ACCESS_TOKEN")
        if not host or not credentials:
            email = os.environ.get("CODEOCEAN_EMAIL")
            if not email:
                raise _NotKnownError("its commit cannot be asked for without GIT_ACCESS_TOKEN and GIT_HOST")
            host, credentials = self._domain, f"{email}:{self._token}"
        branch = os.environ.get("CO_CAPSULE_BRANCH") or "HEAD"
        repository = Repository(host, slug, credentials, branch, self._timeout)
        self._repositories.append(repository)
        return repository

    def _ask(self, question: Callable[[], T]) -> T:
        """Ask, and again where that may help: every call passes here."""
        import requests
        from codeocean.error import Error

        from job_dispatch import retrying

        def asked() -> T:
            try:
                return retrying.in_time(question, self._timeout)
            except Error as error:
                raise error.http_err from None

        name = f"Code Ocean {self._domain}"
        try:
            return retrying.retried(asked, "Code Ocean")
        except requests.JSONDecodeError:
            raise ServiceError(f"{name}: the answer is not JSON") from None
        except requests.HTTPError as error:
            raise self._refused(retrying.status(error) or 0, error.response.text) from None
        except requests.exceptions.SSLError:
            raise ServiceError(
                f"{name}: no trusted connection; REQUESTS_CA_BUNDLE may name another authority"
            ) from None
        except requests.Timeout:
            raise ServiceError(f"{name}: no answer in time; try again") from None
        except requests.RequestException:
            raise ServiceError(f"{name}: no connection; check CODEOCEAN_DOMAIN and the network") from None

    def _refused(self, status: int, text: str) -> ServiceError:
        said = printable(text.replace(self._token, "…"), _ANSWER_SHOWN) or "no reason given"
        remedy = f"; check {_TOKEN}" if status in (401, 403) else ""
        kind = _RefusedError if status in _REFUSED else ServiceError
        return kind(f"Code Ocean {self._domain}: HTTP {status}: {said}{remedy}")


def _adapter(timeout: float) -> Any:
    """Return an adapter that gives each request a timeout, since the SDK sets none.

    It ends those whose answer nobody waits for any more.
    """
    import requests.adapters

    from job_dispatch.retrying import CONNECT_SECONDS

    class _Timed(requests.adapters.HTTPAdapter):
        def send(self, *args: Any, **options: Any) -> requests.Response:
            return super().send(*args, **{**options, "timeout": (min(CONNECT_SECONDS, timeout), 2 * timeout)})

    return _Timed()


def _wrapper_process(computation: Computation) -> PipelineProcess:
    processes = computation.processes or ()
    named = [process for process in processes if _IN_ITS_NAME in process.name.lower()]
    if len(named) == 1:
        return named[0]
    has = counted(len(processes), "process", "processes")
    raise _NotKnownError(f"the run has {has}, {len(named)} of them with '{_IN_ITS_NAME}' in the name, instead of one")


def _panel(process: PipelineProcess) -> dict[str, str]:
    """Return what is filled in, by label; what has none goes by its place."""
    parameters: Sequence[Any] = process.parameters or ()
    return {one.name or f"ordered_param_{place}": one.value for place, one in enumerate(parameters) if one.value}

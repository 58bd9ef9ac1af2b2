"""Which code will run the jobs, as Code Ocean tells it: the truth is what the released library makes of it."""

from __future__ import annotations

import base64
import re
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from job_dispatch.jobs.code import Code
from job_dispatch.messages import DispatchError
from job_dispatch.processed import code_ocean as asking
from tests.conftest import World
from tests.gateway import Fault
from tests.processed.code_ocean import SLUG, TOKEN, WRAPPER, CodeOceanGateway, capsule, process
from tests.processed.library import call_library
from tests.processed.wrappers import NEW, NO_WRAPPER
from tests.test_dispatch import succeeded
from tests.test_kills import called

RELEASE = "5a8f0000-0000-4000-8000-0000000e1ea5"
FIRST, RELEASED, PATCH = 1_700_000_000, 1_720_000_000, 1_730_000_000


def ask(is_needed: bool = True) -> asking.Wrapper:
    with asking.Inquiry(10, is_needed) as inquiry:
        wrapper = inquiry.answer()
    assert wrapper is not None
    return wrapper


def as_the_library_does() -> Code:
    if not NEW.exists():
        pytest.skip(NO_WRAPPER)
    code = call_library("code_of_the_wrapper")
    return Code(**{**code, "attached": tuple(code["attached"])})


def test_a_released_capsule(code_ocean: CodeOceanGateway) -> None:
    code_ocean.serve_pipeline(process(version=3), process(name="dispatch", version=9))
    assert ask().code == as_the_library_does()
    assert ask().code == Code(f"https://{code_ocean.host}/capsule/{SLUG}", "An analysis wrapper", "3.0", "code/run")


def test_a_capsule_at_a_commit(code_ocean: CodeOceanGateway) -> None:
    code_ocean.serve_pipeline(process(version=None))
    commits = code_ocean.make_repository([FIRST, PATCH])
    assert ask().code == as_the_library_does()
    assert ask().code.version == commits[-1]


def test_a_capsule_at_a_commit_of_another_branch(code_ocean: CodeOceanGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    code_ocean.serve_pipeline(process(version=None))
    [commit] = code_ocean.make_repository([FIRST])
    monkeypatch.setenv("CO_CAPSULE_BRANCH", "main")
    assert ask().code == as_the_library_does()
    assert ask().code.version == commit
    monkeypatch.setenv("CO_CAPSULE_BRANCH", "")
    assert ask().code.version == commit
    monkeypatch.setenv("CO_CAPSULE_BRANCH", "no-such-branch")
    with pytest.raises(DispatchError, match="no branch no-such-branch"):
        ask()


@pytest.mark.parametrize("told", ["none", "patch", "other", "both"])
@pytest.mark.long
def test_patches_that_are_told_leave_the_version_as_it_was_released(
    code_ocean: CodeOceanGateway, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    code_ocean.serve_pipeline(process(version=None))
    first, patch = code_ocean.make_repository([FIRST, PATCH])
    code_ocean.documents[f"capsules/{WRAPPER}"] = capsule(release_capsule=RELEASE)
    versions = [
        {"major_version": 1, "minor_version": 0, "release_time": FIRST - 1},
        {"major_version": 2, "minor_version": 1, "release_time": RELEASED},
    ]
    code_ocean.documents[f"capsules/{RELEASE}"] = capsule(RELEASE, versions=versions)
    patches = {"none": "", "patch": patch, "other": first, "both": f"{first},{patch}"}
    monkeypatch.setenv("PATCH_COMMITS", patches[told])
    assert ask().code == as_the_library_does()
    assert ask().code.version == (patch if told in ("none", "other") else "2.1")


def test_a_capsule_that_is_unchanged_since_its_release_has_its_version(code_ocean: CodeOceanGateway) -> None:
    code_ocean.serve_pipeline(process(version=None))
    code_ocean.make_repository([FIRST])
    code_ocean.documents[f"capsules/{WRAPPER}"] = capsule(release_capsule=RELEASE)
    versions = [{"major_version": 4, "minor_version": 2, "release_time": RELEASED}]
    code_ocean.documents[f"capsules/{RELEASE}"] = capsule(RELEASE, versions=versions)
    assert ask().code == as_the_library_does()
    assert ask().code.version == "4.2"


@pytest.mark.parametrize(
    "versions",
    [
        None,
        [],
        [{"major_version": 1, "release_time": RELEASED}],
        [{"major_version": 1, "minor_version": 0}],
        [{"major_version": 1, "minor_version": 0, "release_time": None}],
        [None],
    ],
)
@pytest.mark.long
def test_a_release_that_cannot_be_seen_or_read_makes_it_a_commit(code_ocean: CodeOceanGateway, versions: Any) -> None:
    code_ocean.serve_pipeline(process(version=None))
    [commit] = code_ocean.make_repository([FIRST])
    code_ocean.documents[f"capsules/{WRAPPER}"] = capsule(release_capsule=RELEASE)
    if versions is not None:
        code_ocean.documents[f"capsules/{RELEASE}"] = capsule(RELEASE, versions=versions)
    assert ask().code == as_the_library_does()
    assert ask().code.version == commit


def test_a_release_at_an_infinite_time_makes_it_a_commit(code_ocean: CodeOceanGateway) -> None:
    code_ocean.serve_pipeline(process(version=None))
    [commit] = code_ocean.make_repository([FIRST])
    code_ocean.documents[f"capsules/{WRAPPER}"] = capsule(release_capsule=RELEASE)
    versions = [{"major_version": 1, "minor_version": 0, "release_time": float("inf")}]
    code_ocean.documents[f"capsules/{RELEASE}"] = capsule(RELEASE, versions=versions)
    assert ask().code.version == commit


@pytest.mark.parametrize("original", [None, {"id": "another", "name": "An original"}])
def test_a_duplicate_of_a_repository_elsewhere_has_that_address(
    code_ocean: CodeOceanGateway, original: dict[str, str] | None
) -> None:
    code_ocean.serve_pipeline(process())
    cloned = capsule(cloned_from_url="https://github.com/lab/analysis", original_capsule=original)
    code_ocean.documents[f"capsules/{WRAPPER}"] = cloned
    assert ask().code == as_the_library_does()
    assert ask().code.url.startswith("https://github.com" if original else "https://localhost")


def test_attached_data_assets_and_what_the_panel_says(code_ocean: CodeOceanGateway) -> None:
    filled = process(
        ("A label", "cutoff", "0.5"), ("empty", "empty", ""), (None, None, "by place"), ("dry run", "dry_run", "0")
    )
    code_ocean.serve_pipeline(filled, attached=("s3://aind-open-data/one", "s3://bucket/two/three"))
    assert ask().code == as_the_library_does()
    assert ask().code.panel == {"A label": "0.5", "ordered_param_2": "by place", "dry run": "0"}
    assert ask().arguments == {"cutoff": "0.5", "dry_run": "0"}


def test_each_request_carries_the_token_and_has_an_end(code_ocean: CodeOceanGateway) -> None:
    code_ocean.serve_pipeline(process(), attached=("s3://bucket/one",))
    code_ocean.requests.clear()
    ask()
    asked = [request for request in code_ocean.requests if request.path.startswith("/api/")]
    assert len(asked) == 3
    assert {request.headers["Authorization"].partition(" ")[0] for request in asked} == {"Basic"}
    for slow in (Fault(delay=30), Fault(drip=0.1)):
        code_ocean.faults = [slow for _ in range(5)]
        with (
            pytest.raises(DispatchError, match=r"Code Ocean localhost:\d+: no answer in time; try again"),
            asking.Inquiry(0.5, True) as inquiry,
        ):
            inquiry.answer()


def none(_: CodeOceanGateway) -> str:
    return "the run has 0 processes, 0 of them with 'wrapper' in the name, instead of one"


def several(code_ocean: CodeOceanGateway) -> str:
    code_ocean.serve_pipeline(process(), process(name="another_wrapper"), process(name="dispatch"))
    return "the run has 3 processes, 2 of them with 'wrapper' in the name, instead of one"


@pytest.mark.parametrize("case", [none, several])
def test_with_none_or_several_wrappers_jobs_tell_their_parameters_alone(lab: World, case: Any) -> None:
    server = lab.gateway
    assert isinstance(server, CodeOceanGateway)
    server.serve_pipeline()
    reason = case(server)
    (lab.input_directory / "analysis_parameters.json").write_text('{"fixed_parameters": {"cutoff": 0.5}}')
    done = succeeded(lab.call("--docdb_query={}"))
    assert [job["analysis_code"] for job in done.jobs] == [{"url": "", "parameters": {"cutoff": 0.5}}] * 4
    sentence = f"job files will not name the analysis code: {reason}"
    assert sentence in done.stderr
    refused = lab.call("--docdb_query={}", "--overwrite=1", "--skip_processed=1")
    assert refused.returncode == 2
    told = f'error: --skip_processed ("Skip processed"): the code that will run the jobs is not known: {reason}'
    assert refused.stderr.splitlines()[-1] == told


@pytest.mark.parametrize("missing", ["CODEOCEAN_API_TOKEN", "CO_COMPUTATION_ID"])
def test_code_ocean_is_not_asked_without_a_token_or_a_run(
    lab: World, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setenv(missing, "")
    done = succeeded(lab.call("--docdb_query={}"))
    assert not [request for request in lab.gateway.requests if request.path.startswith("/api/")]
    assert not any("analysis_code" in job for job in done.jobs)
    assert f"job files will not name the analysis code: {missing} is not set" in done.stderr
    lab.gateway.requests.clear()
    refused = lab.call("--docdb_query={}", "--overwrite=1", "--skip_processed=1")
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].endswith(
        f"the code that will run the jobs is not known: {missing} is not set"
    )
    assert lab.gateway.requests == []


FAULTS: dict[str, tuple[Callable[[Any], Fault], str]] = {
    "refused": (lambda request: Fault(401, '{"message": "bad token"}'), "HTTP 401: .*bad token.*; check CODEOCEAN_API"),
    "gone": (lambda request: Fault(404, "{}"), "HTTP 404"),
    "down": (lambda request: Fault(503, "try later"), "HTTP 503: try later"),
    "cut": (lambda request: Fault(truncate=True), "no connection|not JSON"),
    "reset": (lambda request: Fault(reset=True), "no connection; check CODEOCEAN_DOMAIN and the network"),
    "a page": (lambda request: Fault(200, "<html>"), "the answer is not JSON"),
    "another thing": (lambda request: Fault(200, '{"id": 1}'), "the answer lacks what was asked for"),
    "a number without end": (
        lambda request: Fault(
            200, '{"id": "1", "processes": [{"name": "wrapper", "capsule_id": "1", "version": 1e999}]}'
        ),
        "the answer lacks what was asked for",
    ),
    "a list": (lambda request: Fault(200, "[]"), "the answer lacks what was asked for"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_code_ocean_that_fails_is_an_error_where_it_is_needed_and_else_a_warning(lab: World, name: str) -> None:
    make, said = FAULTS[name]
    server = lab.gateway
    assert isinstance(server, CodeOceanGateway)
    server.serve_pipeline(process())

    def fault(request: Any) -> Fault | None:
        server.faults.append(fault)
        return make(request) if request.path.startswith("/api/") else None

    server.faults = [fault]
    done = succeeded(lab.call("--docdb_query={}"))
    assert len(done.jobs) == 4
    assert not any("analysis_code" in job for job in done.jobs)
    assert re.search(
        f"WARNING Code Ocean localhost:[0-9]+: ({said}).*job files will not name the analysis code", done.stderr
    ), done.stderr
    folder = lab.output_directory / "0"
    failed = lab.call("--docdb_query={}", "--overwrite=1", "--skip_processed=1")
    assert failed.returncode == 1
    assert re.match(f"error: Code Ocean localhost:[0-9]+: ({said})", failed.stderr.splitlines()[-1]), failed.stderr
    assert folder.is_dir(), "jobs of the run before are left alone"


def test_an_answer_that_is_not_made_as_it_should_be_is_told_as_that(lab: World, code_ocean: CodeOceanGateway) -> None:
    code_ocean.serve_pipeline(process(name=None))  # type: ignore[arg-type]
    assert "WARNING Code Ocean localhost" in succeeded(lab.call("--docdb_query={}")).stderr
    failed = lab.call("--docdb_query={}", "--overwrite=1", "--skip_processed=1")
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].endswith("the answer lacks what was asked for")


def test_a_server_that_refuses_newer_clients_is_asked_all_the_same(code_ocean: CodeOceanGateway) -> None:
    """As Code Ocean before 4.3 does with clients that send `Min-Server-Version`."""
    code_ocean.serve_pipeline(process(), attached=("s3://bucket/one",))

    def refuse(request: Any) -> Fault | None:
        code_ocean.faults.append(refuse)
        is_refused = request.path.startswith("/api/") and "Min-Server-Version" in request.headers
        return Fault(400, '{"message": "the server is older than the client requires"}') if is_refused else None

    code_ocean.faults = [refuse]
    assert ask().code.version == "3.0"


def test_no_answer_leads_the_token_to_another_address(code_ocean: CodeOceanGateway) -> None:
    code_ocean.serve_pipeline(process())
    elsewhere = f"https://127.0.0.1:{code_ocean.host.rpartition(':')[2]}/api/v1/elsewhere"
    code_ocean.faults = [Fault(302, headers={"Location": elsewhere})]
    with pytest.raises(DispatchError, match="HTTP 302"):
        ask()
    assert not [request for request in code_ocean.requests if request.path.endswith("elsewhere")]


def test_a_failure_that_passes_is_asked_again(code_ocean: CodeOceanGateway) -> None:
    code_ocean.serve_pipeline(process())
    code_ocean.faults = [Fault(503), Fault(reset=True), None, Fault(429)]
    assert ask().code.version == "3.0"


def test_nobody_at_the_address_is_told_by_name(code_ocean: CodeOceanGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("CODEOCEAN_DOMAIN", f"localhost:{port}")
    with pytest.raises(DispatchError, match=f"localhost:{port}: the connection is refused; check CODEOCEAN_DOMAIN"):
        ask()


def test_git_that_cannot_read_is_told_without_its_credentials(
    code_ocean: CodeOceanGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    code_ocean.serve_pipeline(process(version=None))
    with pytest.raises(DispatchError, match=r"capsule-1234567.git: git cannot read it") as error:
        ask()
    assert TOKEN not in str(error.value)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(DispatchError, match="git is not installed"):
        ask()


def test_a_git_that_cannot_be_started_ends_no_run_that_can_do_without(
    lab: World, code_ocean: CodeOceanGateway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code_ocean.serve_pipeline(process(version=None))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").write_text("not a program")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    done = succeeded(lab.call("--docdb_query={}"))
    assert len(done.jobs) == 4
    assert "git: Permission denied; job files will not name the analysis code" in done.stderr


def test_without_credentials_for_git_those_of_code_ocean_serve(
    code_ocean: CodeOceanGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    code_ocean.serve_pipeline(process(version=None))
    [commit] = code_ocean.make_repository([FIRST])
    monkeypatch.delenv("GIT_HOST")
    assert ask().code.version == commit
    headers = [one.headers for one in code_ocean.requests if one.path.startswith(f"/capsule-{SLUG}")]
    told = base64.b64decode(headers[0]["Authorization"].removeprefix("Basic ")).decode()
    assert told == f"somebody@example.org:{TOKEN}"
    monkeypatch.delenv("CODEOCEAN_EMAIL")
    with pytest.raises(DispatchError, match="its commit cannot be asked for without GIT_ACCESS_TOKEN and GIT_HOST"):
        ask()


def test_git_follows_no_redirect_to_another_host(code_ocean: CodeOceanGateway) -> None:
    code_ocean.serve_pipeline(process(version=None))
    code_ocean.make_repository([FIRST])
    elsewhere = code_ocean.redirect_git()
    with pytest.raises(DispatchError, match="git cannot read it"):
        ask()
    assert not [request for request in code_ocean.requests if request.headers["Host"] == elsewhere]


def test_git_keeps_the_settings_that_the_user_gives_it(
    code_ocean: CodeOceanGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    code_ocean.serve_pipeline(process(version=None))
    [commit] = code_ocean.make_repository([FIRST])
    given = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "http.userAgent", "GIT_CONFIG_VALUE_0": "the lab's"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert ask().code.version == commit
    agents = {one.headers["User-Agent"] for one in code_ocean.requests if one.path.startswith("/capsule-")}
    assert agents == {"the lab's"}


@pytest.mark.parametrize("version", [3, None])
@pytest.mark.long
def test_the_token_is_in_no_output_at_all(
    lab: World, version: int | None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server = lab.gateway
    assert isinstance(server, CodeOceanGateway)
    server.serve_pipeline(process(version=version))  # without a repository for the second
    report = tmp_path / "report"

    def refuse(request: Any) -> Fault | None:
        server.faults.append(refuse)
        is_asked = request.path.startswith("/api/v1/capsules")
        return Fault(403, f'{{"message": "{TOKEN} is not yours"}}') if is_asked else None

    faults: list[list[Any]] = [[], [refuse]]
    for server.faults in faults:
        flags = ("--docdb_query={}", "--log_level=DEBUG", "--overwrite=1", f"--report_directory={report}")
        for done in (lab.call(*flags), lab.run(*flags, "--skip_processed=1")):
            assert TOKEN not in done.stdout + done.stderr
            assert TOKEN not in "".join(capfd.readouterr())  # what git and other libraries print
    written = [path for path in (*lab.output_directory.rglob("*"), *report.rglob("*")) if path.is_file()]
    assert written
    assert not any(TOKEN.encode() in path.read_bytes() for path in written)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.long
def test_a_run_that_is_stopped_while_git_is_asked_leaves_nothing_of_it(
    lab: World, code_ocean: CodeOceanGateway, tmp_path: Path, number: signal.Signals
) -> None:
    code_ocean.serve_pipeline(process(version=None))
    code_ocean.make_repository([FIRST])
    code_ocean.documents[f"capsules/{WRAPPER}"] = capsule(release_capsule=RELEASE)
    versions = [{"major_version": 1, "minor_version": 0, "release_time": RELEASED}]
    code_ocean.documents[f"capsules/{RELEASE}"] = capsule(RELEASE, versions=versions)
    is_asked = threading.Event()

    def hold(request: Any) -> Fault | None:
        code_ocean.faults.append(hold)
        if not request.path.startswith("/capsule-"):
            return None
        is_asked.set()
        return Fault(delay=60)

    code_ocean.faults = [hold]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process_of_it = lab.start("--docdb_query={}", env={"TMPDIR": str(scratch)})
    try:
        assert is_asked.wait(60)
        assert list(scratch.iterdir())
        process_of_it.send_signal(number)
        _, stderr = process_of_it.communicate(timeout=60)
    finally:
        process_of_it.kill()
    assert process_of_it.returncode == 128 + number
    assert stderr.splitlines()[-1] == f"error: stopped by {called(number)}; no job is written"
    assert list(scratch.iterdir()) == []
    assert list(lab.output_directory.iterdir()) == []

"""obstore asks what boto3 would ask: the same place, in the same way, whatever the environment holds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest
import trustme

from job_dispatch.messages import DispatchError, RequestError, ServiceError
from job_dispatch.storage import access
from job_dispatch.storage.access import find_access
from job_dispatch.storage.matching import ByEnding
from job_dispatch.storage.s3 import S3

BUCKET = "lab-bucket"
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing-secret", "AWS_DEFAULT_REGION": "us-east-1"}
PAGE = (
    b"<ListBucketResult><Name>lab-bucket</Name><KeyCount>1</KeyCount><IsTruncated>false</IsTruncated><Contents>"
    b"<Key>asset/a.nwb</Key><LastModified>2025-06-01T00:00:00.000Z</LastModified><ETag>&quot;0&quot;</ETag>"
    b"<Size>1</Size></Contents></ListBucketResult>"
)
ERROR = b"<Error><Code>%b</Code><Message>no</Message></Error>"


@dataclass
class Place:
    """A server that answers each listing alike, and keeps what it was asked."""

    port: int = 0
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Host, path, and the name of the client of each request."""
    only_host: str | None = None
    status: int = 200
    body: bytes = PAGE

    @property
    def hosts_and_paths(self) -> set[tuple[str, str]]:
        return {(host, path) for host, path, _ in self.asked}

    @property
    def is_asked_by_obstore(self) -> bool:
        return any(client.startswith("object_store") for _, _, client in self.asked)


@contextlib.contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[Place]:
    place = Place()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = urlsplit(self.path)  # whole where this is a proxy
            place.asked.append((self.headers["Host"], url.path, self.headers.get("User-Agent", "")))
            is_known = place.only_host in (None, self.headers["Host"].partition(":")[0])
            body = place.body if is_known else ERROR % b"NoSuchBucket"
            self.send_response(place.status if is_known else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            """Deny a role, as STS does."""
            body = b"<ErrorResponse><Error><Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>"
            self.send_response(403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 512  # beyond it the kernel drops connections, and clients wait seconds to try again

        def handle_error(self, *_: object) -> None:
            """Clients that do not trust it hang up."""

    with Server(("127.0.0.1", 0), Handler) as server:
        if context is not None:
            # The handshake waits for the connection's own thread: a client that never begins it holds up nobody.
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        place.port = server.server_address[1]
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield place
        server.shutdown()
        thread.join()


@pytest.fixture
def place(no_aws: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A server of plain HTTP that boto3 finds by the environment, with credentials."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    with serving() as place:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{place.port}")
        yield place


def found(assets: int = 1) -> list[str]:
    async def find() -> list[str]:
        s3 = S3(64)
        listed = [s3.find_files(f"s3://{BUCKET}/asset", ByEnding((".nwb",))) for _ in range(assets)]
        return [file.address for files in await asyncio.gather(*listed) for file in files]

    return asyncio.run(find())


MATCH = [f"s3://{BUCKET}/asset/a.nwb"]


# The environment

OTHERS = [
    *(("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", value) for value in ("true", "", " true", "true\n")),
    *(("AWS_S3_EXPRESS", value) for value in ("true", "", " ")),
    *(("AWS_SKIP_SIGNATURE", value) for value in ("true", "\n")),
    ("AWS_ENDPOINT", "http://127.0.0.1:9"),
    ("AWS_PROXY_URL", "http://127.0.0.1:9"),
    ("AWS_BUCKET", "another"),
    *(("AWS_REQUEST_PAYER", value) for value in ("true", "", "garbage")),
    *(("AWS_DISABLE_TAGGING", value) for value in ("true", "")),
    *(("AWS_UNSIGNED_PAYLOAD", value) for value in ("true", "")),
    ("AWS_ALLOW_HTTP", "false"),
    ("AWS_TIMEOUT", "soon"),
    ("aws_virtual_hosted_style_request", "true"),
]


@pytest.mark.parametrize(("name", "value"), OTHERS, ids=repr)
def test_a_variable_that_boto3_does_not_know_changes_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert found() == MATCH
    assert place.is_asked_by_obstore
    assert place.hosts_and_paths == {(f"127.0.0.1:{place.port}", f"/{BUCKET}")}


@pytest.mark.parametrize(
    "name", ["AWS_SERVER_SIDE_ENCRYPTION", "AWS_CHECKSUM_ALGORITHM", "AWS_COPY_IF_NOT_EXISTS", "AWS_CONDITIONAL_PUT"]
)
def test_a_variable_that_only_obstore_reads_and_cannot_use_is_named(
    place: Place, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "garbage")
    with pytest.raises(RequestError, match=f"^S3: obstore, which lists buckets, cannot use the value of {name}; unset"):
        found()


def test_the_environment_of_the_process_never_changes_while_a_bucket_is_opened(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the environment is changed")

    with monkeypatch.context() as patch:
        for change in ("putenv", "unsetenv"):
            patch.setattr(f"os.{change}", refuse)
        assert found() == MATCH


@pytest.mark.parametrize("value", ["", None], ids=["empty", "absent"])
def test_an_empty_endpoint_for_s3_is_none(place: Place, monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{place.port}")
    if value is None:
        monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    else:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", value)
    assert found() == MATCH


def test_configured_endpoints_that_are_to_be_ignored_are_ignored(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert find_access()[0].open().meta.endpoint_url == "https://s3.amazonaws.com"


@pytest.mark.parametrize("pattern", [" {}", "{} ", "{}\n"], ids=repr)
@pytest.mark.parametrize(
    "name", ["AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"]
)
def test_a_blank_or_a_line_break_around_a_value_does_no_harm_or_is_named(
    place: Place, monkeypatch: pytest.MonkeyPatch, name: str, pattern: str
) -> None:
    value = {**KEYS, "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{place.port}"}.get(name, "token")
    monkeypatch.setenv(name, pattern.format(value))
    told = ""
    try:
        assert found() == MATCH
    except RequestError as error:
        told = error.headline
    assert told == "" or "blank or a line break" in told or "AWS configuration cannot be used" in told
    assert "testing-secret" not in told


def test_a_line_break_behind_the_region_is_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1\n")
    with pytest.raises(RequestError, match="the configured region holds a blank or a line break; take it out"):
        found()


# Addresses


def test_a_server_that_only_answers_to_the_bucket_in_its_host_is_listed_where_boto3_is_configured_so(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "aws-config").write_text("[default]\ns3 =\n    addressing_style = virtual\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws-config"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3.lab.example")
    # Its name is known to nobody, so this server stands for all names, as a proxy does.
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{place.port}")
    place.only_host = f"{BUCKET}.s3.lab.example"
    assert found() == MATCH
    assert place.is_asked_by_obstore
    assert place.hosts_and_paths == {(f"{BUCKET}.s3.lab.example", "/")}


def test_the_path_of_an_endpoint_stays(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{place.port}/storage/v1/s3")
    assert found() == MATCH
    assert place.is_asked_by_obstore
    assert {path for _, path in place.hosts_and_paths} == {f"/storage/v1/s3/{BUCKET}"}


# Proxies


@pytest.mark.parametrize("excluded", ["127.0.0.1", "127.0.0.1:{port}", "*", "localhost,127.0.0.1"])
def test_a_proxy_that_boto3_passes_by_is_passed_by(
    place: Place, monkeypatch: pytest.MonkeyPatch, excluded: str
) -> None:
    with serving() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, excluded.format(port=place.port))
        assert found() == MATCH
        assert proxy.asked == []
        assert place.is_asked_by_obstore


def test_a_proxy_for_all_schemes_which_boto3_does_not_use_is_not_used(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with serving() as proxy:
        monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{proxy.port}")
        assert found() == MATCH
        assert proxy.asked == []
        assert place.is_asked_by_obstore


def test_a_proxy_that_is_no_address_is_named_without_its_password(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://me:secret@127.0.0.1:port")
    assert told().startswith("S3: HTTP_PROXY is no address of a proxy (")
    assert "secret" not in told()


# Certificates


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@contextlib.contextmanager
def secure(authority: trustme.CA, name: str = "127.0.0.1") -> Iterator[Place]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    with serving(context) as place:
        yield place


@pytest.mark.parametrize("where", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "configuration file"])
@pytest.mark.long
def test_certificates_that_boto3_trusts_are_trusted(
    place: Place, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str
) -> None:
    bundle = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(bundle))
    if where == "configuration file":
        (tmp_path / "aws-config").write_text(f"[default]\nca_bundle = {bundle}\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws-config"))
    else:
        monkeypatch.setenv(where, str(bundle))
    with secure(authority) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"https://127.0.0.1:{server.port}")
        assert found(300) == MATCH * 300
        assert all(client.startswith("object_store") for _, _, client in server.asked)


# What OpenSSL, and so boto3, takes for a file of certificates.
FORMS = {
    "byte order mark": lambda text: b"\xef\xbb\xbf" + text,
    "trusted": lambda text: text.replace(b"CERTIFICATE", b"TRUSTED CERTIFICATE"),
    "X509": lambda text: text.replace(b"CERTIFICATE", b"X509 CERTIFICATE"),
    "remarks": lambda text: b"# Universit\xe4t\n" + text.replace(b"\n", b"\r\n"),
}


@pytest.mark.parametrize("form", FORMS)
def test_certificates_are_taken_in_each_form_that_boto3_takes(
    place: Place, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, form: str
) -> None:
    bundle = tmp_path / "authority.pem"
    bundle.write_bytes(FORMS[form](authority.cert_pem.bytes()))
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    with secure(authority) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"https://127.0.0.1:{server.port}")
        assert found() == MATCH
        assert server.is_asked_by_obstore


@pytest.mark.parametrize("text", [b"", b"hello", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_file_of_certificates_is_named(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: bytes
) -> None:
    (tmp_path / "authority.pem").write_bytes(text)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "authority.pem"))
    with pytest.raises(RequestError, match=r"^AWS_CA_BUNDLE: .* is no file of certificates; give a file in the PEM"):
        found()


def test_certificates_that_only_obstore_can_read_are_named_where_boto3_is_needed(
    place: Place, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = authority.cert_pem.bytes()
    (tmp_path / "authority.pem").write_bytes(text.strip() + text)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "authority.pem"))
    with secure(authority) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"https://127.0.0.1:{server.port}")
        server.body = b"<ListBucketResult><Name>lab-bucket</Name><IsTruncated>false</IsTruncated></ListBucketResult>"
        assert "the file of certificates that AWS_CA_BUNDLE or ca_bundle names cannot be read" in told()


def told() -> str:
    """Return what is told of an asset that cannot be listed."""
    with pytest.raises(ServiceError) as raised:
        found()
    return raised.value.headline


def test_an_untrusted_certificate_is_told_with_the_remedy(
    place: Place, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    with secure(authority) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"https://127.0.0.1:{server.port}")
        assert told() == (
            f"s3://{BUCKET}: the certificate of https://127.0.0.1:{server.port} is not trusted; "
            "name a file with the certificate of its authority in AWS_CA_BUNDLE"
        )


def test_a_certificate_for_another_host_is_told(
    place: Place, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "authority.pem"))
    with secure(authority, "elsewhere.example") as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"https://127.0.0.1:{server.port}")
        assert "is for another host name; check the name in the endpoint" in told()


def test_https_spoken_to_a_port_of_http_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"https://127.0.0.1:{place.port}")
    assert "does not speak HTTPS; check the port, or use http://" in told()


def test_a_closed_port_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
        assert told() == f"s3://{BUCKET}: cannot reach {url}; check the network"


@pytest.mark.long
def test_a_network_that_does_not_answer_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    # A listener whose queue is full takes no further connection and refuses none.
    with socket.socket() as deaf, contextlib.ExitStack() as callers:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(4):
            caller = callers.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(deaf.getsockname())
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        for limit in ("CONNECT_SECONDS", "LOOK_SECONDS"):
            monkeypatch.setattr(access, limit, 1)
        assert "cannot reach" in told()


@pytest.mark.long
def test_a_bucket_that_only_boto3_can_connect_to_stays_with_boto3_and_one_line_says_so(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """obstore is sent elsewhere, as a setting would do that only boto3 understands."""
    caplog.set_level(logging.INFO, "job_dispatch")
    monkeypatch.setattr(access, "RETRY_SECONDS", 1)
    monkeypatch.setattr(access, "_address", lambda *_: access.Address("http://127.0.0.1:9", is_in_host=False))
    assert found(300) == MATCH * 300
    assert not place.is_asked_by_obstore
    assert [one.getMessage() for one in caplog.records] == [
        f"s3://{BUCKET}: only boto3 can connect to http://127.0.0.1:{place.port}; listing takes longer"
    ]


# Answers


def refusal(place: Place, status: int, code: bytes) -> str:
    place.status, place.body = status, ERROR % code
    with pytest.raises(DispatchError) as raised:
        found()
    return str(raised.value.headline)


def test_a_token_that_s3_does_not_know_is_not_said_to_have_expired(place: Place) -> None:
    reason = "InvalidToken: S3 does not know the credentials (env); check them: no"
    assert refusal(place, 400, b"InvalidToken") == f"s3://{BUCKET}: {reason}"


def test_where_no_credentials_are_found_and_s3_says_400_that_is_said(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    assert "boto3 found no AWS credentials" in refusal(place, 400, b"AuthorizationHeaderMissing")


SOURCES = {
    "a process that fails": (
        """credential_process = sh -c 'echo "no ticket" >&2; echo "known-secret" >&2; exit 1'""",
        "no ticket",
        ServiceError,
    ),
    "an expired login": (
        "sso_session = lab\nsso_account_id = 123456789012\nsso_role_name = reader\n"
        "[sso-session lab]\nsso_region = us-east-1\nsso_start_url = https://lab.invalid/start",
        "log in by aws sso login",
        RequestError,
    ),
    "a role that STS denies": (
        "role_arn = arn:aws:iam::123456789012:role/reader\nsource_profile = base\n"
        "[profile base]\naws_access_key_id = testing\naws_secret_access_key = known-secret",
        "AccessDenied",
        ServiceError,
    ),
    "a service that is down": ("", "check where they come from, or try again later", ServiceError),
}


@pytest.fixture(params=SOURCES)
def source(
    request: pytest.FixtureRequest, place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> tuple[str, str, type[DispatchError]]:
    """Credentials that are configured and cannot be had."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    (tmp_path / "config").write_text(f"[default]\nregion = us-east-1\n{SOURCES[request.param][0]}\n")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://127.0.0.1:{place.port}")
    if not SOURCES[request.param][0]:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:9")
    return SOURCES[request.param]


def test_a_public_bucket_is_listed_where_credentials_cannot_be_had_and_a_warning_tells_why(
    place: Place, source: tuple[str, str, type[DispatchError]], caplog: pytest.LogCaptureFixture
) -> None:
    assert found() == MATCH
    assert source[1] in caplog.text
    assert "known-secret" not in caplog.text


def test_a_bucket_that_is_not_public_names_the_remedy_where_credentials_cannot_be_had(
    place: Place, source: tuple[str, str, type[DispatchError]]
) -> None:
    place.status, place.body = 403, ERROR % b"AccessDenied"
    with pytest.raises(source[2], match=f"refused without credentials, and .*{source[1]}") as raised:
        found()
    assert "known-secret" not in str(raised.value)

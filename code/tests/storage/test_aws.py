"""S3 of AWS itself, where every bucket has a region, and configurations of AWS that cannot be used."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import trustme

from tests.conftest import World, assert_refused

VPC_ENDPOINT = "bucket.vpce-1.s3.eu-west-1.vpce.amazonaws.com"
AWS_HOSTS = ("*.s3.us-west-2.amazonaws.com", "*.s3.eu-west-1.amazonaws.com", "s3.eu-west-1.amazonaws.com", VPC_ENDPOINT)
PAGE = (
    b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>asset/a.nwb</Key>"
    b"<LastModified>2025-06-01T00:00:00.000Z</LastModified><ETag>&quot;0&quot;</ETag><Size>0</Size></Contents>"
    b"</ListBucketResult>"
)
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing-secret"}


@dataclass
class Aws:
    """All hosts of AWS, behind a proxy: a bucket in eu-west-1 that holds `asset/a.nwb`."""

    environment: dict[str, str | None] = field(default_factory=dict)
    signed_by_listed_host: list[tuple[str, bool]] = field(default_factory=list)
    """Host (and first segment of the path) of each request for a listing, and whether it was signed."""


@pytest.fixture
def aws(no_aws: None, tmp_path: Path) -> Iterator[Aws]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "aws-ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*AWS_HOSTS).configure_cert(context)
    hosts = Aws()

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_CONNECT(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.connection = context.wrap_socket(self.connection, server_side=True)
            self.rfile = self.connection.makefile("rb")
            self.wfile = self.connection.makefile("wb", 0)
            self.close_connection = False

        def do_HEAD(self) -> None:
            self.answer(b"")

        def do_GET(self) -> None:
            address = self.headers["Host"] + self.path.partition("?")[0]
            hosts.signed_by_listed_host.append((address, "Authorization" in self.headers))
            self.answer(PAGE)

        def answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("x-amz-bucket-region", "eu-west-1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def finish(self) -> None:
            super().finish()
            self.connection.close()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        server.daemon_threads = True
        proxy = f"http://127.0.0.1:{server.server_address[1]}"
        hosts.environment = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), proxy)
        hosts.environment["AWS_CA_BUNDLE"] = str(tmp_path / "aws-ca.pem")
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield hosts
        server.shutdown()
        thread.join()


def list_one_asset(desk: World, aws: Aws, **environment: str) -> set[tuple[str, bool]]:
    """Run the command on one asset of the bucket and give which hosts were asked for the listing, signed or not."""
    record = {**desk.records[0], "location": "s3://lab-bucket/asset"}
    completed = desk.run_catalog(
        [record], "--docdb_query={}", "--file_extension=.nwb", env={**aws.environment, **environment}
    )
    assert completed.returncode == 0, completed.stderr
    assert [job["file_location"] for job in completed.jobs] == [["s3://lab-bucket/asset/a.nwb"]]
    return set(aws.signed_by_listed_host)


@pytest.mark.parametrize("keys", [KEYS, {}], ids=["signed", "anonymous"])
@pytest.mark.long
def test_a_bucket_of_aws_is_listed_in_its_own_region(desk: World, aws: Aws, keys: dict[str, str]) -> None:
    assert list_one_asset(desk, aws, AWS_DEFAULT_REGION="us-west-2", **keys) == {
        ("lab-bucket.s3.eu-west-1.amazonaws.com/", bool(keys))
    }


@pytest.mark.parametrize("place", ["environment", "configuration file"])
@pytest.mark.long
def test_an_endpoint_of_aws_that_is_configured_is_the_one_that_is_asked(
    desk: World, aws: Aws, tmp_path: Path, place: str
) -> None:
    if place == "environment":
        configured = {"AWS_ENDPOINT_URL_S3": f"https://{VPC_ENDPOINT}"}
    else:
        (tmp_path / "aws-config").write_text(f"[default]\nendpoint_url = https://{VPC_ENDPOINT}\n")
        configured = {"AWS_CONFIG_FILE": str(tmp_path / "aws-config")}
    assert list_one_asset(desk, aws, **configured, **KEYS) == {(f"{VPC_ENDPOINT}/lab-bucket", True)}


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        pytest.param({"AWS_PROFILE": "nope"}, "The config profile (nope) could not be found", id="no such profile"),
        pytest.param(
            {"AWS_ACCESS_KEY_ID": "half"},
            "Partial credentials found in env, missing: AWS_SECRET_ACCESS_KEY",
            id="half a pair of keys",
        ),
        pytest.param({"AWS_ENDPOINT_URL_S3": "127.0.0.1:9000"}, "Invalid endpoint: 127.0.0.1:9000", id="no scheme"),
        pytest.param(
            {"AWS_DEFAULT_REGION": "eu west"},
            "Provided region_name 'eu west' doesn't match a supported format.",
            id="no region",
        ),
    ],
)
def test_a_configuration_of_aws_that_cannot_be_used_is_named(
    desk: World, no_aws: None, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], reason: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    completed = desk.call("--docdb_query={}", "--file_extension=.nwb")
    assert_refused(desk, completed, f"error: S3: the AWS configuration cannot be used: {reason}")


@pytest.mark.parametrize(
    "content",
    [None, "", "no certificate", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"],
    ids=["missing", "empty", "garbage", "broken"],
)
def test_a_ca_bundle_that_is_none_is_named(
    desk: World, no_aws: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None
) -> None:
    bundle = tmp_path / "bundle.pem"
    if content is not None:
        bundle.write_text(content)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    completed = desk.call("--docdb_query={}", "--file_extension=.nwb")
    assert completed.returncode == 2
    assert completed.stderr.splitlines()[-1].startswith(f"error: AWS_CA_BUNDLE: {bundle} is no file of certificates")

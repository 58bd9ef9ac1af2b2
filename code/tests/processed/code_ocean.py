"""A stand-in for Code Ocean beside the metadata gateway: its API and its git server, at one address over HTTPS."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.gateway import Fault, Gateway, RecordedRequest

TOKEN = "cop_a-secret-token"
RESULTS = ("v1", "analysis", "results")
COMPUTATION = "5a8f0000-0000-4000-8000-00000000c0de"
PIPELINE = "5a8f0000-0000-4000-8000-0000000091be"
WRAPPER = "5a8f0000-0000-4000-8000-00000000beef"
SLUG = "1234567"


class CodeOceanGateway(Gateway):
    """The gateway that answers `api/v1/…` with `documents`, and `capsule-….git/…` with files below `repositories`."""

    def __init__(self, directory: Path) -> None:
        self.repositories = directory / "repositories"
        super().__init__(directory)

    def reset(self) -> None:
        super().reset()
        shutil.rmtree(self.repositories, ignore_errors=True)
        self.documents: dict[str, Any] = {}
        self.collections[RESULTS] = []

    def redirect_git(self) -> str:
        """Answer what git asks by leading it to another name of this host, which is returned."""
        elsewhere = self.host.replace("localhost", "127.0.0.1")

        def redirect(request: RecordedRequest) -> Fault | None:
            self.faults.append(redirect)
            is_redirected = request.path.startswith("/capsule-") and request.headers["Host"] != elsewhere
            return Fault(302, headers={"Location": f"https://{elsewhere}{request.path}"}) if is_redirected else None

        self.faults = [redirect]
        return elsewhere

    def respond(self, method: str, path: str, body: Any) -> tuple[int, bytes]:
        if path.startswith("/api/v1/"):
            document = self.documents.get(path.removeprefix("/api/v1/"))
            return (404, b'{"message": "Not Found"}') if document is None else (200, json.dumps(document).encode())
        if path.startswith("/capsule-"):
            file = self.repositories / path[1:].partition("?")[0]
            return (200, file.read_bytes()) if file.is_file() else (404, b"")
        return super().respond(method, path, body)

    def serve_pipeline(self, *processes: dict[str, Any], attached: tuple[str, ...] = ()) -> None:
        """Serve the computation of a pipeline, and the pipeline itself, which the wrapper asks for, too."""
        assets = [f"asset-{number}" for number in range(len(attached))]
        self.documents[f"computations/{COMPUTATION}"] = computation(
            processes=list(processes), data_assets=[{"id": name} for name in assets]
        )
        self.documents[f"capsules/{PIPELINE}"] = capsule(PIPELINE, "The pipeline", slug="7654321")
        self.documents[f"capsules/{WRAPPER}"] = capsule()
        self.make_repository([1_740_000_000], slug="7654321")
        for name, location in zip(assets, attached, strict=True):
            bucket, _, prefix = location.removeprefix("s3://").partition("/")
            self.documents[f"data_assets/{name}"] = data_asset(name, bucket, prefix)

    def make_repository(self, times: list[int], slug: str = SLUG) -> list[str]:
        """Make a capsule's git repository with a commit at each of these times; give their hashes, first to last."""
        work, bare = self.repositories / f"work-{slug}", self.repositories / f"capsule-{slug}.git"
        commits = []
        for folder in (work, bare):
            shutil.rmtree(folder, ignore_errors=True)
        _git("init", "--quiet", "--initial-branch=main", str(work))
        for number, seconds in enumerate(times):
            (work / "run").write_text(str(number))
            _git("-C", str(work), "add", ".")
            _git("-C", str(work), "commit", "--quiet", "--message", f"{number}", at=seconds)
            commits.append(_git("-C", str(work), "rev-parse", "HEAD"))
        _git("clone", "--quiet", "--bare", str(work), str(bare))
        _git("--git-dir", str(bare), "update-server-info")
        return commits

    def environment(self) -> dict[str, str]:
        """What a capsule of the pipeline finds in its environment."""
        return {
            "CODEOCEAN_DOMAIN": self.host,
            "CODEOCEAN_API_TOKEN": TOKEN,
            "CODEOCEAN_EMAIL": "somebody@example.org",
            "CO_COMPUTATION_ID": COMPUTATION,
            "CO_PIPELINE_ID": PIPELINE,
            "GIT_ACCESS_TOKEN": f"git:{TOKEN}",
            "GIT_HOST": self.host,
            "GIT_SSL_CAINFO": str(self.ca_path),
            "DOCDB_HOST": self.host,
            "DOCDB_DATABASE": RESULTS[1],
            "DOCDB_COLLECTION": RESULTS[2],
            "REQUESTS_CA_BUNDLE": str(self.ca_path),
            "NO_PROXY": "localhost,127.0.0.1",
            "no_proxy": "localhost,127.0.0.1",
        }


def computation(**changes: Any) -> dict[str, Any]:
    return {
        "id": COMPUTATION,
        "created": 1_760_000_000,
        "name": "Run 1",
        "owner": "owner",
        "run_time": 1,
        "state": "running",
        **changes,
    }


def process(
    *parameters: tuple[str | None, str | None, str], name: str = "capsule_analysis_wrapper_2", **changes: Any
) -> Any:
    """A process of a pipeline, by default the wrapper's; parameters are label, name and value."""
    filled = [{"name": label, "param_name": given, "value": value} for label, given, value in parameters]
    return {"name": name, "capsule_id": WRAPPER, "version": 3, "parameters": filled, **changes}


def capsule(identifier: str = WRAPPER, name: str = "An analysis wrapper", slug: str = SLUG, **changes: Any) -> Any:
    return {
        "id": identifier,
        "created": 1_750_000_000,
        "name": name,
        "status": "non_release",
        "owner": "owner",
        "slug": slug,
        **changes,
    }


def data_asset(identifier: str, bucket: str, prefix: str) -> dict[str, Any]:
    return {
        "id": identifier,
        "created": 1_750_000_000,
        "name": identifier,
        "mount": identifier,
        "owner": "owner",
        "state": "ready",
        "type": "dataset",
        "last_used": 0,
        "source_bucket": {"origin": "aws", "bucket": bucket, "prefix": prefix},
    }


def _git(*words: str, at: int = 0) -> str:
    who = {
        f"GIT_{role}_{what}": f"{what}@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    when = {f"GIT_{role}_DATE": f"@{at} +0000" for role in ("AUTHOR", "COMMITTER")}
    done = subprocess.run(
        ["git", *words], env={**os.environ, **who, **when}, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()

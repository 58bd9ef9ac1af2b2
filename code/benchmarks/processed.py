"""Code Ocean and a results database beside the metadata: jobs of which none or all are processed already."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

from benchmarks.metadata import Handler

_WRAPPER = "5a8f0000-0000-4000-8000-00000000beef"
_COMPUTATION = {
    **{"id": "1", "created": 1, "name": "Run", "owner": "owner", "run_time": 1, "state": "running"},
    "processes": [{"name": "analysis_wrapper", "capsule_id": _WRAPPER, "version": 3, "parameters": []}],
}
_CAPSULE = {
    **{"id": _WRAPPER, "created": 1, "name": "A wrapper", "status": "release", "owner": "owner", "slug": "1234567"},
}


class NoneDone(Handler):
    """No job has results."""

    def respond(self, pipeline: Any) -> bytes:
        """Answer Code Ocean's API and the lookups of both dispatchers, else as the metadata."""
        url = urlsplit(self.path)
        if url.path.startswith("/api/v1/"):
            return json.dumps(_CAPSULE if "/capsules/" in url.path else _COMPUTATION).encode()
        if not url.path.startswith("/v1/analysis/"):
            return super().respond(pipeline)
        if pipeline is not None:
            return self._records(pipeline[0]["$match"]["name"]["$in"])
        asked = parse_qs(url.query)
        return self._records([json.loads(asked["filter"][0])["name"]][int(asked.get("skip", ["0"])[0]) :])

    def _records(self, names: list[str]) -> bytes:
        """Return the records of those of these names that have one."""
        return b"[]"


class AllDone(NoneDone):
    """Every job has results."""

    def _records(self, names: list[str]) -> bytes:
        return json.dumps([{"_id": name, "name": name} for name in names]).encode()


def environment(host: str) -> dict[str, str]:
    """Return what a pipeline on that Code Ocean has in its environment."""
    return {
        "CODEOCEAN_API_TOKEN": "token",
        "CODEOCEAN_DOMAIN": host,
        "CO_COMPUTATION_ID": "1",
        "CO_PIPELINE_ID": "2",
        "DOCDB_COLLECTION": "results",
        "DOCDB_DATABASE": "analysis",
        "DOCDB_HOST": host,
    }

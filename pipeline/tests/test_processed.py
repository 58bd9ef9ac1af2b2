"""What is processed already is left out, and a request of which nothing is left ends well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from conftest import Lab, succeeded
from tests.processed.code_ocean import CodeOceanGateway, process


class AllProcessed(CodeOceanGateway):
    """A results database that has a record of whatever name it is asked for."""

    def respond(self, method: str, path: str, body: Any) -> tuple[int, bytes]:
        if path.endswith("/aggregate"):
            [match, *_] = body
            return 200, json.dumps([{"name": name} for name in match["$match"]["name"]["$in"]]).encode()
        return super().respond(method, path, body)


def test_with_everything_processed_the_run_ends_well_and_leaves_an_empty_table(lab: Lab, tmp_path: Path) -> None:
    succeeded(lab.run(query='{"name": "a"}'))
    assert lab.analysed_assets == ["a", "a"]
    (tmp_path / "code-ocean").mkdir()
    with AllProcessed(tmp_path / "code-ocean") as server:
        server.serve_pipeline(process())
        done = succeeded(lab.run("--skip_processed=1", **server.environment()))
    assert done.analysed == []
    assert "all 6 jobs are processed already" in done.output
    assert lab.analysed_assets == []
    assert lab.published == set()
    assert (lab.results / "report.html").exists()

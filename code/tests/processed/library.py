"""The released library, in the environment of the newest released wrapper: it pins packages that ours has newer."""

from __future__ import annotations

import atexit
import functools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.processed.wrappers import NEW

_CALLS = Path(__file__).with_name("library_calls.py")


def call_library(name: str, *arguments: Any) -> Any:
    """Call a function of `library_calls.py` in this process' environment variables."""
    library = _library()
    assert library.stdin is not None
    assert library.stdout is not None
    library.stdin.write(json.dumps({"name": name, "arguments": arguments, "environment": dict(os.environ)}) + "\n")
    library.stdin.flush()
    answer = json.loads(library.stdout.readline() or '{"error": "the released library does not start"}')
    assert "error" not in answer, answer["error"]
    return answer["result"]


@functools.cache
def _library() -> subprocess.Popen[str]:
    """Start the library, whose import takes seconds; it ends when this process does."""
    library = subprocess.Popen(
        [NEW, _CALLS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    atexit.register(library.communicate)
    return library

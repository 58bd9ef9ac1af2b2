"""Where `make test` installs the released wrappers, each with the packages that it needs."""

from __future__ import annotations

from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[3]
OLD = _ROOT / ".venv-wrapper-old" / "bin" / "python"
NEW = _ROOT / ".venv-wrapper-new" / "bin" / "python"
NO_WRAPPER = "the released wrapper is not installed: `make test` does that where it finds a Python 3.11 to 3.13"

needs_old_wrapper = pytest.mark.skipif(not OLD.exists(), reason=NO_WRAPPER)
needs_wrapper = pytest.mark.skipif(not NEW.exists(), reason=NO_WRAPPER)

"""Pin the newest versions that `pyproject.toml` allows, indirect ones included, with the hashes of their files.

`make pin` runs it. `environment/requirements.txt` is what users run: the capsule's image, the pipeline's image and
`make` install from it. The files in `tools/pins` add what tests need: the tools, and the released wrappers in
environments of their own. One file serves all versions of Python and all systems.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import Requirement

CODE = Path(__file__).resolve().parents[1]
PINS = CODE / "tools" / "pins"
REQUIREMENTS = CODE.parent / "environment" / "requirements.txt"
TEST = PINS / "test.txt"
OTHERS = tuple(PINS / f"{name}.txt" for name in ("uv", "wrapper-old", "wrapper-new"))

_COMPILE = (
    *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-annotate"),
    *("--universal", "--python-version=3.11", "--only-binary=:all:", "--generate-hashes", "--no-emit-index-url"),
    "--custom-compile-command=make pin",
)


def pins(path: Path) -> list[Requirement]:
    """Return the pinned versions in a file, each with the marker of the systems that it is for."""
    lines = path.read_text().replace("\\\n", "").splitlines()
    return [Requirement(line.partition(" --hash=")[0]) for line in lines if line and not line.lstrip().startswith("#")]


def compile_pins(folder: Path) -> list[tuple[Path, Path]]:
    """Write new pins into a folder; return for each file the pinned one that it replaces and itself."""
    pyproject = CODE / "pyproject.toml"
    requirements = folder / REQUIREMENTS.name
    _compile(pyproject, requirements)
    _compile(pyproject, folder / TEST.name, "--all-extras", f"--constraint={requirements}")
    for path in OTHERS:
        _compile(path.with_suffix(".in"), folder / path.name)
    return [(path, folder / path.name) for path in (REQUIREMENTS, TEST, *OTHERS)]


def _compile(source: Path, target: Path, *options: str) -> None:
    command: Sequence[str] = (*_COMPILE, *options, f"--output-file={target}", str(source))
    if subprocess.run(command, check=False).returncode != 0:
        raise SystemExit(f"error: {source.name}: no versions go together, see above; nothing is changed")


def main() -> None:
    """Pin what is newest now, and print what that changes."""
    with tempfile.TemporaryDirectory() as folder:
        for old, new in compile_pins(Path(folder)):
            before, after = ({str(pin) for pin in pins(path)} if path.exists() else set() for path in (old, new))
            for line in sorted([f"- {pin}" for pin in before - after] + [f"+ {pin}" for pin in after - before]):
                print(f"{old.name}: {line}")
            old.write_text(new.read_text())


if __name__ == "__main__":
    main()

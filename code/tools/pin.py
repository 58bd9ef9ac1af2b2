"""Pin the newest versions that `pyproject.toml` allows, indirect ones included, where Code Ocean builds the capsule.

`make pin` runs it. Code Ocean writes `environment/Dockerfile` from `.codeocean/environment.json` and takes the file for
its own work as long as the hash in the first line is that of the rest; so both are written alike.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = _ROOT / "environment" / "Dockerfile"
ENVIRONMENT = _ROOT / ".codeocean" / "environment.json"
# The C library of Ubuntu 22.04, on which the image stands, is glibc 2.35.
_PLATFORM = "x86_64-manylinux_2_35"
_INSTALL = re.compile(r"(?<=RUN pip install -U --no-cache-dir \\\n).*?\n(?=\n)", re.DOTALL)


def base_image(environment: Path = ENVIRONMENT) -> str:
    """Return the image that the capsule is built on, as Code Ocean names it."""
    image: str = json.loads(environment.read_text())["base_image"]
    return image


def pins(environment: Path = ENVIRONMENT) -> dict[str, str]:
    """Return the version of each package that is pinned, by its name."""
    packages = json.loads(environment.read_text())["installers"]["pip"]["packages"]
    return {package["name"]: package["version"] for package in packages}


def write(versions: Mapping[str, str], dockerfile: Path = DOCKERFILE, environment: Path = ENVIRONMENT) -> None:
    """Write the versions into both files and leave everything else in them as it is."""
    names = sorted(versions)
    settings = json.loads(environment.read_text())
    settings["installers"]["pip"]["packages"] = [{"name": name, "version": versions[name]} for name in names]
    environment.write_text(json.dumps(settings, indent="\t") + "\n")
    rest = dockerfile.read_text().partition("\n")[2]
    lines = " \\\n".join(f"    {name}=={versions[name]}" for name in names)
    rest = _INSTALL.sub(f"{lines}\n", rest)
    dockerfile.write_text(f"# hash:sha256:{hashlib.sha256(rest.encode()).hexdigest()}\n{rest}")


def resolve() -> dict[str, str]:
    """Ask the package index for the newest versions that go together on the Python of the image."""
    version = re.search(r"python(\d+\.\d+\.\d+)", base_image())
    if version is None:
        raise SystemExit(f"error: {ENVIRONMENT}: no version of Python in the name of the image {base_image()}")
    command = [
        *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate"),
        *("--only-binary=:all:", f"--python-version={version[1]}", f"--python-platform={_PLATFORM}"),
        str(_ROOT / "code" / "pyproject.toml"),
    ]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if process.returncode != 0:
        raise SystemExit("error: no versions go together, see above; nothing is changed")
    return dict(line.split("==") for line in process.stdout.splitlines())


def main() -> None:
    """Pin what is newest now, and print what that changes."""
    before, after = pins(), resolve()
    write(after)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    for name in changed:
        print(f"{name}: {before.get(name, 'new')} → {after.get(name, 'no longer needed')}")
    print(f"{len(after)} packages pinned, {len(changed)} of them changed")


if __name__ == "__main__":
    main()

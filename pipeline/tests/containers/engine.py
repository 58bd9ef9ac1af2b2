"""A Docker daemon for tests: one that runs already, or one that is started with a folder of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("docker.io", "iptables")
# What Python's own modules need of Debian.
LIBRARIES = "ca-certificates,libssl3,libffi8,libsqlite3-0,libbz2-1.0,liblzma5,libreadline8,zlib1g"
SECONDS_AT_MOST = 600


class MissingError(Exception):
    """Containers cannot run here; the text is the reason."""


def docker(*words: str | Path, input: Path | None = None, check: bool = True) -> str:
    """Run a command of Docker and return what it prints."""
    with contextlib.ExitStack() as stack:
        given = stack.enter_context(input.open("rb")) if input else None
        done = subprocess.run(
            ["docker", *words],
            stdin=given or subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS_AT_MOST,
        )
    if check and done.returncode != 0:
        raise RuntimeError(f"docker {' '.join(map(str, words))}: {done.stdout[-3_000:]}")
    return done.stdout


@contextlib.contextmanager
def running() -> Iterator[None]:
    """Have a daemon that `docker` talks to.

    Raises
    ------
    MissingError
        There is none, and none can be started.
    """
    if shutil.which("docker") and subprocess.run(["docker", "info"], capture_output=True).returncode == 0:
        yield
        return
    _install()
    with tempfile.TemporaryDirectory(prefix="docker-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        address = f"unix://{folder}/socket"
        places = (f"--data-root={folder}/data", f"--exec-root={folder}/exec", f"--pidfile={folder}/pid")
        network = [f"--{word}=false" for word in ("iptables", "ip6tables", "ip-forward", "ip-masq")]
        with (folder / "log").open("wb") as log:
            daemon = subprocess.Popen(
                ["setpriv", "--pdeathsig=TERM", "dockerd", f"--host={address}", *places, *network],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        before = os.environ.get("DOCKER_HOST")
        os.environ["DOCKER_HOST"] = address
        try:
            _wait(daemon, folder)
            yield
        finally:
            if before is None:
                del os.environ["DOCKER_HOST"]
            else:
                os.environ["DOCKER_HOST"] = before
            daemon.terminate()
            daemon.wait(timeout=60)


def _install() -> None:
    if os.geteuid() != 0:
        raise MissingError("no Docker daemon runs, and to start one needs root")
    if all(map(shutil.which, ("dockerd", "docker", "setpriv"))):
        return
    if shutil.which("apt-get") is None:
        raise MissingError("no Docker is installed, and there is no apt-get to install it")
    variables = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update", "--quiet"], ["install", "--yes", "--quiet", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(["apt-get", *words], env=variables, capture_output=True, text=True, timeout=300)
        if done.returncode != 0:
            raise MissingError(f"apt-get {words[0]}: {(done.stderr.strip().splitlines() or ['it failed'])[-1]}")


def _wait(daemon: subprocess.Popen[bytes], folder: Path) -> None:
    latest = time.monotonic() + 60
    while subprocess.run(["docker", "info"], capture_output=True).returncode != 0:
        if daemon.poll() is not None or time.monotonic() > latest:
            daemon.kill()
            last = (folder / "log").read_text(errors="replace").strip().splitlines()[-1]
            raise MissingError(f"dockerd does not start here: {last}")
        time.sleep(0.2)


def make_base_image(names: dict[str, str], folder: Path) -> None:
    """Make images of these names, each with its version of Python, where they cannot be pulled.

    They hold Debian, a Python of this machine, and what pip and apt-get need on this machine to reach their registries.
    """
    missing = {name: version for name, version in names.items() if not _is_there(name)}
    if not missing:
        return
    if shutil.which("debootstrap") is None:
        done = subprocess.run(["apt-get", "install", "--yes", "--quiet", "debootstrap"], capture_output=True)
        if done.returncode != 0:
            raise MissingError(f"{next(iter(missing))} cannot be pulled, and there is no debootstrap to make it")
    root = folder / "root"
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)[
        "VERSION_CODENAME"
    ]
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={LIBRARIES}", release, root],
        check=True,
        capture_output=True,
        timeout=SECONDS_AT_MOST,
    )
    for place in ("/etc/apt", "/etc/ssl/certs", "/usr/local/share/ca-certificates", "/usr/share/keyrings"):
        if Path(place).exists():
            (root / place[1:]).mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-a", f"{place}/.", root / place[1:]], check=True)
    settings = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    pairs = [line.partition("=") for line in settings.splitlines()]
    chosen = {pair[0].rpartition(".")[2]: pair[2].strip("'") for pair in pairs}
    lines = [f"{name} = {value}" for name, value in chosen.items()]
    (root / "etc" / "pip.conf").write_text("\n".join(["[global]", *lines, ""]))
    for version in sorted(set(missing.values())):
        _add_python(root, version)
        archive = folder / "root.tar"
        subprocess.run(["tar", "--create", f"--file={archive}", f"--directory={root}", "."], check=True, timeout=300)
        for name in (name for name, wanted in missing.items() if wanted == version):
            docker("import", "--change=ENV PIP_ROOT_USER_ACTION=ignore", "-", name, input=archive)
        archive.unlink()


def _is_there(name: str) -> bool:
    if docker("image", "ls", "--quiet", name).strip():
        return True
    return subprocess.run(["docker", "pull", "--quiet", name], capture_output=True, timeout=300).returncode == 0


def _add_python(root: Path, version: str) -> None:
    """Put a Python of this machine into /usr/local."""
    find = [sys.executable, "-m", "uv", "python", "find", "--no-project", "--no-python-downloads", version]
    found = subprocess.run(find, capture_output=True, text=True).stdout.split()
    found += sorted(map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python")))
    if not found:
        raise MissingError(f"there is no Python {version} on this machine for the images")
    ask = [found[0], "-c", "import sys; print(sys.base_prefix)"]
    prefix = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    unneeded = shutil.ignore_patterns("test", "__pycache__", "*.a", "site-packages")
    shutil.copytree(prefix, root / "usr" / "local", symlinks=True, dirs_exist_ok=True, ignore=unneeded)
    for words in (["/sbin/ldconfig"], ["/usr/local/bin/python3", "-m", "ensurepip"]):
        subprocess.run(["chroot", root, *words], check=True, capture_output=True)
    for name, target in (("python", f"python{version}"), ("pip", "pip3")):
        link = root / "usr" / "local" / "bin" / name
        link.unlink(missing_ok=True)
        link.symlink_to(target)

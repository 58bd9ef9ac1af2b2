"""A Docker daemon for tests: one that runs already, or one that is started with a folder of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from packages import MissingError, install

PROGRAMS, PACKAGES = ("dockerd", "docker", "setpriv"), ("docker.io", "iptables")
# What Python's own modules need of Debian.
LIBRARIES = "ca-certificates,libssl3,libffi8,libsqlite3-0,libbz2-1.0,liblzma5,libreadline8,zlib1g"
SECONDS_AT_MOST = 600


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
def running() -> Iterator[bool]:
    """Have a daemon that `docker` talks to, and tell whether it was started for this.

    Raises
    ------
    MissingError
        There is none, and none can be started.
    """
    if shutil.which("docker") and subprocess.run(["docker", "info"], capture_output=True).returncode == 0:
        yield False
        return
    if os.geteuid() != 0:
        raise MissingError("no Docker daemon runs, and to start one needs root")
    install(PROGRAMS, PACKAGES)
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
            yield True
        finally:
            if before is None:
                del os.environ["DOCKER_HOST"]
            else:
                os.environ["DOCKER_HOST"] = before
            daemon.terminate()
            try:
                daemon.wait(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(daemon.pid, signal.SIGKILL)
            # It leaves the network of containers that use the host's.
            for line in reversed(Path("/proc/mounts").read_text().splitlines()):
                place = line.split()[1]
                if place.startswith(f"{folder}/"):
                    subprocess.run(["umount", "--lazy", place], capture_output=True)


def _wait(daemon: subprocess.Popen[bytes], folder: Path) -> None:
    latest = time.monotonic() + 60
    while subprocess.run(["docker", "info"], capture_output=True).returncode != 0:
        if daemon.poll() is not None or time.monotonic() > latest:
            daemon.kill()
            last = (folder / "log").read_text(errors="replace").strip().splitlines()[-1]
            raise MissingError(f"dockerd does not start here: {last}")
        time.sleep(0.2)


def make_base_image(name: str, version: str, folder: Path) -> None:
    """Make an image of Debian with a Python of this machine, and what pip and apt-get need here to reach registries."""
    try:
        install(["debootstrap"], ["debootstrap"])
    except MissingError as error:
        raise MissingError(f"{name} can neither be pulled nor be made: {error}") from error
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
    lines = [f"{key} = {value}" for key, value in chosen.items()]
    (root / "etc" / "pip.conf").write_text("\n".join(["[global]", *lines, ""]))
    _add_python(root, version)
    archive = folder / "root.tar"
    subprocess.run(["tar", "--create", f"--file={archive}", f"--directory={root}", "."], check=True, timeout=300)
    docker("import", "--change=ENV PIP_ROOT_USER_ACTION=ignore", "-", name, input=archive)
    archive.unlink()


def is_there(name: str) -> bool:
    """Tell whether there is an image of this name, here or to pull."""
    if docker("image", "ls", "--quiet", name).strip():
        return True
    with contextlib.suppress(subprocess.TimeoutExpired):
        return subprocess.run(["docker", "pull", "--quiet", name], capture_output=True, timeout=300).returncode == 0
    return False


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

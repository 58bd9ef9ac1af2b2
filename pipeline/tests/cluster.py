"""A Slurm of one node on this machine, with its own keys, ports and folder; it leaves an installed one alone."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from packages import MissingError, install

PACKAGES = ("slurm-wlm", "munge")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "setpriv")
SECONDS_TO_START = 60

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
PropagateResourceLimits=NONE
ReturnToService=2
KillWait=3
MinJobAge=300
SchedulerParameters=sched_interval=1,batch_sched_delay=0
SlurmdParameters=config_overrides
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=test Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


class Cluster:
    """The daemons, and commands of Slurm that talk to them."""

    def __init__(self, folder: Path, cpus: int = 4, memory: int = 64_000) -> None:
        self._folder = folder
        self._host = socket.gethostname().partition(".")[0]
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        folder.chmod(0o755)
        for name in ("munge", "state", "spool"):
            (folder / name).mkdir(mode=0o755)
        text = CONFIGURATION.format(
            folder=folder,
            host=self._host,
            controller_port=_free_port(),
            node_port=_free_port(),
            cpus=cpus,
            memory=memory,
        )
        (folder / "slurm.conf").write_text(text)
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}

    def start(self) -> None:
        """Start all daemons and wait until the node takes jobs."""
        self._start_munge()
        self.start_controller()
        self._start("slurmd", "-D", "-f", self.environment["SLURM_CONF"])
        self.wait_until(lambda: "idle" in self.ask("sinfo", "--noheader", "--format=%T"), "the node takes no jobs")

    def start_controller(self) -> None:
        """Start the controller, which takes submissions."""
        self._start("slurmctld", "-D", "-f", self.environment["SLURM_CONF"])
        self.wait_until(lambda: "UP" in self.ask("scontrol", "ping"), "the controller does not answer")

    def stop_controller(self) -> None:
        """End the controller alone, as when its machine is away for a while."""
        self._end("slurmctld")

    def set_node(self, state: str) -> None:
        """Set the node's state, such as DOWN and RESUME."""
        self.ask("scontrol", "update", f"NodeName={self._host}", f"State={state}", "Reason=test")

    def end_jobs(self) -> None:
        """End all jobs."""
        self.ask("scancel", "--user=root", "--full", "--signal=KILL")
        self.ask("scancel", "--user=root")
        self.wait_until(lambda: not self.jobs(), "jobs do not end")

    def stop(self) -> None:
        """End all jobs and daemons."""
        if "slurmctld" in self._started:
            with contextlib.suppress(TimeoutError, subprocess.TimeoutExpired):
                self.end_jobs()
        for name in list(self._started):
            self._end(name)

    def ask(self, *command: str) -> str:
        """Return what a command of Slurm prints; empty where it fails."""
        variables = {**os.environ, **self.environment}
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)
        return done.stdout if done.returncode == 0 else ""

    def jobs(self) -> dict[str, str]:
        """Return names and states of the jobs in the queue, by number."""
        lines = self.ask("squeue", "--noheader", "--format=%i %T %j").splitlines()
        return {line.split()[0]: line.partition(" ")[2].strip() for line in lines}

    def wait_until(self, is_so: Callable[[], bool], complaint: str, at_most: float = SECONDS_TO_START) -> None:
        """Wait for something that happens by itself."""
        latest = time.monotonic() + at_most
        while not is_so():
            if time.monotonic() > latest:
                raise TimeoutError(f"{complaint}\n{self._logs()}")
            time.sleep(0.1)

    def _start_munge(self) -> None:
        """Start the service by which the daemons know each other, which refuses to run as root."""
        folder, munge = self._folder / "munge", pwd.getpwnam("munge")
        key = folder / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        for path in (folder, key):
            os.chown(path, munge.pw_uid, munge.pw_gid)
        files = [f"--{name}-file={folder / name}" for name in ("key", "log", "pid", "seed")]
        self._start("munged", "--foreground", f"--socket={folder / 'socket'}", *files, user="munge")
        self.wait_until((folder / "socket").exists, "munge does not start")

    def _start(self, name: str, *options: str, user: str | None = None) -> None:
        # However these tests end, the daemons end with them.
        command = ["setpriv", "--pdeathsig=KILL"]
        if user is not None:
            command += [f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        with (self._folder / f"{name}.err").open("ab") as errors:
            self._started[name] = subprocess.Popen(
                [*command, name, *options],
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                start_new_session=True,
            )

    def _end(self, name: str) -> None:
        process = self._started.pop(name)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _logs(self) -> str:
        files = sorted(path for path in self._folder.glob("*.*") if path.suffix in (".log", ".err"))
        return "\n".join(f"{path.name}: {path.read_text(errors='replace')[-2_000:]}" for path in files)


@contextlib.contextmanager
def running() -> Iterator[Cluster]:
    """Give a cluster that runs, and stop it at the end.

    Raises
    ------
    MissingError
        It cannot run here.
    """
    if os.geteuid() != 0:
        raise MissingError("Slurm's daemons need root")
    install(PROGRAMS, PACKAGES)
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        cluster = Cluster(Path(folder))
        try:
            try:
                cluster.start()
            except (TimeoutError, subprocess.TimeoutExpired, KeyError, OSError) as error:
                raise MissingError(f"Slurm does not start here: {error}") from error
            yield cluster
        finally:
            cluster.stop()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port

"""A real Slurm for tests: controller and nodes on this machine, without munge, in a temporary folder, GPUs that stand in."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

_PROGRAMS = ("slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "scancel")
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"

_CONF = """\
ClusterName=dure
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={port}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
SlurmdParameters=config_overrides
ReturnToService=0
MessageTimeout=5
KillWait=2
MinJobAge=300
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/controller.log
SlurmdLogFile={folder}/%n.log
NodeName={prefix}[0-{last}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first_port}-{last_port}] CPUs=64 RealMemory=512000 Gres=gpu:h100:{gpus}
PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=short Nodes={prefix}0 MaxTime=30 State=UP
{more}"""
_GRES = """\
AutoDetect=off
NodeName={prefix}[0-{last}] Name=gpu Type=h100 File={folder}/gpu[0-{last_gpu}]
"""


def is_installed() -> bool:
    """Whether Slurm's programs are here."""
    return all(shutil.which(name, path=_PATH) for name in _PROGRAMS)


class SlurmCluster:
    """Nodes n0, n1… (or with another prefix) of 64 CPUs and some GPUs each; `more` are lines for slurm.conf."""

    def __init__(self, num_nodes: int = 2, gpus: int = 4, prefix: str = "n", more: str = "") -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dure-slurm-"))
        self.names = [f"{prefix}{idx}" for idx in range(num_nodes)]
        (self.folder / "state").mkdir()
        for idx in range(gpus):
            # Slurm wants device files.
            (self.folder / f"gpu{idx}").symlink_to("/dev/null")
        first_port = _free_ports(num_nodes + 1)
        values = {
            "host": socket.gethostname(), "user": getpass.getuser(), "port": first_port + num_nodes, "folder": self.folder,
            "last": num_nodes - 1, "first_port": first_port, "last_port": first_port + num_nodes - 1, "gpus": gpus,
            "last_gpu": gpus - 1, "prefix": prefix, "more": more,
        }  # fmt: skip
        (self.folder / "slurm.conf").write_text(_CONF.format(**values))
        (self.folder / "gres.conf").write_text(_GRES.format(**values))
        self.env = {"PATH": _PATH, "SLURM_CONF": str(self.folder / "slurm.conf")}
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        self._controller: subprocess.Popen[bytes] | None = None
        try:
            self.start_controller()
            for name in self.names:
                self.start_node(name)
            self.until(lambda: all(state == "IDLE" for state in self.states().values()), 60)
        except BaseException:
            print(self.told())
            self.close()
            raise

    def _spawn(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(words, env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")

    def start_controller(self, *, is_fresh: bool = False) -> None:
        """Start it and wait until it answers; fresh: it has forgotten all jobs."""
        self._controller = self._spawn("slurmctld", "-D", "-i", *(["-c"] if is_fresh else []))
        # One with a database asks it for long.
        self.until(lambda: self.run("scontrol", "ping", check=False).returncode == 0, 120)

    def save(self) -> Path:
        """Wait until the controller has written down what its jobs are now, which it does some seconds late; the file."""
        path = self.folder / "state" / "job_state"
        name = f"save-{time.monotonic_ns()}"
        mark = self.run("sbatch", "--parsable", "--hold", f"--job-name={name}", "--output=/dev/null", "--wrap=true").stdout.strip()
        self.until(lambda: path.exists() and name.encode() in path.read_bytes(), 30)
        self.run("scancel", mark)
        return path

    def kill_controller(self) -> None:
        """As a crash would."""
        assert self._controller is not None
        self._controller.kill()
        self._controller.wait()

    def start_node(self, name: str) -> None:
        """Start the daemon of a node."""
        self._nodes[name] = self._spawn("slurmd", "-D", "-N", name)

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """One of Slurm's commands."""
        done = subprocess.run(words, env=self.env, capture_output=True, text=True, cwd="/", check=False, timeout=60)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def states(self) -> dict[str, str]:
        """State of each node."""
        lines = self.run("sinfo", "-N", "-h", "-p", "gpu", "-o", "%N %T", check=False).stdout.splitlines()
        return {name: state.upper() for name, state in (line.split() for line in lines)}

    def jobs(self, states: str = "all", *, check: bool = True) -> list[str]:
        """``name state`` of each job."""
        return self.run("squeue", "-h", "-r", "-t", states, "-O", "Name:100,State:20", check=check).stdout.splitlines()

    def told(self) -> str:
        """What Slurm has to say when something has not come about."""
        logs = [path.read_text()[-3000:] for path in sorted(self.folder.glob("*.log"))]
        return "\n".join([self.run("scontrol", "-o", "show", "node", check=False).stdout, *self.jobs(), *logs])

    def clear(self) -> None:
        """End all jobs, and bring all nodes back."""
        self.run("scancel", "-Q", f"--user={os.getuid()}", check=False)
        for name in self.names:
            self.run("scontrol", "update", f"nodename={name}", "state=resume", check=False)
        self.until_idle()
        self.until(lambda: all(state == "IDLE" for state in self.states().values()), 30)

    def until_idle(self) -> None:
        """Wait until no job waits or runs."""
        self.until(lambda: not self.jobs("pending,running,completing,suspended"), 60)

    @staticmethod
    def until(is_so: object, wait_s: float) -> None:
        """Wait for something to become so."""
        end = time.monotonic() + wait_s
        while not is_so():  # type: ignore[operator]
            assert time.monotonic() < end, "Slurm did not get there in time"
            time.sleep(0.05)

    def close(self) -> None:
        """End all jobs, all daemons, and remove the folder."""
        if self._controller is not None and self._controller.poll() is None:
            self.run("scancel", "-Q", f"--user={os.getuid()}", check=False)
            until = time.monotonic() + 10
            while self.jobs("pending,running,completing,suspended", check=False) and time.monotonic() < until:
                time.sleep(0.05)
        for process in [*self._nodes.values(), *([self._controller] if self._controller else [])]:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in [*self._nodes.values(), *([self._controller] if self._controller else [])]:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class SlurmRestd:
    """slurmrestd of a cluster on a socket, ``unix:…``, for whoever may open it."""

    def __init__(self, cluster: SlurmCluster, *, has_database: bool = False) -> None:
        path = cluster.folder / "restd.sock"
        # It refuses to serve as root; here all is one user.
        security = "disable_user_check,disable_unshare_files,disable_unshare_sysv"
        plugins = "openapi/v0.0.38" + (",openapi/dbv0.0.38" if has_database else "")
        self.address = f"unix:{path}"
        self._process = subprocess.Popen(
            ["slurmrestd", "-a", "rest_auth/local", "-s", plugins, self.address], env={**cluster.env, "SLURMRESTD_SECURITY": security},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/",
        )  # fmt: skip
        try:
            cluster.until(path.exists, 20)
        except AssertionError:
            self.close()
            raise

    @staticmethod
    def is_installed() -> bool:
        """Whether the program is here."""
        return shutil.which("slurmrestd", path=_PATH) is not None

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(20)


def _free_ports(num: int) -> int:
    """The first of so many ports in a row that nobody listens on, below those that the system gives out."""
    for first in range(12_000 + os.getpid() % 8_000, 32_000, num):
        probes = []
        try:
            for port in range(first, first + num):
                probes.append(socket.socket())
                probes[-1].bind(("", port))
        except OSError:
            continue
        else:
            return first
        finally:
            for probe in probes:
                probe.close()
    raise AssertionError("no free ports")

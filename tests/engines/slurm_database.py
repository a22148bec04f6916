"""Slurm's accounting for tests: a real MariaDB and slurmdbd on this machine, in a temporary folder."""

from __future__ import annotations

import getpass
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
_PROGRAMS = ("mariadbd", "mariadb-install-db", "mariadb", "slurmdbd", "sacct", "sacctmgr")
_PLUGIN = "slurm-wlm/accounting_storage_mysql.so"

_CONF = """\
AuthType=auth/none
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser={user}
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database_port}
StorageUser=slurm
StoragePass=not-secret
StorageLoc=slurm_acct
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
"""


def is_installed() -> bool:
    """Whether all of it is here."""
    has_plugin = any(Path("/usr/lib").glob(f"*/{_PLUGIN}"))
    return has_plugin and all(shutil.which(name, path=_PATH) for name in _PROGRAMS)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class SlurmDatabase:
    """MariaDB and slurmdbd; its ``conf`` are lines for slurm.conf."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dure-slurmdbd-"))
        self._socket = self.folder / "db.sock"
        self._processes: list[subprocess.Popen[bytes]] = []
        self.port, database_port = _free_port(), _free_port()
        self.conf = (
            "AccountingStorageType=accounting_storage/slurmdbd\nAccountingStorageHost=127.0.0.1\n"
            f"AccountingStoragePort={self.port}\nAccountingStorageTRES=gres/gpu\n"
        )
        self.env = {"PATH": _PATH, "SLURM_CONF": str(self.folder / "slurm.conf")}
        try:
            self._start_mariadb(database_port)
            conf = self.folder / "slurmdbd.conf"
            conf.write_text(_CONF.format(port=self.port, database_port=database_port, user=getpass.getuser(), folder=self.folder))
            conf.chmod(0o600)
            # slurmdbd looks for its own file beside this one.
            (self.folder / "slurm.conf").write_text(
                f"ClusterName=dure\nSlurmctldHost=localhost\nAuthType=auth/none\nSlurmUser={getpass.getuser()}\n{self.conf}"
            )
            self.start()
            self.until(lambda: self._run("sacctmgr", "-n", "list", "cluster") is not None, 60)
            self._run("sacctmgr", "-i", "add", "cluster", "dure")
        except BaseException:
            self.close()
            raise

    def _start_mariadb(self, port: int) -> None:
        data = self.folder / "data"
        common = ("--no-defaults", f"--user={getpass.getuser()}", f"--datadir={data}")
        self._run("mariadb-install-db", *common, "--auth-root-authentication-method=normal", "--skip-test-db")
        self._spawn(
            "mariadbd", *common, f"--socket={self._socket}", f"--port={port}", "--bind-address=127.0.0.1",
            f"--pid-file={self.folder}/db.pid", "--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=32M",
            "--innodb-log-file-size=64M", "--innodb-lock-wait-timeout=900",
        )  # fmt: skip
        sql = "CREATE USER slurm@'127.0.0.1' IDENTIFIED BY 'not-secret'; GRANT ALL ON slurm_acct.* TO slurm@'127.0.0.1'"
        self.until(lambda: self._run("mariadb", "--no-defaults", f"--socket={self._socket}", "-u", "root", "-e", sql) is not None, 60)

    def _spawn(self, *words: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(words, env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
        self._processes.append(process)
        return process

    def _run(self, *words: str) -> str | None:
        done = subprocess.run(words, env=self.env, capture_output=True, text=True, cwd="/", check=False, timeout=60)
        return done.stdout if done.returncode == 0 else None

    def start(self) -> None:
        """Start slurmdbd."""
        self._daemon = self._spawn("slurmdbd", "-D")

    def stop(self) -> None:
        """End slurmdbd; what the controller has for it waits there."""
        self._daemon.terminate()
        self._daemon.wait(20)

    @staticmethod
    def until(is_so: object, wait_s: float) -> None:
        """Wait for something to become so."""
        end = time.monotonic() + wait_s
        while not is_so():  # type: ignore[operator]
            assert time.monotonic() < end, "Slurm's accounting did not get there in time"
            time.sleep(0.1)

    def close(self) -> None:
        """End both, and remove the folder."""
        for process in reversed(self._processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

"""Real processes of the service and of an agent, that can be killed at any moment and are quickly there again."""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import httpx
from tests.service.world import document_of_today

from dure.client import ApiError, Client, UnreachableError
from dure.model.job_file import JobSpec, Resources
from dure.service import commands
from dure.service.app import Service, Settings
from dure.service.identity import Grant, Principal
from dure.service.schemas import NewProject, NewToken

#: Imports and compiles once; each line on its input forks a process that is `dure serve` with the arguments in that line.
NURSERY = textwrap.dedent(
    """
    import json, os, signal, sys
    import dure.twin.warm
    dure.twin.warm.warm()
    dure.twin.warm.warm = lambda: 0.0
    import dure.cli.serve, dure.service.app, dure.service.up, dure.service.routes_jobs, dure.service.routes_agents
    import dure.service.routes_admin, dure.service.routes_alliance, uvicorn, psycopg, sqlalchemy.dialects.postgresql.psycopg
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 0)
            os.dup2(null, 1)
            dure.cli.serve.serve.main(json.loads(line), standalone_mode=True)
        print(pid, flush=True)
    """
)


class Nursery:
    """Where services come from."""

    def __init__(self, folder: Path) -> None:
        self._log = (folder / "service.log").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-c", NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        assert self._said() == "ready"

    def _said(self) -> str:
        assert self._process.stdout is not None
        assert select.select([self._process.stdout], [], [], 300)[0]
        return self._process.stdout.readline().strip()

    def start(self, *args: str) -> int:
        """A new service; its process."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(args) + "\n")
        self._process.stdin.flush()
        return int(self._said())

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()


def free_port() -> int:
    """One that stays free while nobody listens: none of those that connections take for their own end."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def begin(folder: Path, database: str) -> tuple[str, str]:
    """A log with its projects; the operator's and the agent's token."""
    service = Service(Settings(database, folder))
    service.store.open()
    service.store.begin(document_of_today())
    service.open()
    root = Principal("root", (Grant("operator"),))

    def do(command):
        return service.writer.do(command, "service").result(60)

    for member in ("owner", "guest", "other"):
        do(commands.make_project(NewProject(name="main", member=member), root))
    operator = do(commands.make_token(NewToken(user="root", role="operator"), None))[1]
    agent = do(commands.make_token(NewToken(user="agent", role="agent", site="hall"), None))[1]
    service.close()
    return operator, agent


def kill(pid: int) -> None:
    """Kill a process and wait until it is gone."""
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)


class AgentProcess:
    """`dure agent` for the site, with sixteen slots."""

    def __init__(self, folder: Path, url: str, token: str) -> None:
        self._folder, self._env = folder, {**os.environ, "DURE_URL": url, "DURE_TOKEN": token}
        self.start()

    def start(self) -> None:
        with (self._folder / "agent.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dure.cli.main", "agent", "--site", "hall", "--gpus", "8", "--node-names",
                 "hall-0,hall-1", "--data-dir", str(self._folder / "agent")], env=self._env, stdout=log, stderr=log,
            )  # fmt: skip

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def leader_of(ports: list[int]) -> int | None:
    """The port of the service that leads."""
    for port in ports:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=2).status_code == 200:
                return port
    return None


class Customer(threading.Thread):
    """Submits and cancels until told to stop, whatever happens to the service; `url`: of several one leads."""

    #: Longest pause between two requests.
    pause_s = 0.15

    def __init__(self, url: str, token: str, out: Path, seed: int) -> None:
        super().__init__(daemon=True)
        self._client = Client(url, token, timeout_s=10, retry_s=1)
        self._out, self._chance, self._seed = out, random.Random(seed), seed
        self.acknowledged: list[str] = []
        self.unheard: set[str] = set()
        self.cancelled: set[str] = set()
        self.errors: list[str] = []
        self.is_over = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.is_over.wait(self._chance.uniform(0.0, self.pause_s)):
            number += 1
            name = f"c{self._seed}-{number}"
            try:
                if self.acknowledged and self._chance.random() < 0.1:
                    job_id = self._chance.choice(self.acknowledged)
                    self.cancelled.add(job_id)
                    self._client.cancel(job_id)
                else:
                    self.acknowledged += self._client.submit(self._job(name)).job_ids
            except UnreachableError:
                self.unheard.add(name)
            except ApiError as error:
                if error.status != 503:
                    self.errors.append(f"{error.status} {error}")
        self._client.close()

    def _job(self, name: str) -> JobSpec:
        pause = self._chance.choice((0, 0, 0.05, 0.3))
        # One write of a short line is whole, also beside others'.
        script = f'echo "$DURE_LEASE_ID" >> {self._out}; sleep {pause}'
        member = self._chance.choice(("owner", "guest", "other"))
        gpus = self._chance.choice((1, 2))
        return JobSpec(name=name, project=f"{member}/main", command=("sh", "-c", script), resources=Resources(gpus=gpus))


def until(is_so, wait_s: float = 60.0):
    end = time.monotonic() + wait_s
    while time.monotonic() < end:
        found = is_so()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")

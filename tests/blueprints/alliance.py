"""A live service with an agent whose GPUs a guest borrows: where blueprints are run and taken back from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.service.processes import AgentProcess, until
from tests.service.running import Running

from dure.client import Client
from dure.client.blueprints import Entry, catalogue_folder
from dure.model.job_file import JobSpec, Resources

#: GPUs of the hall: an owner that wants all of them takes back what is lent.
GPUS = 16


@dataclass
class Reclaimed:
    """A run that was taken back once. ``free_s``: from the owner's wish to the moment its job had all GPUs."""

    result: dict[str, Any]
    free_s: float
    wall_s: float


#: Recorded data, and the blueprints that cannot do without: each with the key of the environment of what reads them.
DATA = Path(os.environ.get("DURE_DATA") or catalogue_folder().parents[1] / "shared" / "data").resolve()
NEED_DATA = {
    "factory": "jobs.wear.env", "inspection-service": "jobs.serve.env", "predictive-maintenance": "env", "process-monitoring": "env",
}  # fmt: skip


def small_words(entry: Entry) -> list[str]:
    """What `dure blueprint run` is told: the small size, on a GPU at least, as only who has GPUs can be asked for them."""
    words = [entry.about.name, "--small"]
    work = entry.work(is_small=True)
    if isinstance(work, JobSpec) and not work.resources.gpus:
        words += ["--set", "resources.gpus=1"]
    if entry.about.name in NEED_DATA:
        words += ["--set", f"{NEED_DATA[entry.about.name]}.DURE_DATA={DATA}"]
    return words


class Alliance:
    """``with Alliance(folder) as alliance``."""

    def __init__(self, folder: Path, document: dict[str, Any] | None = None) -> None:
        self._running = Running(folder, document=document)
        self._agent = AgentProcess(folder, self._running.url, self._running.tokens["agent"])
        self.operator = self._client("operator")
        self.guest = self._client("user")
        until(lambda: len([node for node in self.operator.nodes() if node.state == "up"]) == 2)

    def _client(self, who: str) -> Client:
        return Client(self._running.url, self._running.tokens[who])

    def __enter__(self) -> Alliance:
        return self

    def __exit__(self, *_: object) -> None:
        self._agent.kill()
        for client in (self.operator, self.guest):
            client.close()
        self._running.close()

    def guest_environment(self) -> dict[str, str]:
        """What a program needs that speaks to the service as the guest."""
        return {"DURE_URL": self._running.url, "DURE_TOKEN": self._running.tokens["user"]}

    def start(self, *words: str) -> subprocess.Popen[str]:
        """A command of `dure` as the guest gives it."""
        env = {**os.environ, **self.guest_environment()}
        return subprocess.Popen([sys.executable, "-m", "dure.cli.main", *words], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run_and_reclaim(self, *words: str, at_progress: int = 1, patience_s: float = 300.0) -> Reclaimed:
        """`dure blueprint run … --json`; once a job on GPUs has told of that much progress, the owner wants all GPUs."""
        began = time.monotonic()
        with self.start("blueprint", "run", *words, "--json") as command:
            try:
                until(lambda: command.poll() is not None or self._has_begun(at_progress), patience_s)
                assert command.poll() is None, self._story(command)
                free_s = self.reclaim()
                out, said = command.communicate(timeout=patience_s)
                assert command.returncode == 0, said[-3000:]
            finally:
                command.kill()
        return Reclaimed(json.loads(out), free_s, time.monotonic() - began)

    @staticmethod
    def _story(command: subprocess.Popen[str]) -> str:
        out, said = command.communicate()
        return f"it has ended already, with {command.returncode}: {out}\n{said[-3000:]}"

    def at_work(self) -> dict[str, Any]:
        """What the guest's running jobs on GPUs have told of last, by job; only those that have told of anything."""
        return {job.job_id: job.progress for job in self.guest.jobs(state="RUNNING").jobs if job.gpus and job.progress}

    def told(self) -> dict[str, Any]:
        """The same of all the guest's jobs, running or not."""
        return {job.job_id: job.progress for job in self.guest.jobs().jobs if job.progress}

    def _has_begun(self, at_progress: int) -> bool:
        return any(progress.get("step", -1) >= at_progress for progress in self.at_work().values())

    def cancel_all(self) -> None:
        """End what the guest has."""
        for job in self.guest.jobs(state=["PENDING", "ADMITTED", "RUNNING"]).jobs:
            self.guest.cancel(job.job_id)

    def reclaim(self) -> float:
        """The owner's job has all GPUs for a moment; s until it had them."""
        asked = time.monotonic()
        spec = JobSpec(project="owner/main", command=("true",), resources=Resources(gpus=GPUS), name="owner")
        job_id = self.operator.submit(spec).job_id
        until(lambda: self.operator.job(job_id).state not in ("PENDING", "ADMITTED"), 120)
        return time.monotonic() - asked

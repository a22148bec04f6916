"""A site on an engine, from the service to the nodes and back: a service, and an agent of its own process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.service.running import Running


class Site:
    """The service's site ``hall`` with an agent.

    Parameters
    ----------
    words : sequence of str
        Of the agent's command line: the engine and where it is.
    env : mapping of str
        What the agent has in its environment beside ours.
    """

    def __init__(self, folder: Path, words: Sequence[str], env: Mapping[str, str]) -> None:
        self.running = Running(folder)
        self._folder, self._words, self._env = folder, words, env
        self.start_agent()

    def start_agent(self) -> None:
        """Also after `kill_agent`: on the same state."""
        env = {**os.environ, **self._env, "DURE_URL": self.running.url, "DURE_TOKEN": self.running.tokens["agent"]}
        with (self._folder / "agent.log").open("ab") as log:
            self.agent = subprocess.Popen(
                [sys.executable, "-m", "dure.cli.main", "agent", "--site", "hall", *self._words,
                 "--data-dir", str(self._folder / "data"), "--shared-dir", str(self._folder / "shared")],
                env=env, stdout=log, stderr=log,
            )  # fmt: skip

    def kill_agent(self) -> None:
        """As a crash would."""
        self.agent.kill()
        self.agent.wait()

    def submit(self, who: str, project: str, script: str, gpus: int, **more: Any) -> str:
        """A job that runs a shell script; its id."""
        form = {"project": project, "command": ["sh", "-c", script], "resources": {"gpus": gpus}, **more}
        answer = self.running.client(who).post("/api/v1/jobs", json=form)
        assert answer.status_code == 201, answer.text
        found: str = answer.json()["job_id"]
        return found

    def job(self, job_id: str) -> dict[str, Any]:
        """As the operator sees it."""
        found: dict[str, Any] = self.running.client("operator").get(f"/api/v1/jobs/{job_id}").json()
        return found

    def until(self, job_id: str, *states: str, wait_s: float = 60) -> dict[str, Any]:
        """Wait until a job is in one of some states."""
        end = time.monotonic() + wait_s
        while (found := self.job(job_id))["state"] not in states:
            assert time.monotonic() < end, (found, (self._folder / "agent.log").read_text()[-3000:])
            time.sleep(0.1)
        return found

    def close(self) -> None:
        """The agent, then the service."""
        self.agent.terminate()
        self.agent.wait(20)
        self.running.close()

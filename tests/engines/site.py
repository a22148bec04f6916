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


def spawn_agent(folder: Path, log: str, site: str, running: Running, token: str, words: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """An agent of a site, with what it keeps in that folder; `words` are more of its command line, `env` more of what it finds."""
    env = {**os.environ, **env, "DURE_URL": running.url, "DURE_TOKEN": token}
    with (folder / f"{log}.log").open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "dure.cli.main", "agent", "--site", site, *words], env=env, stdout=file, stderr=file
        )


def submit(running: Running, who: str, project: str, script: str, gpus: int, **more: Any) -> str:
    """A job that runs a shell script; its id."""
    form = {"project": project, "command": ["sh", "-c", script], "resources": {"gpus": gpus}, **more}
    answer = running.client(who).post("/api/v1/jobs", json=form)
    assert answer.status_code == 201, answer.text
    found: str = answer.json()["job_id"]
    return found


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
        words = [*self._words, "--data-dir", str(self._folder / "data"), "--shared-dir", str(self._folder / "shared")]
        self.agent = spawn_agent(self._folder, "agent", "hall", self.running, self.running.tokens["agent"], words, self._env)

    def kill_agent(self) -> None:
        """As a crash would."""
        self.agent.kill()
        self.agent.wait()

    def submit(self, who: str, project: str, script: str, gpus: int, **more: Any) -> str:
        """A job that runs a shell script; its id."""
        return submit(self.running, who, project, script, gpus, **more)

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

    def lends_and_takes_back(self) -> None:
        """Both nodes are lent, and taken back by their owner: who leaves saves, and ends at the second attempt."""
        save = 'trap "echo saved >> $DURE_CHECKPOINT_DIR/state; exit 143" TERM; [ -s $DURE_CHECKPOINT_DIR/state ] && exit 0; while :; do sleep 0.05; done'
        lent = [self.submit("user", "guest/main", save, 8, checkpoint={"every": "10m", "grace": "20s"}) for _ in range(2)]
        for job in lent:
            self.until(job, "RUNNING")
        claim = self.submit("operator", "owner/main", "exit 0", 16)
        assert self.until(claim, "ENDED", wait_s=180)["exit_code"] == 0
        for job in lent:
            found = self.until(job, "ENDED", wait_s=120)
            assert (found["exit_code"], len(found["attempts"])) == (0, 2)

    def close(self) -> None:
        """The agent, then the service."""
        self.agent.terminate()
        self.agent.wait(20)
        self.running.close()

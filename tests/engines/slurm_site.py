"""A service, a Slurm and the agent between them."""

import os
import subprocess
import sys
import time

from tests.engines.slurm_cluster import SlurmCluster
from tests.service.running import Running


class SlurmSite:
    """A service, a Slurm of its two nodes, and the agent between them; `more` are lines for slurm.conf."""

    def __init__(self, folder, more=""):
        self.cluster = SlurmCluster(2, 8, "hall-", more)
        self.running = Running(folder)
        self._folder = folder
        self.start_agent()

    def start_agent(self):
        env = {**os.environ, **self.cluster.env, "DURE_URL": self.running.url, "DURE_TOKEN": self.running.tokens["agent"]}
        with (self._folder / "agent.log").open("ab") as log:
            self.agent = subprocess.Popen(
                [sys.executable, "-m", "dure.cli.main", "agent", "--site", "hall", "--executor", "slurm", "--partition", "gpu",
                 "--data-dir", str(self._folder / "data"), "--shared-dir", str(self._folder / "shared")],
                env=env, stdout=log, stderr=log,
            )  # fmt: skip

    def kill_agent(self):
        self.agent.kill()
        self.agent.wait()

    def submit(self, who, project, script, gpus, **more):
        form = {"project": project, "command": ["sh", "-c", script], "resources": {"gpus": gpus}, **more}
        answer = self.running.client(who).post("/api/v1/jobs", json=form)
        assert answer.status_code == 201, answer.text
        return answer.json()["job_id"]

    def job(self, job_id):
        return self.running.client("operator").get(f"/api/v1/jobs/{job_id}").json()

    def until(self, job_id, *states, wait_s=60):
        end = time.monotonic() + wait_s
        while (found := self.job(job_id))["state"] not in states:
            assert time.monotonic() < end, (found, (self._folder / "agent.log").read_text()[-3000:])
            time.sleep(0.1)
        return found

    def close(self):
        self.agent.terminate()
        self.agent.wait(20)
        self.running.close()
        self.cluster.close()

"""Submit to finish of many short jobs on a large Slurm: Slurm's own sbatch beside Dure on the same cluster, side by side.

    python benchmarks/live/slurm.py [--nodes 64 256] [--jobs 1000] [--seconds 0] [--gpus 1] [--rounds 3] [--ways "one by one" dure …]

Each node has 8 stand-in GPUs; all daemons run on this machine. A job sleeps so many seconds (0: `/bin/true`) on
so many GPUs of a node. The ways: `one by one` (sbatch for each, four at
a time), `array` (as few sbatch as arrays allow), `dure` (one batch to the service, whose agent hands the jobs to Slurm by its commands) and
`dure rest` (by slurmrestd). They take turns in each round, and each time runs from the first request until all ends are known to the asker. Dure
alone chooses the node of each job, keeps a log of every decision, each job's output and a usage record; Slurm runs without its accounting
database. Prints a JSON line for each way, with its median and its share of the faster of Slurm's own; what is not installed is named and left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from load import service

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.engines.slurm_cluster import SlurmCluster, SlurmRestd, is_installed

GPUS = 8
#: Slurm has arrays of at most so many tasks by default; so many sbatch run at once, as many as Dure's agent runs.
ARRAY_MAX, SBATCH_AT_ONCE = 1_000, 4
#: The list of jobs must not grow without end from round to round.
CONF = "MaxJobCount=100000\n"
ASKED = ("--output=/dev/null", "--no-requeue", "--chdir=/")
LIVE = ("PENDING", "ADMITTED", "RUNNING", "COMPLETING", "SUSPENDED")

ALLIANCE = """
name: Bench
start: 2026-01-01
gpu_types:
  - {{name: h100, speed_milli: 1000, idle_w: 280, busy_w: 1275, sleep_w: 40, mem_gib: 80}}
members:
  - {{name: owner, kind: public}}
sites:
  - name: hall
    clusters:
      - {{name: hall, owner: owner, gpu_type: h100, gpus: {gpus}, gpus_per_node: 8, nodes_per_rack: 8}}
"""


class Plain:
    """Slurm's own commands."""

    def __init__(self, cluster: SlurmCluster, command: Sequence[str], gpus: int) -> None:
        self._cluster = cluster
        self._asked = (f"--gres=gpu:{gpus}", f"--cpus-per-task={8 * gpus}", f"--mem={60_000 * gpus}", *ASKED)
        self._script = cluster.folder / "job.sh"
        self._script.write_text(f"#!/bin/sh\nexec {' '.join(command)}\n")

    def _sbatch(self, *more: str) -> None:
        self._cluster.run("sbatch", *self._asked, *more, str(self._script))

    def one_by_one(self, jobs: int) -> float:
        """Seconds."""
        began = time.perf_counter()
        with ThreadPoolExecutor(SBATCH_AT_ONCE) as pool:
            list(pool.map(lambda _: self._sbatch(), range(jobs)))
        return self._until_idle(began)

    def array(self, jobs: int) -> float:
        """Seconds."""
        began = time.perf_counter()
        for first in range(0, jobs, ARRAY_MAX):
            self._sbatch(f"--array=0-{min(ARRAY_MAX, jobs - first) - 1}")
        return self._until_idle(began)

    def _until_idle(self, began: float) -> float:
        while True:
            # A controller that is too busy to answer has something to do.
            found = self._cluster.run("squeue", "-h", "-o", "%i", check=False)
            if found.returncode == 0 and not found.stdout.strip():
                break
            time.sleep(0.2)
        return time.perf_counter() - began


class ThroughDure:
    """The service, and its agent on the cluster: that runs only while it is this way's turn, as it minds what others have there."""

    def __init__(
        self, client: httpx.Client, folder: Path, cluster: SlurmCluster, url: str, words: Sequence[str], command: Sequence[str],
        gpus: int,
    ) -> None:  # fmt: skip
        self._client, self._folder = client, folder
        self._project = client.get("/projects").json()[0]["name"]
        form = {"user": "agent", "role": "agent", "site": "hall"}
        token = client.post("/tokens", json=form).raise_for_status().json()["token"]
        self._env = {**os.environ, **cluster.env, "DURE_URL": url, "DURE_TOKEN": token}
        self._words, self._command, self._gpus = words, command, gpus

    def batch(self, jobs: int) -> float:
        """Seconds, once the agent is up."""
        with (self._folder / "agent.log").open("ab") as log:
            agent = subprocess.Popen(
                [sys.executable, "-m", "dure.cli.main", "agent", "--site", "hall", "--executor", "slurm", "--partition", "gpu",
                 "--data-dir", str(self._folder / "agent"), "--shared-dir", str(self._folder / "shared"), *self._words],
                env=self._env, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            self._batch(20)
            return self._batch(jobs)
        finally:
            agent.send_signal(signal.SIGTERM)
            agent.wait(60)

    def _batch(self, jobs: int) -> float:
        job = {"project": self._project, "command": list(self._command), "resources": {"gpus": self._gpus}}
        began = time.perf_counter()
        ids = set(self._client.post("/jobs/batch", json={"jobs": [job] * jobs}).raise_for_status().json()["job_ids"])
        while self._client.get("/jobs", params={"state": LIVE, "limit": 1}).json()["jobs"]:
            time.sleep(0.2)
        took = time.perf_counter() - began
        found, cursor = [], ""
        while cursor is not None and len(found) < jobs:
            page = self._client.get("/jobs", params={"limit": 1000, **({"after": cursor} if cursor else {})}).json()
            found += [row for row in page["jobs"] if row["job_id"] in ids]
            cursor = page["next"]
        assert len(found) == jobs
        assert {(row["outcome"], row["attempt"]) for row in found} == {("succeeded", 1)}
        return took


@contextlib.contextmanager
def through_dure(folder: Path, cluster: SlurmCluster, command: Sequence[str], gpus: int, *words: str) -> Iterator[ThroughDure]:
    """A fresh service for the cluster."""
    folder.mkdir()
    alliance = folder / "alliance.yaml"
    alliance.write_text(ALLIANCE.format(gpus=GPUS * len(cluster.names)))
    with (
        service(folder, alliance=alliance) as (url, token, _),
        httpx.Client(base_url=f"{url}/api/v1", headers={"Authorization": f"Bearer {token}"}, timeout=120) as client,
    ):
        yield ThroughDure(client, folder, cluster, url, words, command, gpus)


def measure(num_nodes: int, jobs: int, seconds: int, gpus: int, rounds: int, wanted: Sequence[str]) -> None:
    """One cluster, each way in turn."""
    command = ["/bin/sleep", str(seconds)] if seconds else ["/bin/true"]
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        cluster = SlurmCluster(num_nodes, GPUS, "hall-", CONF)
        stack.callback(cluster.close)
        plain = Plain(cluster, command, gpus)
        ways: dict[str, Callable[[int], float]] = {"one by one": plain.one_by_one, "array": plain.array}
        ways["dure"] = stack.enter_context(through_dure(Path(name) / "dure", cluster, command, gpus)).batch
        if SlurmRestd.is_installed():
            restd = SlurmRestd(cluster)
            stack.callback(restd.close)
            ways["dure rest"] = stack.enter_context(through_dure(Path(name) / "rest", cluster, command, gpus, "--slurmrestd", restd.address)).batch
        ways = {way: run for way, run in ways.items() if way in wanted}
        plain.array(20)
        took: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, run in ways.items():
                took[way].append(run(jobs))
        speeds = {way: jobs / statistics.median(found) for way, found in took.items()}
        best = max((speed for way, speed in speeds.items() if not way.startswith("dure")), default=float("nan"))
        for way, speed in speeds.items():
            row = {"nodes": num_nodes, "gpus": GPUS * num_nodes, "jobs": jobs, "job_s": seconds, "job_gpus": gpus, "way": way, "jobs_per_s": round(speed, 1)}
            print(json.dumps({**row, "of_slurms_best": round(speed / best, 3), "seconds": [round(t, 1) for t in took[way]]}), flush=True)


def main() -> None:
    """Each size in turn."""
    parser = argparse.ArgumentParser(description="Slurm's own sbatch beside Dure on the same cluster.")
    parser.add_argument("--nodes", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--jobs", type=int, default=1_000)
    parser.add_argument("--seconds", type=int, default=0)
    parser.add_argument("--gpus", type=int, choices=range(1, GPUS + 1), default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", default=["one by one", "array", "dure", "dure rest"])
    given = parser.parse_args()
    if not is_installed():
        print(json.dumps({"skipped": "Slurm is not installed (Debian: apt-get install slurm-wlm)"}))
        return
    for num_nodes in given.nodes:
        measure(num_nodes, given.jobs, given.seconds, given.gpus, given.rounds, given.ways)


if __name__ == "__main__":
    main()

"""Submit to finish of many short jobs: Dure beside HyperQueue, Slurm and Ray, one after the other on the same machine.

    python benchmarks/live/peers.py [--jobs 10000] [--rounds 1] [dure hyperqueue slurm ray]

A job is `/bin/true` as a process of its own; each system has the same number of slots, and is asked for all jobs at once in the form that is
fastest for it: Dure one batch, HyperQueue one job of many tasks, Slurm arrays, Ray tasks that start a process. Time runs from the first
request until all ends are known to the asker. Dure alone keeps a log of every decision, each job's output and a usage record; Slurm runs without its
accounting database. Prints a JSON line for each; what is not installed is named and left out. HyperQueue and Ray are in an environment of their own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
from load import service

SLOTS = 16
PEERS_PYTHON = Path(__file__).parents[2] / ".venv-peers" / "bin" / "python"
#: Slurm has arrays of at most so many tasks.
ARRAY_MAX = 5_000


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- Dure


def dure(jobs: int) -> float:
    """Seconds."""
    with (
        tempfile.TemporaryDirectory() as name,
        service(Path(name), SLOTS) as (url, token, _),
        httpx.Client(base_url=f"{url}/api/v1", headers={"Authorization": f"Bearer {token}"}, timeout=120) as client,
    ):
        project = client.get("/members").json()[0]["name"] + "/main"
        _dure_round(client, project, 20)
        return _dure_round(client, project, jobs)


def _dure_round(client: httpx.Client, project: str, jobs: int) -> float:
    job = {"project": project, "command": ["/bin/true"], "resources": {"gpus": 1, "sites": ["this-machine"]}}
    began = time.perf_counter()
    ids = set(client.post("/jobs/batch", json={"jobs": [job] * jobs}).raise_for_status().json()["job_ids"])
    while True:
        page = client.get("/jobs", params={"state": ["PENDING", "ADMITTED", "RUNNING", "COMPLETING", "SUSPENDED"], "limit": 1}).json()
        if not page["jobs"]:
            break
        time.sleep(0.05)
    took = time.perf_counter() - began
    found: list[dict[str, str]] = []
    cursor = ""
    while len(found) < jobs:
        page = client.get("/jobs", params={"limit": 1000, **({"after": cursor} if cursor else {})}).json()
        found += [row for row in page["jobs"] if row["job_id"] in ids]
        cursor = page["next"]
        if not cursor:
            break
    assert len(found) == jobs
    assert {row["outcome"] for row in found} == {"succeeded"}
    return took


# --- HyperQueue and Ray, each in a process of their environment

_HYPERQUEUE = """
import sys, time
from hyperqueue import Job
from hyperqueue.cluster import LocalCluster, WorkerConfig
jobs, slots = int(sys.argv[1]), int(sys.argv[2])
with LocalCluster() as cluster:
    cluster.start_worker(WorkerConfig(cores=slots))
    client = cluster.client()
    def round(number):
        job = Job()
        for _ in range(number):
            job.program(["/bin/true"], stdout=None, stderr=None)
        began = time.perf_counter()
        client.wait_for_jobs([client.submit(job)])
        return time.perf_counter() - began
    round(20)
    print("took", round(jobs), flush=True)
"""

_RAY = """
import subprocess, sys, time, ray
jobs, slots = int(sys.argv[1]), int(sys.argv[2])
ray.init(num_cpus=slots, include_dashboard=False, log_to_driver=False)
@ray.remote(num_cpus=1)
def one():
    return subprocess.run(["/bin/true"]).returncode
assert ray.get([one.remote() for _ in range(4 * slots)]) == [0] * (4 * slots)
began = time.perf_counter()
assert not any(ray.get([one.remote() for _ in range(jobs)]))
print("took", time.perf_counter() - began, flush=True)
"""


def _in_peers(script: str, jobs: int) -> float | None:
    if not PEERS_PYTHON.exists():
        return None
    with tempfile.TemporaryDirectory() as name:
        env = {"RAY_TMPDIR": name, "RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}
        found = subprocess.run([PEERS_PYTHON, "-c", script, str(jobs), str(SLOTS)], capture_output=True, text=True, timeout=1800, cwd=name,
                               env={**os.environ, **env}, check=False)  # fmt: skip
    took = [line.split()[1] for line in found.stdout.splitlines() if line.startswith("took ")]
    if not took:
        raise RuntimeError(found.stderr[-2000:])
    return float(took[0])


def hyperqueue(jobs: int) -> float | None:
    """Seconds; None: not installed."""
    return _in_peers(_HYPERQUEUE, jobs)


def ray(jobs: int) -> float | None:
    """Seconds; None: not installed."""
    return _in_peers(_RAY, jobs)


# --- Slurm


@contextlib.contextmanager
def _slurm_cluster(folder: Path) -> Iterator[dict[str, str]]:
    """A controller and one node with SLOTS CPUs; the environment for its commands."""
    host = socket.gethostname()
    for name in ("state", "spool"):
        (folder / name).mkdir()
    conf = folder / "slurm.conf"
    conf.write_text("\n".join([
        "ClusterName=bench", f"SlurmctldHost={host}(127.0.0.1)", "SlurmUser=root", "SlurmdUser=root", f"SlurmctldPort={free_port()}",
        "AuthType=auth/none", "CredType=cred/none", "ProctrackType=proctrack/linuxproc", "TaskPlugin=task/none", "MpiDefault=none",
        "JobAcctGatherType=jobacct_gather/none", "SelectType=select/cons_tres", "SelectTypeParameters=CR_Core", "ReturnToService=2",
        "SlurmdParameters=config_overrides", "MinJobAge=3600", "MaxJobCount=100000", f"MaxArraySize={ARRAY_MAX + 1}",
        "SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1",
        f"StateSaveLocation={folder / 'state'}", f"SlurmdSpoolDir={folder / 'spool'}", f"SlurmctldPidFile={folder / 'ctld.pid'}",
        f"SlurmdPidFile={folder / 'd.pid'}", f"SlurmctldLogFile={folder / 'ctld.log'}", f"SlurmdLogFile={folder / 'd.log'}",
        f"NodeName=n0 NodeHostname={host} NodeAddr=127.0.0.1 Port={free_port()} CPUs={SLOTS} RealMemory=16000 State=UNKNOWN",
        "PartitionName=p Nodes=n0 Default=YES MaxTime=INFINITE State=UP",
    ]) + "\n")  # fmt: skip
    env = {**os.environ, "SLURM_CONF": str(conf)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": env}
    processes = [subprocess.Popen(["slurmctld", "-D", "-c", "-i"], **quiet)]  # type: ignore[call-overload]
    try:
        time.sleep(2)
        processes.append(subprocess.Popen(["slurmd", "-D", "-N", "n0"], **quiet))  # type: ignore[call-overload]
        end = time.monotonic() + 60
        while "idle" not in subprocess.run(["sinfo", "-h", "-o", "%T"], env=env, capture_output=True, text=True, check=False).stdout:
            if time.monotonic() > end:
                raise RuntimeError("the Slurm node does not come up: " + (folder / "d.log").read_text()[-1000:])
            time.sleep(0.2)
        yield env
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(60)


def slurm(jobs: int) -> float | None:
    """Seconds; None: not installed."""
    if shutil.which("slurmctld") is None:
        return None
    with tempfile.TemporaryDirectory() as name, _slurm_cluster(Path(name)) as env:
        script = Path(name) / "job.sh"
        script.write_text("#!/bin/sh\nexec /bin/true\n")

        def round_of(number: int) -> float:
            began = time.perf_counter()
            left = number
            while left:
                tasks = min(left, ARRAY_MAX)
                subprocess.run(["sbatch", "-o", "/dev/null", f"--array=1-{tasks}", str(script)], env=env, check=True, capture_output=True)
                left -= tasks
            while subprocess.run(["squeue", "-h", "-o", "%i"], env=env, check=True, capture_output=True).stdout.strip():
                time.sleep(0.2)
            return time.perf_counter() - began

        round_of(20)
        took = round_of(jobs)
        states = subprocess.run(["squeue", "-h", "-r", "-t", "all", "-o", "%T"], env=env, check=True, capture_output=True, text=True)
        assert states.stdout.split().count("COMPLETED") >= jobs
        return took


RUNNERS = {"dure": dure, "hyperqueue": hyperqueue, "slurm": slurm, "ray": ray}


def main() -> None:
    """Run what is asked for, in turn."""
    parser = argparse.ArgumentParser(description="Submit to finish of many short jobs.")
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("systems", nargs="*", default=list(RUNNERS))
    given = parser.parse_args()
    for system in given.systems:
        took = [RUNNERS[system](given.jobs) for _ in range(given.rounds)]
        known = sorted(t for t in took if t is not None)
        row = {"jobs": given.jobs, "slots": SLOTS}
        if known:
            middle = known[len(known) // 2]
            row |= {"seconds": round(middle, 2), "jobs_per_s": round(given.jobs / middle, 1), "rounds": len(known)}
        else:
            row |= {"skipped": "not installed"}
        print(json.dumps({"system": system, **row}), flush=True)


if __name__ == "__main__":
    main()

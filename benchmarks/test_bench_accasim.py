"""AccaSim 1.1.3 (MIT) and Dure's replay on the same jobs, sizes and policy: jobs per CPU-second of each.

AccaSim runs in an environment of its own that `make bench` makes from requirements-accasim.txt. First come first served
is the same in both but for which of two equally full nodes is taken; the mean waits say how nearly. AccaSim's EASY
backfill is given the true lengths but reserves no nodes for the blocked job, Dure's predicts lengths: that row
compares speed alone.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from dure.model.fleet import uniform_fleet
from dure.policy.config import named_policy
from dure.twin.replay import replay
from dure.twin.traces import load_trace

PYTHON = Path(__file__).parents[1] / ".venv-accasim" / "bin" / "python"
NUM_JOBS, ROUNDS = 20_000, 5
SCHEDULERS = {"fifo": "FIFO", "easy": "EBF"}


def write_log(path, gpus, load):
    """A log of jobs of 1 to 64 GPUs whose GPU time is `load` of the system's between first and last arrival."""
    rng = np.random.Generator(np.random.Philox(key=7))
    size = 1 << rng.choice(7, NUM_JOBS, p=[0.5, 0.1, 0.1, 0.2, 0.05, 0.03, 0.02])
    run_s = rng.lognormal(8, 1.2, NUM_JOBS).astype(np.int64) + 60
    span_s = (size * run_s).sum() / (load * gpus)
    at_s = np.sort((rng.random(NUM_JOBS) * span_s).astype(np.int64)) + 1
    rows = [
        f"{i} {at} -1 {run} {n} -1 -1 {n} {run} -1 1 1 1 1 1 -1 -1 -1\n"
        for i, (at, run, n) in enumerate(zip(at_s, run_s, size, strict=True), 1)
    ]
    path.write_text("; Version: 2.2\n" + "".join(rows), encoding="utf-8")


def ours(log, gpus, policy):
    """(CPU-s of the replay, with building its state, with reading the log too, mean wait in s): medians."""
    fleet, chosen = uniform_fleet(gpus, 8), named_policy(policy)
    took = []
    for _ in range(ROUNDS):
        start = time.process_time()
        trace = load_trace(log)
        read = time.process_time()
        result = replay(trace, fleet, chosen)
        took.append((result.cpu_s, time.process_time() - read, time.process_time() - start))
    wait_s = (result.jobs["first_start_ms"] - trace.jobs["submit_ms"]).mean() / 1000
    return *(statistics.median(column) for column in zip(*took, strict=True)), float(wait_s)


@pytest.mark.parametrize(
    ("policy", "load", "gpus"),
    [("fifo", load, gpus) for load in (0.9, 1.1) for gpus in (1024, 4096, 8192)]
    + [("easy", 1.1, 4096)],
)
def test_accasim(benchmark, once, tmp_path, policy, load, gpus):
    """The seconds are AccaSim's wall time with its start."""
    if not PYTHON.exists():
        pytest.skip("AccaSim is not installed; `make bench` installs it from benchmarks/requirements-accasim.txt")
    log = tmp_path / "log.swf"
    write_log(log, gpus, load)
    replay_s, built_s, read_s, wait_s = ours(log, gpus, policy)
    script = Path(__file__).with_name("accasim_replay.py")
    command = [PYTHON, script, log, SCHEDULERS[policy], str(gpus)]
    done = once(lambda: subprocess.run(command, capture_output=True, text=True, check=True))
    theirs = json.loads(done.stdout.splitlines()[-1])
    benchmark.extra_info.update(
        peer="AccaSim", policy=policy, load=load, jobs=NUM_JOBS, gpus=gpus,
        jobs_per_cpu_s=round(NUM_JOBS / replay_s), peers_jobs_per_cpu_s=round(NUM_JOBS / theirs["cpu_s"]),
        times=round(theirs["cpu_s"] / replay_s), times_built=round(theirs["cpu_s"] / built_s),
        times_read=round(theirs["cpu_s"] / read_s), wait_s=round(wait_s, 1), peers_wait_s=round(theirs["wait_mean_s"], 1),
    )  # fmt: skip
    assert theirs["jobs"] == NUM_JOBS
    if policy == "fifo":
        assert wait_s == pytest.approx(theirs["wait_mean_s"], rel=0.1, abs=1)

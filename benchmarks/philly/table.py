"""Philly whole and per virtual cluster at three loads: Dure's default beside first come, fair share and least attained service.

``python benchmarks/philly/table.py`` prints the table of docs/validation.md. No policy here knows a job's length.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dure.model.fleet import uniform_fleet
from dure.model.jobs import Trace
from dure.policy.config import named_policy
from dure.twin.data import data_dir
from dure.twin.replay import replay
from dure.twin.traces import capacity_for_load, load_trace, select_members
from dure.twin.traces.shape import with_checkpoints

POLICIES = ("fifo", "fair", "las", "dure")
LOADS = (0.7, 0.85, 0.95)


def waits(trace: Trace, gpus: int) -> list[tuple[float, float, int]]:
    """Mean and p99 of the waiting time in hours and the number of preemptions, under each policy."""
    cells = []
    for policy in POLICIES:
        result = replay(trace, uniform_fleet(gpus, 8), named_policy(policy))
        wait_h = result.jobs["wait_ms"] / 3.6e6
        cells.append((float(wait_h.mean()), float(np.percentile(wait_h, 99)), result.counters.num_preemptions))
    return cells


def size_for(trace: Trace, load: float) -> int:
    """GPUs, in nodes of eight, on which the trace is so much load."""
    return -(-max(capacity_for_load(trace, load), int(trace.jobs["num_gpus"].max())) // 8) * 8


def as_one_member(trace: Trace) -> Trace:
    """All virtual clusters' jobs in one queue."""
    jobs = trace.jobs.copy()
    jobs["member"] = 0
    return replace(trace, jobs=jobs, members=["all"])


def print_whole(whole: Trace) -> None:
    """One cluster for everybody."""
    one = with_checkpoints(as_one_member(whole), 600_000)
    print("| load | GPUs | " + " | ".join(POLICIES) + " | preemptions las / dure |")
    print("|---|--:|" + "--:|" * (len(POLICIES) + 1))
    for load in LOADS:
        gpus = size_for(one, load)
        cells = waits(one, gpus)
        shown = " | ".join(f"{mean:.2f} / {p99:.1f}" for mean, p99, _ in cells)
        print(f"| {load:.0%} | {gpus} | {shown} | {cells[2][2]:,} / {cells[3][2]:,} |")
    print()


def main() -> None:
    """Print both tables."""
    data = data_dir()
    if data is None:
        raise SystemExit("the recorded traces are not here (DURE_DATA)")
    whole = load_trace(data / "philly_2017" / "philly.csv.gz")
    print_whole(whole)
    print("| load | cluster | jobs | GPUs | " + " | ".join(POLICIES) + " |")
    print("|---|---|--:|--:|" + "--:|" * len(POLICIES))
    best_mean = best_p99 = rows = 0
    for load in LOADS:
        for name in sorted(whole.members):
            trace = with_checkpoints(select_members(whole, [name]), 600_000)
            if len(trace.jobs) < 100:
                continue
            gpus = size_for(trace, load)
            cells = waits(trace, gpus)
            rows += 1
            best_mean += cells[-1][0] <= min(c[0] for c in cells[:-1])
            best_p99 += cells[-1][1] <= min(c[1] for c in cells[:-1])
            shown = " | ".join(f"{mean:.2f} / {p99:.0f}" for mean, p99, _ in cells)
            print(f"| {load:.0%} | {name} | {len(trace.jobs):,} | {gpus} | {shown} |")
    print(f"\nOf {rows} rows Dure's mean is the best in {best_mean}, its p99 in {best_p99}.")


if __name__ == "__main__":
    main()

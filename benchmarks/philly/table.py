"""Philly per virtual cluster at three loads: Dure's default beside first come, fair share and least attained service.

``python benchmarks/philly/table.py`` prints the table of docs/validation.md. No policy here knows a job's length.
"""

from __future__ import annotations

import numpy as np

from dure.model.fleet import uniform_fleet
from dure.policy.config import named_policy
from dure.twin.data import data_dir
from dure.twin.replay import replay
from dure.twin.traces import capacity_for_load, load_trace, select_members
from dure.twin.traces.shape import with_checkpoints

POLICIES = ("fifo", "fair", "las", "dure")


def main() -> None:
    """Print one row a virtual cluster and load: mean and p99 of the waiting time in hours, under each policy."""
    data = data_dir()
    if data is None:
        raise SystemExit("the recorded traces are not here (DURE_DATA)")
    whole = load_trace(data / "philly_2017" / "philly.csv.gz")
    print("| load | cluster | jobs | GPUs | " + " | ".join(POLICIES) + " |")
    print("|---|---|--:|--:|" + "--:|" * len(POLICIES))
    best_mean = best_p99 = rows = 0
    for load in (0.7, 0.85, 0.95):
        for name in sorted(whole.members):
            trace = with_checkpoints(select_members(whole, [name]), 600_000)
            if len(trace.jobs) < 100:
                continue
            need = max(capacity_for_load(trace, load), int(trace.jobs["num_gpus"].max()))
            gpus = -(-need // 8) * 8
            cells = []
            for policy in POLICIES:
                wait_h = replay(trace, uniform_fleet(gpus, 8), named_policy(policy)).jobs["wait_ms"] / 3.6e6
                cells.append((float(wait_h.mean()), float(np.percentile(wait_h, 99))))
            rows += 1
            best_mean += cells[-1][0] <= min(c[0] for c in cells[:-1])
            best_p99 += cells[-1][1] <= min(c[1] for c in cells[:-1])
            shown = " | ".join(f"{mean:.2f} / {p99:.0f}" for mean, p99 in cells)
            print(f"| {load:.0%} | {name} | {len(trace.jobs):,} | {gpus} | {shown} |")
    print(f"\nOf {rows} rows Dure's mean is the best in {best_mean}, its p99 in {best_p99}.")


if __name__ == "__main__":
    main()

"""Runs the placement benchmark and writes results.json and tables.md (for docs/parts/openb.md) beside this file.

Policies named on the command line are run again alone; the other rows of results.json are kept. FGD and Dure also run
on `FRESH_SEEDS`, on which nothing was ever chosen.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
import time
from pathlib import Path

import numba
import numpy as np

from dure.twin.data import data_dir
from dure.twin.openb import (
    DURE,
    POLICIES,
    WORKLOADS,
    read_pool,
    read_workload,
    reference_results,
    run_placement,
)
from dure.twin.placement_bound import allocation_bound

SEEDS = range(42, 52)
FRESH_SEEDS = range(62, 72)
FRESH_POLICIES = ("fgd", DURE)
ALL = (*POLICIES, DURE)
COLUMNS = ("random", "dotprod", "gpuclustering", "gpupacking", "bestfit", "fgd")


def mean_of(rows: list[dict], workload: str, policy: str, field: str, seeds: range = SEEDS) -> float:
    """Mean of a field over the seeds."""
    return float(
        np.mean([r[field] for r in rows if (r["workload"], r["policy"]) == (workload, policy) and r["seed"] in seeds])
    )


def table(rows: list[dict], bounds: dict[str, float], reference: dict[tuple[str, str], float], field: str) -> str:
    """Ours / theirs, means over the seeds."""
    lines = ["| workload | " + " | ".join(COLUMNS) + " | **dure** | bound |", "|---" * (len(COLUMNS) + 3) + "|"]
    for name in WORKLOADS:
        cells = [f"{mean_of(rows, name, p, field):.2f} / {reference[name, p]:.2f}" for p in COLUMNS]
        bound = f"{bounds[name]:.2f}" if field == "allocated_pct" else ""
        lines.append(
            f"| {name} | " + " | ".join(cells) + f" | **{mean_of(rows, name, 'dure', field):.2f}** | {bound} |"
        )
    return "\n".join(lines)


def fresh_table(rows: list[dict]) -> str:
    """FGD and Dure on fresh seeds: means, the least gain of a run and how many runs gain."""
    lines = ["| workload | fgd | dure | gain | least gain | runs that gain |", "|---|--:|--:|--:|--:|--:|"]
    for name in WORKLOADS:
        fgd, dure = (
            np.array([mean_of(rows, name, p, "allocated_pct", range(s, s + 1)) for s in FRESH_SEEDS])
            for p in FRESH_POLICIES
        )
        gains = dure - fgd
        lines.append(
            f"| {name} | {fgd.mean():.2f} | {dure.mean():.2f} | {gains.mean():+.2f} | {gains.min():+.2f} "
            f"| {(gains > 0).sum()} of {len(gains)} |"
        )
    return "\n".join(lines)


def main() -> None:
    data = data_dir()
    if data is None:
        sys.exit("no data: set DURE_DATA")
    here = Path(__file__).resolve().parent
    file = here / "results.json"
    pool = read_pool(data)
    started = time.perf_counter()
    chosen = sys.argv[1:] or list(ALL)
    found = [vars(row) for name in WORKLOADS for row in run_placement(data, name, chosen, SEEDS)]
    again = [policy for policy in FRESH_POLICIES if policy in chosen]
    found += [vars(row) for name in WORKLOADS for row in run_placement(data, name, again, FRESH_SEEDS)]
    before = json.loads(file.read_text(encoding="utf-8")) if sys.argv[1:] else {"rows": [], "seconds": {}}
    kept = [row for row in before["rows"] if row["policy"] not in chosen]
    rows = sorted(
        kept + found,
        key=lambda r: (WORKLOADS.index(r["workload"]), ALL.index(r["policy"]), r["seed"]),
    )
    seconds = time.perf_counter() - started
    bounds = {
        name: float(np.mean([allocation_bound(pool, read_workload(data, name, pool), seed) for seed in SEEDS]))
        for name in WORKLOADS
    }
    result = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "numba": numba.__version__,
            "numpy": np.__version__,
            "system": platform.system(),
            "architecture": platform.machine(),
        },
        "seconds": {**before["seconds"], " ".join(chosen): round(seconds, 1)},
        "bound_mean_pct": bounds,
        "rows": rows,
    }
    file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    tables = table(rows, bounds, reference_results(data, "allo"), "allocated_pct")
    fragments = table(rows, bounds, reference_results(data, "frag"), "fragmented_pct")
    (here / "tables.md").write_text(f"{tables}\n\n{fragments}\n\n{fresh_table(rows)}\n", encoding="utf-8")


if __name__ == "__main__":
    main()

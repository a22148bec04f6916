"""Runs the placement benchmark and writes results.json and tables.md (for docs/parts/openb.md) beside this file.

Policies named on the command line are run again alone; the other rows of results.json are kept.
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
    POLICIES,
    WORKLOADS,
    read_pool,
    read_workload,
    reference_results,
    run_placement,
)
from dure.twin.placement_bound import allocation_bound

SEEDS = range(42, 52)
COLUMNS = ("random", "dotprod", "gpuclustering", "gpupacking", "bestfit", "fgd")


def table(rows: list[dict], bounds: dict[str, float], reference: dict[tuple[str, str], float], field: str) -> str:
    """Ours / theirs, means over the seeds."""
    lines = ["| workload | " + " | ".join(COLUMNS) + " | **dure** | bound |", "|---" * (len(COLUMNS) + 3) + "|"]
    for name in WORKLOADS:
        mean = {
            p: float(np.mean([r[field] for r in rows if (r["workload"], r["policy"]) == (name, p)])) for p in POLICIES
        }
        cells = [f"{mean[p]:.2f} / {reference[name, p]:.2f}" for p in COLUMNS]
        bound = f"{bounds[name]:.2f}" if field == "allocated_pct" else ""
        lines.append(f"| {name} | " + " | ".join(cells) + f" | **{mean['dure']:.2f}** | {bound} |")
    return "\n".join(lines)


def main() -> None:
    data = data_dir()
    if data is None:
        sys.exit("no data: set DURE_DATA")
    here = Path(__file__).resolve().parent
    file = here / "results.json"
    pool = read_pool(data)
    started = time.perf_counter()
    chosen = sys.argv[1:] or list(POLICIES)
    fresh = [vars(row) for name in WORKLOADS for row in run_placement(data, name, chosen, SEEDS)]
    before = json.loads(file.read_text(encoding="utf-8")) if sys.argv[1:] else {"rows": [], "seconds": {}}
    kept = [row for row in before["rows"] if row["policy"] not in chosen]
    rows = sorted(kept + fresh, key=lambda r: (WORKLOADS.index(r["workload"]), list(POLICIES).index(r["policy"])))
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
    (here / "tables.md").write_text(f"{tables}\n\n{fragments}\n", encoding="utf-8")


if __name__ == "__main__":
    main()

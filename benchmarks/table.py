"""latest.json, as pytest-benchmark leaves it, as the tables of results.md beside it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
#: Keys of `extra_info` in the tables' order; the rest (digests) stays in the file.
KEYS = (
    "jobs", "gpus", "nodes", "queue_jobs_max", "shapes_waiting", "preemptions", "us_per_job", "ns_per_event",
    "peak_rss_mb", "gpus_vacated", "decisions",
)  # fmt: skip
ACCASIM_KEYS = (
    "policy", "load", "jobs", "gpus", "jobs_per_cpu_s", "peers_jobs_per_cpu_s", "times", "times_built", "times_read",
    "wait_s", "peers_wait_s",
)  # fmt: skip
KUEUE_KEYS = ("jobs", "nodes", "cpu_s", "makespan_s", "least_makespan_s", "preemptions", "peers_wall_s")
#: Curves in which one column alone varies.
CURVES = {"test_queue_length": "queue_jobs_max", "test_fleet_size": "nodes", "test_shapes": "shapes_waiting"}


def cell(value: Any) -> str:
    """A value of a table; numbers with separators."""
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table whose first column is text."""
    lines = [f"| {' | '.join(head)} |", "|---|" + "--:|" * (len(head) - 1)]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def bench_rows(benches: list[dict[str, Any]], keys: tuple[str, ...]) -> list[str]:
    """One row a benchmark: its name, its seconds, and the keys that any of them has."""
    used = [key for key in keys if any(key in bench["extra_info"] for bench in benches)]
    rows = [
        [bench["name"], f"{bench['stats']['mean']:.4f}", *(cell(bench["extra_info"].get(key, "")) for key in used)]
        for bench in benches
    ]
    return table(["benchmark", "seconds", *used], rows)


def growth(benches: list[dict[str, Any]]) -> list[str]:
    """What a curve's cost per job grows by from its least to its greatest, beside the logarithm's growth."""
    rows = []
    for name, key in CURVES.items():
        points = sorted((b["extra_info"][key], b["extra_info"]["us_per_job"]) for b in benches if b["name"].startswith(name))
        if points:
            (low, first), (high, last) = points[0], points[-1]
            rows.append(
                [name, key, f"{low:,} to {high:,}", f"{last / first:.2f}", f"{math.log(high) / math.log(low):.2f}"]
            )
    return table(["curve", "varies", "from, to", "us_per_job times", "logarithm times"], rows)


def admissions(benches: list[dict[str, Any]]) -> list[str]:
    """Mean time to admission of each class in Kueue's settings, in ms, ours and theirs."""
    rows = []
    for bench in benches:
        theirs = bench["extra_info"]["peers_admission_ms"]
        for name, ours in bench["extra_info"]["admission_ms"].items():
            rows.append([bench["name"], name, cell(ours), cell(theirs.get(name, "not published"))])
    return table(["benchmark", "class", "admission_ms", "peers_admission_ms"], rows)


def main() -> None:
    """Write results.md."""
    found = json.loads((HERE / "latest.json").read_text(encoding="utf-8"))
    machine = found["machine_info"]
    cpu = machine.get("cpu", {})
    benches = found["benchmarks"]
    accasim = [b for b in benches if b["name"].startswith("test_accasim")]
    kueue = [b for b in benches if b["name"].startswith("test_kueue")]
    curves = [b for b in benches if b["name"].startswith(tuple(CURVES))]
    others = [b for b in benches if b not in accasim and b not in kueue and b not in curves]
    lines = [
        "# Measured by `make bench`",
        "",
        f"{found['datetime'][:10]}, Python {machine['python_version']}, {cpu.get('brand_raw', 'unknown processor')}, "
        f"{cpu.get('count', '?')} cores. Seconds are wall time of the call, cost per job and event is CPU time of the "
        "replay without the building of its state; memory is the process's peak, of all runs before it too.",
        "",
        *bench_rows(others, KEYS),
        "",
        "## One thing alone varies",
        "",
        "Jobs that end in a stretch of time in which the queue stands; the default policy, eight members who lend.",
        "",
        *bench_rows(curves, KEYS),
        "",
        *growth(curves),
        "",
        "## Kueue's settings",
        "",
        *bench_rows(kueue, KUEUE_KEYS),
        "",
        *admissions(kueue),
    ]
    if accasim:
        lines += [
            "",
            "## AccaSim 1.1.3 on the same jobs",
            "",
            "CPU time of the replay, theirs with reading its log; `times` is ours without building the state, "
            "`times_built` with it, `times_read` with reading the log as well. Seconds are their process's.",
            "",
            *bench_rows(accasim, ACCASIM_KEYS),
        ]
    (HERE / "results.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

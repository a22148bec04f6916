"""latest.json, as pytest-benchmark leaves it, as the table results.md beside it."""

from __future__ import annotations

import json
from pathlib import Path

HERE = Path(__file__).parent
#: Keys of `extra_info` in the table's order; the rest (digests) stays in the file.
KEYS = (
    "jobs", "gpus", "nodes", "queue_jobs_max", "preemptions", "us_per_job", "ns_per_event", "peak_rss_mb",
    "gpus_vacated", "decisions",
)  # fmt: skip


def main() -> None:
    """Write results.md."""
    found = json.loads((HERE / "latest.json").read_text(encoding="utf-8"))
    machine = found["machine_info"]
    cpu = machine.get("cpu", {})
    lines = [
        "# Measured by `make bench`",
        "",
        f"{found['datetime'][:10]}, Python {machine['python_version']}, {cpu.get('brand_raw', 'unknown processor')}, "
        f"{cpu.get('count', '?')} cores. Seconds are wall time of the call, cost per job and event is CPU time of the "
        "replay without the building of its state; memory is the process's peak, of all runs before it too.",
        "",
        "| benchmark | seconds | " + " | ".join(KEYS) + " |",
        "|---|--:|" + "--:|" * len(KEYS),
    ]
    for bench in found["benchmarks"]:
        extra = bench["extra_info"]
        cells = [f"{extra[key]:,}" if key in extra else "" for key in KEYS]
        lines.append(f"| {bench['name']} | {bench['stats']['mean']:.4f} | " + " | ".join(cells) + " |")
    (HERE / "results.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Published average completion times beside ours: Muri's testbed and simulator, Pollux' simulator.

``python benchmarks/published/table.py`` writes results.json and results.md beside this file; docs/validation.md has the
table and what differs.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
import time
from pathlib import Path

from dure.twin.data import data_dir
from dure.twin.published import cases, mean_jct_s, pollux_published


def processor() -> str:
    """Name of the processor, without that of the machine."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def table(rows: list[dict]) -> str:
    """One row a published average; ratios are ours ÷ published."""
    lines = [
        "| set | load | policy | published, s | ours, GPUs counted | ratio | ours, on nodes | ratio |",
        "|---|---|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        ours, nodes, theirs = row["ours_s"], row["ours_on_nodes_s"], row["published_s"]
        lines.append(
            f"| {row['source']} | {row['load']} | {row['scheme']} | {theirs:,.0f} | {ours:,.0f} | "
            f"{ours / theirs:.3f} | {nodes:,.0f} | {nodes / theirs:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    data = data_dir()
    if data is None:
        sys.exit("no data: set DURE_DATA")
    here = Path(__file__).resolve().parent
    started = time.perf_counter()
    rows = [
        {
            "source": case.source, "load": case.load, "scheme": case.scheme, "jobs": len(case.trace.jobs),
            "published_s": case.published_s, "ours_s": mean_jct_s(case),
            "ours_on_nodes_s": mean_jct_s(case, case.node),
        }
        for case in cases(data)
    ]  # fmt: skip
    pollux = [row for row in rows if row["source"] == "pollux"]
    mean = {key: sum(row[key] for row in pollux) / len(pollux) for key in ("ours_s", "ours_on_nodes_s")}
    rows.append(
        {"source": "pollux", "load": "mean of eight", "scheme": "tiresias", "jobs": sum(r["jobs"] for r in pollux),
         "published_s": pollux_published(data)["mean"], **mean}
    )  # fmt: skip
    found = {
        "date": datetime.date.today().isoformat(), "processor": processor(), "cores": os.cpu_count(),
        "python": platform.python_version(), "seconds": round(time.perf_counter() - started, 1), "rows": rows,
    }  # fmt: skip
    (here / "results.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    words = (
        f"# Average completion times beside published ones\n\n{found['date']}, Python {found['python']}, "
        f"{found['processor']}, {found['cores']} cores, {found['seconds']} s.\n\n"
    )
    (here / "results.md").write_text(words + table(rows) + "\n", encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()

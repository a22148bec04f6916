"""How the number of replicas followed the load: from the record of `load.py` and the looks of `replicas.py`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib as mpl
import numpy as np
from load import read_record

mpl.use("Agg")
from matplotlib import pyplot as plt

#: Requests of so many seconds make a point of the picture.
POINT_S = 5


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("record", type=Path, help="What load.py keeps.")
    parser.add_argument("looks", type=Path, help="What replicas.py keeps.")
    parser.add_argument("--objective-ms", type=float, default=200, help="A line in the picture.")
    parser.add_argument("--out", type=Path, default=Path("result.png"), help="File for the picture.")
    options = parser.parse_args()
    record = read_record(options.record)
    began_at = record.began_at
    due_s, latencies_s = np.array(sorted(record.answers)).T
    looks = [look for look in json.loads(options.looks.read_text(encoding="utf-8")) if look["at"] >= began_at - POINT_S]
    looks_s = np.array([look["at"] for look in looks]) - began_at
    edges_s = np.arange(0, due_s.max() + POINT_S, POINT_S)
    places = np.digitize(due_s, edges_s) - 1
    figure, axes = plt.subplots(3, 1, figsize=(8, 6), sharex=True, layout="constrained")
    axes[0].stairs(np.bincount(places, minlength=len(edges_s) - 1) / POINT_S, edges_s, fill=True, color="#9ecae1")
    axes[0].set_ylabel("requests due per s")
    axes[1].step(looks_s, [look["replicas"] for look in looks], where="post", color="0.6", label="handed in")
    axes[1].step(looks_s, [look["ready"] for look in looks], where="post", color="#08519c", label="serving")
    axes[1].set(ylabel="replicas", ylim=(0, None))
    axes[1].legend(loc="upper left")
    for share, color in ((0.5, "#9ecae1"), (0.99, "#08519c")):
        filled = [place for place in range(len(edges_s) - 1) if (places == place).any()]
        quantiles_ms = [1000 * np.quantile(latencies_s[places == place], share) for place in filled]
        axes[2].plot(edges_s[filled] + POINT_S / 2, quantiles_ms, ".-", color=color, label=f"{share:.0%} within")
    axes[2].axhline(options.objective_ms, color="black", linestyle=":", label="objective")
    axes[2].set(xlabel="s", ylabel="latency, ms", yscale="log", xlim=(0, edges_s[-1]))
    axes[2].legend(loc="upper left")
    figure.savefig(options.out, dpi=90)


if __name__ == "__main__":
    main()

"""A schedule as a Gantt chart: machines down, time across, a colour a job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt

if TYPE_CHECKING:
    from rounds import Solving
    from shop import Shop


def draw(found: tuple[Shop, Solving], path: Path) -> None:
    """Write an SVG."""
    shop, solving = found
    colours = plt.colormaps["tab20"]
    figure, axes = plt.subplots(figsize=(10, 0.6 + 0.32 * shop.num_machines), layout="constrained")
    for j, job in enumerate(solving.schedule):
        for machine, start, end in job:
            axes.barh(machine, end - start, left=start, color=colours(j % 20), edgecolor="white", linewidth=0.5)
            if end - start > 0.02 * solving.makespan:
                axes.text((start + end) / 2, machine, str(j + 1), ha="center", va="center", fontsize=7, color="white")
    axes.axvline(solving.makespan, color="black", linewidth=0.8)
    proof = "proven" if solving.is_proven else f"bound {solving.bound}"
    axes.set(
        yticks=range(shop.num_machines), yticklabels=[f"machine {m + 1}" for m in range(shop.num_machines)], xlabel="time",
        title=f"{shop.name}: {len(shop.jobs)} jobs, makespan {solving.makespan} ({proof})",
    )  # fmt: skip
    axes.invert_yaxis()
    figure.savefig(path, format="svg")
    plt.close(figure)

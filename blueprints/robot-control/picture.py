"""One course as each controller drives it, and what all courses cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from trial import Driven

from dure.model.intervals import Interval
from dure.ran.control_task import PERIOD_S, Course

mpl.use("Agg")
from matplotlib import pyplot as plt

LABELS = {"planner": ("planner (MuJoCo rollouts)", "black"), "network": ("network", "#08519c"), "regulator": ("regulator", "#e6550d")}


def draw(path: Path, runs: Sequence[Mapping[str, Driven]], course: Course, change: Interval) -> None:
    """Positions on the first course; costs of all courses over the planner's, crosses where the robot fell."""
    figure, (first, all_of) = plt.subplots(1, 2, figsize=(10.5, 4.2), layout="constrained")
    time_s = np.arange(len(course.push_n)) * PERIOD_S
    first.plot(time_s, course.place_m[: len(time_s)], color="#969696", linewidth=1, label="place asked for")
    for start in np.flatnonzero(np.diff(np.abs(course.push_n), prepend=0.0) > 0):
        first.axvline(time_s[start], color="#bdbdbd", linestyle=":", linewidth=1)
    for name, (label, colour) in LABELS.items():
        found = runs[0][name].position_m
        first.plot(time_s[: len(found)], found, color=colour, linewidth=1.2, linestyle="--" if name == "planner" else "-", label=label)
    first.set(xlabel="s", ylabel="m", title="one course; dotted: pushes")
    planner = np.array([run["planner"].cost for run in runs])
    for name in ("regulator", "network"):
        label, colour = LABELS[name]
        costs = np.array([run[name].cost for run in runs])
        is_fallen = np.array([run[name].is_fallen for run in runs])
        all_of.plot(planner[~is_fallen], costs[~is_fallen], "o", color=colour, markersize=4, label=label)
        all_of.plot(planner[is_fallen], costs[is_fallen], "x", color=colour, markersize=6)
    ends = [planner.min(), planner.max()]
    all_of.plot(ends, ends, color="black", linewidth=0.8, linestyle="--", label="as the planner")
    all_of.set(
        xscale="log", yscale="log", xlabel="the planner's cost of a period", ylabel="cost of a period",
        title=f"{len(runs)} courses; network {100 * change.mean:+.1f}% ({100 * change.low:+.1f} … {100 * change.high:+.1f}); ×: fell",
    )  # fmt: skip
    for axes in (first, all_of):
        axes.title.set_size(10)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, format="png", dpi=100)
    plt.close(figure)

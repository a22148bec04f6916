"""The picture: what is served, when it is lost, and a day of the forecast."""

from __future__ import annotations

from typing import Any

import numpy as np
from city import BINS, FIRST_HOUR
from matplotlib.figure import Figure

COLOURS = {"none": "#7f7f7f", "reactive": "#ff7f0e", "seasonal": "#9467bd", "forecast": "#d62728", "clairvoyant": "#1f77b4"}


def draw(rows: list[dict[str, Any]], metrics: dict[str, float], example: dict[str, Any]) -> Figure:
    """Three panels."""
    figure = Figure(figsize=(13, 4), layout="constrained")
    served, lost, demand = figure.subplots(1, 3)
    for place, (way, colour) in enumerate(COLOURS.items()):
        share = metrics["served_share"] if way == "forecast" else metrics[f"served_share_{way}"]
        served.barh(-place, share, color=colour)
        served.plot([row[way]["served"] / row[way]["asked"] for row in rows], [-place] * len(rows), "|", color="black", alpha=0.5)
        served.text(0.705, -place, f"{way} {share:.3f}", va="center", color="white")
    served.axvline(metrics["served_share_bound"], color="black", ls=":")
    served.text(metrics["served_share_bound"], 0.5, f"bound {metrics['served_share_bound']:.3f}", ha="right", va="bottom")
    served.set_xlim(0.7, 1)
    served.set_ylim(-4.6, 1)
    served.set_yticks([])
    served.set_title(f"share of trips served, {len(rows)} unseen days")
    hours = FIRST_HOUR + np.arange(24)
    for way in ("none", "forecast", "clairvoyant"):
        by_hour = np.array([row["by_hour"][way] for row in rows]).sum(0)
        lost.step(hours, (by_hour[1] - by_hour[0]) / len(rows), where="post", color=COLOURS[way], label=way)
    lost.set_title("trips lost a day, by the hour")
    lost.legend(frameon=False)
    time_h = FIRST_HOUR + np.arange(BINS) / 4
    demand.bar(time_h, example["truth"], 0.25, color="0.8", label="asked")
    demand.plot(time_h, example["rate"], color="black", lw=1, label="true rate")
    demand.plot(time_h, example["said"], color=COLOURS["forecast"], lw=1.3, label="forecast")
    demand.plot(time_h, example["seasonal"], color=COLOURS["seasonal"], lw=0.7, label="a week ago")
    demand.set_title(f"trips in 15 min from zone {example['zone']}, the last day")
    demand.legend(frameon=False)
    for axes in (lost, demand):
        axes.set_xticks(range(FIRST_HOUR, 29, 4), [f"{hour % 24}:00" for hour in range(FIRST_HOUR, 29, 4)])
    return figure

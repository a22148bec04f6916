"""Small plots of compared metrics with their intervals, and how such a metric is written."""

from __future__ import annotations

import math
from typing import Any

from dure.model.intervals import Interval
from dure.twin.comparison import Comparison
from dure.twin.report.figure import Plot, Table, colour, compact, in_languages, plain, shortened
from dure.twin.report.words import Text, count, duration, number, percent, same, word

#: Compared metrics that get a plot; the table has all.
PLOTTED = ("wait_mean_s", "wait_p99_s", "jct_mean_s", "utilisation", "lent_gpu_h", "preemptions")

_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "x")


def interval_plots(comparison: Comparison) -> list[Plot]:
    """A small plot a metric: a point a run with its interval."""
    plots = []
    for metric in comparison.metrics:
        finite = [of for of in metric.intervals.values() if of.n]
        if metric.key not in PLOTTED or not any(of.mean for of in finite):
            continue
        scale, unit = _scale(metric.key, max(abs(of.mean) for of in finite))
        data: list[dict[str, Any]] = []
        for i, (name, of) in enumerate(metric.intervals.items()):
            half = 0.0 if math.isnan(of.high) else (of.high - of.mean) / scale
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "x": [compact(of.mean / scale)],
                    "y": [i],
                    "name": plain(name),
                    "marker": {"color": colour(i), "size": 10, "symbol": _SYMBOLS[i % len(_SYMBOLS)]},
                    "error_x": {
                        "type": "data",
                        "array": [compact(half)],
                        "color": colour(i),
                        "thickness": 2,
                        "width": 5,
                    },
                    "customdata": in_languages([interval_text(metric.key, of)]),
                    "hovertemplate": "%{fullData.name}: %{customdata}<extra></extra>",
                }
            )
        names = [plain(shortened(same(name), 18).en) for name in comparison.names]
        layout = {
            "hovermode": "closest",
            "showlegend": False,
            "xaxis": {
                "title": {"text": unit.plot()},
                "nticks": 6,
                "rangemode": "tozero" if metric.key != "utilisation" else "normal",
            },
            "yaxis": {
                "tickvals": list(range(len(names))),
                "ticktext": names,
                "range": [len(names) - 0.4, -0.6],
                "showgrid": False,
            },
        }
        plots.append(
            Plot(
                f"interval_{metric.key}",
                word(metric.key),
                same(""),
                90 + 28 * len(names),
                data,
                layout,
                Table([], []),
            )
        )
    return plots


def interval_text(key: str, of: Interval) -> Text:
    """A mean with its interval, in the metric's unit."""
    mean = metric_text(key, of.mean)
    if math.isnan(of.low):
        return mean
    low, high = metric_text(key, of.low), metric_text(key, of.high)
    return Text(f"{mean.en} ({low.en} – {high.en})", f"{mean.ko} ({low.ko}~{high.ko})")


def metric_text(key: str, value: float) -> Text:
    """A value of a compared metric with its unit."""
    if key.endswith("_s"):
        return duration(value)
    if key in ("utilisation", "goodput"):
        return same(percent(value))
    if key == "energy_kwh":
        return same(number(value / 1000))
    if key == "jain":
        return same("–" if math.isnan(value) else f"{value:.3f}".replace("-", "−"))
    if key == "slowdown_mean" or key.endswith("_gpu_h"):
        return same(number(value))
    return same(count(value) if value == round(value) or math.isnan(value) else number(value))


def _scale(key: str, largest: float) -> tuple[float, Text]:
    """Divisor and unit of an axis on which ``largest`` is easy to read."""
    if key.endswith("_s"):
        for unit_s, en, ko in ((86_400, "days", "일"), (3_600, "hours", "시간"), (60, "minutes", "분")):
            if largest >= 2 * unit_s:
                return unit_s, Text(en, ko)
        return 1, Text("seconds", "초")
    if key == "utilisation":
        return 0.01, same("%")
    if key.endswith("_gpu_h"):
        return 1, word("gpu_hours")
    return 1, same("")

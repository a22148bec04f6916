"""Plots of the fleet's state over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.twin.metrics import MS_PER_HOUR
from dure.twin.report.decimate import envelope, interval_means
from dure.twin.report.figure import (
    Plot,
    Table,
    axis_title,
    cell,
    colour,
    count_cell,
    dash_style,
    name_cell,
    rounded,
    top_and_rest,
)
from dure.twin.report.words import Text, count, number, same, word
from dure.twin.result import RunResult

#: Most members that one plot of lines or areas names; the rest are summed.
TOP_STACKED, TOP_LINES = 5, 6

MW = 1e6


def use_plot(result: RunResult, num_points: int) -> Plot:
    """GPUs used under GPUs online; GPUs and jobs that wait below."""
    s, clock = result.series, _Clock(result)
    gpu = "%{y:,.0f} GPU"
    data = [
        clock.line(s.gpus_used, num_points, "gpus_used", "@c0", gpu, fill="@c0-fill"),
        clock.line(s.gpus_online, num_points, "gpus_online", "@muted", gpu, dash="dash"),
        clock.line(s.queue_gpus, num_points, "queue_gpus", "@c1", gpu, row=2, fill="@c1-fill"),
        clock.line(s.queue_jobs, num_points, "queue_jobs", "@c2", "%{y:,.0f}", row=3),
    ]
    top = float(s.gpus_online.max(initial=1)) * 1.05
    layout = clock.layout(
        {
            "yaxis": {"domain": [0.5, 1], "title": axis_title("axis_gpus"), "range": [0, top]},
            "yaxis2": {"domain": [0.24, 0.44], "title": axis_title("axis_gpus"), "rangemode": "tozero"},
            "yaxis3": {"domain": [0, 0.18], "title": axis_title("axis_jobs"), "rangemode": "tozero"},
        }
    )
    table = clock.table(
        {
            "gpus_online": s.gpus_online,
            "gpus_used": s.gpus_used,
            "queue_gpus": s.queue_gpus,
            "queue_jobs": s.queue_jobs,
        }
    )
    return Plot("use", word("fig_use"), word("cap_use"), 520, data, layout, table)


def queue_runs_plot(results: Sequence[RunResult], num_points: int) -> Plot:
    """GPUs waited for, one line a run."""
    clock = _Clock(max(results, key=lambda result: result.end_ms))
    data = [
        clock.line(
            r.series.queue_gpus,
            num_points,
            same(r.name),
            colour(i),
            "%{y:,.0f} GPU",
            dash=dash_style(i),
            t_ms=r.series.t_ms,
        )
        for i, r in enumerate(results)
    ]
    layout = clock.layout({"yaxis": {"title": axis_title("axis_gpus"), "rangemode": "tozero"}})
    rows = []
    for result in results:
        _, means = interval_means(result.series.t_ms, result.series.queue_gpus, 1)
        peak = float(result.series.queue_gpus.max(initial=0))
        rows.append(
            [
                name_cell(result.name),
                count_cell(float(means[0]) if len(means) else math.nan),
                count_cell(peak),
            ]
        )
    table = Table([word("prov_run"), word("mean"), word("peak")], rows)
    return Plot("queue", word("fig_queue_runs"), word("cap_queue_runs"), 300, data, layout, table)


def members_plot(result: RunResult) -> Plot:
    """GPUs that each big member's jobs hold, stacked."""
    used, clock = result.series.member_used_gpus, _Clock(result)
    top, rest = top_and_rest(result.used_gpu_ms, TOP_STACKED)
    series = [(same(result.member_names[m]), used[m]) for m in top]
    if len(rest):
        series.append((word("others", n=count(len(rest))), used[rest].sum(axis=0)))
    data = []
    for i, (name, y) in enumerate(series):
        line = clock.means(y, 240, name, colour(i) if i < len(top) else "@rest", "%{y:,.0f} GPU")
        data.append(line | {"stackgroup": "one", "line": {"width": 0}, "fillcolor": line["line"]["color"]})
    layout = clock.layout({"yaxis": {"title": axis_title("axis_gpus"), "rangemode": "tozero"}})
    layout["legend"] = {"traceorder": "normal"}
    return Plot(
        "members",
        word("fig_members"),
        word("cap_members", n=str(len(top))),
        340,
        data,
        layout,
        clock.table(dict(series)),
    )


def lent_plot(result: RunResult, num_points: int) -> Plot:
    """GPUs on loan, all members together."""
    clock, lent = _Clock(result), result.series.member_lent_gpus.sum(axis=0)
    data = [
        clock.line(lent, num_points, "lent", "@c2", "%{y:,.0f} GPU", fill="@c2-fill") | {"showlegend": False}
    ]
    layout = clock.layout({"yaxis": {"title": axis_title("axis_gpus"), "rangemode": "tozero"}})
    return Plot(
        "lent", word("fig_lent_time"), word("cap_lent_time"), 260, data, layout, clock.table({"lent": lent})
    )


def credits_plot(result: RunResult) -> Plot:
    """Credits of the members whose balance moved most."""
    credit, clock = result.series.member_credits, _Clock(result)
    top, _ = top_and_rest(np.ptp(credit, axis=1), TOP_LINES)
    names = {same(result.member_names[m]): credit[m] for m in top}
    data = [
        clock.means(y, 400, name, colour(i), "%{y:,.3s}", dash=dash_style(i))
        for i, (name, y) in enumerate(names.items())
    ]
    layout = clock.layout({"yaxis": {"title": axis_title("credits_axis"), "zeroline": True}})
    return Plot(
        "credits",
        word("fig_credits"),
        word("cap_credits", n=str(len(top))),
        320,
        data,
        layout,
        clock.table(names),
    )


def fragmentation_plot(result: RunResult, num_points: int) -> Plot:
    """Free GPUs, those on partly used nodes, and nodes wholly free."""
    s, clock = result.series, _Clock(result)
    free = s.gpus_online - s.gpus_used
    data = [
        clock.line(s.fragmented_gpus, num_points, "fragmented", "@c1", "%{y:,.0f} GPU", fill="@c1-fill"),
        clock.line(free, num_points, "free_gpus", "@c0", "%{y:,.0f} GPU"),
        clock.line(s.whole_nodes_free, num_points, "whole_nodes", "@c2", "%{y:,.0f}", row=2),
    ]
    layout = clock.layout(
        {
            "yaxis": {"domain": [0.42, 1], "title": axis_title("axis_gpus"), "rangemode": "tozero"},
            "yaxis2": {"domain": [0, 0.32], "title": axis_title("axis_nodes"), "rangemode": "tozero"},
        }
    )
    table = clock.table(
        {"free_gpus": free, "fragmented": s.fragmented_gpus, "whole_nodes": s.whole_nodes_free}
    )
    return Plot("frag", word("fig_frag"), word("cap_frag"), 380, data, layout, table)


def power_plot(result: RunResult, num_points: int) -> Plot:
    """Power of all sites; with the sum of caps where every site has one."""
    clock, power_mw = _Clock(result), result.series.power_w / MW
    data = [clock.line(power_mw, num_points, "power", "@c4", "%{y:,.2f} MW", fill="@c4-fill")]
    caps_w = [site.power_cap_w for site in result.fleet.sites]
    has_caps = all(caps_w)
    if has_caps:
        cap_mw = np.full(2, sum(caps_w) / MW)
        ends_ms = np.array([result.series.t_ms[0], result.series.t_ms[-1]])
        data.append(clock.line(cap_mw, 4, "cap", "@muted", "%{y:,.1f} MW", dash="dash", t_ms=ends_ms))
    layout = clock.layout({"yaxis": {"title": axis_title("power_axis"), "rangemode": "tozero"}})
    caption = word("cap_power_cap" if has_caps else "cap_power")
    return Plot("power", word("fig_power"), caption, 320, data, layout, clock.table({"power_axis": power_mw}))


class _Clock:
    """The time axis of one run: unit, range and the lines drawn on it."""

    def __init__(self, result: RunResult) -> None:
        self.t_ms = result.series.t_ms
        self.is_hours = result.end_ms <= 96 * MS_PER_HOUR
        self.unit_ms = MS_PER_HOUR if self.is_hours else 24 * MS_PER_HOUR
        self.end = result.end_ms / self.unit_ms

    def line(
        self,
        y: NDArray[Any],
        num_points: int,
        name: str | Text,
        colour: str,
        hover: str,
        *,
        dash: str = "solid",
        fill: str = "",
        row: int = 1,
        t_ms: NDArray[Any] | None = None,
    ) -> dict[str, Any]:
        """A line that keeps the extremes of ``y``; ``row`` is the panel, counted from the top."""
        t, kept = envelope(self.t_ms if t_ms is None else t_ms, y, num_points)
        return self._trace(t, kept, name, colour, hover, dash, fill, row)

    def means(
        self, y: NDArray[Any], num_bins: int, name: Text, colour: str, hover: str, dash: str = "solid"
    ) -> dict[str, Any]:
        """A line of interval means."""
        t, means = interval_means(self.t_ms, y, num_bins)
        return self._trace(t, means, name, colour, hover, dash, "", 1)

    def _trace(
        self,
        t_ms: NDArray[Any],
        y: NDArray[Any],
        name: str | Text,
        colour: str,
        hover: str,
        dash: str,
        fill: str,
        row: int,
    ) -> dict[str, Any]:
        label = word(name) if isinstance(name, str) else name
        trace = {
            "type": "scatter",
            "mode": "lines",
            "x": rounded(t_ms / self.unit_ms),
            "y": rounded(y),
            "name": label.plot(),
            "line": {"color": colour, "width": 1.6, "dash": dash},
            "hovertemplate": hover,
        }
        if row > 1:
            trace["yaxis"] = f"y{row}"
        if fill:
            trace |= {"fill": "tozeroy", "fillcolor": fill}
        return trace

    def layout(self, axes: dict[str, Any]) -> dict[str, Any]:
        """All panels on one x axis, drawn below the lowest."""
        lowest = max(axes).replace("axis", "")
        title = axis_title("axis_hours" if self.is_hours else "axis_days")
        step = {"dtick": {"wide": 6, "narrow": 24}} if self.is_hours and self.end > 24 else {}
        return {
            "hovermode": "x unified",
            "xaxis": {
                "title": title,
                "range": [0, self.end],
                "anchor": lowest,
                "hoverformat": ",.2f",
                **step,
            },
            **axes,
        }

    def table(self, series: dict[Any, NDArray[Any]]) -> Table:
        """Interval means of each series, 12 intervals."""
        columns = [interval_means(self.t_ms, y, 12) for y in series.values()]
        unit = word("axis_hours" if self.is_hours else "axis_days")
        names = [word(name) if isinstance(name, str) else name for name in series]
        rows = [
            [cell(number(float(t)), float(t)), *(cell(number(float(y[i])), float(y[i])) for _, y in columns)]
            for i, t in enumerate(columns[0][0] / self.unit_ms)
        ]
        return Table([unit, *names], rows)


def fragmented_share(result: RunResult) -> tuple[float, float]:
    """Mean fragmented GPUs, and as a share of mean GPUs online."""
    s = result.series
    if not len(s.t_ms):
        return math.nan, math.nan
    fragmented = float(interval_means(s.t_ms, s.fragmented_gpus, 1)[1][0])
    online = float(interval_means(s.t_ms, s.gpus_online, 1)[1][0])
    return fragmented, fragmented / online if online else math.nan

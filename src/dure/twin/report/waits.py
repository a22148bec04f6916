"""Plots of how long jobs waited."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dure.twin.metrics import (
    SIZE_CLASSES,
    GroupRow,
    RunMetrics,
    group_rows,
    started_wait_s,
)
from dure.twin.report.figure import (
    Plot,
    Table,
    axis_title,
    colour,
    compact,
    count_cell,
    dash_style,
    in_languages,
    name_cell,
    rounded,
    seconds_cell,
    shortened,
    time_axis,
    top_and_rest,
)
from dure.twin.report.words import Text, count, duration, same, word
from dure.twin.result import RunResult

#: Most members that a plot names; the rest stand together.
TOP_ROWS = 12


def ecdf_plot(results: Sequence[RunResult]) -> Plot:
    """Share of jobs that waited no longer than…, one line a run."""
    shares = np.concatenate([np.linspace(0, 0.99, 199), [0.992, 0.994, 0.996, 0.998, 0.999, 1.0]])
    data, longest_s = [], 1.0
    rows = []
    for i, result in enumerate(results):
        ascending = np.sort(started_wait_s(result))
        if not len(ascending):
            continue
        waits = np.maximum(ascending[(shares * (len(ascending) - 1)).astype(np.int64)], 1.0)
        first = max(0, int(np.searchsorted(waits, 1.0, side="right")) - 1)
        longest_s = max(longest_s, float(waits[-1]))
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": rounded(waits[first:]),
                "y": rounded(shares[first:] * 100),
                "name": same(result.name).plot(),
                "line": {"color": colour(i), "width": 2, "dash": dash_style(i)},
                "customdata": in_languages([duration(float(w)) for w in waits[first:]]),
                "hovertemplate": "%{y:.1f}% ≤ %{customdata}",
            }
        )
        rows.append(
            [
                name_cell(result.name),
                *(seconds_cell(float(np.quantile(ascending, q))) for q in (0.5, 0.9, 0.99, 1.0)),
            ]
        )
    layout = {
        "hovermode": "closest",
        "xaxis": time_axis(longest_s) | {"title": axis_title("wait_axis")},
        "yaxis": {"title": axis_title("share_axis"), "range": [0, 101], "ticksuffix": "%"},
    }
    table = Table([word("prov_run"), word("p50"), word("p90"), word("p99"), same("100%")], rows)
    return Plot("ecdf", word("fig_ecdf"), word("cap_ecdf"), 340, data, layout, table)


def wait_size_plot(metrics: RunMetrics) -> Plot:
    """Median, 90% and 99% of waits by size class, all jobs first."""
    total = GroupRow(
        "",
        metrics.summary["jobs"],
        metrics.wait_s.n,
        metrics.summary["finished"],
        metrics.wait_s,
        metrics.jct_s,
        metrics.slowdown,
    )
    named = [(word("all_jobs"), total)]
    named += [
        (word("size_cpu") if row.name == SIZE_CLASSES[0][1] else same(row.name), row)
        for row in metrics.by_size
    ]
    plot = _wait_rows("wait_size", word("fig_wait_size"), word("cap_wait_size"), named, word("size_axis"))
    plot.layout["yaxis"]["title"] = axis_title("size_axis")
    return plot


def wait_member_plot(result: RunResult) -> Plot:
    """Median, 90% and 99% of waits of the big members and of all others."""
    top, rest = top_and_rest(result.used_gpu_ms, TOP_ROWS)
    group = np.full(len(result.member_names), len(top), np.int64)
    group[top] = np.arange(len(top))
    texts = [same(result.member_names[m]) for m in top] + [word("others", n=count(len(rest)))]
    rows = group_rows(result, group[result.trace.jobs["member"]], [text.en for text in texts])
    named = [pair for pair in zip(texts, rows, strict=True) if pair[1].num_jobs]
    caption = word("cap_wait_member", n=str(len(top)))
    return _wait_rows("wait_member", word("fig_wait_member"), caption, named, word("col_member"))


def _wait_rows(
    key: str, title: Text, caption: Text, rows: Sequence[tuple[Text, GroupRow]], head: Text
) -> Plot:
    """A row a group: a bar from the median to the 99th percentile with its three points."""
    started = [(name, row) for name, row in rows if row.num_started]
    labels = in_languages([_counted(shortened(name, 22), row.num_jobs) for name, row in started])
    y = list(range(len(started)))
    spans_x, spans_y = [], []
    for i, (_, row) in enumerate(started):
        spans_x += [_at_least_1(row.wait_s.p50), _at_least_1(row.wait_s.p99), None]
        spans_y += [i, i, None]
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": spans_x,
            "y": spans_y,
            "line": {"color": "@rest", "width": 3},
            "hoverinfo": "skip",
            "showlegend": False,
        }
    ]
    for name, tone, symbol in (
        ("p50", "@c0", "circle"),
        ("p90", "@c2", "diamond"),
        ("p99", "@c1", "square"),
    ):
        waits = [getattr(row.wait_s, name) for _, row in started]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [_at_least_1(w) for w in waits],
                "y": y,
                "name": word(name).plot(),
                "marker": {"color": tone, "symbol": symbol, "size": 9},
                "customdata": in_languages([duration(w) for w in waits]),
                "hovertemplate": "%{fullData.name}: %{customdata}<extra></extra>",
            }
        )
    longest_s = max((row.wait_s.p99 for _, row in started), default=1.0)
    layout = {
        "hovermode": "closest",
        "xaxis": time_axis(longest_s) | {"title": axis_title("wait_axis")},
        "yaxis": {"tickvals": y, "ticktext": labels, "range": [len(started) - 0.4, -0.6], "showgrid": False},
    }
    header = [head, word("col_jobs"), word("col_mean"), word("col_p50"), word("col_p90"), word("col_p99")]
    table = Table(
        header,
        [
            [
                (name, None),
                count_cell(row.num_jobs),
                *(seconds_cell(w) for w in (row.wait_s.mean, row.wait_s.p50, row.wait_s.p90, row.wait_s.p99)),
            ]
            for name, row in rows
        ],
    )
    return Plot(key, title, caption, 110 + 30 * len(started), data, layout, table)


def _counted(text: Text, num: int) -> Text:
    return Text(f"{text.en} ({count(num)})", f"{text.ko} ({count(num)})")


def _at_least_1(seconds: float) -> float | int | None:
    return compact(max(1.0, seconds))

"""Plots of how far off promised and foretold starts were."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from dure.twin.metrics import RunMetrics
from dure.twin.report.figure import (
    Plot,
    Table,
    axis_title,
    cell,
    compact,
    count_cell,
    in_languages,
    rounded,
    seconds_cell,
)
from dure.twin.report.words import Text, count, duration, percent, same, word
from dure.twin.result import RunResult
from dure.twin.start_errors import ERROR_QUANTILES, HORIZONS_S, StartErrors, forecasts, policy_promises

#: Edges between the classes of error, in seconds; mirrored around 0.
ERROR_EDGES_S = (60, 600, 3_600, 21_600, 86_400)

#: Ticks of the axis of errors to either side of 0, in seconds, and whether a narrow plot shows them too.
ERROR_TICKS = ((600, False), (3_600, True), (21_600, False), (86_400, True), (604_800, False), (2_592_000, True))

#: Errors below this stand near 0 on an even scale, beyond it on a logarithmic one.
EVEN_S = 60.0


def start_error_plot(metrics: RunMetrics) -> Plot:
    """A row for each kind of promise and each horizon of forecast: quantiles of actual less promised start."""
    rows = [(word(f"promise_{kind}"), "@c0", of) for kind, of in metrics.promised_by_kind.items()]
    rows += [(_horizon(edge_s), "@c1", of) for edge_s, of in metrics.foretold_by_horizon.items()]
    drawn = [row for row in rows if row[2].n]
    largest_s = max((abs(q) for _, _, of in drawn for q in of.quantiles_s), default=0.0)
    data = [trace for i, (_, tone, of) in enumerate(drawn) for trace in _quantile_row(i, tone, of)]
    data += [_legend(key, tone) for key, tone in (("promised", "@c0"), ("foretold", "@c1")) if _has(drawn, tone)]
    y = list(range(len(drawn)))
    layout = {
        "hovermode": "closest",
        "xaxis": _error_axis(largest_s) | {"title": axis_title("error_axis")},
        "yaxis": {
            "tickvals": y,
            "ticktext": in_languages([_counted(name, of.n) for name, _, of in drawn]),
            "range": [len(drawn) - 0.4, -0.6],
            "showgrid": False,
        },
        "shapes": [
            {
                "type": "line", "xref": "x", "yref": "paper", "x0": 0, "x1": 0, "y0": 0, "y1": 1,
                "line": {"color": "@muted", "width": 1}, "layer": "between",
            }
        ],
    }  # fmt: skip
    head = ["promise", "col_scored", "col_open", "col_ahead", "col_mean_error", "col_late", "col_on_time"]
    table = Table(
        [word(key) for key in head] + [same(percent(q).replace(".0", "")) for q in ERROR_QUANTILES],
        [
            [
                (name, None),
                count_cell(of.n),
                count_cell(of.num_open),
                seconds_cell(of.ahead_p50_s),
                seconds_cell(of.mean_s),
                cell(percent(of.late_share), of.late_share),
                cell(percent(of.on_time_share), of.on_time_share),
                *(seconds_cell(q) for q in of.quantiles_s),
            ]
            for name, _, of in rows
        ],
    )
    height = 120 + 34 * len(drawn)
    return Plot("start_error", word("fig_start_error"), word("cap_start_error"), height, data, layout, table)


def _horizon(edge_s: float) -> Text:
    i = HORIZONS_S.index(edge_s)
    if i == 0:
        span = word("up_to", a=duration(edge_s))
    elif math.isinf(edge_s):
        span = word("more_than", a=duration(HORIZONS_S[i - 1]))
    else:
        span = word("from_to", a=duration(HORIZONS_S[i - 1]), b=duration(edge_s))
    return word("foretold_ahead", range=span)


def _has(drawn: Sequence[tuple[Text, str, StartErrors]], tone: str) -> bool:
    return any(of_row == tone for _, of_row, _ in drawn)


def _quantile_row(y: int, tone: str, of: StartErrors) -> list[dict[str, Any]]:
    """A thin bar from 5% to 95%, a thick one from 25% to 75%, ticks at 1% and 99% and the median."""
    at = dict(zip(ERROR_QUANTILES, of.quantiles_s, strict=True))

    def bar(low: float, high: float, width: int) -> dict[str, Any]:
        return {
            "type": "scatter", "mode": "lines", "x": [_place(at[low]), _place(at[high])], "y": [y, y],
            "line": {"color": tone, "width": width}, "hoverinfo": "skip", "showlegend": False,
        }  # fmt: skip

    def points(quantiles: Sequence[float], marker: dict[str, Any]) -> dict[str, Any]:
        return {
            "type": "scatter", "mode": "markers", "x": [_place(at[q]) for q in quantiles], "y": [y] * len(quantiles),
            "marker": marker,
            "customdata": in_languages([word("of_quantile", q=percent(q), error=_signed(at[q])) for q in quantiles]),
            "hovertemplate": "%{customdata}<extra></extra>", "showlegend": False,
        }  # fmt: skip

    ends = {"color": tone, "symbol": "line-ns-open", "size": 10, "line": {"color": tone, "width": 2}}
    box = {"color": tone, "symbol": "line-ns-open", "size": 16, "line": {"color": tone, "width": 2}}
    median = {"color": "@paper", "symbol": "circle", "size": 10, "line": {"color": tone, "width": 3}}
    return [
        bar(0.05, 0.95, 2), bar(0.25, 0.75, 9), points((0.01, 0.99), ends), points((0.05, 0.25, 0.75, 0.95), box),
        points((0.5,), median),
    ]  # fmt: skip


def _legend(key: str, tone: str) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "markers", "x": [None], "y": [None], "name": word(key).plot(),
        "marker": {"color": tone, "symbol": "square", "size": 10},
    }  # fmt: skip


def _place(error_s: float) -> float | int | None:
    """Where an error stands on the axis: logarithmic to both sides, even around 0."""
    return compact(math.copysign(math.log10(1 + abs(error_s) / EVEN_S), error_s))


def _error_axis(largest_s: float) -> dict[str, Any]:
    edge = float(_place(max(largest_s, 3_600.0)) or 0) * 1.06
    sides = [(s, is_narrow) for s, is_narrow in ERROR_TICKS if float(_place(s) or 0) <= edge]
    ticks = [(-s, n) for s, n in reversed(sides)] + [(0, True)] + sides
    few = [s for s, is_narrow in ticks if is_narrow]
    return {
        "range": [-edge, edge],
        "tickvals": {"wide": [_place(s) for s, _ in ticks], "narrow": [_place(s) for s in few]},
        "ticktext": {
            "wide": in_languages([_signed(s) for s, _ in ticks]), "narrow": in_languages([_signed(s) for s in few]),
        },
    }  # fmt: skip


def _signed(error_s: float) -> Text:
    shown = duration(error_s)
    return Text(f"+{shown.en}", f"+{shown.ko}") if error_s > 0 else shown


def _counted(text: Text, num: int) -> Text:
    return Text(f"{text.en} ({count(num)})", f"{text.ko} ({count(num)})")


def error_share_plot(result: RunResult) -> Plot:
    """Share of starts by class of error, late at the top; promised and foretold beside each other."""
    spans = [word("from_to", a=duration(a), b=duration(b)) for a, b in pairwise(ERROR_EDGES_S)]
    spans.append(word("more_than", a=duration(ERROR_EDGES_S[-1])))
    labels = [word("late", range=span) for span in reversed(spans)] + [word("on_time")]
    labels += [word("early", range=span) for span in spans]
    y = list(range(len(labels)))
    data, columns = [], []
    for key, tone, rows in (
        ("promised", "@c0", policy_promises(result.promises)),
        ("foretold", "@c1", forecasts(result.promises)),
    ):
        rows = rows[(rows["promised_ms"] >= 0) & (rows["start_ms"] >= 0)]
        if not len(rows):
            continue
        error_s = (rows["start_ms"] - rows["promised_ms"]) / 1000
        size = np.searchsorted(ERROR_EDGES_S, np.abs(error_s), side="left")
        # The classes stand from the latest to the earliest.
        counts = np.bincount(len(ERROR_EDGES_S) - np.where(error_s > 0, size, -size), minlength=len(labels))
        shares = counts / len(rows)
        columns.append((word(key), counts, shares))
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "x": rounded(shares * 100),
                "y": y,
                "name": word(key).plot(),
                "marker": {"color": tone},
                "text": [f"{share:.1%}" if share >= 0.0005 else "" for share in shares],
                "textposition": "outside",
                "cliponaxis": False,
                "hovertemplate": "%{x:.2f}%<extra></extra>",
            }
        )
    top = max((float(shares.max()) for _, _, shares in columns), default=0.01) * 100
    layout = {
        "bargap": 0.25,
        "hovermode": "closest",
        "xaxis": {"title": axis_title("start_share_axis"), "ticksuffix": "%", "range": [0, top * 1.15]},
        "yaxis": {
            "tickvals": y,
            "ticktext": in_languages(labels),
            "range": [len(y) - 0.4, -0.6],
            "showgrid": False,
        },
    }
    table = Table(
        [word("error"), *(name for name, _, _ in columns)],
        [
            [
                (label, None),
                *(cell(f"{count(counts[i])} ({percent(shares[i])})", counts[i]) for _, counts, shares in columns),
            ]
            for i, label in enumerate(labels)
        ],
    )  # fmt: skip
    return Plot("error_share", word("fig_error_share"), word("cap_error_share"), 460, data, layout, table)

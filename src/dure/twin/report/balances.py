"""Plots of what members lent and borrowed, and of what sites drew."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.twin.metrics import MS_PER_HOUR, RunMetrics
from dure.twin.report.decimate import interval_means
from dure.twin.report.figure import (
    Plot,
    Table,
    axis_title,
    cell,
    compact,
    in_languages,
    name_cell,
    plain,
    rounded,
    shortened,
    thousands,
    top_and_rest,
)
from dure.twin.report.words import Text, count, number, same, word
from dure.twin.result import RunResult

#: Most members or sites that a plot names, in a list and on each side of a matrix.
TOP_ROWS, TOP_MATRIX = 12, 8

MW = 1e6


def lending_plot(result: RunResult) -> Plot:
    """GPU-hours lent, lender by borrower, as a heat map."""
    hours = result.lent_gpu_ms / MS_PER_HOUR
    lenders, rows = _top_or_rest(hours.sum(axis=1), TOP_MATRIX)
    borrowers, columns = _top_or_rest(hours.sum(axis=0), TOP_MATRIX)
    names = result.member_names
    z = np.array([[hours[np.ix_(row, column)].sum() for column in columns] for row in rows])
    lender_names = [_some(names, row, m) for row, m in zip(rows, lenders, strict=True)]
    borrower_names = [_some(names, column, m) for column, m in zip(columns, borrowers, strict=True)]
    data = [
        {
            "type": "heatmap",
            "z": [[compact(v) if v > 0 else None for v in row] for row in z],
            "x": list(range(len(columns))),
            "y": list(range(len(rows))),
            "xgap": 2,
            "ygap": 2,
            "zmin": 0,
            "colorscale": [[0, "@heat-low"], [1, "@heat-high"]],
            "showscale": False,
            "text": [[thousands(v) for v in row] for row in z],
            "texttemplate": "%{text}",
            "textfont": {"color": "@ink"},
            "customdata": [
                [
                    f"{plain(a.en)} → {plain(b.en)}: {number(float(v))}"
                    for b, v in zip(borrower_names, row, strict=True)
                ]
                for a, row in zip(lender_names, z, strict=True)
            ],
            "hovertemplate": {
                "en": "%{customdata} GPU-hours<extra></extra>",
                "ko": "%{customdata} GPU-시간<extra></extra>",
            },
        }
    ]
    layout = {
        "hovermode": "closest",
        "xaxis": {
            "tickvals": list(range(len(columns))),
            "ticktext": in_languages([shortened(n, 16) for n in borrower_names]),
            "tickangle": -40,
            "title": axis_title("borrower"),
            "showgrid": False,
            "fixedrange": True,
            "zeroline": False,
        },
        "yaxis": {
            "tickvals": list(range(len(rows))),
            "ticktext": in_languages([shortened(n, 18) for n in lender_names]),
            "range": [len(rows) - 0.5, -0.5],
            "title": axis_title("lender"),
            "showgrid": False,
            "fixedrange": True,
            "zeroline": False,
        },
    }
    table = Table(
        [word("lender"), *borrower_names],
        [
            [(name, None), *(cell(number(float(v)), float(v)) for v in row)]
            for name, row in zip(lender_names, z, strict=True)
        ],
    )
    return Plot(
        "lending", word("fig_lending"), word("cap_lending"), 200 + 34 * len(rows), data, layout, table, 560
    )


def balance_plot(metrics: RunMetrics) -> Plot:
    """Lent to the right, borrowed to the left, for the members that did most of either."""
    ranked = sorted(metrics.lending, key=lambda row: -max(row.lent_gpu_h, row.borrowed_gpu_h))[:TOP_ROWS]
    shown = [row for row in ranked if row.lent_gpu_h or row.borrowed_gpu_h]
    y = list(range(len(shown)))
    sides = (
        ("lent", "@c2", 1, [row.lent_gpu_h for row in shown]),
        ("borrowed", "@c1", -1, [row.borrowed_gpu_h for row in shown]),
    )
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "x": rounded(np.array(values) * sign),
            "y": y,
            "name": word(name).plot(),
            "marker": {"color": colour},
            "customdata": [number(v) for v in values],
            "hovertemplate": "%{fullData.name}: %{customdata} GPU-h<extra></extra>",
        }
        for name, colour, sign, values in sides
    ]
    longest = max((max(row.lent_gpu_h, row.borrowed_gpu_h) for row in shown), default=1.0)
    step = _nice_step(longest)
    ticks = np.arange(-math.ceil(longest / step), math.ceil(longest / step) + 1) * step
    layout = {
        "barmode": "relative",
        "bargap": 0.35,
        "hovermode": "closest",
        "xaxis": {
            "title": axis_title("gpu_hours"),
            "tickvals": rounded(ticks),
            "ticktext": [thousands(abs(t)) or "0" for t in ticks],
            "zeroline": True,
        },
        "yaxis": {
            "tickvals": y,
            "ticktext": [plain(shortened(same(row.name), 22).en) for row in shown],
            "range": [len(shown) - 0.4, -0.6],
            "showgrid": False,
        },
    }
    table = Table(
        [word("col_member"), word("col_lent"), word("col_borrowed"), word("col_balance")],
        [
            [
                name_cell(row.name),
                *(cell(number(v), v) for v in (row.lent_gpu_h, row.borrowed_gpu_h, row.balance_gpu_h)),
            ]
            for row in shown
        ],
    )
    return Plot(
        "balance", word("fig_balance"), word("cap_balance"), 110 + 28 * len(shown), data, layout, table
    )


def sites_plot(result: RunResult) -> Plot:
    """Mean, peak and cap of the sites with most power."""
    power_mw = result.series.site_power_w / MW
    peak_mw = power_mw.max(axis=1)
    mean_mw = np.array([float(interval_means(result.series.t_ms, site, 1)[1][0]) for site in power_mw])
    top, _ = top_and_rest(peak_mw, TOP_ROWS)
    sites = [result.fleet.sites[s] for s in top]
    y = list(range(len(top)))
    capped = [i for i in y if sites[i].power_cap_w]
    data: list[dict[str, Any]] = [
        {
            "type": "bar",
            "orientation": "h",
            "x": rounded(mean_mw[top]),
            "y": y,
            "name": word("mean").plot(),
            "marker": {"color": "@c4"},
            "hovertemplate": "%{fullData.name}: %{x:,.2f} MW<extra></extra>",
        },
        {
            "type": "scatter",
            "mode": "markers",
            "x": rounded(peak_mw[top]),
            "y": y,
            "name": word("peak").plot(),
            "marker": {"color": "@c1", "size": 9},
            "hovertemplate": "%{fullData.name}: %{x:,.2f} MW<extra></extra>",
        },
    ]
    if capped:
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [sites[i].power_cap_w / MW for i in capped],
                "y": capped,
                "name": word("cap").plot(),
                "marker": {
                    "color": "@ink",
                    "symbol": "line-ns",
                    "size": 18,
                    "line": {"width": 2.5, "color": "@ink"},
                },
                "hovertemplate": "%{fullData.name}: %{x:,.2f} MW<extra></extra>",
            }
        )
    layout = {
        "bargap": 0.4,
        "legend": {"itemsizing": "constant"},
        "hovermode": "closest",
        "xaxis": {"title": axis_title("power_axis"), "rangemode": "tozero"},
        "yaxis": {
            "tickvals": y,
            "ticktext": [plain(shortened(same(site.name), 22).en) for site in sites],
            "range": [len(top) - 0.4, -0.6],
            "showgrid": False,
        },
    }
    header = [word("site"), word("mean"), word("peak"), word("cap"), word("col_energy")]
    table = Table(
        header,
        [
            [
                name_cell(site.name),
                cell(number(float(mean_mw[s])), float(mean_mw[s])),
                cell(number(float(peak_mw[s])), float(peak_mw[s])),
                cell(number(site.power_cap_w / MW) if site.power_cap_w else "–", site.power_cap_w / MW),
                cell(number(float(result.energy_wh[s]) / MW), float(result.energy_wh[s])),
            ]
            for s, site in enumerate(result.fleet.sites)
        ],
    )
    return Plot(
        "sites",
        word("fig_sites"),
        word("cap_sites", n=str(len(top))),
        110 + 28 * len(top),
        data,
        layout,
        table,
    )


def _top_or_rest(size: NDArray[Any], num: int) -> tuple[list[int], list[NDArray[Any]]]:
    """The largest that are not 0, one by one, then the other ones as one group; −1 stands for that group."""
    top, rest = top_and_rest(size, num)
    rest = rest[size[rest] > 0]
    heads = [int(m) for m in top if size[m] > 0]
    groups = [np.array([m]) for m in heads]
    return ([*heads, -1], [*groups, rest]) if len(rest) else (heads, groups)


def _some(names: list[str], members: NDArray[Any], head: int) -> Text:
    return word("others", n=count(len(members))) if head < 0 else same(names[head])


def _nice_step(longest: float) -> float:
    """1, 2 or 5 times a power of ten, two to four steps to ``longest``."""
    rough = longest / 3 or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    return power * next(m for m in (1, 2, 5, 10) if m * power >= rough * 0.999)

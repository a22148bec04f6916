"""The plot of where each kind of work's GPU-time went."""

from __future__ import annotations

import math

import numpy as np

from dure.twin.metrics import RunMetrics, WorkRow
from dure.twin.report.figure import Plot, Table, axis_title, count_cell, in_languages, rounded, shortened
from dure.twin.report.words import Text, count, joined, percent, same, word

#: Parts of the time in the order in which they stand, with their colours.
PARTS = (("useful", "@c2"), ("idle", "@rest"), ("saving", "@c5"), ("restarting", "@c4"), ("lost", "@c1"))


def name_of(row: WorkRow) -> Text:
    """A kind's name; jobs without a kind have one too."""
    return same(row.name) if row.name else word("work_other")


def work_plot(metrics: RunMetrics) -> Plot:
    """Shares of the GPU-time of each kind, those with most of it first."""
    shown = sorted((row for row in metrics.by_work if row.gpu_h > 0), key=lambda row: -row.gpu_h)
    y = list(range(len(shown)))
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "x": rounded(np.array([100 * getattr(row, part) for row in shown])),
            "y": y,
            "name": word(f"work_{part}").plot(),
            "marker": {"color": colour},
            "customdata": [percent(getattr(row, part)) for row in shown],
            "hovertemplate": "%{fullData.name}: %{customdata}<extra></extra>",
        }
        for part, colour in PARTS
    ]
    layout = {
        "barmode": "stack",
        "bargap": 0.35,
        "hovermode": "closest",
        "xaxis": {"title": axis_title("work_axis"), "range": [0, 101], "tickvals": [0, 25, 50, 75, 100], "ticksuffix": "%"},
        "yaxis": {
            "tickvals": y,
            "ticktext": in_languages([joined(shortened(name_of(row), 22), word("work_hours", hours=count(row.gpu_h))) for row in shown]),
            "range": [len(shown) - 0.4, -0.6],
            "showgrid": False,
        },
    }
    table = Table(
        [word("col_work"), word("col_jobs"), word("gpu_hours"), word("col_failures"), *(word(f"work_{part}") for part, _ in PARTS)],
        [
            [
                (name_of(row), None), count_cell(row.num_jobs), count_cell(row.gpu_h), count_cell(row.num_failures),
                *((same(percent(getattr(row, part))), getattr(row, part)) for part, _ in PARTS),
            ]
            for row in shown
        ],
    )  # fmt: skip
    return Plot("work", word("fig_work"), word("cap_work"), 110 + 28 * len(shown), data, layout, table)


def work_text(metrics: RunMetrics) -> Text:
    """What part of the GPU-time was useful, and what took the rest."""
    hours = sum(row.gpu_h for row in metrics.by_work)
    of_all = {part: sum(row.gpu_h * getattr(row, part) for row in metrics.by_work if row.gpu_h > 0) / hours if hours else math.nan for part, _ in PARTS}
    return word("work_text", hours=count(hours), **{part: percent(share) for part, share in of_all.items()})

"""The report of one replay of a cell site: one HTML file that opens offline."""

from __future__ import annotations

import html

import numpy as np
import plotly.graph_objects as go
import plotly.offline
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from dure.ran import kernels as k
from dure.ran.guard_run import GuardRun
from dure.whole_file import whole_file

_SM_BIN = 4
_STYLE = "body{font:15px system-ui;max-width:70rem;margin:2rem auto;padding:0 1rem}td{padding:.1rem 1rem .1rem 0}"


def write_guard_report(run: GuardRun, path: str) -> None:
    """Write the figures of a replay, by the hour of the day; the file appears whole or not at all."""
    figures = (_day(run), _causes(run), _heat_map(run))
    plots = "".join(f.to_html(full_html=False, include_plotlyjs=False) for f in figures)
    rows = "".join(
        f"<tr><td>{name}<td>{html.escape(f'{value:.7g}' if isinstance(value, float) else str(value))}"
        for name, value in {**run.summary(), **run.causes()}.items()
    )
    text = (
        f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>Dure: cell site</title><style>{_STYLE}</style>'
        f"<script>{plotly.offline.get_plotlyjs()}</script>"
        f"<h1>A cell site under {html.escape(run.policy)}</h1><p>Loads are measured in steps of two minutes and "
        f"<b>synthetic below two minutes</b>; costs are of NVIDIA's stated budgets, not measured.</p>"
        f"<table>{rows}</table>{plots}</html>"
    )
    with whole_file(path) as draft:
        draft.write_text(text, encoding="utf-8")


def _by_hour(run: GuardRun, values: NDArray[np.float64] | NDArray[np.int64]) -> NDArray[np.float64]:
    return np.bincount(run.loads.hour[run.windows], weights=values, minlength=24).astype(np.float64)


def _day(run: GuardRun) -> go.Figure:
    slots = _by_hour(run, run.counts[:, k.SLOTS])
    missed = _by_hour(run, run.counts[:, k.HARD] + run.counts[:, k.SOFT])
    is_seen = slots > 0
    hours = np.arange(24)[is_seen]
    figure = make_subplots(specs=[[{"secondary_y": True}]])
    lent = _by_hour(run, run.sums[:, k.LENT])[is_seen] / _by_hour(run, run.sums[:, k.IDLE])[is_seen]
    figure.add_bar(x=hours, y=100 * lent, name="idle GPU that is lent, %")
    figure.add_scatter(
        x=hours, y=1e6 * missed[is_seen] / slots[is_seen], name="slots not on time, per million", secondary_y=True
    )
    figure.update_layout(title="Lent share and lateness over the day", xaxis_title="hour of the day")
    figure.update_yaxes(title_text="%", range=[0, 100], secondary_y=False)
    figure.update_yaxes(title_text="per million", rangemode="tozero", secondary_y=True)
    return figure


def _causes(run: GuardRun) -> go.Figure:
    causes = {
        "late downlink or control, or a cell interrupted (hard)": k.HARD,
        "uplink decode cut short (soft)": k.CUT,
        "downlink held back (soft)": k.HELD,
    }
    figure = go.Figure()
    for name, column in causes.items():
        figure.add_bar(x=np.arange(24), y=_by_hour(run, run.counts[:, column]), name=name)
    figure.update_layout(
        title="Missed slots by cause", barmode="stack", xaxis_title="hour of the day", yaxis_title="slots"
    )
    return figure


def _heat_map(run: GuardRun) -> go.Figure:
    """How many SMs the radio keeps, by the hour: share of the stretches that were played."""
    kept = run.sums[:, k.KEPT] / run.counts[:, k.SLOTS]
    hour = run.loads.hour[run.windows]
    edges = np.arange(0, 132 + 2 * _SM_BIN, _SM_BIN)
    counts, _, _ = np.histogram2d(kept, hour, bins=(edges, np.arange(25)))
    share = 100 * counts / np.maximum(counts.sum(axis=0), 1)
    figure = go.Figure(
        go.Heatmap(x=np.arange(24), y=edges[:-1], z=share, colorscale="Viridis", colorbar={"title": "%"})
    )
    figure.update_layout(title="SMs kept for the radio", xaxis_title="hour of the day", yaxis_title="SMs (mean of a stretch)")
    return figure

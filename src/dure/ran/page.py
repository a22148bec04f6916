"""A page of plots in one file that opens offline: what the pages of `dure ran offload` and `dure ran sleep` share."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass, field
from typing import Any

import plotly.offline

from dure.whole_file import whole_file

_LAYOUT = {
    "template": "none", "height": 380, "margin": {"l": 60, "r": 60, "t": 20, "b": 110}, "barmode": "group",
    "legend": {"orientation": "h", "y": 1.12}, "font": {"family": "system-ui, sans-serif", "size": 13},
}  # fmt: skip
_STYLE = "body{font:16px/1.5 system-ui,sans-serif;max-width:1000px;margin:2rem auto;padding:0 1rem;color:#1c2126}h2{margin-top:2.5rem}"
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


@dataclass(frozen=True)
class PagePlot:
    """A plot: traces of plotly.js, what stands along its axis of values, and what its layout has besides."""

    title: str
    traces: list[dict[str, Any]]
    axis: str
    layout: dict[str, Any] = field(default_factory=dict)


def write_plots(path: str, title: str, heading: str, before: str, plots: list[PagePlot], after: str) -> None:
    """Write the page; ``before`` and ``after`` are HTML around the plots. The file appears whole or not at all."""
    parts = [f"<h1>{html.escape(heading)}</h1>", before]
    for i, plot in enumerate(plots):
        layout = {**_LAYOUT, "yaxis": {"title": {"text": plot.axis}}, **plot.layout}
        spec = json.dumps({"data": plot.traces, "layout": layout}, allow_nan=False).replace("<", "\\u003c")
        parts.append(f'<h2>{html.escape(plot.title)}</h2><div id="plot{i}"></div><script type="application/json" id="spec{i}">{spec}</script>')
    draw = (
        'document.querySelectorAll("script[id^=spec]").forEach(s=>{const p=JSON.parse(s.textContent);'
        'Plotly.newPlot(s.id.replace("spec","plot"),p.data,p.layout,{displayModeBar:false,responsive:true})})'
    )
    text = (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>{''.join(parts)}{after}"
        f"<script>{plotly.offline.get_plotlyjs()}</script><script>{draw}</script></body></html>\n"
    )
    with whole_file(path) as draft:
        draft.write_text(text, encoding="utf-8")

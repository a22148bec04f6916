"""The page of `dure ran offload --html`: energy, control and latency over fading and load, in one file that opens offline."""

from __future__ import annotations

import html
import json
from typing import Any

import plotly.offline

from dure.ran.offload_run import ANSWERED_BY_MS
from dure.whole_file import whole_file

_COLOURS = {"site": "#b4562b", "dure": "#1f6f5c", "clairvoyant": "#8a8f98"}
_LAYOUT = {
    "template": "none", "height": 380, "margin": {"l": 60, "r": 20, "t": 20, "b": 110}, "barmode": "group",
    "legend": {"orientation": "h", "y": 1.12}, "font": {"family": "system-ui, sans-serif", "size": 13},
}  # fmt: skip
_STYLE = "body{font:16px/1.5 system-ui,sans-serif;max-width:1000px;margin:2rem auto;padding:0 1rem;color:#1c2126}h2{margin-top:2.5rem}"
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def write_page(found: dict[str, Any], path: str) -> None:
    """Write what `run_offload` found; the file appears whole or not at all."""
    with whole_file(path) as draft:
        draft.write_text(_page(found), encoding="utf-8")


def _page(found: dict[str, Any]) -> str:
    assumed = ", ".join(f"{key} {value:g}" for key, value in found["assumed"].items())
    late = f"at most {found['epsilon']:g} of the answers asked for may come later than {found['deadline_ms']:g} ms"
    parts = [
        "<h1>A control loop on the device, at the cell site, or where Dure chooses</h1>",
        f"<p>{found['episodes']} episodes of {found['periods_per_episode']} periods of {found['period_ms']:g} ms in each cell; {late}. "
        "Bars carry 95% intervals over the episodes. Link and power are models.</p>",
    ]
    plots = [("Energy saved against the device alone", _energy(found["cells"]), "share saved")]
    if found["task"] != "none":
        plots.append(("Control cost against the device alone", _control(found["cells"]), "relative change"))
    plots.append(("Requests answered in time, each sent whole (dots: split)", _latency(found["cells"]), "share answered"))
    for i, (title, traces, axis) in enumerate(plots):
        layout = {**_LAYOUT, "yaxis": {"title": {"text": axis}}}
        spec = json.dumps({"data": traces, "layout": layout}, allow_nan=False).replace("<", "\\u003c")
        parts.append(f'<h2>{html.escape(title)}</h2><div id="plot{i}"></div><script type="application/json" id="spec{i}">{spec}</script>')
    parts.append(f"<h2>Assumed</h2><p>{html.escape(assumed)}</p>")
    draw = (
        'document.querySelectorAll("script[id^=spec]").forEach(s=>{const p=JSON.parse(s.textContent);'
        'Plotly.newPlot(s.id.replace("spec","plot"),p.data,p.layout,{displayModeBar:false,responsive:true})})'
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>Dure: offload</title><style>{_STYLE}</style></head><body>{''.join(parts)}"
        f"<script>{plotly.offline.get_plotlyjs()}</script><script>{draw}</script></body></html>\n"
    )


def _name(cell: dict[str, Any]) -> str:
    return f"{cell['snr_db']:g} dB, {cell['speed_kmh']:g} km/h, load {cell['load']:g}"


def _bars(cells: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """Bars of site always and of Dure's choice with their intervals, a group a cell."""
    traces = []
    for policy, name in (("site", "site always"), ("dure", "Dure")):
        of = [cell["policies"][policy][key] for cell in cells]
        high = [None if o["high"] is None else o["high"] - o["mean"] for o in of]
        traces.append({
            "type": "bar", "name": name, "x": [_name(cell) for cell in cells], "y": [o["mean"] for o in of],
            "marker": {"color": _COLOURS[policy]}, "error_y": {"type": "data", "array": high, "thickness": 1},
        })  # fmt: skip
    return traces


def _energy(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    bound = {
        "type": "scatter", "mode": "markers", "name": "clairvoyant, none late", "x": [_name(cell) for cell in cells],
        "y": [cell["saving_clairvoyant"] for cell in cells], "marker": {"color": _COLOURS["clairvoyant"], "symbol": "line-ew-open", "size": 18},
    }  # fmt: skip
    return [*_bars(cells, "energy_saving"), bound]


def _control(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return _bars(cells, "control_cost_change")


def _latency(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    traces = []
    for i, cell in enumerate(cells):
        for place, dash in (("site", "solid"), ("split", "dot")):
            traces.append({
                "type": "scatter", "mode": "lines", "name": _name(cell), "legendgroup": str(i), "showlegend": place == "site",
                "x": [f"{ms} ms" for ms in ANSWERED_BY_MS], "y": cell["latency_ms"][place]["answered_by"],
                "line": {"dash": dash, "color": f"hsl({360 * i // len(cells)},45%,45%)"},
            })  # fmt: skip
    return traces

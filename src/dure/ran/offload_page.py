"""The page of `dure ran offload --html`: energy, control and latency over fading and load, in one file that opens offline."""

from __future__ import annotations

import html
from typing import Any

from dure.ran.offload_run import ANSWERED_BY_MS
from dure.ran.page import PagePlot, write_plots

#: Twelve lines' names do not fit above a plot.
_LEGEND_BELOW = {"height": 480, "legend": {"orientation": "h", "y": -0.12}}
_COLOURS = {"site": "#b4562b", "dure": "#1f6f5c", "clairvoyant": "#8a8f98"}


def write_page(found: dict[str, Any], path: str) -> None:
    """Write what `run_offload` found; the file appears whole or not at all."""
    assumed = ", ".join(f"{key} {value:g}" for key, value in found["assumed"].items())
    late = f"at most {found['epsilon']:g} of the answers asked for may come later than {found['deadline_ms']:g} ms"
    before = (
        f"<p>{found['episodes']} episodes of {found['periods_per_episode']} periods of {found['period_ms']:g} ms in each cell; {late}. "
        "Bars carry 95% intervals over the episodes. Link and power are models.</p>"
    )
    plots = [PagePlot("Energy saved against the device alone", _energy(found["cells"]), "share saved")]
    if found["task"] != "none":
        plots.append(PagePlot("Control cost against the device alone", _control(found["cells"]), "relative change"))
    plots.append(PagePlot("Requests answered in time, each sent whole (dots: split)", _latency(found["cells"]), "share answered", _LEGEND_BELOW))
    heading = "A control loop on the device, at the cell site, or where Dure chooses"
    write_plots(path, "Dure: offload", heading, before, plots, f"<h2>Assumed</h2><p>{html.escape(assumed)}</p>")


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

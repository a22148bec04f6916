"""The page of `dure ran sleep --html`: energy by state, and what is saved beside the clairvoyant bound, in one file that opens offline."""

from __future__ import annotations

import html
from typing import Any

from dure.ran.page import PagePlot, write_plots

_STATES = {
    "downlink": "#b4562b", "uplink": "#d08a5f", "common": "#8f6fb0", "micro": "#c9b458", "light": "#5b9bb5", "deep": "#1f6f5c", "transitions": "#8a8f98",
}  # fmt: skip
_WAYS = {"fixed timers": "#8a8f98", "Dure": "#1f6f5c", "clairvoyant": "#c9ced6"}


def write_sleep_page(found: dict[str, Any], path: str) -> None:
    """Write what `run_sleep` found; the file appears whole or not at all."""
    before = (
        f"<p>{html.escape(found['bs_table'])} of TR 38.864, signals every {found['ssb_ms']} ms; load {html.escape(found['load'])}, mean {found['mean_load']:.2f} of the downlink, "
        f"<b>synthetic below {found['synthetic_below_s']:g} s</b>. Powers are relative; a station that never sleeps is 1.</p>"
    )
    sites = {f"{1 + found['capacity_carriers']} carriers": {key.removeprefix("bs_"): value for key, value in found.items() if key.startswith("bs_")}}
    if "bs_one_carrier" in found:
        sites["one carrier"] = found["bs_one_carrier"]
    plots = [
        PagePlot("Energy of the station by what it went to", _by_state(sites), "share of a station that never sleeps", {"barmode": "stack"}),
        PagePlot("Energy saved", _saved(found, sites), "share saved"),
        PagePlot("Delay added, 95th percentile", _delays(found, sites), "ms"),
        PagePlot("Power of the site's GPUs", _gpus(found["gpu"]), "W"),
    ]
    write_plots(path, "Dure: sleep", "Base stations, devices and GPUs that sleep", before, plots, "")


def _by_state(sites: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    names = [name for name in sites for _ in ("fixed timers", "Dure")]
    ways = ["fixed timers", "Dure"] * len(sites)
    runs = [site[key] for site in sites.values() for key in ("fixed_timer_energy_by_state", "energy_by_state")]
    return [
        {"type": "bar", "name": state, "x": [names, ways], "y": [run.get(state, 0.0) for run in runs], "marker": {"color": colour}}
        for state, colour in _STATES.items()
    ]


def _saved(found: dict[str, Any], sites: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    rows = [(name, site["fixed_timer_saving"], site["saving"], site["clairvoyant_saving"]) for name, site in sites.items()]
    # A device's fixed timers are what its savings are counted against.
    rows.append(("device, FTP model 3", None, found["ue_saving"], found["ue_clairvoyant_saving"]))
    rows.append(("device, sessions", None, found["ue_sessions"]["saving"], found["ue_sessions"]["clairvoyant_saving"]))
    return _bars(rows)


def _delays(found: dict[str, Any], sites: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    rows = [(name, site["fixed_timer_added_p95_ms"], site["added_p95_ms"], None) for name, site in sites.items()]
    rows.append(("device, FTP model 3", found["ue_fixed_added_p95_ms"], found["ue_added_p95_ms"], None))
    rows.append(("device, sessions", found["ue_sessions"]["fixed_added_p95_ms"], found["ue_sessions"]["added_p95_ms"], None))
    return _bars(rows)


def _bars(rows: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """A group a row: its name, then a value each for fixed timers, Dure and the clairvoyant; None: no such."""
    names = [row[0] for row in rows]
    columns = zip(_WAYS.items(), range(1, 4), strict=True)
    return [
        {"type": "bar", "name": way, "x": names, "y": [row[at] for row in rows], "marker": {"color": colour}}
        for (way, colour), at in columns if any(row[at] is not None for row in rows)
    ]  # fmt: skip


def _gpus(runs: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    names = [f"{name.replace('_', ' ')}<br>too few in {run['short_share']:.1%} of windows" for name, run in runs.items()]
    return [{"type": "bar", "x": names, "y": [run["mean_w"] for run in runs.values()], "marker": {"color": _WAYS["Dure"]}}]

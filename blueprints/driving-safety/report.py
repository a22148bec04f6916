"""Put the shards together: measures with their confidence, the worst scenes drawn, and the gate."""

from __future__ import annotations

import argparse
import csv
import html
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from measures import quantile_interval, share_interval
from scenes import CROSSED_M, FAMILIES, LENGTH_M

from dure.client import job
from dure.model.errors import InputError
from dure.whole_file import whole_file

DRIVERS = {"idm": "#1f77b4", "reference": "#7f7f7f", "trained": "#d62728"}
#: The families in which something happens that must be reacted to: what the metric counts.
EVENTS = ("cut-in", "cut-out", "braking")
MEASURES = ("is_hit", "impact_mps", "ttc_min", "brake_max_mps2", "jerk_p95_mps3", "progress")

Row = dict[str, Any]


def read_options() -> argparse.Namespace:
    """The command line; 2 is the exit code of a bad one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--gate", type=float, default=0.1, help="share of collisions of the trained driver that still passes")
    options = parser.parse_args()
    if not 0 <= options.gate <= 1:
        parser.error("--gate must be from 0 to 1")
    return options


def read_rows(folder: Path) -> list[Row]:
    """All shards' drives.

    Raises
    ------
    InputError
        There are none, or two shards drove the same scene.
    """
    rows: list[Row] = []
    for path in sorted(folder.rglob("scenes.csv")):
        with path.open(newline="") as file:
            rows += [{**row, **{name: float(row[name]) for name in MEASURES}} for row in csv.DictReader(file)]
    if not rows:
        raise InputError("has no scenes.csv: run sweep.py first", str(folder))
    keys = [(row["family"], row["scene"], row["driver"]) for row in rows]
    if len(set(keys)) < len(keys):
        raise InputError("holds a scene twice: are these shards of one sweep?", str(folder))
    return rows


def read_worst(folder: Path) -> dict[str, Any]:
    """The worst scene of each family over all shards."""
    worst: dict[str, Any] = {}
    for path in sorted(folder.rglob("worst.json")):
        for family, scene in json.loads(path.read_text()).items():
            if family not in worst or scene["badness"] > worst[family]["badness"]:
                worst[family] = scene
    return worst


def summed_up(rows: Sequence[Row]) -> list[Row]:
    """A line for each family and driver.

    A collision is avoidable where the reference driver, in the same scene, has none.
    """
    spared = {(row["family"], row["scene"]) for row in rows if row["driver"] == "reference" and not row["is_hit"]}
    lines = []
    for family in FAMILIES:
        for driver in DRIVERS:
            own = [row for row in rows if (row["family"], row["driver"]) == (family, driver)]
            if not own:
                continue
            num_hit = sum(int(row["is_hit"]) for row in own)
            low, high = share_interval(num_hit, len(own))
            ttc, ttc_low, ttc_high = quantile_interval([row["ttc_min"] for row in own], 0.05)
            lines.append(
                {
                    "family": family,
                    "driver": driver,
                    "scenes": len(own),
                    "collisions": num_hit,
                    "collision_rate": num_hit / len(own),
                    "collision_rate_low": low,
                    "collision_rate_high": high,
                    "avoidable": sum(int(row["is_hit"]) for row in own if (family, row["scene"]) in spared),
                    "impact_mean_mps": float(np.mean([row["impact_mps"] for row in own if row["is_hit"]])) if num_hit else 0.0,
                    "ttc_p5": ttc,
                    "ttc_p5_low": ttc_low,
                    "ttc_p5_high": ttc_high,
                    "brake_p95_mps2": float(np.quantile([row["brake_max_mps2"] for row in own], 0.95)),
                    "jerk_mean_mps3": float(np.mean([row["jerk_p95_mps3"] for row in own])),
                    "progress": float(np.mean([row["progress"] for row in own])),
                }
            )
    return lines


def draw_bars(axes: Any, lines: Sequence[Row]) -> None:
    """Collision rates with their 95%."""
    families = [family for family in FAMILIES if any(line["family"] == family for line in lines)]
    for k, (driver, colour) in enumerate(DRIVERS.items()):
        own = [line for line in lines if line["driver"] == driver]
        rates = np.array([line["collision_rate"] for line in own])
        around = np.array([[line["collision_rate"] - line["collision_rate_low"], line["collision_rate_high"] - line["collision_rate"]] for line in own])  # fmt: skip
        axes.bar(np.arange(len(own)) + (k - 1) * 0.27, rates, 0.25, yerr=np.maximum(around.T, 0), color=colour, capsize=2, label=driver)
    axes.set_xticks(range(len(families)), families)
    axes.set_title("share of scenes with a collision (95%)")
    axes.legend(frameon=False)


def draw_scene(axes: Any, family: str, scene: Row) -> None:
    """Positions over time, seen from one that keeps the speed of the beginning."""
    trained = scene["drives"]["trained"]
    ahead: dict[str, list[tuple[float, float, bool]]] = {}
    for step, (others, own_m) in enumerate(zip(trained["others"], trained["place_m"], strict=True)):
        time_s = step * scene["dt_s"]
        for name, (place_m, y_m) in others.items():
            is_before = abs(y_m) < CROSSED_M and place_m > own_m - LENGTH_M
            ahead.setdefault(name, []).append((time_s, place_m - scene["speed_mps"] * time_s, is_before))
    for path in ahead.values():
        times, places, is_in_lane = (np.array(values) for values in zip(*path, strict=True))
        axes.plot(times, places, color="0.8", lw=0.8)
        axes.plot(times, np.where(is_in_lane, places, np.nan), color="black", lw=1.4)
    for name, drive in scene["drives"].items():
        times = np.arange(len(drive["place_m"])) * scene["dt_s"]
        places = np.array(drive["place_m"]) - scene["speed_mps"] * times
        axes.plot(times, places, color=DRIVERS[name], lw=1.3, ls="-" if name == "trained" else "--")
        if drive["is_hit"]:
            axes.plot(times[-1], places[-1], "x", color=DRIVERS[name], ms=8, mew=2)
    bottom = min(min(np.array(drive["place_m"]) - scene["speed_mps"] * np.arange(len(drive["place_m"])) * scene["dt_s"]) for drive in scene["drives"].values())  # fmt: skip
    axes.set_ylim(bottom - LENGTH_M, 70)
    axes.set_title(f"{family} {scene['scene']}: the trained driver's worst")
    axes.set_xlabel("s")
    axes.set_ylabel(f"m, from {scene['speed_mps'] * 3.6:.0f} km/h kept")


def picture(lines: Sequence[Row], worst: dict[str, Any]) -> Figure:
    """Bars, and the worst scene of each family."""
    figure = Figure(figsize=(13, 7), layout="constrained")
    places = figure.subplots(2, 3).ravel()
    draw_bars(places[0], lines)
    for axes, family in zip(places[1:], FAMILIES, strict=True):
        if family in worst:
            draw_scene(axes, family, worst[family])
        else:
            axes.set_axis_off()
    return figure


def page(lines: Sequence[Row], figure: Figure, said: str) -> str:
    """A report that needs no other file."""
    drawn = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "dure"}):
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    svg = drawn.getvalue()
    head = ("family", "driver", "scenes", "collisions", "rate [95%]", "avoidable", "mean impact, m/s", "TTC p5 [95%], s", "braking p95, m/s²", "jerk p95, mean, m/s³", "progress")  # fmt: skip
    body = "".join(
        "<tr>"
        + "".join(
            f"<td>{html.escape(str(cell))}</td>"
            for cell in (
                line["family"],
                line["driver"],
                line["scenes"],
                line["collisions"],
                f"{line['collision_rate']:.3f} [{line['collision_rate_low']:.3f}, {line['collision_rate_high']:.3f}]",
                line["avoidable"],
                f"{line['impact_mean_mps']:.1f}",
                f"{line['ttc_p5']:.2f} [{line['ttc_p5_low']:.2f}, {line['ttc_p5_high']:.2f}]",
                f"{line['brake_p95_mps2']:.1f}",
                f"{line['jerk_mean_mps3']:.1f}",
                f"{line['progress']:.3f}",
            )
        )
        + "</tr>"
        for line in lines
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Driving safety</title>'
        "<style>body{font:15px sans-serif;margin:2em}td,th{padding:.2em .7em;text-align:right}svg{max-width:100%;height:auto}</style>"
        f"<h1>Driving safety</h1><p>{html.escape(said)}</p>"
        f"<table><tr>{''.join(f'<th>{html.escape(name)}</th>' for name in head)}</tr>{body}</table>{svg[svg.index('<svg') :]}"
        "<p>Avoidable: the reference driver has no collision in the same scene. Progress: mean speed over the wished one. Lane departure "
        "cannot happen: no driver here steers. Black lines: the rear of a vehicle ahead in the ego lane; grey: any other; coloured: the drivers' front; crosses: collisions.</p></html>"
    )


def main() -> None:
    """Read, sum up, draw, judge."""
    options = read_options()
    folder = job.input_dir("state/output")
    rows = read_rows(folder)
    lines = summed_up(rows)

    def over_events(driver: str, name: str) -> int:
        return sum(line[name] for line in lines if line["driver"] == driver and line["family"] in EVENTS)

    rate = {driver: over_events(driver, "collisions") / over_events(driver, "scenes") for driver in DRIVERS}
    has_passed = rate["trained"] <= options.gate
    said = (
        f"The trained driver collides in {rate['trained']:.3f} of the scenes in which something happens (IDM {rate['idm']:.3f}, "
        f"reference {rate['reference']:.3f}); the gate at {options.gate:g} is {'passed' if has_passed else 'not passed'}."
    )
    output = job.output_dir("state/output")
    figure = picture(lines, read_worst(folder))
    with whole_file(output / "summary.csv") as draft, draft.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    with whole_file(output / "report.html") as draft:
        draft.write_text(page(lines, figure, said))
    with whole_file(output / "result.png") as draft:
        figure.savefig(draft, format="png", dpi=75)
    job.report_metrics(
        collision_rate=rate["trained"],
        collision_rate_idm=rate["idm"],
        collision_rate_reference=rate["reference"],
        collisions_avoidable=over_events("trained", "avoidable"),
        collisions_avoidable_idm=over_events("idm", "avoidable"),
        **{f"progress_{name}_{line['driver']}": line["progress"] for line in lines for name in [line["family"].replace("-", "_")]},
        scenes=over_events("trained", "scenes"),
    )
    print(said)
    if not has_passed:
        sys.exit(1)


if __name__ == "__main__":
    job.run_program(main)

"""Compare the load that comes out of the generator with the recorded one: ``python benchmarks/fit/check.py``.

Reads the data sets under DURE_DATA and writes the second table of docs/load.md and docs/img/fit_arrivals.svg.
Deterministic: the same data give the same files.
"""

from __future__ import annotations

import sys
from datetime import date

import numpy as np
from svg import lines_svg

from dure.model.fleet import uniform_fleet
from dure.model.jobs import Trace
from dure.model.terms import single_member_terms
from dure.twin.data import data_dir
from dure.twin.generate import CLASS_NAMES, LoadSpec, generate
from dure.twin.generate.classes import ASSUMED
from fit import ROOT, recorded_arrivals, recorded_classes, write_table

NUM_GPUS, NUM_WEEKS, LOAD, SEED = 40_000, 4, 0.5, 1


def distance(left: np.ndarray, right: np.ndarray, left_weights: np.ndarray | None = None) -> float:
    """Largest distance of two empirical distribution functions; ``left`` may have weights."""
    order = np.argsort(left, kind="stable")
    weights = np.ones(len(left)) if left_weights is None else left_weights
    cumulated = np.concatenate([[0.0], np.cumsum(weights[order])]) / weights.sum()
    at = np.unique(np.concatenate([left, right]))
    ours = np.searchsorted(np.sort(right), at, side="right") / len(right)
    return float(np.abs(cumulated[np.searchsorted(left[order], at, side="right")] - ours).max())


def class_rows(trace: Trace, recorded: dict) -> list[str]:
    job_class = trace.extra["job_class"]
    lines = []
    for name, (_, seconds, sizes) in recorded.items():
        jobs = trace.jobs[job_class == CLASS_NAMES.index(name)]
        # The fit takes times under a second as one second.
        times = distance(np.maximum(seconds, 1.0), jobs["duration_ms"] / 1000)
        gpus = np.array(sizes["num_gpus"]) * np.array(sizes["gpu_milli"])
        # Sizes of pre-training are extrapolated: there is no record to stand beside them.
        drawn = jobs["num_gpus"].astype(np.int64) * jobs["gpu_milli"]
        size = "" if name == "pretraining" else f"{distance(gpus, drawn, np.array(sizes['weights'])):.3f}"
        lines.append(f"| {name.replace('_', '-')} | {len(jobs):,} | {times:.3f} | {size} |")
    return lines


def shares(hours: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Part of the arrivals in each hour of the week, whole weeks only, (168,)."""
    num = (int(hours.max()) + 1) // 168 * 168
    week = np.bincount(hours % 168, np.where(hours < num, counts, 0.0), 168)
    return week / week.sum()


def main() -> None:
    data = data_dir()
    if data is None:
        sys.exit("no data: set DURE_DATA to the folder with the data sets")
    spec = LoadSpec(7.0 * NUM_WEEKS, LOAD, date(2030, 7, 1))
    trace = generate(spec, uniform_fleet(NUM_GPUS, 8), single_member_terms(NUM_GPUS), SEED)
    lines = ["| jobs | drawn | KS of run times | KS of sizes |", "|---|---:|---:|---:|"]
    lines += class_rows(trace, recorded_classes(data))

    by_hand = [idx for idx, name in enumerate(CLASS_NAMES) if ASSUMED[name].rhythm == 1.0]
    at_hand = trace.jobs["submit_ms"][np.isin(trace.extra["job_class"], by_hand)]
    ours = shares((at_hand // 3_600_000).astype(np.int64), np.ones(len(at_hand)))
    lines += ["", "| arrivals of debug, sweeps, fine-tuning against | hour of the day | day of the week "
              "| hour of the week |", "|---|---:|---:|---:|"]
    curves = {"drawn": (ours * 168).tolist()}
    theirs_of = {name: shares(*rows) for name, rows in recorded_arrivals(data).items()}
    # Philly's clock, moved by the whole number of hours that brings it nearest to Helios' week.
    moved = [np.corrcoef(theirs_of["helios"], np.roll(theirs_of["philly"], -by))[0, 1] for by in range(24)]
    by = int(np.argmax(moved))
    theirs_of[f"philly, {by} h earlier"] = np.roll(theirs_of["philly"], -by)
    for name, theirs in theirs_of.items():
        gaps = [
            np.abs(np.cumsum(ours.reshape(7, 24).sum(axis=axis) - theirs.reshape(7, 24).sum(axis=axis))).max()
            for axis in (0, 1)
        ]
        gaps.append(np.abs(np.cumsum(ours - theirs)).max())
        lines.append(f"| {name[0].upper()}{name[1:]} | " + " | ".join(f"{gap:.3f}" for gap in gaps) + " |")
    curves |= {name: (theirs_of[name] * 168).tolist() for name in ("helios", "philly")}
    lines_svg(ROOT / "docs/img/fit_arrivals.svg", "arrivals, mean 1", curves)

    # Burstiness within an hour, so that the rhythm does not count: 10-minute counts around their hour's mean.
    counts = recorded_arrivals(data)["helios"][1]
    whole = counts[: len(counts) // 6 * 6].reshape(-1, 6)
    mine = np.bincount(at_hand // 600_000, minlength=NUM_WEEKS * 1008).reshape(-1, 6).astype(float)
    within = [float(rows.var(axis=1, ddof=1).mean() / rows.mean()) for rows in (whole, mine)]
    lines += ["", "| 10-minute counts: variance ÷ mean | Helios | drawn |", "|---|---:|---:|",
              f"| around the hour's mean | {within[0]:.1f} | {within[1]:.1f} |"]
    write_table("check", "\n".join(lines))


if __name__ == "__main__":
    main()

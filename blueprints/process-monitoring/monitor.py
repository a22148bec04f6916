"""Faults of a chemical plant, found by monitors that know only its normal operation, all at one rate of false alarms.

A step fits one monitor: on all of the normal run but one part of it, whose statistics it gives, or on the whole of it. Limits come
from the parts that were held out, since a model that has seen a sample finds it too normal. Which statistic and how much smoothing
is taken is decided by other runs of the faults than those of the test.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import joblib
import matplotlib as mpl
import numpy as np
from monitors import Autoencoder, CanonicalVariates, Monitor, PrincipalComponents
from plant import FAULTS, NORMAL_SAMPLES, Array, delay_min, limit_of, read_run, smoothed

from dure.client import job
from dure.client.saved import claim
from dure.whole_file import whole_file

mpl.use("Agg")
from matplotlib import pyplot as plt

#: Weights of the newest sample in the smoothing; 1: none.
WEIGHTS = (1.0, 0.5, 0.3, 0.2)

BASELINE = ("PCA T2", "PCA SPE")

Row = dict[str, Any]


def main() -> None:
    """Fit the monitors that are not there yet, then set limits and test."""
    options = _options()
    job.watch_signals()
    kept = job.checkpoint_dir("state/checkpoint")
    claim(kept, {key: value for key, value in vars(options).items() if key != "device"}, "monitors")
    folder = Path(os.environ.get("DURE_DATA") or Path(__file__).parents[3] / "shared" / "data") / "physical_ai" / "tep"
    normal = read_run(folder, 0, is_test=False)
    runs = {(fault, is_test): read_run(folder, fault, is_test=is_test) for fault in FAULTS for is_test in (False, True)}
    runs[0, True] = read_run(folder, 0, is_test=True)
    began = time.monotonic()
    monitors = _monitors(options)
    for step in range(len(monitors) * (options.folds + 1)):
        path = kept / f"fit-{step:03d}.joblib"
        if path.exists():
            continue
        monitor, fold = monitors[step // (options.folds + 1)], step % (options.folds + 1)
        if fold < options.folds:
            first, end = len(normal) * fold // options.folds, len(normal) * (fold + 1) // options.folds
            monitor.fit([part for part in (normal[:first], normal[end:]) if len(part)])
            # A sample's lags may lie before its part: they are only beside it, none of them is judged.
            fitted: Row = {"held_out": monitor.statistics(normal[max(0, first - monitor.lags) : end])}
        else:
            monitor.fit([normal])
            fitted = {"monitor": monitor, "of_runs": {which: monitor.statistics(run) for which, run in runs.items()}}
        with whole_file(path) as draft:
            joblib.dump(fitted, draft)
        job.report_progress(
            step=step, monitor=monitor.names[0].rsplit(" ", 1)[0], fold=fold, elapsed_s=time.monotonic() - began
        )
        if job.should_stop():
            job.leave()
    _finish(monitors, [joblib.load(path) for path in sorted(kept.glob("fit-*.joblib"))], options)


def _monitors(options: argparse.Namespace) -> list[Monitor]:
    return [
        PrincipalComponents("PCA", 0),
        PrincipalComponents("dynamic PCA", options.lags),
        CanonicalVariates(),
        Autoencoder(options.lags, options.epochs, options.width, options.device, options.seed),
    ]


def judge(held_out: list[Array], of_runs: dict[tuple[int, bool], Array], weight: float, false_alarms: float) -> Row:
    """What one statistic finds at the limit that held-out normal samples exceed as often as ``false_alarms`` says.

    Parameters
    ----------
    of_runs : dict
        Its values by fault and whether the run is of the test; the last value is of the run's last sample.
    """
    limit = limit_of(np.concatenate([smoothed(part, weight) for part in held_out]), false_alarms)
    alarms = {which: smoothed(values, weight) > limit for which, values in of_runs.items()}
    # Statistics begin some lags after the run does, so samples are counted from its end.
    faulty = {fault: alarms[fault, True][-(960 - NORMAL_SAMPLES) :] for fault in FAULTS}
    return {
        "weight": weight,
        "limit": limit,
        "false_alarms": float(alarms[0, True].mean()),
        "detection_in_training_runs": float(np.mean([alarms[fault, False].mean() for fault in FAULTS])),
        "mean_detection": float(np.mean([found.mean() for found in faulty.values()])),
        "detection": {fault: float(found.mean()) for fault, found in faulty.items()},
        "delay_min": {fault: delay_min(found) for fault, found in faulty.items()},
    }


def _finish(monitors: list[Monitor], fitted: list[Row], options: argparse.Namespace) -> None:
    table: list[Row] = []
    for place, monitor in enumerate(monitors):
        mine = fitted[place * (options.folds + 1) : (place + 1) * (options.folds + 1)]
        for column, name in enumerate(monitor.names):
            held_out = [part["held_out"][:, column] for part in mine[:-1]]
            of_runs = {which: values[:, column] for which, values in mine[-1]["of_runs"].items()}
            table += [
                {"statistic": name, "place": place, **judge(held_out, of_runs, weight, options.false_alarms)}
                for weight in WEIGHTS
            ]
    chosen = max(table, key=lambda row: row["detection_in_training_runs"])
    baseline = [next(row for row in table if row["statistic"] == name and row["weight"] == 1) for name in BASELINE]
    output = job.output_dir("state/output")
    with whole_file(output / "monitor.joblib") as draft:
        joblib.dump({**chosen, "monitor": fitted[(chosen["place"] + 1) * (options.folds + 1) - 1]["monitor"]}, draft)
    with whole_file(output / "result.json") as draft:
        draft.write_text(json.dumps({"chosen": chosen, "all": table}, indent=2) + "\n", encoding="utf-8")
    _draw(output / "result.png", table, chosen, baseline)
    job.report_metrics(
        mean_detection=chosen["mean_detection"],
        false_alarms=chosen["false_alarms"],
        false_alarms_aimed_at=options.false_alarms,
        statistic=chosen["statistic"],
        smoothing_weight=chosen["weight"],
        **{f"detection_of_fault_{fault}": share for fault, share in chosen["detection"].items()},
        **{f"delay_of_fault_{fault}_min": delay for fault, delay in chosen["delay_min"].items()},
        **{f"mean_detection_{row['statistic'].lower().replace(' ', '_')}": row["mean_detection"] for row in baseline},
    )


def _draw(path: Path, table: list[Row], chosen: Row, baseline: list[Row]) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", width_ratios=(3, 2))
    bars = [*baseline, chosen]
    for place, row in enumerate(bars):
        label = row["statistic"] + ("" if row["weight"] == 1 else f", smoothed ({row['weight']:g})")
        at = np.arange(len(FAULTS)) + (place - 1) * 0.27
        left.bar(at, [row["detection"][fault] for fault in FAULTS], 0.25, label=f"{label}: {row['mean_detection']:.3f}")
    left.set(
        xticks=range(len(FAULTS)),
        xticklabels=FAULTS,
        xlabel="fault",
        ylabel="share of its samples found",
        ylim=(0, 1.3),
    )
    left.legend(loc="upper center", ncols=1, fontsize=8)
    for name in dict.fromkeys(row["statistic"] for row in table):
        rows = [row for row in table if row["statistic"] == name]
        right.plot(
            [row["false_alarms"] for row in rows],
            [row["mean_detection"] for row in rows],
            ".-",
            label=name,
            markersize=9,
        )
    right.plot(chosen["false_alarms"], chosen["mean_detection"], "o", markersize=14, fillstyle="none", color="black")
    right.set(xlabel="false alarms on the unseen normal run", ylabel="mean detection")
    right.legend(
        fontsize=7,
        loc="lower right",
        title=f"dots: smoothing {', '.join(f'{weight:g}' for weight in WEIGHTS)}",
        title_fontsize=7,
    )
    with whole_file(path) as draft:
        figure.savefig(draft, format="png", dpi=100)
    plt.close(figure)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--lags", type=int, default=8, help="Earlier samples beside each one, in dynamic PCA and the autoencoder."
    )
    parser.add_argument("--folds", type=int, default=5, help="Parts of the normal run, each held out once.")
    parser.add_argument(
        "--false-alarms", type=float, default=0.01, help="Share of normal samples that may raise an alarm."
    )
    parser.add_argument("--epochs", type=int, default=120, help="Epochs of the autoencoder.")
    parser.add_argument("--width", type=int, default=90, help="Width of the autoencoder; its narrow layer has a third.")
    parser.add_argument("--device", default="cpu", help="Where the autoencoder learns; cpu or cuda.")
    parser.add_argument("--seed", type=int, default=0, help="Of the autoencoder.")
    options = parser.parse_args()
    if (
        options.lags < 0
        or options.folds < 2
        or options.epochs < 1
        or options.width < 3
        or not 0 < options.false_alarms < 1
    ):
        parser.error("lags from 0, folds from 2, epochs from 1, width from 3, false alarms between 0 and 1")
    return options


if __name__ == "__main__":
    job.run_program(main)

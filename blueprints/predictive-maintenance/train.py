"""Cycles that turbofan engines have left, with an interval: boosted trees, cross-validated by whole engines.

A step fits one member: on all engines but one fold's it learns the mean and two quantiles, and predicts that fold and the
test engines. What the members say of engines that they have not seen makes the intervals honest; their mean is the answer.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import joblib
import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor

from dure.client import job
from dure.client.saved import claim
from dure.whole_file import whole_file
from engines import (
    CAP_CYCLES,
    START_CYCLES,
    Array,
    Fleet,
    features,
    folds_of_engines,
    nasa_score,
    read_fleets,
    rmse,
    widening,
)

mpl.use("Agg")
from matplotlib import pyplot as plt

#: Cuts of each engine's life that the intervals are fitted to: test engines too were cut at any moment of theirs.
CUTS_PER_ENGINE = 20

COLUMNS = ("mean", "low", "high")


def main() -> None:
    """Fit the members that are not there yet, then put them together."""
    options = _options()
    job.watch_signals()
    kept = job.checkpoint_dir("state/checkpoint")
    claim(kept, vars(options), "members")
    train, test = read_fleets(_data() / "physical_ai" / "cmapss")
    fold_of = folds_of_engines(len(train.histories), options.folds, options.seed)
    began = time.monotonic()
    for step in range(options.repeats * options.folds):
        path = kept / f"member-{step:03d}.joblib"
        if path.exists():
            continue
        member = fit(train, test, fold_of == step % options.folds, options, step)
        with whole_file(path) as draft:
            joblib.dump(member, draft)
        fold_rmse = rmse(member["unseen"][:, 0], _capped_lives(train, fold_of == step % options.folds))
        job.report_progress(
            step=step, fold=step % options.folds, rmse_of_fold=fold_rmse, elapsed_s=time.monotonic() - began
        )
        if job.should_stop():
            job.leave()
    members = [joblib.load(path) for path in sorted(kept.glob("member-*.joblib"))]
    _finish(members, train, test, fold_of, options)


def fit(
    train: Fleet, test: Fleet, is_unseen: NDArray[np.bool_], options: argparse.Namespace, step: int
) -> dict[str, object]:
    """One member: its models, and what they predict of the engines of its fold (every cycle) and of the test engines."""
    x = np.concatenate(
        [_usable(features(history)) for history, unseen in zip(train.histories, is_unseen, strict=True) if not unseen]
    )
    y = _capped_lives(train, ~is_unseen)
    x_unseen = np.concatenate(
        [_usable(features(history)) for history, unseen in zip(train.histories, is_unseen, strict=True) if unseen]
    )
    x_test = np.stack([features(history)[-1] for history in test.histories])
    tail = (1 - options.coverage) / 2
    losses = (
        {"loss": "squared_error"},
        {"loss": "quantile", "quantile": tail},
        {"loss": "quantile", "quantile": 1 - tail},
    )
    models = [
        HistGradientBoostingRegressor(
            **loss, max_iter=options.trees, learning_rate=options.rate, max_leaf_nodes=15, min_samples_leaf=100,
            max_features=0.3, early_stopping=False, random_state=options.seed + step,
        ).fit(x, y)
        for loss in losses
    ]  # fmt: skip
    unseen, tested = (
        np.stack([model.predict(data) for model in models], axis=1).clip(0, CAP_CYCLES) for data in (x_unseen, x_test)
    )
    return {"models": models, "unseen": unseen, "test": tested}


def _usable(by_cycle: Array) -> Array:
    # Before these cycles an engine has no start to be compared with; no test engine is that young.
    return by_cycle[START_CYCLES:]


def _capped_lives(fleet: Fleet, is_in: NDArray[np.bool_]) -> Array:
    return np.concatenate(
        [np.minimum(_usable(left), CAP_CYCLES) for left, take in zip(fleet.left_cycles, is_in, strict=True) if take]
    )


def _finish(
    members: list[dict[str, object]], train: Fleet, test: Fleet, fold_of: NDArray[np.int64], options: argparse.Namespace
) -> None:
    lives = [np.minimum(_usable(left), CAP_CYCLES) for left in train.left_cycles]
    unseen = [np.zeros((len(life), len(COLUMNS))) for life in lives]
    for step, member in enumerate(members):
        engines = np.flatnonzero(fold_of == step % options.folds)
        parts = np.split(member["unseen"], np.cumsum([len(lives[engine]) for engine in engines])[:-1])
        for engine, part in zip(engines, parts, strict=True):
            unseen[engine] += part / options.repeats
    rng = np.random.default_rng(options.seed)
    cuts = [rng.integers(len(life), size=CUTS_PER_ENGINE) for life in lives]
    at_cuts = np.concatenate([guess[cut] for guess, cut in zip(unseen, cuts, strict=True)])
    lives_at_cuts = np.concatenate([life[cut] for life, cut in zip(lives, cuts, strict=True)])
    wider = widening(at_cuts[:, 1], at_cuts[:, 2], lives_at_cuts, options.coverage)

    mean, low, high = np.mean([member["test"] for member in members], axis=0).T
    low, high = np.minimum(mean, low - wider).clip(0, CAP_CYCLES), np.maximum(mean, high + wider).clip(0, CAP_CYCLES)
    left = np.concatenate(test.left_cycles)
    true = np.minimum(left, CAP_CYCLES)
    reached = {
        "rmse": rmse(mean, true),
        "nasa_score": nasa_score(mean, true),
        "rmse_uncapped": rmse(mean, left),
        "rmse_cross_validated": rmse(np.concatenate(unseen)[:, 0], np.concatenate(lives)),
        "coverage": float(np.mean((low <= true) & (true <= high))),
        "coverage_aimed_at": options.coverage,
        "mean_width_cycles": float(np.mean(high - low)),
        "widening_cycles": wider,
    }
    output = job.output_dir("state/output")
    table = np.column_stack([np.arange(1, len(left) + 1), left, true, mean, low, high])
    with whole_file(output / "predictions.csv") as draft:
        np.savetxt(draft, table, "%.6g", ",", header="engine,left_cycles,left_capped_cycles,mean,low,high", comments="")
    with whole_file(output / "models.joblib") as draft:
        joblib.dump([member["models"] for member in members], draft)
    with whole_file(output / "result.json") as draft:
        draft.write_text(json.dumps(reached, indent=2) + "\n", encoding="utf-8")
    _draw(output / "result.png", true, mean, low, high, reached)
    job.report_metrics(**reached)


def _draw(path: Path, true: Array, mean: Array, low: Array, high: Array, reached: dict[str, float]) -> None:
    order = np.argsort(true, kind="stable")
    place = np.arange(len(order))
    figure, axes = plt.subplots(figsize=(9, 4.2), layout="constrained")
    axes.fill_between(
        place,
        low[order],
        high[order],
        step="mid",
        color="#9ecae1",
        label=f"{reached['coverage_aimed_at']:.0%} interval",
    )
    axes.plot(place, mean[order], ".", color="#08519c", label="predicted")
    axes.step(place, true[order], where="mid", color="black", linewidth=1, label=f"true, capped at {CAP_CYCLES}")
    axes.set(
        xlabel="test engine, by life left", ylabel="cycles left", xlim=(-1, len(order)), ylim=(0, CAP_CYCLES + 10),
        title=f"FD001: RMSE {reached['rmse']:.2f}, NASA score {reached['nasa_score']:.0f}, {reached['coverage']:.0%} inside",
    )  # fmt: skip
    axes.legend(loc="lower right")
    with whole_file(path) as draft:
        figure.savefig(draft, format="png", dpi=100)
    plt.close(figure)


def _data() -> Path:
    return Path(os.environ.get("DURE_DATA") or Path(__file__).parents[3] / "shared" / "data")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--folds", type=int, default=10, help="Parts of the engines; each member learns from all but one."
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="Members of each fold, of different random feature choices."
    )
    parser.add_argument("--trees", type=int, default=200, help="Trees of each model.")
    parser.add_argument("--rate", type=float, default=0.06, help="Learning rate of the boosting.")
    parser.add_argument(
        "--coverage", type=float, default=0.9, help="Share of engines that is to lie inside the interval."
    )
    parser.add_argument("--seed", type=int, default=0, help="Of folds, members and cuts.")
    options = parser.parse_args()
    if (
        options.folds < 2
        or options.repeats < 1
        or options.trees < 1
        or not 0 < options.coverage < 1
        or options.rate <= 0
    ):
        parser.error("folds from 2, repeats and trees from 1, rate above 0, coverage between 0 and 1")
    return options


if __name__ == "__main__":
    job.run_program(main)

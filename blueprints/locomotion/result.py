"""What a policy was worth: figures, a plot, a film."""

from __future__ import annotations

import argparse
import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from hopper import make_hopper, play_episode
from scipy import stats

from dure.client import job
from dure.whole_file import whole_file

#: The film's episode, and the steps from one frame to the next.
FILM_SEED, FILM_EVERY = 2_000_000_000, 4


def interval(returns: np.ndarray) -> tuple[float, float]:
    """95% bootstrap interval of the mean (percentiles, 10,000 samples of a fixed seed)."""
    if np.ptp(returns) == 0:
        return float(returns[0]), float(returns[0])
    low, high = stats.bootstrap(
        (returns,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return float(low), float(high)


def write_results(
    folder: Path, curve: list[list[float]], test: list[dict[str, Any]], choose: Any, options: argparse.Namespace
) -> None:
    """Leave all files in `folder` and say the metrics."""
    metrics: dict[str, Any] = {}
    for prefix, is_changed in (("", False), ("changed_", True)):
        returns = np.array([episode["return"] for episode in test if episode["changed"] is is_changed])
        low, high = interval(returns)
        metrics |= {
            f"{prefix}mean_return": float(returns.mean()), f"{prefix}return_low": low, f"{prefix}return_high": high,
            f"{prefix}return_std": float(returns.std()), f"{prefix}return_p5": float(np.percentile(returns, 5)),
        }  # fmt: skip
    metrics |= {"num_steps": int(curve[-1][0]) if curve else 0, "num_episodes": options.episodes}
    with whole_file(folder / "results.json") as draft:
        draft.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    with whole_file(folder / "test.csv") as draft, draft.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(test[0]))
        table.writeheader()
        table.writerows(test)
    _plot(folder / "result.png", curve, test, metrics)
    if options.film:
        _film(folder / "film.gif", choose, options.film)
    job.report_metrics(**metrics)


def _plot(path: Path, curve: list[list[float]], test: list[dict[str, Any]], metrics: dict[str, Any]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), width_ratios=(3, 2), layout="constrained")
    if curve:
        steps, returns = np.array(curve).T
        left.plot(steps / 1e6, returns, color="#1f6fb4")
    left.set(xlabel="steps of training (millions)", ylabel="return, mean of the last 100 episodes", ylim=(0, None))
    left.set_title("Hopper-v5, PPO", loc="left")
    for place, (prefix, is_changed, name) in enumerate(
        (("", False, "nominal"), ("changed_", True, "changed dynamics"))
    ):
        returns = np.array([episode["return"] for episode in test if episode["changed"] is is_changed])
        shift = np.linspace(-0.25, 0.25, len(returns))
        right.plot(place + shift, np.sort(returns), ".", color="#9ab8d3", label="an episode" if place == 0 else None)
        mean, low, high = (metrics[prefix + key] for key in ("mean_return", "return_low", "return_high"))
        right.errorbar(
            place,
            mean,
            [[mean - low], [high - mean]],
            fmt="o",
            color="#b4371f",
            capsize=5,
            label="mean, 95% interval" if place == 0 else None,
        )
        right.annotate(f"{mean:,.0f}", (place, mean), (10, 6), textcoords="offset points", color="#b4371f")
        right.text(place, -0.11, name, ha="center", transform=right.get_xaxis_transform())
    right.set(xticks=[], xlim=(-0.6, 1.6), ylim=(0, 1.15 * max(episode["return"] for episode in test)))
    right.set_title("final policy, unseen seeds", loc="left")
    right.legend(loc="lower left", frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    with whole_file(path) as draft:
        figure.savefig(draft, format="png", dpi=110)
    plt.close(figure)


def _film(path: Path, choose: Any, num_frames: int) -> None:
    """An episode's first seconds; where nothing renders (a machine without OpenGL), one line says so."""
    import imageio.v3 as imageio

    os.environ.setdefault("MUJOCO_GL", "egl")
    frames: list[np.ndarray] = []
    try:
        hopper = make_hopper(render_mode="rgb_array", width=240, height=180)

        play_episode(
            hopper, choose, FILM_SEED, num_frames * FILM_EVERY,
            lambda step: frames.append(hopper.render()) if step % FILM_EVERY == 0 else None,
        )  # fmt: skip
        hopper.close()
    except Exception as error:  # what OpenGL raises where it is missing is of many kinds
        print(f"no film: {error}")
        return
    with whole_file(path) as draft:
        imageio.imwrite(
            draft, frames, extension=".gif", duration=1000 * FILM_EVERY * hopper.dt, loop=0, plugin="pillow"
        )

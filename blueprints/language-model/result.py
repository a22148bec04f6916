"""What a run has reached: figures, the curve, the weights."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from goodput import Attempts
from training import Training

from dure.client import job
from dure.whole_file import whole_file

#: Steps that the training's last figure and each point of the curve are the mean of.
RECENT = 20
#: Bits per byte that a line of text takes in the picture.
LABEL_HEIGHT = 0.2


def write_results(folder: Path, training: Training, weights: dict[str, Any], attempts: Attempts) -> None:
    """Leave all files in `folder` and say the metrics.

    Times and what hangs on them have names that end in ``_s``: ``mfu_timed_s`` is the part of the GPUs' peak that the
    model's operations took in steps (PaLM, arXiv 2204.02311, appendix B), ``goodput_timed_s`` the part of all attempts'
    time that steps of training took, those that were lost and done again counted once.
    """
    options = training.options
    tokens_per_s = options.steps * options.batch * options.context / float(training.clock)
    peak = options.peak_tflops * 1e12 * training.gang.size
    losses = training.losses.numpy()
    metrics = {
        "bits_per_byte": training.bits_per_byte(),
        "train_bits_per_byte": float(losses[-RECENT:].mean()),
        "judged_bytes": len(training.test) * options.context,
        "num_parameters": training.num_parameters,
        "num_tokens": options.steps * options.batch * options.context,
        "num_ranks": training.gang.size,
        "tokens_per_s": tokens_per_s,
        "mfu_timed_s": tokens_per_s * training.flop_per_token / peak if peak else None,
        "goodput_timed_s": float(training.clock) / attempts.spent_s(),
        "attempts_timed_s": attempts.spent_s(),
    }
    with whole_file(folder / "result.json") as draft:
        draft.write_text(json.dumps({**metrics, "options": vars(options)}, indent=2) + "\n", encoding="utf-8")
    with whole_file(folder / "curve.csv") as draft, draft.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("step", "bits_per_byte"))
        table.writerows((step + 1, bits) for step, bits in enumerate(losses))
    with whole_file(folder / "weights.pt") as draft:
        torch.save(weights, draft)
    plot(folder / "result.png", losses, metrics, {})
    job.report_metrics(**metrics)


def plot(path: Path, losses: np.ndarray, metrics: dict[str, Any], others: dict[str, float]) -> None:
    """Draw the curve, what was reached, and what `others` (name → bits per byte) reach on the same held-out bytes."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
    steps = 1 + np.arange(len(losses))
    axes.plot(steps, losses, color="#c9d8e6", linewidth=0.8, label="training, each step")
    if len(losses) > RECENT:
        smooth = np.convolve(losses, np.full(RECENT, 1 / RECENT), mode="valid")
        axes.plot(steps[RECENT - 1 :], smooth, color="#1f6fb4", label=f"training, mean of {RECENT} steps")
    reached = metrics["bits_per_byte"]
    axes.plot(len(losses), reached, "o", color="#c0392b", label=f"held-out files: {reached:.2f}", clip_on=False)
    place = -np.inf
    for name, bits in sorted(others.items(), key=lambda other: other[1]):
        axes.axhline(bits, color="#777777", linestyle=":", linewidth=1)
        place = max(bits, place + LABEL_HEIGHT)
        axes.annotate(f"{name}: {bits:.2f}", (1.025, place), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    axes.set(xlabel="step", ylabel="bits per byte", xlim=(0, len(losses)), ylim=(1, 6))
    axes.set_title(f"{metrics['num_parameters'] / 1e6:.1f} million parameters, {metrics['num_tokens'] / 1e6:.1f} million bytes", loc="left")
    axes.legend(frameon=False, fontsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    with whole_file(path) as draft:
        figure.savefig(draft, dpi=100, format="png")
    plt.close(figure)

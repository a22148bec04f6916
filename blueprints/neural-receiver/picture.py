"""The curves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
from trial import LEVEL, Errors

mpl.use("Agg")
from matplotlib import pyplot as plt

LABELS = {
    "ls": ("LS, linear interpolation", "#969696", "s"),
    "ls_lmmse": ("LS-LMMSE", "#e6550d", "o"),
    "learned": ("learned", "#08519c", "D"),
    "perfect": ("perfect channel knowledge", "black", "^"),
}


def draw(path: Path, found: Mapping[str, Errors], gain_db: float) -> None:
    """Block error rates with 95% intervals over SNR, a panel for each channel."""
    figure, panels = plt.subplots(1, len(found), figsize=(4.2 * len(found), 4.2), layout="constrained", sharey=True, squeeze=False)
    for place, (axes, (channel, errors)) in enumerate(zip(panels[0], found.items(), strict=True)):
        for receiver in errors.receivers:
            label, colour, mark = LABELS[receiver]
            rates = errors.rates(receiver)
            # Where no block was wrong only the interval says something.
            axes.plot(errors.snr_db, np.where(rates > 0, rates, np.nan), color=colour, marker=mark, markersize=4, label=label)
            axes.fill_between(errors.snr_db, *errors.bounds(receiver), color=colour, alpha=0.15, linewidth=0)
        axes.axhline(LEVEL, color="#bdbdbd", linewidth=0.8, linestyle="--")
        if place:
            title = f"{channel}, not trained on"
        else:
            title = f"{channel}, trained on: {gain_db:+.1f} dB to LS-LMMSE at 10%"
        axes.set(yscale="log", ylim=(3e-3, 1.1), xlabel="SNR at an antenna, dB", title=title)
        axes.title.set_size(10)
        axes.grid(alpha=0.3)
    panels[0, 0].set_ylabel("block error rate")
    panels[0, 0].legend(loc="lower left", fontsize=8)
    figure.savefig(path, format="png", dpi=100)
    plt.close(figure)

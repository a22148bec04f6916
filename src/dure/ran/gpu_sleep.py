"""GPUs of a site that sleep: those that the radio does not need close their CUDA contexts.

An H100 draws 71.8 W idle and 121.7 W with a context open, so that a GPU sleeps only with its contexts closed. Cells are moved between
GPUs window by window (two minutes); a GPU that is to serve in a window has its context opened in the window before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dure.ran.sleep_load import Floats, Windows

#: Power of an H100 in W: idle without a context, and with one open.
IDLE_W, OPEN_W = 71.8, 121.7
#: A fixed timer closes a context after so many windows without need (10 minutes).
TIMER_WINDOWS = 5
#: The learned controller keeps open what this quantile of rises from one window to the next would need.
RISE_QUANTILE = 0.99


@dataclass(frozen=True)
class GpuRun:
    """What a policy draws: mean W of all GPUs, and the share of windows in which a needed context was not open."""

    mean_w: float
    short_share: float


def needed_gpus(load: Floats, num_gpus: int) -> NDArray[np.int64]:
    """GPUs that cells at a mean load need in each window: one at the least, all at full load (one carries 20 peak cells of
    4T4R, 100 MHz: NVIDIA Aerial 26-1 on a GH200).
    """
    return np.clip(np.ceil(load * num_gpus), 1, num_gpus).astype(np.int64)


def rise_of(load: Floats) -> float:
    """How much more than in the window before the load is, at the quantile ``RISE_QUANTILE`` of calibration days."""
    return float(np.quantile(np.maximum(np.diff(load), 0.0), RISE_QUANTILE)) if len(load) > 1 else 1.0


def _run(opened: NDArray[np.int64], needed: NDArray[np.int64], num_gpus: int) -> GpuRun:
    served = np.maximum(opened, needed)
    return GpuRun(float(num_gpus * IDLE_W + served.mean() * (OPEN_W - IDLE_W)), float((opened < needed).mean()))


def compare(calibrate: Windows, test: Windows, num_gpus: int) -> dict[str, GpuRun]:
    """The policies on the test windows: all open, a fixed timer, learned from calibration windows, and the clairvoyant bound."""
    needed = needed_gpus(test.down, num_gpus)
    before = np.concatenate([needed[:1], needed[:-1]])
    timer = np.array([before[max(at - TIMER_WINDOWS, 0) : at + 1].max() for at in range(len(before))])
    last = np.concatenate([test.down[:1], test.down[:-1]])
    learned = needed_gpus(last + rise_of(calibrate.down), num_gpus)
    return {
        "all_open": _run(np.full(len(needed), num_gpus), needed, num_gpus),
        "fixed_timer": _run(timer, needed, num_gpus),
        "dure": _run(learned, needed, num_gpus),
        "clairvoyant": _run(needed, needed, num_gpus),
    }


"""Load of a site to sleep by: windows of two minutes, measured or invented, and bursts within them, which are always modelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.model.errors import InputError
from dure.policy.kernels.compile import kernel
from dure.ran.loads import WINDOW_S, WINDOWS_PER_DAY, hours_of, planned_share, read_load

Floats = NDArray[np.float64]

SLOT_MS = 0.5
SLOTS_PER_S = 2000
#: No load is offered in the last slots of a sample, so that every policy ends with empty queues.
DRAIN_SLOTS = 2000
#: Of what a site can carry, the most that is offered in any second: senders slow down before a cell is full.
_LOAD_MAX = 0.85


@dataclass(frozen=True)
class Windows:
    """Two-minute windows: mean share of resource blocks, 0..1, and hour of the day."""

    down: Floats
    up: Floats
    hour: NDArray[np.int64]

    def part(self, rows: NDArray[np.int64]) -> Windows:
        """Some of the windows."""
        return Windows(self.down[rows], self.up[rows], self.hour[rows])


@dataclass(frozen=True)
class Bursts:
    """How load comes within two minutes: assumptions, not measurements.

    Attributes
    ----------
    mean_slots : float
        Mean size of a burst, in slots of the whole band (0.5 ms; at 1 Gbit/s 62.5 kB each); sizes are log-normal.
    pace : float
        Share of the band at which a burst arrives: what the network before the cell lets through.
    sigma : float
        Of a burst's log-normal size.
    swing : float
        Of the log-normal factor by which the load differs from second to second.
    """

    mean_slots: float = 2.0
    pace: float = 0.25
    sigma: float = 1.2
    swing: float = 0.5


def read_windows(paths: Sequence[str], calibrate_share: float, *, is_planned: bool) -> tuple[Windows, Windows]:
    """Windows of load files: those of earlier days to calibrate with, those of later days to test on; each file is split for itself.

    `is_planned`: cells are planned so that a high quantile of the earlier days' loads fills them (``PLANNED_QUANTILE``), as
    the lending guard plans them; otherwise shares are those measured.

    Raises
    ------
    InputError
        A file is damaged, or too short for both parts; names file, line and field.
    """
    early, late = [], []
    for path in paths:
        load = read_load(path)
        num = len(load.down)
        cut = int(num * calibrate_share)
        if not 0 < cut < num:
            raise InputError(f"{num} rows are too few for days to calibrate with and later ones to test on", path)
        full_down, full_up = (planned_share(load.down[:cut]), planned_share(load.up[:cut])) if is_planned else (1.0, 1.0)
        windows = Windows(load.down / full_down, load.up / full_up, hours_of(load.start_window, num))
        early.append(windows.part(np.arange(cut)))
        late.append(windows.part(np.arange(cut, num)))
    return _joined(early), _joined(late)


def _joined(parts: list[Windows]) -> Windows:
    return Windows(
        np.concatenate([part.down for part in parts]), np.concatenate([part.up for part in parts]),
        np.concatenate([part.hour for part in parts]),
    )  # fmt: skip


def invented_windows(num_days: int, seed: int) -> Windows:
    """A load for where there are no files: low at four in the morning, high in the evening, uneven from window to window."""
    rng = np.random.default_rng([seed, 1])
    num = num_days * WINDOWS_PER_DAY
    hour = np.arange(num) % WINDOWS_PER_DAY * WINDOW_S / 3600.0
    shape = 0.04 + 0.36 * (0.5 - 0.5 * np.cos((hour - 4.0) * np.pi / 12.0)) ** 1.5
    down = np.clip(shape * rng.lognormal(-0.06, 0.35, num), 0.005, _LOAD_MAX)
    return Windows(down, down * 0.12, hour.astype(np.int64))


def sampled(windows: Windows, num: int, seed: int, stream: int) -> Windows:
    """`num` windows drawn without repetition, evenly over hours of the day as far as there are so many."""
    rng = np.random.default_rng([seed, 2, stream])
    order = rng.permutation(len(windows.down))
    order = order[np.argsort(windows.hour[order], kind="stable")]
    picked = order[np.linspace(0, len(order) - 1, min(num, len(order))).astype(np.int64)]
    return windows.part(np.sort(picked))


@kernel
def _fill(work: Any, mean: float, swing: float, sigma: float, mean_slots: float, pace: float, most: float, rng: Any) -> None:
    """Bursts of a mean load, no second above `most`, added to the slots of `work`."""
    end = len(work) - DRAIN_SLOTS
    factor = 0.0
    for second in range((end + SLOTS_PER_S - 1) // SLOTS_PER_S):
        factor = 0.7 * factor + np.sqrt(1.0 - 0.49) * rng.standard_normal()
        now = min(mean * np.exp(swing * factor - 0.5 * swing * swing), most)
        num = rng.poisson(now * SLOTS_PER_S / mean_slots)
        for _ in range(num):
            slot = second * SLOTS_PER_S + int(rng.random() * SLOTS_PER_S)
            size = mean_slots * np.exp(sigma * rng.standard_normal() - 0.5 * sigma * sigma)
            while size > 0.0 and slot < end:
                part = min(size, pace)
                work[slot] += part
                size -= part
                slot += 1


def slots_of(load: float, capacity: float, bursts: Bursts, num_slots: int, rng: np.random.Generator) -> Floats:
    """Work that arrives in each slot, in slots of the whole band, at a mean share `load` of the `capacity` per slot."""
    work = np.zeros(num_slots + DRAIN_SLOTS)
    most = _LOAD_MAX * capacity
    _fill(work, min(load * capacity, most), bursts.swing, bursts.sigma, bursts.mean_slots, bursts.pace, most, rng)
    return work

"""Sites with equal cells, for tests."""

import numpy as np

from dure.ran.calibrate import Drawn
from dure.ran.loads import CellLoads
from dure.ran.site import SiteModel


def loads_of(down, up, windows=40, cells=20):
    shape = (windows, cells)
    return CellLoads(
        np.full(shape, down), np.full(shape, up), np.full(shape, 15.0), np.arange(windows, dtype=np.int64) % 24
    )


def waves(windows=120, cells=20, low=0.05, high=0.6):
    level = low + (high - low) * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(windows) / 24))
    down = np.repeat(level[:, None], cells, axis=1)
    return CellLoads(down, down / 3, np.full(down.shape, 15.0), np.arange(windows, dtype=np.int64) % 24)


def drawn_of(down=0.3, up=0.1, vacate_slots=4, seed=0):
    return Drawn(SiteModel(), loads_of(down, up), vacate_slots, seed)

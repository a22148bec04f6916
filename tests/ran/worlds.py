"""Sites with equal cells, for tests."""

import numpy as np

from dure.ran import guard as g
from dure.ran import kernels as k
from dure.ran.calibrate import Drawn
from dure.ran.failover import new_failover
from dure.ran.loads import CellLoads
from dure.ran.site import PERIOD, SiteModel


def loads_of(down, up, windows=40, cells=20):
    shape = (windows, cells)
    return CellLoads(
        np.full(shape, down), np.full(shape, up), np.full(shape, 15.0), np.arange(windows, dtype=np.int64) % 24
    )


def waves(windows=120, cells=20, low=0.05, high=0.6):
    level = low + (high - low) * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(windows) / 24))
    down = np.repeat(level[:, None], cells, axis=1)
    return CellLoads(down, down / 3, np.full(down.shape, 15.0), np.arange(windows, dtype=np.int64) % 24)


def days(num, level=0.35, swing=0.15, noise=0.0, seed=0, cells=20):
    """Two-minute loads of some days in an even wave."""
    window = np.arange(num * 720)
    wave = level - swing * np.cos(2 * np.pi * window / 720) + noise * np.random.default_rng(seed).standard_normal(len(window))
    down = np.repeat(np.clip(wave, 0, 1)[:, None], cells, axis=1)
    return CellLoads(down, down / 4, np.full(down.shape, 15.0), window // 30 % 24)


def drawn_of(down=0.3, up=0.1, vacate_slots=4, seed=0):
    return Drawn(SiteModel(), loads_of(down, up), vacate_slots, seed)


def flat(vacate_slots=4, quantile=2.0, width=1.0):
    """A prediction that says: as much as the level now, give or take one SM."""
    weights = np.tile([1.0, 0.0, 0.0], (PERIOD, 1))
    edges = np.linspace(1, 15, g.CLASSES - 1)
    spread = np.full((PERIOD, g.CLASSES), width)
    return g.Calibration(vacate_slots, weights, edges, spread, 100.0, 30.0, 0.5, quantile, 1)


def play(
    drawn, needs, table, rules, num_slots, *, fixed=0.0, fault=k.NONE, left_sms=0, cells=None, standby_cells=0, interruption_slots=0
):
    """One segment of the twin; its counts, moves and sums."""
    counts, moves, sums = np.zeros(k.COUNTS, np.int64), np.zeros(k.MOVES, np.int64), np.zeros(k.SUMS)
    k.play(
        drawn.constants, drawn.dl_share, drawn.is_uplink, needs, np.empty((0, *needs.shape)) if cells is None else cells, rules,
        table.weights, table.edges, table.spread, g.new_memory(table.vacate_slots, drawn.model.num_sms, 0), new_failover(standby_cells),
        fixed, num_slots, fault, left_sms, interruption_slots, drawn.stream, counts, moves, sums,
    )  # fmt: skip
    return counts, moves, sums

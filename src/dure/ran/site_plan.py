"""What a site's radio has to do slot by slot on the cores of a machine, and what of it the guard is told: **synthetic below two minutes**.

The machine's cores stand for the GPU of `SiteModel`: each for as many SMs, and the work of so many peak cells just fills them. Where slots are slowed, the work
in them is slowed alike, so a slot has the same shares at any clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dure.ran import kernels as k
from dure.ran.calibrate import Drawn, Segment
from dure.ran.loads import CellLoads
from dure.ran.radio import DOWNLINK, IS_COUNTED, UPLINK
from dure.ran.site import KNOWN_SLOTS, PERIOD, SLOT_MS, UPLINK_SLOTS, SiteModel

#: Slots of a stretch that are played and not counted: the guard lends nothing for 20 of them, since the load has jumped.
SETTLING_SLOTS = 40
#: A stretch of one window has at least so many.
STRETCH_SLOTS = 500


@dataclass(frozen=True)
class Stretch:
    """Consecutive slots of one window.

    Attributes
    ----------
    dl_sms, ul_sms, ul_risk_sms : float64[slots + KNOWN_SLOTS + 2]
        Planned needs as `LendingGuard.step` is told them.
    cell_sms : float64[slots + KNOWN_SLOTS + 2, cells]
        What each cell's downlink data needs.
    before_sms : float64[slots, cells]
        The same of the slots before, by which the guard comes to know the cells.
    work : float64[2, slots]
        Downlink's and uplink's part of the whole node's time in the slot, 0..1.
    """

    dl_sms: NDArray[np.float64]
    ul_sms: NDArray[np.float64]
    ul_risk_sms: NDArray[np.float64]
    cell_sms: NDArray[np.float64]
    before_sms: NDArray[np.float64]
    work: NDArray[np.float64]

    @property
    def num_slots(self) -> int:
        """How many slots it has, a multiple of the frame's."""
        return int(self.work.shape[1])


def site_model(num_cores: int, interference: float) -> SiteModel:
    """A site whose GPU is so many cores: each stands for an equal number of SMs, and is given whole.

    So many peak cells just fill it also where tenants slow its work more than they do a GPU's: its work is the less.
    """
    default = SiteModel()
    per_core = max(1, default.num_sms // num_cores)
    less = (1 + default.interference) / (1 + interference)
    work = {name: getattr(default, name) * less for name in ("d0_us", "d1_us", "u0_us", "u1_us", "u2_us")}
    return replace(default, num_sms=per_core * num_cores, grain_sms=per_core, interference=interference, **work)


def draw_stretches(model: SiteModel, loads: CellLoads, num_slots: int, seed: int) -> list[Stretch]:
    """Stretches of windows spread evenly over the loads, with so many slots or a few less (whole frames) that count or settle."""
    num = max(1, min(len(loads.hour), num_slots // STRETCH_SLOTS))
    length = max(PERIOD, num_slots // num // PERIOD * PERIOD)
    return [_draw(model, loads, i * len(loads.hour) // num, length, seed) for i in range(num)]


def _draw(model: SiteModel, loads: CellLoads, window: int, length: int, seed: int) -> Stretch:
    rows, cells = [], []
    for cell in range(loads.down.shape[1]):
        own = CellLoads(loads.down[:, [cell]], loads.up[:, [cell]], loads.mcs_up[:, [cell]], loads.hour)
        drawn = Drawn(model, own, KNOWN_SLOTS + 1, (seed << 16) + cell)
        rows.append(drawn.draw(Segment(window, length)))
        cells.append(rows[-1][k.DL] - rows[-1][k.DL_CONTROL])
    needs, cell_sms = np.sum(rows, axis=0), np.stack(cells, axis=1)
    risk = np.sqrt(np.sum([row[k.UL_RISK] ** 2 for row in rows], axis=0))
    first, end = k.WARM_SLOTS, k.WARM_SLOTS + length
    seen = slice(first, end + KNOWN_SLOTS + 2)
    slot_us = SLOT_MS * 1000
    work = np.stack(
        [
            needs[k.DL, first:end] / model.dl_sms_per_us / slot_us,
            needs[k.UL_REAL, first:end] / model.ul_sms_per_us / UPLINK_SLOTS / slot_us,
        ]
    )
    return Stretch(needs[k.DL, seen], needs[k.UL_PLAN, seen], risk[seen], cell_sms[seen], cell_sms[:first], work)


def radio_plan(stretches: list[Stretch], num_cores: int, slot_ns: int) -> NDArray[np.int64]:
    """The same as the radio is told it, int64[3, slots]; see `dure.ran.radio`."""
    work = np.concatenate([stretch.work for stretch in stretches], axis=1) * num_cores * slot_ns
    counted = np.concatenate([np.arange(stretch.num_slots) >= SETTLING_SLOTS for stretch in stretches])
    plan = np.empty((3, work.shape[1]), np.int64)
    plan[DOWNLINK], plan[UPLINK], plan[IS_COUNTED] = work[0], work[1], counted
    return plan


def invented_loads(num_cells: int) -> CellLoads:
    """A day of two-minute windows with its low at midnight and its high at noon, for where there are no measurements."""
    hour = np.arange(720) // 30
    level = 0.05 + 0.4 * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(720) / 720))
    down = np.repeat(level[:, None], num_cells, axis=1)
    return CellLoads(down, down / 4, np.full(down.shape, 15.0), hour.astype(np.int64))

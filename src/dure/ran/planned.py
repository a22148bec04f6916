"""The guard of a site on this machine's cores, told slot by slot what its load plans."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dure.ran.guard import Calibration, LendingGuard
from dure.ran.site import KNOWN_SLOTS, PERIOD, SiteModel, downlink_shares
from dure.ran.site_plan import Stretch

#: Of slots that were lost the guard is told so many of the last.
_TOLD_LATER = 50


@dataclass(frozen=True)
class Site:
    """What is run.

    Attributes
    ----------
    model : SiteModel
        Of `site_model`, for so many cores.
    calibration : Calibration
        Of the guard, for this model.
    stretches : list of Stretch
        The load, all of it of one model.
    cores : list of int
        The machine's, as the operating system numbers them.
    slot_ns : int
        Length of a slot.
    priority : str
        What the radio is to have: ``plain``, ``nice`` or ``fifo``.
    """

    model: SiteModel
    calibration: Calibration
    stretches: list[Stretch]
    cores: list[int]
    slot_ns: int
    priority: str

    @property
    def num_cells(self) -> int:
        """Cells of the site."""
        return int(self.stretches[0].cell_sms.shape[1])

    @property
    def num_slots(self) -> int:
        """Slots of all stretches."""
        return sum(stretch.num_slots for stretch in self.stretches)

    def cores_of(self, sms: float) -> int:
        """Whole cores that stand for so many SMs."""
        return round(sms / self.model.grain_sms)


class Planned:
    """Tells the guard of each slot what is planned; comes round after the last stretch.

    The load jumps from stretch to stretch, which no radio's does: each has a guard that has seen the slots before it and lent nothing yet.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._share = downlink_shares()
        self._next = 0
        # Compiled, or read from the cache, before the first slot.
        none = np.zeros(KNOWN_SLOTS + 2)
        LendingGuard(site.calibration, 1, 1, 1, 1, 0, 0).step(0, none, none, none, 1.0, present_sms=1.0, held_sms=0.0, is_missed=False)
        self._places: list[tuple[LendingGuard, Stretch, int]] = []
        for stretch in site.stretches:
            guard = LendingGuard(
                site.calibration, site.num_cells, site.model.num_sms, site.model.floor_sms(site.num_cells), site.model.grain_sms,
                len(self._places), 0,
            )  # fmt: skip
            for t in range(-len(stretch.before_sms), KNOWN_SLOTS):
                self._track(guard, t, stretch.before_sms[t] if t < 0 else stretch.cell_sms[t])
            self._places += [(guard, stretch, at) for at in range(stretch.num_slots)]

    def keep(self, slot: int, num_in_hand: int, *, is_missed: bool, is_told: bool) -> int:
        """Cores that the radio keeps from this slot on. Not ``is_told``: as if there were no plan (G4)."""
        # What the guard was not told of slots that were lost it is told now.
        for lost in range(max(self._next, slot - _TOLD_LATER), slot):
            guard, stretch, at = self._place(lost)
            self._track(guard, at + KNOWN_SLOTS, stretch.cell_sms[at + KNOWN_SLOTS])
        self._next = slot + 1
        guard, stretch, at = self._place(slot)
        self._track(guard, at + KNOWN_SLOTS, stretch.cell_sms[at + KNOWN_SLOTS])
        plan = slice(at, at + KNOWN_SLOTS + 2) if is_told else slice(0)
        sms = guard.step(
            slot, stretch.dl_sms[plan], stretch.ul_sms[plan], stretch.ul_risk_sms[plan],
            num_in_hand * self._site.model.grain_sms, present_sms=self._site.model.num_sms, held_sms=0.0, is_missed=is_missed,
        )  # fmt: skip
        return self._site.cores_of(sms)

    def _place(self, slot: int) -> tuple[LendingGuard, Stretch, int]:
        return self._places[slot % len(self._places)]

    def _track(self, guard: LendingGuard, t: int, sms: NDArray[np.float64]) -> None:
        if self._share[t % PERIOD] == 1.0:
            guard.track(sms)

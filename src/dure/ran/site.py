"""A cell site: one GPU, its cells, the frame they share, and what each slot's work costs.

Time goes in processing slots of 0.5 ms (numerology 1, 3GPP TS 38.211 clause 4.3.2). In processing slot ``p`` the GPU
works on the downlink that goes on the air in ``p + 1`` and on the uplink received in ``p - 1`` to ``p - 3``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SLOT_MS = 0.5
#: The frame: 4:1 with one special slot, ten slots of 0.5 ms.
TDD = "DDDSUUDDDD"
PERIOD = len(TDD)
#: Downlink symbols of the special slot over those of a whole one.
SPECIAL_SHARE = 10 / 14
#: Slots ahead for which the base station has scheduled its own load: 1.5 ms.
KNOWN_SLOTS = 3
#: Uplink work of one slot is spread over this many: its budget of 1,500 microseconds.
UPLINK_SLOTS = 3


@dataclass(frozen=True)
class SiteModel:
    """What a site's work costs.

    The work of a slot, in microseconds on the whole GPU, is ``d0 + d1·PRB·layers`` (downlink) and
    ``u0 + u1·PRB·layers + u2·PRB·layers·efficiency·I`` (uplink; ``I`` is the number of LDPC iterations over its mean)
    for each cell. On ``S`` streaming multiprocessors (SMs) it takes
    ``T = t0 + work · num_sms / S · (1 + interference) + noise``.

    The default figures are no measurements: they are chosen so that twenty peak cells (273 PRB, 4 layers down, 2 up, 100 MHz)
    just fill one GPU within the budgets that NVIDIA states for Aerial 26-1 (PDSCH 375, PUSCH 1,500 microseconds, 82 of 132
    SMs for PDSCH). `dure ran calibrate` measures a machine's own.

    Attributes
    ----------
    num_sms : int
        SMs of the GPU.
    grain_sms : int
        SMs are given in multiples of this (one texture processing cluster).
    dl_budget_us, ul_budget_us : float
        Deadlines of a slot's downlink and uplink work.
    t0_us : float
        Launching and synchronising, whatever the work.
    noise_mean_us, noise_allowance_us : float
        Mean of the exponential noise of a slot's time; what a reservation allows for it.
    interference : float
        At most so much longer work takes beside tenants, by memory bandwidth.
    prb, dl_layers, ul_layers : int
        Resource blocks and layers of a cell.
    d0_us, d1_us, u0_us, u1_us, u2_us : float
        Coefficients of work: of an active cell, of one PRB and layer, of decoding one PRB and layer at the highest MCS.
    slowed_by : float
        So much longer slots and budgets are than a real site's, where a machine is too slow for one; 1: not at all.
    """

    num_sms: int = 132
    grain_sms: int = 2
    dl_budget_us: float = 375.0
    ul_budget_us: float = 1500.0
    t0_us: float = 30.0
    noise_mean_us: float = 3.0
    noise_allowance_us: float = 60.0
    interference: float = 0.10
    prb: int = 273
    dl_layers: int = 4
    ul_layers: int = 2
    d0_us: float = 0.6
    d1_us: float = 0.00681
    u0_us: float = 0.8
    u1_us: float = 0.00824
    u2_us: float = 0.0122
    slowed_by: float = 1.0

    @property
    def dl_sms_per_us(self) -> float:
        """SMs needed for each microsecond (on the whole GPU) of downlink work."""
        return self._sms_per_us(self.dl_budget_us)

    @property
    def ul_sms_per_us(self) -> float:
        """SMs needed, for ``UPLINK_SLOTS`` slots, for each microsecond (on the whole GPU) of uplink work."""
        return self._sms_per_us(self.ul_budget_us)

    def _sms_per_us(self, budget_us: float) -> float:
        spare_us = budget_us * self.slowed_by - self.t0_us - self.noise_allowance_us
        return self.num_sms * (1 + self.interference) / spare_us

    def dl_work_us(self, prb: float, layers: float) -> float:
        """Downlink work of a cell in one slot, microseconds on the whole GPU."""
        return self.d0_us + self.d1_us * prb * layers

    def ul_work_us(self, prb: float, layers: float, efficiency: float, iterations: float) -> float:
        """Uplink work of a cell in one slot; efficiency 0..1 of the highest MCS, iterations over their mean."""
        return self.u0_us + prb * layers * (self.u1_us + self.u2_us * efficiency * iterations)

    def time_us(self, work_us: float, sms: float, noise_us: float = 0.0) -> float:
        """Microseconds that work takes on so many SMs beside tenants that interfere at the most."""
        return self.t0_us + work_us * self.num_sms / sms * (1 + self.interference) + noise_us

    def floor_sms(self, num_cells: int) -> int:
        """SMs that are never lent: control of all cells (and broadcast, references, uplink control) is in time with them."""
        control = num_cells * (self.d0_us * self.dl_sms_per_us + 2 * self.u0_us * self.ul_sms_per_us)
        return min(self.num_sms, self.rounded_sms(control))

    def rounded_sms(self, sms: float) -> int:
        """SMs as they can be given: up to the next multiple of ``grain_sms``, at most all."""
        return min(self.num_sms, math.ceil(sms / self.grain_sms) * self.grain_sms)

    def constants(self) -> NDArray[np.float64]:
        """What the kernels are given, in the order of ``dure.ran.kernels``."""
        return np.array(
            [
                self.num_sms,
                self.prb * self.dl_layers * self.d1_us,
                self.d0_us,
                self.prb * self.ul_layers * self.u1_us,
                self.prb * self.ul_layers * self.u2_us,
                self.u0_us,
                self.dl_sms_per_us,
                self.ul_sms_per_us,
                self.dl_budget_us * self.slowed_by - self.t0_us,
                self.noise_mean_us,
                1 + self.interference,
                SLOT_MS * 1000 * self.slowed_by,
            ]
        )


def downlink_shares() -> NDArray[np.float64]:
    """How much of a slot's symbols are downlink, by processing slot of the period."""
    share = {"D": 1.0, "S": SPECIAL_SHARE, "U": 0.0}
    return np.array([share[TDD[(phase + 1) % PERIOD]] for phase in range(PERIOD)])


def uplink_phases() -> NDArray[np.bool_]:
    """Whether uplink received in the slot before begins to be worked on, by processing slot of the period."""
    return np.array([TDD[(phase - 1) % PERIOD] == "U" for phase in range(PERIOD)])

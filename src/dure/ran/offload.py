"""Where a control loop's next period is computed: on the device, at the cell site, or split between the two.

The chooser takes the cheapest place whose risk of a late answer is small enough. The risk of what it sees (its own measure of
the link, what the site last said of its load) comes from a table with an upper bound that knows how many cases it has seen; a
limit on the risk follows the answers that do come late, so that a table that is wrong does not go on being believed. It holds
no clock and draws nothing: a device calls `choose` at the beginning of a period and `learn` at its deadline.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dure.model.errors import InputError

#: Places of computing.
DEVICE, SITE, SPLIT = 0, 1, 2
PLACES = ("device", "site", "split")
#: Edges of the classes of what is seen: SNR (dB), its change in 5 ms (dB), the site's backlog (ms), resource blocks left.
SNR_EDGES = np.arange(-2.0, 29.0, 2.0)
TREND_EDGES = np.array([-1.5, 1.5])
BACKLOG_EDGES = np.array([0.01, 2.0, 4.0, 6.0, 10.0])
PRB_EDGES = np.array([25.0, 50.0, 100.0])
SHAPE = (len(SNR_EDGES) + 1, len(TREND_EDGES) + 1, len(BACKLOG_EDGES) + 1, len(PRB_EDGES) + 1)
NUM_CLASSES = int(np.prod(SHAPE))
#: Deviations that the upper bound of a risk lies above what was counted (one-sided 90%).
BOUND_Z = 1.2816
#: A late answer halves the limit on the risk; it falls to this share of epsilon at most.
LATE_FACTOR, LIMIT_SHARE_MIN = 0.5, 1e-3
#: After late answers in a row the loop stays on the device for 1, 2, 4 … periods, at most this many.
BACK_OFF_MAX = 64


@dataclass(frozen=True)
class Seen:
    """What a device knows at the beginning of a period.

    Attributes
    ----------
    snr_db, trend_db : float
        SNR as last measured, and its change since 5 ms before.
    backlog_ms : float
        The site's inference queue, as it last said.
    prb : float
        Resource blocks left for the device, as the site last said.
    """

    snr_db: float
    trend_db: float
    backlog_ms: float
    prb: float


@dataclass(frozen=True)
class RiskTable:
    """By class of what is seen and by place (SITE, SPLIT): risk of a late answer, and energy of radio and computing.

    Attributes
    ----------
    risk : ndarray, float64[2, NUM_CLASSES]
        Upper bound of the share of answers that are late; 1 where nothing was seen.
    energy_mj : ndarray, float64[2, NUM_CLASSES]
        Mean energy of a period; infinite where nothing was seen.
    device_mj : float
        Energy of a period computed on the device.
    """

    risk: NDArray[np.float64]
    energy_mj: NDArray[np.float64]
    device_mj: float


def classes(
    snr_db: NDArray[np.float64], trend_db: NDArray[np.float64], backlog_ms: NDArray[np.float64], prb: NDArray[np.float64]
) -> NDArray[np.int64]:
    """The classes of many cases, 0..NUM_CLASSES-1."""
    parts = (
        np.searchsorted(SNR_EDGES, snr_db, side="right"), np.searchsorted(TREND_EDGES, trend_db, side="right"),
        np.searchsorted(BACKLOG_EDGES, backlog_ms, side="right"), np.searchsorted(PRB_EDGES, prb, side="right"),
    )  # fmt: skip
    found: NDArray[np.int64] = np.ravel_multi_index(parts, SHAPE).astype(np.int64)
    return found


def risk_bound(num_late: NDArray[np.float64], num: NDArray[np.float64]) -> NDArray[np.float64]:
    """Upper bound of a share from counts (Wilson 1927 with BOUND_Z); 1 where nothing was counted."""
    n = np.maximum(num, 1.0)
    share, z2 = num_late / n, BOUND_Z**2
    middle = share + z2 / (2 * n)
    spread = BOUND_Z * np.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return np.where(num > 0, np.minimum(1.0, (middle + spread) / (1 + z2 / n)), 1.0)


def risk_table(
    of_class: NDArray[np.int64], is_late: NDArray[np.bool_], energy_mj: NDArray[np.float64], device_mj: float
) -> RiskTable:
    """The table from cases seen: `of_class` int64[N]; `is_late` and `energy_mj` [2, N] for SITE and SPLIT."""
    num = np.bincount(of_class, minlength=NUM_CLASSES).astype(np.float64)
    late = np.array([np.bincount(of_class, row, NUM_CLASSES) for row in is_late])
    energy = np.array([np.bincount(of_class, row, NUM_CLASSES) for row in energy_mj])
    mean = np.where(num > 0, energy / np.maximum(num, 1.0), np.inf)
    return RiskTable(np.array([risk_bound(row, num) for row in late]), mean, device_mj)


class Chooser:
    """Chooses where each period is computed.

    Raises
    ------
    InputError
        `epsilon` is not between 0 and 1.
    """

    def __init__(self, table: RiskTable, epsilon: float) -> None:
        if not 0 < epsilon < 1:
            raise InputError(f"is a share between 0 and 1, not {epsilon:g}", field="epsilon")
        self._table = table
        self._epsilon = epsilon
        self._limit = epsilon
        self._num_late_in_row = 0
        self._stay = 0
        # A late answer for every 1/epsilon answers leaves the limit where it is.
        self._recover = LATE_FACTOR ** (-epsilon / (1 - epsilon))

    @property
    def limit(self) -> float:
        """The risk that is taken at most now."""
        return self._limit

    def choose(self, seen: Seen) -> int:
        """The place of the next period: DEVICE, SITE or SPLIT."""
        if self._stay > 0:
            self._stay -= 1
            return DEVICE
        values = (np.array([v]) for v in (seen.snr_db, seen.trend_db, seen.backlog_ms, seen.prb))
        return self.choose_class(int(classes(*values)[0]))

    def choose_class(self, of_class: int) -> int:
        """The place for a class of what is seen, late answers before left aside."""
        place, least_mj = DEVICE, self._table.device_mj
        for other in (SITE, SPLIT):
            energy_mj = self._table.energy_mj[other - 1, of_class]
            if self._table.risk[other - 1, of_class] <= self._limit and energy_mj < least_mj:
                place, least_mj = other, energy_mj
        return place

    def learn(self, place: int, is_late: bool) -> None:
        """Take in whether the answer of the period just ended came late; periods on the device teach nothing."""
        if place == DEVICE:
            return
        if is_late:
            self._limit = max(self._limit * LATE_FACTOR, self._epsilon * LIMIT_SHARE_MIN)
            self._stay = min(1 << self._num_late_in_row, BACK_OFF_MAX)
            self._num_late_in_row += 1
        else:
            self._limit = min(self._limit * self._recover, self._epsilon)
            self._num_late_in_row = 0

"""Where a control loop's next period is computed: on the device, at the cell site, or split between the two.

The chooser takes the cheapest place whose risk of a late answer is small enough. What it sees (its own measure of the link,
what the site last said of its load) gives a score, by logistic regression; a score's risk is an upper bound counted on cases
that the regression has not seen, and knows how many they are. A limit on the risk follows the answers that do come late, so
that a model that is wrong does not go on being believed. It holds no clock and draws nothing: a device calls `choose` at the
beginning of a period and `learn` at its deadline.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dure.model.errors import InputError

#: Places of computing.
DEVICE, SITE, SPLIT = 0, 1, 2
PLACES = ("device", "site", "split")
#: SNRs (dB) below which it counts more and more how low the SNR is, now and lately; blocks left, alike.
SNR_KNEES, LOW_KNEES, PRB_KNEES = (0.0, 4.0, 8.0, 12.0, 16.0, 20.0), (-6.0, -2.0, 2.0, 6.0, 10.0, 14.0, 18.0), (25.0, 50.0, 100.0)
#: Classes of scores whose risks are counted apart.
NUM_SCORES = 60
#: Deviations that the upper bound of a risk lies above what was counted (one-sided 90%).
BOUND_Z = 1.2816
#: A late answer halves the limit on the risk; it falls to this share of epsilon at most.
LATE_FACTOR, LIMIT_SHARE_MIN = 0.5, 1e-2
#: After late answers in a row the loop stays on the device for 1, 2, 4 … periods, at most this many.
BACK_OFF_MAX = 64


@dataclass(frozen=True)
class Seen:
    """What a device knows at the beginning of a period.

    Attributes
    ----------
    snr_db, dip_db : float
        SNR as last measured, and how far below that the least of the last periods' measures was; 0 where none was.
    backlog_ms, busy : float
        The site's inference queue, as it last said, and the share of the time before that in which it was not empty.
    prb : float
        Resource blocks left for the device, as the site last said.
    speed_kmh : float
        The device's own speed.
    """

    snr_db: float
    dip_db: float
    backlog_ms: float
    busy: float
    prb: float
    speed_kmh: float

    def values(self) -> NDArray[np.float64]:
        """As `features` takes it, float64[6, 1]."""
        return np.array([[self.snr_db], [self.dip_db], [self.backlog_ms], [self.busy], [self.prb], [self.speed_kmh]])


@dataclass(frozen=True)
class RiskModel:
    """Risk of a late answer and energy of a period by what is seen, for SITE and SPLIT.

    Attributes
    ----------
    late_weights, energy_weights : ndarray, float64[2, F]
        Of `features`: the score, and the mean energy of a period in mJ.
    edges : ndarray, float64[2, NUM_SCORES - 1]
        Between the classes of scores, rising.
    risk : ndarray, float64[2, NUM_SCORES]
        Upper bound of the share of late answers in each class; never falls with the score.
    device_mj : float
        Energy of a period computed on the device.
    """

    late_weights: NDArray[np.float64]
    energy_weights: NDArray[np.float64]
    edges: NDArray[np.float64]
    risk: NDArray[np.float64]
    device_mj: float

    def risk_of(self, place: int, of: NDArray[np.float64]) -> float:
        """The risk of SITE or SPLIT for features float64[F]."""
        score = float(self.late_weights[place - 1] @ of)
        return float(self.risk[place - 1, np.searchsorted(self.edges[place - 1], score, side="right")])

    def energy_mj(self, place: int, of: NDArray[np.float64]) -> float:
        """Mean energy of a period at SITE or SPLIT for features float64[F]."""
        return float(self.energy_weights[place - 1] @ of)


def features(seen: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the scores are linear in: float64[F, N] from the fields of `Seen`, float64[6, N]."""
    snr, dip, backlog, busy, prb, speed = seen
    rows = [np.ones_like(snr), *(np.maximum(k - snr, 0) / 10 for k in SNR_KNEES)]
    rows += [np.maximum(k - (snr - dip), 0) / 10 for k in LOW_KNEES]
    rows += [np.minimum(dip, 20.0) / 10, (dip > 1.0) * 1.0]
    rows += [np.minimum(backlog, 40.0) / 10, np.log1p(backlog), (backlog > 0) * 1.0, busy, busy**2]
    rows += [np.maximum(k - prb, 0) / 50 for k in PRB_KNEES]
    pace = np.log1p(speed) / 4
    rows += [(speed > 0) * 1.0, pace, pace**2, *(pace * np.maximum(k - (snr - dip), 0) / 10 for k in LOW_KNEES[1::2])]
    return np.array(rows)


def risk_bound(num_late: NDArray[np.float64], num: NDArray[np.float64]) -> NDArray[np.float64]:
    """Upper bound of a share from counts (Wilson 1927 with BOUND_Z); 1 where nothing was counted."""
    n = np.maximum(num, 1.0)
    share, z2 = num_late / n, BOUND_Z**2
    middle = share + z2 / (2 * n)
    spread = BOUND_Z * np.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return np.where(num > 0, np.minimum(1.0, (middle + spread) / (1 + z2 / n)), 1.0)


def fit_risk(
    seen: NDArray[np.float64], is_late: NDArray[np.bool_], energy_mj: NDArray[np.float64], is_fitted: NDArray[np.bool_],
    device_mj: float,
) -> RiskModel:  # fmt: skip
    """The model from cases: `seen` float64[6, N], the others [2, N] for SITE and SPLIT.

    Scores are fitted where `is_fitted` (bool[N]); their risks are counted on the other cases.
    """
    x = features(seen)
    fitted, held = x[:, is_fitted], x[:, ~is_fitted]
    late_weights = np.array([_logistic(fitted, row[is_fitted]) for row in is_late])
    energy_weights = np.array([_least_squares(fitted, row[is_fitted]) for row in energy_mj])
    edges, risks = [], []
    for weights, row in zip(late_weights, is_late, strict=True):
        scores = weights @ held
        edge = np.quantile(scores, np.arange(1, NUM_SCORES) / NUM_SCORES)
        of_class = np.searchsorted(edge, scores, side="right")
        num = np.bincount(of_class, minlength=NUM_SCORES).astype(np.float64)
        num_late = np.bincount(of_class, row[~is_fitted], NUM_SCORES).astype(np.float64)
        edges.append(edge)
        risks.append(np.maximum.accumulate(risk_bound(num_late, num)))
    return RiskModel(late_weights, energy_weights, np.array(edges), np.array(risks), device_mj)


def _logistic(x: NDArray[np.float64], is_late: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Weights of a logistic regression with a small ridge, by Newton's method."""
    weights = np.zeros(len(x))
    ridge = 1e-3 * np.eye(len(x))
    for _ in range(12):
        p = 1.0 / (1.0 + np.exp(-np.clip(weights @ x, -30, 30)))
        gradient = x @ (p - is_late) + ridge @ weights
        hessian = (x * (p * (1 - p))) @ x.T + ridge
        weights = weights - np.linalg.solve(hessian, gradient)
    return weights


def _least_squares(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.linalg.solve(x @ x.T + 1e-3 * np.eye(len(x)), x @ y).astype(np.float64)


class Chooser:
    """Chooses where each period is computed.

    Raises
    ------
    InputError
        `epsilon` is not between 0 and 1.
    """

    def __init__(self, model: RiskModel, epsilon: float) -> None:
        if not 0 < epsilon < 1:
            raise InputError(f"is a share between 0 and 1, not {epsilon:g}", field="epsilon")
        self._model = model
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
        of = features(seen.values())[:, 0]
        place, least_mj = DEVICE, self._model.device_mj
        for other in (SITE, SPLIT):
            energy_mj = self._model.energy_mj(other, of)
            if energy_mj < least_mj and self._model.risk_of(other, of) <= self._limit:
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

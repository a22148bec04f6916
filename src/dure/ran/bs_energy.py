"""A base station's energy from its load and settings, for stations that were never measured.

The model is EARTH's (Auer et al., IEEE Wireless Communications 18(5), 2011) with a coefficient of its own for every type of
radio unit: power without load, power that grows with transmit power, bandwidth and load, and what energy-saving modes take
away. What it leaves over is learned by boosted trees, which also see the station's week. How much of that is used is chosen by
cross-validation over base stations of the training folder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.model.errors import DureError, InputError
from dure.ran.itu import CELLS_MAX, NUM_ES_MODES, StationHours

Floats = NDArray[np.float64]

FOLDS = 4
_RIDGE = 1e-4
_REWEIGHTINGS = 6
#: Errors below this many energy units weigh as much as this one.
_ERROR_MIN = 0.3
_TREES: dict[str, Any] = {
    "loss": "absolute_error", "max_iter": 300, "learning_rate": 0.05, "min_samples_leaf": 60, "max_features": 0.4,
    "l2_regularization": 5.0,
}  # fmt: skip


@dataclass(frozen=True)
class EnergyScore:
    """How far off energies were on base stations not seen in training.

    Attributes
    ----------
    wmape, wmape_naive, wmape_gbm : float
        Sum of absolute errors over sum of energies, of the chosen model, of the median energy of the same type of radio unit
        and of plain gradient boosting.
    base_stations, rows : int
        Tested stations and their hours.
    chosen : str
        The candidate with the least error in cross-validation.
    cv_wmape : dict of str to float
        Error of each candidate there.
    """

    wmape: float
    wmape_naive: float
    wmape_gbm: float
    base_stations: int
    rows: int
    chosen: str
    cv_wmape: dict[str, float]


Predict = Callable[[StationHours], Floats]
Fit = Callable[[StationHours, int], Predict]


def wmape(actual: Floats, predicted: Floats) -> float:
    """Weighted mean absolute percentage error, as a share: Σ|y − ŷ| / Σ|y|."""
    return float(np.abs(actual - predicted).sum() / np.abs(actual).sum())


def score_energy(train: StationHours, test: StationHours, seed: int = 0) -> EnergyScore:
    """Choose and fit on `train`, compare on `test`; stations that are in both are left out of training.

    Raises
    ------
    InputError
        Fewer stations are left to train with than there are folds.
    DureError
        scikit-learn is not installed.
    """
    unseen = train.of_stations(~np.isin(train.names, test.names))
    if len(unseen.names) < FOLDS:
        raise InputError(f"{len(unseen.names)} base stations are not in the test as well; {FOLDS} are needed", field="--train")
    _boosting()
    cv = {name: _cv_wmape(fit, unseen, seed) for name, fit in CANDIDATES.items()}
    chosen = min(cv, key=lambda name: cv[name])
    return EnergyScore(
        wmape(test.energy, CANDIDATES[chosen](unseen, seed)(test)),
        wmape(test.energy, fit_naive(unseen, seed)(test)),
        wmape(test.energy, fit_gbm(unseen, seed)(test)),
        len(test.names), len(test.energy), chosen, cv,
    )  # fmt: skip


def _cv_wmape(fit: Fit, hours: StationHours, seed: int) -> float:
    """WMAPE over base stations left out in turn."""
    fold = np.random.default_rng(seed).permutation(len(hours.names)) % FOLDS
    actual, predicted = [], []
    for left_out in range(FOLDS):
        test = hours.of_stations(fold == left_out)
        actual.append(test.energy)
        predicted.append(fit(hours.of_stations(fold != left_out), seed)(test))
    return wmape(np.concatenate(actual), np.concatenate(predicted))


def fit_naive(train: StationHours, seed: int) -> Predict:
    """The median energy of hours of stations whose first cell has the same type of radio unit; else that of all hours."""
    del seed
    of_row = train.ru_type[train.station, 0]
    medians = {str(kind): float(np.median(train.energy[of_row == kind])) for kind in np.unique(of_row)}
    overall = float(np.median(train.energy))

    def predict(hours: StationHours) -> Floats:
        return np.array([medians.get(kind, overall) for kind in hours.ru_type[:, 0]])[hours.station]

    return predict


def fit_gbm(train: StationHours, seed: int) -> Predict:
    """Plain gradient boosting: scikit-learn's defaults for absolute errors, on the columns as they come."""
    kinds = _Kinds.of(train)
    trees = _boosting()(loss="absolute_error", random_state=seed).fit(_columns(train, kinds), train.energy)

    def predict(hours: StationHours) -> Floats:
        return np.asarray(trees.predict(_columns(hours, kinds)), np.float64)

    return predict


def fit_physical(train: StationHours, seed: int) -> Predict:
    """The physical model alone."""
    del seed
    kinds = _Kinds.of(train)
    weights = _least_absolute(_terms(train, kinds), train.energy)

    def predict(hours: StationHours) -> Floats:
        return _terms(hours, kinds) @ weights

    return predict


def _fit_residual(is_with_week: bool, train: StationHours, seed: int) -> Predict:
    """The physical model and boosted trees on what it leaves over."""
    kinds = _Kinds.of(train)
    physical = fit_physical(train, seed)

    def columns(hours: StationHours, base: Floats) -> Floats:
        parts = [_columns(hours, kinds), base[:, None]] + ([_week(hours)] if is_with_week else [])
        return np.concatenate(parts, axis=1)

    base = physical(train)
    trees = _boosting()(random_state=seed, **_TREES).fit(columns(train, base), train.energy - base)

    def predict(hours: StationHours) -> Floats:
        base = physical(hours)
        return base + np.asarray(trees.predict(columns(hours, base)), np.float64)

    return predict


CANDIDATES: dict[str, Fit] = {
    "physical": fit_physical,
    "physical+hour": partial(_fit_residual, False),
    "physical+week": partial(_fit_residual, True),
}


def _boosting() -> Any:
    try:
        from sklearn.ensemble import HistGradientBoostingRegressor
    except ImportError:
        raise DureError("boosted trees need scikit-learn: pip install 'dure[ran]'") from None
    return HistGradientBoostingRegressor


@dataclass(frozen=True)
class _Kinds:
    """Types of radio units and modes that training has seen."""

    ru_types: list[str]
    modes: list[str]

    @classmethod
    def of(cls, hours: StationHours) -> _Kinds:
        return cls(sorted(set(hours.ru_type.ravel().tolist()) - {""}), sorted(set(hours.mode.ravel().tolist()) - {""}))


def _codes(names: NDArray[np.str_], known: list[str]) -> Floats:
    """Index of each name; -1 where there is none or training has not seen it."""
    index = {name: float(idx) for idx, name in enumerate(known)}
    return np.array([index.get(name, -1.0) for name in names])


def _columns(hours: StationHours, kinds: _Kinds) -> Floats:
    """The format's own columns, a row for each hour: loads, modes, settings, types, hour of the day; -1 where a cell is not there."""
    at = hours.station
    parts = [np.nan_to_num(hours.load, nan=-1.0), hours.es.reshape(len(at), CELLS_MAX * NUM_ES_MODES), hours.settings[at].reshape(len(at), -1)]
    for cell in range(CELLS_MAX):
        parts.append(_codes(hours.ru_type[:, cell], kinds.ru_types)[at][:, None])
        parts.append(_codes(hours.mode[:, cell], kinds.modes)[at][:, None])
    parts.append((hours.hour % 24).astype(np.float64)[:, None])
    return np.concatenate(parts, axis=1)


def _terms(hours: StationHours, kinds: _Kinds) -> Floats:
    """Terms of the physical model for each hour, summed over a station's cells: for each type of radio unit power without load,
    by load, by transmit power, bandwidth and antennas without load and by load, and what energy-saving modes take away.
    """
    at = hours.station
    out = np.zeros((len(at), len(kinds.ru_types), 8 + 2 * NUM_ES_MODES))
    for cell in range(CELLS_MAX):
        is_on = ~np.isnan(hours.load[:, cell])
        load = np.where(is_on, hours.load[:, cell], 0.0)
        _, bandwidth, antennas, power = hours.settings[at, cell].T
        one = np.ones(len(at))
        terms = np.stack([one, load, load**2, power, power * load, bandwidth, bandwidth * load, antennas], axis=1)
        es = hours.es[:, cell]
        terms = np.concatenate([terms, es, es * load[:, None]], axis=1)
        for idx, kind in enumerate(kinds.ru_types):
            rows = is_on & (hours.ru_type[at, cell] == kind)
            out[rows, idx] += terms[rows]
    return out.reshape(len(at), -1)


def _least_absolute(terms: Floats, energy: Floats) -> Floats:
    """Weights with the least absolute errors (squares reweighted in turn), held small by a ridge."""
    scale = np.sqrt((terms**2).mean(axis=0))
    used = scale > 0
    scaled = terms[:, used] / scale[used]
    row_weight = np.ones(len(energy))
    found = np.zeros(scaled.shape[1])
    for _ in range(_REWEIGHTINGS):
        weighted = scaled * row_weight[:, None]
        normal = weighted.T @ scaled
        normal[np.diag_indices_from(normal)] += _RIDGE * row_weight.sum()
        found = np.linalg.solve(normal, weighted.T @ energy)
        row_weight = 1.0 / np.maximum(np.abs(energy - scaled @ found), _ERROR_MIN)
    out = np.zeros(terms.shape[1])
    out[used] = found / scale[used]
    return out


def _week(hours: StationHours) -> Floats:
    """What a station's whole record tells of it: mean, spread and highest load of its cells, how much they are in service and in
    energy-saving modes, the load an hour before and after, the day of the week.
    """
    at, num = hours.station, len(hours.names)
    per_station = np.bincount(at, minlength=num)
    load = np.nan_to_num(hours.load)

    def mean(values: Floats) -> Floats:
        return (np.bincount(at, values, num) / per_station)[at]

    columns = []
    for cell in range(CELLS_MAX):
        columns.append(mean(load[:, cell]))
        columns.append(np.sqrt(np.maximum(mean(load[:, cell] ** 2) - columns[-1] ** 2, 0.0)))
        highest = np.zeros(num)
        np.maximum.at(highest, at, load[:, cell])
        columns.append(highest[at])
        columns.append(mean((~np.isnan(hours.load[:, cell])).astype(np.float64)))
        columns += [mean(hours.es[:, cell, mode]) for mode in range(NUM_ES_MODES)]
    row_of = {key: row for row, key in enumerate(zip(at.tolist(), hours.hour.tolist(), strict=True))}
    for lag in (-1, 1):
        near = [row_of.get((station, hour + lag), -1) for station, hour in zip(at.tolist(), hours.hour.tolist(), strict=True)]
        columns.append(np.where(np.array(near) >= 0, load[near, 0], -1.0))
    columns.append((hours.hour // 24 % 7).astype(np.float64))
    return np.stack(columns, axis=1)

"""Turbofan engines that run to failure (NASA C-MAPSS): reading, features of an engine's history, scores, intervals.

Data: A. Saxena, K. Goebel, D. Simon, N. Eklund, "Damage propagation modeling for aircraft engine run-to-failure
simulation", Int. Conf. on Prognostics and Health Management, 2008.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dure.model.errors import InputError

#: The seven others of the 21 sensors hardly vary in FD001 (one operating condition); 1-based, as in the data's readme.
SENSORS = (2, 3, 4, 7, 8, 9, 11, 12, 13, 14, 15, 17, 20, 21)

#: An engine that still has more cycles to go than this shows nothing of it yet; the literature caps FD001 here.
CAP_CYCLES = 125

#: Means over so many latest cycles; the first cycles of an engine are its own reference.
SPANS_CYCLES = (10, 30, 60)
START_CYCLES = 30

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Fleet:
    """Engines in the order of their numbers.

    Attributes
    ----------
    histories : list of array
        Of each engine its sensors by cycle.
    left_cycles : list of array
        Of each engine the cycles left, uncapped: at every cycle (training) or after the last one only (test).
    """

    histories: list[Array]
    left_cycles: list[Array]


def read_fleets(folder: Path) -> tuple[Fleet, Fleet]:
    """FD001's engines for training and its test engines.

    Raises
    ------
    InputError
        A file is missing or of another form.
    """
    train = _histories(folder / "train_FD001.txt.gz")
    test = _histories(folder / "test_FD001.txt.gz")
    last = _table(folder / "RUL_FD001.txt.gz").reshape(-1)
    if len(last) != len(test):
        raise InputError(f"has {len(last)} lives for {len(test)} engines", path=str(folder / "RUL_FD001.txt.gz"))
    return (
        Fleet(train, [np.arange(len(history), dtype=float)[::-1] for history in train]),
        Fleet(test, [np.array([cycles]) for cycles in last]),
    )


def _histories(path: Path) -> list[Array]:
    table = _table(path)
    if table.shape[1] != 26:
        raise InputError(f"has {table.shape[1]} columns, not 26", path=str(path))
    sensors = table[:, [4 + sensor for sensor in SENSORS]]
    return [sensors[table[:, 0] == engine] for engine in np.unique(table[:, 0])]


def _table(path: Path) -> Array:
    if not path.is_file():
        raise InputError("is not there: set DURE_DATA to the folder that holds physical_ai/cmapss", path=str(path))
    return np.loadtxt(path, ndmin=2)


def features(history: Array) -> Array:
    """What is known of an engine at each of its cycles, from that cycle and earlier ones only.

    How worn it is: its sensors' means over `SPANS_CYCLES`. How fast it wears: what they have drifted since its own first
    `START_CYCLES`, with its age; engines differ from new, so a drift is told only by the engine's own start.
    """
    cycles = np.arange(1, len(history) + 1)
    sums = np.concatenate([np.zeros((1, history.shape[1])), np.cumsum(history, axis=0)])

    def mean_of_latest(span_cycles: int) -> Array:
        first = np.maximum(0, cycles - span_cycles)
        return (sums[1:] - sums[first]) / (cycles - first)[:, None]

    latest = [mean_of_latest(span) for span in SPANS_CYCLES]
    started = np.minimum(START_CYCLES, cycles)
    drift = latest[0] - sums[started] / started[:, None]
    return np.concatenate([*latest, drift, cycles[:, None].astype(float)], axis=1)


def folds_of_engines(num_engines: int, num_folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of each engine: whole engines, so that none is both learnt from and predicted."""
    return np.random.default_rng(seed).permutation(num_engines) % num_folds


def rmse(predicted: Array, true: Array) -> float:
    """Root mean squared error."""
    return float(np.sqrt(np.mean((predicted - true) ** 2)))


def nasa_score(predicted: Array, true: Array) -> float:
    """Sum over engines that punishes a late warning more than an early one (Saxena et al. 2008, PHM08 challenge)."""
    late = predicted - true
    return float(np.sum(np.where(late < 0, np.exp(-late / 13), np.exp(late / 10)) - 1))


def widening(low: Array, high: Array, true: Array, coverage: float) -> float:
    """By how much to widen quantile predictions so that ``coverage`` of cases like these lie inside; below 0: to narrow.

    Conformalised quantile regression: Y. Romano, E. Patterson, E. Candès, NeurIPS 2019.

    Raises
    ------
    InputError
        There are too few cases for this coverage.
    """
    outside = np.sort(np.maximum(low - true, true - high))
    rank = int(np.ceil((len(outside) + 1) * coverage))
    if rank > len(outside):
        raise InputError(f"{len(outside)} cases are too few for a coverage of {coverage}")
    return float(outside[rank - 1])

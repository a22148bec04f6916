"""How far off promised and foretold starts were: actual less promised start, as a distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.twin.result import NEVER, PROMISE_FORECAST, PROMISES

#: Quantiles kept of every distribution of errors.
ERROR_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)

#: A start is on time within a minute, or a tenth of the time that it was promised ahead, whichever is more.
TOLERANCE_MS, TOLERANCE_SHARE = 60_000, 0.1

#: Upper edges, inclusive, of the classes of the time that a start was foretold ahead, in seconds.
HORIZONS_S = (600.0, 3_600.0, 21_600.0, 86_400.0, 604_800.0, math.inf)


@dataclass(frozen=True)
class StartErrors:
    """Actual less promised start of a set of promises, in seconds; positive: later than promised. nan where ``n`` is 0.

    Attributes
    ----------
    n : int
        Promises whose jobs did start: those that are scored.
    num_open : int
        Promises whose jobs had not started when the run ended.
    num_unforeseen : int
        Forecasts that saw no start; not scored, whether the job started or not.
    ahead_p50_s : float
        Median of the time that they were promised ahead.
    mean_s, mae_s : float
        Mean error and mean absolute error.
    quantiles_s : tuple of float
        At ERROR_QUANTILES.
    late_share : float
        Started later than promised, be it by a millisecond; 0..1.
    on_time_share : float
        Started on time by the tolerance, early or late; 0..1.
    """

    n: int
    num_open: int
    num_unforeseen: int
    ahead_p50_s: float
    mean_s: float
    mae_s: float
    quantiles_s: tuple[float, ...]
    late_share: float
    on_time_share: float


def start_errors(promises: NDArray[Any]) -> StartErrors:
    """The errors of all `promises` (PROMISE_DTYPE, shape (P,)) together."""
    is_foreseen = promises["promised_ms"] != NEVER
    scored = promises[is_foreseen & (promises["start_ms"] != NEVER)]
    num_unforeseen, n = int((~is_foreseen).sum()), len(scored)
    num_open = len(promises) - num_unforeseen - n
    if n == 0:
        nothing = (math.nan,) * len(ERROR_QUANTILES)
        return StartErrors(0, num_open, num_unforeseen, math.nan, math.nan, math.nan, nothing, math.nan, math.nan)
    error_ms = scored["start_ms"] - scored["promised_ms"]
    ahead_ms = scored["promised_ms"] - scored["made_ms"]
    size_ms = np.abs(error_ms)
    tolerated_ms = np.maximum(TOLERANCE_MS, ahead_ms * TOLERANCE_SHARE)
    return StartErrors(
        n=n, num_open=num_open, num_unforeseen=num_unforeseen, ahead_p50_s=float(np.median(ahead_ms)) / 1000,
        mean_s=float(error_ms.mean()) / 1000, mae_s=float(size_ms.mean()) / 1000,
        quantiles_s=tuple(float(q) / 1000 for q in np.quantile(error_ms, ERROR_QUANTILES)),
        late_share=float((error_ms > 0).mean()), on_time_share=float((size_ms <= tolerated_ms).mean()),
    )  # fmt: skip


def policy_promises(promises: NDArray[Any]) -> NDArray[Any]:
    """The promises that the policy made, without the twin's forecasts."""
    made: NDArray[Any] = promises[promises["kind"] != PROMISE_FORECAST]
    return made


def forecasts(promises: NDArray[Any]) -> NDArray[Any]:
    """The twin's forecasts among the promises."""
    made: NDArray[Any] = promises[promises["kind"] == PROMISE_FORECAST]
    return made


def by_kind(promises: NDArray[Any]) -> dict[str, StartErrors]:
    """The errors of each kind of promise that the policy made at all, in the order of PROMISES."""
    made = {name: promises[promises["kind"] == kind] for kind, name in enumerate(PROMISES) if kind != PROMISE_FORECAST}
    return {name: start_errors(rows) for name, rows in made.items() if len(rows)}


def by_horizon(promises: NDArray[Any]) -> dict[float, StartErrors]:
    """The errors of the forecasts by how far ahead the start was foretold: upper edge of HORIZONS_S → errors."""
    rows = forecasts(promises)
    rows = rows[rows["promised_ms"] != NEVER]
    horizon = np.searchsorted(HORIZONS_S, (rows["promised_ms"] - rows["made_ms"]) / 1000, side="left")
    found = {edge_s: rows[horizon == i] for i, edge_s in enumerate(HORIZONS_S)}
    return {edge_s: start_errors(some) for edge_s, some in found.items() if len(some)}

"""The slow tier: a fence of whole slices for some minutes, from a forecast of the site's load, changed only after a drain.

Batch work that saves itself and leaves in minutes may use what is outside the fence; the lending guard governs the rest slot by slot.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dure.ran.calibrate import SEVENTHS, Drawn, Move, conformal, halves, needs_of
from dure.ran.loads import CellLoads, hours_of
from dure.ran.site import SiteModel

#: Two-minute windows for which a fence stands, and windows between the last load that is known and its beginning: one in which the
#: load is measured, one in which tenants drain.
HOLD_WINDOWS = 5
LEAD_WINDOWS = 2
#: Weight of the newest window in the running mean of how far the load is from its season.
NEWEST = 0.3


@dataclass(frozen=True)
class FenceForecast:
    """What the earlier days say of a fence.

    Attributes
    ----------
    season : float64[24]
        Mean load by the hour of the day; nan: an hour that was not seen.
    kept : float64[HOLD_WINDOWS]
        How much of the load's distance from its season is still there so many windows into a fence.
    mean, variance : float64[2]
        Need of a slot in SMs at load x: mean ``mean[0] + mean[1] x``, variance ``variance[0] + variance[1] x``.
    error : float
        Deviation of the load from its forecast, in cells.
    quantile : float
        Spreads kept above the mean, by split-conformal scores of slots of later days against forecasts made for them.
    """

    season: NDArray[np.float64]
    kept: NDArray[np.float64]
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    error: float
    quantile: float

    def expected(self, loads: CellLoads) -> NDArray[np.float64]:
        """The load of each window as forecast when its fence was decided, float64[windows]; nan: nothing is known."""
        return _expected(self.season, self.kept, load_of(loads), loads.hour)

    def fences(self, loads: CellLoads, model: SiteModel) -> NDArray[np.float64]:
        """SMs that the radio keeps in each window, whole sevenths, float64[windows]."""
        load = self.expected(loads)
        wanted = self.centre(load) + self.quantile * self.spread(load)
        starts = np.arange(0, len(wanted), HOLD_WINDOWS)
        # One fence for its whole time: where any of its windows is unknown it keeps everything.
        most = np.maximum.reduceat(np.where(np.isnan(wanted), np.inf, wanted), starts)
        seventh = model.num_sms / SEVENTHS
        whole = np.minimum(np.ceil(np.maximum(most, model.floor_sms(loads.down.shape[1])) / seventh) * seventh, model.num_sms)
        return np.repeat(whole, HOLD_WINDOWS)[: len(wanted)]

    def ahead(self, loads: CellLoads, start_window: int, model: SiteModel) -> tuple[float, float]:
        """(SMs that the radio keeps, mean load that is expected) in the fence that is decided now.

        Parameters
        ----------
        loads : CellLoads
            Measured until now.
        start_window : int
            Window of the day of the first of them.
        """
        num, more = len(loads.hour), LEAD_WINDOWS - 1 + HOLD_WINDOWS
        # `fences` lets one begin with every HOLD_WINDOWS-th window: the last one is to be that which is asked for.
        before = -(num + more) % HOLD_WINDOWS
        down, up, mcs_up = (
            np.pad(part, ((before, more), (0, 0)), constant_values=np.nan) for part in (loads.down, loads.up, loads.mcs_up)
        )
        known = CellLoads(down, up, mcs_up, hours_of(start_window - before, before + num + more))
        return float(self.fences(known, model)[-1]), float(self.expected(known)[-HOLD_WINDOWS:].mean())

    def centre(self, load: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mean need at a load."""
        return np.asarray(self.mean[0] + self.mean[1] * load)

    def spread(self, load: NDArray[np.float64]) -> NDArray[np.float64]:
        """Deviation of the need where such a load is forecast: of the slots, and of the forecast."""
        return np.asarray(np.sqrt(np.maximum(self.variance[0] + self.variance[1] * load, 1e-2) + (self.mean[1] * self.error) ** 2))


def load_of(loads: CellLoads) -> NDArray[np.float64]:
    """The site's load in each window: what its cells use of the downlink together, in cells."""
    total: NDArray[np.float64] = loads.down.sum(axis=1)
    return total


def calibrate_fence(model: SiteModel, loads: CellLoads, num_slots: int, seed: int, move: Move) -> FenceForecast:
    """Season, memory and needs from the windows' first half, the quantile from the later one."""
    fit, score = halves(loads, num_slots)
    load, middle = load_of(loads), len(loads.hour) // 2
    season = np.array([load[:middle][loads.hour[:middle] == hour].mean() if (loads.hour[:middle] == hour).any() else np.nan for hour in range(24)])
    kept = _memory(season, load[:middle], loads.hour[:middle])
    drawn = Drawn(model, loads, 0, seed)
    needs = {part.window: needs_of(model, part, of) for part, of in drawn.over(fit, lambda done, _: move(done, len(fit) + len(score)))}
    at = load[list(needs)]
    mean = _line(at, np.array([need.mean() for need in needs.values()]))
    variance = np.maximum(_line(at, np.array([need.var() for need in needs.values()])), 0.0)
    error = float(np.nanstd(load[:middle] - _expected(season, kept, load[:middle], loads.hour[:middle])))
    table = FenceForecast(season, kept, mean, variance, error, 0.0)
    expected = table.expected(loads)
    scores = []
    for part, of in drawn.over(score, lambda done, _: move(len(fit) + done, len(fit) + len(score))):
        x = expected[part.window : part.window + 1]
        if not np.isnan(x[0]):
            scores.append((needs_of(model, part, of) - table.centre(x)) / table.spread(x))
    # Where nothing could be forecast for the later half everything is kept.
    quantile = conformal(scores) if scores else np.inf
    return replace(table, quantile=float(quantile))


def _line(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intercept and slope by least squares; the mean alone where x hardly varies."""
    if x.std() < 1e-9:
        return np.array([y.mean(), 0.0])
    slope = ((x - x.mean()) * (y - y.mean())).mean() / x.var()
    return np.array([y.mean() - slope * x.mean(), slope])


def _away(season: NDArray[np.float64], load: NDArray[np.float64], hour: NDArray[np.int64]) -> NDArray[np.float64]:
    """Running mean of how far the load has been from its season, up to and with each window; hours not seen leave it as it was."""
    away, found = 0.0, np.zeros(len(load))
    for w in range(len(load)):
        distance = load[w] - season[hour[w]]
        if not np.isnan(distance):
            away += NEWEST * (distance - away)
        found[w] = away
    return found


def _memory(season: NDArray[np.float64], load: NDArray[np.float64], hour: NDArray[np.int64]) -> NDArray[np.float64]:
    """Least squares through the origin of the distance ahead on the running mean, for each window of a fence."""
    away, distance = _away(season, load, hour), load - season[hour]
    kept = np.zeros(HOLD_WINDOWS)
    for h in range(HOLD_WINDOWS):
        now, then = away[: len(load) - h - LEAD_WINDOWS], distance[h + LEAD_WINDOWS :]
        is_known = ~np.isnan(then)
        square = float((now[is_known] ** 2).sum())
        kept[h] = np.clip((now[is_known] * then[is_known]).sum() / square, 0.0, 1.0) if square > 0 else 0.0
    return kept


def _expected(
    season: NDArray[np.float64], kept: NDArray[np.float64], load: NDArray[np.float64], hour: NDArray[np.int64]
) -> NDArray[np.float64]:
    away = _away(season, load, hour)
    window = np.arange(len(load))
    into = window % HOLD_WINDOWS
    known = window - into - LEAD_WINDOWS
    # Before anything was measured the season alone speaks.
    distance = np.where(known >= 0, away[np.maximum(known, 0)], 0.0)
    found: NDArray[np.float64] = np.maximum(season[hour] + kept[into] * distance, 0.0)
    return found

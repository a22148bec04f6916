"""What the guard and its baselines learn from the calibration files, and from nothing else.

The windows' first half fits the prediction, the second half, later days, scores it: so that the quantile knows how much
one day differs from the days before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dure.ran import kernels as k
from dure.ran.guard import CLASS_SLOTS_MIN, CLASSES, TRACK, Calibration, conformal_quantile
from dure.ran.loads import CellLoads
from dure.ran.site import KNOWN_SLOTS, PERIOD, SiteModel, downlink_shares, uplink_phases

#: Slots of a window that are played at least; fewer windows are taken where slots do not suffice for all.
SEGMENT_SLOTS_MIN = 2000
#: Misses aimed at, of all slots: below the bar of 1 in 100,000, so that the bound on what is measured stays below it.
MISS_RATE = 4e-6
#: Exceedances nearer than this belong to one cluster: a burst's length and the slots before it in which it is felt.
CLUSTER_GAP_SLOTS = 40
#: Exceedances by which the length of clusters is told: so many at most, a thousandth of the scores, 20 at least.
CLUSTER_SCORES = 400
SEVENTHS = 7
_SPREAD_QUANTILE = 0.99

Move = Callable[[int, int], None]


@dataclass(frozen=True)
class Segment:
    """A stretch of one window: ``window`` in the loads, slots to be counted."""

    window: int
    num_slots: int


def segments(windows: range, num_slots: int) -> list[Segment]:
    """Deal slots to windows, spread evenly over them: each gets `SEGMENT_SLOTS_MIN` or more, to a frame's whole."""
    num = max(1, min(len(windows), num_slots // SEGMENT_SLOTS_MIN))
    chosen = [windows[i * len(windows) // num] for i in range(num)]
    bounds = [i * num_slots // num for i in range(num + 1)]
    return [Segment(w, bounds[i + 1] - bounds[i]) for i, w in enumerate(chosen)]


class Drawn:
    """Needs of one segment after another, in one buffer."""

    def __init__(self, model: SiteModel, loads: CellLoads, horizon: int, seed: int) -> None:
        self.model, self.loads, self.seed = model, loads, seed
        self.tail = max(KNOWN_SLOTS, horizon) + 1
        self.constants = model.constants()
        self.dl_share, self.is_uplink = downlink_shares(), uplink_phases()
        self.stream = np.zeros(1, np.uint64)
        self.track = np.zeros(TRACK)

    def draw(self, segment: Segment, surge_at: int | None = None) -> NDArray[np.float64]:
        """Needs of a segment, its warm-up and tail: float64[ROWS, slots]."""
        return self._draw(segment, surge_at, slice(None))

    def draw_cells(self, segment: Segment, surge_at: int | None = None) -> NDArray[np.float64]:
        """The same of each cell alone: float64[cells, ROWS, slots]."""
        num_cells = self.loads.down.shape[1]
        return np.stack([self._draw(segment, surge_at, slice(cell, cell + 1)) for cell in range(num_cells)])

    def _draw(self, segment: Segment, surge_at: int | None, cells: slice) -> NDArray[np.float64]:
        num = k.WARM_SLOTS + segment.num_slots + self.tail
        needs, shares = np.empty((k.ROWS, num)), np.empty(num)
        w = segment.window
        k.draw_needs(
            self.constants, self.dl_share, self.is_uplink, self.loads.down[w, cells], self.loads.up[w, cells],
            self.loads.mcs_up[w, cells], self.seed, w, num if surge_at is None else surge_at, cells.start or 0, needs, shares,
            self.stream, self.track,
        )  # fmt: skip
        return needs

    def over(self, parts: list[Segment], move: Move) -> Iterator[tuple[Segment, NDArray[np.float64]]]:
        """Each segment with its needs; tells how far it is."""
        for i, part in enumerate(parts):
            yield part, self.draw(part)
            move(i + 1, len(parts))


def calibrate_guard(
    model: SiteModel, loads: CellLoads, vacate_slots: int, num_slots: int, seed: int, move: Move
) -> Calibration:
    """Fit the prediction on the first half of the windows and its quantile on the second.

    Parameters
    ----------
    vacate_slots : int
        v in slots.
    num_slots : int
        Slots to score; a quarter as many more fit the prediction.
    """
    drawn = Drawn(model, loads, vacate_slots, seed)
    fit, score = halves(loads, num_slots)
    total = len(fit) + len(score)
    seen, excess = [], []
    for part, needs in drawn.over(fit, lambda done, _: move(done, total)):
        seen.append(_seen(needs, vacate_slots, part.num_slots))
        is_risky = needs[k.UL_RISK] > 0.0
        excess.append((needs[k.UL_REAL] - needs[k.UL_PLAN])[is_risky] / needs[k.UL_RISK][is_risky])
    uplink = np.quantile(np.concatenate([*excess, np.zeros(1)]), _SPREAD_QUANTILE)
    table = _fitted(vacate_slots, np.concatenate(seen, axis=1), max(float(uplink), 1e-3))
    rules = table.rules(model.num_sms, 0, model.grain_sms)
    scores = []
    for part, needs in drawn.over(score, lambda done, _: move(len(fit) + done, total)):
        found = np.empty(part.num_slots)
        k.score_slots(rules, table.weights, table.edges, table.spread, needs, k.WARM_SLOTS, part.num_slots, found)
        scores.append(found)
    return replace(table, quantile=conformal(scores), num_scores=sum(len(s) for s in scores))


def _seen(needs: NDArray[np.float64], horizon: int, num: int) -> NDArray[np.float64]:
    """Phase, level, long load, risk and what came, of every slot of a segment: float64[5, slots]."""
    most = np.empty(num)
    k.most_unknown(needs, horizon, k.WARM_SLOTS, most)
    span = slice(k.WARM_SLOTS + KNOWN_SLOTS, k.WARM_SLOTS + KNOWN_SLOTS + num)
    phase = np.arange(k.WARM_SLOTS, k.WARM_SLOTS + num) % PERIOD
    return np.stack([phase, needs[k.LEVEL_OF, span], needs[k.LONG_OF, span], needs[k.RISK_OF, span], most])


def _fitted(horizon: int, seen: NDArray[np.float64], uplink_spread: float) -> Calibration:
    """Least squares by phase; the spread of what is left, by phase and class of risk."""
    phase, level, long, risk, most = seen
    # Few slots are told apart in fewer classes, each with twice as many in every phase as are asked for.
    num_classes = int(np.clip(len(risk) // (2 * PERIOD * CLASS_SLOTS_MIN), 1, CLASSES))
    edges = np.full(CLASSES - 1, np.inf)
    edges[: num_classes - 1] = np.quantile(risk, np.arange(1, num_classes) / num_classes)
    row = np.searchsorted(edges, risk)
    weights, spread = np.zeros((PERIOD, 3)), np.full((PERIOD, CLASSES), np.inf)
    for p in range(PERIOD):
        at = np.flatnonzero(phase == p)
        if len(at) == 0:
            continue
        factors = np.stack([level[at], long[at], np.ones(len(at))], axis=1)
        # The normal equations, in one thread's fixed order: the same digest on every machine with this arithmetic.
        square = np.einsum("ij,ik->jk", factors, factors) + 1e-6 * np.eye(3)
        weights[p] = np.linalg.solve(square, np.einsum("ij,i->j", factors, most[at]))
        rest = most[at] - (factors * weights[p]).sum(axis=1)
        for c in range(CLASSES):
            own = rest[row[at] == c]
            if len(own) >= CLASS_SLOTS_MIN:
                spread[p, c] = max(np.quantile(own, _SPREAD_QUANTILE), 0.1)
    return Calibration(
        horizon, weights, edges, spread, float(level.max()), float(risk.max()), uplink_spread, 0.0, 0
    )


def calibrate_static(model: SiteModel, loads: CellLoads, num_slots: int, seed: int, move: Move) -> float:
    """The least constant reserve, SMs, that is late as rarely as is asked of the guard, by the same bound."""
    quantile = conformal([need for _, need in _needs(model, loads, num_slots, seed, move)])
    return float(model.rounded_sms(max(quantile, model.floor_sms(loads.down.shape[1]))))


def calibrate_mig(
    model: SiteModel, loads: CellLoads, num_slots: int, seed: int, move: Move
) -> NDArray[np.float64]:
    """Reserves by the hour of the day, sevenths of the GPU, float64[24]: an hour's mean and so many of its spreads.

    How many is one quantile for all hours, by the same bound: an hour of its own has too few slots to show it. As spread the
    hour's deviation, its thousandth above the mean, and one for all hours are tried, and that is taken which lends most. As for
    the guard, the windows' first half gives means and spreads, and the later half the scores.
    """
    parts = list(_needs(model, loads, num_slots, seed, move))
    hours = np.array([loads.hour[part.window] for part, _ in parts])
    middle = len(parts) // 2
    mean, spreads = np.full(24, np.nan), np.full((3, 24), np.nan)
    for hour in range(24):
        own = [need for (_, need), at in zip(parts[:middle], hours[:middle], strict=True) if at == hour]
        if own:
            joined = np.concatenate(own)
            mean[hour] = joined.mean()
            spreads[:, hour] = joined.std(), np.quantile(joined, 0.999) - mean[hour], 1.0
    if np.isnan(mean[hours[middle:]]).all():
        return np.full(24, float(model.num_sms))  # the later half has none of the first's hours
    spreads = np.maximum(spreads, 0.1)
    seventh = model.num_sms / SEVENTHS
    floor = model.floor_sms(loads.down.shape[1])
    tried = []
    for spread in spreads:
        later = zip(parts[middle:], hours[middle:], strict=True)
        scores = [(need - mean[at]) / spread[at] for (_, need), at in later if not np.isnan(mean[at])]
        wanted = np.maximum(mean + conformal(scores) * spread, floor)
        tried.append(np.minimum(np.ceil(wanted / seventh) * seventh, model.num_sms))
    best = min(tried, key=lambda reserves: float(np.nan_to_num(reserves, nan=model.num_sms)[hours].sum()))
    # An hour that was never seen keeps everything.
    return np.where(np.isnan(best), model.num_sms, best)


def halves(loads: CellLoads, num_slots: int) -> tuple[list[Segment], list[Segment]]:
    """Stretches of the windows' first half, and of the later one, with four times as many slots."""
    num = len(loads.hour)
    return segments(range(num // 2), num_slots // 4), segments(range(num // 2, num), num_slots)


def _needs(
    model: SiteModel, loads: CellLoads, num_slots: int, seed: int, move: Move
) -> Iterator[tuple[Segment, NDArray[np.float64]]]:
    drawn = Drawn(model, loads, 0, seed)
    for part, needs in drawn.over(segments(range(len(loads.hour)), num_slots), move):
        yield part, needs_of(model, part, needs)


def needs_of(model: SiteModel, part: Segment, needs: NDArray[np.float64]) -> NDArray[np.float64]:
    """SMs that each counted slot of a segment needs, of what was drawn for it."""
    span = slice(k.WARM_SLOTS, k.WARM_SLOTS + part.num_slots)
    found: NDArray[np.float64] = np.minimum(needs[k.DL, span] + needs[k.UL_REAL, span], model.num_sms)
    return found


def conformal(scores: list[NDArray[np.float64]]) -> float:
    """`conformal_quantile` at the rate aimed at, of scores that come together in clusters."""
    joined = np.concatenate(scores)
    num = len(joined)
    top = min(num, max(20, num // 50))
    largest = np.argpartition(joined, num - top)[num - top :]
    return conformal_quantile(joined[largest], num, MISS_RATE, cluster_slots(scores))


def cluster_slots(scores: list[NDArray[np.float64]]) -> float:
    """How many of the largest scores come together, in the mean: 1 where each stands alone."""
    joined = np.concatenate(scores)
    num = min(len(joined), CLUSTER_SCORES, max(20, len(joined) // 1000))
    bar = np.partition(joined, len(joined) - num)[len(joined) - num]
    exceeding = clusters = 0
    for part in scores:
        at = np.flatnonzero(part >= bar)
        exceeding += len(at)
        clusters += bool(len(at)) + int((np.diff(at) > CLUSTER_GAP_SLOTS).sum())
    return exceeding / max(clusters, 1)

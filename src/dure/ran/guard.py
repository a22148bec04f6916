"""The lending guard: how many SMs the radio keeps, slot by slot.

One code for the twin and for the agent of a cell site: it is told what is planned and what is in hand, slot by slot, and
has no clock of its own. Rules, as the code and the tests cite them:

G1. *Reserve over v.* What is lent in slot ``t`` may be in use until ``t + v``: the reserve is the most that any slot from
    ``t`` to ``t + v`` needs, in which the next ``KNOWN_SLOTS`` are planned already and the rest is predicted.
G2. *Conformal.* Prediction plus ``quantile`` times its spread; the quantile is one of scores on slots that the prediction has not
    seen, chosen so that misses are rarer than asked for with 99% confidence given how many there were (`conformal_quantile`).
G3. *Never seen, never lent.* At a level of load with too few calibration slots everything is kept.
G4. *Silence reserves.* No prediction or plan, or a slot number that does not follow the last: everything, and for
    `RESUME_SLOTS` more slots. The place in the frame is read off the plan (the first slot without downlink), never off a
    clock; a plan that does not keep to the frame reserves everything too. The tenants' side holds a lease of
    `LEASE_SLOTS` (`leased_reserve`).
G5. *Late tenant.* Fewer SMs in hand than must have come back: everything (all tenants are evicted), and `RESUME_SLOTS` more.
G6. *Burn.* Each missed slot raises the quantile by `BURN_STEP` of itself; the rise halves every `BURN_HALF_SLOTS`.
G7. *Floor.* SMs that control of all cells needs are never lent.
G8. *Failing over.* Where too few of the GPU's SMs are present for its cells though everything is kept and uplink cut, cells go to a standby
    site, if there is one with room: by plan while the GPU works, at once where it does not carry their control any more
    (`dure.ran.failover`). Before a cell comes back and after any move everything is kept, as in G4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.policy.kernels.compile import kernel
from dure.ran.failover import AWAY, HERE, failover_step, new_failover
from dure.ran.site import KNOWN_SLOTS, PERIOD, downlink_shares

#: Classes of risk that the prediction tells apart, each with as many fitting slots.
CLASSES = 16
#: A class with fewer fitting slots in a phase has never been seen (G3).
CLASS_SLOTS_MIN = 200
#: Downlink slots over which a cell's height within its burst, and its load in the long run, are averaged.
HEIGHT_SLOTS = 16.0
LONG_SLOTS = 512.0
#: SMs by which a cell's long load counts for risk beside the squares of the heights: about a cell's highest need.
RISE_SMS = 4.0
RESUME_SLOTS = 20
LEASE_SLOTS = 4
BURN_STEP = 0.05
BURN_HALF_SLOTS = 1_000_000
BURN_MAX = 1.0
CONFIDENCE = 0.99

# Rules: what calibration and site say, float64.
NUM_SMS, FLOOR_SMS, GRAIN_SMS, VACATE_SLOTS, QUANTILE, UPLINK_SPREAD, LEVEL_MAX, RISK_MAX = range(8)
# Memory: what the guard remembers from slot to slot, float64; the last `VACATE_SLOTS` reserves follow.
LAST_SLOT, HOLD_SLOTS, BURN, PHASE, RING = range(5)
# Track of one cell: slots of its burst so far, its height, slots in all, its long load; float64[TRACK].
BURST, HEIGHT, SEEN, LONG = range(4)
TRACK = 4

#: Phase of the first slot without downlink.
_FIRST_WITHOUT = int(np.flatnonzero(downlink_shares() == 0.0)[0])


@kernel
def track_cell(track: Any, dl_sms: float) -> None:
    """Follow one cell over one whole downlink slot in which its data needs so many SMs."""
    if dl_sms <= 0.0:
        track[BURST] = 0.0
        track[HEIGHT] = 0.0
    else:
        track[BURST] = min(track[BURST] + 1.0, HEIGHT_SLOTS)
        track[HEIGHT] += (dl_sms - track[HEIGHT]) / track[BURST]
    track[SEEN] = min(track[SEEN] + 1.0, LONG_SLOTS)
    track[LONG] += (dl_sms - track[LONG]) / track[SEEN]


@kernel
def risk_of(squares: float, long: float) -> float:
    """Risk of a rise, SMs: from the sum of squared heights (bursts going on) and the sum of long loads (those to come)."""
    return np.sqrt(squares + RISE_SMS * long)


@kernel
def vacated(rules: Any, memory: Any) -> float:
    """SMs that must be in hand in this slot: the least of the reserves of the last v."""
    least = rules[NUM_SMS]
    for i in range(int(rules[VACATE_SLOTS])):
        least = min(least, memory[RING + i])
    return least


@kernel
def predict(rules: Any, weights: Any, edges: Any, spread: Any, phase: int, level: float, long: float, risk: float) -> Any:
    """Centre and spread of what the slots beyond the known ones need at most, less the uplink planned for the first of them.

    Everything, for certain, where so high a level or risk was never seen (G3).
    """
    if level > rules[LEVEL_MAX] or risk > rules[RISK_MAX]:
        return rules[NUM_SMS], 0.0
    row = np.searchsorted(edges, risk)
    if np.isinf(spread[phase, row]):
        return rules[NUM_SMS], 0.0
    centre = weights[phase, 0] * level + weights[phase, 1] * long + weights[phase, 2]
    return centre, spread[phase, row]


@kernel
def reserve_for(
    rules: Any, weights: Any, edges: Any, spread: Any, dl: Any, ul: Any, ul_risk: Any, at: int, phase: int,
    level: float, long: float, risk: float, quantile: float,
) -> float:  # fmt: skip
    """G1 to G3: SMs to keep, before rounding; ``dl`` and ``ul`` are the planned needs, this slot's at ``at``, and ``ul_risk``
    the root of the summed squares of the cells' decodes in ``ul``.
    """
    horizon = int(rules[VACATE_SLOTS])
    unsure = quantile * rules[UPLINK_SPREAD]
    most = 0.0
    for s in range(at, at + min(horizon, KNOWN_SLOTS) + 1):
        most = max(most, dl[s] + ul[s] + unsure * ul_risk[s])
    if horizon > KNOWN_SLOTS:
        centre, width = predict(rules, weights, edges, spread, phase, level, long, risk)
        first = at + KNOWN_SLOTS + 1
        most = max(most, centre + quantile * width + ul[first] + unsure * ul_risk[first])
    return most


@kernel
def frame_phase(last: int, dl: Any, at: int) -> int:
    """A slot's phase, from the last's (-1: unknown) and the plan: -1 where it is unknown or they do not agree."""
    phase = (last + 1) % PERIOD if last >= 0 else -1
    if dl[at + KNOWN_SLOTS] == 0.0 and dl[at + KNOWN_SLOTS - 1] > 0.0:
        seen = (_FIRST_WITHOUT - KNOWN_SLOTS) % PERIOD
        return seen if phase in (-1, seen) else -1
    # A frame has one such edge; where it should be and is not, the plan does not keep to the frame.
    return -1 if phase == (_FIRST_WITHOUT - KNOWN_SLOTS) % PERIOD else phase


@kernel
def guard_step(
    rules: Any, weights: Any, edges: Any, spread: Any, memory: Any, failover: Any, place: Any, loads: Any, slot: int,
    dl: Any, ul: Any, ul_risk: Any, at: int, level: float, long: float, risk: float, in_hand: float, present: float,
    held: float, is_missed: bool,
) -> float:  # fmt: skip
    """One slot: of the SMs ``present`` those that the radio keeps from now on; the rest may be lent until the next slot's decision.

    ``level`` is below 0 where there is no prediction; ``in_hand`` is what is seen to be free of tenants before this
    decision; ``held`` is the work that was held back in the slot before, and ``is_missed`` says whether that was late. ``failover``, ``place`` and
    ``loads`` are as in `failover_step`.
    """
    is_planned = level >= 0.0
    phase = frame_phase(int(memory[PHASE]), dl, at) if is_planned else -1
    memory[PHASE] = phase
    is_moving = failover_step(
        failover, place, loads, rules[NUM_SMS], rules[FLOOR_SMS], rules[VACATE_SLOTS], present,
        dl[at] + ul[at] if is_planned else np.inf, held, in_hand >= present,
    )  # fmt: skip
    is_late = in_hand < min(vacated(rules, memory), present)
    if slot != memory[LAST_SLOT] + 1 or phase < 0 or is_late or is_moving:
        memory[HOLD_SLOTS] = RESUME_SLOTS
    memory[LAST_SLOT] = slot
    memory[BURN] *= 1.0 - 0.6931471805599453 / BURN_HALF_SLOTS
    if is_missed:
        memory[BURN] = min(BURN_MAX, memory[BURN] + BURN_STEP)
    keep = present
    if memory[HOLD_SLOTS] > 0:
        memory[HOLD_SLOTS] -= 1
    else:
        quantile = rules[QUANTILE] * (1.0 + memory[BURN])
        wanted = reserve_for(
            rules, weights, edges, spread, dl, ul, ul_risk, at, phase, level, long, risk, quantile
        )
        wanted = np.ceil(max(wanted, rules[FLOOR_SMS]) / rules[GRAIN_SMS]) * rules[GRAIN_SMS]
        keep = min(keep, wanted)
    for i in range(int(rules[VACATE_SLOTS]) - 1, 0, -1):
        memory[RING + i] = memory[RING + i - 1]
    if rules[VACATE_SLOTS] > 0:
        memory[RING] = keep
    return keep


@kernel
def leased_reserve(last: float, silent_slots: int, num_sms: float) -> float:
    """G4 on the tenants' side: the last reserve that was heard of while its lease runs, then everything."""
    return last if silent_slots < LEASE_SLOTS else num_sms


def new_memory(vacate_slots: int, num_sms: int, slot: int) -> NDArray[np.float64]:
    """A guard that has lent nothing and expects this slot number next."""
    return np.array([slot - 1, RESUME_SLOTS, 0, -1] + [num_sms] * vacate_slots, np.float64)


@dataclass(frozen=True)
class Calibration:
    """What the guard has learnt.

    Attributes
    ----------
    vacate_slots : int
        v, in slots, for which it holds.
    weights : float64[PERIOD, 3]
        Of level, long load and one, in the prediction of the most that a slot beyond the known ones needs until ``t + v``,
        less the uplink planned for the first of them, SMs.
    edges : float64[CLASSES - 1]
        Bounds of the classes of risk.
    spread : float64[PERIOD, CLASSES]
        How far a hundredth of slots exceeds the prediction, SMs; infinite in classes never seen (G3).
    level_max, risk_max : float
        The highest seen (G3).
    uplink_spread : float
        By how much a hundredth of uplink needs exceeds its plan, as a share of the root of the cells' summed squared decodes.
    quantile : float
        Spreads to keep beyond the prediction.
    num_scores : int
        Calibration slots behind the quantile.
    """

    vacate_slots: int
    weights: NDArray[np.float64]
    edges: NDArray[np.float64]
    spread: NDArray[np.float64]
    level_max: float
    risk_max: float
    uplink_spread: float
    quantile: float
    num_scores: int

    def rules(self, num_sms: int, floor_sms: int, grain_sms: int) -> NDArray[np.float64]:
        """The kernels' rules for a GPU."""
        return np.array(
            [
                num_sms, floor_sms, grain_sms, self.vacate_slots, self.quantile, self.uplink_spread, self.level_max,
                self.risk_max,
            ],
            np.float64,
        )  # fmt: skip


class LendingGuard:
    """The guard as a cell site's agent drives it: `track` and `step` once a slot.

    Parameters
    ----------
    calibration : Calibration
        What `dure.ran.calibrate` has learnt, for this v.
    num_cells : int
        Cells of the site.
    num_sms, floor_sms, grain_sms : int
        The GPU's SMs, those never lent, and the multiple in which they are given.
    first_slot : int
        Number of the first slot.
    standby_cells : int
        Cells for which a standby site has room (G8); 0: there is none.

    Attributes
    ----------
    place : int64[num_cells]
        Where each cell is from the slot last stepped on: `HERE`, `PRIMED` (here, while a standby gets ready) or `AWAY`.
    """

    def __init__(
        self, calibration: Calibration, num_cells: int, num_sms: int, floor_sms: int, grain_sms: int, first_slot: int,
        standby_cells: int,
    ) -> None:  # fmt: skip
        self._calibration = calibration
        self._rules = calibration.rules(num_sms, floor_sms, grain_sms)
        self._memory = new_memory(calibration.vacate_slots, num_sms, first_slot)
        self._tracks = np.zeros((num_cells, TRACK))
        self._failover = new_failover(standby_cells)
        self.place = np.full(num_cells, HERE)

    def track(self, dl_data_sms: NDArray[np.float64]) -> None:
        """Tell what each cell's data needs in the newest planned slot, where that is a whole downlink slot: float64[cells]. Also of cells that are away."""
        for track, sms in zip(self._tracks, dl_data_sms, strict=True):
            track_cell(track, float(sms))

    def step(
        self, slot: int, dl_sms: NDArray[np.float64], ul_sms: NDArray[np.float64],
        ul_risk_sms: NDArray[np.float64], in_hand_sms: float, *, present_sms: float, held_sms: float, is_missed: bool,
    ) -> int:  # fmt: skip
        """SMs to keep from this slot on, of those present.

        Parameters
        ----------
        slot : int
            Its number.
        dl_sms, ul_sms : float64[KNOWN_SLOTS + 2]
            Planned needs of this slot and of those after it, SMs, of the cells that were here in the slot before. The last of ``dl_sms`` is not known yet and not looked
            at; uplink is worked on after it is received and so is known a slot longer. Empty where there is no plan (G4).
        ul_risk_sms : float64[KNOWN_SLOTS + 2]
            Root of the cells' summed squared decodes in ``ul_sms``.
        in_hand_sms : float
            SMs that are free of tenants now.
        present_sms : float
            SMs of the GPU that work.
        held_sms : float
            Work that layer 1 held back in the slot before, SMs, beyond the uplink decodes that it cut short.
        is_missed : bool
            Whether the slot before was late.
        """
        table = self._calibration
        is_here = self.place != AWAY
        heights = self._tracks[is_here, HEIGHT]
        long = float(self._tracks[is_here, LONG].sum())
        return int(
            guard_step(
                self._rules, table.weights, table.edges, table.spread, self._memory, self._failover, self.place, self._tracks[:, LONG],
                slot, dl_sms, ul_sms, ul_risk_sms, 0, float(heights.sum()) if len(dl_sms) else -1.0, long, risk_of(float(heights @ heights), long),
                float(in_hand_sms), float(present_sms), float(held_sms), is_missed,
            )
        )  # fmt: skip


def conformal_quantile(
    scores: NDArray[np.float64], num_scores: int, miss_rate: float, cluster_slots: float = 1.0
) -> float:
    """The score that new slots exceed less often than ``miss_rate``, with `CONFIDENCE` given the number seen (G2).

    A split-conformal quantile promises its rate in the mean over calibrations; here the bound holds for this one
    (a tolerance limit: Wilks 1941; Vovk 2012, "Conditional validity of inductive conformal predictors"): it is the
    ``j + 1``-th largest score with the largest ``j`` for which ``P(Poisson(n · miss_rate) ≤ j)`` is at most
    1 − `CONFIDENCE`. Neighbouring slots miss together, so ``n`` is the number of scores over the mean length of a
    cluster. Where even the largest score is not rare enough, an exponential tail is laid on the top percent,
    flatter by two and a half standard errors of its mean: fewer scores, more kept.

    Parameters
    ----------
    scores : float64[m]
        The largest scores, in any order; at least the top percent, at least 20.
    num_scores : int
        How many there were in all.
    miss_rate : float
        Rate not to be exceeded, in (0, 1).
    cluster_slots : float
        Mean number of exceedances that come together, 1 or more.

    Raises
    ------
    ValueError
        Fewer than 20 scores.
    """
    if len(scores) < 20:
        raise ValueError(f"{len(scores)} scores; 20 or more are needed")
    ordered = np.sort(scores)[::-1]
    expected = num_scores * miss_rate / cluster_slots
    allowed = _allowed(expected)
    if allowed >= 0:
        # A miss rate counts slots, clusters of them.
        return float(ordered[min(int(allowed * cluster_slots), len(ordered) - 1)])
    tail = ordered[: max(20, min(len(ordered), num_scores // 100))]
    excess = float(tail.mean() - tail[-1])
    wanted = math.log(-math.log(1 - CONFIDENCE) / expected)
    certain = 1 + 2.5 * math.sqrt(cluster_slots / len(tail))
    return float(ordered[0] + excess * wanted * certain)


def _allowed(expected: float) -> int:
    """The most exceedances that show, with `CONFIDENCE`, a rate below the one that expects so many; -1 if none do."""
    term = math.exp(-expected)
    total, num = term, 0
    if total > 1 - CONFIDENCE:
        return -1
    while total <= 1 - CONFIDENCE:
        num += 1
        if term > 0.0:
            term *= expected / num
        else:
            term = math.exp(num * math.log(expected) - expected - math.lgamma(num + 1))
        total += term
    return num - 1

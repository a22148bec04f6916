"""The site twin, compiled: what each slot needs, and what becomes of it under a guard or a fixed reserve."""

from __future__ import annotations

from typing import Any

import numpy as np

from dure.policy.kernels.compile import kernel
from dure.ran.bursts import MIN_ITERATIONS, draw_bursts, draw_iterations, seed_stream, uniform
from dure.ran.failover import AWAY, FAILED, HERE, MOVED
from dure.ran.guard import (
    HEIGHT,
    LONG,
    NUM_SMS,
    UPLINK_SPREAD,
    VACATE_SLOTS,
    guard_step,
    leased_reserve,
    predict,
    risk_of,
    track_cell,
)
from dure.ran.site import KNOWN_SLOTS, PERIOD, UPLINK_SLOTS

# Constants of a site, `SiteModel.constants`.
(C_SMS, C_DL, C_D0, C_UL, C_DECODE, C_U0, C_DL_SMS, C_UL_SMS, C_BUDGET, C_NOISE, C_BESIDE, C_SLOT) = range(12)
# Rows of a segment's needs, SMs in float64[ROWS, slots].
DL, UL_PLAN, UL_REAL, UL_LEAST, DL_CONTROL, UL_CONTROL, BUSY, LEVEL_OF, LONG_OF, RISK_OF, UL_RISK = range(11)
ROWS = 11
# Faults.
NONE, SURGE, PREDICTOR, TENANT, HEARTBEAT, CLOCK, GPU = range(7)
#: Sums in another order differ by less.
ROUNDING_SMS = 1e-6
#: A fault begins after a third of a segment and lasts so many slots (a surge, and a GPU's: to the segment's end).
FAULT_SLOTS = 100
SURGE_FACTOR = 3.0
#: Slots at a segment's beginning that are played and not counted: the guard comes to know the cells.
WARM_SLOTS = 200
#: HARQ: cut decodes come again with the next frame; downlink held back, as soon as it can be scheduled.
HARQ_SLOTS = PERIOD
# Counts of a segment, int64[COUNTS].
SLOTS, HARD, SOFT, CUT, HELD, RESERVE_ALL = range(6)
COUNTS = 6
# Counts of failing over in a segment, int64[MOVES]: cells that went to the standby, slots in which a cell was interrupted.
CELLS_FAILED_OVER, INTERRUPTED = range(2)
MOVES = 2
# Sums of a segment, float64[SUMS]: lent of the idle, idle, kept and busy SM-slots.
LENT, IDLE, KEPT, USED = range(4)
SUMS = 4


@kernel
def draw_needs(
    constants: Any, dl_share: Any, is_uplink: Any, down: Any, up: Any, mcs: Any, seed: int, window: int, surge_at: int,
    first_cell: int, needs: Any, shares: Any, stream: Any, track: Any,
) -> None:  # fmt: skip
    """Draw one segment of a window: needs of every slot, for cells with these means; from ``surge_at`` on, thrice the load.

    Cells are numbered from ``first_cell`` on, and each is the same drawn with the others or alone. A segment's slot 0 is the first of a
    frame, so a slot's phase is its index modulo the period.
    """
    num = needs.shape[1]
    needs[:] = 0.0
    num_cells = len(down)
    to_busy = constants[C_SMS] / constants[C_SLOT]
    for t in range(num):
        control = num_cells * constants[C_D0] if dl_share[t % PERIOD] > 0.0 else 0.0
        needs[DL, t] = control * constants[C_DL_SMS]
        needs[DL_CONTROL, t] = control * constants[C_DL_SMS]
        needs[BUSY, t] = control * to_busy
    for cell in range(num_cells):
        seed_stream(stream, seed, window, first_cell + cell)
        draw_bursts(stream, down[cell], 0, shares)
        if surge_at < num:
            draw_bursts(stream, min(1.0, SURGE_FACTOR * down[cell]), surge_at, shares)
        track[:] = 0.0
        for t in range(num):
            if dl_share[t % PERIOD] == 1.0:
                track_cell(track, constants[C_DL] * shares[t] * constants[C_DL_SMS])
            needs[LEVEL_OF, t] += track[HEIGHT]
            needs[RISK_OF, t] += track[HEIGHT] * track[HEIGHT]
            needs[LONG_OF, t] += track[LONG]
            if shares[t] > 0.0:
                work = constants[C_DL] * shares[t] * dl_share[t % PERIOD]
                needs[DL, t] += work * constants[C_DL_SMS]
                needs[BUSY, t] += work * to_busy
        draw_bursts(stream, up[cell], 0, shares)
        if surge_at < num:
            draw_bursts(stream, min(1.0, SURGE_FACTOR * up[cell]), surge_at, shares)
        efficiency = min(1.0, (mcs[cell] + 1.0) / 29.0)
        for t in range(num):
            if is_uplink[t % PERIOD]:
                front = constants[C_U0] + constants[C_UL] * shares[t]
                decode = constants[C_DECODE] * shares[t] * efficiency
                iterations = draw_iterations(stream) if shares[t] > 0.0 else 1.0
                for s in range(t, min(num, t + UPLINK_SLOTS)):
                    needs[UL_PLAN, s] += (front + decode) * constants[C_UL_SMS]
                    needs[UL_REAL, s] += (front + decode * iterations) * constants[C_UL_SMS]
                    needs[UL_LEAST, s] += (front + decode * MIN_ITERATIONS) * constants[C_UL_SMS]
                    needs[UL_RISK, s] += (decode * constants[C_UL_SMS]) ** 2
                    needs[UL_CONTROL, s] += constants[C_U0] * constants[C_UL_SMS]
                    needs[BUSY, s] += (front + decode * iterations) * to_busy / UPLINK_SLOTS
    for t in range(num):
        needs[RISK_OF, t] = risk_of(needs[RISK_OF, t], needs[LONG_OF, t])
        needs[UL_RISK, t] = np.sqrt(needs[UL_RISK, t])


@kernel
def most_unknown(needs: Any, horizon: int, first: int, most: Any) -> None:
    """What the guard predicts: from ``first`` on, the most needed beyond the known slots, less the uplink planned first there."""
    for i in range(len(most)):
        t = first + i
        most[i] = 0.0
        for s in range(t + KNOWN_SLOTS + 1, t + horizon + 1):
            uplink = needs[UL_PLAN, s] if s == t + KNOWN_SLOTS + 1 else needs[UL_REAL, s]
            most[i] = max(most[i], needs[DL, s] + uplink - needs[UL_PLAN, t + KNOWN_SLOTS + 1])


@kernel
def score_slots(
    rules: Any, weights: Any, edges: Any, spread: Any, needs: Any, first: int, num: int, scores: Any
) -> None:
    """For each slot the least quantile under which every reserve of the v before it would have sufficed (G1, G2)."""
    horizon = int(rules[VACATE_SLOTS])
    known = min(horizon, KNOWN_SLOTS)
    for t in range(first, first + num):
        need = min(rules[NUM_SMS], needs[DL, t] + needs[UL_REAL, t])
        score = 0.0
        for d in range(t - horizon, t + 1):
            least = np.inf
            for s in range(d, d + known + 1):
                over = need - needs[DL, s] - needs[UL_PLAN, s]
                if over <= ROUNDING_SMS:
                    least = 0.0
                elif needs[UL_RISK, s] > 0.0:
                    least = min(least, over / (needs[UL_RISK, s] * rules[UPLINK_SPREAD]))
            if horizon > KNOWN_SLOTS:
                signal = d + KNOWN_SLOTS
                centre, width = predict(
                    rules, weights, edges, spread, d % PERIOD, needs[LEVEL_OF, signal], needs[LONG_OF, signal],
                    needs[RISK_OF, signal],
                )  # fmt: skip
                over = need - centre - needs[UL_PLAN, signal + 1]
                if over <= ROUNDING_SMS:
                    least = 0.0
                else:
                    least = min(least, over / (width + needs[UL_RISK, signal + 1] * rules[UPLINK_SPREAD]))
            score = max(score, least)
        scores[t - first] = score


@kernel
def play(
    constants: Any, dl_share: Any, is_uplink: Any, needs: Any, cells: Any, rules: Any, weights: Any, edges: Any, spread: Any,
    memory: Any, failover: Any, fixed: float, num: int, fault: int, left_sms: float, interruption_slots: int, stream: Any,
    counts: Any, moves: Any, sums: Any,
) -> None:  # fmt: skip
    """Play one segment of ``WARM_SLOTS + num`` slots: under the guard, or under a fixed reserve where it is above 0.

    ``needs`` is changed: what was held back or cut comes again, and what is worked on elsewhere goes. ``cells`` are the needs of each cell alone,
    float64[cells, ROWS, slots]; without a standby there may be none. A `GPU` fault leaves ``left_sms``; a cell that fails over for it is
    interrupted for so many slots.
    """
    present = constants[C_SMS]
    place = np.full(len(cells), HERE)
    is_here = place != AWAY
    held = 0.0
    interrupted_until = 0
    lost_until = 0
    vacate = int(rules[VACATE_SLOTS])
    offers = np.full(vacate + 1, present if fixed <= 0.0 else fixed)
    fault_at = WARM_SLOTS + num // 3
    heard = offers[0]
    silent = 0
    stuck = 0.0
    shift = 0
    is_missed = False
    for t in range(WARM_SLOTS + num):
        is_faulty = fault_at <= t < fault_at + FAULT_SLOTS
        if fault == GPU and t == fault_at:
            # Of what the radio has and of what tenants have equal parts are lost.
            offers *= left_sms / present
            present = left_sms
        if fault == TENANT:
            if t == fault_at:
                stuck = present - offers.min()
            elif not is_faulty:
                stuck = 0.0
        keep = fixed
        if fixed <= 0.0:
            if fault == CLOCK and t == fault_at:
                shift = 7
            in_hand = min(offers[:vacate].min(), present - stuck) if vacate > 0 else present - stuck
            is_blind = fault == PREDICTOR and is_faulty
            signal = t + KNOWN_SLOTS
            keep = guard_step(
                rules, weights, edges, spread, memory, failover, place, cells[:, LONG_OF, signal], t + shift,
                needs[DL], needs[UL_PLAN], needs[UL_RISK], t,
                -1.0 if is_blind else needs[LEVEL_OF, signal], needs[LONG_OF, signal], needs[RISK_OF, signal],
                in_hand, present, held, is_missed,
            )  # fmt: skip
            if failover[MOVED] > 0.0 or failover[FAILED] > 0.0:
                was_here, is_here = is_here, place != AWAY
                move_needs(needs, cells, was_here, is_here, t)
                if t >= WARM_SLOTS:
                    moves[CELLS_FAILED_OVER] += (was_here & ~is_here).sum()
                if failover[FAILED] > 0.0:
                    interrupted_until = t + interruption_slots
                else:
                    lost_until = _undecoded_until(is_uplink, t)
            if fault == HEARTBEAT and is_faulty:
                silent += 1
                keep = leased_reserve(heard, silent, present)
            else:
                silent = 0
                heard = keep
        for i in range(vacate, 0, -1):
            offers[i] = offers[i - 1]
        offers[0] = keep
        free = min(offers.min(), present - stuck)
        is_counted = t >= WARM_SLOTS
        is_missed, held = _serve(
            constants, dl_share, needs, t, free, stream, is_counted, t < interrupted_until, t < lost_until, counts
        )
        if is_counted:
            moves[INTERRUPTED] += t < interrupted_until
            idle = present - min(present, needs[BUSY, t])
            sums[LENT] += min(present - keep, idle)
            sums[IDLE] += idle
            sums[KEPT] += keep
            sums[USED] += present - idle
            counts[SLOTS] += 1
            counts[RESERVE_ALL] += keep >= present


@kernel
def move_needs(needs: Any, cells: Any, was_here: Any, is_here: Any, t: int) -> None:
    """From slot ``t`` on ``needs`` are those of the cells that are here now; of what comes again the others take their part, by long loads."""
    before = 0.0
    now = 0.0
    for cell in range(len(cells)):
        before += cells[cell, LONG_OF, t] * was_here[cell]
        now += cells[cell, LONG_OF, t] * is_here[cell]
    part = min(1.0, now / before) if before > 0.0 else 0.0
    for s in range(t, needs.shape[1]):
        for row in range(ROWS):
            old = 0.0
            new = 0.0
            for cell in range(len(cells)):
                need = cells[cell, row, s]
                if row == RISK_OF:
                    need = cells[cell, LEVEL_OF, s] ** 2
                elif row == UL_RISK:
                    need = need**2
                old += need * was_here[cell]
                new += need * is_here[cell]
            if row in (DL, UL_PLAN, UL_REAL):
                needs[row, s] = new + part * (needs[row, s] - old)
            elif row == RISK_OF:
                needs[row, s] = risk_of(new, needs[LONG_OF, s])
            elif row == UL_RISK:
                needs[row, s] = np.sqrt(new)
            else:
                needs[row, s] = new


@kernel
def _undecoded_until(is_uplink: Any, t: int) -> int:
    """The slot from which on nothing is due any more of the uplink received and not decoded when slot ``t`` begins."""
    until = t
    for s in range(t - UPLINK_SLOTS + 1, t + 1):
        if is_uplink[s % PERIOD]:
            until = s + UPLINK_SLOTS
    return until


@kernel
def _serve(
    constants: Any, dl_share: Any, needs: Any, t: int, free: float, stream: Any, is_counted: bool, is_interrupted: bool,
    is_uplink_lost: bool, counts: Any,
) -> Any:  # fmt: skip
    """Work off one slot on the SMs in hand, degrading in order; whether it was late or less than whole, and the SMs that lacked although uplink was cut.

    First uplink decodes are cut short (soft: a HARQ retransmission each), then downlink blocks are held back (soft:
    they are sent with a later grant), then uplink blocks are dropped whole (soft); control is never given up, and late
    where even that does not fit (hard). A slot in which a cell is interrupted is hard whatever the others', one whose uplink a move has lost is soft.
    """
    downlink, uplink = needs[DL, t], needs[UL_REAL, t]
    cut, held, lacking, is_hard = 0.0, 0.0, 0.0, False
    short = downlink + uplink - free
    if short > 0.0:
        cut = min(short, max(0.0, uplink - needs[UL_LEAST, t]))
        lacking = short - cut
        held = min(short - cut, downlink - needs[DL_CONTROL, t])
        cut = short - held
        is_hard = free < needs[DL_CONTROL, t] + needs[UL_CONTROL, t]
    downlink -= held
    uplink -= cut
    # What is left for the downlink works at it alone; noise beyond the allowance may still make it late.
    work_us = downlink / constants[C_DL_SMS]
    noise_us = -constants[C_NOISE] * np.log(uniform(stream))
    if work_us > 0.0 and not is_hard:
        sms = max(free - uplink, 1e-9)
        is_hard = work_us * constants[C_SMS] * constants[C_BESIDE] / sms + noise_us > constants[C_BUDGET]
    if cut > 0.0 and t + HARQ_SLOTS < needs.shape[1]:
        # Its iterations are known to be many: it is planned as it was.
        needs[UL_PLAN, t + HARQ_SLOTS] += cut
        needs[UL_REAL, t + HARQ_SLOTS] += cut
    if held > 0.0:
        s = t + KNOWN_SLOTS + 1
        while s < needs.shape[1] and dl_share[s % PERIOD] < 1.0:
            s += 1
        if s < needs.shape[1]:
            needs[DL, s] += held
    if is_counted:
        counts[HARD] += is_hard or is_interrupted
        counts[SOFT] += (cut > 0.0 or held > 0.0 or is_uplink_lost) and not (is_hard or is_interrupted)
        counts[CUT] += cut > 0.0
        counts[HELD] += held > 0.0
    return is_hard or cut > 0.0 or held > 0.0, lacking

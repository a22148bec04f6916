"""Base stations and devices that sleep, slot by slot and gap by gap: compiled, plain arrays, no randomness.

A slot is 0.5 ms. Work is counted in slots of a carrier's whole band.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dure.policy.kernels.compile import kernel

#: Rows of `powers`: the base station's states, then the transitions' additional energies (power × slots) and slots.
P_DEEP, P_LIGHT, P_MICRO, P_DL, P_UL, E_DEEP, E_LIGHT, T_DEEP, T_LIGHT = range(9)
#: Columns of `actions`, one row a load level: slots that data may be held; slots without data before sleep (-1: never);
#: whether the capacity carriers are in service.
A_HOLD, A_IDLE, A_CAPACITY = range(3)
#: Places in what a base station's run returns: energy by what it was spent on, then counts.
(
    R_DEEP, R_LIGHT, R_MICRO, R_DL, R_UL, R_COMMON, R_TRANSITIONS, R_MISSED_SSB, R_NUM_LIGHT, R_NUM_DEEP, R_OFF_SLOTS,
) = range(11)  # fmt: skip
NUM_R = 11
#: The pattern DDDSUUDDDD repeats; synchronisation signals take the first four slots of their period, random access the fifth.
PATTERN_SLOTS = 10
SSB_SLOTS = 4
ACCESS_SLOT = 4
#: Slots of an occasion: signals (where they are due), then both uplink slots.
OCCASION_SLOTS = 6
#: Share of the band that signals and system information take (20 and 48 of 273 resource blocks).
SSB_SHARE = 68.0 / 273.0
STATIC = 0.4
#: Load levels forget by this factor a slot: a second.
FORGET = 1.0 / 2000.0
#: Part of a device's mean gap that the last gap makes; a gap counts for no more than so many ms.
GAP_FORGET = 0.2
GAP_MAX_MS = 6000.0
AWAKE, LIGHT, DEEP = 0, 1, 2


@kernel
def is_uplink(slot: int) -> bool:
    """Whether a slot of the pattern is for the uplink."""
    at = slot % PATTERN_SLOTS
    return at == 4 or at == 5


@kernel
def level_of(load: float, edges: Any) -> int:
    """Index of a load's level."""
    level = 0
    while level < len(edges) and load >= edges[level]:
        level += 1
    return level


@kernel
def run_site(
    down: Any, up: Any, ssb_slots: int, occasion_slots: int, num_carriers: int, powers: Any, edges: Any, actions: Any,
    served_down: Any, served_up: Any,
) -> Any:  # fmt: skip
    """A site of one coverage carrier and capacity carriers, through all slots; fills what is served in each.

    `down` and `up` are work that arrives, `served_*` what leaves; the result has the places ``R_*``.
    """
    out = np.zeros(NUM_R)
    state = np.zeros(num_carriers, np.int64)
    since = np.zeros(num_carriers, np.int64)
    wake_at = np.zeros(num_carriers, np.int64)
    queue_down = 0.0
    queue_up = 0.0
    oldest = -1
    idle = 0
    is_draining = False
    load = 0.0
    dynamic = powers[P_DL] - powers[P_MICRO]
    for slot in range(len(down)):
        if down[slot] > 0.0 and queue_down <= 0.0:
            oldest = slot
        queue_down += down[slot]
        queue_up += up[slot]
        load += (down[slot] / num_carriers - load) * FORGET
        level = level_of(load, edges)
        hold, timer = int(actions[level, A_HOLD]), int(actions[level, A_IDLE])
        in_ssb = slot % ssb_slots
        in_occasion = slot % occasion_slots
        is_due = queue_down > 0.0 and (is_draining or slot - oldest >= hold or in_occasion < OCCASION_SLOTS)
        is_spread = timer < 0
        # wake
        for carrier in range(num_carriers):
            if state[carrier] == AWAKE:
                continue
            is_wanted = carrier == 0 or actions[level, A_CAPACITY] > 0.0
            if carrier > 0 and is_wanted and state[carrier] == DEEP and wake_at[carrier] > slot + powers[T_DEEP]:
                wake_at[carrier] = max(slot + int(powers[T_DEEP]) // 2, since[carrier] + int(powers[T_DEEP]))
            if state[carrier] == LIGHT and queue_down > 0.0:
                ready = max(slot, oldest + hold - int(powers[T_LIGHT]) // 2) + int(powers[T_LIGHT]) // 2
                wake_at[carrier] = min(wake_at[carrier], max(ready, since[carrier] + int(powers[T_LIGHT])))
            if state[carrier] == DEEP and carrier == 0 and queue_down > 0.0:
                ready = max(slot, oldest + hold - int(powers[T_DEEP]) // 2) + int(powers[T_DEEP]) // 2
                wake_at[carrier] = min(wake_at[carrier], max(ready, since[carrier] + int(powers[T_DEEP])))
            if slot >= wake_at[carrier]:
                state[carrier] = AWAKE
        if state[0] == AWAKE and is_due:
            is_draining = True
        # serve
        num_awake = 0
        for carrier in range(num_carriers):
            num_awake += state[carrier] == AWAKE
        share = queue_down / max(num_awake, 1)
        is_up = is_uplink(slot)
        up_share = queue_up / max(num_awake, 1)
        for carrier in range(num_carriers):
            if state[carrier] != AWAKE:
                out[R_LIGHT if state[carrier] == LIGHT else R_DEEP] += powers[P_LIGHT if state[carrier] == LIGHT else P_DEEP]
                if carrier == 0 and in_ssb < SSB_SLOTS:
                    out[R_MISSED_SSB] += 1
                if carrier > 0 and state[carrier] == DEEP:
                    out[R_OFF_SLOTS] += 1
                continue
            out[R_MICRO] += powers[P_MICRO]
            if is_up:
                amount = min(up_share if is_spread else queue_up, queue_up, 1.0)
                queue_up -= amount
                served_up[slot] += amount
                if in_ssb == ACCESS_SLOT:
                    out[R_COMMON] += powers[P_UL] - powers[P_MICRO]
                elif amount > 0.0:
                    out[R_UL] += powers[P_UL] - powers[P_MICRO]
                continue
            common = SSB_SHARE if in_ssb < SSB_SLOTS else 0.0
            amount = 0.0
            if is_draining or common > 0.0:
                amount = min(share if is_spread else queue_down, queue_down, 1.0 - common)
                queue_down -= amount
                served_down[slot] += amount
            if common > 0.0:
                out[R_COMMON] += dynamic * (STATIC + (1.0 - STATIC) * common)
                out[R_DL] += dynamic * (1.0 - STATIC) * amount
            elif amount > 0.0:
                out[R_DL] += dynamic * (STATIC + (1.0 - STATIC) * amount)
        if queue_down <= 1e-12:
            queue_down = 0.0
            is_draining = False
            oldest = -1
        if queue_up <= 1e-12:
            queue_up = 0.0
        idle = idle + 1 if queue_down == 0.0 and queue_up == 0.0 else 0
        # sleep from the next slot on
        start = slot + 1
        has_work = is_draining or queue_up > 0.0
        for carrier in range(num_carriers):
            if state[carrier] != AWAKE or is_spread:
                continue
            is_off = carrier > 0 and actions[level, A_CAPACITY] <= 0.0
            if is_off:
                state[carrier] = DEEP
                since[carrier] = start
                wake_at[carrier] = len(down) + 1_000_000
                out[R_TRANSITIONS] += powers[E_DEEP]
                out[R_NUM_DEEP] += 1
                continue
            if has_work or (queue_down == 0.0 and idle < timer) or start % occasion_slots < OCCASION_SLOTS:
                continue
            until = (start // occasion_slots + 1) * occasion_slots
            if queue_down > 0.0:
                until = min(until, oldest + hold)
            gap = until - start
            deep = powers[P_DEEP] * gap + powers[E_DEEP] if gap >= powers[T_DEEP] else np.inf
            light = powers[P_LIGHT] * gap + powers[E_LIGHT] if gap >= powers[T_LIGHT] else np.inf
            if min(deep, light) >= powers[P_MICRO] * gap:
                continue
            state[carrier] = DEEP if deep < light else LIGHT
            since[carrier] = start
            wake_at[carrier] = until
            out[R_TRANSITIONS] += powers[E_DEEP] if deep < light else powers[E_LIGHT]
            out[R_NUM_DEEP if deep < light else R_NUM_LIGHT] += 1
    return out


@kernel
def levels_of(down: Any, num_carriers: int, edges: Any, levels: Any) -> None:
    """The load level that the site is at in each slot, as `run_site` sees it."""
    load = 0.0
    for slot in range(len(down)):
        load += (down[slot] / num_carriers - load) * FORGET
        levels[slot] = level_of(load, edges)


@kernel
def added_delays(arrived: Any, served: Any, reference: Any, levels: Any, histogram: Any) -> int:
    """Count, in ``histogram[level, slots]``, how much later than in the reference the work of each slot has left whole.

    Returns how many slots' work had not left at the end.
    """
    ours, theirs, late = 0, 0, 0
    total = 0.0
    sum_ours = served[0] if len(served) else 0.0
    sum_theirs = reference[0] if len(reference) else 0.0
    for slot in range(len(arrived)):
        if arrived[slot] <= 0.0:
            continue
        total += arrived[slot]
        while sum_ours < total - 1e-7 and ours < len(served) - 1:
            ours += 1
            sum_ours += served[ours]
        while sum_theirs < total - 1e-7 and theirs < len(reference) - 1:
            theirs += 1
            sum_theirs += reference[theirs]
        if sum_ours < total - 1e-7:
            late += 1
        histogram[levels[slot], min(max(ours - theirs, 0), histogram.shape[1] - 1)] += 1
    return late


@kernel
def gap_energy(gap: float, ue: Any) -> float:
    """The least energy of a device's gap known in advance; `ue` has rows (power, transition energy, ms): deep, light, micro."""
    least = np.inf
    for row in range(3):
        if gap >= ue[row, 2]:
            least = min(least, ue[row, 0] * gap + ue[row, 1])
    return least


@kernel
def run_fixed_drx(
    arrive: Any, receive: Any, end: int, cycle: int, on: int, inactivity: int, ue: Any, control: float, active: float, start: Any
) -> float:
    """Energy of a device under DRX with fixed timers, to the ms `end`; fills when the reception of each burst starts.

    The on-duration begins each `cycle` ms; after a reception the device listens for `inactivity` ms.
    """
    energy = 0.0
    now, burst = 0, 0
    listen_until = on
    while now < end:
        if burst < len(arrive) and arrive[burst] <= now:
            start[burst] = now
            energy += active * receive[burst]
            now += receive[burst]
            listen_until = now + inactivity
            burst += 1
            continue
        if now < listen_until:
            until = min(listen_until, end)
            if burst < len(arrive):
                until = min(until, max(arrive[burst], now))
            energy += control * (until - now)
            now = until
            continue
        begins = (now + cycle - 1) // cycle * cycle
        if now > begins - cycle and now < begins - cycle + on:
            listen_until = begins - cycle + on
            continue
        until = min(begins, end)
        if until > now:
            energy += gap_energy(float(until - now), ue)
            now = until
        listen_until = now + on
    return energy


@kernel
def run_table_drx(
    arrive: Any, receive: Any, end: int, sleeps: Any, step: int, edges: Any, on: int, ue: Any, control: float, active: float,
    start: Any,
) -> float:  # fmt: skip
    """Energy of a device whose sleeps follow a table that the network has as well, to the ms `end`.

    ``sleeps[context, elapsed // step]`` is how many ms it sleeps next, `elapsed` ms after the last reception (0: it listens for
    `step` ms); after a sleep it listens for `on` ms. The context is the level, by `edges`, of the mean of the last gaps between arrivals.
    """
    energy = 0.0
    now, burst, since, context = 0, 0, 0, len(edges)
    mean = edges[len(edges) - 1] + 1.0
    while now < end:
        if burst < len(arrive) and arrive[burst] <= now:
            start[burst] = now
            gap = float(arrive[burst] - since)
            if gap > 0.0:
                mean += (min(gap, GAP_MAX_MS) - mean) * GAP_FORGET
                context = level_of(mean, edges)
            energy += active * receive[burst]
            now += receive[burst]
            since = now
            burst += 1
            continue
        length = sleeps[context, min((now - since) // step, sleeps.shape[1] - 1)]
        listen = on
        if length == 0:
            listen = step
        until = min(now + length, end)
        if until > now:
            energy += gap_energy(float(until - now), ue)
            now = until
        until = min(now + listen, end)
        if burst < len(arrive):
            until = min(until, max(arrive[burst], now))
        energy += control * (until - now)
        now = until
    return energy

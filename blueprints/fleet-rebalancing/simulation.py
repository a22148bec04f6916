"""A day of the fleet: requests wait, the nearest idle vehicle comes, empty ones move as planned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from city import SLOT_MIN, SLOTS, SLOTS_A_BIN, ZONE_KM, City
from rebalance import plan

#: A request is lost when nobody can be there within so many slots.
PATIENCE = 1
#: Slots that a plan looks ahead.
AHEAD = 12

#: From the slot and what was asked for so far (slots, origin, destination) to what is expected in the coming `AHEAD` slots.
Expect = Callable[[int, np.ndarray], np.ndarray]


@dataclass
class Outcome:
    """What came of a day.

    Attributes
    ----------
    served_by_hour, asked_by_hour : ndarray of int64, shape (24,)
        By the hour of the request, since the day began.
    """

    asked: int = 0
    served: int = 0
    waited_min: list[int] = field(default_factory=list)
    empty_km: float = 0.0
    full_km: float = 0.0
    served_by_hour: np.ndarray = field(default_factory=lambda: np.zeros(24, np.int64))
    asked_by_hour: np.ndarray = field(default_factory=lambda: np.zeros(24, np.int64))

    def row(self) -> dict[str, float | int]:
        """A line of the table of results."""
        return {
            "asked": self.asked,
            "served": self.served,
            "wait_mean_min": float(np.mean(self.waited_min)) if self.waited_min else 0.0,
            "empty_km": self.empty_km,
            "full_km": self.full_km,
        }


def play(city: City, start: np.ndarray, requests: np.ndarray, expect: Expect | None) -> Outcome:
    """One day with one way of rebalancing.

    Parameters
    ----------
    start : ndarray of int64, shape (num_zones,)
        Idle vehicles at the beginning.
    requests : ndarray of int64, shape (SLOTS, num_zones, num_zones)
    expect : callable or None
        None: vehicles stay where they were left.
    """
    out = Outcome()
    longest = int(city.trip_slots.max()) + PATIENCE + 1
    coming = np.zeros((SLOTS + max(longest, AHEAD) + 1, city.num_zones), np.int64)
    coming[0] = start
    idle = np.zeros(city.num_zones, np.int64)
    # Nearest first; among equals in the order of their numbers.
    near = [np.argsort(city.slots_between[:, zone], kind="stable") for zone in range(city.num_zones)]
    waiting: list[tuple[int, int, int]] = []
    wanted = np.zeros((SLOTS_A_BIN, city.num_zones, city.num_zones))
    for slot in range(SLOTS):
        idle += coming[slot]
        asked = np.argwhere(requests[slot])
        waiting += [(slot, o, d) for o, d in asked.tolist() for _ in range(requests[slot, o, d])]
        out.asked += int(requests[slot].sum())
        out.asked_by_hour[slot * SLOT_MIN // 60] += int(requests[slot].sum())
        still = []
        for since, origin, aim in waiting:
            room = PATIENCE - (slot - since)
            found = next((zone for zone in near[origin] if idle[zone] and city.slots_between[zone, origin] <= room), None)
            if found is None:
                if room > 0:
                    still.append((since, origin, aim))
                continue
            pickup, ride = int(city.slots_between[found, origin]), int(city.trip_slots[origin, aim])
            idle[found] -= 1
            coming[slot + pickup + ride, aim] += 1
            out.served += 1
            out.served_by_hour[since * SLOT_MIN // 60] += 1
            out.waited_min.append((slot - since + pickup) * SLOT_MIN)
            out.empty_km += pickup * ZONE_KM
            out.full_km += ride * ZONE_KM
        waiting = still
        if expect is None:
            continue
        if slot % SLOTS_A_BIN == 0:
            expected = expect(slot, requests[: slot + 1])
            free = coming[slot : slot + AHEAD].copy()
            free[0] = idle
            wanted = plan(city, free, expected, SLOTS_A_BIN)
        moves = np.rint(wanted[slot % SLOTS_A_BIN]).astype(np.int64)
        for origin, aim in np.argwhere(moves).tolist():
            num = min(int(moves[origin, aim]), int(idle[origin]))
            idle[origin] -= num
            coming[slot + 1, aim] += num
            out.empty_km += num * ZONE_KM
    return out

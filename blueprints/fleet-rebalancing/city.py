"""A city that is made up: zones, who wants to go where and when, weather, events. All of it from a seed.

Days begin at four in the morning, have 288 slots of five minutes and 96 bins of fifteen; day 0 is a Monday. Zones are squares of two
kilometres, and a vehicle crosses one in a slot (24 km/h), so times between zones are Manhattan distances in slots.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

SLOT_MIN, SLOTS, BINS = 5, 288, 96
SLOTS_A_BIN, ZONE_KM = SLOTS // BINS, 2.0
FIRST_HOUR = 4


@dataclass(frozen=True)
class Day:
    """One day as it happened.

    Attributes
    ----------
    requests : ndarray of int64, shape (SLOTS, num_zones, num_zones)
        Trips asked for, by slot, origin and destination.
    rate : ndarray of float64, same shape
        What was to be expected by one who knows all but chance.
    is_raining : ndarray of bool, shape (BINS,)
    event : ndarray of int64, shape (BINS, num_zones)
        From the calendar: 1 where people leave for an event, 2 where it ends and they go home, else 0.
    """

    requests: np.ndarray
    rate: np.ndarray
    is_raining: np.ndarray
    event: np.ndarray

    @property
    def departures(self) -> np.ndarray:
        """Trips asked for by bin and origin."""
        return self.requests.sum(2).reshape(BINS, SLOTS_A_BIN, -1).sum(1)


def _bump(hour: np.ndarray, middle: float, width: float) -> np.ndarray:
    """A rush around an hour of the day, over midnight too."""
    off = (hour - middle + 12) % 24 - 12
    return np.exp(-0.5 * (off / width) ** 2)


@dataclass(frozen=True)
class City:
    """The city of a seed.

    Attributes
    ----------
    grid : int
        Zones along each side.
    trips : float
        Asked for on a mean weekday without rain and events.
    """

    seed: int
    grid: int = 5
    trips: float = 4000.0

    @property
    def num_zones(self) -> int:
        """All of them."""
        return self.grid**2

    @cached_property
    def slots_between(self) -> np.ndarray:
        """Slots from zone to zone, 0 to itself; shape (num_zones, num_zones)."""
        row, column = np.divmod(np.arange(self.num_zones), self.grid)
        return np.abs(row[:, None] - row) + np.abs(column[:, None] - column)

    @cached_property
    def trip_slots(self) -> np.ndarray:
        """Slots that a passenger is on board; a trip within a zone takes one."""
        return np.maximum(1, self.slots_between)

    @cached_property
    def uses(self) -> dict[str, np.ndarray]:
        """Shares of homes, work and leisure in each zone."""
        rng = np.random.default_rng([self.seed, 0])
        row, column = np.divmod(np.arange(self.num_zones), self.grid)
        middle = (self.grid - 1) / 2
        off = np.hypot(row - middle, column - middle)
        raw = {
            "home": 0.25 + np.exp(-0.5 * ((off - 0.45 * self.grid) / 1.2) ** 2),
            "work": 0.05 + np.exp(-0.5 * (off / 0.9) ** 2),
            "leisure": 0.1 + np.exp(-0.5 * ((off - 1) / 0.8) ** 2),
        }
        varied = {name: values * rng.lognormal(0, 0.5, self.num_zones) for name, values in raw.items()}
        return {name: values / values.sum() for name, values in varied.items()}

    @cached_property
    def venue(self) -> int:
        """The zone of the stadium."""
        return int(np.random.default_rng([self.seed, 1]).integers(self.num_zones))

    def _flows(self, origin: np.ndarray, destination: np.ndarray) -> np.ndarray:
        """Shares of the trips by gravity: fewer the farther."""
        flows = origin[:, None] * destination * np.exp(-self.slots_between / 3.0)
        return flows / flows.sum()

    def day(self, number: int) -> Day:
        """The day of that number; the same whatever else was asked for."""
        rng = np.random.default_rng([self.seed, 2, number])
        weekday = number % 7
        is_weekend = weekday >= 5
        hour = (FIRST_HOUR + np.arange(SLOTS) * SLOT_MIN / 60) % 24
        use = self.uses
        purposes = [
            (use["home"], use["work"], _bump(hour, 8, 1.0) * (0.25 if is_weekend else 1.3)),
            (use["work"], use["home"], _bump(hour, 18, 1.4) * (0.25 if is_weekend else 1.2)),
            (use["home"], use["leisure"], _bump(hour, 19.5, 1.8) * (1.3 if weekday >= 4 else 0.6)),
            (use["leisure"], use["home"], _bump(hour, 23, 1.7) * (1.5 if weekday in (4, 5) else 0.6)),
            (use["work"], use["leisure"], _bump(hour, 12.5, 1.2) * (0.5 if is_weekend else 0.4)),
            (sum(use.values()) / 3, sum(use.values()) / 3, 0.10 + 0.25 * _bump(hour, 14, 3.5)),
        ]
        rate = sum(self._flows(origin, destination) * rhythm[:, None, None] for origin, destination, rhythm in purposes)
        # The area under the rhythms of a Monday is what `trips` stands for.
        monday = sum((1.3 * 1.0, 1.2 * 1.4, 0.6 * 1.8, 0.6 * 1.7, 0.4 * 1.2, 0.25 * 3.5)) * np.sqrt(2 * np.pi) + 0.10 * 24
        rate = rate * self.trips / monday * SLOT_MIN / 60
        is_raining = np.zeros(BINS, bool)
        if rng.random() < 0.35:
            begin = int(rng.integers(0, BINS - 8))
            is_raining[begin : begin + int(rng.integers(8, 40))] = True
        event = np.zeros((BINS, self.num_zones), np.int64)
        if rng.random() < 0.3:
            begin = round((rng.uniform(18, 20) - FIRST_HOUR) * 4)
            end = begin + 10
            people = rng.uniform(0.03, 0.07) * self.trips
            to_venue = np.zeros(self.num_zones)
            to_venue[self.venue] = 1
            coming, leaving = self._flows(use["home"], to_venue), self._flows(to_venue, use["home"])
            event[begin - 5 : begin] = 1
            event[end : end + 3, self.venue] = 2
            rate[(begin - 5) * SLOTS_A_BIN : begin * SLOTS_A_BIN] += coming * people / (5 * SLOTS_A_BIN)
            rate[end * SLOTS_A_BIN : (end + 3) * SLOTS_A_BIN] += leaving * people / (3 * SLOTS_A_BIN)
        rate = rate * np.where(np.repeat(is_raining, SLOTS_A_BIN), 1.3, 1.0)[:, None, None]
        # What no calendar tells: some days and zones are livelier.
        rate = rate * rng.lognormal(0, 0.06) * rng.lognormal(0, 0.15, self.num_zones)[:, None]
        return Day(rng.poisson(rate), rate, is_raining, event)

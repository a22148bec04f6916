"""A plant in SimPy: machines that follow a schedule week after week, wear, fail, and are maintained by some rule."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import simpy
from numpy.typing import NDArray

from dure.model.errors import InputError

#: Rules of maintenance: none until it fails; after a fixed time of work; when the life left, as foreseen, is nearly over.
RULES = ("when it fails", "fixed time", "foreseen")


@dataclass(frozen=True)
class Wear:
    """What was true and foreseen of components, each a pair; a renewed machine is given one of them.

    Attributes
    ----------
    left_h, low_h : ndarray of float64, shape (num_pairs,)
        Hours of work until it fails, and the lower end of what was foreseen.
    """

    left_h: NDArray[np.float64]
    low_h: NDArray[np.float64]

    @property
    def fixed_h(self) -> float:
        """Who foresees nothing renews after the time that nine in ten survive."""
        return float(np.quantile(self.left_h, 0.1))


@dataclass(frozen=True)
class Repair:
    """Hours that a machine stands: after it has failed, and for a renewal that was planned."""

    failed_h: float
    planned_h: float


@dataclass
class Weeks:
    """What became of some weeks' orders."""

    hours: float = 0.0
    failures: int = 0
    renewals: int = 0
    down_h: float = 0.0


class _Machine:
    """One that takes its operations in the schedule's order."""

    def __init__(self, plant: _Plant, number: int, operations: list[tuple[int, int, float]]) -> None:
        self._plant, self._operations = plant, operations
        # Each machine has its own luck, the same under each rule.
        self._chance = np.random.default_rng([plant.seed, number])
        self._renew(is_new=False)

    def _renew(self, is_new: bool = True) -> None:
        wear = self._plant.wear
        pair = self._chance.integers(len(wear.left_h))
        self._left_h, self._low_h = float(wear.left_h[pair]), float(wear.low_h[pair])
        self._worked_h = 0.0 if is_new else float(self._chance.uniform(0, min(self._left_h, self._low_h)) * 0.5)

    def _is_due(self, next_h: float) -> bool:
        match self._plant.rule:
            case "fixed time":
                return self._worked_h + next_h > self._plant.wear.fixed_h
            case "foreseen":
                # A component of which nothing is left is renewed at once, but only if it has worked at all.
                return self._worked_h > 0 and self._worked_h + next_h > self._low_h
        return False

    def work(self, week: int) -> Generator[simpy.Event, Any, None]:
        """The week's operations."""
        plant = self._plant
        for job, i, duration_h in self._operations:
            if i:
                yield plant.done[week, job, i - 1]
            if self._is_due(duration_h):
                yield from self._stand(plant.repair.planned_h)
                plant.story.renewals += 1
            while self._worked_h + duration_h > self._left_h:
                # It fails in the middle; what was being made is made anew.
                yield plant.env.timeout(max(self._left_h - self._worked_h, 0.0))
                yield from self._stand(plant.repair.failed_h)
                plant.story.failures += 1
            yield plant.env.timeout(duration_h)
            self._worked_h += duration_h
            plant.done[week, job, i].succeed()

    def _stand(self, hours: float) -> Generator[simpy.Event, Any, None]:
        yield self._plant.env.timeout(hours)
        self._plant.story.down_h += hours
        self._renew()


class _Plant:
    def __init__(self, schedule: list[list[list[int]]], wear: Wear, repair: Repair, rule: str, seed: int) -> None:
        self.env, self.wear, self.repair, self.rule, self.seed = simpy.Environment(), wear, repair, rule, seed
        self.story = Weeks()
        self.done: dict[tuple[int, int, int], simpy.Event] = {}
        self._sizes = [len(job) for job in schedule]
        by_machine: dict[int, list[tuple[int, int, int, float]]] = {}
        for j, job in enumerate(schedule):
            for i, (machine, start, end) in enumerate(job):
                by_machine.setdefault(machine, []).append((start, j, i, (end - start) / 60))
        self._machines = [
            _Machine(self, machine, [(j, i, hours) for _, j, i, hours in sorted(operations)])
            for machine, operations in sorted(by_machine.items())
        ]

    def weeks(self, num: int) -> Generator[simpy.Event, Any, None]:
        for week in range(num):
            self.done.update({(week, j, i): self.env.event() for j, size in enumerate(self._sizes) for i in range(size)})
            yield self.env.all_of([self.env.process(machine.work(week)) for machine in self._machines])
        self.story.hours = self.env.now


def run_plant(schedule: list[list[list[int]]], wear: Wear, repair: Repair, rule: str, weeks: int, seed: int) -> Weeks:
    """Some weeks' orders, each week's begun when the one before is done.

    Parameters
    ----------
    schedule : list
        Job → operation → (machine, start, end) in minutes; each machine keeps its order.
    rule : str
        One of `RULES`.

    Raises
    ------
    InputError
        No component lasts as long as the longest operation.
    """
    longest_h = max((end - start) / 60 for job in schedule for _, start, end in job)
    if wear.left_h.max() < longest_h:
        raise InputError(f"no component lasts the {longest_h:.1f} h of the longest operation", field="--hours-per-cycle")
    plant = _Plant(schedule, wear, repair, rule, seed)
    plant.env.run(plant.env.process(plant.weeks(weeks)))
    return plant.story

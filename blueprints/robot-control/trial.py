"""Controllers in closed loop on equal courses: what a period costs, who falls, how long a plan takes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dure.model.intervals import Interval, mean_interval
from dure.ran.control_task import PERIOD_S, Course, Plan, Robot, draw_course, drive

#: Last words of seeds, so that courses of training and trial never meet.
TRAINING, TRIAL = 1, 2


def course_of(seed: int, number: int, purpose: int, seconds: float) -> tuple[Course, np.random.Generator]:
    """The course of that number, and the generator that drew it, for what else is to be drawn with it."""
    rng = np.random.default_rng([seed, number, purpose])
    return draw_course(round(seconds / PERIOD_S), rng), rng


@dataclass(frozen=True)
class Driven:
    """One course of one controller.

    Attributes
    ----------
    cost : float
        Of a period, on average.
    position_m : array
        By period, as long as it stood.
    """

    cost: float
    position_m: NDArray[np.float64]
    is_fallen: bool


def driven(robot: Robot, course: Course, plan: Plan | None) -> Driven:
    """How this controller drives; None is the regulator alone."""
    position_m = []

    def ask(
        _period: int, state: NDArray[np.float64], force_n: float, place_m: NDArray[np.float64], knots: NDArray[np.float64]
    ) -> NDArray[np.float64] | None:  # fmt: skip
        position_m.append(state[0])
        return plan(state, force_n, place_m, knots) if plan else None

    cost = drive(robot, course, ask)
    return Driven(cost, np.array(position_m), len(position_m) < len(course.push_n))


def change(runs: Sequence[Mapping[str, Driven]], name: str) -> Interval:
    """Of the cost against the planner's on the same courses, with Student's 95% interval; 0.01 is one part in a hundred more."""
    return mean_interval([run[name].cost / run["planner"].cost - 1 for run in runs], 0.95)


def plan_s(robot: Robot, plan: Plan, course: Course) -> tuple[float, float]:
    """Time of a plan, median and 99th percentile, s, over the requests of one course."""
    took_s = []

    def ask(
        _period: int, state: NDArray[np.float64], force_n: float, place_m: NDArray[np.float64], knots: NDArray[np.float64]
    ) -> NDArray[np.float64]:  # fmt: skip
        began = time.perf_counter()
        found = plan(state, force_n, place_m, knots)
        took_s.append(time.perf_counter() - began)
        return found

    drive(robot, course, ask)
    p50_s, p99_s = np.quantile(took_s, [0.5, 0.99]).tolist()
    return p50_s, p99_s

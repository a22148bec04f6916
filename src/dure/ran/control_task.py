"""A robot that balances a mast while it drives to places and is pushed, in MuJoCo: who controls it, period by period.

The large controller plans: Gauss-Newton over the wheels' force at a few moments, on rollouts of MuJoCo's model, with the
course ahead and the force's limits in view. The fallback is a linear regulator (Riccati) that costs nearly nothing; it
sees neither, so it hurries less and is thrown further. A plan made from what was seen at the beginning of a period acts
from the next one on, wherever it was made; the regulator acts at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.model.errors import InputError

#: Control period and the model's steps in one.
PERIOD_S, STEPS = 0.02, 2
#: Periods that a plan sees ahead, and the moments at which its force is free.
HORIZON, KNOTS = 40, 8
#: Weights of a period's cost: distance from the place asked for (m), speed (m/s), tilt (rad), its rate, force (share of most).
WEIGHTS = np.array([1.0, 0.1, 6.0, 0.4, 0.2])
FORCE_MAX_N = 40.0
#: The cost of a period is counted up to this: a robot that has fallen does not fall further.
COST_MAX = 10.0
#: Beyond this tilt the robot lies; its episode's other periods cost COST_MAX.
FALLEN_RAD = 1.2
#: The regulator sees a place no further away than this: it would fall otherwise.
REGULATOR_REACH_M = 0.3
#: How long a push lasts, in periods.
PUSH_PERIODS = 3
PUSH_N = (6.0, 14.0)
#: Late answers in a row that the last plan still bridges; the regulator takes over after that.
BRIDGED = 2


@dataclass(frozen=True)
class Course:
    """What an episode asks of the robot.

    Attributes
    ----------
    place_m : ndarray, float64[P + HORIZON + 1]
        Where it should be, period by period.
    push_n : ndarray, float64[P]
        Sideways force on the mast's load.
    """

    place_m: NDArray[np.float64]
    push_n: NDArray[np.float64]


def draw_course(num_periods: int, rng: np.random.Generator) -> Course:
    """Places up to 1.5 m apart every 1.5 to 3 s; as often a push of 6 to 14 N."""
    place = np.zeros(num_periods + HORIZON + 1)
    at, here = int(rng.integers(25, 75)), 0.0
    while at < len(place):
        here = float(np.clip(here + rng.uniform(-1.5, 1.5), -2.0, 2.0))
        place[at:] = here
        at += int(rng.integers(75, 150))
    push = np.zeros(num_periods)
    at = int(rng.integers(25, 75))
    while at < num_periods:
        push[at : at + PUSH_PERIODS] = rng.choice((-1.0, 1.0)) * rng.uniform(PUSH_N[0], PUSH_N[1])
        at += int(rng.integers(75, 150))
    return Course(place, push)


class Robot:
    """The simulated robot with both of its controllers.

    Raises
    ------
    InputError
        MuJoCo is not installed.
    """

    def __init__(self) -> None:
        mujoco = _mujoco()
        text = (resources.files("dure.ran") / "balancer.xml").read_text("utf-8")
        self._mujoco = mujoco
        self._model = mujoco.MjModel.from_xml_string(text)
        self._plan_model = mujoco.MjModel.from_xml_string(text)
        self._plan_model.opt.timestep = PERIOD_S
        self._data = mujoco.MjData(self._model)
        self._plan_data = mujoco.MjData(self._plan_model)
        self._load = mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_BODY, "load")
        self._spread = _spread()
        self._gain, riccati = _regulator(mujoco, self._plan_model)
        self._end = np.linalg.cholesky(riccati)
        from mujoco import rollout

        self._rollout = rollout.rollout

    def reset(self) -> None:
        """Upright, at rest, at place 0."""
        self._mujoco.mj_resetData(self._model, self._data)

    def state(self) -> NDArray[np.float64]:
        """Position (m), tilt (rad) and their rates, float64[4]."""
        return np.concatenate([self._data.qpos, self._data.qvel])

    def move(self, force_n: float, push_n: float) -> None:
        """One period under these forces."""
        self._data.ctrl[0] = force_n
        self._data.xfrc_applied[self._load, 0] = push_n
        self._mujoco.mj_step(self._model, self._data, STEPS)

    def regulate(self, state: NDArray[np.float64], place_m: float) -> float:
        """The fallback's force, N."""
        away = state - np.array([place_m, 0.0, 0.0, 0.0])
        away[0] = np.clip(away[0], -REGULATOR_REACH_M, REGULATOR_REACH_M)
        return float(np.clip(-self._gain @ away, -FORCE_MAX_N, FORCE_MAX_N))

    def plan(
        self, state: NDArray[np.float64], force_n: float, place_m: NDArray[np.float64], knots: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """One Gauss-Newton step of the plan's knots (N, float64[KNOTS]) from a state in which `force_n` acts one period more.

        `place_m` is float64[HORIZON + 1] from the period of the state on.
        """
        step_n = 0.5
        tries = np.concatenate([[np.zeros(KNOTS)], np.eye(KNOTS) * step_n]) + knots
        residuals = self._residuals(state, force_n, place_m, tries)
        jacobian = (residuals[1:] - residuals[0]).T / step_n
        hessian = jacobian.T @ jacobian + 1e-6 * np.eye(KNOTS)
        move = np.linalg.solve(hessian, -jacobian.T @ residuals[0])
        ahead = np.clip(knots + np.array([[0.0], [0.25], [0.5], [1.0]]) * move, -FORCE_MAX_N, FORCE_MAX_N)
        costs = (self._residuals(state, force_n, place_m, ahead) ** 2).sum(axis=1)
        best: NDArray[np.float64] = ahead[int(np.argmin(costs))]
        return best

    def _residuals(
        self, state: NDArray[np.float64], force_n: float, place_m: NDArray[np.float64], knots: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        force = np.empty((len(knots), HORIZON + 1, 1))
        force[:, 0, 0] = force_n
        force[:, 1:, 0] = knots @ self._spread
        begin = np.tile(np.concatenate([[0.0], state]), (len(knots), 1))
        states, _ = self._rollout(self._plan_model, self._plan_data, begin, force)
        found = states[:, :, 1:5] - np.pad(place_m[None, :, None], ((0, 0), (0, 0), (0, 3)))
        ordered = found[:, :, [0, 2, 1, 3]]
        all_of = np.concatenate([ordered, force / FORCE_MAX_N], axis=2) * np.sqrt(WEIGHTS)
        end = found[:, -1] @ self._end
        flat: NDArray[np.float64] = np.concatenate([all_of.reshape(len(knots), -1), end], axis=1)
        return flat

    def forces_of(self, knots: NDArray[np.float64]) -> NDArray[np.float64]:
        """A plan's force in each of its HORIZON periods."""
        forces: NDArray[np.float64] = knots @ self._spread
        return forces

    def shifted(self, knots: NDArray[np.float64]) -> NDArray[np.float64]:
        """The plan one period later."""
        at = np.linspace(0, HORIZON - 1, KNOTS) + 1
        moved: NDArray[np.float64] = np.interp(at, np.arange(HORIZON), self.forces_of(knots))
        return moved


#: Makes a plan, as `Robot.plan` does, of state, force that acts (N), places (m) and the plan so far (N).
Plan = Callable[[NDArray[np.float64], float, NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
#: Asks for a plan: period, state in it, force that acts in it (N), places from it on (m), the plan so far (N); None: it came too late.
Ask = Callable[[int, NDArray[np.float64], float, NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64] | None]


def run_episode(robot: Robot, course: Course, is_planned: Sequence[bool] | NDArray[np.bool_]) -> float:
    """The mean cost of a period when the plan asked for in period k is at hand for period k+1 where `is_planned[k]`."""
    return drive(robot, course, lambda k, state, force, place, knots: robot.plan(state, force, place, knots) if is_planned[k] else None)


def drive(robot: Robot, course: Course, ask: Ask) -> float:
    """The mean cost of a period of an episode in which plans come from `ask`, each for the period after the one that it is asked in.

    Where none comes, the last plan's next force acts, in at most BRIDGED periods in a row; then the regulator does.
    """
    robot.reset()
    num = len(course.push_n)
    knots = np.zeros(KNOTS)
    missed, total, force = BRIDGED + 1, 0.0, 0.0
    for k in range(num):
        state = robot.state()
        if abs(state[1]) > FALLEN_RAD:
            return (total + COST_MAX * (num - k)) / num
        force = robot.regulate(state, course.place_m[k]) if missed > BRIDGED else float(robot.forces_of(knots)[0])
        total += period_cost(state, course.place_m[k], force)
        found = ask(k, state, force, course.place_m[k : k + HORIZON + 1], robot.shifted(knots))
        missed = missed + 1 if found is None else 0
        knots = robot.shifted(knots) if found is None else found
        robot.move(force, course.push_n[k])
    return total / num


def period_cost(state: NDArray[np.float64], place_m: float, force_n: float) -> float:
    """The cost of one period."""
    x, tilt, speed, rate = state
    terms = np.array([x - place_m, speed, tilt, rate, force_n / FORCE_MAX_N])
    return float(min(COST_MAX, (WEIGHTS * terms**2).sum()))


def _spread() -> NDArray[np.float64]:
    """Forces of the periods from knots, by linear interpolation: float64[KNOTS, HORIZON]."""
    at = np.linspace(0, HORIZON - 1, KNOTS)
    rows = [np.interp(np.arange(HORIZON), at, row) for row in np.eye(KNOTS)]
    return np.array(rows)


def _regulator(mujoco: Any, model: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gain (float64[4]) and cost to go (float64[4, 4]) of the linear regulator about upright, from MuJoCo's own derivatives."""
    data = mujoco.MjData(model)
    a, b = np.zeros((4, 4)), np.zeros((4, 1))
    mujoco.mjd_transitionFD(model, data, 1e-6, True, a, b, None, None)
    q = np.diag(WEIGHTS[[0, 2, 1, 3]])
    r = np.array([[WEIGHTS[4] / FORCE_MAX_N**2]])
    p = q.copy()
    for _ in range(2000):
        gain = np.linalg.solve(r + b.T @ p @ b, b.T @ p @ a)
        p = q + a.T @ p @ (a - b @ gain)
    return gain[0], p


def _mujoco() -> Any:
    try:
        import mujoco
    except ImportError:
        raise InputError("MuJoCo is not installed: pip install 'dure[ran]'") from None
    return mujoco

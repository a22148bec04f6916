"""Hopper-v5: many in one process whose whole state can be saved, and ones of another weight, grip and strength."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import mujoco
import numpy as np

#: Steps after which an episode is cut off, as Gymnasium registers Hopper-v5.
EPISODE_STEPS = 1000
NUM_OBSERVED, NUM_JOINTS = 11, 3
#: All that the next step of the simulation hangs on, the warm start of its solver too.
STATE = mujoco.mjtState.mjSTATE_INTEGRATION


@dataclass(frozen=True)
class Dynamics:
    """By what a body's properties are multiplied: masses (with inertia), sliding friction, torque of the motors."""

    mass: float = 1.0
    friction: float = 1.0
    torque: float = 1.0

    @classmethod
    def drawn(cls, rng: np.random.Generator, spread: float) -> Dynamics:
        """Each factor uniform in 1 ± `spread`, independent of the others."""
        return cls(*rng.uniform(1 - spread, 1 + spread, 3).tolist())


def make_hopper(dynamics: Dynamics | None = None, **more: Any) -> Any:
    """One Hopper-v5, without the wrappers that check each call.

    Parameters
    ----------
    more
        As of `gymnasium.make`, such as ``render_mode``.
    """
    hopper = gymnasium.make("Hopper-v5", **more).unwrapped
    if dynamics is not None:
        model = hopper.model
        model.body_mass *= dynamics.mass
        model.body_inertia *= dynamics.mass
        model.geom_friction[:, 0] *= dynamics.friction
        model.actuator_gear *= dynamics.torque
        mujoco.mj_setConst(model, hopper.data)
    return hopper


@dataclass
class Step:
    """What a step of each hopper gave.

    Attributes
    ----------
    seen : array
        What the next action is chosen by: after an episode's end, the first of the next one.
    final : array
        What was seen last of the present episode; only where it is over does it differ from `seen`.
    ended : list of (float, int)
        Return and number of steps of each episode that is over.
    """

    seen: np.ndarray
    final: np.ndarray
    rewards: np.ndarray
    fell: np.ndarray
    cut_off: np.ndarray
    ended: list[tuple[float, int]]


class Hoppers:
    """`num` hoppers, each with a random generator of its own."""

    def __init__(self, num: int, seed: int) -> None:
        self.hoppers = [make_hopper() for _ in range(num)]
        self.lengths = np.zeros(num, dtype=np.int64)
        self.returns = np.zeros(num)
        self.seen = np.stack([hopper.reset(seed=seed * 10_000 + i)[0] for i, hopper in enumerate(self.hoppers)])

    def step(self, actions: np.ndarray) -> Step:
        """One step of each; who fell or has gone on for `EPISODE_STEPS` starts anew at once."""
        num = len(self.hoppers)
        seen, final = np.empty((num, NUM_OBSERVED)), np.empty((num, NUM_OBSERVED))
        rewards, fell = np.empty(num), np.empty(num, dtype=bool)
        for i, hopper in enumerate(self.hoppers):
            final[i], rewards[i], fell[i], _, _ = hopper.step(actions[i])
        self.lengths += 1
        self.returns += rewards
        cut_off = (self.lengths == EPISODE_STEPS) & ~fell
        seen[:] = final
        ended = []
        for i in np.flatnonzero(fell | cut_off):
            ended.append((float(self.returns[i]), int(self.lengths[i])))
            seen[i], _ = self.hoppers[i].reset()
            self.lengths[i], self.returns[i] = 0, 0.0
        self.seen = seen
        return Step(seen, final, rewards, fell, cut_off, ended)

    def state(self) -> dict[str, Any]:
        """All that the next step hangs on."""
        states = []
        for hopper in self.hoppers:
            states.append(np.empty(mujoco.mj_stateSize(hopper.model, STATE)))
            mujoco.mj_getState(hopper.model, hopper.data, states[-1], STATE)
        return {
            "simulator": np.stack(states),
            "generators": [hopper.np_random.bit_generator.state for hopper in self.hoppers],
            "seen": self.seen.copy(),
            "lengths": self.lengths.copy(),
            "returns": self.returns.copy(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from where `state` was taken."""
        for hopper, simulator, generator in zip(self.hoppers, state["simulator"], state["generators"], strict=True):
            mujoco.mj_setState(hopper.model, hopper.data, np.ascontiguousarray(simulator), STATE)
            hopper.np_random.bit_generator.state = generator
        self.seen, self.lengths, self.returns = (state[name].copy() for name in ("seen", "lengths", "returns"))


def play_episode(
    hopper: Any,
    choose: Callable[[np.ndarray], np.ndarray],
    seed: int,
    num_steps: int = EPISODE_STEPS,
    film: Callable[[int], None] | None = None,
) -> float:
    """One episode's return.

    Parameters
    ----------
    choose
        Function from what is seen (1 × 11) to the action (1 × 3).
    film
        Called before each step with its number.
    """
    seen, _ = hopper.reset(seed=seed)
    total = 0.0
    for step in range(num_steps):
        if film is not None:
            film(step)
        seen, reward, fell, _, _ = hopper.step(choose(seen[None])[0])
        total += float(reward)
        if fell:
            break
    return total

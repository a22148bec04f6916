"""Three tasks of Meta-World (McLean et al. 2025, arXiv 2505.11289) for a Sawyer arm, of nominal or changed dynamics."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.policies import ENV_POLICY_MAP
from metaworld.types import Task

TASKS = ("reach", "push", "drawer-open")
NUM_OBSERVED, NUM_ACTIONS = 39, 4
#: Below that horizontal distance of object and goal Meta-World draws anew, m.
NEAREST_M = 0.15

#: The experts ask for more than the arm does and say so at each step; actions are clipped before they are executed.
warnings.filterwarnings("ignore", message="Constant.s. may be too high")


@dataclass(frozen=True)
class Dynamics:
    """By what a scene's properties are multiplied.

    Attributes
    ----------
    mass
        Of all bodies, with their inertia.
    friction
        Sliding friction of all surfaces.
    damping
        Of all joints, the drawer's slide among them.
    grip
        Gain of the fingers' actuators.
    reach
        How far the hand is moved by an action.
    """

    mass: float = 1.0
    friction: float = 1.0
    damping: float = 1.0
    grip: float = 1.0
    reach: float = 1.0

    @classmethod
    def drawn(cls, rng: np.random.Generator, spread: float) -> Dynamics:
        """Each factor uniform in 1 ± `spread`, independent of the others."""
        return cls(*rng.uniform(1 - spread, 1 + spread, 5).tolist())


class _WeldedHand:
    """Meta-World 3.0 and 3.1 fill all of a weld's constants; MuJoCo 4 has one more of them, which stays as it is."""

    def reset_mocap_welds(self) -> None:
        model = self.model  # type: ignore[attr-defined]
        model.eq_data[model.eq_type == mujoco.mjtEq.mjEQ_WELD, :11] = [0, 0, 0, 0, 0, 0, -1, 0, 0, 0, 5]


class Scene:
    """One task's world. To make it costs seconds: it is made once and serves all episodes."""

    def __init__(self, task: str, **more: Any) -> None:
        self.task = task
        self._kind = ALL_V3_ENVIRONMENTS[f"{task}-v3"]
        self.world = type(self._kind.__name__, (_WeldedHand, self._kind), {})(**more)
        self.expert = ENV_POLICY_MAP[f"{task}-v3"]()
        model = self.world.model
        self._nominal = [
            a.copy() for a in (model.body_mass, model.body_inertia, model.geom_friction, model.dof_damping)
        ]
        self._nominal += [model.actuator_gainprm.copy(), model.actuator_biasprm.copy()]
        self._action_scale = self.world.action_scale

    def reset(self, seed: int, dynamics: Dynamics | None = None) -> np.ndarray:
        """Start the episode of `seed`, which says where object and goal are; what was before leaves no trace."""
        dynamics = dynamics or Dynamics()
        model, data = self.world.model, self.world.data
        mass, inertia, friction, damping, gain, bias = self._nominal
        model.body_mass[:] = mass * dynamics.mass
        model.body_inertia[:] = inertia * dynamics.mass
        model.geom_friction[:] = friction * [dynamics.friction, 1, 1]
        model.dof_damping[:] = damping * dynamics.damping
        model.actuator_gainprm[:] = gain * dynamics.grip
        model.actuator_biasprm[:] = bias * dynamics.grip
        mujoco.mj_setConst(model, data)
        # What was just computed anew holds the weld's pose too, which the mocap body must not have.
        self.world.reset_mocap_welds()
        self.world.action_scale = self._action_scale * dynamics.reach
        space = self.world._random_reset_space
        rng = np.random.default_rng(seed)
        place = rng.uniform(space.low, space.high)
        while len(place) == 6 and np.linalg.norm(place[:2] - place[3:5]) < NEAREST_M:
            place = rng.uniform(space.low, space.high)
        said = {"env_cls": self._kind, "rand_vec": place, "partially_observable": False}
        self.world.set_task(Task(env_name=f"{self.task}-v3", data=pickle.dumps(said)))
        seen, _ = self.world.reset()
        return seen

    def play(
        self, seed: int, choose: Callable[[np.ndarray], np.ndarray], num_steps: int, dynamics: Dynamics | None = None,
        film: Callable[[], None] | None = None,
    ) -> tuple[bool, int]:  # fmt: skip
        """Whether the task was done within `num_steps`, and after how many: as in Meta-World, once done is done."""
        seen = self.reset(seed, dynamics)
        for step in range(num_steps):
            if film is not None:
                film()
            seen, _, _, _, info = self.world.step(np.clip(choose(seen), -1, 1))
            if info["success"]:
                return True, step + 1
        return False, num_steps

    def demonstrate(
        self, seed: int, noise: float, num_steps: int, num_after: int, dynamics: Dynamics
    ) -> dict[str, Any]:
        """The expert's episode: what it saw and what it would do.

        Parameters
        ----------
        noise
            Standard deviation of what is added to the hand's moves, so that the way back from small errors is shown too
            (Laskey et al. 2017, "DART", arXiv 1703.09327); the expert's own action is what is kept.
        num_after
            Steps that it goes on once the task is done.
        """
        rng = np.random.default_rng([seed, 1])
        seen = self.reset(seed, dynamics)
        observations, actions, is_done = [], [], False
        left = num_steps
        while left > 0:
            action = np.clip(self.expert.get_action(seen), -1, 1)
            observations.append(seen)
            actions.append(action)
            moved = action.copy()
            moved[:3] += noise * rng.standard_normal(3)
            seen, _, _, _, info = self.world.step(np.clip(moved, -1, 1))
            left -= 1
            if info["success"] and not is_done:
                is_done, left = True, min(left, num_after)
        return {
            "seen": np.array(observations, dtype=np.float32),
            "actions": np.array(actions, dtype=np.float32),
            "is_done": is_done,
        }


def share(text: str) -> tuple[int, int]:
    """``2/4`` as (2, 4): the second of four shards."""
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise ValueError(text)
    return int(number), int(of)

"""Families of scenes: what the other vehicles do, drawn from documented ranges.

The families follow the three kinds of UN Regulation No. 157 (Annex 4, Appendix 3: cut-in, cut-out, deceleration); the ranges are this
blueprint's own and claim no distribution of the regulation or of real traffic. `drift` and `traffic` are added: the first asks
whether a driver brakes for nothing, the second whether it lives with others that react to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Time step; all vehicles of the scripted families have one size; lanes of a motorway.
DT_S, LENGTH_M, WIDTH_M, LANE_M = 0.1, 4.8, 1.8, 3.5
#: A vehicle is in the ego lane once its middle is this near to that lane's: its body has crossed the line.
CROSSED_M = (LANE_M + WIDTH_M) / 2
#: How fast a vehicle gathers lateral speed (SUMO's `accelLat`).
LATERAL_MPS2 = 1.0
SCRIPTED = ("cut-in", "cut-out", "braking", "drift")
FAMILIES = (*SCRIPTED, "traffic")
DURATION_S = {"cut-in": 12.0, "cut-out": 12.0, "braking": 12.0, "drift": 12.0, "traffic": 25.0}
#: What happens in a scripted scene begins between these times.
EVENT_S = (0.5, 2.0)


@dataclass(frozen=True)
class Move:
    """A lateral move: when, how far (positive: to the left), how fast."""

    at_s: float
    by_m: float
    speed_mps: float


@dataclass(frozen=True)
class Actor:
    """A scripted vehicle.

    Attributes
    ----------
    gap_m : float
        From the front of the ego vehicle to its rear, at the beginning.
    offset_m : float
        Lateral distance from the middle of the ego vehicle's lane, positive to the left.
    brake_at_s, brake_mps2, end_mps : float
        From then on it slows down at that rate until that speed; a rate of 0: never.
    """

    gap_m: float
    speed_mps: float
    offset_m: float = 0.0
    moves: tuple[Move, ...] = ()
    brake_at_s: float = 0.0
    brake_mps2: float = 0.0
    end_mps: float = 0.0


@dataclass(frozen=True)
class Scene:
    """One scene; `traffic` has no actors but a density and one vehicle ahead that brakes.

    Attributes
    ----------
    speed_mps : float
        The ego vehicle's at the beginning, and what it wishes to drive.
    seed : int
        SUMO's, for the traffic.
    """

    family: str
    number: int
    speed_mps: float
    actors: tuple[Actor, ...] = ()
    seed: int = 0
    density_per_km: float = 0.0
    slow_factor: float = 1.0

    @property
    def num_steps(self) -> int:
        """So many steps of `DT_S`."""
        return round(DURATION_S[self.family] / DT_S)


def draw(family: str, number: int, seed: int, role: str) -> Scene:
    """The scene of that number; the same whatever else is drawn.

    Parameters
    ----------
    role : {"train", "test"}
        Scenes of the two roles have nothing in common.
    """
    rng = np.random.default_rng([seed, ("train", "test").index(role), FAMILIES.index(family), number])
    between = rng.uniform
    speed_mps = between(60, 130) / 3.6
    side = float(rng.choice((-1, 1)))
    # On a step, as SUMO is told of it in one.
    event_s = round(between(*EVENT_S) / DT_S) * DT_S
    match family:
        case "cut-in":
            slower_mps = between(0, min(20, speed_mps * 0.6))
            actor = Actor(
                gap_m=between(3, 45) + slower_mps * event_s,
                speed_mps=speed_mps - slower_mps,
                offset_m=side * LANE_M,
                moves=(Move(event_s, -side * LANE_M, between(0.4, 1.8)),),
            )
            actors: tuple[Actor, ...] = (actor,)
        case "cut-out":
            lateral_mps = between(0.8, 1.8)
            slow_mps = speed_mps * between(0, 0.6)
            # It leaves just in time: its own way past the slow one is clear this long before it would touch it.
            clear_s = WIDTH_M / lateral_mps + lateral_mps / LATERAL_MPS2 / 2
            ahead_m = (speed_mps - slow_mps) * (event_s + clear_s + between(0.0, 1.0))
            leader_gap_m = speed_mps * between(0.6, 1.8)
            actors = (
                Actor(leader_gap_m, speed_mps, moves=(Move(event_s, side * LANE_M, lateral_mps),)),
                Actor(leader_gap_m + LENGTH_M + ahead_m, slow_mps),
            )
        case "braking":
            actors = (
                Actor(
                    gap_m=speed_mps * between(0.6, 1.8),
                    speed_mps=speed_mps,
                    brake_at_s=event_s,
                    brake_mps2=between(4, 9),
                    end_mps=speed_mps * between(0, 0.5),
                ),
            )
        case "drift":
            slower_mps = between(0, 10)
            by_m, lateral_mps = between(0.3, 0.8), between(0.3, 0.8)
            back_s = event_s + by_m / lateral_mps + lateral_mps / LATERAL_MPS2 + 1.0
            actors = (
                Actor(
                    gap_m=between(5, 60) + slower_mps * event_s,
                    speed_mps=speed_mps - slower_mps,
                    offset_m=side * LANE_M,
                    moves=(Move(event_s, -side * by_m, lateral_mps), Move(back_s, side * by_m, lateral_mps)),
                ),
            )
        case "traffic":
            return Scene(
                family, number, between(90, 120) / 3.6, seed=int(rng.integers(1, 2**31)),
                density_per_km=between(12, 22), slow_factor=between(0.2, 0.6),
            )  # fmt: skip
    return Scene(family, number, speed_mps, actors)


def moved_m(move: Move, time_s: np.ndarray) -> np.ndarray:
    """How far a lateral move has come: gathering speed, keeping it, losing it at `LATERAL_MPS2`."""
    far_m = abs(move.by_m)
    top_mps = min(move.speed_mps, np.sqrt(LATERAL_MPS2 * far_m))
    ramp_s = top_mps / LATERAL_MPS2
    whole_s = far_m / top_mps + ramp_s
    since_s = np.clip(time_s - move.at_s, 0, whole_s)
    left_s = whole_s - since_s
    way_m = np.where(
        since_s < ramp_s,
        LATERAL_MPS2 * since_s**2 / 2,
        np.where(left_s < ramp_s, far_m - LATERAL_MPS2 * left_s**2 / 2, top_mps * (since_s - ramp_s / 2)),
    )
    return np.sign(move.by_m) * way_m


def speeds_mps(actor: Actor, time_s: np.ndarray) -> np.ndarray:
    """Its longitudinal speed."""
    if actor.brake_mps2 == 0:
        return np.full_like(time_s, actor.speed_mps)
    slowed_mps = actor.speed_mps - actor.brake_mps2 * np.maximum(0, time_s - actor.brake_at_s)
    return np.maximum(np.minimum(actor.end_mps, actor.speed_mps), slowed_mps)


def offsets_m(actor: Actor, time_s: np.ndarray) -> np.ndarray:
    """Its lateral place."""
    return actor.offset_m + sum((moved_m(move, time_s) for move in actor.moves), np.zeros_like(time_s))


def scripts(scenes: Sequence[Scene]) -> dict[str, np.ndarray]:
    """Where the actors are at each time, as arrays of shape (num_scenes, num_steps + 1, 2).

    Returns
    -------
    dict
        ``x_m`` (of the rear, from the ego vehicle's front at the beginning), ``v_mps``, ``y_m``, ``is_there``.
    """
    num_steps = max(scene.num_steps for scene in scenes)
    time_s = np.arange(num_steps + 1) * DT_S
    arrays = {name: np.zeros((len(scenes), num_steps + 1, 2)) for name in ("x_m", "v_mps", "y_m")}
    is_there = np.zeros((len(scenes), num_steps + 1, 2), bool)
    for i, scene in enumerate(scenes):
        for k, actor in enumerate(scene.actors):
            speed = speeds_mps(actor, time_s)
            arrays["v_mps"][i, :, k] = speed
            arrays["x_m"][i, :, k] = actor.gap_m + np.concatenate([[0.0], np.cumsum(speed[1:]) * DT_S])
            arrays["y_m"][i, :, k] = offsets_m(actor, time_s)
            is_there[i, :, k] = True
    return {**arrays, "is_there": is_there}

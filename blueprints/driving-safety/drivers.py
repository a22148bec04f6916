"""The vehicle, what is seen from it, and three drivers. All on tensors (..., actors): one scene in SUMO or thousands on a GPU.

Each driver answers with an acceleration to what it saw a while ago (its latency); the vehicle's brake is the same for all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import torch
from scenes import CROSSED_M, DT_S, LANE_M, LENGTH_M
from torch import Tensor

#: Full braking and how fast it is reached: the reference driver's of UN R157, Annex 4, Appendix 3 (0.774 g, 12.65 m/s³).
BRAKE_MPS2, JERK_MPS3, THROTTLE_MPS2 = 0.774 * 9.81, 12.65, 2.0
#: So far ahead others are seen.
RANGE_M = 150.0
#: Of the sensors and the computing of an automated driver; a choice of this blueprint.
LATENCY_S = 0.3

Seen = Mapping[str, Tensor]


def idm_mps2(speed: Tensor, wish: Tensor, gap: Tensor, other: Tensor) -> Tensor:
    """The Intelligent Driver Model (Treiber, Hennecke, Helbing 2000, Phys. Rev. E 62, 1805), all in m and s.

    Time gap 1.5 s, at least 2 m, acceleration 1.5 m/s², comfortable braking 2 m/s², exponent 4.
    """
    wished_gap = 2.0 + torch.clamp(speed * 1.5 + speed * (speed - other) / (2 * (1.5 * 2.0) ** 0.5), min=0)
    return 1.5 * (1 - (speed / wish) ** 4 - (wished_gap / torch.clamp(gap, min=0.1)) ** 2)


def observe(ego: Mapping[str, Tensor], actors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a driver sees: the vehicle in its lane that asks most of it, and one beside that may come.

    Parameters
    ----------
    ego : mapping
        ``v_mps``, ``a_mps2``, ``wish_mps`` of shape (...).
    actors : mapping
        ``gap_m`` (its rear from the ego's front), ``y_m``, ``v_mps``, ``vy_mps``, ``a_mps2``, ``is_there``, ``length_m``
        of shape (..., actors).

    Returns
    -------
    dict
        Without a vehicle in the lane (beside), its gap is `RANGE_M` and its speed the ego's.
    """
    gap, y, there = actors["gap_m"], actors["y_m"], actors["is_there"]
    # An actor whose middle is behind the ego's is its own driver's care.
    ahead = there & (gap + actors["length_m"] / 2 > -LENGTH_M / 2) & (gap < RANGE_M)
    crossed = y.abs() < CROSSED_M
    # One that fills the view of the lane hides what is further in it: a cut-out reveals.
    fills = ahead & (y.abs() < 1.0)
    first_gap = torch.where(fills, gap, RANGE_M).amin(-1, keepdim=True)
    in_lane = ahead & crossed & (gap <= first_gap)
    speed, wish = ego["v_mps"].unsqueeze(-1), ego["wish_mps"].unsqueeze(-1)
    asked = torch.where(in_lane, idm_mps2(speed, wish, gap, actors["v_mps"]), torch.inf)
    lead = asked.argmin(-1, keepdim=True)
    has_lead = in_lane.gather(-1, lead).squeeze(-1)
    inward = torch.clamp(-torch.sign(y) * actors["vy_mps"], min=0)
    beside = ahead & ~crossed & (y.abs() < 1.5 * LANE_M)
    threat = torch.where(beside, inward * 100 - gap, -torch.inf).argmax(-1, keepdim=True)
    has_threat = beside.gather(-1, threat).squeeze(-1)

    def of(values: Tensor, which: Tensor, is_any: Tensor, otherwise: Tensor | float) -> Tensor:
        return torch.where(is_any, values.gather(-1, which).squeeze(-1), otherwise)

    return {
        **ego,
        "lead_gap_m": of(gap, lead, has_lead, RANGE_M),
        "lead_mps": of(actors["v_mps"], lead, has_lead, ego["v_mps"]),
        "lead_mps2": of(actors["a_mps2"], lead, has_lead, 0.0),
        "threat_gap_m": of(gap, threat, has_threat, RANGE_M),
        "threat_mps": of(actors["v_mps"], threat, has_threat, ego["v_mps"]),
        "threat_off_m": of(y.abs() - CROSSED_M, threat, has_threat, LANE_M - CROSSED_M),
        "threat_inward_mps": of(inward, threat, has_threat, 0.0),
    }


def time_to_collision_s(seen: Seen, whose: str = "lead") -> Tensor:
    """Gap over closing speed; infinite where nothing closes in."""
    closing = seen["v_mps"] - seen[f"{whose}_mps"]
    gap = torch.clamp(seen[f"{whose}_gap_m"], min=0)
    return torch.where((closing > 1e-6) & (gap < RANGE_M), gap / torch.clamp(closing, min=1e-6), torch.inf)


class Driver:
    """Acts on what it saw `latency_s` ago; made anew for each drive."""

    latency_s = LATENCY_S

    def __init__(self) -> None:
        self.memory: deque[Seen] = deque(maxlen=round(self.latency_s / DT_S) + 1)

    def act(self, seen: Seen) -> Tensor:
        """The acceleration it asks for, m/s²."""
        self.memory.append(seen)
        return self.answer(self.memory[0])

    def answer(self, seen: Seen) -> Tensor:
        """The acceleration for what was seen `latency_s` ago."""
        raise NotImplementedError


class Idm(Driver):
    """Follows the vehicle in its lane by the IDM and knows of no other."""

    def answer(self, seen: Seen) -> Tensor:
        """By the IDM."""
        return idm_mps2(seen["v_mps"], seen["wish_mps"], seen["lead_gap_m"], seen["lead_mps"])


class Reference(Driver):
    """A careful and competent human, after UN R157, Annex 4, Appendix 3, simplified.

    A risk is a vehicle in the lane, or one that has left the middle of its own by 0.375 m, with less than 2 s to collision. It
    is braked for fully, 0.4 s of perception and 0.75 s of reaction later, until it no longer closes in. Simplified: one rule for all
    families, both times as one delay, no automatic emergency braking beside him; else he follows as late, by the IDM, at no more than
    3.5 m/s² (what ISO 15622 grants adaptive cruise control).
    """

    latency_s = 0.4 + 0.75

    def __init__(self) -> None:
        super().__init__()
        self.is_braking: Tensor | None = None

    def answer(self, seen: Seen) -> Tensor:
        """Full braking while there is a risk, else by the IDM."""
        strays = seen["threat_off_m"] < LANE_M - CROSSED_M - 0.375
        urgent = (time_to_collision_s(seen) < 2) | (strays & (time_to_collision_s(seen, "threat") < 2))
        closes = (seen["v_mps"] > seen["lead_mps"]) | (strays & (seen["v_mps"] > seen["threat_mps"]))
        before = torch.zeros_like(urgent) if self.is_braking is None else self.is_braking
        self.is_braking = urgent | (before & closes)
        follows = idm_mps2(seen["v_mps"], seen["wish_mps"], seen["lead_gap_m"], seen["lead_mps"])
        return torch.where(self.is_braking, -BRAKE_MPS2, torch.clamp(follows, min=-3.5))


NUM_SEEN, NUM_HIDDEN, NUM_SAID = 12, 8, 2
NUM_WEIGHTS = NUM_SEEN * NUM_HIDDEN + NUM_HIDDEN + NUM_HIDDEN * NUM_SAID + NUM_SAID


class Policy(Driver):
    """A small network on top of the IDM (residual policy learning: Silver et al. 2018, arXiv:1812.06298).

    It says two things: what to add to the IDM's answer, and how far a vehicle beside counts as if it were in the lane already. Weights of
    zero are the IDM with a hint of the second.

    Parameters
    ----------
    weights : Tensor, shape (candidates, NUM_WEIGHTS)
        What is seen then has the shape (candidates, scenes).
    """

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        first, bias, second, said = torch.split(
            weights, (NUM_SEEN * NUM_HIDDEN, NUM_HIDDEN, NUM_HIDDEN * NUM_SAID, NUM_SAID), dim=-1
        )
        self.first, self.bias = first.reshape(-1, NUM_SEEN, NUM_HIDDEN), bias.unsqueeze(-2)
        self.second, self.said = second.reshape(-1, NUM_HIDDEN, NUM_SAID), said.unsqueeze(-2)

    def answer(self, seen: Seen) -> Tensor:
        """The IDM's answer, corrected."""
        speed, wish = seen["v_mps"], seen["wish_mps"]
        lead = idm_mps2(speed, wish, seen["lead_gap_m"], seen["lead_mps"])
        threat = idm_mps2(speed, wish, seen["threat_gap_m"], seen["threat_mps"])
        features = [
            speed / 40,
            (wish - speed) / 10,
            seen["a_mps2"] / 8,
            torch.clamp(lead / 8, -2, 1),
            torch.clamp(threat / 8, -2, 1),
            seen["lead_mps2"] / 8,
        ]
        for whose in ("lead", "threat"):
            gap = torch.clamp(seen[f"{whose}_gap_m"], min=0.5)
            closing = speed - seen[f"{whose}_mps"]
            features += [
                torch.clamp(gap / (speed + 1), max=5) / 5,
                torch.clamp(torch.clamp(closing, min=0) ** 2 / (2 * gap * 8), max=2),
            ]
        features += [seen["threat_off_m"], seen["threat_inward_mps"]]
        hidden = torch.tanh(torch.stack(features, -1) @ self.first + self.bias)
        added, counts = (hidden @ self.second + self.said).unbind(-1)
        counted = torch.sigmoid(4 * counts - 3) * torch.clamp(torch.clamp(threat, min=-BRAKE_MPS2) - lead, max=0)
        return lead + 4 * torch.tanh(added) + counted


def driven(asked: Tensor, speed: Tensor, acceleration: Tensor) -> tuple[Tensor, Tensor]:
    """The vehicle's next speed and acceleration: brake and jerk have limits, and it never goes backwards."""
    wished = torch.clamp(asked, -BRAKE_MPS2, THROTTLE_MPS2)
    after = acceleration + torch.clamp(wished - acceleration, -JERK_MPS3 * DT_S, JERK_MPS3 * DT_S)
    following = torch.clamp(speed + after * DT_S, min=0)
    return following, (following - speed) / DT_S

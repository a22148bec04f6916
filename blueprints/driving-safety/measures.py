"""What a drive is judged by, and how sure one may be of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scenes import DT_S, Scene
from scipy.stats import binomtest


@dataclass
class Drive:
    """What happened in one drive, step by step.

    Attributes
    ----------
    hit_mps : float or None
        Closing speed at the collision that ended it.
    others : list
        At each step, of each vehicle near by: gap and lateral offset in m.
    """

    hit_mps: float | None = None
    place_m: list[float] = field(default_factory=list)
    speed_mps: list[float] = field(default_factory=list)
    acceleration_mps2: list[float] = field(default_factory=list)
    ttc_s: list[float] = field(default_factory=list)
    others: list[dict[str, tuple[float, float]]] = field(default_factory=list)

    def add(self, place_m: float, speed_mps: float, acceleration_mps2: float, ttc_s: float, others: Mapping[str, Sequence[float]]) -> None:
        """One step more."""
        self.place_m.append(place_m)
        self.speed_mps.append(speed_mps)
        self.acceleration_mps2.append(acceleration_mps2)
        self.ttc_s.append(ttc_s)
        self.others.append({name: (place_m + values[0], values[1]) for name, values in others.items()})

    def measures(self, scene: Scene) -> dict[str, float | int]:
        """One row of the table of results."""
        jerk = np.abs(np.diff(self.acceleration_mps2)) / DT_S
        is_hit = self.hit_mps is not None
        return {
            "is_hit": int(is_hit),
            "impact_mps": self.hit_mps if self.hit_mps is not None else 0.0,
            "ttc_min": 0.0 if is_hit else min(99.0, *self.ttc_s),
            "brake_max_mps2": max(0.0, -min(self.acceleration_mps2)),
            "jerk_p95_mps3": float(np.quantile(jerk, 0.95)) if len(jerk) else 0.0,
            "progress": float(np.mean(self.speed_mps)) / scene.speed_mps,
        }


def share_interval(num_hit: int, num: int) -> tuple[float, float]:
    """95% of a share (Wilson 1927, J. Am. Stat. Assoc. 22, 209)."""
    found = binomtest(num_hit, num).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def quantile_interval(values: Sequence[float], level: float, seed: int = 1, num_draws: int = 1000) -> tuple[float, float, float]:
    """A quantile and 95% around it, by the bootstrap's percentiles (Efron 1979, Ann. Stat. 7, 1)."""
    drawn = np.random.default_rng(seed).choice(np.asarray(values), (num_draws, len(values)))
    low, high = np.quantile(np.quantile(drawn, level, axis=1), (0.025, 0.975))
    return float(np.quantile(values, level)), float(low), float(high)

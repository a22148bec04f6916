"""Many scripted scenes at one time, without SUMO: what the policy is trained in. On a CPU or a GPU, by the tensors' device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from drivers import Driver, driven, observe, time_to_collision_s
from scenes import DT_S, LENGTH_M, WIDTH_M, Scene, scripts
from torch import Tensor


class Batch:
    """Scripted scenes as tensors."""

    def __init__(self, scenes: Sequence[Scene], device: str = "cpu") -> None:
        arrays = scripts(scenes)
        self.actors = {name: torch.as_tensor(values, device=device) for name, values in arrays.items()}
        self.speed = torch.tensor([scene.speed_mps for scene in scenes], dtype=torch.float64, device=device)

    @torch.inference_mode()
    def drive(self, driver: Driver, num_candidates: int = 1) -> dict[str, Tensor]:
        """Drive all of them by each candidate.

        Returns
        -------
        dict
            Of shape (num_candidates, num_scenes): ``is_hit``, ``impact_mps``, ``ttc_min_s``, and means over time of the squares of
            acceleration and jerk and of the share of the wished speed that is missing. After a collision nothing is counted.
        """
        shape = (num_candidates, len(self.speed))
        speed = self.speed.expand(shape)
        wish, place = speed, torch.zeros_like(speed)
        acceleration = torch.zeros_like(speed)
        is_hit = torch.zeros_like(speed, dtype=torch.bool)
        impact = torch.zeros_like(speed)
        ttc_min = torch.full_like(speed, torch.inf)
        sums = {name: torch.zeros_like(speed) for name in ("acceleration_2", "jerk_2", "behind")}
        num_steps = self.actors["x_m"].shape[1] - 1
        before = 0
        for now in range(num_steps):
            there = {name: values[:, now].expand(*shape, 2) for name, values in self.actors.items()}
            was = {name: self.actors[name][:, before].expand(*shape, 2) for name in ("y_m", "v_mps")}
            gap = there["x_m"] - place.unsqueeze(-1)
            seen = observe(
                {"v_mps": speed, "a_mps2": acceleration, "wish_mps": wish},
                {
                    "gap_m": gap,
                    "y_m": there["y_m"],
                    "v_mps": there["v_mps"],
                    "vy_mps": (there["y_m"] - was["y_m"]) / DT_S,
                    "a_mps2": (there["v_mps"] - was["v_mps"]) / DT_S,
                    "is_there": there["is_there"],
                    "length_m": torch.full_like(gap, LENGTH_M),
                },
            )
            touches = there["is_there"] & (there["y_m"].abs() < WIDTH_M) & (gap < 0) & (gap > -LENGTH_M)
            touched = touches.any(-1) & ~is_hit
            closing = (speed.unsqueeze(-1) - there["v_mps"]).masked_fill(~touches, 0).amax(-1)
            impact = torch.where(touched, closing, impact)
            is_hit = is_hit | touched
            ttc_min = torch.where(is_hit, ttc_min, torch.minimum(ttc_min, time_to_collision_s(seen)))
            following, after = driven(driver.act(seen), speed, acceleration)
            counts = (~is_hit).double()
            sums["acceleration_2"] += counts * after**2
            sums["jerk_2"] += counts * ((after - acceleration) / DT_S) ** 2
            sums["behind"] += counts * torch.clamp(1 - following / wish, min=0)
            speed, acceleration = following, after
            place = place + speed * DT_S
            before = now
        return {
            "is_hit": is_hit,
            "impact_mps": impact,
            "ttc_min_s": torch.where(is_hit, 0.0, ttc_min),
            **{name: total / num_steps for name, total in sums.items()},
        }


def cost(driven_by: dict[str, Tensor]) -> Tensor:
    """What training lowers, of shape (num_candidates, num_scenes): safety first, then comfort and progress."""
    near = torch.clamp(1.5 - driven_by["ttc_min_s"], min=0) / 1.5
    return (
        10 * driven_by["is_hit"]
        + 0.2 * driven_by["impact_mps"]
        + 2 * near
        + 0.04 * driven_by["acceleration_2"]
        + 0.004 * driven_by["jerk_2"]
        + 6 * driven_by["behind"]
    )

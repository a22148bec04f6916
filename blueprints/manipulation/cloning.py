"""A policy that is cloned from demonstrations: one network for all tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from sawyer import NUM_ACTIONS, NUM_OBSERVED, TASKS
from torch import nn

from dure.whole_file import whole_file

#: Least standard deviation that an observed value is divided by, m: smaller ones would make noise large.
LEAST_DEVIATION = 0.01
NUM_FEATURES = NUM_OBSERVED + 9


def features(seen: torch.Tensor) -> torch.Tensor:
    """What is observed, and where object and goal are as seen from the hand, and the goal from the object."""
    hand, thing, goal = seen[:, :3], seen[:, 4:7], seen[:, -3:]
    return torch.cat([seen, thing - hand, goal - hand, goal - thing], dim=1)


class ClonedPolicy(nn.Module):
    """Observation and task → action in −1 … 1.

    Parameters
    ----------
    shown
        What was seen in demonstrations, rows: features are told in its standard deviations.
    """

    def __init__(self, hidden: int, shown: torch.Tensor | None = None) -> None:
        super().__init__()
        self.hidden = hidden
        known = torch.zeros(2, NUM_FEATURES) if shown is None else features(shown)
        self.register_buffer("mean", known.mean(0))
        self.register_buffer("deviation", known.std(0).clamp(min=LEAST_DEVIATION))
        self.layers = nn.Sequential(
            nn.Linear(NUM_FEATURES + len(TASKS), hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(),
            nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, NUM_ACTIONS),
        )  # fmt: skip

    def forward(self, seen: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
        """Actions of rows, not yet clipped."""
        known = nn.functional.one_hot(task, len(TASKS)).to(seen.dtype)
        return self.layers(torch.cat([((features(seen) - self.mean) / self.deviation).clamp(-10, 10), known], dim=1))

    def choice(self, task: str) -> Any:
        """Function from one observation to the action, for `Scene.play`."""
        number = torch.tensor([TASKS.index(task)])

        def choose(seen: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return self(torch.from_numpy(seen[None]).float(), number)[0].clamp(-1, 1).numpy()

        return choose

    def write(self, path: Path) -> None:
        """As a file that `read_policy` reads."""
        said = {"hidden": self.hidden, "state": {key: value.cpu() for key, value in self.state_dict().items()}}
        # Given a path, Torch writes the draft's name into the file; given an open one, equal policies are equal bytes.
        with whole_file(path) as draft, draft.open("wb") as file:
            torch.save(said, file)


def read_policy(path: Path) -> ClonedPolicy:
    """The policy of a file, on the CPU."""
    said = torch.load(path, map_location="cpu", weights_only=True)
    policy = ClonedPolicy(said["hidden"])
    policy.load_state_dict(said["state"])
    return policy.eval()

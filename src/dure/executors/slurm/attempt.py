"""An attempt that is a Slurm job: what is known of it, and what is due to be done about it (no I/O)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dure.executors.attempt import launch_form, launch_from
from dure.executors.far import FarAttempt, Now, order_from_json
from dure.executors.slurm.engine import Shape
from dure.ports.executor import RunState


@dataclass
class SlurmAttempt(FarAttempt):
    """A lease that was launched here.

    Attributes
    ----------
    name, task : str, int
        The Slurm job's name, ours alone, and the index in its array.
    job : str
        What scancel calls it; empty: not known yet.
    is_handed_in : bool
        Slurm was asked to take it, and has answered or will not any more.
    ended_boot_ms : int or None
        When Slurm was first seen to say that it has ended.
    """

    shape: Shape
    name: str = ""
    task: int = 0
    job: str = ""
    is_handed_in: bool = False
    ended_boot_ms: int | None = None

    @property
    def is_gang(self) -> bool:
        """Whether it has several nodes."""
        return len(self.shape.nodes) > 1

    def intent(self) -> str:
        """All that a later process needs to take it up, as JSON."""
        return json.dumps(
            {"launch": launch_form(self.launch), "shape": asdict(self.shape), "name": self.name, "task": self.task}
        )


def attempt_from(intent: str, stop: str | None, folder: Path, now: Now) -> SlurmAttempt:
    """The inverse of `SlurmAttempt.intent`, with the stop order that was written since."""
    data: dict[str, Any] = json.loads(intent)
    shape = Shape(**{**data["shape"], "nodes": tuple(data["shape"]["nodes"])})
    found = SlurmAttempt(
        launch_from(data["launch"]), folder, shape, data["name"], data["task"], is_handed_in=True, is_adopted=True
    )
    if stop is not None:
        found.stop = order_from_json(stop, now)
        found.state = RunState.STOPPING
    return found

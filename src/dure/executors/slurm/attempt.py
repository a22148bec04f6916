"""An attempt that is a Slurm job: what is known of it, and what is due to be done about it (no I/O)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dure.executors.attempt import launch_form, launch_from
from dure.executors.far import FarAttempt, Now, order_from_json
from dure.executors.slurm.engine import Part, Shape
from dure.ports.executor import Run, RunState


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
    gpu_idxs : tuple or None
        The GPUs that Slurm has given it on each of its nodes; None: not known yet.
    engine_gpu_ms : int
        Of one that is over, GPU-milliseconds by Slurm's record of its job; -1: not known.
    ended_boot_ms, over_boot_ms : int or None
        When Slurm was first seen to say that it has ended; when it was over for good.
    """

    shape: Shape
    name: str = ""
    task: int = 0
    job: str = ""
    is_handed_in: bool = False
    gpu_idxs: tuple[tuple[int, ...], ...] | None = None
    engine_gpu_ms: int = -1
    ended_boot_ms: int | None = None
    over_boot_ms: int | None = None

    @property
    def is_gang(self) -> bool:
        """Whether it has several nodes."""
        return len(self.shape.gpus_on) > 1

    @property
    def has_gpus(self) -> bool:
        """Whether it has any."""
        return any(part.gpus for part in self.shape.parts)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Its nodes, in order of their ranks."""
        return tuple(dict.fromkeys(part.node for part in self.launch.placements))

    def run(self) -> Run:
        """What is reported of it."""
        idxs = None if self.gpu_idxs is None else dict(zip(self.nodes, self.gpu_idxs, strict=True))
        return replace(super().run(), gpu_idxs=idxs, engine_gpu_ms=self.engine_gpu_ms)

    @property
    def own_gpu_ms(self) -> int:
        """GPU-milliseconds from its start to its end."""
        return max(self.ended_ms - self.started_ms, 0) * sum(self.shape.gpus_on.values()) if self.started_ms >= 0 else 0

    def intent(self) -> str:
        """All that a later process needs to take it up, as JSON."""
        return json.dumps(
            {"launch": launch_form(self.launch), "shape": asdict(self.shape), "name": self.name, "task": self.task}
        )


def attempt_from(intent: str, stop: str | None, folder: Path, now: Now) -> SlurmAttempt:
    """The inverse of `SlurmAttempt.intent`, with the stop order that was written since."""
    data: dict[str, Any] = json.loads(intent)
    parts = tuple(Part(**{**part, "nodes": tuple(part["nodes"])}) for part in data["shape"]["parts"])
    shape = Shape(**{**data["shape"], "parts": parts})
    found = SlurmAttempt(
        launch_from(data["launch"]), folder, shape, data["name"], data["task"], is_handed_in=True, is_adopted=True
    )
    if stop is not None:
        found.stop = order_from_json(stop, now)
        found.state = RunState.STOPPING
    return found

"""The kinds of work that invented load is made of, measured (``kinds.json``; docs/load.md says from what)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.model.jobs import UNKNOWN, WorkProfile
from dure.twin.faults import FAULT_PRESETS, daly_interval_s

#: Node failures for which gangs choose the time between their checkpoints.
PLANNED_FOR = "rsc1"
GPUS_PER_NODE = 8
_CHECKPOINT_MIN_S, _CHECKPOINT_MAX_S = 60.0, 3600.0
_OPEN = 1 << 62


@dataclass(frozen=True)
class Kind:
    """One kind of work.

    Attributes
    ----------
    classes : tuple of str
        Classes of jobs of which some are of this kind.
    part : float
        Of the jobs of such a class for which sizes leave a choice, relative to the others' parts.
    gpus, gpu_ms : (int, int)
        Least and largest number of GPUs, and from what to below what GPU-time, of its jobs.
    grace_ms : int
        In which its jobs leave; UNKNOWN: as their class.
    """

    profile: WorkProfile
    classes: tuple[str, ...]
    part: float
    gpus: tuple[int, int]
    gpu_ms: tuple[int, int]
    grace_ms: int

    def takes(self, num_gpus: NDArray[np.int64], gpu_ms: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether jobs of such sizes can be of this kind."""
        fits: NDArray[np.bool_] = (num_gpus >= self.gpus[0]) & (num_gpus <= self.gpus[1])
        return fits & (gpu_ms >= self.gpu_ms[0]) & (gpu_ms < self.gpu_ms[1])

    def checkpoint_ms(self, num_gpus: NDArray[np.int64]) -> NDArray[np.int64]:
        """Daly's time between checkpoints for gangs of such sizes, whole seconds, 1 min to 1 h."""
        nodes = -(-num_gpus // GPUS_PER_NODE)
        per_s = (nodes * FAULT_PRESETS[PLANNED_FOR].failures_per_1000_node_days / 1000 + self.profile.failures_per_day) / 86_400
        sizes, at = np.unique(per_s, return_inverse=True)
        best_s = np.array([daly_interval_s(self.profile.save_ms / 1000, 1 / size) for size in sizes])
        whole_s: NDArray[np.int64] = np.round(np.clip(best_s, _CHECKPOINT_MIN_S, _CHECKPOINT_MAX_S)).astype(np.int64)
        return whole_s[at] * 1000


def load_kinds() -> tuple[Kind, ...]:
    """All kinds."""
    rows: list[dict[str, Any]] = json.loads(files(__package__).joinpath("kinds.json").read_text())
    return tuple(_kind(row) for row in rows)


def _kind(row: dict[str, Any]) -> Kind:
    profile = WorkProfile(
        row["name"], scaling=row.get("scaling", 1.0), save_ms=round(1000 * row.get("save_s", 0)), restart_ms=round(1000 * row.get("restart_s", 0)),
        failures_per_day=row.get("failures_per_day", 0.0), busy=row.get("busy", 1.0),
    )  # fmt: skip
    least, most = row.get("gpus", (0, 0))
    low, high = row.get("gpu_h", (0, None))
    return Kind(
        profile, tuple(row["classes"]), row.get("part", 1.0), (least, most or _OPEN),
        (low * 3_600_000, _OPEN if high is None else high * 3_600_000), row["grace_s"] * 1000 if "grace_s" in row else UNKNOWN,
    )  # fmt: skip


def draw_kinds(
    job_class: str, kinds: tuple[Kind, ...], num_gpus: NDArray[np.int64], gpu_ms: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """The kind of each of some jobs of a class, index into ``kinds``; UNKNOWN: the class has none for that size."""
    part = np.array([kind.part if job_class in kind.classes else 0.0 for kind in kinds])
    weight = part * np.stack([kind.takes(num_gpus, gpu_ms) for kind in kinds], axis=1)
    total = weight.sum(axis=1)
    drawn = (np.cumsum(weight, axis=1) <= (rng.random(len(num_gpus)) * total)[:, None]).sum(axis=1)
    return np.where(total > 0, np.minimum(drawn, len(kinds) - 1), UNKNOWN)


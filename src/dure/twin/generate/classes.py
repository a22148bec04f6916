"""The kinds of jobs: what was fitted to recorded load (``fitted.json``) and what is assumed beside it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.model.jobs import UNKNOWN

#: Points at which a mixture's mean is summed up, per component.
_NUM_QUANTILES = 4001


@dataclass(frozen=True)
class Assumed:
    """What no open trace says, or what differs in an alliance. All of it is in docs/load.md.

    Attributes
    ----------
    part : float
        Of the GPU time asked for; the parts of all classes sum to 1.
    array_mean : float
        Mean number of jobs submitted at once (geometric).
    rhythm : float
        1: follows people's hours and weekends as the traces do; 0: evenly round the clock.
    checkpoint_ms : int
        0: none; gangs choose it by their kind. What a service has answered stands: it loses a second.
    grace_ms : int
        In which it leaves when told to, as of JOB_DTYPE: a service between two short kernels, whose requests others take.
    elastic_part : float
        Part of the jobs that run on half to twice their GPUs.
    node_part : float
        Part of the jobs of several GPUs that want them on one node, where every node can hold them.
    priority : int
        Class of JOB_DTYPE.
    run_mean : float
        Mean number of similar submissions that a user makes one after the other.
    """

    part: float
    array_mean: float = 1.0
    rhythm: float = 1.0
    checkpoint_ms: int = 0
    grace_ms: int = UNKNOWN
    elastic_part: float = 0.0
    node_part: float = 0.0
    priority: int = 1
    run_mean: float = 15.0


ASSUMED = {
    "debug": Assumed(part=0.0015, priority=2),
    "sweep": Assumed(part=0.04, array_mean=12.0, checkpoint_ms=1_800_000),
    "fine_tuning": Assumed(part=0.25, checkpoint_ms=1_800_000, elastic_part=0.25, node_part=0.5),
    "pretraining": Assumed(part=0.6545, rhythm=0.5, run_mean=1.0),
    "simulation": Assumed(part=0.004, array_mean=40.0, rhythm=0.5, priority=0),
    "service": Assumed(part=0.05, rhythm=0.3, checkpoint_ms=1000, grace_ms=2, priority=2),
    "campaign": Assumed(part=0.0, rhythm=0.5, run_mean=1.0),
}
CLASS_NAMES = tuple(ASSUMED)
#: Classes that train at scale: up to half of a member's largest pool of fast GPUs.
GANGS = ("pretraining", "campaign")

#: Weeks of pre-training as one job. The recorded gangs are attempts that failures cut at a week at most;
#: Llama 3 took 54 days on 16,384 GPUs (arXiv 2407.21783). All assumed; left out unless ``mix`` names it.
_CAMPAIGN = {
    "duration": {
        "weights": [1.0], "mu": [math.log(21 * 86_400)], "sigma": [0.5],
        "min_s": 7 * 86_400.0, "max_s": 90 * 86_400.0,
    },
    "sizes": {
        "num_gpus": [2048, 4096, 8192, 16_384], "gpu_milli": [1000] * 4, "weights": [0.4, 0.3, 0.2, 0.1],
    },
}  # fmt: skip


@dataclass(frozen=True)
class JobClass:
    """One kind of job.

    Attributes
    ----------
    weights, mu, sigma : ndarray of float64, shape (num_components,)
        Mixture of normal distributions of the natural logarithm of the run time in seconds.
    min_s, max_s : float
        Shortest and longest recorded run time; draws are cut to them.
    size_gpus, size_milli : ndarray of int64; size_weights : ndarray of float64
        Sizes and their probabilities.
    """

    name: str
    assumed: Assumed
    weights: NDArray[np.float64]
    mu: NDArray[np.float64]
    sigma: NDArray[np.float64]
    min_s: float
    max_s: float
    size_gpus: NDArray[np.int64]
    size_milli: NDArray[np.int64]
    size_weights: NDArray[np.float64]

    def mean_s(self) -> float:
        """Mean run time of the cut mixture, seconds."""
        # Equal steps of the standard normal's argument: fine enough for the cut tails.
        z = np.linspace(-8, 8, _NUM_QUANTILES)
        density = np.exp(-z * z / 2)
        seconds = np.clip(np.exp(self.mu[:, None] + self.sigma[:, None] * z), self.min_s, self.max_s)
        return float((self.weights * (seconds * density).sum(axis=1)).sum() / density.sum())

    def sizes_up_to(self, gpus_max: int) -> NDArray[np.float64]:
        """Probabilities of the sizes for jobs of at most ``gpus_max`` GPUs; zeros: none fits."""
        weights = np.where(self.size_gpus <= gpus_max, self.size_weights, 0.0)
        part: NDArray[np.float64] = weights / max(weights.sum(), 1e-300)
        return part

    def draw_ms(self, component: NDArray[np.int64], normal: NDArray[np.float64]) -> NDArray[np.int64]:
        """Run times in ms of draws of the components and of a standard normal."""
        seconds = np.clip(np.exp(self.mu[component] + self.sigma[component] * normal), self.min_s, self.max_s)
        return np.maximum((seconds * 1000).astype(np.int64), 1)


def load_classes() -> tuple[list[JobClass], NDArray[np.float64]]:
    """All classes, and arrivals in each hour of the week from Monday 0:00 relative to the mean, (168,)."""
    fitted = json.loads(files(__package__).joinpath("fitted.json").read_text())
    recorded: dict[str, Any] = fitted["classes"]
    classes = []
    for name, assumed in ASSUMED.items():
        entry = recorded.get(name, _CAMPAIGN)
        duration, sizes = entry["duration"], entry["sizes"]
        weights = np.array(duration["weights"])
        size_weights = np.array(sizes["weights"])
        classes.append(JobClass(
            name, assumed, weights / weights.sum(), np.array(duration["mu"]), np.array(duration["sigma"]),
            duration["min_s"], duration["max_s"], np.array(sizes["num_gpus"], np.int64),
            np.array(sizes["gpu_milli"], np.int64), size_weights / size_weights.sum(),
        ))
    # Philly's clock is not that of one place's working day (docs/load.md): it stands beside, it is not used.
    rhythm = np.array(fitted["rhythm"]["helios"])
    return classes, rhythm / rhythm.mean()

"""Time that a large training run loses to failures, checkpoints and the wait for nodes: simulated beside the formulas.

Sources: the rates are those of `dure.twin.faults`; *Young* doi 10.1145/361147.361115; *Daly* doi
10.1016/j.future.2004.11.016; asynchronous saving as in PyTorch's distributed checkpoint: training stands only while
its state is copied, and a checkpoint counts once it is written.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

import numpy as np

from dure.model.errors import InputError
from dure.twin.faults import daly_interval_s, expected_ettr, job_mttf_h, young_interval_s

#: A node of the rates' sources.
GPUS_PER_NODE = 8
_DAY_S = 86_400.0


@dataclass(frozen=True)
class TrainingRun:
    """A gang, its checkpoints and what befalls it.

    Attributes
    ----------
    failures_per_1000_node_days : float
        Of its nodes.
    job_failures_per_day : float
        Of the run as such, whatever its size (RSC's small jobs fail 3.7 times as often as their nodes do).
    stall_s : float
        Training stands so long for a checkpoint.
    write_s : float
        Until it is written and counts, at least ``stall_s``; with synchronous saving both are equal.
    restart_s : float
        From a failure, once there are nodes enough, to the first new step: detecting, scheduling, loading.
    spares : int
        Nodes that stand by; a failed node is one again when repaired.
    repair_median_h, repair_sigma : float
        Lognormal time of repair.
    """

    gpus: int
    failures_per_1000_node_days: float
    job_failures_per_day: float = 0.0
    stall_s: float = 10.0
    write_s: float = 10.0
    restart_s: float = 600.0
    spares: int = 0
    repair_median_h: float = 4.0
    repair_sigma: float = 1.0

    def __post_init__(self) -> None:
        if self.gpus < GPUS_PER_NODE:
            raise InputError(f"at least {GPUS_PER_NODE}, a node's", field="gpus")
        if self.failures_per_1000_node_days <= 0:
            raise InputError("must be above 0", field="failures_per_1000_node_days")
        if not 0 <= self.stall_s <= self.write_s or self.write_s <= 0:
            raise InputError("0 ≤ stall_s ≤ write_s and 0 < write_s must hold", field="stall_s")
        if min(self.restart_s, self.job_failures_per_day, self.spares, self.repair_sigma) < 0 or self.repair_median_h <= 0:
            raise InputError("times and numbers must not be negative", field="restart_s")

    @property
    def num_nodes(self) -> int:
        """Of eight GPUs."""
        return math.ceil(self.gpus / GPUS_PER_NODE)

    @property
    def mttf_s(self) -> float:
        """Mean time between the failures that stop it."""
        per_s = 1 / (3600 * job_mttf_h(self.num_nodes, self.failures_per_1000_node_days)) + self.job_failures_per_day / _DAY_S
        return 1 / per_s

    @property
    def daly_s(self) -> float:
        """Best time of work between two checkpoints for what each costs, and never shorter than writing one takes."""
        return max(daly_interval_s(max(self.stall_s, 1e-3), self.mttf_s), self.write_s - self.stall_s)

    @property
    def young_s(self) -> float:
        """The same to first order."""
        return max(young_interval_s(max(self.stall_s, 1e-3), self.mttf_s), self.write_s - self.stall_s)


@dataclass(frozen=True)
class Spent:
    """Shares of a run's time, 0..1, which add up to one: useful work, work done again, saving, restarting, waiting for nodes."""

    useful: float
    lost: float
    saving: float
    restarting: float
    waiting: float


def simulate(run: TrainingRun, interval_s: float, days: float, seed: int) -> Spent:
    """A run of some days with failures drawn from its rates.

    Parameters
    ----------
    interval_s : float
        Work between two checkpoints; no shorter than it takes to write one besides the stall.
    """
    if interval_s < run.write_s - run.stall_s or interval_s <= 0:
        raise InputError("is shorter than writing a checkpoint takes", field="interval_s")
    chance = np.random.default_rng([seed, run.gpus, run.spares])
    end_s = days * _DAY_S
    cycle_s = interval_s + run.stall_s
    job_share = run.job_failures_per_day / _DAY_S * run.mttf_s
    now = useful = lost = saving = restarting = waiting = 0.0
    spares, repaired = run.spares, list[float]()
    while now < end_s:
        up_s = min(chance.exponential(run.mttf_s), end_s - now)
        cycles = int(up_s // cycle_s)
        worked_s = cycles * interval_s + min(up_s - cycles * cycle_s, interval_s)
        saving += up_s - worked_s
        now += up_s
        if now >= end_s:
            useful += worked_s
            break
        # The last checkpoint counts if it was written by then.
        written = cycles if up_s - cycles * cycle_s >= run.write_s - run.stall_s else max(cycles - 1, 0)
        useful += written * interval_s
        lost += worked_s - written * interval_s
        while repaired and repaired[0] <= now:
            heapq.heappop(repaired)
            spares += 1
        if chance.random() >= job_share:
            heapq.heappush(repaired, now + 3600 * run.repair_median_h * chance.lognormal(0.0, run.repair_sigma))
            spares -= 1
        if spares < 0:
            wait_s = min(max(heapq.heappop(repaired) - now, 0.0), end_s - now)
            spares += 1
            waiting += wait_s
            now += wait_s
        restart_s = min(run.restart_s, end_s - now)
        restarting += restart_s
        now += restart_s
    return Spent(*(part / end_s for part in (useful, lost, saving, restarting, waiting)))


@dataclass(frozen=True)
class Goodput:
    """A run at one interval: as `Spent`, the mean over seeds, and what the formula of RSC expects of it.

    Attributes
    ----------
    ettr : float
        Effective training time ratio: the useful share.
    ettr_ci95 : float
        Half the width of its 95% confidence interval.
    ettr_expected : float
        `expected_ettr`, which knows neither the wait for nodes nor asynchronous saving.
    """

    gpus: int
    spares: int
    mttf_h: float
    interval_s: float
    young_s: float
    daly_s: float
    ettr: float
    ettr_ci95: float
    ettr_expected: float
    lost: float
    saving: float
    restarting: float
    waiting: float


def goodput(run: TrainingRun, days: float, seeds: int, interval_s: float | None = None) -> Goodput:
    """The mean of some seeds; by default at Daly's interval."""
    at_s = run.daly_s if interval_s is None else interval_s
    spent = [simulate(run, at_s, days, seed) for seed in range(seeds)]
    useful = np.array([one.useful for one in spent])
    rate = 24_000 / (run.num_nodes * run.mttf_s / 3600)
    return Goodput(
        run.gpus, run.spares, run.mttf_s / 3600, at_s, run.young_s, run.daly_s, float(useful.mean()),
        float(1.96 * useful.std(ddof=1) / math.sqrt(seeds)) if seeds > 1 else math.nan,
        expected_ettr(run.num_nodes, rate, at_s, run.restart_s, run.stall_s),
        *(float(np.mean([getattr(one, part) for one in spent])) for part in ("lost", "saving", "restarting", "waiting")),
    )  # fmt: skip

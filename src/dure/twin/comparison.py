"""Several runs beside each other: intervals over seeds, and paired differences between policies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dure.model.intervals import Interval, mean_interval
from dure.twin.metrics import RunMetrics

#: Compared metrics: key → value of a run. Keys end in their unit.
COMPARED: dict[str, Callable[[RunMetrics], float | None]] = {
    "wait_mean_s": lambda m: m.summary["wait_mean_s"],
    "wait_p50_s": lambda m: m.summary["wait_p50_s"],
    "wait_p99_s": lambda m: m.summary["wait_p99_s"],
    "jct_mean_s": lambda m: m.summary["jct_mean_s"],
    "jct_p99_s": lambda m: m.summary["jct_p99_s"],
    "slowdown_mean": lambda m: m.slowdown.mean,
    "utilisation": lambda m: m.summary["utilisation"],
    "goodput": lambda m: m.goodput,
    "jain": lambda m: m.jain,
    "finished": lambda m: m.summary["finished"],
    "preemptions": lambda m: m.summary["preemptions"],
    "guarantee_breaches": lambda m: m.summary["guarantee_breaches"],
    "lent_gpu_h": lambda m: m.lent_gpu_h,
    "reclaim_p99_s": lambda m: m.reclaim_s.p99,
    "promise_mae_s": lambda m: m.promised.mae_s,
    "energy_kwh": lambda m: sum(m.energy_kwh.values()),
    "cell_open_gpu_h": lambda m: m.cell_gpu_h.get("open"),
    "cell_used_gpu_h": lambda m: m.cell_gpu_h.get("used"),
    "cell_night_open_gpu_h": lambda m: m.cell_gpu_h.get("night_open"),
    "cell_night_used_gpu_h": lambda m: m.cell_gpu_h.get("night_used"),
}
#: Compared metrics that are left out where no run has them.
OF_CELLS = frozenset(key for key in COMPARED if key.startswith("cell_"))

#: Compared metrics of which more is better; of the GPU-hours lent or open neither is, of all others less.
MORE_IS_BETTER = frozenset({"utilisation", "goodput", "jain", "finished", "cell_used_gpu_h", "cell_night_used_gpu_h"})
NEITHER_IS_BETTER = frozenset({"lent_gpu_h", "cell_open_gpu_h", "cell_night_open_gpu_h"})


@dataclass(frozen=True)
class ComparedMetric:
    """One metric over all runs.

    Attributes
    ----------
    key : str
        Of COMPARED.
    intervals : dict of str to Interval
        Run name → mean over its seeds.
    differences : dict of str to Interval
        Run name → mean over the seeds in common of (its value − the baseline's); the baseline has none.
    """

    key: str
    intervals: dict[str, Interval]
    differences: dict[str, Interval]


@dataclass(frozen=True)
class Comparison:
    """Runs compared.

    Attributes
    ----------
    names : tuple of str
        In order of appearance; the first is the baseline.
    num_seeds : int
        Most seeds of a name.
    level : float
        Coverage of the intervals.
    metrics : tuple of ComparedMetric
        In the order of COMPARED; those of cell sites only where a run has some.
    """

    names: tuple[str, ...]
    num_seeds: int
    level: float
    metrics: tuple[ComparedMetric, ...]


def compare(trials: Sequence[RunMetrics], level: float = 0.95) -> Comparison:
    """Intervals over seeds for each name and paired differences against the first name.

    Parameters
    ----------
    trials : sequence of RunMetrics
        At most one for each (name, seed).
    level : float
        Coverage of the intervals, 0..1 exclusive.

    Raises
    ------
    ValueError
        If a name has one seed twice.
    """
    by_name: dict[str, dict[int, RunMetrics]] = {}
    for trial in trials:
        seeds = by_name.setdefault(trial.name, {})
        if trial.seed in seeds:
            raise ValueError(f"{trial.name}: seed {trial.seed} given twice")
        seeds[trial.seed] = trial
    names = tuple(by_name)
    has_cells = any(trial.cell_gpu_h for trial in trials)
    num_seeds = max((len(seeds) for seeds in by_name.values()), default=0)
    return Comparison(
        names, num_seeds, level,
        tuple(_compare_metric(key, by_name, level) for key in COMPARED if has_cells or key not in OF_CELLS),
    )  # fmt: skip


def _compare_metric(key: str, by_name: dict[str, dict[int, RunMetrics]], level: float) -> ComparedMetric:
    values = {
        name: {
            seed: value for seed, trial in sorted(trials.items()) if (value := _value(key, trial)) is not None
        }
        for name, trials in by_name.items()
    }
    baseline = next(iter(by_name), None)
    differences = {
        name: mean_interval(
            [of[seed] - values[baseline][seed] for seed in of if seed in values[baseline]], level
        )
        for name, of in values.items()
        if baseline is not None and name != baseline
    }
    return ComparedMetric(
        key, {n: mean_interval(list(of.values()), level) for n, of in values.items()}, differences
    )


def _value(key: str, trial: RunMetrics) -> float | None:
    value = COMPARED[key](trial)
    return None if value is None or math.isnan(value) else float(value)

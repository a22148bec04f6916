"""What came out of a run, in numbers: waits, completion, fairness, lending, predictions, energy.

Definitions, the same in ``dure replay --json``, the report and the tables of the documentation:

- wait: all time a job was queued, over all its attempts. Over jobs that started; others are counted apart.
- JCT (job completion time): from submission to end. Over finished jobs.
- bounded slowdown: ``max(1, JCT / max(useful run time, 10 s))`` (Feitelson and Rudolph, JSSPP 1998), where
  the useful run time is the time on GPUs less the work lost. Over finished jobs.
- utilisation: GPU-time held by jobs ÷ GPU-time online, from the first submission to the end of the run.
- goodput: the same, less the GPU-time whose work was lost to preemption and failure, that was spent on starting
  again, and in which jobs stood for a checkpoint.
- Jain's index (Jain, Chiu and Hawe, DEC-TR-301, 1984): ``(Σx)² / (n Σx²)`` over members, where x is the share
  of the member's jobs' time in the system that they ran, not waited.
- error of a start: actual less promised or foretold start; positive: later (`dure.twin.start_errors`).
- quantiles interpolate linearly between order statistics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.model.jobs import WorkProfile
from dure.twin.result import NEVER, OUTCOME_FINISHED, OUTCOMES, Counters, RunResult, work_gpu_ms
from dure.twin.start_errors import (
    ERROR_QUANTILES,
    StartErrors,
    by_horizon,
    by_kind,
    forecasts,
    policy_promises,
    start_errors,
)

#: Useful run times below this count as this in the bounded slowdown.
SLOWDOWN_BOUND_MS = 10_000

#: Size classes: upper edge in GPU-milli (inclusive) and name; fractional and CPU-only jobs have their own.
SIZE_CLASSES = (
    (0, "CPU only"),
    (999, "< 1"),
    (1_000, "1"),
    (4_000, "2–4"),
    (8_000, "5–8"),
    (64_000, "9–64"),
    (512_000, "65–512"),
    (4_096_000, "513–4,096"),
    (1 << 62, "> 4,096"),
)

MS_PER_HOUR = 3_600_000


#: Night at a cell site, hours of its day.
NIGHT_HOURS = (22, 23, 0, 1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Spread:
    """Size, mean and quantiles of a sample; all but ``n`` are nan where ``n`` is 0."""

    n: int
    mean: float
    p50: float
    p90: float
    p99: float
    max: float


@dataclass(frozen=True)
class GroupRow:
    """Jobs of one member or one size class.

    Attributes
    ----------
    name : str
    num_jobs, num_started, num_finished : int
    wait_s, jct_s : Spread
        Seconds.
    slowdown : Spread
        Bounded slowdown, >= 1.
    """

    name: str
    num_jobs: int
    num_started: int
    num_finished: int
    wait_s: Spread
    jct_s: Spread
    slowdown: Spread


@dataclass(frozen=True)
class LendingRow:
    """What one member used, gave and took, in GPU-hours; ``balance_gpu_h`` is lent less borrowed."""

    name: str
    guarantee_gpus: int
    used_gpu_h: float
    lent_gpu_h: float
    borrowed_gpu_h: float
    balance_gpu_h: float


@dataclass(frozen=True)
class WorkRow:
    """Where the GPU-time of one kind of work went.

    Attributes
    ----------
    name : str
        Of the profile; empty: jobs of which no kind is known.
    num_jobs, num_failures : int
    gpu_h : float
    useful, idle, lost, restarting, saving : float
        Shares of ``gpu_h``, which add up to one; nan where it is 0. Idle is useful but for having nothing to do
        (`WorkProfile.busy`).
    """

    name: str
    num_jobs: int
    num_failures: int
    gpu_h: float
    useful: float
    idle: float
    lost: float
    restarting: float
    saving: float


@dataclass(frozen=True)
class RunMetrics:
    """All numbers of one run; small, and cheap to send between processes.

    Attributes
    ----------
    name, policy : str
    seed : int
    digest : str
    summary : dict
        See `summary`.
    outcomes : dict of str to int
        Jobs by outcome.
    wait_s, jct_s, slowdown : Spread
    instant_share : float
        Started jobs that waited less than 1 s, 0..1; nan if none started.
    by_member : tuple of GroupRow
        Every member, in the order of the terms.
    by_size : tuple of GroupRow
        Size classes that occur, ascending.
    by_work : tuple of WorkRow
        Kinds of work that occur, in the trace's order; empty where the trace says none.
    jain : float
        1/M..1; nan if no job started.
    lending : tuple of LendingRow
        Every member, in the order of the terms.
    lent_gpu_h : float
        Sum over all lenders.
    reclaim_s : Spread
        From an owner's demand to its GPUs being in its hands.
    promised : StartErrors
        Of all starts that the policy promised.
    promised_by_kind : dict of str to StartErrors
        Kinds that occur: backfill, reclaim, rank, reserved.
    foretold : StartErrors
        Of all forecasts of the twin; empty unless the replay was told to make some.
    foretold_by_horizon : dict of float to StartErrors
        The same by how far ahead: upper edge in seconds.
    goodput : float
        0..1.
    energy_kwh : dict of str to float
        By site.
    cell_gpu_h : dict of str to float
        GPU-hours that cell sites had ``open``, that jobs ``used`` of them, and both by night (``night_open``, ``night_used``);
        empty where there are no cell sites with hours.
    counters : Counters
    peak_rss_mb : float
    """

    name: str
    policy: str
    seed: int
    digest: str
    summary: dict[str, Any]
    outcomes: dict[str, int]
    wait_s: Spread
    jct_s: Spread
    slowdown: Spread
    instant_share: float
    by_member: tuple[GroupRow, ...]
    by_size: tuple[GroupRow, ...]
    by_work: tuple[WorkRow, ...]
    jain: float
    lending: tuple[LendingRow, ...]
    lent_gpu_h: float
    reclaim_s: Spread
    promised: StartErrors
    promised_by_kind: dict[str, StartErrors]
    foretold: StartErrors
    foretold_by_horizon: dict[float, StartErrors]
    goodput: float
    energy_kwh: dict[str, float]
    cell_gpu_h: dict[str, float]
    counters: Counters
    peak_rss_mb: float


def summary(result: RunResult) -> dict[str, Any]:
    """The stable keys of ``dure replay --json``.

    Returns
    -------
    dict
        ``jobs``, ``finished`` (int); ``wait_mean_s``, ``wait_p50_s``, ``wait_p99_s`` (float, over started
        jobs); ``jct_mean_s``, ``jct_p99_s`` (float, over finished jobs); ``utilisation`` (0..1);
        ``makespan_s`` (from the first submission to the end of the run); ``preemptions``,
        ``guarantee_breaches`` (int); ``wall_s``, ``cpu_s`` (float); ``digest`` (str).
        A mean or quantile over no job is None.
    """
    waits, jcts = started_wait_s(result), _jct_s(result)
    return {
        "jobs": len(result.jobs),
        "finished": len(jcts),
        "wait_mean_s": _mean(waits),
        "wait_p50_s": _quantile(waits, 0.5),
        "wait_p99_s": _quantile(waits, 0.99),
        "jct_mean_s": _mean(jcts),
        "jct_p99_s": _quantile(jcts, 0.99),
        "utilisation": _ratio(int(result.used_gpu_ms.sum()), result.online_gpu_ms),
        "makespan_s": (result.end_ms - result.start_ms) / 1000,
        "preemptions": result.counters.num_preemptions,
        "guarantee_breaches": result.counters.num_guarantee_breaches,
        "wall_s": result.wall_s,
        "cpu_s": result.cpu_s,
        "digest": result.digest,
    }


def measure(result: RunResult) -> RunMetrics:
    """Every number of a run; see the module for definitions. O(J log J)."""
    jobs = result.jobs
    gpu_ms = work_gpu_ms(result.jobs, result.trace.jobs)
    counts = np.bincount(jobs["outcome"], minlength=len(OUTCOMES))
    waits = np.sort(started_wait_s(result))
    sizes = size_class(result.trace.jobs)
    by_size = group_rows(result, sizes, [name for _, name in SIZE_CLASSES])
    return RunMetrics(
        name=result.name,
        policy=result.policy,
        seed=result.seed,
        digest=result.digest,
        summary=summary(result),
        outcomes={name: int(count) for name, count in zip(OUTCOMES, counts, strict=True)},
        wait_s=spread(waits),
        jct_s=spread(np.sort(_jct_s(result))),
        slowdown=spread(np.sort(_slowdown(result))),
        instant_share=float(np.searchsorted(waits, 1.0)) / len(waits) if len(waits) else math.nan,
        by_member=group_rows(result, result.trace.jobs["member"], result.member_names),
        by_size=tuple(row for row in by_size if row.num_jobs),
        by_work=_work_rows(result, gpu_ms),
        jain=jain_index(_running_share(result)),
        lending=_lending_rows(result),
        lent_gpu_h=float(result.lent_gpu_ms.sum()) / MS_PER_HOUR,
        reclaim_s=spread(np.sort(result.reclaim_latency_ms) / 1000),
        promised=start_errors(policy_promises(result.promises)),
        promised_by_kind=by_kind(result.promises),
        foretold=start_errors(forecasts(result.promises)),
        foretold_by_horizon=by_horizon(result.promises),
        goodput=_ratio(int(gpu_ms[:, 0].sum()), result.online_gpu_ms),
        energy_kwh={
            site.name: float(wh) / 1000 for site, wh in zip(result.fleet.sites, result.energy_wh, strict=True)
        },
        cell_gpu_h=_cell_gpu_h(result),
        counters=result.counters,
        peak_rss_mb=result.peak_rss_mb,
    )


def _work_rows(result: RunResult, gpu_ms: NDArray[Any]) -> tuple[WorkRow, ...]:
    profiles = result.trace.profiles
    if not profiles:
        return ()
    # Jobs without a kind stand at the end.
    kind = result.trace.jobs["profile"] % (len(profiles) + 1)
    num = np.bincount(kind, minlength=len(profiles) + 1)
    failures = np.bincount(kind, result.jobs["failures"], len(profiles) + 1)
    rows = []
    for idx in np.flatnonzero(num):
        profile = profiles[idx] if idx < len(profiles) else WorkProfile("")
        parts = gpu_ms[kind == idx].sum(axis=0)
        useful, lost, restarting, saving = (float(part) for part in parts / max(parts.sum(), 1.0)) if parts.sum() else (math.nan,) * 4
        rows.append(WorkRow(
            profile.name, int(num[idx]), int(failures[idx]), float(parts.sum()) / MS_PER_HOUR,
            useful * profile.busy, useful * (1 - profile.busy), lost, restarting, saving,
        ))  # fmt: skip
    return tuple(rows)


def spread(ascending: NDArray[Any]) -> Spread:
    """Mean and quantiles of a sample that is sorted ascending, shape (n,)."""
    n = len(ascending)
    if n == 0:
        return Spread(0, math.nan, math.nan, math.nan, math.nan, math.nan)
    p50, p90, p99 = (_quantile_of_sorted(ascending, q) for q in (0.5, 0.9, 0.99))
    return Spread(n, float(ascending.mean()), p50, p90, p99, float(ascending[-1]))


def jain_index(x: NDArray[Any]) -> float:
    """Jain's fairness index of ``x`` >= 0, shape (n,): 1 if all are equal, 1/n if one has all."""
    squares = float((x * x).sum())
    return float(x.sum()) ** 2 / (len(x) * squares) if squares > 0 else math.nan


def size_class(trace_jobs: NDArray[Any]) -> NDArray[Any]:
    """Index into SIZE_CLASSES of every job (JOB_DTYPE), shape (J,), uint8."""
    gpu_milli = trace_jobs["num_gpus"].astype(np.int64) * trace_jobs["gpu_milli"]
    edges = np.array([edge for edge, _ in SIZE_CLASSES], np.int64)
    classes: NDArray[Any] = np.searchsorted(edges, gpu_milli, side="left").astype(np.uint8)
    return classes


def started_wait_s(result: RunResult) -> NDArray[Any]:
    """Waits in seconds of the jobs that started, in trace order."""
    wait: NDArray[Any] = result.jobs["wait_ms"][result.jobs["first_start_ms"] != NEVER] / 1000
    return wait


def _jct_s(result: RunResult) -> NDArray[Any]:
    is_done = result.jobs["outcome"] == OUTCOME_FINISHED
    jct: NDArray[Any] = (result.jobs["end_ms"][is_done] - result.trace.jobs["submit_ms"][is_done]) / 1000
    return jct


def _slowdown(result: RunResult) -> NDArray[Any]:
    jobs = result.jobs[result.jobs["outcome"] == OUTCOME_FINISHED]
    useful_ms = np.maximum(jobs["run_ms"] - jobs["lost_ms"], SLOWDOWN_BOUND_MS)
    bounded: NDArray[Any] = np.maximum(_jct_s(result) * 1000 / useful_ms, 1.0)
    return bounded


def _running_share(result: RunResult) -> NDArray[Any]:
    """Run ÷ (run + wait) of all jobs of each member whose jobs ran or waited at all; shape (<= M,), 0..1."""
    members, num_members = result.trace.jobs["member"], len(result.member_names)
    run_ms = np.bincount(members, weights=result.jobs["run_ms"], minlength=num_members)
    total_ms = run_ms + np.bincount(members, weights=result.jobs["wait_ms"], minlength=num_members)
    share: NDArray[Any] = run_ms[total_ms > 0] / total_ms[total_ms > 0]
    return share


def group_rows(result: RunResult, group: NDArray[Any], names: Sequence[str]) -> tuple[GroupRow, ...]:
    """One row a name; ``group`` holds every job's index into names, shape (J,)."""
    is_started = result.jobs["first_start_ms"] != NEVER
    is_done = result.jobs["outcome"] == OUTCOME_FINISHED
    num_jobs = np.bincount(group, minlength=len(names))
    waits = _spreads(started_wait_s(result), group[is_started], len(names))
    jcts = _spreads(_jct_s(result), group[is_done], len(names))
    slowdowns = _spreads(_slowdown(result), group[is_done], len(names))
    return tuple(
        GroupRow(name, int(n), wait.n, jct.n, wait, jct, slowdown)
        for name, n, wait, jct, slowdown in zip(names, num_jobs, waits, jcts, slowdowns, strict=True)
    )


def _spreads(values: NDArray[Any], group: NDArray[Any], num_groups: int) -> list[Spread]:
    """Spread of the values of each group."""
    by_value = np.argsort(values)
    # A stable sort of narrow integers is a radix sort: linear, and it keeps each group's values ascending.
    by_group = by_value[np.argsort(group[by_value].astype(np.uint16), kind="stable")]
    ends = np.cumsum(np.bincount(group, minlength=num_groups))
    ascending = values[by_group]
    return [spread(ascending[start:end]) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _cell_gpu_h(result: RunResult) -> dict[str, float]:
    if not len(result.cell_gpu_h):
        return {}
    day, night = result.cell_gpu_h.sum(axis=0), result.cell_gpu_h[list(NIGHT_HOURS)].sum(axis=0)
    return {
        "open": float(day[0]), "used": float(day[1]), "night_open": float(night[0]), "night_used": float(night[1]),
    }  # fmt: skip


def _lending_rows(result: RunResult) -> tuple[LendingRow, ...]:
    hours = result.lent_gpu_ms / MS_PER_HOUR
    lent, borrowed = hours.sum(axis=1), hours.sum(axis=0)
    guarantee = result.terms.guarantee_gpus.sum(axis=1)
    used = result.used_gpu_ms / MS_PER_HOUR
    return tuple(
        LendingRow(
            name,
            int(guarantee[m]),
            float(used[m]),
            float(lent[m]),
            float(borrowed[m]),
            float(lent[m] - borrowed[m]),
        )
        for m, name in enumerate(result.member_names)
    )


def forecast_summary(result: RunResult) -> dict[str, Any]:
    """What ``dure replay --forecasts`` adds to the summary.

    Returns
    -------
    dict
        ``forecasts`` (int: scored), ``forecasts_open``, ``forecasts_unforeseen`` (int), ``forecast_error_mean_s``,
        ``forecast_error_p5_s``, ``forecast_error_p50_s``, ``forecast_error_p95_s`` (float, positive: later than
        foretold), ``forecast_late_share``, ``forecast_on_time_share`` (0..1); nan over no forecast.
    """
    of = start_errors(forecasts(result.promises))
    quantile_s = dict(zip(ERROR_QUANTILES, of.quantiles_s, strict=True))
    return {
        "forecasts": of.n,
        "forecasts_open": of.num_open,
        "forecasts_unforeseen": of.num_unforeseen,
        "forecast_error_mean_s": of.mean_s,
        "forecast_error_p5_s": quantile_s[0.05],
        "forecast_error_p50_s": quantile_s[0.5],
        "forecast_error_p95_s": quantile_s[0.95],
        "forecast_late_share": of.late_share,
        "forecast_on_time_share": of.on_time_share,
    }


def _quantile_of_sorted(ascending: NDArray[Any], q: float) -> float:
    position = q * (len(ascending) - 1)
    below = int(position)
    above = min(below + 1, len(ascending) - 1)
    low, high = float(ascending[below]), float(ascending[above])
    return low + (high - low) * (position - below)


def _quantile(values: NDArray[Any], q: float) -> float | None:
    return float(np.quantile(values, q)) if len(values) else None


def _mean(values: NDArray[Any]) -> float | None:
    return float(values.mean()) if len(values) else None


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0

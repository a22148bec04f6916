"""The load of the scale benchmark: members burst out of phase: queues form, GPUs are lent and reclaimed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.model.errors import InputError
from dure.model.fleet import Fleet
from dure.model.jobs import Trace, make_jobs
from dure.model.terms import Terms
from dure.twin.generate.members import Demand, demands, in_order, per_gpu, speed_gpus, stream, zipf_cdf

#: GPU time asked for, per GPU time of the fleet, from the first to the last arrival.
OFFERED_LOAD = 0.95
#: A member's demand in a burst and between two, relative to its mean; half of the time each.
BURST, CALM = 1.6, 0.4
#: Bursts of a member in the span.
NUM_BURSTS = 8
NUM_PROJECTS, NUM_USERS = 4, 50

#: Of 1,000 jobs, how many want 1, 2, 4, … 1,024 GPUs.
_SIZE_WEIGHTS = np.array([520, 110, 100, 150, 40, 30, 20, 14, 8, 5, 3], np.float64)
_SIZES = 1 << np.arange(len(_SIZE_WEIGHTS))
#: Lognormal duration: median of a one-GPU job, growth with each doubling of the gang, spread, bounds.
_MEDIAN_MS, _GROWTH, _SIGMA = 2_400_000, 1.22, 1.25
_SHORTEST_MS, _LONGEST_MS = 120_000, 12 * 3_600_000
_CHECKPOINT_MS, _CHECKPOINT_PART = 600_000, 0.8
_LIMITS_MS = np.array([1, 2, 4, 8, 24, 72, 168]) * 3_600_000


def scale_load(num_jobs: int, fleet: Fleet, terms: Terms, seed: int = 0) -> Trace:
    """``num_jobs`` jobs whose GPU time is 0.95 of what the whole fleet has between first and last arrival.

    Parameters
    ----------
    num_jobs : int
        At least 1; members get GPU time in proportion to their guarantees.
    fleet : Fleet
        Counted as if all nodes were delivered.
    terms : Terms
        Who is guaranteed what.
    seed : int
        0 … 2**64 - 1; each member has its own stream.

    Returns
    -------
    Trace
        Sizes are powers of two from 1 to 1,024, never above the smallest pool in which the member has a
        guarantee; 80% of the jobs write a checkpoint every 10 minutes; 10% are of high class, 15% best
        effort. Job ids are the row numbers.

    Raises
    ------
    InputError
        No jobs, a seed out of range, a fleet without GPUs, a member without a pool.
    """
    if num_jobs < 1:
        raise InputError(f"at least one job, not {num_jobs}", field="num_jobs")
    members = demands(fleet, terms)
    gpus = speed_gpus(fleet, len(terms.pools))
    counts = _jobs_of_each(num_jobs, members, gpus)
    parts = []
    for idx, (demand, count) in enumerate(zip(members, counts, strict=True)):
        rng = stream(seed, demand.name)
        phase = (idx * 0.618034) % 1.0  # golden ratio: neighbours in the list burst far apart
        parts.append(_member_jobs(idx, demand, int(count), phase, rng))
    jobs = np.concatenate([part for part, _ in parts])
    at = np.concatenate([at for _, at in parts])
    work = float((jobs["num_gpus"] * jobs["duration_ms"].astype(np.float64)).sum())
    span_ms = work / (OFFERED_LOAD * float(gpus.sum()))
    jobs["submit_ms"] = (at * span_ms).astype(np.int64)
    jobs["cpu_milli"], jobs["mem_mib"] = (each * jobs["num_gpus"].astype(np.int64) for each in per_gpu(fleet))
    jobs = in_order(jobs, np.argsort(jobs["submit_ms"], kind="stable"))
    jobs["submit_ms"] -= jobs["submit_ms"][0]
    return Trace(
        jobs=jobs, job_ids=list(map(str, range(num_jobs))), members=[demand.name for demand in members],
        projects=[f"{demand.name}/p{i}" for demand in members for i in range(NUM_PROJECTS)],
        users=[f"{demand.name}/u{i}" for demand in members for i in range(NUM_USERS)],
        gpu_types=[], source=f"scale load: {num_jobs} jobs, seed {seed}",
    )  # fmt: skip


def _sizes_for(gpus_max: int) -> NDArray[np.float64]:
    """Probability of each size for a member whose jobs have at most ``gpus_max`` GPUs."""
    weight = np.where(gpus_max >= _SIZES, _SIZE_WEIGHTS, 0.0)
    part: NDArray[np.float64] = weight / weight.sum()
    return part


def _mean_ms() -> NDArray[np.float64]:
    """Mean duration of a job of each size, cut at both ends."""
    z = np.linspace(-8, 8, 4001)
    density = np.exp(-z * z / 2)
    median_ms = _MEDIAN_MS * _GROWTH ** np.arange(len(_SIZES))
    duration_ms = np.clip(median_ms[:, None] * np.exp(_SIGMA * z), _SHORTEST_MS, _LONGEST_MS)
    mean: NDArray[np.float64] = (duration_ms * density).sum(axis=1) / density.sum()
    return mean


def _jobs_of_each(num_jobs: int, members: list[Demand], gpus: NDArray[np.float64]) -> NDArray[np.int64]:
    """Jobs a member, so that its GPU time is in proportion to its part; largest remainders close the sum."""
    mean_work = np.array([(_sizes_for(demand.gpus_max) * _SIZES * _mean_ms()).sum() for demand in members])
    part = np.array([(demand.pool_part * gpus).sum() for demand in members]) / mean_work
    exact = part / part.sum() * num_jobs
    counts: NDArray[np.int64] = exact.astype(np.int64)
    order = np.argsort(counts - exact, kind="stable")
    counts[order[: num_jobs - int(counts.sum())]] += 1
    return counts


def _member_jobs(
    idx: int, demand: Demand, count: int, phase: float, rng: np.random.Generator
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """A member's jobs without times of arrival, and these as parts of the span (0..1)."""
    jobs = make_jobs(count)
    jobs["member"] = idx
    doubling = np.searchsorted(np.cumsum(_sizes_for(demand.gpus_max))[:-1], rng.random(count), side="right")
    for name in ("num_gpus", "min_gpus", "max_gpus"):
        jobs[name] = 1 << doubling
    median_ms = _MEDIAN_MS * _GROWTH**doubling
    duration_ms = median_ms * np.exp(_SIGMA * rng.standard_normal(count))
    jobs["duration_ms"] = np.clip(duration_ms, _SHORTEST_MS, _LONGEST_MS)
    jobs["limit_ms"] = _LIMITS_MS[np.searchsorted(_LIMITS_MS, jobs["duration_ms"] * 5 // 4)]
    jobs["checkpoint_ms"] = np.where(rng.random(count) < _CHECKPOINT_PART, _CHECKPOINT_MS, 0)
    user = np.searchsorted(zipf_cdf(NUM_USERS, 1.0)[:-1], rng.random(count), side="right")
    jobs["user"] = idx * NUM_USERS + user
    jobs["project"] = idx * NUM_PROJECTS + user % NUM_PROJECTS
    jobs["priority"] = np.searchsorted([0.15, 0.9], rng.random(count), side="right")
    return jobs, _bursts(phase, rng.random(count))


def _bursts(phase: float, quantile: NDArray[np.float64]) -> NDArray[np.float64]:
    """Times of arrival (0..1) at given quantiles of a square wave that starts ``phase`` of a period in."""
    # One half period more on each side than the span has, then cut to it.
    edge = (np.arange(2 * NUM_BURSTS + 3) / 2 - phase) / NUM_BURSTS
    level = np.where(np.arange(2 * NUM_BURSTS + 2) % 2 == 0, BURST, CALM)
    edge = np.clip(edge, 0.0, 1.0)
    mass = np.concatenate([[0.0], np.cumsum(level * np.diff(edge))])
    at: NDArray[np.float64] = np.interp(quantile * mass[-1], mass, edge)
    return at

"""Invented load of days to years: arrivals in the rhythm of day and week, jobs as in recorded traces."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.model.errors import InputError
from dure.model.fleet import Fleet
from dure.model.jobs import TOPOLOGY_ANY, TOPOLOGY_NODE, UNKNOWN, Trace, make_jobs
from dure.model.terms import Terms
from dure.model.yaml_file import nearest
from dure.twin.generate.classes import ASSUMED, CLASS_NAMES, GANGS, JobClass, load_classes
from dure.twin.generate.kinds import Kind, draw_kinds, load_kinds
from dure.twin.generate.members import Demand, demands, in_order, per_gpu, speed_gpus, stream, zipf_cdf

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
NUM_PROJECTS, NUM_USERS = 6, 50
#: A user's work comes as runs of similar jobs: correlation of the logarithms of the run times within a run,
#: beside the mixture's component and the size, which they share.
RUN_CORRELATION = 0.8
#: Runs are drawn from up to so many candidates each, to keep the load near the one asked for.
_NUM_CANDIDATES, _NUM_CANDIDATES_ALL = 64, 400_000
#: Users ask for more time than they use: the part used is uniform between these (Mu'alem and Feitelson, TPDS
#: 12(6), 2001, found it about flat), then rounded to a limit that people write.
_USED_MIN, _USED_MAX = 0.1, 0.9
_LIMITS_MS = np.array([1, 2, 4, 8, 24, 72, 168, 720, 2160]) * HOUR_MS
#: Training at scale asks for GPUs at least this fast, where the fleet has slower ones beside them.
_GANG_SPEED_MILLI = 1000
#: Most of its largest pool that a member gives to one gang; a larger one may break a site's power cap.
_GANG_PART = 0.5


@dataclass(frozen=True)
class LoadSpec:
    """What to invent; names as in a scenario's ``load.generator``.

    Attributes
    ----------
    days : float
        How long jobs arrive, above 0.
    offered_load : float
        GPU time asked for per GPU time there is, above 0: GPUs count by their speed, from their delivery on.
    start : date
        First day, for the rhythm of the week.
    mix : dict of str to float
        Parts of the GPU time by class that replace the assumed ones of `ASSUMED`; 0 leaves a class out. All
        parts are scaled to sum to 1.
    num_jobs_max : int
        A load expected to have more jobs is refused: it would not fit in memory.
    """

    days: float
    offered_load: float
    start: date = date(2030, 7, 1)
    mix: dict[str, float] = field(default_factory=dict)
    num_jobs_max: int = 20_000_000


@dataclass(frozen=True)
class _Plan:
    """One class of one member: how many submissions are expected, when, and of which sizes."""

    job_class: JobClass
    num_expected: float
    edge_ms: NDArray[np.float64]
    mass: NDArray[np.float64]
    sizes: NDArray[np.float64]


def generate(spec: LoadSpec, fleet: Fleet, terms: Terms, seed: int = 0) -> Trace:
    """A load with the statistics of the recorded traces (docs/load.md).

    Parameters
    ----------
    spec : LoadSpec
        How much, how long.
    fleet : Fleet
        Load grows with it: GPUs count from their ``online_ms`` on.
    terms : Terms
        Members bring load in proportion to what they are guaranteed.
    seed : int
        0 … 2**64 - 1. Each member has streams of its own: another's guarantee does not change its jobs.

    Returns
    -------
    Trace
        ``extra["job_class"]`` (int8, index into ``CLASS_NAMES``) and ``extra["array"]`` (int64, first row of
        the array that the job belongs to; its own row if none). No job is larger than the largest guarantee
        of its member in a pool online when it arrives.

    Raises
    ------
    InputError
        A value out of range, more jobs than ``num_jobs_max``, a fleet without GPUs, a member without a pool,
        a mix of which no class fits any member.
    """
    _check(spec)
    classes, rhythm = load_classes()
    kinds = load_kinds()
    members = demands(fleet, terms)
    hours = _edges_ms(spec)
    online = _online_parts(fleet, terms, hours)
    fast_types = [
        idx for idx, kind in enumerate(fleet.gpu_types) if kind.speed_milli >= _GANG_SPEED_MILLI and idx < 64
    ]
    is_masked = 0 < len(fast_types) < len(fleet.gpu_types)
    fast_pool = np.array([not is_masked or pool.gpu_type in fast_types for pool in terms.pools])
    mask = sum(1 << idx for idx in fast_types) if is_masked else 0
    gpus = np.bincount(fleet.nodes["pool"], fleet.nodes["num_gpus"], len(terms.pools)).astype(np.float64)
    speed = speed_gpus(fleet, len(terms.pools))
    plans = [_member_plans(spec, classes, rhythm, demand, online * speed[:, None], hours, fast_pool, gpus)
             for demand in members]  # fmt: skip
    if not any(plans):
        raise InputError("no member is large enough for any class of it", field="mix")
    num_expected = sum(
        plan.num_expected * plan.job_class.assumed.array_mean for plan_list in plans for plan in plan_list
    )
    if num_expected > spec.num_jobs_max:
        days = spec.days * spec.num_jobs_max / num_expected
        raise InputError(
            f"{num_expected:.3g} jobs expected, at most {spec.num_jobs_max:,}: take up to {days:.3g} days, a "
            "smaller fleet, or a mix with less small work", field="days",
        )  # fmt: skip
    node_gpus = int(fleet.nodes["num_gpus"][fleet.nodes["num_gpus"] > 0].min())
    parts: list[NDArray[Any]] = []
    array_of: list[NDArray[np.int64]] = []
    class_of: list[NDArray[np.int8]] = []
    num_jobs = 0
    for idx, (demand, plan_list) in enumerate(zip(members, plans, strict=True)):
        own_gpus = (demand.pool_part * gpus)[:, None] * online
        for plan in plan_list:
            # A stream for each class too: a change of one class leaves the others' jobs as they are.
            rng = stream(seed, f"{demand.name}/{plan.job_class.name}")
            jobs, array = _class_jobs(plan, rng)
            _cap_sizes(jobs, plan, own_gpus, hours, fast_pool, demand)
            _give_kinds(jobs, array, plan.job_class, kinds, rng)
            # Who wants one node has nodes that hold the job: the smallest of the fleet.
            jobs["topology"][jobs["max_gpus"] > node_gpus] = TOPOLOGY_ANY
            jobs["member"] = idx
            jobs["user"] += idx * NUM_USERS
            jobs["project"] += idx * NUM_PROJECTS
            if plan.job_class.name in GANGS:
                jobs["type_mask"] = mask
            array_of.append(array + num_jobs)
            num_jobs += len(jobs)
            class_of.append(np.full(len(jobs), CLASS_NAMES.index(plan.job_class.name), np.int8))
            parts.append(jobs)
    return _sorted_trace(spec, fleet, members, parts, array_of, class_of, kinds, seed)


def _check(spec: LoadSpec) -> None:
    for name, value, high in (("days", spec.days, 36_600.0), ("offered_load", spec.offered_load, 10.0)):
        if not 0 < value <= high:
            raise InputError(f"must be above 0, at most {high:g}, not {value:g}", field=name)
    for name, value in spec.mix.items():
        if name not in ASSUMED:
            raise InputError(f"unknown class{nearest(name, CLASS_NAMES)}", field="mix")
        if not 0 <= value < math.inf:
            raise InputError(f"must not be negative, not {value:g}", field=f"mix.{name}")
    if not any(_mix(spec).values()):
        raise InputError("every class has part 0", field="mix")


def _mix(spec: LoadSpec) -> dict[str, float]:
    return {name: assumed.part for name, assumed in ASSUMED.items()} | spec.mix


def _edges_ms(spec: LoadSpec) -> NDArray[np.float64]:
    """Ends of the hours of the run; the last one may be short."""
    end_ms = spec.days * DAY_MS
    edges: NDArray[np.float64] = np.append(np.arange(math.ceil(end_ms / HOUR_MS)) * float(HOUR_MS), end_ms)
    return edges


def _online_parts(fleet: Fleet, terms: Terms, hours: NDArray[np.float64]) -> NDArray[np.float64]:
    """Part of each pool's GPUs that is delivered by the start of each hour, (num_pools, num_hours)."""
    nodes, num_pools = fleet.nodes, len(terms.pools)
    online = np.zeros((num_pools, len(hours) - 1))
    for at_ms in np.unique(nodes["online_ms"]):
        come = nodes[nodes["online_ms"] == at_ms]
        first = np.searchsorted(hours[:-1], at_ms)
        online[:, first:] += np.bincount(come["pool"], come["num_gpus"], num_pools)[:, None]
    whole = np.bincount(nodes["pool"], nodes["num_gpus"], num_pools)
    return online / np.maximum(whole, 1)[:, None]


def _member_plans(
    spec: LoadSpec, classes: list[JobClass], rhythm: NDArray[np.float64], demand: Demand,
    online_speed: NDArray[np.float64], hours: NDArray[np.float64], fast_pool: NDArray[np.bool_],
    pool_gpus: NDArray[np.float64],
) -> list[_Plan]:  # fmt: skip
    """What a member submits of each class; parts of classes that do not fit it go to the others."""
    capacity = demand.pool_part @ online_speed  # GPUs of speed 1.0, by hour
    work_ms = spec.offered_load * float((capacity * np.diff(hours)).sum())
    week_hour = (spec.start.weekday() * 24 + np.arange(len(capacity))) % 168
    mix, fitting = _mix(spec), []
    for job_class in classes:
        sizes = job_class.sizes_up_to(_gpus_max(demand, pool_gpus, fast_pool, job_class))
        if sizes.any() and mix[job_class.name] > 0:
            fitting.append((job_class, sizes))
    total = sum(mix[job_class.name] for job_class, _ in fitting)
    plans = []
    for job_class, sizes in fitting:
        mean_gpus = float((sizes * job_class.size_gpus * job_class.size_milli).sum()) / 1000
        each_ms = job_class.mean_s() * 1000 * mean_gpus * job_class.assumed.array_mean
        even = job_class.assumed.rhythm * rhythm[week_hour] + 1 - job_class.assumed.rhythm
        mass = np.concatenate([[0.0], np.cumsum(capacity * even * np.diff(hours))])
        num_expected = work_ms * mix[job_class.name] / total / each_ms if mass[-1] > 0 else 0.0
        plans.append(_Plan(job_class, num_expected, hours, mass, sizes))
    return plans


def _gpus_max(
    demand: Demand, pool_gpus: NDArray[np.float64], fast_pool: NDArray[np.bool_], job_class: JobClass
) -> int:
    """Largest job of a class: a gang fills half of the member's largest pool, others fit in any pool."""
    if job_class.name not in GANGS:
        return demand.gpus_max
    own = (demand.pool_part * pool_gpus)[fast_pool]
    return int(own.max() * _GANG_PART) if len(own) else 0


def _class_jobs(plan: _Plan, rng: np.random.Generator) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Jobs of one class of one member, and the first row of each one's array."""
    job_class, assumed = plan.job_class, plan.job_class.assumed
    num = int(rng.poisson(plan.num_expected))
    at_ms = np.sort(np.interp(rng.random(num) * plan.mass[-1], plan.mass, plan.edge_ms).astype(np.int64))
    user = np.searchsorted(zipf_cdf(NUM_USERS, 1.1)[:-1], rng.random(num), side="right")
    # Runs of similar work: rows in order of (user, time), a new run where the user changes or by chance.
    order = np.argsort(user, kind="stable")
    starts = rng.random(num) < 1 / assumed.run_mean
    starts[:1] = True
    starts[1:] |= np.diff(user[order]) > 0
    run = np.empty(num, np.int64)
    run[order] = np.cumsum(starts) - 1
    num_runs = int(starts.sum())
    component, size, run_normal = _draw_runs(plan, num_runs, rng)
    is_elastic = rng.random(num_runs) < assumed.elastic_part
    length = rng.geometric(1 / assumed.array_mean, num) if assumed.array_mean > 1 else np.ones(num, np.int64)
    of = np.repeat(np.arange(num), length)
    first = np.repeat(np.cumsum(length) - length, length)
    run = run[of]
    normal = (
        math.sqrt(RUN_CORRELATION) * run_normal[run]
        + math.sqrt(1 - RUN_CORRELATION) * rng.standard_normal(len(of))
    )
    jobs = make_jobs(len(of))
    jobs["submit_ms"] = at_ms[of]
    jobs["user"] = user[of]
    jobs["project"] = user[of] % NUM_PROJECTS
    jobs["duration_ms"] = job_class.draw_ms(component[run], normal)
    jobs["num_gpus"] = job_class.size_gpus[size[run]]
    jobs["gpu_milli"] = job_class.size_milli[size[run]]
    wide = is_elastic[run] & (jobs["num_gpus"] > 1)
    jobs["min_gpus"] = np.where(wide, jobs["num_gpus"] // 2, jobs["num_gpus"])
    jobs["max_gpus"] = np.where(wide, jobs["num_gpus"] * 2, jobs["num_gpus"])
    jobs["checkpoint_ms"], jobs["grace_ms"] = assumed.checkpoint_ms, assumed.grace_ms
    jobs["priority"] = assumed.priority
    if len(jobs):
        starts_at = np.cumsum(length) - length
        longest_ms = np.maximum.reduceat(jobs["duration_ms"], starts_at)
        asked_ms = longest_ms / rng.uniform(_USED_MIN, _USED_MAX, num)
        jobs["limit_ms"] = np.append(_LIMITS_MS, UNKNOWN)[np.searchsorted(_LIMITS_MS, asked_ms)][of]
        one_node = (rng.random(num_runs) < assumed.node_part)[run] & (jobs["num_gpus"] > 1)
        jobs["topology"] = np.where(one_node, TOPOLOGY_NODE, TOPOLOGY_ANY)
    return jobs, first


def _draw_runs(
    plan: _Plan, num_runs: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Mixture component, size and normal of each run.

    A few gangs make most of the GPU time: free draws would miss a day's load by a third. Many more are
    drawn, put in order of GPU time, and every n-th taken from a random first one (systematic sampling): each
    candidate is as likely as before, and the sum hardly varies.
    """
    job_class = plan.job_class
    factor = max(1, min(_NUM_CANDIDATES, _NUM_CANDIDATES_ALL // max(num_runs, 1)))
    num = num_runs * factor
    component = np.searchsorted(np.cumsum(job_class.weights)[:-1], rng.random(num), side="right")
    size = np.searchsorted(np.cumsum(plan.sizes)[:-1], rng.random(num), side="right")
    normal = rng.standard_normal(num)
    work = job_class.draw_ms(component, normal) * job_class.size_gpus[size] * job_class.size_milli[size]
    taken = np.argsort(work, kind="stable")[int(rng.integers(factor)) :: factor]
    taken = taken[rng.permutation(num_runs)]
    return component[taken], size[taken], normal[taken]


def _cap_sizes(
    jobs: NDArray[Any], plan: _Plan, own_gpus: NDArray[np.float64], hours: NDArray[np.float64],
    fast_pool: NDArray[np.bool_], demand: Demand,
) -> None:  # fmt: skip
    """Halve gangs, and ranges of elastic jobs, until they fit what the member has when they arrive."""
    if plan.job_class.name in GANGS:
        now_max = np.maximum(own_gpus[fast_pool].max(axis=0) * _GANG_PART, 1)
        hour = np.searchsorted(hours, jobs["submit_ms"], side="right") - 1
        room = now_max[np.minimum(hour, len(now_max) - 1)]
        while (jobs["num_gpus"] > room).any():
            jobs["num_gpus"] = np.where(jobs["num_gpus"] > room, jobs["num_gpus"] // 2, jobs["num_gpus"])
        jobs["min_gpus"] = jobs["max_gpus"] = jobs["num_gpus"]
    jobs["max_gpus"] = np.maximum(np.minimum(jobs["max_gpus"], demand.gpus_max), jobs["num_gpus"])


def _give_kinds(
    jobs: NDArray[Any], array: NDArray[np.int64], job_class: JobClass, kinds: tuple[Kind, ...], rng: np.random.Generator
) -> None:
    """Say of what kind jobs are, alike in an array, and give them what follows from that."""
    gpus = jobs["num_gpus"].astype(np.int64)
    gpu_ms = jobs["duration_ms"] * gpus * jobs["gpu_milli"] // 1000
    jobs["profile"] = draw_kinds(job_class.name, kinds, gpus[array], gpu_ms[array], rng)
    for idx, kind in enumerate(kinds):
        mine = jobs["profile"] == idx
        if kind.grace_ms != UNKNOWN:
            jobs["grace_ms"][mine] = kind.grace_ms
        if job_class.name in GANGS and mine.any():
            jobs["checkpoint_ms"][mine] = kind.checkpoint_ms(gpus[mine])


def _sorted_trace(
    spec: LoadSpec, fleet: Fleet, members: list[Demand], parts: list[NDArray[Any]],
    array_of: list[NDArray[np.int64]], class_of: list[NDArray[np.int8]], kinds: tuple[Kind, ...], seed: int,
) -> Trace:  # fmt: skip
    jobs, array, job_class = np.concatenate(parts), np.concatenate(array_of), np.concatenate(class_of)
    beside_milli = jobs["num_gpus"].astype(np.int64) * jobs["gpu_milli"]
    jobs["cpu_milli"], jobs["mem_mib"] = (each * beside_milli // 1000 for each in per_gpu(fleet))
    order = np.argsort(jobs["submit_ms"], kind="stable")
    row = np.empty(len(order), np.int64)
    row[order] = np.arange(len(order))
    return Trace(
        jobs=in_order(jobs, order), job_ids=list(map(str, range(len(jobs)))),
        members=[demand.name for demand in members],
        projects=[f"{demand.name}/p{i}" for demand in members for i in range(NUM_PROJECTS)],
        users=[f"{demand.name}/u{i}" for demand in members for i in range(NUM_USERS)],
        gpu_types=[kind.name for kind in fleet.gpu_types],
        source=f"generated: {spec.days:g} days from {spec.start}, load {spec.offered_load:g}, seed {seed}",
        extra={"job_class": job_class[order], "array": row[array[order]]}, profiles=tuple(kind.profile for kind in kinds),
    )  # fmt: skip

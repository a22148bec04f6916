"""Published performance settings of Kueue and KAI-Scheduler, rebuilt: the same queues, sizes and run times."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dure.core.explain import Explainer
from dure.core.step import Core, DecisionKind, Submitted, Vacated
from dure.model.fleet import NODE_DTYPE, Fleet, GpuType, Site, uniform_fleet
from dure.model.jobs import Trace, make_jobs
from dure.model.terms import NO_AGREEMENT, AgreementTerms, Member, Pool, Terms
from dure.policy.config import named_policy
from dure.twin.replay import replay

#: kueue `test/performance/scheduler/configs/baseline`: (name, count a queue, interval, run time, units, class).
KUEUE = (("small", 350, 100, 200, 1, 0), ("medium", 100, 500, 500, 5, 1), ("large", 50, 1200, 1000, 20, 2))
COHORTS, QUEUES, QUOTA = 5, 6, 20
#: Its published averages: time to admission of a class in ms, and the whole run on a wall clock.
KUEUE_ADMISSION_MS = {"small": 215_468, "medium": 76_768, "large": 6_666}
KUEUE_WALL_S = 351.1
#: KAI `docs/scale-tests/example-results.json`, in seconds.
KAI_S = {"fill": 398, "gang": 49, "reclaim one": 13.9, "reclaim all": 85, "unschedulable": 249.5}


def kueue_baseline():
    """Five cohorts of six queues with a quota of 20 each, who lend all that is idle; 500 workloads a queue."""
    num = COHORTS * QUEUES
    nodes = np.zeros(COHORTS * QUEUES * QUOTA, NODE_DTYPE)
    nodes["num_gpus"], nodes["cpu_milli"], nodes["mem_mib"] = 1, 1 << 40, 1 << 40
    pool = np.arange(len(nodes)) // (QUEUES * QUOTA)
    for name in ("rack", "block", "cluster", "pool"):
        nodes[name] = pool
    fleet = Fleet(nodes, [GpuType("unit")], [Site("s")], [f"c{i}" for i in range(COHORTS)], [])
    guarantee = np.zeros((num, COHORTS), np.int64)
    guarantee[np.arange(num), np.arange(num) // QUEUES] = QUOTA
    pools = [Pool(f"cohort{i}", i * QUEUES, i * QUEUES, i, 0) for i in range(COHORTS)]
    terms = Terms(
        [Member(f"q{i}") for i in range(num)], pools, guarantee, [], np.full(guarantee.shape, NO_AGREEMENT, np.int32)
    )
    parts, kinds = [], []
    for queue in range(num):
        for kind, (_, count, interval, run, units, priority) in enumerate(KUEUE):
            jobs = make_jobs(count)
            jobs["submit_ms"] = np.arange(1, count + 1) * interval
            jobs["num_gpus"] = jobs["min_gpus"] = jobs["max_gpus"] = units
            jobs["duration_ms"], jobs["priority"], jobs["member"] = run, priority, queue
            parts.append(jobs)
            kinds.append(np.full(count, kind))
    jobs, kind = np.concatenate(parts), np.concatenate(kinds)
    order = np.argsort(jobs["submit_ms"], kind="stable")
    names = [f"q{i}" for i in range(num)]
    trace = Trace(jobs[order], list(map(str, range(len(jobs)))), names, ["p"], ["u"], [], "kueue baseline")
    return fleet, terms, trace, kind[order]


def test_kueue_baseline(benchmark, once):
    """15,000 workloads of three classes."""
    fleet, terms, trace, kind = kueue_baseline()
    # As there: who is sent away leaves at once.
    policy = replace(named_policy("dure"), own_notice_ms=0, save_ms=0)
    result = once(lambda: replay(trace, fleet, policy, terms))
    jobs = result.jobs
    admitted = jobs["first_start_ms"] - trace.jobs["submit_ms"]
    work_ms = (trace.jobs["num_gpus"] * trace.jobs["duration_ms"]).sum() / fleet.num_gpus
    benchmark.extra_info.update(
        jobs=len(jobs), cpu_s=round(result.cpu_s, 4), peers_wall_s=KUEUE_WALL_S,
        makespan_s=result.end_ms / 1000, least_makespan_s=round(float(work_ms) / 1000, 1),
        preemptions=result.counters.num_preemptions,
        admission_ms={name: round(float(admitted[kind == i].mean())) for i, (name, *_) in enumerate(KUEUE)},
        peers_admission_ms=KUEUE_ADMISSION_MS,
    )  # fmt: skip
    assert (jobs["end_ms"] > 0).all()


def kai_core(*parts):
    """500 nodes of eight; member a is guaranteed all, b borrows. Parts: (member, jobs, GPUs of each)."""
    fleet = uniform_fleet(4000, 8)
    terms = Terms(
        [Member("a"), Member("b")], [Pool("p", 0, 0, 0, 0)], np.array([[4000], [0]]),
        [AgreementTerms("loan", 0, 4000, 60_000)], np.array([[NO_AGREEMENT], [0]], np.int32),
    )  # fmt: skip
    jobs = make_jobs(sum(count for _, count, _ in parts))
    first = 0
    for member, count, gpus in parts:
        part = jobs[first : first + count]
        part["member"] = member
        part["num_gpus"] = part["min_gpus"] = part["max_gpus"] = gpus
        first += count
    jobs["duration_ms"], jobs["checkpoint_ms"] = 86_400_000, 600_000
    trace = Trace(jobs, list(map(str, range(len(jobs)))), ["a", "b"], ["p"], ["u"], [], "kai")
    return Core(fleet, terms, trace, named_policy("dure"))


def started(decisions):
    return [d.job for d in decisions if d.kind == DecisionKind.START]


def test_kai_fill(benchmark, once):
    """4,000 one-GPU jobs on 4,000 GPUs."""
    core = kai_core((0, 4000, 1))
    found = once(lambda: core.step(0, [Submitted(j) for j in range(4000)]))
    benchmark.extra_info.update(peers_s=KAI_S["fill"])
    assert len(started(found)) == 4000


def test_kai_gang(benchmark, once):
    """A gang of 512 GPUs, a whole number of nodes."""
    core = kai_core((0, 1, 512))
    found = once(lambda: core.step(0, [Submitted(0)]))
    benchmark.extra_info.update(peers_s=KAI_S["gang"])
    assert len(started(found)) == 1


@pytest.mark.parametrize(("name", "gpus"), [("reclaim one", 1), ("reclaim all", 4000)])
def test_kai_reclaim(benchmark, once, name, gpus):
    """All is lent out in one-GPU jobs; the owner asks for one GPU, or for all as one gang."""
    core = kai_core((1, 4000, 1), (0, 1, gpus))
    core.step(0, [Submitted(j) for j in range(4000)])
    found = once(lambda: core.step(3_600_000, [Submitted(4000)]))
    victims = [d for d in found if d.kind == DecisionKind.VACATE]
    benchmark.extra_info.update(peers_s=KAI_S[name], victims=len(victims))
    assert len(victims) == gpus
    last = max(d.at_ms for d in victims)
    assert started(core.step(last, [Vacated(d.job) for d in victims])) == [4000]


def test_kai_unschedulable(benchmark, once):
    """The verdict on a gang of 512 that cannot start, with the fleet full of its own member's work."""
    core = kai_core((0, 4000, 1), (0, 1, 512))
    core.step(0, [Submitted(j) for j in range(4000)])

    def verdict():
        core.step(1, [Submitted(4000)])
        return Explainer(core.built).explain(4000)

    found = once(verdict)
    benchmark.extra_info.update(peers_s=KAI_S["unschedulable"], reason=str(found.reason))
    assert found.pools

"""Published performance settings of Kueue and KAI-Scheduler, rebuilt: the same queues, sizes and run times."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dure.core.explain import Explainer
from dure.core.step import Core, DecisionKind, Submitted, Vacated
from dure.model.fleet import NODE_DTYPE, Fleet, GpuType, Site, uniform_fleet
from dure.model.jobs import TOPOLOGY_ANY, TOPOLOGY_RACK, Trace, make_jobs
from dure.model.terms import NO_AGREEMENT, AgreementTerms, Member, Pool, Terms
from dure.policy.config import named_policy
from dure.twin.replay import replay

#: kueue `test/performance/scheduler/configs/baseline`: (name, count a queue, interval, run time, units, class, topology).
KUEUE = (
    ("small", 350, 100, 200, 1, 0, TOPOLOGY_ANY),
    ("medium", 100, 500, 500, 5, 1, TOPOLOGY_ANY),
    ("large", 50, 1200, 1000, 20, 2, TOPOLOGY_ANY),
)
#: `configs/tas`: as many, but each class in three parts that come at the same time. Balanced: slices each in one rack,
#: here the whole gang, which is stricter; preferred: a rack where one can hold it, as Dure places by itself.
KUEUE_TAS = tuple(
    (f"{name}-{how}-rack", count, interval, run, units, priority, topology)
    for (name, _, interval, run, units, priority, _), counts in zip(
        KUEUE, ((120, 120, 110), (34, 33, 33), (17, 17, 16)), strict=True
    )
    for how, count, topology in zip(
        ("required", "preferred", "balanced"), counts, (TOPOLOGY_RACK, TOPOLOGY_ANY, TOPOLOGY_RACK), strict=True
    )
)  # fmt: skip
COHORTS, QUEUES, QUOTA = 5, 6, 20
#: Of `configs/tas`: nodes of a rack, racks. Its nodes have 96 CPU each, of which the quotas let 600 in all be used.
RACK_NODES, RACKS = 64, 10
#: Its published averages: time to admission of a class in ms, and the whole run on a wall clock.
KUEUE_ADMISSION_MS = {"small": 215_468, "medium": 76_768, "large": 6_666}
KUEUE_WALL_S, KUEUE_TAS_WALL_S = 351.1, 401
#: KAI `docs/scale-tests/example-results.json`, in seconds.
KAI_S = {"fill": 398, "gang": 49, "reclaim one": 13.9, "reclaim all": 85, "unschedulable": 249.5}


def kueue_baseline_nodes():
    """A unit of quota a node, one domain a cohort."""
    nodes = np.zeros(COHORTS * QUEUES * QUOTA, NODE_DTYPE)
    nodes["pool"] = np.arange(len(nodes)) // (QUEUES * QUOTA)
    for name in ("rack", "block", "cluster"):
        nodes[name] = nodes["pool"]
    return nodes


def kueue_tas_nodes():
    """Ten racks of 64 nodes, two a cohort, of which 60 each are in service with a unit of quota: 600 units in all."""
    nodes = np.zeros(RACKS * RACK_NODES, NODE_DTYPE)
    nodes["rack"] = np.arange(len(nodes)) // RACK_NODES
    nodes["pool"] = nodes["rack"] * COHORTS // RACKS
    nodes["block"] = nodes["cluster"] = nodes["pool"]
    in_service = COHORTS * QUEUES * QUOTA // RACKS
    nodes["online_ms"][np.arange(len(nodes)) % RACK_NODES >= in_service] = 86_400_000
    return nodes


def kueue(nodes, classes):
    """Five cohorts of six queues with a quota of 20 each, who lend all that is idle; 500 workloads a queue."""
    num = COHORTS * QUEUES
    nodes["num_gpus"], nodes["cpu_milli"], nodes["mem_mib"] = 1, 1 << 40, 1 << 40
    fleet = Fleet(nodes, [GpuType("unit")], [Site("s")], [f"c{i}" for i in range(COHORTS)], [])
    guarantee = np.zeros((num, COHORTS), np.int64)
    guarantee[np.arange(num), np.arange(num) // QUEUES] = QUOTA
    pools = [Pool(f"cohort{i}", i * QUEUES, i * QUEUES, i, 0) for i in range(COHORTS)]
    terms = Terms(
        [Member(f"q{i}") for i in range(num)], pools, guarantee, [], np.full(guarantee.shape, NO_AGREEMENT, np.int32)
    )
    parts, kinds = [], []
    for queue in range(num):
        for kind, (_, count, interval, run, units, priority, topology) in enumerate(classes):
            jobs = make_jobs(count)
            jobs["submit_ms"] = np.arange(1, count + 1) * interval
            jobs["num_gpus"] = jobs["min_gpus"] = jobs["max_gpus"] = units
            jobs["duration_ms"], jobs["priority"], jobs["member"], jobs["topology"] = run, priority, queue, topology
            parts.append(jobs)
            kinds.append(np.full(count, kind))
    jobs, kind = np.concatenate(parts), np.concatenate(kinds)
    order = np.argsort(jobs["submit_ms"], kind="stable")
    names = [f"q{i}" for i in range(num)]
    trace = Trace(jobs[order], list(map(str, range(len(jobs)))), names, ["p"], ["u"], [], "kueue")
    return fleet, terms, trace, kind[order]


@pytest.mark.parametrize(
    ("nodes", "classes", "peers_wall_s", "peers_admission_ms"),
    [
        pytest.param(kueue_baseline_nodes, KUEUE, KUEUE_WALL_S, KUEUE_ADMISSION_MS, id="baseline"),
        # Of its classes' times the published copies at hand have limits only (1,000 s), no averages.
        pytest.param(kueue_tas_nodes, KUEUE_TAS, KUEUE_TAS_WALL_S, {}, id="topology"),
    ],
)
def test_kueue(benchmark, once, nodes, classes, peers_wall_s, peers_admission_ms):
    """15,000 workloads of three classes, or of nine."""
    fleet, terms, trace, kind = kueue(nodes(), classes)
    # As there: who is sent away leaves at once.
    policy = replace(named_policy("dure"), own_notice_ms=0, save_ms=0)
    result = once(lambda: replay(trace, fleet, policy, terms))
    jobs = result.jobs
    admitted = jobs["first_start_ms"] - trace.jobs["submit_ms"]
    units = int((fleet.nodes["online_ms"] == 0).sum())
    work_ms = (trace.jobs["num_gpus"] * trace.jobs["duration_ms"]).sum() / units
    benchmark.extra_info.update(
        jobs=len(jobs), nodes=len(fleet.nodes), cpu_s=round(result.cpu_s, 4), peers_wall_s=peers_wall_s,
        makespan_s=result.end_ms / 1000, least_makespan_s=round(float(work_ms) / 1000, 1),
        preemptions=result.counters.num_preemptions,
        admission_ms={name: round(float(admitted[kind == i].mean())) for i, (name, *_) in enumerate(classes)},
        peers_admission_ms=peers_admission_ms,
    )  # fmt: skip
    assert (jobs["end_ms"] > 0).all()
    assert len(jobs) == 15_000


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

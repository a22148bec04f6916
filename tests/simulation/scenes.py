"""Random small alliances, jobs and faults from one seed, for the property tests."""

import numpy as np

from dure.model.fleet import NODE_DTYPE, Fleet, GpuType, Site
from dure.model.jobs import Trace, WorkProfile, make_jobs
from dure.model.terms import AgreementTerms, Member, Pool, Terms
from dure.twin.replay import FAULT_DTYPE

MINUTE, HOUR = 60_000, 3_600_000


def small(guarantees, rows, faults=(), nodes=1, gpus=4, pools=1, slices=1, cap_w=0):
    """A hand-made scene: equal pools of equal nodes with eight cores a GPU, owned by the first member.

    `guarantees`: of each member in each pool, in GPUs; who has none borrows under one loan with a minute's notice.
    `rows`: (submit, member, GPUs, duration) and other columns by name. `faults`: (moment, node, 0 down or 1 up).
    """
    num_members = max(len(guarantees), 3)
    each = np.zeros(nodes * pools, NODE_DTYPE)
    each["num_gpus"], each["cpu_milli"], each["mem_mib"] = gpus, gpus * 8000, 1 << 20
    each["pool"] = each["cluster"] = each["rack"] = each["block"] = np.arange(nodes * pools) // nodes
    fleet = Fleet(each, [GpuType("g", mig_slices=slices)], [Site("s", power_cap_w=cap_w)], [f"c{p}" for p in range(pools)], [])
    guarantee = np.zeros((num_members, pools), np.int64)
    guarantee[: len(guarantees)] = np.array(guarantees)[:, None]
    under = np.where(guarantee > 0, -1, 0).astype(np.int32)
    members = [Member(f"m{m}") for m in range(num_members)]
    lent = AgreementTerms("loan", 0, nodes * gpus * pools, MINUTE)
    terms = Terms(members, [Pool(f"p{p}", 0, 0, p, 0) for p in range(pools)], guarantee, [lent], under)
    jobs = make_jobs(len(rows))
    for job, (submit, member, num, duration, *others) in zip(jobs, rows, strict=True):
        job["submit_ms"], job["member"], job["duration_ms"] = submit, member, duration
        job["num_gpus"] = job["min_gpus"] = job["max_gpus"] = num
        for name, value in (others[0] if others else {}).items():
            job[name] = value
    names = [str(i) for i in range(len(rows))]
    trace = Trace(jobs, names, [m.name for m in members], ["p"], ["u", "v"], [], "small")
    return fleet, terms, trace, np.array(sorted(faults), FAULT_DTYPE)


def scene(seed):
    """(fleet, terms, trace, faults): up to 3 pools, 4 members, 120 jobs of every kind, nodes that fail."""
    r = np.random.default_rng(seed)
    num_pools, num_members = int(r.integers(1, 4)), int(r.integers(1, 5))
    parts, pools, agreements = [], [], []
    rack = block = 0
    guarantee = np.zeros((num_members, num_pools), np.int64)
    under = np.full((num_members, num_pools), -1, np.int32)
    for p in range(num_pools):
        num, size = int(r.integers(1, 9)), int(r.choice([4, 8]))
        nodes = np.zeros(num, NODE_DTYPE)
        nodes["num_gpus"], nodes["cpu_milli"], nodes["mem_mib"] = size, size * 8000, 1 << 20
        in_rack, in_block = int(r.integers(1, 4)), int(r.integers(1, 3))
        nodes["rack"] = rack + np.arange(num) // in_rack
        nodes["block"] = block + (np.arange(num) // in_rack) // in_block
        rack, block = nodes["rack"].max() + 1, nodes["block"].max() + 1
        owner = int(r.integers(0, num_members))
        nodes["site"], nodes["cluster"], nodes["pool"] = p % 2, p, p
        nodes["owner"], nodes["gpu_type"] = owner, p % 2
        if r.random() < 0.2:
            nodes["online_ms"][-1] = int(r.integers(1, 10**7))
        parts.append(nodes)
        pools.append(Pool(f"p{p}", owner, owner, p, p % 2))
        left = num * size
        for m in range(num_members):
            if m != owner and r.random() < 0.3:
                guarantee[m, p] = int(r.integers(0, left // 2 + 1))
                left -= guarantee[m, p]
        guarantee[owner, p] = left
        for m in range(num_members):
            if guarantee[m, p] == 0 and r.random() < 0.8:
                limit, notice = (
                    int(r.integers(1, num * size + 1)),
                    int(r.choice([0, 30_000, 60_000, 600_000])),
                )
                start, end = int(r.choice([0, 0, 10**6])), int(r.choice([1 << 60, 1 << 60, 2 * 10**7]))
                agreements.append(AgreementTerms(f"a{len(agreements)}", owner, limit, notice, start, end))
                under[m, p] = len(agreements) - 1
    caps = [int(r.choice([0, 0, 60_000, 90_000])) for _ in range(2)]
    fleet = Fleet(
        np.concatenate(parts), [GpuType("a", 1000, 50, 500, 10), GpuType("b", 2000, 80, 900, 10, 7)],
        [Site("s0", "KR", caps[0]), Site("s1", "KR", caps[1])], [f"c{p}" for p in range(num_pools)], [],
    )  # fmt: skip
    terms = Terms([Member(f"m{m}") for m in range(num_members)], pools, guarantee, agreements, under)
    trace, faults = _jobs(r, num_members), _faults(r, len(fleet.nodes))
    _add_later_kinds(np.random.default_rng(seed + (1 << 32)), fleet, trace)
    return fleet, terms, trace, faults


def _add_later_kinds(r, fleet, trace):
    """Reservations, network and speeds of kinds of work; from a stream of their own, so that old seeds keep their jobs."""
    jobs, num = trace.jobs, len(trace.jobs)
    late = r.random(num) < 0.1
    jobs["begin_ms"] = np.where(late, jobs["submit_ms"] + r.integers(1, 5 * 10**6, num), -1)
    jobs["net_mbps"] = r.choice([0, 0, 10_000, 50_000], num) * jobs["num_gpus"]
    jobs["profile"] = r.integers(-1, 2, num)
    fleet.nodes["net_mbps"] = r.choice([0, 200_000])


def _jobs(r, num_members):
    num = int(r.integers(5, 120))
    jobs = make_jobs(num)
    gpus = np.where(r.random(num) < 0.15, r.integers(1, 20, num), 2 ** r.integers(0, 5, num))
    for name in ("num_gpus", "min_gpus", "max_gpus"):
        jobs[name] = gpus
    elastic = r.random(num) < 0.2
    jobs["min_gpus"][elastic] = np.maximum(1, gpus[elastic] // 2)
    jobs["max_gpus"][elastic] = gpus[elastic] * 2
    part = r.random(num) < 0.15
    none = r.random(num) < 0.05
    for name in ("num_gpus", "min_gpus", "max_gpus"):
        jobs[name][part] = 1
        jobs[name][none] = 0
    jobs["gpu_milli"][part] = r.integers(1, 1000, int(part.sum()))
    jobs["gpu_milli"][none] = 1000
    jobs["cpu_milli"] = r.choice([0, 1000, 4000, 16000], num)
    jobs["submit_ms"] = np.sort(r.integers(0, 2 * 10**7, num))
    jobs["duration_ms"] = r.integers(1, 10**7, num)
    jobs["member"] = r.integers(0, num_members, num)
    jobs["project"] = r.integers(0, 2, num)
    jobs["checkpoint_ms"] = r.choice([0, 600_000], num)
    jobs["priority"] = r.integers(0, 3, num)
    jobs["topology"] = r.choice([0, 0, 0, 1, 2, 3], num)
    even = (r.random(num) < 0.2) & (jobs["num_gpus"] % 2 == 0) & (jobs["num_gpus"] > 0)
    jobs["gpus_per_node"] = np.where(even, 2, 0)
    names = [f"m{m}" for m in range(num_members)]
    return Trace(jobs, [str(i) for i in range(num)], names, ["pa", "pb"], ["u"], [], "scene", {},
                 (WorkProfile("even", {"b": 1000}), WorkProfile("slow on b", {"a": 1000, "b": 500}, scaling=0.7)))  # fmt: skip


def _faults(r, num_nodes):
    found = []
    for n in range(num_nodes):
        if r.random() < 0.2:
            t = int(r.integers(1, 2 * 10**7))
            for _ in range(int(r.integers(1, 5))):
                down = int(r.integers(1000, 10**6))
                found += [(t, n, 0), (t + down, n, 1)]
                t += down + int(r.integers(1000, 10**6))
    return np.array(sorted(found), FAULT_DTYPE) if found else np.zeros(0, FAULT_DTYPE)

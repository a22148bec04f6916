"""Rule 11: every waiting job is explained, and the reason is true when recounted from leases and terms alone."""

# ruff: noqa: PT018 - one promise, several facts

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scenes import scene
from world import World, part_on

from dure.core.explain import Explainer, NotWaitingError, Reason
from dure.core.step import Core
from dure.policy.config import named_policy
from dure.policy.kernels import layout as k

relaxed = settings(settings.default, suppress_health_check=list(HealthCheck))
SCRATCH = ("pick", "cost", "score", "gpu_free")
BESIDE = ("cpu_milli", "mem_mib", "net_mbps")


class Recount:
    """What is free, by the leases and terms alone."""

    def __init__(self, core, fleet, terms, trace):
        s = self.s = core.state
        self.core, self.fleet, self.terms, self.trace = core, fleet, terms, trace
        self.taken = np.zeros((len(fleet.nodes), k.GPUS_MAX), np.int64)
        self.beside = {name: np.zeros(len(fleet.nodes), np.int64) for name in BESIDE}
        self.use = defaultdict(int)
        self.runs = defaultdict(int)
        self.out = defaultdict(int)
        for j in range(int(s.g[0]["num_jobs"])):
            job, cls = s.job[j], s.cls[s.job[j]["cls"]]
            if job["state"] not in (k.RUNNING, k.REVOKING):
                continue
            m, p = int(cls["member"]), int(job["pool"])
            for n, mask, milli in core.leases(j):
                count = bin(mask).count("1")
                for i in range(k.GPUS_MAX):
                    self.taken[n, i] += milli if mask >> i & 1 else 0
                for name, used in self.beside.items():
                    used[n] += self.wanted(j, name, count)
            milli = int(job["alloc"]) * part_on(fleet, p, int(cls["gpu_milli"]))
            self.runs[m, p] += milli
            if job["is_borrowed"]:
                self.out[int(s.mp[m, p]["agreement"])] += milli
            else:
                self.use[m, p] += milli
        for hold in s.hold[s.hold["job"] >= 0]:
            if hold["kind"] == k.HOLD_RECLAIM:
                m = int(s.cls[s.job[hold["job"]]["cls"]]["member"])
                self.use[m, int(hold["pool"])] += int(hold["rem"]) * 1000

    def open_nodes(self, p):
        node = self.s.node
        return [n for n in np.flatnonzero(self.fleet.nodes["pool"] == p)
                if node[n]["state"] == k.UP and node[n]["hold"] < 0]  # fmt: skip

    def free_gpus(self, n):
        return int((self.taken[n, : self.fleet.nodes["num_gpus"][n]] == 0).sum())

    def free_milli(self, p):
        nodes = self.open_nodes(p)
        return sum(int(self.fleet.nodes["num_gpus"][n]) * 1000 - int(self.taken[n].sum()) for n in nodes)

    def wanted(self, j, name, count):
        """What a job wants beside so many of its GPUs."""
        asked = self.trace.jobs[j]
        return int(asked[name] // asked["num_gpus"] * count if asked["num_gpus"] else asked[name])

    def has_beside(self, n, j, count):
        nodes = self.fleet.nodes
        return all(
            nodes[name][n] - used[n] >= self.wanted(j, name, count) or (name == "net_mbps" and nodes[name][n] == 0)
            for name, used in self.beside.items()
        )

    def best_domain(self, c, p, gpus):
        """Whether `gpus` fit somewhere the class's topology allows, by trying every domain."""
        cls, nodes, j = self.s.cls[c], self.open_nodes(p), int(self.s.cls[c]["root"])
        if cls["gpu_milli"] < 1000 or gpus == 0:
            want = part_on(self.fleet, p, int(cls["gpu_milli"])) if gpus else 0
            return any(
                self.has_beside(n, j, gpus)
                and (gpus == 0 or (1000 - self.taken[n, : self.fleet.nodes["num_gpus"][n]]).max() >= want)
                for n in nodes
            )
        size = int(self.s.pool[p]["per_node"])
        per = int(cls["per_node"]) or min(gpus, size)
        parts, rest = divmod(gpus, per)

        def fit(n, count):
            return self.free_gpus(n) >= count and self.has_beside(n, j, count)

        level = {2: "rack", 3: "block"}.get(int(cls["topology"]))
        if cls["topology"] == 1 and parts + (rest > 0) > 1:
            return False
        groups = defaultdict(list)
        for n in nodes:
            groups[int(self.fleet.nodes[level][n]) if level else 0].append(n)
        for group in groups.values():
            full = sum(fit(n, per) for n in group)
            if full >= parts and (rest == 0 or sum(fit(n, rest) for n in group) > parts):
                return True
        return False


def assert_true(found, c, p, r):
    """One pool's reason against the recount."""
    s, cls, facts = r.s, r.s.cls[c], found.facts
    m, gpus = int(cls["member"]), int(cls["min_gpus"])
    milli = gpus * part_on(r.fleet, p, int(cls["gpu_milli"]))
    cell = s.mp[m, p]
    ag = int(cell["agreement"])
    own = s.g[0]["is_shares"] and cell["guarantee"] > 0 and r.use[m, p] + milli <= cell["guarantee"]
    if found.reason is Reason.AGREEMENT_LIMIT:
        assert not own and r.out[ag] + milli > s.ag[ag]["limit"] and facts["used_milli"] == r.out[ag]
    elif found.reason is Reason.AGREEMENT_NOT_IN_FORCE:
        assert not own and not s.ag[ag]["start_ms"] <= s.g[0]["now_ms"] < s.ag[ag]["end_ms"]
    elif found.reason is Reason.SHARE_USED:
        assert not own and ag < 0 and facts["free_milli"] == r.free_milli(p) < milli == facts["needed_milli"]
        assert facts["used_milli"] == r.use[m, p] > cell["guarantee"] - milli
        assert facts["guarantee_milli"] == cell["guarantee"] > 0
    elif found.reason is Reason.GPUS_BUSY:
        assert facts["free_milli"] == r.free_milli(p) < milli == facts["needed_milli"]
        assert own or cell["guarantee"] == 0 or len(s.member) == 1
    elif found.reason is Reason.CPU_OR_MEMORY or found.reason is Reason.FRAGMENTED:
        assert not r.best_domain(c, p, gpus) and r.free_milli(p) >= milli
    elif found.reason is Reason.POWER_CAP:
        site = s.site[s.pool[p]["site"]]
        claimed = "job" in facts
        left = facts["cap_w"] - facts["power_w"]
        assert facts["power_w"] == site["power_w"] and facts["cap_w"] == site["cap_w"] > 0
        assert facts["needed_w"] + facts["reserve_w"] > left or claimed
        borrowed = bool(s.g[0]["is_shares"]) and not own
        assert facts["reserve_w"] == (borrowed and max(site["cap_w"] // 50, left if claimed else 0))
        pool = s.pool[p]
        more = facts["needed_w"] - int((pool["busy_w"] - pool["idle_w"]) * gpus)
        assert 0 <= more <= (pool["idle_w"] - pool["sleep_w"]) * pool["per_node"] * max(gpus, 1)
        if claimed:
            assert borrowed and s.job[facts["job"]]["state"] == k.PENDING and facts["job"] == site["claimant"]
    else:
        assert found.reason is Reason.BEHIND and s.job[facts["job"]]["state"] == k.PENDING
        assert s.g[0]["backfill"] == k.BACKFILL_NONE, "with backfill, what fits has started"
        assert s.cls[s.job[facts["job"]]["cls"]]["member"] == m


def check_moment(core, fleet, terms, trace):
    s = core.state
    before = {name: getattr(s, name).copy() for name in s.FIELDS if name not in SCRATCH}
    explainer = Explainer(core.built)
    r = Recount(core, fleet, terms, trace)
    seen, num = set(), 0
    for j in np.flatnonzero(s.job["state"] == k.RESERVED):
        e = explainer.explain(int(j))
        assert e.reason is Reason.RESERVED and e.promised_ms == trace.jobs["begin_ms"][j] > s.g[0]["now_ms"]
        assert ("nodes" in e.pools[0].facts) == (s.job[j]["hold"] >= 0)
    for j in np.flatnonzero(s.job[: int(s.g[0]["num_jobs"])]["state"] == k.PENDING):
        e = explainer.explain(int(j))
        num += 1
        c = int(s.job[j]["cls"])
        if s.job[j]["hold"] >= 0:
            hold = s.hold[s.job[j]["hold"]]
            assert e.promised_ms == hold["start_ms"] and (e.reason is Reason.HELD) == (hold["missing"] > 0)
            continue
        if e.reason is Reason.BEHIND and int(s.cls[c]["root"]) != j:
            first = s.job[int(s.cls[c]["root"])]
            assert (-first["is_restart"], first["rank"]) <= (-s.job[j]["is_restart"], s.job[j]["rank"])
        if c in seen:
            continue
        seen.add(c)
        names = [p.name for p in terms.pools] if s.g[0]["is_shares"] else [p.name for p in core.built.terms.pools]
        members = [member.name for member in core.built.terms.members]
        for found in e.pools:
            p = names.index(found.pool)
            assert_true(found, c, p, r)
            for member, used, _ in found.holders:
                assert used == r.runs[members.index(member), p] > 0
            most_first = [used for _, used, _ in found.holders]
            assert most_first == sorted(most_first, reverse=True)
        for change in e.sooner:
            p = names.index(change.pool)
            if change.kind == "fewer_gpus":
                assert change.amount < s.cls[c]["min_gpus"] and r.best_domain(c, p, change.amount)
            elif change.kind == "topology":
                assert s.cls[c]["topology"] > 0 and r.free_milli(p) >= int(s.cls[c]["min_gpus"]) * 1000
            elif change.kind == "limit":
                ag = s.ag[s.mp[int(s.cls[c]["member"]), p]["agreement"]]
                assert ag["used"] + int(s.cls[c]["min_gpus"]) * 1000 == ag["limit"] + change.amount
                assert r.best_domain(c, p, int(s.cls[c]["min_gpus"]))
            else:
                assert s.need[c, p] == k.NEED_NEVER
    for name, old in before.items():
        assert (old == getattr(s, name)).all(), f"an explanation changed {name}"
    return num


@pytest.mark.parametrize("name", ["dure", "easy", "fifo", "las"])
@settings(relaxed, max_examples=25)
@given(seed=st.integers(0, 1 << 32))
def test_every_waiting_job_is_explained_by_what_is_true(name, seed):
    fleet, terms, trace, faults = scene(seed)
    core = Core(fleet, terms, trace, named_policy(name))
    world = World(core, fleet, trace, faults)
    moments = 0
    while world.advance() and moments < 150:
        check_moment(core, fleet, terms, trace)
        moments += 1


def test_only_what_waits_is_explained():
    fleet, terms, trace, _ = scene(1)
    core = Core(fleet, terms, trace, named_policy("dure"))
    with pytest.raises(NotWaitingError, match="does not wait"):
        Explainer(core.built).explain(next(j for j in range(5) if j not in core.never))
    for j in core.never:
        assert Explainer(core.built).explain(j).reason is Reason.NEVER

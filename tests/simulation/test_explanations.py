"""Rule 11: every waiting job is explained, and the reason is true when recounted from leases and terms alone."""

# ruff: noqa: PT018 - one promise, several facts

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recount import Ground, Recount
from scenes import scene
from world import World

from dure.core.explain import Explainer, NotWaitingError, Reason
from dure.core.step import Core
from dure.policy.config import named_policy
from dure.policy.kernels import layout as k

relaxed = settings(settings.default, suppress_health_check=list(HealthCheck))
SCRATCH = ("pick", "cost", "score", "gpu_free")


def free_milli(r, p):
    """What is free of a pool on nodes in service that are held for nobody."""
    return sum(1000 * len(taken) - sum(taken) for taken in map(r.taken, r.open_nodes(p)))


def has_room(r, c, p, gpus):
    """Whether so many GPUs of a class's shape fit in a pool now."""
    return r.fits(int(r.ground.core.state.cls[c]["root"]), p, gpus, r.open_nodes(p))


def assert_true(found, c, p, r):
    """One pool's reason against the recount."""
    s = r.ground.core.state
    cls, facts = s.cls[c], found.facts
    m, gpus = int(cls["member"]), int(cls["min_gpus"])
    milli = gpus * r.ground.part_milli(int(cls["root"]), p)
    cell = s.mp[m, p]
    ag = int(cell["agreement"])
    own = r.is_own(m, p, milli)
    if found.reason is Reason.AGREEMENT_LIMIT:
        assert not own and not r.may_borrow(m, p, milli) and facts["used_milli"] == r.out_milli[ag]
        assert r.out_milli[ag] + milli > s.ag[ag]["limit"]
    elif found.reason is Reason.AGREEMENT_NOT_IN_FORCE:
        assert not own and not s.ag[ag]["start_ms"] <= s.g[0]["now_ms"] < s.ag[ag]["end_ms"]
    elif found.reason is Reason.SHARE_USED:
        assert not own and ag < 0 and facts["free_milli"] == free_milli(r, p) < milli == facts["needed_milli"]
        assert facts["used_milli"] == r.use_milli[m, p] + r.claimed_milli[m, p] > cell["guarantee"] - milli
        assert facts["guarantee_milli"] == cell["guarantee"] > 0
    elif found.reason is Reason.GPUS_BUSY:
        assert facts["free_milli"] == free_milli(r, p) < milli == facts["needed_milli"]
        assert own or cell["guarantee"] == 0 or len(s.member) == 1
    elif found.reason is Reason.CPU_OR_MEMORY or found.reason is Reason.FRAGMENTED:
        assert not has_room(r, c, p, gpus) and free_milli(r, p) >= milli
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


def check_moment(ground):
    core, terms, trace = ground.core, ground.terms, ground.trace
    s = core.state
    before = {name: getattr(s, name).copy() for name in s.FIELDS if name not in SCRATCH}
    explainer = Explainer(core.built)
    r = Recount(ground)
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
                at = members.index(member), p
                assert used == r.use_milli[at] + r.over_milli[at] > 0
            most_first = [used for _, used, _ in found.holders]
            assert most_first == sorted(most_first, reverse=True)
        for change in e.sooner:
            p = names.index(change.pool)
            if change.kind == "fewer_gpus":
                assert change.amount < s.cls[c]["min_gpus"] and has_room(r, c, p, change.amount)
            elif change.kind == "topology":
                assert s.cls[c]["topology"] > 0 and free_milli(r, p) >= int(s.cls[c]["min_gpus"]) * 1000
            elif change.kind == "limit":
                ag = s.ag[s.mp[int(s.cls[c]["member"]), p]["agreement"]]
                assert ag["used"] + int(s.cls[c]["min_gpus"]) * 1000 == ag["limit"] + change.amount
                assert has_room(r, c, p, int(s.cls[c]["min_gpus"]))
            else:
                assert s.need[c, p] == k.NEED_NEVER
    for name, old in before.items():
        assert (old == getattr(s, name)).all(), f"an explanation changed {name}"
    return num


@pytest.mark.parametrize("name", ["dure", *(pytest.param(name, marks=pytest.mark.slow) for name in ("easy", "fifo", "las"))])
@settings(relaxed, max_examples=25)
@given(seed=st.integers(0, 1 << 32))
def test_every_waiting_job_is_explained_by_what_is_true(name, seed):
    fleet, terms, trace, faults = scene(seed)
    ground = Ground(fleet, terms, trace, named_policy(name))
    world = World(ground, faults)
    moments = 0
    while world.advance() and moments < 150:
        check_moment(ground)
        moments += 1


def test_only_what_waits_is_explained():
    fleet, terms, trace, _ = scene(1)
    core = Core(fleet, terms, trace, named_policy("dure"))
    with pytest.raises(NotWaitingError, match="does not wait"):
        Explainer(core.built).explain(next(j for j in range(5) if j not in core.never))
    for j in core.never:
        assert Explainer(core.built).explain(j).reason is Reason.NEVER

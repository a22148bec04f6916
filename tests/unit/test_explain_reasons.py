"""Rule 11, by hand: one small scene for each reason that a job waits, and for each change that would start it now."""

import numpy as np

from dure.core.explain import Explainer, Reason
from dure.core.step import Core, DecisionKind, Ended, ReservationDue, Submitted, TermsDue, Vacated
from dure.model.fleet import NODE_DTYPE, Fleet, GpuType, Site
from dure.model.jobs import TOPOLOGY_ANY, TOPOLOGY_RACK, Trace, make_jobs
from dure.model.terms import AgreementTerms, Member, Pool, Terms
from dure.policy.config import named_policy

MINUTE, HOUR = 60_000, 3_600_000
GPU = 1000
NAMES = ["owner", "other"]
IDLE_W, BUSY_W, SLEEP_W = 50, 500, 10


def fleet_of(*pools, cap_w=0, cpu_milli=1 << 40):
    """Pools of nodes with 8 GPUs, two to a rack; the nodes of each, with GPU type i in pool i, all at one site."""
    nodes = np.zeros(sum(pools), NODE_DTYPE)
    nodes["num_gpus"], nodes["cpu_milli"], nodes["mem_mib"], nodes["net_mbps"] = 8, cpu_milli, 1 << 20, 400_000
    nodes["pool"] = nodes["cluster"] = nodes["gpu_type"] = nodes["block"] = np.repeat(np.arange(len(pools)), pools)
    start = 0
    for p, num in enumerate(pools):
        mine = nodes["pool"] == p
        nodes["rack"][mine] = start + np.arange(num) // 2
        start = nodes["rack"].max() + 1
    types = [GpuType(f"type{p}", 1000, IDLE_W, BUSY_W, SLEEP_W) for p in range(len(pools))]
    return Fleet(nodes, types, [Site("site", "KR", cap_w)], [f"c{p}" for p in range(len(pools))], [])


def terms_of(*guarantees, under=None, loans=()):
    """Members `owner` and `other` with the rows of `guarantees` in pools `p0`…; `under`: agreement of each, or -1."""
    table = np.array(guarantees)
    members = [Member(name) for name in NAMES[: len(table)]]
    pools = [Pool(f"p{p}", 0, 0, p, p) for p in range(table.shape[1])]
    under = np.full(table.shape, -1) if under is None else np.array(under)
    return Terms(members, pools, table, list(loans), under.astype(np.int32))


def lent(limit=16, **when):
    """The owner has all 16 GPUs; the other borrows up to `limit` of them at a minute's notice."""
    return terms_of([16], [0], under=[[-1], [0]], loans=[AgreementTerms("loan", 0, limit, MINUTE, **when)])


OWN, LENT = terms_of([16]), lent()


def jobs_of(*rows, gpu_types=()):
    """Rows of (member, GPUs) and any other columns by name."""
    jobs = make_jobs(len(rows))
    for job, (member, gpus, *others) in zip(jobs, rows, strict=True):
        job["member"], job["duration_ms"] = member, HOUR
        job["num_gpus"] = job["min_gpus"] = job["max_gpus"] = gpus
        for name, value in (others[0] if others else {}).items():
            job[name] = value
    members = NAMES[: max(row[0] for row in rows) + 1]
    return Trace(jobs, [f"j-{i}" for i in range(len(rows))], members, ["p"], ["u"], list(gpu_types), "scene")


def submitted(fleet, terms, trace, policy="dure"):
    """The core after each job came, a millisecond after the one before."""
    core = Core(fleet, terms, trace, named_policy(policy))
    for j in range(len(trace.jobs)):
        core.step(j, [Submitted(j)])
    return core


def started(core, now_ms, *stimuli):
    """The jobs that a step starts."""
    return {d.job for d in core.step(now_ms, list(stimuli)) if d.kind == DecisionKind.START}


def the_pool(found, name="p0"):
    (reason,) = (reason for reason in found.pools if reason.pool == name)
    return reason


# ---------------------------------------------------------------- reasons


def test_never_where_no_pool_has_what_is_asked_for():
    core = Core(fleet_of(2), OWN, jobs_of((0, 17)), named_policy("dure"))
    found = core.explain(0)
    assert (found.reason, found.rule, found.pools, found.sooner, found.promised_ms) == (Reason.NEVER, 9, (), (), -1)


def test_reserved_names_the_moment_and_the_nodes():
    core = submitted(fleet_of(2), OWN, jobs_of((0, 16, {"begin_ms": 5 * HOUR})))
    found = core.explain(0)
    assert (found.reason, found.rule, found.promised_ms) == (Reason.RESERVED, 5, 5 * HOUR)
    assert the_pool(found).facts == {"begin_ms": 5 * HOUR, "nodes": 2, "missing_nodes": 0}


def test_reserved_far_ahead_has_no_nodes_yet():
    core = submitted(fleet_of(2), OWN, jobs_of((0, 16, {"begin_ms": 500 * HOUR})))
    assert the_pool(core.explain(0)).facts == {"begin_ms": 500 * HOUR}


def test_held_for_a_claim_names_the_end_of_the_notice():
    core = submitted(fleet_of(2), LENT, jobs_of((1, 8), (0, 16)))
    found = core.explain(1)
    assert (found.reason, found.rule, found.promised_ms) == (Reason.HELD, 1, 1 + MINUTE)
    assert the_pool(found).facts == {"nodes": 2, "missing_nodes": 1, "promised_ms": 1 + MINUTE}
    assert the_pool(found).holders == (("other", 8 * GPU, 8 * GPU),)
    assert started(core, 1 + MINUTE, Vacated(0)) == {1}


def test_held_behind_a_reservation_that_is_late():
    """Its moment has come, and who was there before within the owner's share goes on."""
    fleet, trace = fleet_of(2), jobs_of((0, 16), (0, 16, {"begin_ms": 5 * HOUR}))
    core = submitted(fleet, OWN, trace)
    core.step(5 * HOUR, [ReservationDue(1)])
    found = core.explain(1)
    assert (found.reason, found.rule, found.promised_ms) == (Reason.HELD, 5, 5 * HOUR)
    assert the_pool(found).facts == {"nodes": 2, "missing_nodes": 2, "promised_ms": 5 * HOUR}
    assert started(core, 6 * HOUR, Ended(0)) == {1}


def test_held_by_backfill_names_the_predicted_moment():
    core = submitted(fleet_of(2), None, jobs_of((0, 8), (0, 16)), "easy")
    found = core.explain(1)
    # Without history every job is taken to run an hour.
    assert (found.reason, found.rule, found.promised_ms) == (Reason.HELD, 5, HOUR)
    assert the_pool(found, "pool").facts == {"nodes": 2, "missing_nodes": 1, "promised_ms": HOUR}


def test_behind_another_class_in_strict_order():
    """First come, first served: eight GPUs are free, and the first in the queue wants more."""
    core = submitted(fleet_of(2), None, jobs_of((0, 8), (0, 16), (0, 8)), "fifo")
    found = core.explain(2)
    assert (found.reason, found.rule) == (Reason.BEHIND, 3)
    assert the_pool(found, "pool").facts == {"job": 1}
    assert core.explain(1).reason is Reason.GPUS_BUSY
    assert started(core, HOUR, Ended(0)) == {1}
    assert started(core, 2 * HOUR, Ended(1)) == {2}


def test_behind_one_of_its_own_shape():
    core = submitted(fleet_of(1), terms_of([8]), jobs_of((0, 8), (0, 8), (0, 8)))
    found = core.explain(2)
    assert (found.reason, found.rule) == (Reason.BEHIND, 3)
    assert found.message == "job 1 of the same shape stands before it; that one waits because it needs 8 GPUs, free: 0"
    assert started(core, HOUR, Ended(0)) == {1}
    assert core.explain(2).reason is Reason.GPUS_BUSY


def test_messages_and_facts_call_jobs_by_their_ids():
    trace = jobs_of((0, 8), (0, 16), (0, 8), (0, 8))
    core = submitted(fleet_of(2), None, trace, "fifo")
    explainer = Explainer(core.built, trace.job_ids)
    assert the_pool(explainer.explain(2), "pool").facts == {"job": "j-1"}
    assert the_pool(explainer.explain(2), "pool").message == "job j-1 stands before it"
    assert explainer.explain(3).message.startswith("job j-2 of the same shape stands before it")


def test_share_used_says_how_much_of_the_share_is_in_use():
    """Half of the two nodes is the owner's and in use, so it can claim nothing; the other's half is in use too."""
    core = submitted(fleet_of(2), terms_of([8], [8]), jobs_of((0, 6), (1, 8), (0, 4)))
    found = core.explain(2)
    assert (found.reason, found.rule) == (Reason.SHARE_USED, 1)
    facts = {"needed_milli": 4 * GPU, "free_milli": 2 * GPU, "used_milli": 6 * GPU, "guarantee_milli": 8 * GPU}
    assert the_pool(found).facts == facts
    assert the_pool(found).holders == (("other", 8 * GPU, 0), ("owner", 6 * GPU, 0))
    assert started(core, HOUR, Ended(0)) == {2}


def test_agreement_limit_says_what_is_out():
    core = submitted(fleet_of(2), lent(12), jobs_of((1, 8), (1, 8)))
    found = core.explain(1)
    assert (found.reason, found.rule) == (Reason.AGREEMENT_LIMIT, 2)
    assert the_pool(found).facts == {"used_milli": 8 * GPU, "limit_milli": 12 * GPU, "needed_milli": 8 * GPU}
    assert started(core, HOUR, Ended(0)) == {1}


def test_agreement_not_in_force_says_from_when_to_when():
    core = submitted(fleet_of(2), lent(start_ms=5 * HOUR, end_ms=9 * HOUR), jobs_of((1, 8)))
    found = core.explain(0)
    assert (found.reason, found.rule) == (Reason.AGREEMENT_NOT_IN_FORCE, 2)
    assert the_pool(found).facts == {"start_ms": 5 * HOUR, "end_ms": 9 * HOUR}
    assert started(core, 5 * HOUR - 1, TermsDue()) == set()
    assert started(core, 5 * HOUR, TermsDue()) == {0}


def test_gpus_busy_names_who_uses_them():
    """The other has an agreement and no share, so nothing is taken back for it."""
    core = submitted(fleet_of(2), LENT, jobs_of((0, 10), (1, 3), (1, 8)))
    found = core.explain(2)
    assert (found.reason, found.rule) == (Reason.GPUS_BUSY, 1)
    assert the_pool(found).facts == {"needed_milli": 8 * GPU, "free_milli": 3 * GPU}
    assert the_pool(found).holders == (("owner", 10 * GPU, 0), ("other", 3 * GPU, 3 * GPU))
    assert started(core, HOUR, Ended(0)) == {2}


def test_fragmented_says_what_shape_is_missing():
    core = submitted(fleet_of(2), OWN, jobs_of((0, 5), (0, 5), (0, 6)))
    found = core.explain(2)
    assert (found.reason, found.rule) == (Reason.FRAGMENTED, 4)
    facts = {"needed_milli": 6 * GPU, "free_milli": 6 * GPU, "nodes": 1, "gpus_per_node": 6, "nodes_that_fit": 0}
    assert the_pool(found).facts == facts
    assert started(core, HOUR, Ended(1)) == {2}


def test_cpu_or_memory_says_what_is_wanted_beside_the_gpus():
    beside = {"cpu_milli": 32_000, "mem_mib": 4 * 1024, "net_mbps": 4 * 25_000}
    trace = jobs_of((0, 1, {"cpu_milli": 60_000}), (0, 4, beside))
    core = submitted(fleet_of(1, cpu_milli=64_000), terms_of([8]), trace)
    found = core.explain(1)
    assert (found.reason, found.rule) == (Reason.CPU_OR_MEMORY, 4)
    assert the_pool(found).facts == {**beside, "nodes": 1, "nodes_with_gpus": 1}
    assert started(core, HOUR, Ended(0)) == {1}


#: A node that sleeps draws 80 W, one in full use 4,000 W.
ASLEEP_W, WAKING_W = 8 * SLEEP_W, 8 * (BUSY_W - SLEEP_W)


def test_power_cap_says_what_the_site_draws_and_the_job_would_more():
    cap_w = 7_000
    core = submitted(fleet_of(2, cap_w=cap_w), OWN, jobs_of((0, 8), (0, 8)))
    found = core.explain(1)
    assert (found.reason, found.rule) == (Reason.POWER_CAP, 8)
    drawn = {"power_w": 2 * ASLEEP_W + WAKING_W, "needed_w": WAKING_W, "reserve_w": 0, "cap_w": cap_w}
    assert the_pool(found).facts == drawn
    assert started(core, HOUR, Ended(0)) == {1}


def test_power_cap_borrowers_leave_a_fiftieth_alone():
    """Under the cap by a hundred watts, which is less than the owner must be able to rely on; the owner may."""
    cap_w = 2 * (ASLEEP_W + WAKING_W) + 100
    rows = [(1, 8), (1, 8)]
    found = submitted(fleet_of(2, cap_w=cap_w), LENT, jobs_of(*rows)).explain(1)
    drawn = {"power_w": 2 * ASLEEP_W + WAKING_W, "needed_w": WAKING_W, "reserve_w": cap_w // 50, "cap_w": cap_w}
    assert the_pool(found).facts == drawn
    assert "must leave 162 W alone" in found.message
    owner = submitted(fleet_of(2, cap_w=cap_w), LENT, jobs_of((1, 8), (0, 8)))
    assert len(owner.leases(1)) == 1


def test_power_cap_borrowers_leave_all_of_it_to_an_owner_that_takes_power_back():
    """The small job's power is there; it is set aside for the owner's job, and no watt of it is the job's own need."""
    cap_w = 9_500
    terms = terms_of([24], [0], under=[[-1], [0]], loans=[AgreementTerms("loan", 0, 24, MINUTE)])
    core = submitted(fleet_of(3, cap_w=cap_w), terms, jobs_of((1, 8), (1, 8), (0, 8), (1, 1)))
    power_w = 3 * ASLEEP_W + 2 * WAKING_W
    found = core.explain(3)
    assert (found.reason, found.rule) == (Reason.POWER_CAP, 8)
    needed_w = BUSY_W - IDLE_W + 8 * (IDLE_W - SLEEP_W)
    drawn = {"power_w": power_w, "needed_w": needed_w, "reserve_w": cap_w - power_w, "cap_w": cap_w, "job": 2}
    assert the_pool(found).facts == drawn
    assert power_w + needed_w + cap_w // 50 < cap_w
    claimant = core.explain(2)
    assert (claimant.reason, claimant.promised_ms) == (Reason.HELD, 2 + MINUTE)
    assert started(core, 2 + MINUTE, Vacated(1)) >= {2}


def test_power_cap_in_the_way_of_a_gang_whose_nodes_are_free():
    cap_w = 7_000
    core = submitted(fleet_of(2, cap_w=cap_w), OWN, jobs_of((0, 8, {"begin_ms": 5 * HOUR}), (0, 8)))
    core.step(5 * HOUR, [ReservationDue(0)])
    found = core.explain(0)
    assert (found.reason, found.rule, found.promised_ms) == (Reason.POWER_CAP, 8, 5 * HOUR)
    drawn = {"power_w": 2 * ASLEEP_W + WAKING_W, "needed_w": WAKING_W, "reserve_w": 0, "cap_w": cap_w}
    assert the_pool(found).facts == {"nodes": 1, "missing_nodes": 0, "promised_ms": 5 * HOUR, **drawn}
    assert started(core, 6 * HOUR, Ended(1)) == {0}


# ---------------------------------------------------------------- what would start it now


def changes(found):
    return [(change.kind, change.pool, change.amount) for change in found.sooner]


def starts_at_once(fleet, terms, trace):
    """Whether the last job starts when it comes."""
    return bool(submitted(fleet, terms, trace).leases(len(trace.jobs) - 1))


def test_sooner_with_fewer_gpus():
    fleet, rows = fleet_of(2), [(0, 5), (0, 5), (0, 6)]
    assert changes(submitted(fleet, OWN, jobs_of(*rows)).explain(2)) == [("fewer_gpus", "p0", 3)]
    assert not starts_at_once(fleet, OWN, jobs_of(*rows))
    assert starts_at_once(fleet, OWN, jobs_of(*rows[:-1], (0, 3)))
    assert not starts_at_once(fleet, OWN, jobs_of(*rows[:-1], (0, 4)))


def test_sooner_in_another_pool():
    """Pool 0 has the type that it asks for and is busy; pool 1, of another type, is its member's too and is free."""
    fleet, terms, types = fleet_of(1, 1), terms_of([8, 8]), ["type0", "type1"]
    bound = {"type_mask": 1}
    trace = jobs_of((0, 8, bound), (0, 8, bound), gpu_types=types)
    found = submitted(fleet, terms, trace).explain(1)
    assert [reason.pool for reason in found.pools] == ["p0"]
    assert changes(found) == [("pool", "p1", 0)]
    assert starts_at_once(fleet, terms, jobs_of((0, 8, bound), (0, 8, {"type_mask": 2}), gpu_types=types))
    assert starts_at_once(fleet, terms, jobs_of((0, 8, bound), (0, 8), gpu_types=types))


def test_sooner_without_its_topology():
    """One node of each of the two racks is free, and the gang wants two nodes of one rack."""

    def after_two_left(topology):
        trace = jobs_of((0, 8), (0, 8), (0, 8), (0, 8), (0, 16, {"topology": topology, "gpus_per_node": 8}))
        core = Core(fleet_of(4), terms_of([32]), trace, named_policy("dure"))
        core.step(0, [Submitted(j) for j in range(4)])
        on = {core.leases(j)[0][0]: j for j in range(4)}
        core.step(HOUR, [Ended(on[0]), Ended(on[2]), Submitted(4)])
        return core

    found = after_two_left(TOPOLOGY_RACK).explain(4)
    assert found.reason is Reason.FRAGMENTED
    assert the_pool(found).facts["nodes_that_fit"] == 2
    assert changes(found) == [("topology", "p0", 0)]
    assert after_two_left(TOPOLOGY_RACK).leases(4) == []
    assert [n for n, _, _ in after_two_left(TOPOLOGY_ANY).leases(4)] == [0, 2]


def test_sooner_with_a_higher_limit():
    fleet, rows = fleet_of(2), [(1, 8), (1, 8)]
    found = submitted(fleet, lent(12), jobs_of(*rows)).explain(1)
    assert changes(found) == [("fewer_gpus", "p0", 4), ("limit", "p0", 4 * GPU)]
    assert not starts_at_once(fleet, lent(15), jobs_of(*rows))
    assert starts_at_once(fleet, lent(16), jobs_of(*rows))
    assert starts_at_once(fleet, lent(12), jobs_of(rows[0], (1, 4)))
    assert not starts_at_once(fleet, lent(12), jobs_of(rows[0], (1, 5)))


def test_nothing_is_promised_where_nothing_would_help():
    """All is in use: no size, no place and no agreement would start it now."""
    assert submitted(fleet_of(2), OWN, jobs_of((0, 16), (0, 8))).explain(1).sooner == ()

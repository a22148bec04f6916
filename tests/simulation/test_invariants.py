"""What docs/policy.md promises, over random fleets, jobs, agreements and faults."""

import heapq
from dataclasses import replace

import pytest
from guarantee import GuaranteeWatch, LateError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from idle import idle
from promises import keep
from recount import Ground, Recount
from scenes import scene
from world import Invariant, World, check

from dure.core.step import (
    Cancelled,
    Core,
    DecisionKind,
    Ended,
    IllegalStimulusError,
    NodeClosed,
    NodeDown,
    NodeDrained,
    NodeUp,
    RankDue,
    ReservationDue,
    Submitted,
    TermsDue,
    Vacated,
)
from dure.policy.config import POLICIES, named_policy
from dure.policy.kernels import layout as k
from dure.twin.replay import replay

relaxed = settings(settings.default, suppress_health_check=list(HealthCheck))


def policy_for(name, seed):
    policy = named_policy(name)
    return replace(policy, spares_ppm=200_000, quarantine_fails=2) if seed % 3 == 0 else policy


# Least attained service stops jobs so often that its scenes take as long as those of the others together.
@pytest.mark.parametrize("name", ["dure", "easy", pytest.param("las", marks=pytest.mark.slow), "fair"])
@settings(relaxed, max_examples=60)
@given(seed=st.integers(0, 1 << 32))
def test_every_moment_keeps_the_rules_and_equals_the_compiled_loop(name, seed):
    fleet, terms, trace, faults = scene(seed)
    policy = policy_for(name, seed)
    world = keep(fleet, terms, trace, faults, policy)
    result = replay(trace, fleet, policy, terms, faults=faults, is_rejecting=True)
    job = world.core.state.job[: len(trace.jobs)]
    for field in ("first_start_ms", "end_ms", "run_ms", "preemptions", "pool"):
        assert (job[field] == result.jobs[field]).all(), field
    assert result.counters.num_decisions == len(world.log)


#: Settings of the default policy that change who holds, stops or waits for whom.
OTHER_SETTINGS = {
    "blocked gangs hold at once": {"hold_after_ms": 0},
    "every blocked gang holds": {"hold_after_ms": 0, "holds_max": 99, "backfill": k.BACKFILL_CONSERVATIVE},
    "ranks part quickly": {"margin_ms": 0, "rank_step_ms": 1000, "min_run_ms": 60_000},
    "nobody is stopped by rank": {"is_preemptive": False},
    "all are overdue at once": {"overdue_ms": 1000, "epoch_ms": 1000},
    "nodes never sleep": {"is_sleep": False},
    "no time to save": {"save_ms": 0, "own_notice_ms": 0},
}


@pytest.mark.parametrize("changes", OTHER_SETTINGS.values(), ids=OTHER_SETTINGS.keys())
@settings(relaxed, max_examples=15)
@given(seed=st.integers(0, 1 << 32))
def test_the_default_keeps_the_rules_under_other_settings(changes, seed):
    keep(*scene(seed), replace(policy_for("dure", seed), **changes))


@pytest.mark.parametrize("name", sorted(set(POLICIES) - {"dure", "easy", "las", "fair"}))
@settings(relaxed, max_examples=15)
@given(seed=st.integers(0, 1 << 32))
def test_baselines_keep_their_rules(name, seed):
    keep(*scene(seed), policy_for(name, seed))


class Deaf(World):
    """A world in which those who are told to leave stay."""

    def advance(self):
        self.heap = [event for event in self.heap if event[1] != 1]
        heapq.heapify(self.heap)
        return super().advance()


def test_the_checks_can_fail():
    """Each checker sees what it is there for: a wrong account, a share that comes late, GPUs that nobody gives out."""
    fleet, terms, trace, _ = scene(27)
    ground = Ground(fleet, terms, trace, named_policy("dure"))
    world, watch = Deaf(ground), GuaranteeWatch(ground)

    def to_the_end():
        while world.advance():
            watch.look(check(ground), world.decided, world.failed)

    with pytest.raises(LateError):
        to_the_end()
    ground.core.state.mp[0, 0]["use_g"] += 1000
    with pytest.raises(Invariant, match="accounts"):
        check(ground)
    ground = Ground(fleet, terms, trace, named_policy("fifo"))
    core, world, found = ground.core, World(ground), 0
    while world.advance():
        # First come, first served, judged as if it let the jobs behind a blocked one start.
        core.state.g[0]["backfill"] = k.BACKFILL_EASY
        found += len(idle(Recount(ground)))
        core.state.g[0]["backfill"] = k.BACKFILL_NONE
    assert found > 0


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_same_input_same_digest(name):
    fleet, terms, trace, faults = scene(7)
    runs = [replay(trace, fleet, named_policy(name), terms, faults=faults, is_rejecting=True) for _ in range(2)]
    assert runs[0].digest == runs[1].digest


@pytest.mark.parametrize("name", sorted(POLICIES))
@settings(relaxed, max_examples=30)
@given(seed=st.integers(0, 1 << 32))
def test_every_job_ends(name, seed):
    """Without faults, dates and spares every job that may ever run ends, and credits sum to zero.

    Loads that never end are in test_starvation.
    """
    fleet, terms, trace, _ = scene(seed)
    terms = replace(terms, agreements=[replace(a, start_ms=0, end_ms=1 << 60) for a in terms.agreements])
    ground = Ground(fleet, terms, trace, named_policy(name))
    core, world = ground.core, World(ground)
    while world.advance():
        pass
    states = core.state.job["state"][: len(trace.jobs)]
    left = [j for j in range(len(trace.jobs)) if states[j] != k.ENDED and j not in core.never]
    assert left == []
    assert int(core.state.member["credit_milli_ms"].sum()) == 0


class Adversary(RuleBasedStateMachine):
    """Ends, cancels, failures and returns in any order, at any time: the core must keep its books."""

    @initialize(
        seed=st.integers(0, 1 << 32),
        name=st.sampled_from(["dure", "easy", "fair", "las"]),
        changes=st.sampled_from([{}, OTHER_SETTINGS["all are overdue at once"], {"hold_after_ms": 0}]),
    )
    def begin(self, seed, name, changes):
        self.fleet, self.terms, self.trace, _ = scene(seed)
        self.ground = Ground(self.fleet, self.terms, self.trace, replace(policy_for(name, seed), **changes))
        self.core = self.ground.core
        self.now, self.next_job = 0, 0
        self.in_force = self.agreements_in_force()

    def of_state(self, *states):
        job = self.core.state.job[: len(self.trace.jobs)]
        return [j for j in range(len(job)) if job["state"][j] in states]

    def agreements_in_force(self):
        return [a.start_ms <= self.now < a.end_ms for a in self.terms.agreements]

    def step(self, *stimuli):
        before, self.in_force = self.in_force, self.agreements_in_force()
        for d in self.core.step(self.now, [*stimuli, *([TermsDue()] if before != self.in_force else [])]):
            if d.kind == DecisionKind.START:
                # What runs on a node goes on when that is closed; nothing starts there.
                assert all(self.core.state.node[n]["state"] == k.UP for n, _, _ in self.core.leases(d.job))

    @rule(num=st.integers(1, 12), later=st.integers(0, 10**6))
    def submit(self, num, later):
        self.now += later
        num = min(num, len(self.trace.jobs) - self.next_job)
        self.step(*[Submitted(self.next_job + i) for i in range(num)])
        self.next_job += num

    @precondition(lambda self: self.of_state(k.RUNNING, k.REVOKING))
    @rule(pick=st.integers(0, 1 << 20), later=st.integers(0, 10**6))
    def end(self, pick, later):
        self.now += later
        jobs = self.of_state(k.RUNNING, k.REVOKING)
        self.step(Ended(jobs[pick % len(jobs)]))

    @precondition(lambda self: self.of_state(k.REVOKING))
    @rule(pick=st.integers(0, 1 << 20))
    def vacate(self, pick):
        jobs = self.of_state(k.REVOKING)
        self.step(Vacated(jobs[pick % len(jobs)]))

    @precondition(lambda self: self.of_state(k.PENDING, k.RESERVED, k.RUNNING, k.REVOKING))
    @rule(pick=st.integers(0, 1 << 20))
    def cancel(self, pick):
        jobs = self.of_state(k.PENDING, k.RESERVED, k.RUNNING, k.REVOKING)
        self.step(Cancelled(jobs[pick % len(jobs)]))

    @precondition(lambda self: self.of_state(k.RUNNING))
    @rule(pick=st.integers(0, 1 << 20), later=st.integers(0, 10**7))
    def rank(self, pick, later):
        self.now += later
        jobs = self.of_state(k.RUNNING)
        self.step(RankDue(jobs[pick % len(jobs)]))

    @precondition(lambda self: self.of_state(k.RESERVED))
    @rule(pick=st.integers(0, 1 << 20), later=st.integers(0, 10**6))
    def reservation(self, pick, later):
        self.now += later
        jobs = self.of_state(k.RESERVED)
        self.step(ReservationDue(jobs[pick % len(jobs)]))

    @rule(node=st.integers(0, 1 << 20), later=st.integers(0, 10**6))
    def down(self, node, later):
        self.now += later
        self.step(NodeDown(node % len(self.fleet.nodes)))

    @rule(node=st.integers(0, 1 << 20), is_release=st.booleans())
    def up(self, node, is_release):
        self.step(NodeUp(node % len(self.fleet.nodes), is_release))

    @rule(node=st.integers(0, 1 << 20), notice_ms=st.integers(-1, 10**6))
    def close(self, node, notice_ms):
        """Cordon a node, or drain it."""
        n = node % len(self.fleet.nodes)
        self.step(NodeClosed(n), *([NodeDrained(n, notice_ms)] if notice_ms >= 0 else []))
        assert self.core.state.node[n]["state"] not in (k.UP, k.SPARE)
        assert self.core.state.node[n]["hold"] < 0

    @rule(later=st.integers(0, 10**7))
    def terms_due(self, later):
        self.now += later
        self.step(TermsDue())

    @invariant()
    def books(self):
        if hasattr(self, "core"):
            assert idle(check(self.ground)) == []


Adversary.TestCase.settings = settings(relaxed, max_examples=150, stateful_step_count=40)
TestAdversary = Adversary.TestCase


def test_what_does_not_fit_is_refused_and_changes_nothing():
    fleet, terms, trace, _ = scene(1)
    core = Core(fleet, terms, trace, named_policy("dure"))
    core.step(1000, [Submitted(0)])
    before = core.state.job.copy()
    for stimulus in (Submitted(0), Vacated(0), Ended(1)):
        with pytest.raises(IllegalStimulusError):
            core.step(1000, [stimulus])
    with pytest.raises(IllegalStimulusError, match="backwards"):
        core.step(999, [])
    assert (core.state.job == before).all()

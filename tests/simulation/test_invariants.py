"""What docs/policy.md promises, over random fleets, jobs, agreements and faults."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from scenes import scene
from world import World, check

from dure.core.step import (
    Cancelled,
    Core,
    Ended,
    IllegalStimulusError,
    NodeDown,
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


@pytest.mark.parametrize("name", ["dure", "easy", "las"])
@settings(relaxed, max_examples=25)
@given(seed=st.integers(0, 1 << 32))
def test_every_moment_keeps_the_rules_and_equals_the_compiled_loop(name, seed):
    fleet, terms, trace, faults = scene(seed)
    policy = policy_for(name, seed)
    core = Core(fleet, terms, trace, policy)
    world = World(core, fleet, trace, faults)
    while world.advance():
        check(core, fleet, terms, trace)
    if name == "dure" and len(faults) == 0:
        # Rule 6: one preemption of a job for one cause, never a loop. (A claim that a failed node broke is made
        # anew, and least attained service takes turns by design.)
        assert max(world.stops.values(), default=0) <= 1
    # Rule 1: nobody waits for its share longer than the notice.
    assert core.state.g[0]["breaches"] == 0
    result = replay(trace, fleet, policy, terms, faults=faults, is_rejecting=True)
    job = core.state.job[: len(trace.jobs)]
    for field in ("first_start_ms", "end_ms", "run_ms", "preemptions", "pool"):
        assert (job[field] == result.jobs[field]).all(), field
    assert result.counters.num_decisions == len(world.log)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_same_input_same_digest(name):
    fleet, terms, trace, faults = scene(7)
    runs = [replay(trace, fleet, named_policy(name), terms, faults=faults, is_rejecting=True) for _ in range(2)]
    assert runs[0].digest == runs[1].digest


@settings(relaxed, max_examples=60)
@given(seed=st.integers(0, 1 << 32))
def test_nothing_starves(seed):
    """Without faults, dates and spares every job that may ever run ends, and credits sum to zero."""
    fleet, terms, trace, _ = scene(seed)
    terms = replace(terms, agreements=[replace(a, start_ms=0, end_ms=1 << 60) for a in terms.agreements])
    core = Core(fleet, terms, trace, named_policy("dure"))
    world = World(core, fleet, trace)
    while world.advance():
        pass
    states = core.state.job["state"][: len(trace.jobs)]
    left = [j for j in range(len(trace.jobs)) if states[j] != k.ENDED and j not in core.never]
    assert left == []
    assert int(core.state.member["credit_milli_ms"].sum()) == 0


class Adversary(RuleBasedStateMachine):
    """Ends, cancels, failures and returns in any order, at any time: the core must keep its books."""

    @initialize(seed=st.integers(0, 1 << 32))
    def begin(self, seed):
        self.fleet, self.terms, self.trace, _ = scene(seed)
        self.core = Core(self.fleet, self.terms, self.trace, policy_for("dure", seed))
        self.now, self.next_job = 0, 0

    def of_state(self, *states):
        job = self.core.state.job[: len(self.trace.jobs)]
        return [j for j in range(len(job)) if job["state"][j] in states]

    def step(self, *stimuli):
        self.core.step(self.now, stimuli)

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

    @rule(later=st.integers(0, 10**7))
    def terms_due(self, later):
        self.now += later
        self.step(TermsDue())

    @invariant()
    def books(self):
        if hasattr(self, "core"):
            check(self.core, self.fleet, self.terms, self.trace)


Adversary.TestCase.settings = settings(relaxed, max_examples=60, stateful_step_count=40)
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

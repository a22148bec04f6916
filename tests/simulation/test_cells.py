"""Random scenes with cell sites: nobody stands there who may not, all leave in time, and the core's steps are the compiled loop's."""

from dataclasses import replace

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recount import Ground
from scenes import scene
from world import World, check

from dure.model.fleet import WEEK_HOURS, CellHours
from dure.policy.config import named_policy
from dure.policy.kernels import layout as k
from dure.twin.loop import WORD_DTYPE
from dure.twin.radio_words import Words
from dure.twin.replay import replay


def with_cells(seed):
    """The scene of a seed whose second site is a cell site, and jobs that leave more or less quickly."""
    fleet, terms, trace, faults = scene(seed)
    r = np.random.default_rng(seed + 1)
    hours = tuple(r.choice([0, 250, 500, 1000], WEEK_HOURS).tolist())
    cells = CellHours(int(r.choice([0, 2000, 60_000])), hours, int(r.integers(0, WEEK_HOURS * 3_600_000)))
    sites = [*fleet.sites[:-1], replace(fleet.sites[-1], cells=cells)]
    trace.jobs["grace_ms"] = r.choice([-1, 0, 2000, 30_000, 90_000], len(trace.jobs))
    return replace(fleet, sites=sites), terms, trace, faults


def words_said(seed, fleet):
    """What the radio of the cell site of a seed's scene says, or None: it says nothing."""
    r = np.random.default_rng(seed + 2)
    period_ms, num = int(r.integers(1, 3)) * 24 * 3_600_000, int(r.integers(0, 200))
    if num == 0 or r.random() < 0.3:
        return None
    words = np.zeros(num, WORD_DTYPE)
    words["at_ms"] = np.sort(r.integers(0, period_ms // 120_000, num)) * 120_000
    words["site"] = len(fleet.sites) - 1
    words["lent_milli"] = r.choice([0, 300, 600, 1000], num)
    words["until_ms"] = words["at_ms"] + r.choice([0, 240_000, 840_000, 7_200_000], num)
    return Words(words, period_ms)


@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 1 << 32))
def test_who_stands_at_a_cell_site_may_and_leaves_in_time(seed):
    fleet, terms, trace, faults = with_cells(seed)
    words = words_said(seed, fleet)
    policy = named_policy("dure")
    world = World(Ground(fleet, terms, trace, policy), faults, words)
    core = world.core
    at_site = fleet.nodes["site"] == len(fleet.sites) - 1
    cells = fleet.sites[-1].cells
    grace = np.where(trace.jobs["grace_ms"] < 0, 30_000, trace.jobs["grace_ms"])
    since: dict[int, int] = {}
    while world.advance():
        check(world.ground)
        now = core.now_ms
        since = {n: since.get(n, now) for n in world.withheld}
        for j in world.runs:
            for n in {node for node, _, _ in core.leases(j)}:
                if at_site[n]:
                    assert grace[j] <= cells.vacate_ms, f"job {j} leaves too slowly"
                if n in since:
                    assert core.state.job[j]["state"] == k.REVOKING, f"job {j} on node {n} was not told"
                    assert now - since[n] <= cells.vacate_ms, f"job {j} is still on node {n}"
    result = replay(trace, fleet, policy, terms, faults=faults, is_rejecting=True, words=words)
    job = core.state.job[: len(trace.jobs)]
    # Of what still ran when the run was given up, the result counts the time up to then too.
    ended = job["end_ms"] >= 0
    assert (job["run_ms"] == result.jobs["run_ms"])[ended].all()
    for field in ("first_start_ms", "end_ms", "preemptions", "pool"):
        assert (job[field] == result.jobs[field]).all(), field
    assert result.counters.num_decisions == len(world.log)

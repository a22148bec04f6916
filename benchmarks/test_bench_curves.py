"""Cost of a job where one thing alone varies: the length of the queue, the size of the fleet, the number of shapes.

Eight members own an eighth of the fleet each and lend all of it. Four have work that waits from the start and goes on coming;
the others come in turn for a third of an hour each, take their share back, and borrow. Every shape wants the same GPU
time, so that ranks and the mix of what starts do not depend on how much waits. Measured is a stretch of virtual time in
which the queue stands, after a first one in which it has settled.
"""

from __future__ import annotations

import resource
import time

import numpy as np
import pytest

from dure.core.build import build_state
from dure.model.fleet import uniform_fleet
from dure.model.jobs import Trace, make_jobs
from dure.model.terms import NO_AGREEMENT, AgreementTerms, Member, Pool, Terms
from dure.policy.config import named_policy
from dure.policy.kernels.layout import NEVER_MS
from dure.twin.loop import run_until
from dure.twin.replay import CHUNK, make_world

HOUR_MS = 3_600_000
MEMBERS, LENDERS = 8, 4
SIZES = np.array([1, 2, 4, 8, 16, 32, 64, 128])
SIZE_PARTS = np.array([0.50, 0.12, 0.12, 0.16, 0.04, 0.03, 0.02, 0.01])
#: Mean GPU time of a job, and the spread of its logarithm.
GPU_MS, SIGMA = 4 * HOUR_MS, 1.25
#: What comes, per GPU time of the fleet; it keeps the queue as it is, since short jobs go first and long ones stay.
OFFERED_LOAD = 1.2
TURN_MS = HOUR_MS // 3


def alliance(num_nodes):
    """Eight pools of whole blocks; three quarters of each are its owner's share, and all of it may be lent to all."""
    fleet = uniform_fleet(8 * num_nodes, 8)
    blocks = int(fleet.nodes["block"][-1]) + 1
    fleet.nodes["pool"] = fleet.nodes["owner"] = fleet.nodes["block"] * MEMBERS // blocks
    gpus = np.bincount(fleet.nodes["pool"], minlength=MEMBERS) * 8
    agreement = np.tile(np.arange(MEMBERS, dtype=np.int32), (MEMBERS, 1))
    np.fill_diagonal(agreement, NO_AGREEMENT)
    terms = Terms(
        [Member(f"m{i}") for i in range(MEMBERS)], [Pool(f"p{i}", i, i, i, 0) for i in range(MEMBERS)],
        np.diag(gpus * 3 // 4), [AgreementTerms(f"a{i}", i, int(gpus[i]), 60_000) for i in range(MEMBERS)], agreement,
    )  # fmt: skip
    return fleet, terms


def standing_load(num_waiting, num_projects, span_ms, fleet, terms):
    """Jobs that fill the fleet, `num_waiting` more that wait from the start, and those that come until `span_ms`."""
    rng = np.random.Generator(np.random.Philox(key=7))
    num_first = num_waiting + int(1.6 * fleet.num_gpus / (SIZES * SIZE_PARTS).sum())
    num_coming = int(OFFERED_LOAD * fleet.num_gpus * span_ms / GPU_MS)
    num = num_first + num_coming
    jobs = make_jobs(num)
    jobs["submit_ms"][num_first:] = np.sort(rng.integers(1, span_ms, num_coming))
    turn = MEMBERS - LENDERS + jobs["submit_ms"] // TURN_MS % LENDERS
    has_turn = (jobs["submit_ms"] > 0) & (rng.random(num) < 0.5)
    jobs["member"] = np.where(has_turn, turn, rng.integers(0, MEMBERS - LENDERS, num))
    jobs["user"] = jobs["member"] * 10 + rng.integers(0, 10, num)
    jobs["project"] = jobs["member"] * num_projects + rng.integers(0, num_projects, num)
    jobs["num_gpus"] = jobs["min_gpus"] = jobs["max_gpus"] = rng.choice(SIZES, num, p=SIZE_PARTS)
    gpu_ms = GPU_MS * np.exp(SIGMA * rng.standard_normal(num) - SIGMA**2 / 2)
    jobs["duration_ms"] = np.maximum(gpu_ms / jobs["num_gpus"], 1000)
    jobs["checkpoint_ms"] = np.where(rng.random(num) < 0.8, 600_000, 0)
    return Trace(
        jobs, list(map(str, range(num))), [m.name for m in terms.members],
        [f"p{i}" for i in range(num_projects * MEMBERS)], [f"u{i}" for i in range(10 * MEMBERS)], [], "standing queue",
    )  # fmt: skip


def measure(benchmark, once, num_waiting, num_nodes, num_projects, settle_ms, span_ms):
    """Run the load and time the moments from `settle_ms` to `span_ms`."""
    fleet, terms = alliance(num_nodes)
    trace = standing_load(num_waiting, num_projects, span_ms, fleet, terms)
    built = build_state(fleet, terms, trace, named_policy("dure"))
    world, g = make_world(trace, fleet, built, NEVER_MS - 1), built.state.g[0]

    def run(until_ms):
        cpu = time.process_time()
        while run_until(built.state, world, until_ms, NEVER_MS, CHUNK):
            pass
        return time.process_time() - cpu

    run(settle_ms)
    jobs, events, preemptions, waiting = int(world.w[0]["num_ended"]), int(world.w[0]["num_events"]), int(g["preemptions"]), int(g["queue_jobs"])
    cpu_s = once(lambda: run(span_ms))
    jobs, events = int(world.w[0]["num_ended"]) - jobs, int(world.w[0]["num_events"]) - events
    num_shapes = int((built.state.cls["count"] > 0).sum())
    benchmark.extra_info.update(
        jobs=jobs, gpus=fleet.num_gpus, nodes=num_nodes, queue_jobs_max=max(waiting, int(g["queue_jobs"])),
        shapes_waiting=num_shapes, preemptions=int(g["preemptions"]) - preemptions, cpu_s=round(cpu_s, 3),
        us_per_job=round(cpu_s / jobs * 1e6, 2), ns_per_event=round(cpu_s / events * 1e9),
        peak_rss_mb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        used=round(int(g["used_milli"]) / 1000 / fleet.num_gpus, 3),
    )  # fmt: skip
    assert g["used_milli"] > 950 * fleet.num_gpus
    assert min(waiting, int(g["queue_jobs"])) > num_waiting // 5


@pytest.mark.parametrize("num_waiting", [10_000, 100_000, 1_000_000])
def test_queue_length(benchmark, once, num_waiting):
    """512 nodes, 64 shapes; jobs that end in twelve hours."""
    measure(benchmark, once, num_waiting, 512, 1, 2 * HOUR_MS, 14 * HOUR_MS)


@pytest.mark.parametrize(("num_nodes", "hours"), [(1_000, 8), (10_000, 2), (32_500, 1), (125_000, 1)])
def test_fleet_size(benchmark, once, num_nodes, hours):
    """Four jobs a node wait at first, 64 shapes; jobs that end in some hours, fewer where more end in one."""
    measure(benchmark, once, 4 * num_nodes, num_nodes, 1, HOUR_MS, (hours + 1) * HOUR_MS)


@pytest.mark.parametrize("num_projects", [1, 8, 32])
def test_shapes(benchmark, once, num_projects):
    """2,000 nodes, 100,000 jobs wait; each member's jobs have eight sizes in each of its projects."""
    measure(benchmark, once, 100_000, 2_000, num_projects, HOUR_MS, 3 * HOUR_MS)

"""Kinds of work with speeds of their own, and network bandwidth beside the GPUs."""

import numpy as np
import pytest

from dure.core.build import build_state
from dure.model.fleet import NODE_DTYPE, Fleet, GpuType, Site, uniform_fleet
from dure.model.jobs import Trace, WorkProfile, make_jobs
from dure.model.terms import Member, Pool, Terms
from dure.policy.config import named_policy
from dure.twin.replay import replay


def two_types():
    """One 8-GPU node of each of two types, both the one member's."""
    nodes = np.zeros(2, NODE_DTYPE)
    nodes["num_gpus"], nodes["cpu_milli"], nodes["mem_mib"] = 8, 1 << 40, 1 << 40
    for name in ("rack", "block", "cluster", "pool", "gpu_type"):
        nodes[name] = [0, 1]
    fleet = Fleet(nodes, [GpuType("slow", 1000), GpuType("fast", 2000)], [Site("s")], ["a", "b"], [])
    pools = [Pool("slow", 0, 0, 0, 0), Pool("fast", 0, 0, 1, 1)]
    return fleet, Terms([Member("m")], pools, np.array([[8, 8]]), [], np.full((1, 2), -1, np.int32))


@pytest.mark.parametrize(
    ("profile", "pool", "ran_ms"),
    [(None, 1, 50_000), ({"fast": 4000}, 1, 25_000), ({"slow": 3000}, 0, 33_334), ({"FAST": 500}, 0, 100_000)],
)
def test_work_goes_where_it_runs_fastest(profile, pool, ran_ms):
    fleet, terms = two_types()
    jobs = make_jobs(1)
    jobs["duration_ms"] = 100_000
    profiles = () if profile is None else (WorkProfile("kind", profile),)
    jobs["profile"] = -1 if profile is None else 0
    trace = Trace(jobs, ["0"], ["m"], ["p"], ["u"], [], "speed", profiles=profiles)
    done = replay(trace, fleet, named_policy("dure"), terms).jobs[0]
    assert (done["pool"], done["run_ms"]) == (pool, ran_ms)


def network(node_mbps, job_mbps, num=2):
    fleet = uniform_fleet(8, 8)
    fleet.nodes["net_mbps"] = node_mbps
    jobs = make_jobs(num)
    jobs["num_gpus"] = jobs["min_gpus"] = jobs["max_gpus"] = 2
    jobs["duration_ms"], jobs["net_mbps"] = 1000, job_mbps
    trace = Trace(jobs, [str(i) for i in range(num)], ["m"], ["p"], ["u"], [], "network")
    return trace, fleet


@pytest.mark.parametrize(
    ("node_mbps", "job_mbps", "waits"),
    [(400, 200, [0, 0]), (400, 220, [0, 1000]), (0, 10**9, [0, 0])],
    ids=["both fit", "one waits for the other's bandwidth", "not given: never in the way"],
)
def test_bandwidth_is_shared_like_cpu(node_mbps, job_mbps, waits):
    trace, fleet = network(node_mbps, job_mbps)
    assert sorted(replay(trace, fleet, named_policy("dure")).jobs["wait_ms"]) == waits


def test_a_job_that_wants_more_than_a_node_has_can_never_run():
    trace, fleet = network(400, 402, 1)
    assert build_state(fleet, None, trace, named_policy("dure")).state.cls["num_pools"][0] == 0

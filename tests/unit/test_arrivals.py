"""A job that comes at the moment when something else changes is tried on all that is free before room is made for it."""

import numpy as np
import pytest

from dure.model.fleet import uniform_fleet
from dure.model.jobs import Trace, make_jobs
from dure.model.terms import NO_AGREEMENT, AgreementTerms, Member, Pool, Terms
from dure.policy.config import named_policy
from dure.twin.replay import replay


def scene(rows):
    """Jobs as (submit s, run s, GPUs, member); limits that the second one overruns."""
    jobs = make_jobs(len(rows))
    for job, (submit, run, gpus, member) in zip(jobs, rows, strict=True):
        job["submit_ms"], job["duration_ms"], job["member"] = submit * 1000, run * 1000, member
        job["num_gpus"] = job["min_gpus"] = job["max_gpus"] = gpus
        job["limit_ms"] = 5_000
    return Trace(jobs, list(map(str, range(len(rows)))), ["a", "b"], ["p"], ["u"], [], "scene")


def test_no_nodes_are_held_while_others_are_free():
    """One GPU comes free on a node whose other job is overdue, just when a whole node is asked for."""
    trace = scene([(0, 10, 1, 0), (0, 100, 7, 0), (10, 10, 8, 0)])
    jobs = replay(trace, uniform_fleet(16, 8), named_policy("easy")).jobs
    assert jobs["first_start_ms"].tolist() == [0, 0, 10_000]


@pytest.mark.parametrize("owner_gpus", [4, 8])
def test_no_borrower_leaves_while_others_gpus_are_free(owner_gpus):
    """One GPU of a borrower comes free on one node, just when the owner wants more than that; another node is free."""
    trace = scene([(0, 10, 1, 1), (0, 100, 7, 1), (10, 10, owner_gpus, 0)])
    terms = Terms(
        [Member("a"), Member("b")], [Pool("p", 0, 0, 0, 0)], np.array([[16], [0]]),
        [AgreementTerms("loan", 0, 16, 60_000)], np.array([[NO_AGREEMENT], [0]], np.int32),
    )  # fmt: skip
    result = replay(trace, uniform_fleet(16, 8), named_policy("dure"), terms)
    assert result.jobs["first_start_ms"].tolist() == [0, 0, 10_000]
    assert result.counters.num_preemptions == 0

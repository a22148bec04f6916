"""What the default's rank is made of: neighbours' lengths, and the wait that one in a hundred exceeds (rule 3)."""

from __future__ import annotations

import numpy as np
import pytest

from dure.core.step import Core
from dure.model.fleet import uniform_fleet
from dure.model.jobs import Trace, make_jobs
from dure.policy.config import named_policy
from dure.policy.kernels import layout as k
from dure.policy.kernels.queue import expected_rest_ms, join_likes, long_wait_of, rank_of, wait_bucket

HOUR_MS = 3_600_000
JOB = 8


def sweep(num_jobs=17):
    """A core that knows some one-GPU jobs of one member, none submitted yet."""
    jobs = make_jobs(num_jobs)
    jobs["submit_ms"], jobs["duration_ms"] = np.arange(num_jobs) * 1000, HOUR_MS
    jobs["num_gpus"] = jobs["min_gpus"] = jobs["max_gpus"] = 1
    trace = Trace(jobs, [str(i) for i in range(num_jobs)], ["m"], ["p"], ["u"], [], "sweep")
    return Core(uniform_fleet(8, 8), None, trace, named_policy("dure")).state


def expected_h(before, after, done_h=0.0):
    """Rest in hours of the middle one of 17 jobs, of which those before and after are in some state after ten hours."""
    state = sweep()
    for j in range(17):
        join_likes(state, j)
    for jobs, at in ((range(JOB), before), (range(JOB + 1, 17), after)):
        state.job["state"][list(jobs)], state.job["done_ms"][list(jobs)] = at, 10 * HOUR_MS
    state.job["state"][JOB] = k.PENDING
    return expected_rest_ms(state, JOB, int(done_h * HOUR_MS)) / HOUR_MS


def test_neighbours_that_ended_tell_the_length():
    assert 9 < expected_h(k.ENDED, k.ENDED) < 10


def test_a_neighbour_that_has_not_ended_counts_with_what_it_has_run():
    assert expected_h(k.PENDING, k.PENDING) > 100 > expected_h(k.ENDED, k.PENDING) > 15


def test_neighbours_that_ended_before_tell_nothing():
    assert expected_h(k.ENDED, k.ENDED, done_h=11) == pytest.approx(11, abs=0.01)


def test_jobs_to_come_tell_nothing():
    state = sweep()
    join_likes(state, JOB)
    state.job["state"][JOB + 1 :], state.job["done_ms"][JOB + 1 :] = k.ENDED, 10 * HOUR_MS
    assert expected_rest_ms(state, JOB, 0) == named_policy("dure").default_ms


def test_like_jobs_are_chained_as_they_come():
    state = sweep()
    assert (state.job["like_next"] == -1).all()
    assert (state.job["like_prev"] == k.NOT_CHAINED).all()
    for j in (2, 5, 3, 5):
        join_likes(state, j)
    assert [int(j) for j in state.job["like_prev"][[2, 5, 3]]] == [-1, 2, 5]
    assert [int(j) for j in state.job["like_next"][[2, 5, 3]]] == [5, 3, -1]


@pytest.mark.parametrize("num", [100, 1000, 30_000])
def test_the_long_wait_is_the_ninety_ninth_hundredth(num):
    waits_ms = np.random.default_rng(num).lognormal(15, 2, num).astype(np.int64)
    counts = np.bincount([wait_bucket(int(w)) for w in waits_ms], minlength=k.NUM_WAITS).astype(np.int32)
    above = np.sort(waits_ms)[::-1]
    assert above[num // 100] * 0.88 <= long_wait_of(counts) <= above[num // 100 - 1] * 1.13


def test_who_waits_goes_ahead_until_the_long_wait_and_last_after_it():
    state = sweep()
    state.member["long_wait_ms"] = 100 * HOUR_MS
    ranks = []
    for wait_h in (0, 50, 90, 99, 101):
        state.job["wait_ms"][JOB] = wait_h * HOUR_MS
        ranks.append(rank_of(state, JOB, 0))
    assert ranks[0] > ranks[1] > ranks[2] > ranks[3]
    assert ranks[4] - ranks[0] > 30 * named_policy("dure").rank_step_ms

"""What is to be expected from a moment on, by what is known then: predicted run times, no job to come, no fault."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.model.jobs import Trace
from dure.policy.kernels import layout as k
from dure.policy.kernels.layout import State
from dure.twin.loop import DELIVERY, World, expect, run_until
from dure.twin.result import PROMISE_DTYPE

#: Events between two returns from the compiled loop.
CHUNK = 200_000


def even_moments(trace: Trace, num: int) -> list[int]:
    """`num` moments, ms, at equal distances between the first submission and the last, both left out."""
    submit = trace.jobs["submit_ms"]
    if len(submit) == 0:
        return []
    first, last = int(submit.min()), int(submit.max())
    return [first + (last - first) * (i + 1) // (num + 1) for i in range(num)]


def expected_starts(
    state: State, world: World, at_ms: int, *, is_told: bool = False
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The jobs that wait at a moment, and the next start that is expected of each.

    Each running or waiting job is given the run time that the policy predicts from the jobs that have ended; nodes
    that are to be delivered come, failures, also of jobs, and repairs do not.

    Parameters
    ----------
    state : State
        Of a run that has come to `at_ms`, at rest. It is used up: give a copy of what is still needed.
    world : World
        Of that run; not changed.
    is_told : bool
        Take the true run times instead. A yardstick: what is left of the error is due to later jobs and faults.

    Returns
    -------
    waiting, start_ms : ndarray of int64, shape (n,)
        Indices of the jobs in ascending order; starts from the trace's start, -1: not within what is known.
    """
    known = _without_news(world, at_ms)
    state.g[0]["now_ms"] = at_ms
    state.g[0]["num_jobs"] = known.w[0]["next_job"]
    known.w[0]["moved_ms"] = at_ms
    job = state.job
    waiting = np.flatnonzero((job["state"] == k.PENDING) | (job["state"] == k.RESERVED))
    # What is asked for is the next start, also of a job that has run before.
    job["first_start_ms"][waiting] = -1
    if not is_told:
        expect(state, known)
        # With half a speed to spare: the slowest type is not known here.
        known.w[0]["give_up_ms"] = max(known.w[0]["give_up_ms"], 4 * known.truth_ms.max(initial=0))
    while run_until(state, known, k.NEVER_MS - 1, k.NEVER_MS, CHUNK):
        pass
    return waiting, job["first_start_ms"][waiting].copy()


def _without_news(world: World, at_ms: int) -> World:
    """The twin's world without what nobody can know yet, and without its recorder."""
    is_known = world.fault_kind == DELIVERY
    is_known[: world.w[0]["next_fault"]] = False
    w, kind = world.w.copy(), world.kind.copy()
    for name in ("next_fault", "num_samples", "num_latencies", "num_promises"):
        w[name] = 0
    # Of what radios have said the end is known, and that their hours count then.
    w["turn_at_ms"] = world.cell_until_ms[world.cell_until_ms > at_ms].min(initial=k.NEVER_MS)
    kind["mean_to_failure_ms"] = 0
    return world.copy(
        fault_at_ms=world.fault_at_ms[is_known], fault_node=world.fault_node[is_known],
        fault_kind=world.fault_kind[is_known], samples=world.samples[:0], latency_ms=world.latency_ms[:0],
        promise=np.zeros(0, PROMISE_DTYPE), last_promise=np.full_like(world.last_promise, -1), kind=kind, w=w,
        word=world.word[:0],
    )  # fmt: skip

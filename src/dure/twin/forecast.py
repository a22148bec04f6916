"""When will the waiting jobs start? The twin goes on from a moment with predicted, never true, run times."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dure.core.build import build_state
from dure.model.errors import InputError
from dure.model.fleet import Fleet
from dure.model.jobs import Trace
from dure.model.terms import Terms
from dure.policy.config import Policy
from dure.policy.kernels import layout as k
from dure.policy.kernels.queue import predict_rest_ms
from dure.twin.loop import retime, run_until
from dure.twin.replay import CHUNK, make_world


@dataclass(frozen=True)
class ForecastRow:
    """One waiting job. ``expected_start_ms`` is from the trace's start; -1: not within what is known."""

    job_id: str
    member: str
    num_gpus: int
    waited_ms: int
    expected_start_ms: int


def forecast(trace: Trace, fleet: Fleet, policy: Policy, at_ms: int, terms: Terms | None = None) -> list[ForecastRow]:
    """Expected starts of all jobs that wait at a moment of a replay, if no job came after it.

    Up to `at_ms` the trace runs as it was. From then on each running or waiting job is given the run time that
    the policy predicts from the jobs that had ended by then.

    Raises
    ------
    InputError
        The moment lies before the first submission.
    """
    jobs = trace.jobs
    if len(jobs) == 0 or at_ms < int(jobs["submit_ms"].min()):
        raise InputError("nothing has been submitted by then", trace.source, field="--at")
    known = np.flatnonzero(jobs["submit_ms"] <= at_ms)
    past = trace.rows(known)
    built = build_state(fleet, terms, past, policy)
    world = make_world(past, fleet, built, at_ms)
    state = built.state
    while run_until(state, world, at_ms, k.NEVER_MS, CHUNK):
        pass
    job = state.job[: len(known)]
    waiting = np.flatnonzero((job["state"] == k.PENDING) | (job["state"] == k.RESERVED))
    waited = np.where(job["state"] == k.PENDING, at_ms - job["queued_ms"], 0)[waiting]
    state.g[0]["now_ms"] = at_ms
    alive = np.flatnonzero(np.isin(job["state"], (k.PENDING, k.RESERVED, k.RUNNING, k.REVOKING)))
    # What is asked for is the next start, also of a job that has run before.
    job["first_start_ms"][waiting] = -1
    for j in alive:
        done = int(job["done_ms"][j])
        if job["state"][j] in (k.RUNNING, k.REVOKING):
            done += (at_ms - int(job["since_ms"][j])) * int(job["rate_milli"][j]) // 1000
        held = int(job["done_ms"][j])
        job["done_ms"][j] = done
        world.truth_ms[j] = done + predict_rest_ms(state, int(j))
        job["done_ms"][j] = held
    for j in alive:
        retime(state, world, int(j))
    while run_until(state, world, k.NEVER_MS - 1, k.NEVER_MS, CHUNK):
        pass
    rows = []
    for j, waited_ms in zip(waiting, waited, strict=True):
        rows.append(
            ForecastRow(
                past.job_ids[j], past.members[int(past.jobs["member"][j])], int(past.jobs["num_gpus"][j]),
                int(waited_ms), int(job["first_start_ms"][j]),
            )
        )  # fmt: skip
    return rows

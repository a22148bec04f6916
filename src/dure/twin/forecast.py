"""When will the waiting jobs start, and why do they wait? Asked of the twin at one moment of a replay."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dure.core.build import build_state
from dure.core.explain import Explainer, Explanation
from dure.model.errors import InputError
from dure.model.fleet import Fleet
from dure.model.jobs import Trace
from dure.model.terms import Terms
from dure.policy.config import Policy
from dure.policy.kernels import layout as k
from dure.twin.foresight import CHUNK, expected_starts
from dure.twin.loop import run_until
from dure.twin.replay import check_run_times, make_world


@dataclass(frozen=True)
class ForecastRow:
    """One waiting job.

    Attributes
    ----------
    waited_ms : int
        Since it was last queued; 0 for one that is reserved for later.
    expected_start_ms : int
        From the trace's start; -1: not within what is known.
    why : Explanation
        What keeps it waiting at the moment asked for (rule 11); names jobs by their ids.
    """

    job_id: str
    member: str
    num_gpus: int
    waited_ms: int
    expected_start_ms: int
    why: Explanation


def forecast(trace: Trace, fleet: Fleet, policy: Policy, at_ms: int, terms: Terms | None = None) -> list[ForecastRow]:
    """Expected starts of all jobs that wait at a moment of a replay, if no job came after it, and why each waits.

    Up to `at_ms` the trace runs as it was; for what follows see `expected_starts`.

    Raises
    ------
    InputError
        The moment lies before the first submission, or a job that came by then has no run time.
    """
    jobs = trace.jobs
    if len(jobs) == 0 or at_ms < int(jobs["submit_ms"].min()):
        raise InputError("nothing has been submitted by then", trace.source, field="--at")
    past = trace.rows(np.flatnonzero(jobs["submit_ms"] <= at_ms))
    check_run_times(past)
    built = build_state(fleet, terms, past, policy)
    world = make_world(past, fleet, built, at_ms)
    state, job = built.state, built.state.job
    while run_until(state, world, at_ms, k.NEVER_MS, CHUNK):
        pass
    state.g[0]["now_ms"] = at_ms
    explainer = Explainer(built, past.job_ids, withheld=np.flatnonzero(world.withheld))
    return [
        ForecastRow(
            past.job_ids[j], past.members[int(past.jobs["member"][j])], int(past.jobs["num_gpus"][j]),
            at_ms - int(job["queued_ms"][j]) if job["state"][j] == k.PENDING else 0, int(start_ms),
            explainer.explain(int(j)),
        )
        for j, start_ms in zip(*expected_starts(state.copy(), world, at_ms), strict=True)
    ]  # fmt: skip

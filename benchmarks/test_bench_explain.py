"""Time to say why a job waits, on the reference alliance with queues formed."""

from __future__ import annotations

import statistics
import time

import numpy as np

from dure.core.build import build_state
from dure.core.explain import Explainer
from dure.policy.config import named_policy
from dure.policy.kernels import layout as k
from dure.twin.generate import scale_load
from dure.twin.inputs import reference_alliance
from dure.twin.loop import run_until
from dure.twin.replay import CHUNK, make_world


def test_explain(benchmark, once):
    """Each of up to 1,000 waiting jobs by itself: nothing is kept from one question to the next."""
    fleet, terms = reference_alliance(260_000)
    trace = scale_load(300_000, fleet, terms)
    built = build_state(fleet, terms, trace, named_policy("dure"))
    at_ms = int(trace.jobs["submit_ms"][-1])
    world = make_world(trace, fleet, built, at_ms)
    while run_until(built.state, world, at_ms, k.NEVER_MS, CHUNK):
        pass
    waiting = np.flatnonzero(built.state.job["state"] == k.PENDING)
    asked = waiting[:: max(1, len(waiting) // 1000)][:1000]
    Explainer(built).explain(int(asked[0]))

    def ask():
        took = []
        for j in asked:
            start = time.perf_counter()
            Explainer(built).explain(int(j))
            took.append((time.perf_counter() - start) * 1e3)
        return took

    took = once(ask)
    benchmark.extra_info.update(
        waiting=len(waiting), asked=len(asked), median_ms=round(statistics.median(took), 2), worst_ms=round(max(took), 2)
    )
    assert len(asked) > 0

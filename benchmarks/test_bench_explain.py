"""Time to say why a job waits, and to forecast all that wait, on the reference alliance with queues formed."""

from __future__ import annotations

import json
import statistics
import time

import numpy as np

from dure.cli.twin import as_json
from dure.core.build import build_state
from dure.core.explain import Explainer
from dure.policy.config import named_policy
from dure.policy.kernels import layout as k
from dure.twin.forecast import forecast
from dure.twin.foresight import CHUNK, even_moments
from dure.twin.generate import scale_load
from dure.twin.inputs import reference_alliance
from dure.twin.loop import run_until
from dure.twin.replay import make_world
from dure.twin.traces.shape import rescale_arrivals

NUM_ASKED_MIN = 1_000


def explain_ms(built, j):
    """Milliseconds for one job's explanation, of which nothing is kept for the next."""
    start = time.perf_counter()
    Explainer(built).explain(int(j))
    return (time.perf_counter() - start) * 1e3


def test_explain(benchmark, once):
    """All jobs that wait at each of 40 moments of the load of `dure bench scale`, each by itself."""
    fleet, terms = reference_alliance(260_000)
    trace = scale_load(1_000_000, fleet, terms)
    built = build_state(fleet, terms, trace, named_policy("dure"))
    world = make_world(trace, fleet, built, int(trace.jobs["submit_ms"][-1]))
    took, waiting_max = [], 0

    def ask():
        nonlocal waiting_max
        for at_ms in even_moments(trace, 40):
            while run_until(built.state, world, at_ms, k.NEVER_MS, CHUNK):
                pass
            waiting = np.flatnonzero(built.state.job["state"] == k.PENDING)
            waiting_max = max(waiting_max, len(waiting))
            # The better of two: the first may have to load a kernel, or be interrupted.
            took.extend(min(explain_ms(built, j), explain_ms(built, j)) for j in waiting)

    once(ask)
    benchmark.extra_info.update(
        asked=len(took), waiting_max=waiting_max, median_ms=round(statistics.median(took), 3),
        p99_ms=round(float(np.quantile(took, 0.99)), 3), worst_ms=round(max(took), 3),
    )  # fmt: skip
    assert len(took) >= NUM_ASKED_MIN


def test_forecast_with_thousands_waiting(benchmark, once):
    """The same load in 60% of the time, at the last submission: every waiting job's start, reasons and JSON."""
    fleet, terms = reference_alliance(260_000)
    trace = rescale_arrivals(scale_load(300_000, fleet, terms), 0.6)
    at_ms = int(trace.jobs["submit_ms"][-1])
    rows = once(lambda: forecast(trace, fleet, named_policy("dure"), at_ms, terms))
    text = json.dumps([as_json(row) for row in rows])
    benchmark.extra_info.update(waiting=len(rows), json_mb=round(len(text) / 1e6, 1))
    assert len(rows) >= NUM_ASKED_MIN
    assert all(row.expected_start_ms > at_ms for row in rows)

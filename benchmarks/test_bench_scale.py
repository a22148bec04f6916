"""Cost of a job: over the load, the size of the fleet and the length of the queue."""

from __future__ import annotations

import numpy as np
import pytest

from dure.model.fleet import uniform_fleet
from dure.model.jobs import Trace, make_jobs
from dure.model.terms import single_member_terms
from dure.policy.config import named_policy
from dure.twin.generate import scale_load
from dure.twin.inputs import reference_alliance
from dure.twin.replay import replay


def keep(benchmark, result):
    """Figures beside the time; the time itself has the building of the state in it."""
    num_jobs = len(result.trace.jobs)
    benchmark.extra_info.update(
        jobs=num_jobs, gpus=result.fleet.num_gpus, nodes=len(result.fleet.nodes), cpu_s=round(result.cpu_s, 3),
        us_per_job=round(result.cpu_s / num_jobs * 1e6, 2),
        ns_per_event=round(result.cpu_s / result.counters.num_events * 1e9),
        peak_rss_mb=round(result.peak_rss_mb), preemptions=result.counters.num_preemptions,
        queue_jobs_max=int(result.series.queue_jobs.max()), digest=result.digest,
    )  # fmt: skip


@pytest.mark.parametrize("num_jobs", [10_000, 100_000, 1_000_000])
def test_reference_alliance(benchmark, once, num_jobs):
    """The whole policy on 260,000 GPUs: queues form, members borrow, owners reclaim."""
    fleet, terms = reference_alliance(260_000)
    trace = scale_load(num_jobs, fleet, terms)
    result = once(lambda: replay(trace, fleet, named_policy("dure"), terms, is_rejecting=True))
    keep(benchmark, result)
    benchmark.extra_info["lent_gpu_hours"] = round(float(result.lent_gpu_ms.sum()) / 3.6e6)
    assert result.lent_gpu_ms.sum() > 0


@pytest.mark.parametrize("num_nodes", [1_000, 10_000, 32_500, 125_000])
def test_nodes(benchmark, once, num_nodes):
    """One pool of 8-GPU nodes and a load in proportion: four jobs a node."""
    fleet = uniform_fleet(8 * num_nodes, 8)
    terms = single_member_terms(fleet.num_gpus)
    trace = scale_load(4 * num_nodes, fleet, terms)
    keep(benchmark, once(lambda: replay(trace, fleet, named_policy("dure"), terms)))


@pytest.mark.parametrize("policy", ["fifo", "dure"])
@pytest.mark.parametrize("num_jobs", [10_000, 100_000, 1_000_000])
def test_waiting(benchmark, once, num_jobs, policy):
    """All jobs, of three hours on average, come in one hour and wait: 1,000 nodes work the queue off."""
    fleet = uniform_fleet(8_000, 8)
    rng = np.random.Generator(np.random.Philox(key=7))
    jobs = make_jobs(num_jobs)
    jobs["submit_ms"] = np.sort(rng.integers(0, 3_600_000, num_jobs))
    jobs["duration_ms"] = rng.lognormal(15.5, 1.2, num_jobs).astype(np.int64) + 60_000
    jobs["num_gpus"] = 1 << rng.choice(7, num_jobs, p=[0.5, 0.1, 0.1, 0.2, 0.05, 0.03, 0.02])
    jobs["min_gpus"] = jobs["max_gpus"] = jobs["num_gpus"]
    jobs["checkpoint_ms"] = 600_000
    jobs["user"] = rng.integers(0, 50, num_jobs)
    users = [f"u{i}" for i in range(50)]
    trace = Trace(jobs, list(map(str, range(num_jobs))), ["all"], ["all"], users, [], "queue benchmark")
    result = once(lambda: replay(trace, fleet, named_policy(policy)))
    keep(benchmark, result)
    assert result.series.queue_jobs.max() > num_jobs // 4

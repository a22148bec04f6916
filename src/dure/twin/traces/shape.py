"""Cut and stretch a trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dure.model.errors import InputError
from dure.model.jobs import Trace


def select_members(trace: Trace, names: Sequence[str]) -> Trace:
    """The jobs of some members, from the first of them on.

    Raises
    ------
    InputError
        A name is not a member's.
    """
    for name in names:
        if name not in trace.members:
            raise InputError(f"no member {name!r}", trace.source, field="member")
    wanted = [trace.members.index(name) for name in names]
    keep = np.flatnonzero(np.isin(trace.jobs["member"], wanted))
    jobs = trace.jobs[keep]
    where = np.zeros(len(trace.members), np.int32)
    where[wanted] = np.arange(len(wanted))
    jobs["member"] = where[jobs["member"]]
    if len(jobs):
        jobs["submit_ms"] -= jobs["submit_ms"][0]
    return replace(
        trace, jobs=jobs, job_ids=[trace.job_ids[i] for i in keep], members=list(names),
        extra={k: v[keep] for k, v in trace.extra.items()},
    )  # fmt: skip


def head(trace: Trace, num_jobs: int) -> Trace:
    """The first jobs."""
    return replace(
        trace, jobs=trace.jobs[:num_jobs], job_ids=trace.job_ids[:num_jobs],
        extra={k: v[:num_jobs] for k, v in trace.extra.items()},
    )  # fmt: skip


def capacity_for_load(trace: Trace, load: float) -> int:
    """GPUs, rounded up, for which GPU-time asked ÷ (span of submissions × GPUs) is `load`."""
    jobs = trace.jobs
    span = max(int(jobs["submit_ms"].max() - jobs["submit_ms"].min()), 1)
    need = float((jobs["duration_ms"] * jobs["num_gpus"].astype(float) * jobs["gpu_milli"] / 1000).sum())
    return max(int(np.ceil(need / span / load)), 1)

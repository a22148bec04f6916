"""Cut and stretch a trace."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dure.model.errors import InputError
from dure.model.jobs import Trace
from dure.twin.traces.text import TIME_S_MAX


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
    chosen = trace.rows(keep)
    jobs = chosen.jobs
    where = np.zeros(len(trace.members), np.int32)
    where[wanted] = np.arange(len(wanted))
    jobs["member"] = where[jobs["member"]]
    if len(jobs):
        first = int(jobs["submit_ms"][0])
        jobs["submit_ms"] -= first
        for name in ("deadline_ms", "begin_ms"):
            jobs[name][jobs[name] >= 0] -= first
    return replace(chosen, members=list(names))


def head(trace: Trace, num_jobs: int) -> Trace:
    """The first jobs."""
    return trace.rows(np.arange(min(num_jobs, len(trace.jobs))))


def rescale_arrivals(trace: Trace, factor: float) -> Trace:
    """Submissions `factor` times as far apart (below 1: denser load); a deadline or reservation keeps its distance.

    Raises
    ------
    InputError
        The factor is not above 0, or so large that times overflow.
    """
    last = int(trace.jobs["submit_ms"].max(initial=0))
    if not (factor > 0 and last * factor < TIME_S_MAX * 1000):
        raise InputError(f"must be above 0, with the last submission before 4e9 s, not {factor}", trace.source,
                         field="factor")  # fmt: skip
    jobs = trace.jobs.copy()
    jobs["submit_ms"] = np.rint(jobs["submit_ms"] * factor)
    for name in ("deadline_ms", "begin_ms"):
        due = jobs[name] >= 0
        jobs[name][due] += (jobs["submit_ms"] - trace.jobs["submit_ms"])[due]
    return replace(trace, jobs=jobs)


def with_checkpoints(trace: Trace, interval_ms: int) -> Trace:
    """The same load with a checkpoint interval for every job, where the source records none of any job.

    Without it a preemptive policy would make every victim start anew; the published ones assume that none does.
    """
    if interval_ms <= 0 or (trace.jobs["checkpoint_ms"] > 0).any():
        return trace
    jobs = trace.jobs.copy()
    jobs["checkpoint_ms"] = interval_ms
    return replace(trace, jobs=jobs)


def capacity_for_load(trace: Trace, load: float) -> int:
    """GPUs, rounded up, for which GPU-time asked ÷ (span of submissions × GPUs) is `load`.

    Raises
    ------
    InputError
        The load is not above 0, the trace is empty, or a job's run time is not known.
    """
    jobs = trace.jobs
    if not (math.isfinite(load) and load > 0):
        raise InputError(f"must be above 0, not {load}", trace.source, field="load")
    if len(jobs) == 0 or (jobs["duration_ms"] < 0).any():
        num_unknown = int((jobs["duration_ms"] < 0).sum())
        raise InputError(f"{num_unknown:,} of {len(jobs):,} jobs have no run time, so the load is not known",
                         trace.source, field="duration")  # fmt: skip
    span = max(int(jobs["submit_ms"].max() - jobs["submit_ms"].min()), 1)
    need = float((jobs["duration_ms"] * jobs["num_gpus"].astype(float) * jobs["gpu_milli"] / 1000).sum())
    return max(int(np.ceil(need / span / load)), 1)

"""The record of one run: what the twin fills and what metrics, report and Parquet are made from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.model.fleet import Fleet
from dure.model.jobs import Trace
from dure.model.terms import Terms

#: Something that did not happen: a job that never started, has not ended or had no prediction.
NEVER = -1

#: What became of a job (``outcome`` column); the index is the code.
OUTCOMES = ("waiting", "running", "finished", "cancelled", "rejected")
OUTCOME_WAITING, OUTCOME_RUNNING, OUTCOME_FINISHED, OUTCOME_CANCELLED, OUTCOME_REJECTED = range(5)

RESULT_JOB_DTYPE = np.dtype(
    [
        ("first_start_ms", np.int64),  # start of the first attempt; NEVER
        ("end_ms", np.int64),  # finished or cancelled; NEVER while waiting, running or rejected
        ("wait_ms", np.int64),  # all time queued, over all attempts, up to the end of the run
        ("run_ms", np.int64),  # all time on GPUs, over all attempts, lost work included
        ("useful_ms", np.int64),  # work that stands, as run time at the reference speed; so are the next three
        ("lost_ms", np.int64),  # work that was lost to preemption and failure
        ("restart_ms", np.int64),  # starts after the first that were not lost
        ("saving_ms", np.int64),  # standing for checkpoints
        ("borrowed_ms", np.int64),  # part of run_ms on GPUs beyond the member's own guarantee
        ("guarantee_wait_ms", np.int64),  # part of wait_ms in which the job was within its member's guarantee
        ("predicted_start_ms", np.int64),  # by the first forecast that found it waiting for its first start; NEVER
        ("reserved_start_ms", np.int64),  # by the first promise of its first start; NEVER: none made
        ("attempts", np.int32),
        ("preemptions", np.int32),
        ("failures", np.int32),
        ("pool", np.int32),  # pool of the last attempt, index into Terms.pools; NEVER: never started
        ("outcome", np.int8),  # OUTCOME_*
    ],
    align=True,
)


#: Kinds of promised start; the index is the code. The first four are the policy's kinds of hold (rules 5, 1, 6, 5), the
#: last is the twin's own forecast, which binds nobody.
PROMISES = ("backfill", "reclaim", "rank", "reserved", "forecast")
PROMISE_BACKFILL, PROMISE_RECLAIM, PROMISE_RANK, PROMISE_RESERVED, PROMISE_FORECAST = range(5)

#: A start that was promised to a job or foretold, and what came of it.
PROMISE_DTYPE = np.dtype(
    [
        ("job", np.int64),  # index into the jobs
        ("kind", np.int64),  # PROMISE_*
        ("made_ms", np.int64),  # when: at the claim, the submission (reserved) or the forecast
        ("promised_ms", np.int64),  # NEVER: the forecast saw no start
        ("start_ms", np.int64),  # the job's next start after it was made; NEVER: none before the end of the run
        ("before", np.int64),  # row of the job's promise before this one for the same start; NEVER
    ],
    align=True,
)


def make_result_jobs(num_jobs: int) -> NDArray[Any]:
    """A table of ``num_jobs`` waiting jobs to which nothing has happened yet (RESULT_JOB_DTYPE)."""
    jobs = np.zeros(num_jobs, RESULT_JOB_DTYPE)
    for name in ("first_start_ms", "end_ms", "predicted_start_ms", "reserved_start_ms", "pool"):
        jobs[name] = NEVER
    return jobs


def work_gpu_ms(jobs: NDArray[Any], asked: NDArray[Any]) -> NDArray[Any]:
    """GPU-time of each job, shape (J, 4): useful, lost, restarting, saving; parted as its work is.

    Work is counted at the reference speed, time on GPUs as it passes. ``jobs``: RESULT_JOB_DTYPE, ``asked``: JOB_DTYPE.
    """
    parts = np.stack([jobs[name] for name in ("useful_ms", "lost_ms", "restart_ms", "saving_ms")], axis=1).astype(np.float64)
    total = parts.sum(axis=1)
    # Who has just started has run for nothing yet that could be parted.
    parts[total == 0, 0] = 1.0
    held_ms = jobs["run_ms"] * (asked["num_gpus"] * (asked["gpu_milli"] / 1000))
    gpu_ms: NDArray[Any] = parts * (held_ms / np.maximum(total, 1.0))[:, None]
    return gpu_ms


@dataclass(frozen=True)
class Series:
    """The fleet's state, sampled. T samples, M members, S sites; any numeric dtype.

    Each sample is the state just after that moment's decisions; GPUs in fractional use count as fractions.

    Attributes
    ----------
    t_ms : ndarray, shape (T,)
        Moments of the samples from the start of the trace, increasing; steps need not be equal.
    gpus_online : ndarray, shape (T,)
        GPUs on nodes that are delivered, up and not drained.
    gpus_used : ndarray, shape (T,)
        GPUs held by running jobs.
    queue_jobs, queue_gpus : ndarray, shape (T,)
        Jobs that wait, and the GPUs that they ask for.
    fragmented_gpus : ndarray, shape (T,)
        Free GPUs on nodes that are not wholly free.
    whole_nodes_free : ndarray, shape (T,)
        Online nodes on which nothing runs.
    site_power_w : ndarray, shape (S, T)
        Electric power of each site's GPUs and nodes, in watts.
    member_used_gpus : ndarray, shape (M, T)
        GPUs that the member's jobs hold, its own and borrowed ones.
    member_borrowed_gpus : ndarray, shape (M, T)
        The part beyond its guarantee.
    member_lent_gpus : ndarray, shape (M, T)
        GPUs of the member's that others hold.
    member_queued_gpus : ndarray, shape (M, T)
        GPUs that the member's waiting jobs ask for.
    member_credits : ndarray, shape (M, T)
        Karma credits, in normalised GPU-hours; they sum to 0 over the members.
    """

    t_ms: NDArray[Any]
    gpus_online: NDArray[Any]
    gpus_used: NDArray[Any]
    queue_jobs: NDArray[Any]
    queue_gpus: NDArray[Any]
    fragmented_gpus: NDArray[Any]
    whole_nodes_free: NDArray[Any]
    site_power_w: NDArray[Any]
    member_used_gpus: NDArray[Any]
    member_borrowed_gpus: NDArray[Any]
    member_lent_gpus: NDArray[Any]
    member_queued_gpus: NDArray[Any]
    member_credits: NDArray[Any]

    @property
    def power_w(self) -> NDArray[Any]:
        """Electric power of all sites, shape (T,)."""
        total: NDArray[Any] = self.site_power_w.sum(axis=0)
        return total


@dataclass(frozen=True)
class Counters:
    """What happened how often in a run.

    Attributes
    ----------
    num_events : int
        Events taken from the queue: submissions, ends, faults, ticks…
    num_decisions : int
        Starts, preemptions, shrinks and reservations decided.
    num_preemptions : int
        Running jobs stopped by a decision, whole gangs counted once each.
    num_reclaims : int
        Times that an owner took lent GPUs back.
    num_guarantee_breaches : int
        Times that demand within a guarantee was still unmet one notice period after it came up.
    num_backfilled : int
        Starts past a job that waits with a reservation.
    num_node_failures, num_job_failures : int
        Nodes lost, and attempts that ended with them or by themselves.
    num_own_failures : int
        Attempts that ended by themselves (`WorkProfile.failures_per_day`).
    num_quarantined : int
        Nodes taken out because they kept failing.
    num_resizes : int
        Elastic jobs shrunk or grown.
    """

    num_events: int = 0
    num_decisions: int = 0
    num_preemptions: int = 0
    num_reclaims: int = 0
    num_guarantee_breaches: int = 0
    num_backfilled: int = 0
    num_node_failures: int = 0
    num_job_failures: int = 0
    num_own_failures: int = 0
    num_quarantined: int = 0
    num_resizes: int = 0


@dataclass(frozen=True)
class RunResult:
    """All that is known about one run. J jobs, M members, S sites.

    Arrays and trace are held by reference, never copied: treat them as read-only.

    Attributes
    ----------
    trace : Trace
        The load as it was run; its ``member`` column indexes ``terms.members``.
    fleet : Fleet
        The fleet as it was run.
    terms : Terms
        Members, pools, guarantees and agreements as they were run.
    policy : str
        Name of the policy.
    seed : int
        Seed of everything random in the run (generated load, faults).
    jobs : ndarray of RESULT_JOB_DTYPE, shape (J,)
        In trace order.
    series : Series
        Sampled state.
    end_ms : int
        End of the run: the last job's end, or the horizon if jobs were still waiting or running then.
    online_gpu_ms : int
        GPUs online, integrated from the first submission to ``end_ms``.
    used_gpu_ms : ndarray of int64, shape (M,)
        GPU-time held by each member's jobs in the same interval, lost work included.
    lost_gpu_ms : ndarray of int64, shape (M,)
        The part of it whose work was lost to preemption and failure, as its share of each job's work.
    lent_gpu_ms : ndarray of int64, shape (M, M)
        GPU-time that the borrower (column) held of the lender's (row); the diagonal is 0.
    energy_wh : ndarray, shape (S,)
        Energy of each site over the run, in watt-hours.
    reclaim_latency_ms : ndarray of int64, shape (num_reclaims,)
        From the owner's demand to its GPUs being in its hands, for each completed reclaim.
    counters : Counters
    wall_s, cpu_s : float
        Time that the run took, without compiling and loading.
    peak_rss_mb : float
        Largest memory of the process so far; 0: not measured.
    digest : str
        SHA-256 over the run's decisions, hex: same input and seed, same digest.
    horizon_ms : int
        Where the run was told to stop; NEVER: when all jobs had ended.
    label : str
        What the run is called beside others where the policy's name is not enough; empty: ``policy``.
    versions : dict of str to str
        Program and library names → versions.
    notes : tuple of str
        What the reader must know about the data and what was assumed; printed in the report.
    promises : ndarray of PROMISE_DTYPE, shape (P,)
        Promised and foretold starts, in the order in which they were made.
    cell_gpu_h : ndarray, shape (24, 2), or (0, 2) where there are no cell sites with hours
        GPU-hours that cell sites had open, and that jobs used of them, by hour of the day; seen every five minutes.
    """

    trace: Trace
    fleet: Fleet
    terms: Terms
    policy: str
    seed: int
    jobs: NDArray[Any]
    series: Series
    end_ms: int
    online_gpu_ms: int
    used_gpu_ms: NDArray[Any]
    lost_gpu_ms: NDArray[Any]
    lent_gpu_ms: NDArray[Any]
    energy_wh: NDArray[Any]
    reclaim_latency_ms: NDArray[Any]
    counters: Counters
    wall_s: float
    cpu_s: float
    peak_rss_mb: float
    digest: str
    horizon_ms: int = NEVER
    label: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    cell_gpu_h: NDArray[Any] = field(default_factory=lambda: np.zeros((0, 2)))
    notes: tuple[str, ...] = ()
    promises: NDArray[Any] = field(default_factory=lambda: np.zeros(0, PROMISE_DTYPE))

    @property
    def name(self) -> str:
        """What tables and plots call the run."""
        return self.label or self.policy

    @property
    def member_names(self) -> list[str]:
        """Names of the members, in the order of all member axes."""
        return [member.name for member in self.terms.members]

    @property
    def start_ms(self) -> int:
        """First submission; 0 for an empty trace."""
        submit_ms = self.trace.jobs["submit_ms"]
        return int(submit_ms.min()) if len(submit_ms) else 0

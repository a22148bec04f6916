"""Jobs as columns: one NumPy record per job, the form every loader makes and the policy reads."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Unknown duration, limit, deadline or count.
UNKNOWN = -1

#: Time to leave of jobs of which none is known.
GRACE_MS = 30_000

#: Largest domain that a job's GPUs may be spread over (``topology`` column).
TOPOLOGY_ANY, TOPOLOGY_NODE, TOPOLOGY_RACK, TOPOLOGY_BLOCK, TOPOLOGY_CLUSTER = 0, 1, 2, 3, 4

JOB_DTYPE = np.dtype(
    [
        ("submit_ms", np.int64),  # from the trace's start, >= 0
        ("duration_ms", np.int64),  # run time on GPUs of speed 1.0 with num_gpus GPUs; UNKNOWN if not recorded
        ("limit_ms", np.int64),  # the user's own time limit; UNKNOWN if none
        ("deadline_ms", np.int64),  # from the trace's start; UNKNOWN if none
        ("checkpoint_ms", np.int64),  # interval between checkpoints; 0: no checkpoint, all work is lost
        ("cpu_milli", np.int64),  # 1/1000 cores, whole job
        ("mem_mib", np.int64),  # host memory, whole job
        ("net_mbps", np.int64),  # bandwidth into the fabric, whole job; 0: none asked
        ("grace_ms", np.int64),  # from being told to leave to being gone, at most; UNKNOWN: as a job file's default
        ("begin_ms", np.int64),  # reserved from then on, from the trace's start; UNKNOWN: as soon as it can
        ("type_mask", np.uint64),  # bit i: GPU type i of the trace is allowed; 0: any
        ("site_mask", np.uint64),  # bit i: site i of the fleet is allowed; 0: any
        ("member", np.int32),  # index into Trace.members
        ("project", np.int32),  # index into Trace.projects
        ("user", np.int32),  # index into Trace.users
        ("profile", np.int32),  # index into Trace.profiles; UNKNOWN: the GPU types' own speeds, and nothing else known
        ("num_gpus", np.int32),  # whole gang; 0: CPU only
        ("gpu_milli", np.int32),  # of each GPU, 1..1000; below 1000 only with num_gpus == 1
        ("gpus_per_node", np.int32),  # wanted on each node; 0: as placement likes
        ("min_gpus", np.int32),  # elastic range; equal to num_gpus: rigid
        ("max_gpus", np.int32),
        ("priority", np.int8),  # class: 0 best effort, 1 normal, 2 high
        ("topology", np.int8),  # TOPOLOGY_*
    ],
    align=True,
)


def make_jobs(num_jobs: int) -> NDArray[Any]:
    """A job table of ``num_jobs`` rows with neutral defaults (one whole GPU, rigid, normal class, no limits)."""
    jobs = np.zeros(num_jobs, JOB_DTYPE)
    for name in ("duration_ms", "limit_ms", "deadline_ms", "grace_ms", "begin_ms", "profile"):
        jobs[name] = UNKNOWN
    for name in ("num_gpus", "min_gpus", "max_gpus", "priority"):
        jobs[name] = 1
    jobs["gpu_milli"] = 1000
    return jobs


@dataclass(frozen=True)
class WorkProfile:
    """How one kind of work behaves. What is left out behaves as work of which nothing is known.

    Attributes
    ----------
    speed_milli : dict of str to int
        By name of the GPU type, in 1/1000 of the speed for which run times are given; types that are not named run
        at their own speed.
    scaling : float
        On g of the num_gpus GPUs for which run times are given work goes (g / num_gpus) ** scaling as fast; 1: linear.
    save_ms : int
        Work stands so long for each checkpoint; it is part of the run time.
    restart_ms : int
        From each start after the first to the first new work: finding each other, loading the checkpoint.
    failures_per_day : float
        Failures of the job itself, whatever its nodes do, in a day of running; it goes on from its last checkpoint.
    busy : float
        Part of its useful time in which its GPUs have work: a service holds them for its busiest minute.
    """

    name: str
    speed_milli: dict[str, int] = field(default_factory=dict)
    scaling: float = 1.0
    save_ms: int = 0
    restart_ms: int = 0
    failures_per_day: float = 0.0
    busy: float = 1.0


@dataclass(frozen=True)
class Trace:
    """Recorded or generated load.

    Attributes
    ----------
    jobs : ndarray of JOB_DTYPE, shape (num_jobs,)
        Sorted by (submit_ms, order in the source).
    job_ids : list of str, length num_jobs
        The source's ids, unique.
    members, projects, users, gpu_types : list of str
        Names behind the index columns; ``gpu_types`` names the bits of ``type_mask``. Never empty for
        members, projects and users: a source without them has one called ``default``.
    source : str
        Format and file it came from.
    extra : dict of str to ndarray, each of length num_jobs
        Columns of the source that have no place in JOB_DTYPE (model name, iterations, status…).
    profiles : tuple of WorkProfile
        Kinds of work of which more is known.
    """

    jobs: NDArray[Any]
    job_ids: list[str]
    members: list[str]
    projects: list[str]
    users: list[str]
    gpu_types: list[str]
    source: str
    extra: dict[str, NDArray[Any]] = field(default_factory=dict)
    profiles: tuple[WorkProfile, ...] = ()

    def rows(self, keep: NDArray[Any]) -> Trace:
        """The jobs at some places, in that order; all names stay."""
        return replace(
            self, jobs=self.jobs[keep], job_ids=[self.job_ids[i] for i in keep],
            extra={name: values[keep] for name, values in self.extra.items()},
        )  # fmt: skip

    def digest(self) -> str:
        """SHA-256 over jobs and ids, hex: equal traces have equal digests."""
        sha = hashlib.sha256()
        for name in JOB_DTYPE.names or ():  # column by column: the padding between fields is not defined
            if name == "grace_ms" and (self.jobs[name] == UNKNOWN).all():
                continue  # so that traces have the digests that they had before there was this column
            sha.update(self.jobs[name].tobytes())
        sha.update("\n".join(self.job_ids).encode())
        for profile in self.profiles:
            said: list[Any] = [profile.name, sorted(profile.speed_milli.items())]
            # The second part only where there is one, so that traces keep the digests that they had before it.
            if profile != WorkProfile(profile.name, profile.speed_milli):
                said += [profile.scaling, profile.save_ms, profile.restart_ms, profile.failures_per_day, profile.busy]
            sha.update(repr(tuple(said)).encode())
        return sha.hexdigest()

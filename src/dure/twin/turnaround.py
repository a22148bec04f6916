"""How long work takes on a fleet under load: handed in at every quarter of an hour of a day of the twin, from then until its last end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dure.model.errors import InputError
from dure.model.fleet import Fleet
from dure.model.jobs import WorkProfile, make_jobs
from dure.model.terms import Terms
from dure.policy.config import Policy
from dure.twin.faults import generate_faults
from dure.twin.generate import LoadSpec, generate
from dure.twin.replay import replay
from dure.twin.result import NEVER

QUARTER_MS, DAY_MS = 900_000, 86_400_000
#: The fleet is filled for so long before the day that counts, and runs on for so long after it.
FILLED_MS, AFTER_MS = DAY_MS, DAY_MS // 2


@dataclass(frozen=True)
class Stage:
    """A job of the work. All of an array's jobs begin together and count as one here, with the GPUs of all.

    Attributes
    ----------
    run_ms : int
        On any GPU.
    checkpoint_ms : int
        0: none.
    needs : tuple of str
        Stages that have to have ended, each before it in the work.
    """

    name: str
    num_gpus: int
    cpu_milli: int
    mem_mib: int
    run_ms: int
    checkpoint_ms: int
    needs: tuple[str, ...] = ()


def turnarounds(
    works: Sequence[Sequence[Stage]], member: str, fleet: Fleet, terms: Terms, policy: Policy, offered_load: float = 0.9, seed: int = 1
) -> list[NDArray[np.float64]]:  # fmt: skip
    """Seconds from handing in to the last end, for each work and each quarter of an hour of a day.

    Each distinct stage is handed in by `member` at each quarter of an hour of the second day of generated load, with node failures,
    and waits and runs as the policy has it. A work's stages are then followed through these: one begins when those that it needs have
    ended, and takes what the probe at the next quarter took. Works do not wait for each other.

    Returns
    -------
    list of ndarray of float64, each of shape (96,)
        `inf`: not ended within half a day after the day.

    Raises
    ------
    InputError
        There is no such member, or the fleet cannot hold a stage.
    """
    load = generate(LoadSpec(2.5, offered_load), fleet, terms, seed)
    if member not in load.members:
        raise InputError(f"no such member: {member}", field="member")
    kinds = sorted({_kind(stage) for work in works for stage in work})
    at_ms = FILLED_MS + QUARTER_MS * np.arange((DAY_MS + AFTER_MS) // QUARTER_MS)
    probes = make_jobs(len(kinds) * len(at_ms))
    probes["submit_ms"] = np.tile(at_ms, len(kinds))
    for column, values in zip(("num_gpus", "cpu_milli", "mem_mib", "duration_ms", "checkpoint_ms"), zip(*kinds, strict=True), strict=True):
        probes[column] = np.repeat(values, len(at_ms))
    probes["min_gpus"] = probes["max_gpus"] = probes["num_gpus"]
    probes["member"] = load.members.index(member)
    probes["project"] = load.projects.index(next(name for name in load.projects if name.startswith(f"{member}/")))
    probes["user"] = load.users.index(next(name for name in load.users if name.startswith(f"{member}/")))
    probes["profile"] = len(load.profiles)
    as_measured = WorkProfile("as measured", {kind.name: 1000 for kind in fleet.gpu_types})
    jobs = np.concatenate([load.jobs, probes])
    order = np.argsort(jobs["submit_ms"], kind="stable")
    ids = [*load.job_ids, *(f"probe-{number}" for number in range(len(probes)))]
    trace = replace(load, jobs=jobs[order], job_ids=[ids[row] for row in order], extra={}, profiles=(*load.profiles, as_measured))
    end_ms = FILLED_MS + DAY_MS + 2 * AFTER_MS
    result = replay(
        trace, fleet, policy, terms, faults=generate_faults(fleet, "rsc1", end_ms, seed), seed=seed, horizon_ms=end_ms, is_rejecting=True
    )
    row = np.empty(len(order), np.int64)
    row[order] = np.arange(len(order))
    ended_ms = result.jobs["end_ms"][row[len(load.jobs) :]].reshape(len(kinds), len(at_ms))
    if (ended_ms == NEVER).all(axis=1).any():
        raise InputError(f"a stage never ends for {member} on this fleet", field="stages")
    took_s = np.where(ended_ms == NEVER, np.inf, (ended_ms - at_ms) / 1000)
    return [_followed(work, dict(zip(kinds, took_s, strict=True))) for work in works]


def _kind(stage: Stage) -> tuple[int, int, int, int, int]:
    return stage.num_gpus, stage.cpu_milli, stage.mem_mib, stage.run_ms, stage.checkpoint_ms


def _followed(work: Sequence[Stage], took_s: dict[tuple[int, ...], NDArray[np.float64]]) -> NDArray[np.float64]:
    quarter_s = QUARTER_MS / 1000
    begun_s = quarter_s * np.arange(DAY_MS // QUARTER_MS)
    ended_s: dict[str, NDArray[np.float64]] = {}
    for stage in work:
        ready_s = np.max([ended_s[name] for name in stage.needs], axis=0) if stage.needs else begun_s
        probe_s = took_s[_kind(stage)]
        place = np.ceil(ready_s / quarter_s)
        is_known = place < len(probe_s)
        probed_s = np.where(is_known, probe_s[np.where(is_known, place, 0).astype(np.int64)], np.inf)
        ended_s[stage.name] = np.asarray(ready_s + probed_s, np.float64)
    whole: NDArray[np.float64] = np.max(list(ended_s.values()), axis=0) - begun_s
    return whole

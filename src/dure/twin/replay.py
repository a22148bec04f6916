"""Replay a trace on a fleet under a policy."""

from __future__ import annotations

import hashlib
import platform
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.core.build import Built, build_state, too_large
from dure.core.cells import cell_clusters
from dure.model.errors import DureError, InputError
from dure.model.fleet import HOUR_MS, WEEK_HOURS, Fleet
from dure.model.jobs import Trace
from dure.model.terms import Terms
from dure.policy.config import Policy
from dure.policy.kernels import layout as k
from dure.twin.foresight import CHUNK, expected_starts
from dure.twin.loop import (
    AGAIN_DTYPE,
    COUNTERS,
    DELIVERY,
    FAILURE,
    KIND_DTYPE,
    LOOK_MS,
    NUM_TOTALS,
    OPEN,
    USED,
    WORD_DTYPE,
    World,
    note_promise,
    run_until,
)
from dure.twin.radio_words import Words
from dure.twin.result import (
    NEVER,
    OUTCOME_CANCELLED,
    OUTCOME_FINISHED,
    OUTCOME_REJECTED,
    OUTCOME_RUNNING,
    OUTCOME_WAITING,
    PROMISE_DTYPE,
    PROMISE_FORECAST,
    Counters,
    RunResult,
    Series,
    make_result_jobs,
    work_gpu_ms,
)

#: Samples that a run keeps at most.
NUM_SAMPLES = 1500
#: Room for the policy's promised starts, for each job of the trace; memory is taken only where it is written.
PROMISES_A_JOB = 4

#: Structure of node faults given to a replay: kind FAILURE or REPAIR.
FAULT_DTYPE = np.dtype([("at_ms", np.int64), ("node", np.int32), ("kind", np.int8)], align=True)


class CapacityError(DureError):
    """A table of the state was too small; a bug of the sizes, not of the input."""


def replay(
    trace: Trace,
    fleet: Fleet,
    policy: Policy,
    terms: Terms | None = None,
    *,
    faults: NDArray[Any] | None = None,
    seed: int = 0,
    horizon_ms: int = NEVER,
    is_rejecting: bool = False,
    forecast_at_ms: Sequence[int] = (),
    is_told: bool = False,
    words: Words | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RunResult:
    """Run a trace to its end (or to a horizon).

    Parameters
    ----------
    faults : ndarray with fields at_ms, node, kind (FAILURE, REPAIR), sorted by at_ms, optional
        None: nothing fails, no job by itself either.
    seed : int
        Of the failures of jobs themselves, where the trace's profiles have some; nothing else is drawn.
    is_rejecting : bool
        Reject jobs that fit nowhere instead of refusing the whole trace.
    forecast_at_ms : sequence of int
        Moments at which the starts of all waiting jobs are forecast by what is known then (`expected_starts`); the
        result's promises say what came of it. The run itself is the same with and without.
    is_told : bool
        Yardstick: these forecasts are told the true run times of the jobs that have come by then.
    words : Words, optional
        What the radios of cell sites will say; None: their hours count.
    progress : callable(done, total), optional
        Called every CHUNK events with jobs ended and jobs in all.

    Raises
    ------
    InputError
        A job is larger than the fleet (unless `is_rejecting`), or has no run time.
    """
    built = build_state(fleet, terms, trace, policy)
    large = too_large(built, trace)
    if len(large) and not is_rejecting:
        i = int(large[0])
        gpus = int(trace.jobs["num_gpus"][i])
        raise InputError(
            f"job {trace.job_ids[i]!r} ({gpus} GPUs) can never run on this fleet ({fleet.num_gpus} GPUs) "
            f"for member {trace.members[int(trace.jobs['member'][i])]!r}; {len(large)} such job(s)",
            trace.source, field="num_gpus",
        )  # fmt: skip
    check_run_times(trace)
    world = make_world(trace, fleet, built, horizon_ms, faults, large, len(forecast_at_ms), seed, words)
    stop_ms = horizon_ms if horizon_ms != NEVER else k.NEVER_MS - 1
    wall, cpu = 0.0, 0.0
    for at_ms in (*sorted(at for at in forecast_at_ms if at < stop_ms), stop_ms):
        wall, cpu = wall - time.perf_counter(), cpu - time.process_time()
        while run_until(built.state, world, at_ms, int(world.w[0]["sample_step_ms"]), CHUNK):
            if progress:
                progress(int(world.w[0]["num_ended"]), len(trace.jobs))
        wall, cpu = wall + time.perf_counter(), cpu + time.process_time()
        if at_ms < stop_ms:
            for job, start_ms in zip(*expected_starts(built.state.copy(), world, at_ms, is_told=is_told), strict=True):
                note_promise(world, job, PROMISE_FORECAST, at_ms, start_ms)
    if built.state.g[0]["status"] or world.w[0]["status"]:
        raise CapacityError(f"state tables too small: {built.state.g[0]['status']}, {world.w[0]['status']}")
    return _result(trace, fleet, built, policy, world, seed, horizon_ms, large, wall, cpu)


def check_run_times(trace: Trace) -> None:
    """Refuse a load in which a job has no run time.

    Raises
    ------
    InputError
        Naming the first such job.
    """
    unknown = np.flatnonzero(trace.jobs["duration_ms"] < 0)
    if len(unknown):
        raise InputError(
            f"job {trace.job_ids[int(unknown[0])]!r} has no run time; a replay needs one", trace.source,
            field="duration_ms",
        )  # fmt: skip


def make_world(
    trace: Trace, fleet: Fleet, built: Built, horizon_ms: int, faults: NDArray[Any] | None = None,
    large: NDArray[Any] | None = None, num_forecasts: int = 0, seed: int = 0, words: Words | None = None,
) -> World:  # fmt: skip
    """The twin's own tables for a run: truth, timers, room for the samples and promises."""
    jobs = trace.jobs
    truth = jobs["duration_ms"].astype(np.int64)
    if large is not None and len(large):
        # A rejected job is never submitted to the policy and is told apart afterwards.
        truth[large] = -1
    late = np.flatnonzero(fleet.nodes["online_ms"] > 0)
    events = np.zeros(len(late) + (0 if faults is None else len(faults)), FAULT_DTYPE)
    events["at_ms"][: len(late)] = fleet.nodes["online_ms"][late]
    events["node"][: len(late)], events["kind"][: len(late)] = late, DELIVERY
    if faults is not None:
        for name in ("at_ms", "node", "kind"):
            events[name][len(late) :] = faults[name]
    events = events[np.lexsort((events["node"], events["at_ms"]))]
    ag = built.state.ag
    wakes = np.unique(np.concatenate([ag["start_ms"], ag["end_ms"]]))
    wakes = wakes[(wakes > 0) & (wakes < k.NEVER_MS)]
    last = int(jobs["submit_ms"].max()) if len(jobs) else 0
    first = int(jobs["submit_ms"].min()) if len(jobs) else 0
    rough = horizon_ms if horizon_ms != NEVER else first + _rough_span_ms(jobs, fleet, last - first)
    num_members, num_sites = len(built.state.member), len(fleet.sites)
    cells = cell_clusters(fleet)
    w = np.zeros(1, COUNTERS)
    w["seed"], w["digest"] = np.uint64(seed).astype(np.int64), -3750763034362895579
    w["sample_at_ms"], w["sample_step_ms"] = first, max((rough - first) // NUM_SAMPLES, 1000)
    w["look_at_ms"], w["moved_ms"] = (first // LOOK_MS * LOOK_MS if cells else k.NEVER_MS), first
    w["turn_at_ms"] = k.NEVER_MS
    if words is not None and cells:
        # From the last round but one on: a word that was said before the run may still count.
        w["turn_at_ms"], w["word_period_ms"] = first, words.period_ms
        w["next_word"] = max(first // words.period_ms - 1, 0) * len(words.words)
    w["give_up_ms"] = given_up_after_ms(truth, fleet)
    kind = kinds_of(trace)
    if faults is None:
        kind["mean_to_failure_ms"] = 0
    num_kinds = len(jobs) if kind["restart_ms"].any() or kind["mean_to_failure_ms"].any() else 0
    promises = (PROMISES_A_JOB + num_forecasts) * len(jobs) + 1024
    heap = 4 * fleet.num_gpus + 8 * len(fleet.nodes) + 2 * len(jobs) + 1024
    return World(
        truth_ms=truth, at_ms=np.zeros(heap, np.int64), what=np.zeros(heap, np.int64),
        version=np.zeros(heap, np.int64), fault_at_ms=events["at_ms"].astype(np.int64),
        fault_node=events["node"].astype(np.int64),
        fault_kind=events["kind"].astype(np.int64), wake_ms=wakes.astype(np.int64),
        samples=np.zeros((2 * NUM_SAMPLES, NUM_TOTALS + num_sites + 5 * num_members), np.int64),
        latency_ms=np.zeros(len(jobs) + 1, np.int64), promise=np.zeros(promises, PROMISE_DTYPE),
        last_promise=np.full(len(jobs), -1, np.int64), w=w, kind=kind,
        kind_of=jobs["profile"][:num_kinds].astype(np.int32), again=np.zeros(num_kinds, AGAIN_DTYPE),
        cell_node=np.concatenate([np.zeros(0, np.int64), *(at for _, at, _ in cells)]),
        cell_end=np.cumsum([len(at) for _, at, _ in cells], dtype=np.int64),
        cell_site=np.array([site for site, *_ in cells], np.int64),
        cell_vacate_ms=np.array([c.vacate_ms for *_, c in cells], np.int64),
        cell_week_ms=np.array([c.week_ms for *_, c in cells], np.int64),
        cell_lent_milli=np.array([c.lent_milli for *_, c in cells], np.int64).reshape(-1, WEEK_HOURS),
        cell_said_milli=np.zeros(len(cells), np.int64), cell_until_ms=np.zeros(len(cells), np.int64),
        word=np.zeros(0, WORD_DTYPE) if words is None else words.words,
        cell_sum=np.zeros((24, 2), np.int64), withheld=np.zeros(len(fleet.nodes), np.uint8),
    )  # fmt: skip


def kinds_of(trace: Trace) -> NDArray[Any]:
    """The profiles of a trace as the loop has them, one more for jobs without one (KIND_DTYPE)."""
    kind = np.zeros(len(trace.profiles) + 1, KIND_DTYPE)
    for row, profile in zip(kind, trace.profiles, strict=False):
        row["restart_ms"] = profile.restart_ms
        row["mean_to_failure_ms"] = 24 * HOUR_MS / profile.failures_per_day if profile.failures_per_day else 0
    return kind


def given_up_after_ms(truth_ms: NDArray[Any], fleet: Fleet) -> int:
    """How long no job may end until a run with cell sites is given up: twice what the longest takes where it is slowest, a week at least."""
    slowest = min((t.speed_milli for t in fleet.gpu_types), default=1000)
    return max(168 * HOUR_MS, 2000 * int(truth_ms.max(initial=0)) // max(slowest, 1))


def _rough_span_ms(jobs: NDArray[Any], fleet: Fleet, span_ms: int) -> int:
    """A guess of the run's length, for the step of the samples."""
    need = float((jobs["duration_ms"] * jobs["num_gpus"].astype(np.float64)).sum()) / max(fleet.num_gpus, 1)
    longest = int(jobs["duration_ms"].max()) if len(jobs) else 0
    return int(max(span_ms, need, longest)) + longest // 4


def _result(
    trace: Trace, fleet: Fleet, built: Built, policy: Policy, world: World, seed: int, horizon_ms: int,
    large: NDArray[Any], wall: float, cpu: float,
) -> RunResult:  # fmt: skip
    state, n = built.state, len(trace.jobs)
    g, job = state.g[0], state.job[:n]
    now = int(g["now_ms"])
    out = make_result_jobs(n)
    for name in ("first_start_ms", "end_ms", "wait_ms", "run_ms", "lost_ms", "borrowed_ms", "preemptions",
                 "failures", "pool"):  # fmt: skip
        out[name] = job[name]
    out["attempts"] = np.where(job["first_start_ms"] >= 0, job["attempt"] + (job["state"] != k.PENDING), 0)
    promises = world.promise[: world.w[0]["num_promises"]].copy()
    is_forecast = promises["kind"] == PROMISE_FORECAST
    out["predicted_start_ms"] = _first_promised_ms(promises[is_forecast], out["first_start_ms"])
    out["reserved_start_ms"] = _first_promised_ms(promises[~is_forecast], out["first_start_ms"])
    waiting = job["state"] == k.PENDING
    out["wait_ms"][waiting] += now - job["queued_ms"][waiting]
    active = (job["state"] == k.RUNNING) | (job["state"] == k.REVOKING)
    out["run_ms"][active] += now - job["since_ms"][active]
    _account(out, job, active, now, trace, world)
    out["outcome"] = np.select(
        [job["state"] == k.ENDED, job["state"] == k.CANCELLED, active],
        [OUTCOME_FINISHED, OUTCOME_CANCELLED, OUTCOME_RUNNING], OUTCOME_WAITING,
    )  # fmt: skip
    out["outcome"][large] = OUTCOME_REJECTED
    out["wait_ms"][large] = 0
    rows = world.samples[: world.w[0]["num_samples"]]
    num_sites, num_members = len(fleet.sites), len(state.member)
    members = rows[:, NUM_TOTALS + num_sites :].reshape(len(rows), num_members, 5)
    series = Series(
        t_ms=rows[:, 0], gpus_online=rows[:, 1] / 1000, gpus_used=rows[:, 2] / 1000, queue_jobs=rows[:, 3],
        queue_gpus=rows[:, 4] / 1000, fragmented_gpus=rows[:, 5], whole_nodes_free=rows[:, 6],
        site_power_w=rows[:, NUM_TOTALS : NUM_TOTALS + num_sites].T,
        member_used_gpus=members[:, :, 0].T / 1000, member_borrowed_gpus=members[:, :, 1].T / 1000,
        member_lent_gpus=members[:, :, 2].T / 1000, member_queued_gpus=members[:, :, 3].T / 1000,
        member_credits=members[:, :, 4].T / 1000,
    )  # fmt: skip
    site = state.site
    energy = (site["energy_wms"] + site["power_w"] * (now - site["at_ms"])) / 3.6e6
    gpus = trace.jobs["num_gpus"] * (trace.jobs["gpu_milli"] / 1000)
    queue = built.member_of[trace.jobs["member"]] if n else np.zeros(0, np.int64)
    used = np.bincount(queue, weights=out["run_ms"] * gpus, minlength=num_members).astype(np.int64)
    lost = np.bincount(queue, weights=work_gpu_ms(out, trace.jobs)[:, 1], minlength=num_members).astype(np.int64)
    lend = state.lend[:, :, 1] + state.lend[:, :, 0] * (now - state.lend[:, :, 2])
    lend = lend // 1000
    np.fill_diagonal(lend, 0)
    first = int(trace.jobs["submit_ms"].min()) if n else 0
    ended = out["end_ms"].max(initial=first)
    end_ms = int(ended) if (out["outcome"] >= OUTCOME_FINISHED).all() else now
    online = _online_gpu_ms(series, fleet, first, end_ms)
    counters = Counters(
        num_events=int(world.w[0]["num_events"]), num_decisions=int(world.w[0]["num_decisions"]), num_preemptions=int(g["preemptions"]),
        num_reclaims=int(g["reclaims"]), num_guarantee_breaches=int(g["breaches"]),
        num_backfilled=int(g["backfilled"]), num_node_failures=int((world.fault_kind[: world.w[0]["next_fault"]] == FAILURE).sum()),
        num_job_failures=int(g["failures"]),
        num_own_failures=int(world.w[0]["num_own_failures"]), num_quarantined=int(g["quarantined"]),
        num_resizes=int(g["shrinks"] + g["grows"]),
    )  # fmt: skip
    sha = hashlib.sha256(int(world.w[0]["digest"]).to_bytes(8, "little", signed=True))
    for name in ("first_start_ms", "end_ms", "run_ms", "wait_ms", "pool"):
        sha.update(np.ascontiguousarray(out[name]).tobytes())
    return RunResult(
        trace=_with_queues(trace, built), fleet=fleet, terms=built.terms, policy=policy.name, seed=seed, jobs=out,
        series=series, end_ms=end_ms, online_gpu_ms=online, used_gpu_ms=used, lost_gpu_ms=lost, lent_gpu_ms=lend,
        energy_wh=energy, reclaim_latency_ms=world.latency_ms[: world.w[0]["num_latencies"]].copy(), counters=counters, wall_s=wall,
        cpu_s=cpu, peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, digest=sha.hexdigest(),
        horizon_ms=horizon_ms,
        versions={"dure": version("dure"), "python": platform.python_version(), "numba": version("numba")},
        notes=tuple(built.notes) + _unwritten(int(world.w[0]["num_unwritten"])) + _given_up(bool(world.w[0]["is_given_up"])), promises=promises,
        cell_gpu_h=_cell_gpu_h(world),
    )  # fmt: skip


def _account(out: NDArray[Any], job: NDArray[Any], active: NDArray[Any], now: int, trace: Trace, world: World) -> None:
    """Part what jobs have done, as work at the reference speed, into useful work, restarts and stalls for checkpoints."""
    done = job["done_ms"].copy()
    done[active] += (now - job["since_ms"][active]) * job["rate_milli"][active] // 1000
    if len(world.again):
        again = world.again
        out["restart_ms"] = again["kept_ms"] + np.clip(done - again["begun_ms"], 0, again["cost_ms"])
    every_ms = trace.jobs["checkpoint_ms"]
    stall_ms = np.array([*(profile.save_ms for profile in trace.profiles), 0], np.int64)[trace.jobs["profile"]]
    part = np.minimum(stall_ms / np.maximum(every_ms, 1), 1.0) * (every_ms > 0)
    out["saving_ms"] = (done - out["restart_ms"]) * part
    out["useful_ms"] = done - out["restart_ms"] - out["saving_ms"]


def _first_promised_ms(promises: NDArray[Any], first_start_ms: NDArray[Any]) -> NDArray[Any]:
    """What was promised first of each job's first start; NEVER: nothing."""
    out = np.full(len(first_start_ms), NEVER, np.int64)
    of_first = promises[promises["start_ms"] == first_start_ms[promises["job"]]]
    # The last write stands: from the latest to the earliest.
    out[of_first["job"][::-1]] = of_first["promised_ms"][::-1]
    return out


def _cell_gpu_h(world: World) -> NDArray[Any]:
    """GPU-hours of cell sites by hour of the day, (24, 2), from the looks at them; empty where there are no such sites."""
    if not len(world.cell_end):
        return np.zeros((0, 2))
    hours: NDArray[Any] = world.cell_sum[:, [OPEN, USED]] * (LOOK_MS / HOUR_MS)
    hours[:, 1] /= 1000
    return hours


def _given_up(is_it: bool) -> tuple[str, ...]:
    return ("Given up: what still runs or waits needs longer than its cell site's nodes are ever open, and saves nothing.",) if is_it else ()


def _unwritten(num: int) -> tuple[str, ...]:
    return (f"{num:,} promised starts found no room in the record and are not scored.",) if num else ()


def _with_queues(trace: Trace, built: Built) -> Trace:
    """The trace with its member column in the numbering of the terms in force."""
    if len(trace.members) == len(built.terms.members):
        if all(a == b.name for a, b in zip(trace.members, built.terms.members, strict=True)):
            return trace
    where = {m.name: i for i, m in enumerate(built.terms.members)}
    jobs = trace.jobs.copy()
    jobs["member"] = np.array([where[name] for name in trace.members], np.int32)[trace.jobs["member"]]
    return replace(trace, jobs=jobs, members=[m.name for m in built.terms.members])


def _online_gpu_ms(series: Series, fleet: Fleet, first: int, end_ms: int) -> int:
    """GPUs online over time, from the samples (constant between two of them)."""
    if len(series.t_ms) == 0:
        return fleet.num_gpus * (end_ms - first)
    t = np.clip(np.append(series.t_ms, end_ms), first, end_ms)
    return int((series.gpus_online * np.diff(t)).sum())

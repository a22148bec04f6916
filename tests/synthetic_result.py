"""A made-up run that looks like a real one, for tests of what is made from runs; loaded with ``runpy``."""

from __future__ import annotations

import hashlib

import numpy as np

from dure.model.fleet import Fleet, GpuType, Site, uniform_fleet
from dure.model.jobs import Trace, make_jobs
from dure.model.terms import AgreementTerms, Member, Pool, Terms
from dure.twin.result import (
    NEVER,
    OUTCOME_CANCELLED,
    OUTCOME_FINISHED,
    OUTCOME_RUNNING,
    OUTCOME_WAITING,
    PROMISE_DTYPE,
    PROMISE_FORECAST,
    Counters,
    RunResult,
    Series,
    make_result_jobs,
)

HOUR_MS = 3_600_000

BIG_MEMBERS = (
    "Ministry of Science and ICT",
    "Samsung Electronics",
    "SK Group",
    "Hyundai Motor Group",
    "NAVER Cloud",
    "KT",
    "SK Telecom",
    "LG Uplus",
    "서울대학교",
    "KAIST",
    "포항공과대학교",
    "ETRI",
)


def synthetic_result(
    num_jobs=20_000,
    num_members=130,
    hours=168,
    num_samples=4_000,
    seed=1,
    policy="dure",
    mean_wait_scale=1.0,
    num_gpus=260_000,
    label="",
) -> RunResult:
    """Jobs with day rhythm and heavy tails; every total and series is added up from the same job records."""
    rng = np.random.default_rng(seed)
    names = [*BIG_MEMBERS, *(f"startup-{i:03d}" for i in range(num_members))][:num_members]
    horizon_ms = hours * HOUR_MS
    weight = np.concatenate([[50, 50, 50, 50, 60, 5, 5, 4, 3, 3, 2, 2], rng.pareto(1.5, num_members) * 0.1])
    weight = weight[:num_members] / weight[:num_members].sum()

    jobs = make_jobs(num_jobs)
    rhythm = rng.random(8 * num_jobs) * horizon_ms
    is_busy = rng.random(len(rhythm)) < 0.55 + 0.45 * np.sin((rhythm / HOUR_MS - 8) / 24 * 2 * np.pi)
    jobs["submit_ms"] = np.sort(rhythm[is_busy][:num_jobs]).astype(np.int64)
    jobs["num_gpus"] = rng.choice(
        [1, 2, 4, 8, 16, 64, 256, 1024, 8192],
        num_jobs,
        p=[0.38, 0.08, 0.1, 0.22, 0.1, 0.08, 0.032, 0.007, 0.001],
    )
    is_part = (jobs["num_gpus"] == 1) & (rng.random(num_jobs) < 0.25)
    jobs["gpu_milli"][is_part] = rng.choice([250, 500], int(is_part.sum()))
    jobs["duration_ms"] = (
        np.minimum(rng.lognormal(8.2, 1.9, num_jobs) * 1000, 5 * 24 * HOUR_MS).astype(np.int64) + 1
    )
    jobs["member"] = rng.choice(num_members, num_jobs, p=weight)
    jobs["priority"] = rng.choice([0, 1, 2], num_jobs)
    trace = Trace(
        jobs, [f"j{i}" for i in range(num_jobs)], names, ["default"], ["default"], ["B200"], "synthetic"
    )

    out = make_result_jobs(num_jobs)
    is_instant = rng.random(num_jobs) < 0.55
    wait = np.where(
        is_instant, 0, rng.lognormal(5.5 + 0.25 * np.log2(jobs["num_gpus"]), 1.8, num_jobs) * 1000
    )
    out["wait_ms"] = np.minimum(wait * mean_wait_scale, 3 * 24 * HOUR_MS).astype(np.int64)
    out["preemptions"] = rng.poisson(0.03, num_jobs)
    out["lost_ms"] = out["preemptions"] * rng.integers(0, 600_000, num_jobs)
    out["run_ms"] = jobs["duration_ms"] + out["lost_ms"]
    start = jobs["submit_ms"] + out["wait_ms"]
    end = start + out["run_ms"]
    out["outcome"] = OUTCOME_FINISHED
    is_open, is_waiting = end > horizon_ms, start > horizon_ms
    out["outcome"][is_open], out["outcome"][is_waiting] = OUTCOME_RUNNING, OUTCOME_WAITING
    is_cancelled = ~is_open & (rng.random(num_jobs) < 0.01)
    out["outcome"][is_cancelled] = OUTCOME_CANCELLED
    out["wait_ms"][is_waiting] = horizon_ms - jobs["submit_ms"][is_waiting]
    out["run_ms"] = np.where(is_waiting, 0, np.minimum(end, horizon_ms) - start)
    out["lost_ms"] = np.minimum(out["lost_ms"], out["run_ms"])
    out["preemptions"][is_waiting] = 0
    out["attempts"] = np.where(is_waiting, 0, 1 + out["preemptions"])
    out["first_start_ms"] = np.where(is_waiting, NEVER, start)
    out["end_ms"] = np.where(is_open, NEVER, end)
    out["pool"] = np.where(is_waiting, NEVER, 0)
    error = rng.standard_t(2, num_jobs) * 0.4 * out["wait_ms"]
    out["predicted_start_ms"] = np.maximum(start + error.astype(np.int64), jobs["submit_ms"])
    out["reserved_start_ms"] = np.where(jobs["num_gpus"] >= 256, np.maximum(start + 60_000, 0), NEVER)

    promises = _promised(rng, jobs["submit_ms"], out)

    # Held GPU-time, from the very records above, stretched so that the fleet is four fifths used.
    t_ms = np.linspace(0, horizon_ms, num_samples).astype(np.int64)
    gpus = jobs["num_gpus"] * jobs["gpu_milli"] / 1000
    running = ~is_waiting
    stop = np.minimum(end, horizon_ms + 1)
    used = _held(t_ms, start, stop, gpus, jobs["member"], num_members, running)
    queued = _held(
        t_ms,
        jobs["submit_ms"],
        np.minimum(start, horizon_ms + 1),
        gpus,
        jobs["member"],
        num_members,
        np.ones(num_jobs, bool),
    )
    stretch = 0.8 * num_gpus / max(1.0, used[:, num_samples // 2 :].sum(axis=0).mean())
    used *= np.minimum(stretch, num_gpus / max(1.0, used.sum(axis=0).max()))
    queued *= min(1.0, stretch)
    guarantee = np.floor(weight * num_gpus).astype(np.int64)[:, None]
    borrowed = np.maximum(used - guarantee, 0)
    idle = np.maximum(guarantee - used, 0)
    lent = idle / np.maximum(idle.sum(axis=0), 1) * borrowed.sum(axis=0)
    step_ms = np.diff(t_ms, append=t_ms[-1]).astype(float)
    lent_gpu_ms = ((lent * step_ms / np.maximum(lent.sum(axis=0), 1)) @ borrowed.T).astype(np.int64)
    np.fill_diagonal(lent_gpu_ms, 0)
    net = (lent - borrowed) * step_ms / HOUR_MS
    online = np.full(num_samples, float(num_gpus))
    online[(t_ms > horizon_ms * 0.6) & (t_ms < horizon_ms * 0.63)] -= num_gpus * 0.02
    free = online - used.sum(axis=0)
    fragmented = free * (0.18 + 0.1 * np.sin(np.arange(num_samples) / 90) + 0.04 * rng.random(num_samples))

    site_names = (
        "해남 국가AI컴퓨팅센터",
        "NAVER Gak Sejong",
        "NHN Gwangju",
        "Kakao Ansan",
        "SK Ulsan",
        "Samsung Pyeongtaek",
        "Hyundai Saemangeum",
        "KT Cheonan",
    )
    portion = np.array([0.2, 0.22, 0.05, 0.05, 0.16, 0.17, 0.12, 0.03])
    site_power_w = portion[:, None] * (used.sum(axis=0) * 1_100 + free * 180)
    caps_w = site_power_w.max(axis=1) * np.array([1.1, 1.4, 1.05, 1.2, 1.02, 1.3, 1.5, 1.1])
    plain = uniform_fleet(num_gpus, 8, gpu_type=GpuType("B200"))
    fleet = Fleet(
        plain.nodes,
        plain.gpu_types,
        [Site(n, power_cap_w=int(w)) for n, w in zip(site_names, caps_w, strict=True)],
        plain.clusters,
        plain.node_names,
    )
    terms = Terms(
        [Member(n) for n in names],
        [Pool("pool", 0, 0, 0, 0)],
        guarantee,
        [AgreementTerms("common", 0, num_gpus, 60_000)],
        np.zeros((num_members, 1), np.int32),
    )
    series = Series(
        t_ms,
        online,
        used.sum(axis=0),
        (queued > 0).sum(axis=0) * 7,
        queued.sum(axis=0),
        fragmented,
        np.floor((free - fragmented) / 8),
        site_power_w,
        used,
        borrowed,
        lent,
        queued,
        np.cumsum(net - net.mean(axis=0), axis=1),
    )
    latency = rng.lognormal(10.6, 0.5, 1_204).astype(np.int64)
    counters = Counters(
        num_events=5 * num_jobs,
        num_decisions=3 * num_jobs,
        num_preemptions=int(out["preemptions"].sum()),
        num_reclaims=len(latency),
        num_backfilled=811,
        num_node_failures=96,
        num_job_failures=212,
        num_quarantined=7,
    )
    return RunResult(
        trace=trace,
        fleet=fleet,
        terms=terms,
        policy=policy,
        seed=seed,
        jobs=out,
        series=series,
        end_ms=horizon_ms,
        online_gpu_ms=int((online * step_ms).sum()),
        used_gpu_ms=(used * step_ms).sum(axis=1).astype(np.int64),
        lost_gpu_ms=(used * step_ms).sum(axis=1).astype(np.int64) // 50,
        lent_gpu_ms=lent_gpu_ms,
        energy_wh=(site_power_w * step_ms / HOUR_MS).sum(axis=1),
        reclaim_latency_ms=latency,
        counters=counters,
        wall_s=8.4,
        cpu_s=8.1,
        peak_rss_mb=812.0,
        digest=hashlib.sha256(out.tobytes()).hexdigest(),
        horizon_ms=horizon_ms,
        label=label,
        versions={"dure": "0.1.0", "numpy": np.__version__, "python": "3.11"},
        notes=(
            "The load is invented: arrivals with a day rhythm, heavy-tailed sizes and run times.",
            "Members' shares follow the reference alliance; guarantees are rounded down to whole GPUs.",
        ),
        promises=promises,
    )


def _promised(rng, submit_ms, out):
    """A forecast of every job's start and a promise, of any kind, to some; nothing is known of the waiting ones."""
    parts = []
    for column in ("predicted_start_ms", "reserved_start_ms"):
        at = np.flatnonzero(out[column] != NEVER)
        rows = np.zeros(len(at), PROMISE_DTYPE)
        rows["job"], rows["made_ms"], rows["promised_ms"] = at, submit_ms[at], out[column][at]
        is_forecast = column == "predicted_start_ms"
        rows["kind"] = PROMISE_FORECAST if is_forecast else rng.integers(0, PROMISE_FORECAST, len(at))
        rows["start_ms"], rows["before"] = out["first_start_ms"][at], NEVER
        parts.append(rows)
    return np.concatenate(parts)


def _held(t_ms, start_ms, end_ms, gpus, member, num_members, is_held):
    """GPUs held per member at each sample, shape (num_members, len(t_ms))."""
    change = np.zeros((num_members, len(t_ms) + 1))
    np.add.at(change, (member[is_held], np.searchsorted(t_ms, start_ms[is_held])), gpus[is_held])
    np.add.at(change, (member[is_held], np.searchsorted(t_ms, end_ms[is_held])), -gpus[is_held])
    return np.maximum(np.cumsum(change, axis=1)[:, :-1], 0)

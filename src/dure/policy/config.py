"""A policy's parameters, and the policies that have names."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from dure.model.errors import InputError
from dure.policy.kernels import layout

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000


@dataclass(frozen=True)
class Policy:
    """What the policy can be told. Times in ms; see docs/policy.md for the rules that the fields belong to.

    Attributes
    ----------
    order : int
        Queue order: FIFO, SJF, SRTF, SRSF, FAIR, LAS or DURE of ``policy.kernels.layout``.
    is_shares : bool
        Rules 1 and 2 in force; otherwise members share one queue (fair: by weight).
    backfill : int
        BACKFILL_NONE, BACKFILL_EASY or BACKFILL_CONSERVATIVE (rule 5).
    holds_max : int
        Gangs of a pool that may hold nodes at one time; 1 is EASY.
    is_preemptive : bool
        A member's later-ranked jobs may be stopped for an earlier one.
    rank_step_ms : int
        Default order: step of rank for each doubling of the GPU-time that a job is expected to want still.
    rerank_ms : int
        Default order: how often the ranks of all jobs are worked out anew.
    margin_ms, min_run_ms, preempt_node_ms : int
        Rank preemption: least difference of rank, least run of a victim, least time between two tries for each node of
        the pool.
    hold_after_ms : int
        A blocked gang holds nodes after it has waited this long; before, it is rank that makes room (rule 5).
    reserve_lead_ms : int
        A reserved job's nodes are held from this long before it begins (rule 5).
    own_notice_ms, save_ms : int
        Notice inside a shared pool; time that a checkpoint takes (rule 6).
    scan_max : int
        Bound on candidates looked at in one search.
    overdue_ms : int
        Waiting time after which a job goes first (rule 3).
    epoch_ms, decay_ppm : int
        How often credits order the members anew, and how much used time fades each time.
    las_base, las_levels : int
        Least attained service: first threshold in GPU-seconds, number of thresholds.
    quarantine_fails, fail_window_ms, quarantine_ms, spares_ppm : int
        Rule 7; 0 fails: no quarantine.
    is_sleep : bool
        Idle nodes sleep (rule 8).
    default_ms, history_min : int
        Run time assumed without history; ended jobs that make a history.
    """

    name: str = "dure"
    order: int = layout.DURE
    is_shares: bool = True
    backfill: int = layout.BACKFILL_EASY
    holds_max: int = 1
    is_preemptive: bool = True
    rank_step_ms: int = 3000 * HOUR_MS
    rerank_ms: int = HOUR_MS
    margin_ms: int = 4000 * HOUR_MS
    min_run_ms: int = 0
    preempt_node_ms: int = 50
    hold_after_ms: int = 90 * DAY_MS
    reserve_lead_ms: int = 7 * DAY_MS
    own_notice_ms: int = MINUTE_MS
    save_ms: int = 30_000
    scan_max: int = 64
    overdue_ms: int = 90 * DAY_MS
    epoch_ms: int = 10 * MINUTE_MS
    decay_ppm: int = 687
    las_base: int = 3600
    las_levels: int = 16
    quarantine_fails: int = 3
    fail_window_ms: int = 7 * DAY_MS
    quarantine_ms: int = 3 * DAY_MS
    spares_ppm: int = 0
    is_sleep: bool = True
    default_ms: int = HOUR_MS
    history_min: int = 5

    def fill(self, g: Any) -> None:
        """Write the parameters into the record ``State.g[0]``."""
        for f in fields(self):
            if f.name in ("name", "spares_ppm"):
                continue
            key = {"is_preemptive": "preemptive"}.get(f.name, f.name)
            g[key] = int(getattr(self, f.name))


_ONE_QUEUE = Policy(is_shares=False, hold_after_ms=0, backfill=layout.BACKFILL_NONE, is_preemptive=False)
_TIMELESS = replace(_ONE_QUEUE, is_preemptive=True, margin_ms=0, min_run_ms=0, preempt_node_ms=0, save_ms=0)

POLICIES: dict[str, Policy] = {
    "fifo": replace(_ONE_QUEUE, name="fifo", order=layout.FIFO),
    "sjf": replace(_ONE_QUEUE, name="sjf", order=layout.SJF),
    "srtf": replace(_TIMELESS, name="srtf", order=layout.SRTF),
    "srsf": replace(_TIMELESS, name="srsf", order=layout.SRSF),
    "fair": replace(_ONE_QUEUE, name="fair", order=layout.FAIR),
    "las": replace(_TIMELESS, name="las", order=layout.LAS),
    "easy": replace(_ONE_QUEUE, name="easy", order=layout.FIFO, backfill=layout.BACKFILL_EASY),
    "conservative": replace(
        _ONE_QUEUE,
        name="conservative",
        order=layout.FIFO,
        backfill=layout.BACKFILL_CONSERVATIVE,
        holds_max=1 << 30,
    ),
    "dure": Policy(),
}

#: Orders that are told each job's length: yardsticks, never to be run live.
CLAIRVOYANT = (layout.SJF, layout.SRTF, layout.SRSF)


def named_policy(name: str) -> Policy:
    """The policy of that name; InputError with the known names otherwise."""
    if name not in POLICIES:
        raise InputError(f"unknown policy {name!r}; known: {', '.join(POLICIES)}", field="policy")
    return POLICIES[name]

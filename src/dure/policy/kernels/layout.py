"""The state that the policy decides on: NumPy record arrays, passed to every kernel as one named tuple.

Index 0-based everywhere; -1 means none. Times are milliseconds from the start of the run, GPU amounts are in
1/1000 GPU (`_milli`), credits in 1/1000 GPU-seconds of the reference type. All counts that a kernel adds up are int64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.policy.kernels.arrays import ArrayBundle

#: Every number that kernels hand to each other is int64, so that each is compiled for one signature; flags are int8.
i1, i2, i4, i8 = np.int8, np.int16, np.int32, np.int64

#: A time later than any other.
NEVER_MS = 1 << 60

# Job states (design §4; SUSPENDED and COMPLETING are the executor's; RESERVED is PENDING before its time).
NEW, PENDING, RUNNING, REVOKING, ENDED, CANCELLED, RESERVED = 0, 1, 2, 3, 4, 5, 6
# Node states.
UP, DOWN, QUARANTINED, SPARE, OFFLINE, UNKNOWN = 0, 1, 2, 3, 4, 5
# Queue orders (rule 3) and the named baselines.
FIFO, SJF, SRTF, FAIR, LAS, DURE, SRSF = 0, 1, 2, 3, 4, 5, 6
# Backfill (rule 5).
BACKFILL_NONE, BACKFILL_EASY, BACKFILL_CONSERVATIVE = 0, 1, 2
# Kinds of hold on nodes.
HOLD_BACKFILL, HOLD_RECLAIM, HOLD_RANK, HOLD_RESERVED = 0, 1, 2, 3
# Decisions.
START, VACATE, SHRINK, GROW, QUARANTINE, HOLD = 1, 2, 3, 4, 5, 6

GPUS_MAX = 16
#: Rows of the node bitmap: free GPU count 0..16, the largest partly free GPU in eighths 1..8, whether anything on the
#: node is above a guarantee, and, for each number of GPUs 1..16, whether a claim may find so many there.
ROW_PARTIAL = GPUS_MAX + 1
ROW_OVER = ROW_PARTIAL + 8
NUM_ROWS = ROW_OVER + 1 + GPUS_MAX
#: `POOL.scored`: whose places in a pool are chosen by what they lose of the load expected (rule 4).
SCORED_SHARING, SCORED_ALL = 1, 2
#: `State.need` of a pool that a class may never use; `POOL.gain` when anything may have come free.
NEED_NEVER, GAIN_ALL = 127, 126
#: Rows of the bitmaps of racks and blocks: wholly free nodes, the last row for as many and more.
RACK_ROWS, BLOCK_ROWS = 33, 129
#: `State.first_fit`: classes of room, by powers of two from a quarter of a GPU, the last for 4096 GPUs and more.
ROOM_CLASSES, ROOM_MILLI = 16, 125
NUM_BUCKETS = 48
#: Columns of a history: its buckets, their sum, and the job that came last (its index plus one; 0: none).
NEWEST = NUM_BUCKETS + 1
#: `JOB.like_prev` of a job that has not come yet.
NOT_CHAINED = -2
#: Largest value of a job's counters of attempts.
COUNT_MAX = 32_767
#: Buckets of a member's waits, eight for each doubling of their seconds.
NUM_WAITS = 256

G = np.dtype(
    [
        (n, i8)
        for n in (
            # configuration
            "order",
            "backfill",
            "preemptive",
            "holds_max",
            "rank_step_ms",
            "margin_ms",
            "own_notice_ms",
            "save_ms",
            "scan_max",
            "overdue_ms",
            "epoch_ms",
            "decay_ppm",
            "las_base",
            "las_levels",
            "quarantine_fails",
            "fail_window_ms",
            "quarantine_ms",
            "is_sleep",
            "default_ms",
            "history_min",
            "is_shares",
            "min_run_ms",
            "breach_slack_ms",
            "preempt_node_ms",
            "hold_after_ms",
            "reserve_lead_ms",
            "notice_max_ms",
            "rerank_ms",
            # running state
            "now_ms",
            "num_dec",
            "next_epoch_ms",
            "next_rerank_ms",
            "num_news",
            "first_live",
            "end_live",
            "free_seg",
            "free_hold",
            "num_dirty",
            "num_came",
            "num_ready",
            "num_jobs",
            "used_milli",
            "online_milli",
            "queue_jobs",
            "queue_milli",
            "status",
            # counters
            "starts",
            "preemptions",
            "reclaims",
            "failures",
            "backfilled",
            "breaches",
            "quarantined",
            "shrinks",
            "grows",
            "holds",
            "lacking_w",
            "is_swapping",
            "frag_gpus",
            "whole_free",
            # the load expected (rule 4)
            "num_target",
            "num_seen",
            "learn_at",
            "outlook_stamp",
            "num_rows",
        )
    ],
    align=True,
)

#: 256 bytes, four cache lines. What a search for victims and a look at neighbours reads stands first, together: it is most
#: of what they wait for. Counters of attempts stay at their largest value; those of claims are only compared.
JOB = np.dtype(
    [
        ("state", i1),
        ("is_borrowed", i1),
        ("is_restart", i1),
        ("is_overdue", i1),
        ("is_backfill", i1),
        ("pool", i2),
        ("since_ms", i8),
        ("done_ms", i8),
        ("run_rank", i8),
        ("ckpt_ms", i8),
        ("rate_milli", i4),
        ("cls", i4),
        ("alloc", i4),
        ("like_prev", i4),
        ("like_next", i4),
        ("cause", i4),
        ("start_ms", i8),
        ("pred_end_ms", i8),
        ("rank", i8),
        ("queued_ms", i8),
        ("cause_no", i2),
        ("claim_no", i2),
        ("preemptions", i2),
        ("failures", i2),
        ("seg", i4),
        ("version", i4),
        ("child", i4),
        ("sibling", i4),
        ("key1", i4),
        ("key2", i4),
        ("hold", i4),
        ("attempt", i4),
        ("over_prev", i4),
        ("over_next", i4),
        ("submit_ms", i8),
        ("begin_ms", i8),
        ("limit_ms", i8),
        ("oracle_ms", i8),
        ("wait_ms", i8),
        ("claim_ms", i8),
        ("vacate_ms", i8),
        ("first_start_ms", i8),
        ("lost_ms", i8),
        ("run_ms", i8),
        ("borrowed_ms", i8),
        ("end_ms", i8),
        ("claim_from_ms", i8),
        ("rank_claim_ms", i8),
    ],
    align=True,
)

CLS = np.dtype(
    [
        ("cpu_base", i8),
        ("cpu_each", i8),
        ("mem_base", i8),
        ("mem_each", i8),
        ("net_base", i8),
        ("net_each", i8),
        ("member", i8),
        ("project", i8),
        ("num_gpus", i8),
        ("min_gpus", i8),
        ("max_gpus", i8),
        ("per_node", i8),
        ("gpu_milli", i8),
        ("pool0", i8),
        ("num_pools", i8),
        ("speed", i8),
        ("shape", i8),
        ("root", i8),
        ("count", i8),
        ("prev", i8),
        ("next", i8),
        ("tried", i8),
        ("preempt_at_ms", i8),
        ("no_hold_ms", i8),
        ("oldest_ms", i8),
        ("head_ms", i8),
        ("topology", i1),
        ("priority", i1),
        ("has_come", i1),
        ("is_seen", i1),
    ],
    align=True,
)

MEMBER = np.dtype(
    [
        ("weight_milli", i8),
        ("share_milli", i8),
        ("credit_milli_ms", i8),
        ("lent_milli", i8),
        ("borrowed_milli", i8),
        ("used_milli", i8),
        ("at_ms", i8),
        ("usage", i8),
        ("pending", i8),
        ("queued_milli", i8),
        ("head", i8),
        ("long_wait_ms", i8),
    ],
    align=True,
)

POOL = np.dtype(
    [
        ("free_milli", i8),
        ("looks", i8),
        ("spares_target", i8),
        ("spares", i8),
        ("busy_w", i8),
        ("idle_w", i8),
        ("sleep_w", i8),
        ("node0", i8),
        ("node1", i8),
        ("rack0", i8),
        ("rack1", i8),
        ("block0", i8),
        ("block1", i8),
        ("rack_nodes", i8),
        ("block_nodes", i8),
        ("whole", i8),
        ("per_node", i8),
        ("site", i8),
        ("home", i8),
        ("gpu_type", i8),
        ("guar0", i8),
        ("guar1", i8),
        ("hold", i8),
        ("hold_last", i8),
        ("holds", i8),
        ("reserved", i8),
        ("cursor", i8),
        ("over_milli", i8),
        ("over_segs", i8),
        ("num_elastic", i8),
        ("preempt_at_ms", i8),
        ("gain", i8),
        ("clear", i8),
        ("power_seen", i8),
        ("even_cpu", i8),
        ("is_dirty", i1),
        ("is_stalled", i1),
        ("is_plain", i1),
        ("scored", i1),
        ("slices", i1),
    ],
    align=True,
)

MP = np.dtype(
    [
        ("guarantee", i8),
        ("use_g", i8),
        ("use_b", i8),
        ("reserved_milli", i8),
        ("over", i8),
        ("over_last", i8),
        ("agreement", i8),
        ("right", i8),
        ("short_milli", i8),
        ("opened", i8),
        ("seen", i8),
        ("last_rank", i8),
        ("last_rank_at_ms", i8),
    ],
    align=True,
)

AGREEMENT = np.dtype(
    [
        ("limit", i8),
        ("used", i8),
        ("notice_ms", i8),
        ("start_ms", i8),
        ("end_ms", i8),
        ("short_milli", i8),
        ("opened", i8),
        ("pool0", i8),
        ("pool1", i8),
    ],
    align=True,
)

#: 192 bytes, three cache lines: first what tells whether victims there may do, then what fits there, then the rest.
NODE = np.dtype(
    [
        ("state", i1),
        ("is_indexed", i1),
        ("is_clear", i1),
        ("partial", i1),
        ("is_ready", i1),
        ("claim_rows", i1),
        ("hold", i4),
        ("seg", i4),
        ("num", i2),
        ("free", i2),
        ("least_lent", i4),
        ("over_segs", i4),
        ("leaving", i4),
        ("owner", i4),
        ("lent_gpus", i4),
        ("first_rank", i8),
        ("last_rank", i8),
        ("tenants", i8),
        ("cpu_all", i8),
        ("mem_all", i8),
        ("net_all", i8),
        ("cpu_free", i8),
        ("mem_free", i8),
        ("net_free", i8),
        ("free_at_ms", i8),
        ("used_milli", i4),
        ("pool", i4),
        ("fail_ms", i8),
        ("reserved_ms", i8),
        ("reserved_to_ms", i8),
        ("stamp", i8),
        ("over_milli", i4),
        ("free_mask", i4),
        ("rack", i4),
        ("block", i4),
        ("hold_next", i4),
        ("hold_need", i4),
        ("reserved_for", i4),
        ("fails", i4),
    ],
    align=True,
)

#: 32 bytes: two in a cache line.
SEG = np.dtype(
    [
        ("mask", i8),
        ("job", i4),
        ("node", i4),
        ("next", i4),
        ("node_prev", i4),
        ("node_next", i4),
        ("milli", i4),
    ],
    align=True,
)

DOMAIN = np.dtype([(n, i8) for n in ("node0", "node1", "child0", "child1", "whole", "clear", "pool")], align=True)

HOLD_REC = np.dtype(
    [
        ("start_ms", i8),
        ("job", i8),
        ("pool", i8),
        ("kind", i8),
        ("missing", i8),
        ("head", i8),
        ("prev", i8),
        ("next", i8),
        ("num", i8),
        ("rem", i8),
        ("milli", i8),
    ],
    align=True,
)

DECISION = np.dtype(
    [("at_ms", i8), ("job", i8), ("kind", i8), ("pool", i8), ("node", i8), ("gpus", i8), ("cause", i8)],
    align=True,
)

SITE = np.dtype(
    [
        ("cap_w", i8),
        ("power_w", i8),
        ("energy_wms", i8),
        ("at_ms", i8),
        ("short_w", i8),
        ("opened", i8),
        ("due_ms", i8),
        ("claimant", i8),
    ],
    align=True,
)
#: What a class asks of one node, with how many jobs have asked it, and its row of scores; -1: none.
SHAPE = np.dtype([(n, i8) for n in ("cpu", "gpus", "milli", "mask", "seen", "row")], align=True)
#: A kept score of one shape on one node: of which state of both, how much capacity it saves, on which GPU.
SCORE = np.dtype([("stamp", i8), ("step", np.int32), ("gpu", np.int32)], align=True)
#: Shapes of the load expected that are told apart; beyond it the rarest are left out.
TARGET_MAX = 256
PROJECT = np.dtype([(n, i8) for n in ("usage", "used_milli", "at_ms", "weight_milli", "level")], align=True)


class State(ArrayBundle):
    """Every array of the policy's state; kernels take it whole and change it in place."""

    g: NDArray[Any]
    job: NDArray[Any]
    cls: NDArray[Any]
    cls_pool: NDArray[Any]
    need: NDArray[Any]
    came: NDArray[Any]
    member: NDArray[Any]
    order: NDArray[Any]
    pool: NDArray[Any]
    guar: NDArray[Any]
    mp: NDArray[Any]
    first_fit: NDArray[Any]
    ag: NDArray[Any]
    ag_pool: NDArray[Any]
    node: NDArray[Any]
    gfree: NDArray[Any]
    seg: NDArray[Any]
    rack: NDArray[Any]
    block: NDArray[Any]
    bits: NDArray[Any]
    rack_bits: NDArray[Any]
    block_bits: NDArray[Any]
    hold: NDArray[Any]
    dec: NDArray[Any]
    hist: NDArray[Any]
    waits: NDArray[Any]
    site: NDArray[Any]
    project: NDArray[Any]
    speed: NDArray[Any]
    scaling: NDArray[Any]
    pick: NDArray[Any]
    dirty: NDArray[Any]
    ready: NDArray[Any]
    cost: NDArray[Any]
    lend: NDArray[Any]
    shape: NDArray[Any]
    score: NDArray[Any]
    target: NDArray[Any]
    outlook: NDArray[Any]
    gpu_free: NDArray[Any]

    FIELDS = {
        "g": (G, 1),
        "job": (JOB, 1),
        "cls": (CLS, 1),
        "cls_pool": (i8, 1),
        "need": (i1, 2),
        "came": (i8, 1),
        "member": (MEMBER, 1),
        "order": (i8, 1),
        "pool": (POOL, 1),
        "guar": (i8, 1),
        "mp": (MP, 2),
        "first_fit": (i8, 3),
        "ag": (AGREEMENT, 1),
        "ag_pool": (i8, 1),
        "node": (NODE, 1),
        "gfree": (np.int16, 2),
        "seg": (SEG, 1),
        "rack": (DOMAIN, 1),
        "block": (DOMAIN, 1),
        "bits": (np.uint64, 2),
        "rack_bits": (np.uint64, 2),
        "block_bits": (np.uint64, 2),
        "hold": (HOLD_REC, 1),
        "dec": (DECISION, 1),
        "hist": (np.int32, 2),
        "waits": (np.int32, 2),
        "site": (SITE, 1),
        "project": (PROJECT, 1),
        "speed": (i8, 2),
        "scaling": (i8, 1),
        "pick": (i8, 2),
        "dirty": (i8, 1),
        "ready": (i8, 1),
        "cost": (i8, 1),
        "lend": (i8, 3),
        "shape": (SHAPE, 1),
        "score": (SCORE, 2),
        "target": (np.float64, 2),
        "outlook": (np.float64, 1),
        "gpu_free": (np.int32, 2),
    }

"""The state that the policy decides on: NumPy record arrays, passed to every kernel as one named tuple.

Index 0-based everywhere; -1 means none. Times are milliseconds from the start of the run, GPU amounts are in
1/1000 GPU (`_milli`), credits in 1/1000 GPU-seconds of the reference type. All counts that a kernel adds up are int64.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

i1, i2, i4, i8, u8 = np.int8, np.int16, np.int32, np.int64, np.uint64

#: A time later than any other.
NEVER_MS = 1 << 60

# Job states (design §4; SUSPENDED and COMPLETING are the executor's).
NEW, PENDING, RUNNING, REVOKING, ENDED, CANCELLED = 0, 1, 2, 3, 4, 5
# Node states.
UP, DOWN, QUARANTINED, SPARE, OFFLINE = 0, 1, 2, 3, 4
# Queue orders (rule 3) and the named baselines.
FIFO, SJF, SRTF, FAIR, LAS, DURE, SRSF = 0, 1, 2, 3, 4, 5, 6
# Backfill (rule 5).
BACKFILL_NONE, BACKFILL_EASY, BACKFILL_CONSERVATIVE = 0, 1, 2
# Kinds of hold on nodes.
HOLD_BACKFILL, HOLD_RECLAIM, HOLD_RANK, HOLD_ADVANCE = 0, 1, 2, 3
# Decisions.
START, VACATE, SHRINK, GROW, QUARANTINE, HOLD = 1, 2, 3, 4, 5, 6

GPUS_MAX = 16
#: Rows of the node bitmap: free GPU count 0..16, then the largest partly free GPU in eighths 1..8.
ROW_PARTIAL = GPUS_MAX + 1
NUM_ROWS = ROW_PARTIAL + 8
RACK_ROWS = 33
NUM_BUCKETS = 48

G = np.dtype([(n, i8) for n in (
    # configuration
    "order", "backfill", "preemptive", "holds_max", "rank_cap_ms", "rank_coef_milli", "size_exp_milli",
    "margin_ms", "own_notice_ms", "save_ms", "scan_max", "overdue_ms", "epoch_ms", "decay_ppm", "las_base",
    "las_levels", "quarantine_fails", "fail_window_ms", "quarantine_ms", "is_sleep", "default_ms", "history_min",
    "is_shares", "min_run_ms", "breach_slack_ms", "preempt_every_ms",
    # running state
    "now_ms", "num_dec", "next_epoch_ms", "free_seg", "free_hold", "num_dirty", "num_ready", "num_jobs",
    "used_milli", "online_milli", "queue_jobs", "queue_milli", "status",
    # counters
    "starts", "preemptions", "reclaims", "failures", "backfilled", "breaches", "quarantined", "shrinks", "grows",
    "holds", "lent_milli_ms", "lent_milli", "lent_at_ms", "frag_gpus", "whole_free",
)], align=True)

JOB = np.dtype([
    ("submit_ms", i8), ("ckpt_ms", i8), ("limit_ms", i8), ("oracle_ms", i8), ("not_before_ms", i8),
    ("rank", i8), ("done_ms", i8), ("start_ms", i8), ("since_ms", i8), ("pred_end_ms", i8), ("queued_ms", i8),
    ("wait_ms", i8), ("claim_ms", i8), ("vacate_ms", i8), ("run_rank", i8), ("first_start_ms", i8), ("lost_ms", i8),
    ("run_ms", i8), ("borrowed_ms", i8), ("end_ms", i8), ("claim_from_ms", i8), ("promise_ms", i8), ("promised_at_ms", i8),
    ("cls", i4), ("key1", i4), ("key2", i4), ("alloc", i4), ("pool", i4), ("seg", i4), ("hold", i4), ("attempt", i4),
    ("child", i4), ("sibling", i4), ("over_prev", i4), ("over_next", i4), ("cause", i4), ("preemptions", i4),
    ("failures", i4), ("rate_milli", i4), ("version", i4),
    ("state", i1), ("is_borrowed", i1), ("is_restart", i1), ("is_backfill", i1),
], align=True)

CLS = np.dtype([
    ("cpu_milli", i8), ("mem_mib", i8),
    ("member", i4), ("project", i4), ("num_gpus", i4), ("min_gpus", i4), ("max_gpus", i4), ("per_node", i4),
    ("gpu_milli", i4), ("pool0", i4), ("num_pools", i4), ("speed", i4),
    ("root", i4), ("count", i4), ("prev", i4), ("next", i4), ("tried", i8), ("preempt_at_ms", i8), ("holds", i4),
    ("topology", i1), ("priority", i1),
], align=True)

MEMBER = np.dtype([
    ("weight_milli", i8), ("share_milli", i8), ("credit_milli_ms", i8), ("lent_milli", i8), ("borrowed_milli", i8),
    ("used_milli", i8), ("at_ms", i8), ("usage", i8), ("pending", i8), ("queued_milli", i8), ("head", i4), ("pad", i4),
], align=True)

POOL = np.dtype([
    ("free_milli", i8), ("fill", i8), ("spares_target", i8), ("spares", i8),
    ("busy_w", i8), ("idle_w", i8), ("sleep_w", i8),
    ("node0", i4), ("node1", i4), ("rack0", i4), ("rack1", i4), ("block0", i4), ("block1", i4),
    ("per_node", i4), ("site", i4), ("home", i4), ("gpu_type", i4), ("mig", i4), ("guar0", i4), ("guar1", i4),
    ("hold", i4), ("holds", i4), ("cursor", i4), ("over_milli", i8), ("is_dirty", i1), ("is_plain", i1),
], align=True)

MP = np.dtype([
    ("guarantee", i8), ("use_g", i8), ("use_b", i8), ("over", i4), ("over_last", i4), ("agreement", i4), ("right", i4),
], align=True)

AGREEMENT = np.dtype([
    ("limit", i8), ("used", i8), ("notice_ms", i8), ("start_ms", i8), ("end_ms", i8), ("waiting", i8),
], align=True)

NODE = np.dtype([
    ("cpu_free", i8), ("mem_free", i8), ("free_mask", i8), ("free_at_ms", i8), ("fail_ms", i8),
    ("pool", i4), ("rack", i4), ("block", i4), ("seg", i4), ("hold", i4), ("hold_next", i4), ("over_milli", i4),
    ("used_milli", i4), ("num", i2), ("free", i2), ("fails", i2), ("state", i1), ("is_indexed", i1), ("partial", i1),
    ("is_ready", i1),
], align=True)

SEG = np.dtype([
    ("mask", i8), ("job", i4), ("node", i4), ("next", i4), ("node_prev", i4), ("node_next", i4), ("milli", i4),
    ("leaving", i4),
], align=True)

DOMAIN = np.dtype([("node0", i4), ("node1", i4), ("child0", i4), ("child1", i4), ("whole", i4), ("pool", i4)],
                  align=True)

HOLD_REC = np.dtype([
    ("start_ms", i8), ("job", i4), ("pool", i4), ("kind", i4), ("need", i4), ("missing", i4), ("head", i4),
    ("prev", i4), ("next", i4), ("num", i4), ("rem", i4),
], align=True)

DECISION = np.dtype([("at_ms", i8), ("job", i4), ("kind", i4), ("pool", i4), ("node", i4), ("gpus", i4),
                     ("cause", i4)], align=True)

SITE = np.dtype([("cap_w", i8), ("power_w", i8), ("energy_wms", i8), ("at_ms", i8), ("waiting", i8)], align=True)
PROJECT = np.dtype([("usage", i8), ("weight_milli", i8)], align=True)


class State(NamedTuple):
    """Every array of the policy's state; kernels take it whole and change it in place."""

    g: NDArray[Any]
    job: NDArray[Any]
    cls: NDArray[Any]
    cls_pool: NDArray[Any]
    cls_mask: NDArray[Any]
    member: NDArray[Any]
    order: NDArray[Any]
    pool: NDArray[Any]
    guar: NDArray[Any]
    mp: NDArray[Any]
    ag: NDArray[Any]
    node: NDArray[Any]
    gfree: NDArray[Any]
    seg: NDArray[Any]
    rack: NDArray[Any]
    block: NDArray[Any]
    bits: NDArray[Any]
    rack_bits: NDArray[Any]
    hold: NDArray[Any]
    dec: NDArray[Any]
    hist: NDArray[Any]
    site: NDArray[Any]
    project: NDArray[Any]
    speed: NDArray[Any]
    pick: NDArray[Any]
    dirty: NDArray[Any]
    ready: NDArray[Any]
    cost: NDArray[Any]
    lend: NDArray[Any]

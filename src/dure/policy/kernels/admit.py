"""One class in one pool: whether its head may start there, and what it may do to make room (rules 1, 5, 6, 8)."""

from __future__ import annotations

import numpy as np

from dure.policy.kernels.compile import kernel
from dure.policy.kernels.layout import (
    BACKFILL_NONE,
    GAIN_ALL,
    HOLD_BACKFILL,
    HOLD_RANK,
    HOLD_RECLAIM,
    NEED_NEVER,
    NEVER_MS,
    PENDING,
    State,
)
from dure.policy.kernels.leases import close_hold, drop_hold, look_behind, open_hold, start_job
from dure.policy.kernels.nodes import gpu_milli_on
from dure.policy.kernels.place import place, place_on_holds, power_needed_w, shape_on
from dure.policy.kernels.queue import class_before, drop_ended, pop, predict_rest_ms, push
from dure.policy.kernels.quota import is_within_share, mark_dirty, may_use, room_milli
from dure.policy.kernels.reclaim import hold_pick, plan
from dure.policy.kernels.victims import last_rank_of


@kernel
def is_power_claimed(S: State, site_idx: int) -> bool:
    """Whether power of the site is being taken back for a job that still waits for it."""
    g = S.g[0]
    site = S.site[site_idx]
    return site.claimant >= 0 and S.job[site.claimant].state == PENDING and g.now_ms <= site.due_ms + g.epoch_ms


@kernel
def power_wanted_w(S: State, p: int, num: int, is_borrowed: int) -> int:
    """Power that must be left under the site's cap for the picked nodes to start.

    Borrowers leave a fiftieth of the cap alone: an owner that claims power back would else lose it again to the
    next borrower before its own job starts.
    """
    wanted_w = power_needed_w(S, num)
    if is_borrowed and S.g[0].is_shares:
        wanted_w += S.site[S.pool[p].site].cap_w // 50
    return wanted_w


@kernel
def has_power(S: State, p: int, num: int, is_borrowed: int) -> bool:
    """Whether the picked nodes may start work under their site's power cap (rule 8)."""
    site_idx = S.pool[p].site
    site = S.site[site_idx]
    if site.cap_w <= 0:
        return True
    if is_borrowed and S.g[0].is_shares:
        if is_power_claimed(S, site_idx):
            site.short_w = -NEVER_MS
            return False
        site.claimant = -1
    wanted_w = power_wanted_w(S, p, num, is_borrowed)
    lacking_w = site.power_w + wanted_w - site.cap_w
    if lacking_w <= 0:
        return True
    site.short_w = min(site.short_w, wanted_w)
    S.g[0].lacking_w = lacking_w
    return False


@kernel
def has_before(S: State, c: int, p: int) -> bool:
    """Whether another class of the same member that may use the pool stands before class c."""
    d = S.member[S.cls[c].member].head
    while d >= 0:
        if d != c and S.need[d, p] != NEED_NEVER and class_before(S, d, c):
            return True
        d = S.cls[d].next
    return False


@kernel
def pop_head(S: State, c: int) -> int:
    """Take the head of a class out of its queue; who stood behind it in other pools goes next there."""
    j = pop(S, c)
    if S.g[0].backfill == BACKFILL_NONE:
        look_behind(S, c)
    return j


@kernel
def start_on_pick(S: State, c: int, p: int, num: int, gpus: int, is_borrowed: int) -> None:
    """Start the head of a class on the picked nodes."""
    is_behind = 1 if has_before(S, c, p) else 0
    j = pop_head(S, c)
    S.job[j].is_backfill = is_behind
    start_job(S, j, p, num, gpus, is_borrowed)
    drop_ended(S, c)


@kernel
def try_start(S: State, c: int, p: int, is_borrowed: int) -> int:
    """Start the head of a class in a pool if it fits now, at its full size or, elastic, at its least.

    Returns 1 if it started, 0 if it does not fit, 2 if only the power cap is in the way.
    """
    out = 0
    cls = S.cls[c]
    m = cls.member
    for attempt in range(2):
        gpus = cls.num_gpus if attempt == 0 else cls.min_gpus
        if attempt == 1 and (cls.min_gpus == cls.num_gpus or cls.num_gpus == 0):
            return out
        if not may_use(S, m, p, gpus * gpu_milli_on(S, c, p), is_borrowed):
            continue
        num = place(S, c, p, gpus)
        if num == 0 and S.pool[p].holds > 0 and S.g[0].backfill != BACKFILL_NONE:
            speed = S.speed[cls.speed, S.pool[p].gpu_type]
            end = S.g[0].now_ms + predict_rest_ms(S, cls.root) * 1000 // max(speed, 1)
            num = place_on_holds(S, c, p, gpus, end)
        if num > 0:
            if has_power(S, p, num, is_borrowed):
                start_on_pick(S, c, p, num, gpus, is_borrowed)
                return 1
            out = 2
    return out


@kernel
def may_fit(S: State, c: int, p: int, gain: int) -> bool:
    """Whether a class that did not fit may fit now that nodes with up to `gain` GPUs free are new; cheap."""
    pool = S.pool[p]
    milli = S.cls[c].min_gpus * gpu_milli_on(S, c, p)
    return S.need[c, p] <= gain and (pool.free_milli >= milli or pool.holds > 0)


@kernel
def may_claim(S: State, c: int, p: int) -> bool:
    """Whether taking lent GPUs back might make room for the head of a class; cheap."""
    cls = S.cls[c]
    pool = S.pool[p]
    gpus = cls.min_gpus
    if pool.over_segs == 0 or gpus == 0 or S.g[0].now_ms < cls.no_hold_ms:
        return False
    milli = gpus * gpu_milli_on(S, c, p)
    if pool.over_milli + pool.free_milli < milli:
        return False
    if gpus > pool.per_node and pool.is_plain and cls.per_node == 0 and pool.clear < gpus // pool.per_node:
        return False
    return is_within_share(S, cls.member, p, milli)


@kernel
def may_preempt(S: State, c: int) -> bool:
    """Whether it is time to look for later-ranked jobs that the head of a class may stop; cheap."""
    cls = S.cls[c]
    now = S.g[0].now_ms
    return cls.num_gpus > 0 and cls.gpu_milli >= 1000 and now >= cls.preempt_at_ms and now >= cls.no_hold_ms


@kernel
def has_own_behind(S: State, c: int, p: int) -> bool:
    """Whether the member may have jobs in the pool that stand far enough behind the head of a class; cheap."""
    cls = S.cls[c]
    cell = S.mp[cls.member, p]
    own_milli = cell.use_g + cell.use_b
    if own_milli == 0 or own_milli + S.pool[p].free_milli < cls.num_gpus * 1000:
        return False
    return S.job[cls.root].rank + S.g[0].margin_ms < cell.last_rank


@kernel
def is_small(S: State, c: int, p: int) -> bool:
    """Whether a job of the class takes less than a node of the pool."""
    cls = S.cls[c]
    parts, per_node, rest = shape_on(S, c, p, cls.num_gpus)
    return cls.num_gpus == 0 or cls.gpu_milli < 1000 or (parts == 1 and rest == 0 and per_node < S.pool[p].per_node)


@kernel
def has_hold_left(S: State, p: int) -> bool:
    """Whether one more blocked gang may hold nodes of a pool that are still busy (rule 5); cheap."""
    return S.g[0].backfill != BACKFILL_NONE and S.pool[p].holds - S.pool[p].reserved < S.g[0].holds_max


@kernel
def may_hold(S: State, c: int, p: int) -> bool:
    """Whether the head of a class has waited long enough to hold nodes that are still busy (rule 5); cheap.

    What takes less than a node comes free by itself, as a rule: to hold a node for it at once would idle the rest of it.
    """
    g = S.g[0]
    cls = S.cls[c]
    waited_ms = g.now_ms - cls.head_ms
    if waited_ms < g.hold_after_ms or g.now_ms < cls.no_hold_ms or not has_hold_left(S, p):
        return False
    return waited_ms > g.overdue_ms or not is_small(S, c, p)


@kernel
def hold_for(S: State, c: int, p: int, num: int, kind: int, gpus: int) -> int:
    """Take the head of a class out of its queue and hold the picked nodes for it; the hold's index, -1: none left."""
    j = pop_head(S, c)
    h = hold_pick(S, j, p, num, kind, gpus)
    if h < 0:
        push(S, j)
    drop_ended(S, c)
    return h


@kernel
def reclaim_for(S: State, c: int, p: int) -> bool:
    """Rule 1: take lent GPUs back for the head of a class that is within its member's share."""
    cls = S.cls[c]
    pool = S.pool[p]
    for attempt in range(2):
        gpus = cls.num_gpus if attempt == 0 else cls.min_gpus
        if gpus == 0 or (attempt == 1 and cls.min_gpus == cls.num_gpus):
            return False
        milli = gpus * gpu_milli_on(S, c, p)
        if not is_within_share(S, cls.member, p, milli) or pool.over_segs == 0:
            continue
        if pool.over_milli + pool.free_milli < milli:
            continue
        num = plan(S, c, p, gpus, HOLD_RECLAIM, cls.root)
        if num == 0 or not has_power(S, p, 0, 0):
            continue
        h = hold_for(S, c, p, num, HOLD_RECLAIM, gpus)
        if h >= 0:
            note_claim(S, h)
        return h >= 0
    return False


@kernel
def note_claim(S: State, h: int) -> None:
    """Count a claim to its member's share at once, so that a second cannot count the same room twice, and its promise."""
    hold = S.hold[h]
    job = S.job[hold.job]
    S.mp[S.cls[job.cls].member, hold.pool].use_g += hold.milli
    job.claim_ms = hold.start_ms + S.g[0].breach_slack_ms
    job.claim_from_ms = S.g[0].now_ms


@kernel
def serve_holder(S: State, h: int, p: int, gain: int) -> bool:
    """Start in pool p, or claim there within its share, a job whose held nodes are not all free yet; whether it was served.

    Those for whom nodes are being cleared have their nodes in a notice, and wait for them.
    """
    hold = S.hold[h]
    if hold.missing == 0:
        return False
    c = S.job[hold.job].cls
    if S.job[hold.job].state != PENDING or S.need[c, p] == NEED_NEVER:
        return False
    cell = S.mp[S.cls[c].member, p]
    if cell.opened or (cell.agreement >= 0 and cell.seen != S.ag[cell.agreement].opened):
        # Its member's share or agreement has given back what it was refused.
        gain = GAIN_ALL
    open_hold(S, h)
    if start_holder(S, h, p, gain):
        return True
    close_hold(S, h)
    return False


@kernel
def start_holder(S: State, h: int, p: int, gain: int) -> bool:
    """`serve_holder`, with its own nodes open to it."""
    j = S.hold[h].job
    c = S.job[j].cls
    cls = S.cls[c]
    for attempt in range(2):
        gpus = cls.num_gpus if attempt == 0 else cls.min_gpus
        if attempt == 1 and cls.min_gpus == cls.num_gpus:
            return False
        milli = gpus * gpu_milli_on(S, c, p)
        for is_borrowed in range(0 if S.g[0].is_shares else 1, 2):
            if S.need[c, p] > gain or not may_use(S, cls.member, p, milli, is_borrowed):
                continue
            num = place(S, c, p, gpus)
            if num > 0 and has_power(S, p, num, is_borrowed):
                drop_hold(S, h)
                start_job(S, j, p, num, gpus, is_borrowed)
                return True
        if S.g[0].is_shares and S.pool[p].over_segs > 0 and gpus > 0 and is_within_share(S, cls.member, p, milli):
            num = plan(S, c, p, gpus, HOLD_RECLAIM, j)
            if num > 0 and has_power(S, p, 0, 0):
                drop_hold(S, h)
                note_claim(S, hold_pick(S, j, p, num, HOLD_RECLAIM, gpus))
                return True
    return False


@kernel
def preempt_every_ms(S: State, p: int) -> int:
    """Least time between two searches for later-ranked jobs in a pool."""
    return S.g[0].preempt_node_ms * (S.pool[p].node1 - S.pool[p].node0)


@kernel
def free_on_pick_milli(S: State, num: int) -> int:
    """What is free already of the picked nodes' GPUs."""
    free = np.int64(0)
    for i in range(num):
        free += min(S.node[S.pick[i, 0]].free, S.pick[i, 1]) * 1000
    return free


@kernel
def preempt_for(S: State, c: int, p: int, is_borrowed: int) -> bool:
    """Rule 3 with 6: stop the member's own later-ranked jobs for the head of a class."""
    cls = S.cls[c]
    g = S.g[0]
    milli = cls.num_gpus * 1000
    if not has_own_behind(S, c, p) or S.job[cls.root].rank + g.margin_ms >= last_rank_of(S, cls.member, p):
        return False
    own_milli = S.mp[cls.member, p].use_g + S.mp[cls.member, p].use_b
    is_at_limit = not may_use(S, cls.member, p, milli, is_borrowed)
    if is_at_limit and (own_milli < milli or room_milli(S, cls.member, p, is_borrowed) < 0):
        return False
    # Less often in large pools, where much is looked at, and while nothing is found: up to a hundred times the least.
    every_ms = preempt_every_ms(S, p)
    waited_ms = g.now_ms - S.job[cls.root].queued_ms
    cls.preempt_at_ms = g.now_ms + min(max(every_ms, waited_ms // 8), 100 * every_ms)
    num = plan(S, c, p, cls.num_gpus, HOLD_RANK, cls.root)
    if num > 0 and is_at_limit and free_on_pick_milli(S, num) > room_milli(S, cls.member, p, is_borrowed):
        # With no room for more the head takes what its own jobs give back, and nothing that is free.
        g.is_swapping = 1
        num = plan(S, c, p, cls.num_gpus, HOLD_RANK, cls.root)
        g.is_swapping = 0
    if num == 0 or not has_power(S, p, num, is_borrowed):
        return False
    if hold_for(S, c, p, num, HOLD_RANK, cls.num_gpus) < 0:
        return False
    if S.job[cls.root].rank_claim_ms < 0:
        S.job[cls.root].rank_claim_ms = g.now_ms
    return True


@kernel
def reserve_for(S: State, c: int, p: int, is_borrowed: int) -> bool:
    """Rule 5: hold the nodes that are predicted free first for the blocked head of a member's queue."""
    cls = S.cls[c]
    if not may_hold(S, c, p) or has_before(S, c, p):
        return False
    if not may_use(S, cls.member, p, cls.num_gpus * gpu_milli_on(S, c, p), is_borrowed):
        return False
    num = plan(S, c, p, cls.num_gpus, HOLD_BACKFILL, cls.root)
    if num == 0 or hold_for(S, c, p, num, HOLD_BACKFILL, cls.num_gpus) < 0:
        return False
    look_elsewhere(S, c, p)
    return True


@kernel
def look_elsewhere(S: State, c: int, p: int) -> None:
    """Have the pools that a class may use, other than p, looked at for one of its jobs whose nodes are not free yet."""
    for i in range(S.cls[c].pool0, S.cls[c].pool0 + S.cls[c].num_pools):
        if S.cls_pool[i] != p:
            S.pool[S.cls_pool[i]].gain = GAIN_ALL
            mark_dirty(S, S.cls_pool[i])


@kernel
def make_room(S: State, c: int, p: int, is_borrowed: int, is_preempting: bool) -> bool:
    """Claim GPUs for the blocked head of a class, by reclaim or by rank; whether a claim was made."""
    if S.g[0].now_ms < S.cls[c].no_hold_ms:
        return False
    if S.g[0].is_shares and not is_borrowed and may_claim(S, c, p) and reclaim_for(S, c, p):
        return True
    return is_preempting and preempt_for(S, c, p, is_borrowed)

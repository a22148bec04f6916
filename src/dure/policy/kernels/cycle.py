"""One scheduling cycle: guarantees first, then surplus in order of credits, then what fits behind (rules 1–6)."""

from __future__ import annotations

import numpy as np

from dure.policy.kernels.compile import kernel
from dure.policy.kernels.layout import (
    BACKFILL_NONE,
    DURE,
    FAIR,
    HOLD_BACKFILL,
    HOLD_RANK,
    HOLD_RECLAIM,
    LAS,
    NEVER_MS,
    PENDING,
    RUNNING,
    State,
)
from dure.policy.kernels.leases import drop_hold, enqueue, grow, mark_dirty, progress_ms, start_job
from dure.policy.kernels.place import (
    cpu_for,
    fits,
    mem_for,
    place,
    place_on_holds,
    power_needed_w,
    shape_on,
)
from dure.policy.kernels.queue import (
    class_before,
    drop_ended,
    level_of,
    milli_of,
    pop,
    predict_rest_ms,
    push,
    rank_of,
)
from dure.policy.kernels.quota import is_within_share, may_borrow, settle
from dure.policy.kernels.reclaim import hold_pick, plan, reclaim_power


@kernel
def is_power_claimed(S: State, site_idx: int) -> bool:
    """Whether power of the site is being taken back for a job that still waits for it."""
    site = S.site[site_idx]
    if site.claimant < 0:
        return False
    if S.job[site.claimant].state != PENDING or S.g[0].now_ms > site.due_ms + S.g[0].epoch_ms:
        site.claimant = -1
        return False
    return True


@kernel
def has_power(S: State, p: int, num: int, is_borrowed: int) -> bool:
    """Whether the picked nodes may start work under their site's power cap (rule 8).

    Borrowers leave a fiftieth of the cap alone: an owner that claims power back would else lose it again to the
    next borrower before its own job starts.
    """
    site = S.site[S.pool[p].site]
    lacking_w = site.power_w + power_needed_w(S, num) - site.cap_w
    if is_borrowed and S.g[0].is_shares:
        lacking_w += site.cap_w // 50
        if site.cap_w > 0 and is_power_claimed(S, S.pool[p].site):
            site.waiting = 1
            return False
    if site.cap_w > 0 and lacking_w > 0:
        site.waiting = 1
        S.g[0].lacking_w = lacking_w
        return False
    return True


@kernel
def can_use(S: State, c: int, p: int) -> bool:
    """Whether the class's constraints and its member's rights admit the pool (rule 9)."""
    return (S.cls_mask[c, p >> 6] >> np.uint64(p & 63)) & np.uint64(1) != 0


@kernel
def start_on_pick(S: State, c: int, p: int, num: int, gpus: int, is_borrowed: int, is_backfill: int) -> None:
    """Start the head of a class on the picked nodes."""
    j = pop(S, c)
    S.job[j].is_backfill = is_backfill
    start_job(S, j, p, num, gpus, is_borrowed)
    drop_ended(S, c)


@kernel
def try_start(S: State, c: int, p: int, is_borrowed: int, is_behind: int) -> int:
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
        milli = gpus * cls.gpu_milli
        if is_borrowed:
            if not may_borrow(S, m, p, milli):
                continue
        elif not is_within_share(S, m, p, milli):
            continue
        num = place(S, c, p, gpus)
        behind = is_behind
        if num == 0 and S.pool[p].hold >= 0 and S.g[0].backfill != BACKFILL_NONE:
            speed = S.speed[cls.speed, S.pool[p].gpu_type]
            end = S.g[0].now_ms + predict_rest_ms(S, cls.root) * 1000 // max(speed, 1)
            num = place_on_holds(S, c, p, gpus, end)
            behind = 1
        if num > 0:
            if has_power(S, p, num, is_borrowed):
                start_on_pick(S, c, p, num, gpus, is_borrowed, behind)
                return 1
            out = 2
    return out


@kernel
def quick_fit(S: State, c: int, p: int) -> bool:
    """Whether the pool has as many GPUs free as the class needs at least; cheap."""
    return S.pool[p].free_milli >= milli_of(S, c) or S.pool[p].holds > 0


@kernel
def best_class(S: State, m: int, p: int, fill: int, only_fit: bool) -> int:
    """The member's class that goes next in pool p, not yet tried in this fill; -1: none."""
    best = -1
    c = S.member[m].head
    while c >= 0:
        after = S.cls[c].next
        if S.cls[c].tried != fill and can_use(S, c, p) and (not only_fit or quick_fit(S, c, p)):
            if best < 0 or class_before(S, c, best):
                best = c
        c = after
    return best


@kernel
def reclaim_for(S: State, c: int, p: int) -> bool:
    """Rule 1: take lent GPUs back for the head of a class that is within its member's share."""
    cls = S.cls[c]
    pool = S.pool[p]
    for attempt in range(2):
        gpus = cls.num_gpus if attempt == 0 else cls.min_gpus
        if gpus == 0 or cls.gpu_milli < 1000 or (attempt == 1 and cls.min_gpus == cls.num_gpus):
            return False
        if not is_within_share(S, cls.member, p, gpus * 1000) or pool.over_milli == 0:
            continue
        if pool.over_milli + pool.free_milli < gpus * 1000:
            continue
        num = plan(S, c, p, gpus, HOLD_RECLAIM, cls.root)
        if num == 0 or not has_power(S, p, 0, 0):
            continue
        j = pop(S, c)
        h = hold_pick(S, j, p, num, HOLD_RECLAIM, gpus)
        if h < 0:
            push(S, j)
            return False
        # The share is taken now, so that a second claim cannot count the same room twice.
        S.mp[cls.member, p].use_g += gpus * 1000
        S.job[j].claim_ms = S.hold[h].start_ms + S.g[0].breach_slack_ms
        S.job[j].claim_from_ms = S.g[0].now_ms
        drop_ended(S, c)
        return True
    return False


@kernel
def preempt_for(S: State, c: int, p: int, is_borrowed: int) -> bool:
    """Rule 3 with 6: stop the member's own later-ranked jobs for the head of a class."""
    cls = S.cls[c]
    g = S.g[0]
    if cls.num_gpus == 0 or cls.gpu_milli < 1000 or g.now_ms < cls.preempt_at_ms:
        return False
    milli = cls.num_gpus * 1000
    if not (may_borrow(S, cls.member, p, milli) if is_borrowed else is_within_share(S, cls.member, p, milli)):
        # Its own jobs' GPUs count once: what the victims give back is what the head takes.
        if S.mp[cls.member, p].use_g + S.mp[cls.member, p].use_b < milli:
            return False
    cls.preempt_at_ms = g.now_ms + g.preempt_every_ms
    num = plan(S, c, p, cls.num_gpus, HOLD_RANK, cls.root)
    if num == 0:
        return False
    j = pop(S, c)
    h = hold_pick(S, j, p, num, HOLD_RANK, cls.num_gpus)
    if h < 0:
        push(S, j)
        return False
    drop_ended(S, c)
    return True


@kernel
def reserve_for(S: State, c: int, p: int) -> None:
    """Rule 5: hold the nodes that are predicted free first for the blocked head of a class."""
    g = S.g[0]
    cls = S.cls[c]
    pool = S.pool[p]
    if g.backfill == BACKFILL_NONE or pool.holds >= g.holds_max or cls.num_gpus == 0 or cls.gpu_milli < 1000:
        return
    if g.now_ms - S.job[cls.root].queued_ms < g.hold_after_ms:
        return
    parts, per_node, rest = shape_on(S, c, p, cls.num_gpus)
    if parts == 0 or (parts == 1 and rest == 0 and per_node < pool.per_node):
        # Less than a node never starves behind best fit for long; holding a whole node for it would idle GPUs.
        return
    num = plan(S, c, p, cls.num_gpus, HOLD_BACKFILL, cls.root)
    if num == 0:
        return
    j = pop(S, c)
    if hold_pick(S, j, p, num, HOLD_BACKFILL, cls.num_gpus) < 0:
        push(S, j)
    drop_ended(S, c)


@kernel
def fill_member(S: State, m: int, p: int, is_borrowed: int, fill: int, is_preempting: bool) -> None:
    """Start what a member may start in a pool, in its queue's order, with backfill behind a blocked head."""
    g = S.g[0]
    is_strict = g.backfill == BACKFILL_NONE
    is_behind = 0
    tries = 0
    while S.member[m].head >= 0:
        c = best_class(S, m, p, fill, not is_strict and is_behind == 1)
        if c < 0:
            return
        outcome = try_start(S, c, p, is_borrowed, is_behind)
        if outcome == 1:
            continue
        S.cls[c].tried = fill
        if outcome == 2:
            # Holding nodes would not bring power; sending borrowers of the site away does.
            if g.is_shares and not is_borrowed:
                reclaim_power(S, p, g.lacking_w, S.cls[c].root)
            if is_strict:
                return
            is_behind = 1
            continue
        cls = S.cls[c]
        is_held_off = g.now_ms < S.cls[c].no_hold_ms
        if g.is_shares and not is_borrowed and not is_held_off and reclaim_for(S, c, p):
            S.cls[c].tried = 0
            continue
        if is_preempting and not is_held_off and preempt_for(S, c, p, is_borrowed):
            S.cls[c].tried = 0
            continue
        if is_strict:
            return
        milli = cls.num_gpus * 1000
        if (
            is_behind == 0
            and not is_held_off
            and (may_borrow(S, m, p, milli) if is_borrowed else is_within_share(S, m, p, milli))
        ):
            # The first blocked head of the member's queue in this pool is the one that backfill must not delay.
            reserve_for(S, c, p)
        is_behind = 1
        tries += 1
        if tries > g.scan_max or (S.pool[p].free_milli == 0 and S.pool[p].holds == 0 and not is_preempting):
            if is_borrowed or S.pool[p].over_milli == 0:
                return


@kernel
def member_before(S: State, a: int, b: int) -> bool:
    """Order of members for surplus: fair by decayed use ÷ weight, dure by credits ÷ share (weighted Karma)."""
    x, y = S.member[a], S.member[b]
    if S.g[0].order == FAIR:
        u, v = x.usage // max(x.weight_milli, 1), y.usage // max(y.weight_milli, 1)
        if u != v:
            return u < v
        return a < b
    u = x.credit_milli_ms // max(x.share_milli, x.weight_milli)
    v = y.credit_milli_ms // max(y.share_milli, y.weight_milli)
    if u != v:
        return u > v
    return a < b


@kernel
def sort_members(S: State) -> None:
    """Bring the order of members up to date (insertion sort: it is nearly sorted already)."""
    num = S.order.shape[0]
    for m in range(num):
        settle(S, m)
    for i in range(1, num):
        m = S.order[i]
        k = i - 1
        while k >= 0 and member_before(S, m, S.order[k]):
            S.order[k + 1] = S.order[k]
            k -= 1
        S.order[k + 1] = m


@kernel
def decay(S: State) -> None:
    """Let used GPU-time fade with the half-life that `decay_ppm` per epoch gives."""
    g = S.g[0]
    for m in range(S.member.shape[0]):
        S.member[m].usage -= S.member[m].usage * g.decay_ppm // 1000000
    for i in range(S.project.shape[0]):
        S.project[i].usage -= S.project[i].usage * g.decay_ppm // 1000000


@kernel
def start_ready(S: State) -> None:
    """Start the gangs whose held nodes are all free."""
    g = S.g[0]
    while g.num_ready > 0:
        g.num_ready -= 1
        h = S.ready[g.num_ready]
        hold = S.hold[h]
        if hold.job < 0 or hold.missing > 0:
            continue
        j = hold.job
        job = S.job[j]
        c = job.cls
        p, gpus, kind = hold.pool, hold.rem, hold.kind
        m = S.cls[c].member
        milli = gpus * 1000
        claim = job.claim_ms
        n, num = hold.head, 0
        while n >= 0:
            S.pick[num, 0], S.pick[num, 1] = n, hold.need
            num += 1
            n = S.node[n].hold_next
        if not has_power(S, p, num, 0):
            # The gang keeps its nodes; a release at the site looks at it again. Within its share, borrowers
            # leave for it; what then still lacks is the share's own use, which is no breach.
            if kind == HOLD_RECLAIM:
                reclaim_power(S, p, S.g[0].lacking_w, j)
                job.claim_ms = -1
            continue
        drop_hold(S, h)
        is_borrowed = -1
        if g.is_shares and is_within_share(S, m, p, milli):
            is_borrowed = 0
        elif may_borrow(S, m, p, milli):
            is_borrowed = 1
        num = place(S, c, p, gpus) if is_borrowed >= 0 else 0
        job.claim_ms = claim
        if num > 0:
            start_job(S, j, p, num, gpus, is_borrowed)
        else:
            # What stood in the way (a lapsed agreement, say) will not go away at this moment.
            push(S, j)
            S.cls[c].no_hold_ms = S.g[0].now_ms + 1


@kernel
def fill_pool(S: State, p: int) -> None:
    """Give what a pool has free: to those within their share, then to the others in the members' order."""
    g = S.g[0]
    pool = S.pool[p]
    pool.fill += 1
    h = pool.hold
    while h >= 0:
        if S.hold[h].missing == 0:
            S.ready[g.num_ready] = h
            g.num_ready += 1
        h = S.hold[h].next
    start_ready(S)
    is_preempting = g.preemptive == 1 and g.now_ms >= pool.preempt_at_ms
    if is_preempting:
        pool.preempt_at_ms = g.now_ms + g.preempt_every_ms
    if g.is_shares:
        fill = pool.fill * 4096 + p * 2 + 1
        for i in range(pool.guar0, pool.guar1):
            m = S.guar[i]
            if S.member[m].head >= 0 and S.mp[m, p].use_g < S.mp[m, p].guarantee:
                fill_member(S, m, p, 0, fill, is_preempting)
    if pool.free_milli > 0 or pool.holds > 0 or is_preempting:
        fill = pool.fill * 4096 + p * 2 + 2
        if g.order == FAIR:
            fill_fair(S, p, fill)
        else:
            for i in range(S.order.shape[0]):
                m = S.order[i]
                if S.member[m].head >= 0 and S.mp[m, p].right:
                    fill_member(S, m, p, 1, fill, is_preempting)
                    if pool.free_milli == 0 and pool.holds == 0 and not is_preempting:
                        break
    if pool.free_milli > 0:
        grow_elastic(S, p)


@kernel
def fill_fair(S: State, p: int, fill: int) -> None:
    """Fair share: one job at a time for the member with the least decayed use by weight; a blocked head waits."""
    num = S.order.shape[0]
    while True:
        best = -1
        for m in range(num):
            if S.member[m].head < 0 or not S.mp[m, p].right:
                continue
            settle(S, m)
            c = best_class(S, m, p, fill, False)
            if c >= 0 and (best < 0 or member_before(S, m, best)):
                best = m
        if best < 0:
            return
        c = best_class(S, best, p, fill, False)
        if try_start(S, c, p, 1, 0) != 1:
            return


@kernel
def grow_elastic(S: State, p: int) -> None:
    """Give GPUs that nobody waits for to elastic jobs that stand on the same node (rule 6, the other way)."""
    g = S.g[0]
    if g.queue_jobs > 0:
        return
    for m in range(S.member.shape[0]):
        j = S.mp[m, p].over
        while j >= 0:
            job = S.job[j]
            after = job.over_next
            cls = S.cls[job.cls]
            if job.state == RUNNING and job.alloc < cls.max_gpus and cls.gpu_milli >= 1000:
                s = job.seg
                while s >= 0 and job.alloc < cls.max_gpus:
                    n = S.seg[s].node
                    after_s = S.seg[s].next
                    count = min(S.node[n].free, cls.max_gpus - job.alloc)
                    c = job.cls
                    S.pick[0, 0], S.pick[0, 1] = n, count
                    if (
                        S.node[n].is_indexed and count > 0 and may_borrow(S, m, p, count * 1000)
                        and fits(S, n, cpu_for(S, c, count), mem_for(S, c, count)) and has_power(S, p, 1, 1)
                    ):  # fmt: skip
                        grow(S, j, n, count)
                    s = after_s
            j = after


@kernel
def cycle(S: State) -> None:
    """Decide everything that the events since the last cycle allow. Decisions are in `dec[:num_dec]`."""
    g = S.g[0]
    if g.now_ms >= g.next_epoch_ms:
        decay(S)
        sort_members(S)
        g.next_epoch_ms = g.now_ms + g.epoch_ms
    rounds = 0
    while g.num_ready > 0 or g.num_dirty > 0:
        start_ready(S)
        if g.num_dirty == 0:
            break
        rounds += 1
        if rounds > 1000 + 100 * S.pool.shape[0]:
            g.status = 3
            return
        g.num_dirty -= 1
        p = S.dirty[g.num_dirty]
        S.pool[p].is_dirty = 0
        fill_pool(S, p)


@kernel
def on_submit(S: State, j: int) -> None:
    """A job has come: it waits, and is started at once where nothing of its kind waits before it."""
    c = S.job[j].cls
    enqueue(S, j)
    if S.cls[c].root != j and S.cls[c].count > 1:
        # Its class's head is blocked, so it is too, until some pool has something new.
        return
    for i in range(S.cls[c].num_pools):
        mark_dirty(S, S.cls_pool[S.cls[c].pool0 + i])


@kernel
def next_rerank_ms(S: State, j: int) -> int:
    """When a running job's rank changes next, if it goes on as now; NEVER_MS where ranks stand still."""
    g = S.g[0]
    job = S.job[j]
    if not g.preemptive or job.rate_milli <= 0:
        return NEVER_MS
    done = job.done_ms + progress_ms(S, j)
    if g.order == LAS:
        gpus = max(S.cls[job.cls].num_gpus, 1)
        level = level_of(S, done // 1000 * gpus)
        if level >= g.las_levels:
            return NEVER_MS
        goal = ((g.las_base << level) + gpus - 1) // gpus * 1000
    elif g.order == DURE:
        goal = np.int64(300000)
        while goal <= done:
            goal *= 4
    else:
        return NEVER_MS
    return g.now_ms + max((goal - done) * 1000 // job.rate_milli + 1, 1)


@kernel
def on_rerank(S: State, j: int) -> None:
    """A running job has crossed into a later rank; those who wait may now go before it."""
    job = S.job[j]
    job.run_rank = rank_of(S, j, job.done_ms + progress_ms(S, j))
    if S.g[0].queue_jobs > 0 and S.g[0].now_ms >= S.pool[job.pool].preempt_at_ms:
        mark_dirty(S, job.pool)

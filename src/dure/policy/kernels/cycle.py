"""One scheduling cycle: guarantees first, then surplus in order of credits, then what fits behind (rules 1–6)."""

from __future__ import annotations

import numpy as np

from dure.policy.kernels.admit import (
    has_before,
    has_hold_left,
    has_own_behind,
    has_power,
    make_room,
    may_claim,
    may_fit,
    may_hold,
    may_preempt,
    preempt_every_ms,
    reclaim_for,
    reserve_for,
    serve_holder,
    try_start,
)
from dure.policy.kernels.compile import kernel
from dure.policy.kernels.expected import is_scored, score_on
from dure.policy.kernels.layout import (
    BACKFILL_NONE,
    CANCELLED,
    DURE,
    ENDED,
    FAIR,
    GAIN_ALL,
    HOLD_RECLAIM,
    LAS,
    NEED_NEVER,
    NEVER_MS,
    PENDING,
    RESERVED,
    REVOKING,
    RUNNING,
    State,
)
from dure.policy.kernels.leases import drop_hold, grow, mark_ready, note_rank, requeue, start_job
from dure.policy.kernels.nodes import fits, gpu_milli_on, recount_tenants
from dure.policy.kernels.place import is_waited_for, place
from dure.policy.kernels.queue import (
    class_before,
    level_of,
    long_wait_of,
    order_anew,
    progress_ms,
    rank_of,
    wait_bucket,
    waited_ms,
)
from dure.policy.kernels.quota import is_within_share, mark_dirty, may_borrow, may_use, settle, settle_project
from dure.policy.kernels.reclaim import reclaim_power

#: Classes that may come at one moment and be looked at one by one; with more, every pool is looked at whole.
CAME_MAX = 32


#: Ranks that one arrival or end pays for, those that need no pay, and rows of ended jobs that cost as much as one.
RANKS_PER_NEWS, RANKS_FREE, RANKS_PER_LOOK = 8, 20_000, 64


@kernel
def best_class(S: State, m: int, p: int, fill: int, gain: int, is_claiming: bool, is_preempting: bool) -> int:
    """The member's class that goes next in pool p, not yet tried in this fill; -1: none.

    Looks only at classes for which something may have changed: see `may_fit` and its like. A class that has just come
    makes no room before `take_arrivals` has tried it on all that is free.
    """
    is_holding = has_hold_left(S, p)
    is_claiming = is_claiming and S.pool[p].over_segs > 0 and S.mp[m, p].use_g < S.mp[m, p].guarantee
    if gain < 0 and not (is_claiming or is_preempting or is_holding):
        return -1
    best = -1
    c = S.member[m].head
    while c >= 0:
        if (
            S.cls[c].tried != fill
            and S.need[c, p] != NEED_NEVER
            and (
                may_fit(S, c, p, gain)
                or (
                    not S.cls[c].has_come
                    and (
                        (is_claiming and may_claim(S, c, p))
                        or (is_preempting and may_preempt(S, c) and has_own_behind(S, c, p))
                        or (is_holding and may_hold(S, c, p))
                    )
                )
            )
            and (best < 0 or class_before(S, c, best))
        ):
            best = c
        c = S.cls[c].next
    return best


@kernel
def first_class(S: State, m: int, p: int) -> int:
    """The member's class that stands first of those that may use the pool; -1: none."""
    best = -1
    c = S.member[m].head
    while c >= 0:
        if S.need[c, p] != NEED_NEVER and (best < 0 or class_before(S, c, best)):
            best = c
        c = S.cls[c].next
    return best


@kernel
def fill_strict(S: State, m: int, p: int, is_borrowed: int, is_preempting: bool) -> None:
    """Without backfill: start a member's jobs in its queue's order until the first that is blocked."""
    while True:
        c = first_class(S, m, p)
        if c < 0:
            return
        outcome = try_start(S, c, p, is_borrowed)
        if outcome == 1:
            continue
        if outcome == 2 or not make_room(S, c, p, is_borrowed, is_preempting and may_preempt(S, c)):
            return


@kernel
def fill_member(S: State, m: int, p: int, is_borrowed: int, fill: int, gain: int, is_preempting: bool) -> None:
    """Start what a member may start in a pool, in its queue's order, with backfill behind a blocked head.

    `gain`: most GPUs free on a node that has become freer since the last look; a class that did not fit then and
    needs more on a node does not fit now.
    """
    g = S.g[0]
    cell = S.mp[m, p]
    if g.backfill == BACKFILL_NONE:
        fill_strict(S, m, p, is_borrowed, is_preempting)
        return
    if is_borrowed:
        if cell.agreement >= 0 and cell.seen != S.ag[cell.agreement].opened:
            cell.seen = S.ag[cell.agreement].opened
            gain = GAIN_ALL
    elif cell.opened:
        cell.opened = 0
        gain = GAIN_ALL
    is_claiming = g.is_shares == 1 and is_borrowed == 0
    tries = 0
    while S.member[m].head >= 0 and tries <= g.scan_max:
        c = best_class(S, m, p, fill, gain, is_claiming, is_preempting)
        if c < 0:
            return
        outcome = try_start(S, c, p, is_borrowed) if may_fit(S, c, p, gain) else 0
        if outcome == 1:
            continue
        S.cls[c].tried = fill
        if S.cls[c].has_come:
            continue
        if outcome == 2:
            # Holding nodes would not bring power; sending borrowers of the site away does.
            if is_claiming:
                reclaim_power(S, p, g.lacking_w, S.cls[c].root)
            continue
        if make_room(S, c, p, is_borrowed, is_preempting and may_preempt(S, c)):
            S.cls[c].tried = 0
            continue
        reserve_for(S, c, p, is_borrowed)
        tries += 1


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
    """Let used GPU-time fade with the half-life that `decay_ppm` per epoch gives, and waits become overdue."""
    g = S.g[0]
    for m in range(S.member.shape[0]):
        S.member[m].usage -= S.member[m].usage * g.decay_ppm // 1000000
    for i in range(S.project.shape[0]):
        settle_project(S, i)
        project = S.project[i]
        project.usage -= project.usage * g.decay_ppm // 1000000
        # Projects within a factor of two are equal.
        use, level = project.usage // max(project.weight_milli, 1), 0
        while use > 0:
            use >>= 1
            level += 1
        project.level = level
    if g.order == DURE:
        order_waiting(S, False)


@kernel
def order_waiting(S: State, is_rerank: bool) -> None:
    """Order the waiting jobs of all members anew, where something has changed."""
    for m in range(S.member.shape[0]):
        c = S.member[m].head
        while c >= 0:
            after = S.cls[c].next
            order_anew(S, c, is_rerank)
            c = after


@kernel
def is_rerank_due(S: State) -> bool:
    """Whether all ranks are to be worked out anew: after `rerank_ms`, and once enough has come and ended.

    So a job's coming and end pay for a fixed number of ranks each, however long the queue is.
    """
    g = S.g[0]
    if g.order != DURE or g.now_ms < g.next_rerank_ms:
        return False
    num = g.queue_jobs + S.node.shape[0] + (g.end_live - g.first_live) // RANKS_PER_LOOK
    return num <= RANKS_FREE or g.num_news * RANKS_PER_NEWS >= num


@kernel
def rerank(S: State) -> None:
    """Work out the ranks of all jobs that run or wait anew."""
    S.g[0].next_rerank_ms = S.g[0].now_ms + S.g[0].rerank_ms
    S.g[0].num_news = 0
    measure_waits(S)
    rerank_running(S)
    order_waiting(S, True)


@kernel
def measure_waits(S: State) -> None:
    """Find each member's long wait, from the jobs that ended and what those that run or wait have waited until now."""
    g = S.g[0]
    while g.first_live < g.end_live and S.job[g.first_live].state in (ENDED, CANCELLED):
        g.first_live += 1
    waits = S.waits.copy()
    for j in range(g.first_live, g.end_live):
        state = S.job[j].state
        if state == PENDING or state == RUNNING or state == REVOKING:
            waits[S.cls[S.job[j].cls].member, wait_bucket(waited_ms(S, j))] += 1
    for m in range(S.member.shape[0]):
        S.member[m].long_wait_ms = long_wait_of(waits[m])


@kernel
def rerank_running(S: State) -> None:
    """Work out the ranks of all running jobs anew, and have the pools looked at for those who wait."""
    for n in range(S.node.shape[0]):
        s = S.node[n].seg
        while s >= 0:
            j = S.seg[s].job
            if S.job[j].seg == s:
                S.job[j].run_rank = rank_of(S, j, S.job[j].done_ms + progress_ms(S, j))
                note_rank(S, j)
            s = S.seg[s].node_next
    for n in range(S.node.shape[0]):
        if S.node[n].seg >= 0:
            recount_tenants(S, n)
    if S.g[0].queue_jobs > 0:
        for p in range(S.pool.shape[0]):
            if S.g[0].now_ms >= S.pool[p].preempt_at_ms:
                mark_dirty(S, p)


@kernel
def start_ready(S: State) -> None:
    """Start the gangs whose held nodes are all free."""
    g = S.g[0]
    while g.num_ready > 0:
        g.num_ready -= 1
        h = S.ready[g.num_ready]
        hold = S.hold[h]
        if hold.job < 0 or hold.missing > 0 or S.job[hold.job].state == RESERVED:
            continue
        j = hold.job
        job = S.job[j]
        c = job.cls
        p, gpus, kind = hold.pool, hold.rem, hold.kind
        m = S.cls[c].member
        milli = hold.milli
        claim = job.claim_ms
        n, num = hold.head, 0
        while n >= 0:
            S.pick[num, 0], S.pick[num, 1] = n, S.node[n].hold_need
            num += 1
            n = S.node[n].hold_next
        if not has_power(S, p, num, 0):
            # The gang keeps its nodes; a release at the site looks at it again. Within its share, borrowers
            # leave for it; what then still lacks is the share's own use, which is no breach.
            S.pool[p].is_stalled = 1
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
            requeue(S, j)
            S.cls[c].no_hold_ms = S.g[0].now_ms + 1


@kernel
def serve_holders(S: State, p: int, gain: int) -> None:
    """Let those who hold nodes that are not all free yet start in pool p instead, if they can; `scan_max` at most."""
    looked = 0
    for q in range(S.pool.shape[0]):
        h = S.pool[q].hold
        while h >= 0 and is_waited_for(S, h) and looked < S.g[0].scan_max:
            after = S.hold[h].next
            serve_holder(S, h, p, gain)
            looked += 1
            h = after


@kernel
def fill_pool(S: State, p: int) -> None:
    """Give what a pool has free: to those within their share, then to the others in the members' order."""
    g = S.g[0]
    pool = S.pool[p]
    pool.looks += 1
    site = S.site[pool.site]
    gain = pool.gain if pool.power_seen == site.opened else GAIN_ALL
    pool.gain = -1
    pool.power_seen = site.opened
    h = pool.hold if pool.is_stalled else -1
    pool.is_stalled = 0
    while h >= 0:
        if S.hold[h].missing == 0:
            mark_ready(S, h)
        h = S.hold[h].next
    start_ready(S)
    serve_holders(S, p, gain)
    is_preempting = g.preemptive == 1 and g.now_ms >= pool.preempt_at_ms
    if is_preempting:
        pool.preempt_at_ms = g.now_ms + preempt_every_ms(S, p)
    if g.is_shares:
        fill = pool.looks * 4096 + p * 2 + 1
        for i in range(pool.guar0, pool.guar1):
            m = S.guar[i]
            if S.member[m].head >= 0 and (gain >= 0 or S.mp[m, p].use_g < S.mp[m, p].guarantee):
                fill_member(S, m, p, 0, fill, gain, is_preempting)
    if gain >= 0 or pool.free_milli > 0 or pool.holds > 0 or is_preempting:
        fill = pool.looks * 4096 + p * 2 + 2
        if g.order == FAIR:
            fill_fair(S, p)
        else:
            for i in range(S.order.shape[0]):
                m = S.order[i]
                if S.member[m].head >= 0 and S.mp[m, p].right:
                    fill_member(S, m, p, 1, fill, gain, is_preempting)
    if pool.free_milli > 0 and pool.num_elastic > 0:
        grow_elastic(S, p)


@kernel
def fill_fair(S: State, p: int) -> None:
    """Fair share: one job at a time for the member with the least decayed use by weight; a blocked head waits."""
    while True:
        best = -1
        for m in range(S.order.shape[0]):
            if S.member[m].head < 0 or not S.mp[m, p].right or first_class(S, m, p) < 0:
                continue
            settle(S, m)
            if best < 0 or member_before(S, m, best):
                best = m
        if best < 0 or try_start(S, first_class(S, best, p), p, 1) != 1:
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
                        and fits(S, n, c, count) and has_power(S, p, 1, 1)
                    ):  # fmt: skip
                        grow(S, j, n, count)
                    s = after_s
            j = after


@kernel
def claim_anywhere(S: State, c: int) -> bool:
    """Take lent GPUs back for the head of a class, in the first pool of its member's share where that can be done."""
    cls = S.cls[c]
    for i in range(cls.pool0, cls.pool0 + cls.num_pools):
        p = S.cls_pool[i]
        if S.mp[cls.member, p].guarantee > 0 and may_claim(S, c, p) and reclaim_for(S, c, p):
            return True
    return False


@kernel
def best_of_equals(S: State, c: int, is_borrowed: int) -> int:
    """Of the first pool that has room for a class whose place is scored, and those as fast, the one that loses least.

    -1: there is none, or places are not scored.
    """
    cls = S.cls[c]
    best, best_step, best_speed = -1, np.int64(0), np.int64(0)
    for i in range(cls.pool0, cls.pool0 + cls.num_pools):
        p = S.cls_pool[i]
        speed = S.speed[cls.speed, S.pool[p].gpu_type]
        if best >= 0 and speed != best_speed:
            break
        if (not is_borrowed and S.mp[cls.member, p].guarantee == 0) or not is_scored(S, c, p, cls.num_gpus):
            continue
        milli = gpu_milli_on(S, c, p)
        if not may_use(S, cls.member, p, cls.num_gpus * milli, is_borrowed) or place(S, c, p, cls.num_gpus) == 0:
            continue
        step = score_on(S, c, S.pick[0, 0], milli)
        if best < 0 or step > best_step:
            best, best_step, best_speed = p, step, speed
    return best


@kernel
def start_anywhere(S: State, c: int) -> bool:
    """Start the head of a class that has just come: on its member's share, on what others lend, by a claim.

    Pools in the class's order of preference. Returns whether the head left the queue.
    """
    cls = S.cls[c]
    g = S.g[0]
    is_strict = g.backfill == BACKFILL_NONE
    first_label = 0 if g.is_shares else 1
    for is_borrowed in range(first_label, 2):
        if g.is_shares and is_borrowed and S.job[cls.root].preemptions > 0 and claim_anywhere(S, c):
            # Sent away once, a job is not lent out again while its member's share can take it.
            return True
        p = best_of_equals(S, c, is_borrowed)
        if p >= 0 and not (is_strict and has_before(S, c, p)) and try_start(S, c, p, is_borrowed) == 1:
            return True
        for i in range(cls.pool0, cls.pool0 + cls.num_pools):
            p = S.cls_pool[i]
            if (not is_borrowed and S.mp[cls.member, p].guarantee == 0) or not may_fit(S, c, p, GAIN_ALL):
                continue
            if is_strict and has_before(S, c, p):
                continue
            outcome = try_start(S, c, p, is_borrowed)
            if outcome == 1:
                return True
            if outcome == 2 and not is_borrowed:
                reclaim_power(S, p, g.lacking_w, cls.root)
    is_preempting = g.preemptive == 1 and may_preempt(S, c)
    for is_borrowed in range(first_label, 2):
        for i in range(cls.pool0, cls.pool0 + cls.num_pools):
            p = S.cls_pool[i]
            if (not is_borrowed and S.mp[cls.member, p].guarantee == 0) or (is_strict and has_before(S, c, p)):
                continue
            if make_room(S, c, p, is_borrowed, is_preempting) or reserve_for(S, c, p, is_borrowed):
                return True
    return False


@kernel
def came_before(S: State, a: int, b: int) -> bool:
    """Order in which classes that came at one moment are looked at: members' order, then their own queue's."""
    m, k = S.cls[a].member, S.cls[b].member
    if m != k:
        return member_before(S, m, k)
    return class_before(S, a, b)


@kernel
def take_arrivals(S: State) -> None:
    """Look at the classes that have a new head, and at no other: for those nothing has changed."""
    g = S.g[0]
    if g.num_came > CAME_MAX or g.order == FAIR:
        for i in range(g.num_came):
            cls = S.cls[S.came[i]]
            cls.has_come = 0
            for k in range(cls.pool0, cls.pool0 + cls.num_pools):
                S.pool[S.cls_pool[k]].gain = GAIN_ALL
                mark_dirty(S, S.cls_pool[k])
        g.num_came = 0
        return
    while g.num_came > 0:
        best = -1
        for i in range(g.num_came):
            if S.cls[S.came[i]].count == 0:
                continue
            if best < 0 or came_before(S, S.came[i], S.came[best]):
                best = i
        i = max(best, 0)
        c = S.came[i]
        if best < 0 or not start_anywhere(S, c):
            S.cls[c].has_come = 0
            g.num_came -= 1
            S.came[i] = S.came[g.num_came]


@kernel
def cycle(S: State) -> None:
    """Decide everything that the events since the last cycle allow. Decisions are in `dec[:num_dec]`."""
    g = S.g[0]
    if g.now_ms >= g.next_epoch_ms:
        decay(S)
        sort_members(S)
        g.next_epoch_ms = g.now_ms + g.epoch_ms
    # Not at a wake without news, such as the void end of a job that was stopped: its moment tells the true run time.
    has_news = g.num_ready > 0 or g.num_dirty > 0 or g.num_came > 0
    if has_news and is_rerank_due(S):
        rerank(S)
    rounds, num_dec = 0, g.num_dec
    while g.num_ready > 0 or g.num_dirty > 0 or g.num_came > 0:
        start_ready(S)
        rounds = rounds + 1 if g.num_dec == num_dec else 0
        num_dec = g.num_dec
        if rounds > 1000 + 100 * S.pool.shape[0]:
            g.status = 3
            return
        if g.num_dirty > 0:
            g.num_dirty -= 1
            p = S.dirty[g.num_dirty]
            S.pool[p].is_dirty = 0
            fill_pool(S, p)
        elif g.num_came > 0:
            take_arrivals(S)


@kernel
def next_rerank_ms(S: State, j: int) -> int:
    """When a running job's rank changes next, if it goes on as now; NEVER_MS where it does not, or rank may not stop it."""
    g = S.g[0]
    job = S.job[j]
    if not g.preemptive or job.rate_milli <= 0 or job.ckpt_ms <= 0:
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
        # Later ones are `rerank`'s.
        if goal > g.rerank_ms:
            return NEVER_MS
    else:
        return NEVER_MS
    return g.now_ms + max((goal - done) * 1000 // job.rate_milli + 1, 1)


@kernel
def on_rerank(S: State, j: int) -> None:
    """A running job has crossed into a later rank; those who wait may now go before it."""
    job = S.job[j]
    old = job.run_rank
    job.run_rank = rank_of(S, j, job.done_ms + progress_ms(S, j))
    note_rank(S, j)
    s = job.seg if job.run_rank != old and job.ckpt_ms > 0 else -1
    while s >= 0:
        n = S.seg[s].node
        node = S.node[n]
        node.last_rank = max(node.last_rank, job.run_rank)
        if node.first_rank >= min(old, job.run_rank) or (job.run_rank < old and node.last_rank <= old):
            recount_tenants(S, n)
        s = S.seg[s].next
    if S.g[0].queue_jobs > 0 and S.g[0].now_ms >= S.pool[job.pool].preempt_at_ms:
        mark_dirty(S, job.pool)

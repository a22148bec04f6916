"""Leases: starting, ending, revoking and shrinking a job's hold on GPUs, with all that must be counted."""

from __future__ import annotations

import numpy as np

from dure.policy.kernels.compile import kernel
from dure.policy.kernels.layout import (
    BACKFILL_NONE,
    CANCELLED,
    COUNT_MAX,
    DOWN,
    ENDED,
    GROW,
    HOLD_RECLAIM,
    HOLD_RESERVED,
    NEVER_MS,
    OFFLINE,
    PENDING,
    QUARANTINE,
    QUARANTINED,
    RESERVED,
    REVOKING,
    RUNNING,
    SHRINK,
    SPARE,
    START,
    UNKNOWN,
    UP,
    VACATE,
    State,
)
from dure.policy.kernels.nodes import (
    add_segment,
    count_clear,
    fits,
    free_gpus_of,
    gpu_milli_on,
    index,
    lowest_gpus,
    milli_in,
    note_gain,
    unindex,
    unlink_segment,
)
from dure.policy.kernels.place import is_waited_for
from dure.policy.kernels.queue import (
    drop_ended,
    join_likes,
    learn,
    learn_wait,
    milli_of,
    predict_rest_ms,
    progress_ms,
    push,
    rank_of,
)
from dure.policy.kernels.quota import (
    charge,
    leaving_on_nodes,
    look_from_first,
    mark_dirty,
    over_link,
    over_on_nodes,
    over_unlink,
    promote,
    return_share,
)


@kernel
def decide(S: State, kind: int, j: int, p: int, n: int, gpus: int, at_ms: int, cause: int) -> None:
    """Write one decision into the log of this cycle; `status` 1 says that the log was too short."""
    g = S.g[0]
    if g.num_dec >= S.dec.shape[0]:
        g.status = 1
        return
    d = S.dec[g.num_dec]
    d.kind, d.job, d.pool, d.node, d.gpus, d.at_ms, d.cause = kind, j, p, n, gpus, at_ms, cause
    g.num_dec += 1


@kernel
def requeue(S: State, j: int) -> None:
    """Put a job among those that wait; if it is the first of its class, that is looked at in every pool."""
    push(S, j)
    cls = S.cls[S.job[j].cls]
    if cls.root == j and not cls.has_come:
        cls.has_come = 1
        S.came[S.g[0].num_came] = S.job[j].cls
        S.g[0].num_came += 1


@kernel
def has_part(S: State, n: int, milli: int) -> bool:
    """Whether some GPU of a node has so much free."""
    for i in range(S.node[n].num):
        if (S.node[n].free_mask >> i) & 1 or S.gfree[n, i] >= milli:
            return True
    return False


@kernel
def check_hold(S: State, n: int) -> None:
    """If a held node has become free enough for the gang it is held for, count it; the last one readies the gang."""
    node = S.node[n]
    h = node.hold
    if h < 0 or node.is_ready or node.state != UP:
        return
    hold = S.hold[h]
    c = S.job[hold.job].cls
    is_part = S.cls[c].num_gpus > 0 and S.cls[c].gpu_milli < 1000
    has_gpus = has_part(S, n, hold.milli) if is_part else node.free >= node.hold_need
    if has_gpus and fits(S, n, c, node.hold_need):
        node.is_ready = 1
        hold.missing -= 1
        if hold.missing == 0:
            mark_ready(S, h)


@kernel
def rate_milli_on(S: State, c: int, p: int, gpus: int) -> int:
    """How fast a job of class c works on so many GPUs of a pool, in 1/1000 of the speed that its run time is given for."""
    cls = S.cls[c]
    if cls.num_gpus == 0:
        return 1000
    speed, scaling = S.speed[cls.speed, S.pool[p].gpu_type], S.scaling[cls.speed]
    if gpus == cls.num_gpus or scaling == 1000:
        return speed * gpus // cls.num_gpus
    return max(np.int64(speed * (gpus / cls.num_gpus) ** (scaling / 1000)), 1)


@kernel
def start_job(S: State, j: int, p: int, num: int, gpus: int, is_borrowed: int) -> None:
    """Lease the picked nodes to a pending job that is in no heap."""
    g = S.g[0]
    job = S.job[j]
    cls = S.cls[job.cls]
    job.state = RUNNING
    job.pool = p
    job.alloc = gpus
    job.is_borrowed = is_borrowed
    job.start_ms = job.since_ms = g.now_ms
    if job.first_start_ms < 0:
        job.first_start_ms = g.now_ms
    job.wait_ms += g.now_ms - job.queued_ms
    job.version += 1
    job.run_rank = job.rank
    job.rate_milli = rate_milli_on(S, job.cls, p, gpus)
    job.pred_end_ms = g.now_ms + predict_rest_ms(S, j) * 1000 // max(job.rate_milli, 1)
    job.over_prev = job.over_next = -1
    milli = gpu_milli_on(S, job.cls, p)
    for i in range(num):
        n, count = S.pick[i, 0], S.pick[i, 1]
        add_segment(S, j, n, count, milli)
        node = S.node[n]
        if node.is_ready:
            # Backfilled: the gang that the node is held for may have to wait for it again.
            node.is_ready = 0
            S.hold[node.hold].missing += 1
            check_hold(S, n)
    charge(S, j, gpus * milli)
    note_rank(S, j)
    if is_borrowed:
        over_link(S, j)
        over_on_nodes(S, j, 1)
    S.member[cls.member].pending -= 1
    S.member[cls.member].queued_milli -= milli_of(S, job.cls)
    g.queue_jobs -= 1
    g.queue_milli -= milli_of(S, job.cls)
    g.starts += 1
    job.is_restart = 0
    job.claim_no += 1
    job.rank_claim_ms = -1
    if job.claim_ms >= 0:
        if g.now_ms > job.claim_ms:
            g.breaches += 1
        job.claim_ms = -1
    if job.is_backfill:
        g.backfilled += 1
    decide(S, START, j, p, S.pick[0, 0], gpus, g.now_ms, -1)


@kernel
def note_rank(S: State, j: int) -> None:
    """Keep the bound on how far behind those of a member's jobs in a pool stand that rank may stop."""
    job = S.job[j]
    cell = S.mp[S.cls[job.cls].member, job.pool]
    if job.ckpt_ms > 0 and job.run_rank > cell.last_rank:
        cell.last_rank = job.run_rank


@kernel
def bank(S: State, j: int) -> None:
    """Add the work since the last change of rate to what the job has done."""
    job = S.job[j]
    job.done_ms += progress_ms(S, j)
    run = S.g[0].now_ms - job.since_ms
    job.run_ms += run
    if job.is_borrowed:
        job.borrowed_ms += run
    job.since_ms = S.g[0].now_ms


@kernel
def unsaved_ms(S: State, j: int) -> int:
    """Time since the job's last checkpoint, or since its start where it makes none."""
    job = S.job[j]
    ran = S.g[0].now_ms - job.start_ms
    return ran % job.ckpt_ms if job.ckpt_ms > 0 else ran


@kernel
def release(S: State, j: int) -> None:
    """Give all GPUs of a job back and take it off every account."""
    job = S.job[j]
    cls = S.cls[job.cls]
    p = job.pool
    m = cls.member
    if job.is_borrowed:
        over_on_nodes(S, j, -1)
    if job.state == REVOKING:
        leaving_on_nodes(S, j, -1)
    charge(S, j, -job.alloc * milli_in(S, j))
    if job.is_borrowed:
        over_unlink(S, j)
    s = job.seg
    while s >= 0:
        seg = S.seg[s]
        n, mask, after = seg.node, seg.mask, seg.next
        free_gpus_of(S, n, s, mask)
        unlink_segment(S, s)
        check_hold(S, n)
        s = after
    job.seg = -1
    job.alloc = 0
    if not job.is_borrowed:
        promote(S, m, p)
    wake_site(S, S.pool[p].site)
    mark_dirty(S, p)


@kernel
def wake_site(S: State, i: int) -> None:
    """Look anew at all of a site's pools once it has the power that some job was refused for (rule 8)."""
    site = S.site[i]
    if site.cap_w - site.power_w < site.short_w:
        return
    site.short_w = NEVER_MS
    site.opened += 1
    for q in range(S.pool.shape[0]):
        if S.pool[q].site == i:
            mark_dirty(S, q)


@kernel
def queue_in(S: State, j: int) -> None:
    """Count a job among those that wait from now on, with its rank by the policy in force; in no heap yet."""
    g = S.g[0]
    job = S.job[j]
    job.state = PENDING
    job.queued_ms = g.now_ms
    g.first_live, g.end_live = min(g.first_live, j), max(g.end_live, j + 1)
    join_likes(S, j)
    job.rank = rank_of(S, j, job.done_ms)
    job.claim_ms = -1
    job.is_backfill = job.is_overdue = 0
    m = S.cls[job.cls].member
    S.member[m].pending += 1
    S.member[m].queued_milli += milli_of(S, job.cls)
    g.queue_jobs += 1
    g.queue_milli += milli_of(S, job.cls)


@kernel
def enqueue(S: State, j: int) -> None:
    """Make a job wait for whatever comes free."""
    S.job[j].hold = -1
    queue_in(S, j)
    requeue(S, j)


@kernel
def leave_queue(S: State, j: int) -> None:
    """Uncount a waiting job that will not start."""
    m = S.cls[S.job[j].cls].member
    S.member[m].pending -= 1
    S.member[m].queued_milli -= milli_of(S, S.job[j].cls)
    S.g[0].queue_jobs -= 1
    S.g[0].queue_milli -= milli_of(S, S.job[j].cls)


@kernel
def mark_ready(S: State, h: int) -> None:
    """Remember a hold whose nodes are all free, for `start_ready`."""
    S.ready[S.g[0].num_ready] = h
    S.g[0].num_ready += 1


@kernel
def count_hold(S: State, h: int, sign: int) -> None:
    """Count a hold in (or out of) those of its pool on which others may be backfilled, and what it reserves."""
    hold = S.hold[h]
    if is_waited_for(S, h):
        S.pool[hold.pool].holds += sign
    if hold.kind == HOLD_RESERVED:
        S.pool[hold.pool].reserved += sign
        S.mp[S.cls[S.job[hold.job].cls].member, hold.pool].reserved_milli += sign * hold.milli


@kernel
def link_hold(S: State, h: int) -> None:
    """Put a hold into its pool's list: before all others if its nodes are waited for, else after them."""
    hold = S.hold[h]
    pool = S.pool[hold.pool]
    is_first = is_waited_for(S, h)
    hold.prev = -1 if is_first else pool.hold_last
    hold.next = pool.hold if is_first else -1
    if hold.prev >= 0:
        S.hold[hold.prev].next = h
    else:
        pool.hold = h
    if hold.next >= 0:
        S.hold[hold.next].prev = h
    else:
        pool.hold_last = h


@kernel
def unlink_hold(S: State, h: int) -> None:
    """Take a hold out of its pool's list."""
    hold = S.hold[h]
    pool = S.pool[hold.pool]
    if hold.prev >= 0:
        S.hold[hold.prev].next = hold.next
    else:
        pool.hold = hold.next
    if hold.next >= 0:
        S.hold[hold.next].prev = hold.prev
    else:
        pool.hold_last = hold.prev


@kernel
def open_hold(S: State, h: int) -> None:
    """Let the nodes of a hold be found, for a look on behalf of the job that holds them."""
    n = S.hold[h].head
    while n >= 0:
        S.node[n].hold = -1
        index(S, n)
        count_clear(S, n)
        n = S.node[n].hold_next


@kernel
def close_hold(S: State, h: int) -> None:
    """Undo `open_hold`."""
    n = S.hold[h].head
    while n >= 0:
        unindex(S, n)
        S.node[n].hold = h
        count_clear(S, n)
        n = S.node[n].hold_next


@kernel
def drop_hold(S: State, h: int) -> None:
    """Let the nodes of a hold go."""
    hold = S.hold[h]
    n = hold.head
    while n >= 0:
        node = S.node[n]
        after = node.hold_next
        node.hold = node.hold_next = -1
        node.is_ready = 0
        node.reserved_to_ms = S.g[0].now_ms
        index(S, n)
        note_gain(S, n)
        count_clear(S, n)
        n = after
    unlink_hold(S, h)
    if hold.kind == HOLD_RECLAIM:
        return_share(S, S.cls[S.job[hold.job].cls].member, hold.pool, hold.milli)
    count_hold(S, h, -1)
    S.job[hold.job].hold = -1
    hold.job = -1
    hold.next = S.g[0].free_hold
    S.g[0].free_hold = h
    mark_dirty(S, hold.pool)


@kernel
def revoke(S: State, j: int, notice: int, cause: int) -> None:
    """Tell a running job to leave: at once where a checkpoint takes no longer, at the end of notice otherwise.

    `cause`: the job that it leaves for; -1: none.
    """
    g = S.g[0]
    job = S.job[j]
    job.state = REVOKING
    leaving_on_nodes(S, j, 1)
    job.vacate_ms = gone_at_ms(S, j, notice)
    job.cause, job.cause_no = cause, S.job[cause].claim_no if cause >= 0 else -1
    job.preemptions = min(job.preemptions + 1, COUNT_MAX)
    g.preemptions += 1
    decide(S, VACATE, j, job.pool, -1, job.alloc, job.vacate_ms, cause)


@kernel
def gone_at_ms(S: State, j: int, notice: int) -> int:
    """When a job that is told to leave now has left: a checkpoint's time later, or the notice's where that is less or it writes none."""
    g = S.g[0]
    return g.now_ms + (min(notice, g.save_ms) if S.job[j].ckpt_ms > 0 else notice)


@kernel
def hasten(S: State, j: int, notice: int) -> None:
    """Tell a job that is leaving to be gone within a shorter notice; for whom it leaves stays as it is."""
    job = S.job[j]
    vacate_ms = gone_at_ms(S, j, notice)
    if vacate_ms < job.vacate_ms:
        job.vacate_ms = vacate_ms
        decide(S, VACATE, j, job.pool, -1, job.alloc, vacate_ms, -1)


@kernel
def on_end(S: State, j: int) -> None:
    """A running (or leaving) job has ended by itself."""
    job = S.job[j]
    bank(S, j)
    release(S, j)
    job.state = ENDED
    job.end_ms = S.g[0].now_ms
    learn(S, j, job.done_ms)
    learn_wait(S, j)


@kernel
def on_vacated(S: State, j: int) -> None:
    """A revoked job has left its GPUs; it waits again with what it saved."""
    job = S.job[j]
    bank(S, j)
    if job.ckpt_ms <= 0:
        job.lost_ms += job.done_ms
        job.done_ms = 0
    release(S, j)
    job.attempt += 1
    enqueue(S, j)


@kernel
def look_behind(S: State, c: int) -> None:
    """Have the pools of a class looked at: without backfill its head, which is gone, stood in others' way there."""
    for i in range(S.cls[c].pool0, S.cls[c].pool0 + S.cls[c].num_pools):
        pool = S.pool[S.cls_pool[i]]
        pool.gain = max(pool.gain, 0)
        mark_dirty(S, S.cls_pool[i])


@kernel
def on_cancel(S: State, j: int) -> None:
    """The user takes a job back, in whatever state it is."""
    job = S.job[j]
    if job.state == PENDING:
        leave_queue(S, j)
    elif job.state in (RUNNING, REVOKING):
        bank(S, j)
        release(S, j)
    if job.hold >= 0:
        drop_hold(S, job.hold)
    job.state = CANCELLED
    job.end_ms = S.g[0].now_ms
    drop_ended(S, job.cls)
    if S.g[0].backfill == BACKFILL_NONE:
        look_behind(S, job.cls)


@kernel
def fail_job(S: State, j: int) -> None:
    """A gang has lost a node: all of it stops, and restarts from its last checkpoint before others (rule 7)."""
    g = S.g[0]
    job = S.job[j]
    lost = unsaved_ms(S, j) * job.rate_milli // 1000
    bank(S, j)
    lost = min(lost, job.done_ms) if job.ckpt_ms > 0 else job.done_ms
    job.done_ms -= lost
    job.lost_ms += lost
    job.failures = min(job.failures + 1, COUNT_MAX)
    job.attempt += 1
    g.failures += 1
    release(S, j)
    job.is_restart = 1
    enqueue(S, j)


@kernel
def lose_hold(S: State, n: int) -> None:
    """A node will not come free for the gang that it is held for: that one waits again with all others."""
    h = S.node[n].hold
    if h < 0:
        return
    j = S.hold[h].job
    drop_hold(S, h)
    # The promise falls with the node; the next claim is a new one. A reserved job is seen to when it is due.
    S.job[j].claim_ms = -1
    S.job[j].claim_no += 1
    S.job[j].rank_claim_ms = -1
    if S.job[j].state != RESERVED:
        requeue(S, j)


@kernel
def on_node_down(S: State, n: int, is_failure: int) -> None:
    """A node is lost (or, with is_failure 0, taken out of service): its gangs fail whole."""
    g = S.g[0]
    node = S.node[n]
    if node.state not in (UP, SPARE, UNKNOWN):
        return
    pool = S.pool[node.pool]
    was_spare = node.state == SPARE
    unindex(S, n)
    node.state = DOWN
    count_clear(S, n)
    if was_spare:
        pool.spares -= 1
    g.online_milli -= node.num * 1000
    if is_failure:
        node.fails = node.fails + 1 if g.now_ms - node.fail_ms <= g.fail_window_ms else 1
        node.fail_ms = g.now_ms
    lose_hold(S, n)
    lost = 0
    while node.seg >= 0:
        j = S.seg[node.seg].job
        fail_job(S, j)
        lost = 1
    if lost and pool.spares > 0:
        # One spare goes into service for the node that is gone (rule 7).
        for k in range(pool.node0, pool.node1):
            if S.node[k].state == SPARE:
                S.node[k].state = UP
                pool.spares -= 1
                index(S, k)
                note_gain(S, k)
                count_clear(S, k)
                break
    mark_dirty(S, node.pool)


@kernel
def on_node_up(S: State, n: int, is_release: int) -> None:
    """A node is back: to the spares where those are short, to quarantine where it keeps failing (rule 7)."""
    g = S.g[0]
    node = S.node[n]
    if node.state == UNKNOWN:
        # It was there all the time, with its jobs.
        back_in_service(S, n)
        return
    if node.state not in (DOWN, QUARANTINED, OFFLINE):
        return
    if not is_release and node.state != OFFLINE and g.quarantine_fails > 0 and node.fails >= g.quarantine_fails:
        node.state = QUARANTINED
        node.fails = 0
        g.quarantined += 1
        decide(S, QUARANTINE, -1, node.pool, n, node.num, g.now_ms + g.quarantine_ms, -1)
        return
    g.online_milli += node.num * 1000
    pool = S.pool[node.pool]
    if pool.spares < pool.spares_target:
        node.state = SPARE
        pool.spares += 1
        return
    back_in_service(S, n)


@kernel
def back_in_service(S: State, n: int) -> None:
    """A node takes work from now on."""
    S.node[n].state = UP
    index(S, n)
    note_gain(S, n)
    count_clear(S, n)
    check_hold(S, n)
    mark_dirty(S, S.node[n].pool)


@kernel
def on_node_silent(S: State, n: int) -> None:
    """A node is not heard: its jobs go on, and nothing new is placed there."""
    if S.node[n].state == UP:
        unindex(S, n)
        S.node[n].state = UNKNOWN
        count_clear(S, n)


@kernel
def on_node_closed(S: State, n: int) -> None:
    """A node takes no new work, for as long as its operator likes: its jobs go on, and nobody waits for it."""
    if S.node[n].state == SPARE:
        on_node_down(S, n, 0)
        return
    on_node_silent(S, n)
    lose_hold(S, n)


@kernel
def on_node_drained(S: State, n: int, notice: int) -> None:
    """All that runs on a node is told to leave it, gangs whole; notice in ms."""
    s = S.node[n].seg
    while s >= 0:
        j = S.seg[s].job
        if S.job[j].state == RUNNING:
            revoke(S, j, notice, -1)
        elif S.job[j].state == REVOKING:
            hasten(S, j, notice)
        s = S.seg[s].node_next


@kernel
def shrink(S: State, j: int, s: int, take: int, cause: int) -> None:
    """Take `take` GPUs of one segment from an elastic job, which goes on with the rest (rule 6)."""
    g = S.g[0]
    job = S.job[j]
    bank(S, j)
    seg = S.seg[s]
    n = seg.node
    if job.is_borrowed:
        over_on_nodes(S, j, -1)
    free_gpus_of(S, n, s, lowest_gpus(seg.mask, take))
    charge(S, j, -take * 1000)
    job.alloc -= take
    if seg.mask == 0:
        t = job.seg
        if t == s:
            job.seg = seg.next
        else:
            while S.seg[t].next != s:
                t = S.seg[t].next
            S.seg[t].next = seg.next
        unlink_segment(S, s)
    if job.is_borrowed:
        over_on_nodes(S, j, 1)
        look_from_first(S, S.cls[job.cls].member, job.pool)
    rerate(S, j)
    g.shrinks += 1
    decide(S, SHRINK, j, job.pool, n, take, g.now_ms, cause)
    check_hold(S, n)


@kernel
def rerate(S: State, j: int) -> None:
    """A job's speed and predicted end after its number of GPUs changed."""
    job = S.job[j]
    job.rate_milli = rate_milli_on(S, job.cls, job.pool, job.alloc)
    job.pred_end_ms = S.g[0].now_ms + predict_rest_ms(S, j) * 1000 // max(job.rate_milli, 1)
    job.version += 1


@kernel
def grow(S: State, j: int, n: int, count: int) -> None:
    """Give an elastic job more GPUs of a node, under the label it runs with."""
    job = S.job[j]
    bank(S, j)
    if job.is_borrowed:
        over_on_nodes(S, j, -1)
    job.alloc += count
    add_segment(S, j, n, count, 1000)
    charge(S, j, count * 1000)
    if job.is_borrowed:
        over_on_nodes(S, j, 1)
    rerate(S, j)
    S.g[0].grows += 1
    decide(S, GROW, j, job.pool, n, count, S.g[0].now_ms, -1)

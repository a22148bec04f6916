"""Advance reservations (rule 5): nodes that are free for one job from a moment that it named when it was submitted."""

from __future__ import annotations

from dure.policy.kernels.admit import look_elsewhere
from dure.policy.kernels.compile import kernel
from dure.policy.kernels.expected import note_submitted
from dure.policy.kernels.layout import HOLD_RESERVED, NEVER_MS, RESERVED, RUNNING, State
from dure.policy.kernels.leases import drop_hold, enqueue, mark_ready, queue_in, revoke
from dure.policy.kernels.quota import notice_ms
from dure.policy.kernels.reclaim import hold_pick, plan


@kernel
def on_submit(S: State, j: int) -> None:
    """A job has come: it waits, or is reserved for later."""
    job = S.job[j]
    note_submitted(S, job.cls)
    if job.begin_ms <= S.g[0].now_ms:
        enqueue(S, j)
        return
    job.state = RESERVED
    job.hold = -1
    reserve_ahead(S, j)


@kernel
def next_due_ms(S: State, j: int) -> int:
    """The next moment at which something must be done for a reserved job; NEVER_MS: none."""
    g = S.g[0]
    job = S.job[j]
    if job.state != RESERVED:
        return NEVER_MS
    for ahead in (g.reserve_lead_ms, g.notice_max_ms, g.save_ms, 0):
        # Notices are short beside the lead; were they not, the order of the moments would not matter.
        if job.begin_ms - ahead > g.now_ms:
            return job.begin_ms - ahead
    return NEVER_MS


@kernel
def on_reservation_due(S: State, j: int) -> None:
    """One of the moments of `next_due_ms` has come: hold nodes, send away who must leave, or let the job begin."""
    job = S.job[j]
    if job.hold >= 0 and is_stuck(S, job.hold):
        # Who was to be gone is not, and may not be sent away: other nodes may be free by now.
        drop_hold(S, job.hold)
    if job.hold < 0:
        reserve_ahead(S, j)
    if job.hold >= 0:
        clear_reserved(S, job.hold)
    if S.g[0].now_ms < job.begin_ms:
        return
    if job.hold < 0:
        enqueue(S, j)
        return
    queue_in(S, j)
    if S.hold[job.hold].missing == 0:
        mark_ready(S, job.hold)
        return
    # Work that was there before is waited for, unless the job can be served elsewhere.
    look_elsewhere(S, job.cls, -1)


@kernel
def may_send_away(S: State, v: int, n: int) -> bool:
    """Whether a job must leave a node for a reservation: it borrows, or came when the node was reserved."""
    return S.job[v].is_borrowed == 1 or S.job[v].start_ms >= S.node[n].reserved_ms


@kernel
def is_stuck(S: State, h: int) -> bool:
    """Whether somebody stands on a reserved node who is not leaving and may not be sent away."""
    n = S.hold[h].head
    while n >= 0:
        s = S.node[n].seg if not S.node[n].is_ready else -1
        while s >= 0:
            v = S.seg[s].job
            if S.job[v].state == RUNNING and not may_send_away(S, v, n):
                return True
            s = S.seg[s].node_next
        n = S.node[n].hold_next
    return False


@kernel
def may_reserve(S: State, m: int, p: int, milli: int, begin_ms: int, is_borrowed: int) -> bool:
    """Whether a member's terms let it have so much of a pool at a later moment, whatever is in use now."""
    cell = S.mp[m, p]
    if not is_borrowed:
        return cell.guarantee - cell.reserved_milli >= milli
    if cell.agreement < 0:
        return cell.guarantee > 0
    ag = S.ag[cell.agreement]
    return ag.start_ms <= begin_ms < ag.end_ms and ag.limit - cell.reserved_milli >= milli


@kernel
def reserve_ahead(S: State, j: int) -> bool:
    """Hold the nodes that are predicted free by then, in the first of the job's pools whose terms allow it."""
    g = S.g[0]
    job = S.job[j]
    cls = S.cls[job.cls]
    if job.begin_ms - g.now_ms > g.reserve_lead_ms or cls.num_gpus == 0 or cls.gpu_milli < 1000:
        return False
    for is_borrowed in range(0 if g.is_shares else 1, 2):
        for i in range(cls.pool0, cls.pool0 + cls.num_pools):
            p = S.cls_pool[i]
            if not may_reserve(S, cls.member, p, cls.num_gpus * 1000, job.begin_ms, is_borrowed):
                continue
            num = plan(S, job.cls, p, cls.num_gpus, HOLD_RESERVED, j)
            if num > 0 and hold_pick(S, j, p, num, HOLD_RESERVED, cls.num_gpus) >= 0:
                return True
    return False


@kernel
def clear_reserved(S: State, h: int) -> None:
    """Send away, in time, those on reserved nodes that may be: who borrows, and who came knowing of the reservation."""
    g = S.g[0]
    hold = S.hold[h]
    begin_ms = S.job[hold.job].begin_ms
    n = hold.head
    while n >= 0:
        s = S.node[n].seg
        while s >= 0:
            v = S.seg[s].job
            s = S.seg[s].node_next
            job = S.job[v]
            if job.state != RUNNING or not may_send_away(S, v, n):
                continue
            notice = notice_ms(S, S.cls[job.cls].member, job.pool) if job.is_borrowed else g.save_ms
            if begin_ms - g.now_ms <= (g.save_ms if job.ckpt_ms > 0 else notice):
                revoke(S, v, notice, hold.job)
        n = S.node[n].hold_next

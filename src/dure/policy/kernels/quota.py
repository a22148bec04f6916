"""Shares, lending and credits (rules 1, 2): who may use a pool, and who owes whom for it."""

from __future__ import annotations

import numpy as np

from dure.policy.kernels.bits import gpus_in
from dure.policy.kernels.compile import kernel
from dure.policy.kernels.layout import GAIN_ALL, NEVER_MS, ROOM_CLASSES, ROOM_MILLI, RUNNING, State
from dure.policy.kernels.nodes import count_clear, index_claim, milli_in

#: What an agreement says to a loan.
LOAN_OPEN, LOAN_NONE, LOAN_NOT_IN_FORCE, LOAN_AT_LIMIT = 0, 1, 2, 3


@kernel
def settle(S: State, m: int) -> None:
    """Bring a member's credits up to now: plus what it lends, minus what it borrows, over time."""
    g = S.g[0]
    member = S.member[m]
    dt = g.now_ms - member.at_ms
    if dt > 0:
        # Kept in 1/1000 GPU-ms: sums stay exact and add up to zero over the members.
        member.credit_milli_ms += (member.lent_milli - member.borrowed_milli) * dt
        member.usage += member.used_milli * dt // 1000
        member.at_ms = g.now_ms


@kernel
def settle_project(S: State, i: int) -> None:
    """Bring a project's use up to now, in GPU-ms."""
    project = S.project[i]
    project.usage += project.used_milli * (S.g[0].now_ms - project.at_ms) // 1000
    project.at_ms = S.g[0].now_ms


@kernel
def lend(S: State, lender: int, borrower: int, milli: int) -> None:
    """Change what one member has out to another by `milli` (negative: given back)."""
    g = S.g[0]
    settle(S, lender)
    settle(S, borrower)
    S.member[lender].lent_milli += milli
    S.member[borrower].borrowed_milli += milli
    S.lend[lender, borrower, 1] += S.lend[lender, borrower, 0] * (g.now_ms - S.lend[lender, borrower, 2])
    S.lend[lender, borrower, 2] = g.now_ms
    S.lend[lender, borrower, 0] += milli


@kernel
def has_share(S: State, m: int, p: int, milli: int) -> bool:
    """Whether `milli` more GPUs of the pool are still within the member's guarantee."""
    return S.mp[m, p].use_g + milli <= S.mp[m, p].guarantee


@kernel
def is_within_share(S: State, m: int, p: int, milli: int) -> bool:
    """`has_share`; a refusal is remembered, so that the member is looked at anew when there is room."""
    if has_share(S, m, p, milli):
        return True
    S.mp[m, p].short_milli = min(S.mp[m, p].short_milli, milli)
    return False


@kernel
def loan_state(S: State, m: int, p: int, milli: int) -> int:
    """Whether the agreements let a member use `milli` more GPUs of the pool than it is guaranteed: `LOAN_…`."""
    cell = S.mp[m, p]
    if cell.agreement < 0:
        return LOAN_OPEN if cell.guarantee > 0 else LOAN_NONE
    ag = S.ag[cell.agreement]
    if not ag.start_ms <= S.g[0].now_ms < ag.end_ms:
        return LOAN_NOT_IN_FORCE
    return LOAN_OPEN if ag.used + milli <= ag.limit else LOAN_AT_LIMIT


@kernel
def may_borrow(S: State, m: int, p: int, milli: int) -> bool:
    """Whether `loan_state` is open; a limit in the way is remembered, to look anew when it is not."""
    state = loan_state(S, m, p, milli)
    if state == LOAN_AT_LIMIT:
        ag = S.ag[S.mp[m, p].agreement]
        ag.short_milli = min(ag.short_milli, milli)
    return state == LOAN_OPEN


@kernel
def may_use(S: State, m: int, p: int, milli: int, is_borrowed: int) -> bool:
    """Whether a member may use `milli` more GPUs of a pool, as borrowed or within its guarantee."""
    return may_borrow(S, m, p, milli) if is_borrowed else is_within_share(S, m, p, milli)


@kernel
def room_milli(S: State, m: int, p: int, is_borrowed: int) -> int:
    """How much more of a pool a member may use, as borrowed or within its guarantee; -1: no agreement in force lends it."""
    cell = S.mp[m, p]
    if not is_borrowed:
        return cell.guarantee - cell.use_g
    state = loan_state(S, m, p, 1)
    if state == LOAN_NONE or state == LOAN_NOT_IN_FORCE:
        return np.int64(-1)
    return np.int64(NEVER_MS) if cell.agreement < 0 else S.ag[cell.agreement].limit - S.ag[cell.agreement].used


@kernel
def mark_dirty(S: State, p: int) -> None:
    """Remember that a pool has something new to give."""
    if not S.pool[p].is_dirty:
        S.pool[p].is_dirty = 1
        S.dirty[S.g[0].num_dirty] = p
        S.g[0].num_dirty += 1


@kernel
def look_again(S: State) -> None:
    """Look at every pool as if nothing were known about it: terms have changed."""
    for p in range(S.pool.shape[0]):
        S.pool[p].gain = GAIN_ALL
        mark_dirty(S, p)


@kernel
def return_share(S: State, m: int, p: int, milli: int) -> None:
    """Take `milli` GPUs off what a member uses of its guarantee; who was refused for want of it is looked at anew."""
    cell = S.mp[m, p]
    cell.use_g -= milli
    if cell.guarantee - cell.use_g >= cell.short_milli:
        cell.short_milli = NEVER_MS
        cell.opened = 1
        mark_dirty(S, p)


@kernel
def return_loan(S: State, a: int, milli: int) -> None:
    """Take `milli` GPUs off what is out under an agreement; who was refused by its limit is looked at anew."""
    ag = S.ag[a]
    ag.used -= milli
    if ag.limit - ag.used >= ag.short_milli:
        ag.short_milli = NEVER_MS
        ag.opened += 1
        for i in range(ag.pool0, ag.pool1):
            mark_dirty(S, S.ag_pool[i])


@kernel
def notice_ms(S: State, m: int, p: int) -> int:
    """Notice that a member gets before it must leave GPUs above its guarantee."""
    cell = S.mp[m, p]
    return S.g[0].own_notice_ms if cell.agreement < 0 else S.ag[cell.agreement].notice_ms


@kernel
def count_elastic(S: State, j: int, sign: int) -> None:
    """Count a borrowed job in (or out of) those of its pool that may grow."""
    cls = S.cls[S.job[j].cls]
    if cls.max_gpus > cls.min_gpus:
        S.pool[S.job[j].pool].num_elastic += sign


@kernel
def over_link(S: State, j: int) -> None:
    """Put a job at the end of its member's borrowed jobs in its pool."""
    count_elastic(S, j, 1)
    job = S.job[j]
    m = S.cls[job.cls].member
    cell = S.mp[m, job.pool]
    for k in range(ROOM_CLASSES):
        if S.first_fit[m, job.pool, k] < 0:
            S.first_fit[m, job.pool, k] = j
    job.over_prev = cell.over_last
    job.over_next = -1
    if cell.over_last >= 0:
        S.job[cell.over_last].over_next = j
    else:
        cell.over = j
    cell.over_last = j


@kernel
def over_unlink(S: State, j: int) -> None:
    """Take a job out of that list."""
    count_elastic(S, j, -1)
    job = S.job[j]
    m = S.cls[job.cls].member
    cell = S.mp[m, job.pool]
    if job.over_prev >= 0:
        S.job[job.over_prev].over_next = job.over_next
    else:
        cell.over = job.over_next
    if job.over_next >= 0:
        S.job[job.over_next].over_prev = job.over_prev
    else:
        cell.over_last = job.over_prev
    for k in range(ROOM_CLASSES):
        if S.first_fit[m, job.pool, k] == j:
            S.first_fit[m, job.pool, k] = job.over_next
    job.over_prev = job.over_next = -1


@kernel
def over_on_nodes(S: State, j: int, sign: int) -> None:
    """Count a job in (or out of) what its nodes and pool carry above guarantees: GPUs, and segments also of none."""
    job = S.job[j]
    s = job.seg
    while s >= 0:
        seg = S.seg[s]
        n = seg.node
        amount = gpus_in(seg.mask) * 1000 if seg.milli >= 1000 else seg.milli
        S.node[n].over_milli += sign * amount
        S.pool[job.pool].over_milli += sign * amount
        S.node[n].over_segs += sign
        S.node[n].lent_gpus += sign * gpus_in(seg.mask)
        S.pool[job.pool].over_segs += sign
        count_clear(S, n)
        s = seg.next


@kernel
def leaving_on_nodes(S: State, j: int, sign: int) -> None:
    """Count a job in (or out of) those that have been told to leave its nodes, and its GPUs in what a claim may find."""
    s = S.job[j].seg
    while s >= 0:
        n = S.seg[s].node
        S.node[n].leaving += sign
        if not S.job[j].is_borrowed:
            S.node[n].lent_gpus += sign * gpus_in(S.seg[s].mask)
            index_claim(S, n)
        s = S.seg[s].next


@kernel
def charge(S: State, j: int, milli: int) -> None:
    """Count `milli` GPUs (negative: returned) of a running job to share or loan, as it was labelled."""
    g = S.g[0]
    job = S.job[j]
    m = S.cls[job.cls].member
    settle(S, m)
    settle_project(S, S.cls[job.cls].project)
    S.member[m].used_milli += milli
    S.project[S.cls[job.cls].project].used_milli += milli
    g.used_milli += milli
    cell = S.mp[m, job.pool]
    if job.is_borrowed:
        cell.use_b += milli
        if cell.agreement >= 0:
            if milli < 0:
                return_loan(S, cell.agreement, -milli)
            else:
                S.ag[cell.agreement].used += milli
        lend(S, S.pool[job.pool].home, m, milli)
    elif milli < 0:
        return_share(S, m, job.pool, -milli)
    else:
        cell.use_g += milli


@kernel
def room_class(room_milli: int) -> int:
    """Class of so much room in `State.first_fit`."""
    out = 0
    while room_milli >= ROOM_MILLI << (out + 1) and out < ROOM_CLASSES - 1:
        out += 1
    return out


@kernel
def look_from_first(S: State, m: int, p: int) -> None:
    """Let `promote` look at all of a member's borrowed jobs in a pool again: one takes less than before."""
    for k in range(ROOM_CLASSES):
        S.first_fit[m, p, k] = S.mp[m, p].over


@kernel
def first_that_fits(S: State, m: int, p: int, room_milli: int) -> int:
    """The oldest of a member's borrowed jobs in a pool that fits into so much room; -1: none.

    `first_fit` is where to look from for each class of room: all before it are leaving or too big for any room of the
    class. So each job is passed by once a class, however long the list is.
    """
    k = room_class(room_milli)
    j = S.first_fit[m, p, k]
    is_first = True
    while j >= 0:
        job = S.job[j]
        if job.state == RUNNING:
            milli = job.alloc * milli_in(S, j)
            if milli <= room_milli:
                break
            if is_first and (milli < ROOM_MILLI << (k + 1) or k == ROOM_CLASSES - 1):
                S.first_fit[m, p, k] = j
                is_first = False
        j = job.over_next
    if is_first:
        S.first_fit[m, p, k] = j
    return j


@kernel
def promote(S: State, m: int, p: int) -> None:
    """Count borrowed jobs to the member's share, oldest first, where the share has room again."""
    cell = S.mp[m, p]
    while cell.use_g < cell.guarantee:
        j = first_that_fits(S, m, p, cell.guarantee - cell.use_g)
        if j < 0:
            return
        job = S.job[j]
        milli = job.alloc * milli_in(S, j)
        over_on_nodes(S, j, -1)
        charge(S, j, -milli)
        over_unlink(S, j)
        job.borrowed_ms += S.g[0].now_ms - job.since_ms
        job.is_borrowed = 0
        charge(S, j, milli)

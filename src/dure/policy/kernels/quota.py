"""Shares, lending and credits (rules 1, 2): who may use a pool, and who owes whom for it."""

from __future__ import annotations

from dure.policy.kernels.compile import kernel
from dure.policy.kernels.layout import State


@kernel
def settle(S: State, m: int) -> None:
    """Bring a member's credits up to now: plus what it lends, minus what it borrows, over time."""
    g = S.g[0]
    member = S.member[m]
    dt = g.now_ms - member.at_ms
    if dt > 0:
        # Kept in 1/1000 GPU-ms: sums stay exact and add up to zero over the members.
        member.credit_milli_ms += (member.lent_milli - member.borrowed_milli) * dt
        member.usage += member.used_milli // 1000 * (dt // 1000)
        member.at_ms = g.now_ms


@kernel
def lend(S: State, lender: int, borrower: int, milli: int) -> None:
    """Change what one member has out to another by `milli` (negative: given back)."""
    g = S.g[0]
    settle(S, lender)
    settle(S, borrower)
    S.member[lender].lent_milli += milli
    S.member[borrower].borrowed_milli += milli
    g.lent_milli_ms += g.lent_milli * (g.now_ms - g.lent_at_ms)
    g.lent_at_ms = g.now_ms
    if lender != borrower:
        g.lent_milli += milli
    S.lend[lender, borrower, 1] += S.lend[lender, borrower, 0] * (g.now_ms - S.lend[lender, borrower, 2])
    S.lend[lender, borrower, 2] = g.now_ms
    S.lend[lender, borrower, 0] += milli


@kernel
def is_within_share(S: State, m: int, p: int, milli: int) -> bool:
    """Whether `milli` more GPUs of the pool are still within the member's guarantee."""
    return S.mp[m, p].use_g + milli <= S.mp[m, p].guarantee


@kernel
def may_borrow(S: State, m: int, p: int, milli: int) -> bool:
    """Whether the agreements let a member use `milli` more GPUs of the pool than it is guaranteed."""
    cell = S.mp[m, p]
    if cell.agreement < 0:
        return cell.guarantee > 0
    ag = S.ag[cell.agreement]
    if not ag.start_ms <= S.g[0].now_ms < ag.end_ms:
        return False
    if ag.used + milli > ag.limit:
        ag.waiting = 1
        return False
    return True


@kernel
def notice_ms(S: State, m: int, p: int) -> int:
    """Notice that a member gets before it must leave GPUs above its guarantee."""
    cell = S.mp[m, p]
    return S.g[0].own_notice_ms if cell.agreement < 0 else S.ag[cell.agreement].notice_ms


@kernel
def over_link(S: State, j: int) -> None:
    """Put a job at the end of its member's borrowed jobs in its pool."""
    job = S.job[j]
    cell = S.mp[S.cls[job.cls].member, job.pool]
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
    job = S.job[j]
    cell = S.mp[S.cls[job.cls].member, job.pool]
    if job.over_prev >= 0:
        S.job[job.over_prev].over_next = job.over_next
    else:
        cell.over = job.over_next
    if job.over_next >= 0:
        S.job[job.over_next].over_prev = job.over_prev
    else:
        cell.over_last = job.over_prev
    job.over_prev = job.over_next = -1


@kernel
def over_on_nodes(S: State, j: int, sign: int) -> None:
    """Count a job's GPUs in (or out of) what its nodes and pool carry above guarantees."""
    job = S.job[j]
    s = job.seg
    while s >= 0:
        seg = S.seg[s]
        mask, count = seg.mask, 0
        while mask:
            mask &= mask - 1
            count += 1
        amount = count * 1000 if seg.milli >= 1000 else seg.milli
        S.node[seg.node].over_milli += sign * amount
        S.pool[job.pool].over_milli += sign * amount
        s = seg.next


@kernel
def charge(S: State, j: int, milli: int) -> None:
    """Count `milli` GPUs (negative: returned) of a running job to share or loan, as it was labelled."""
    g = S.g[0]
    job = S.job[j]
    m = S.cls[job.cls].member
    settle(S, m)
    S.member[m].used_milli += milli
    g.used_milli += milli
    cell = S.mp[m, job.pool]
    if job.is_borrowed:
        cell.use_b += milli
        if cell.agreement >= 0:
            S.ag[cell.agreement].used += milli
        lend(S, S.pool[job.pool].home, m, milli)
    else:
        cell.use_g += milli


@kernel
def promote(S: State, m: int, p: int) -> None:
    """Count borrowed jobs to the member's share, oldest first, where the share has room again."""
    cell = S.mp[m, p]
    j = cell.over
    while j >= 0 and cell.use_g < cell.guarantee:
        job = S.job[j]
        after = job.over_next
        cls = S.cls[job.cls]
        milli = job.alloc * cls.gpu_milli
        if job.state == 2 and cell.use_g + milli <= cell.guarantee:
            over_on_nodes(S, j, -1)
            charge(S, j, -milli)
            over_unlink(S, j)
            job.borrowed_ms += S.g[0].now_ms - job.since_ms
            job.is_borrowed = 0
            charge(S, j, milli)
        j = after

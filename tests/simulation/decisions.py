"""What a decision may do, and to whom: checked one by one as they are made (rules 2, 5, 6, 9)."""

from __future__ import annotations

from recount import Recount

from dure.policy.kernels import layout as k


class IllegalDecisionError(AssertionError):
    """A decision that the rules do not allow."""


def notice_ms(r: Recount, v: int) -> int:
    """What a borrower has been promised: its agreement's notice; in a pool of its own, or without shares, the policy's."""
    of = r.ground
    a = int(of.terms.agreement[of.member[v], r.pool[v]]) if of.is_shares else -1
    return of.policy.own_notice_ms if a < 0 else of.terms.agreements[a].notice_ms


class DecisionWatch:
    """Checks what is decided, moment by moment, and keeps since when each node is reserved, and for whom."""

    def __init__(self) -> None:
        self.reserved: dict[int, tuple[int, int]] = {}

    def look(self, r: Recount, decided, starts) -> None:
        """`r`: the books after the step in which this was decided; `starts`: the moments at which each job started."""
        before, self.reserved = self.reserved, {}
        for n, c in enumerate(r.held_for):
            if c >= 0 and r.ground.jobs[c]["begin_ms"] >= 0:
                since = before[n][1] if n in before and before[n][0] == c else r.now_ms
                self.reserved[n] = c, since
        kinds = {d.job: d.cause for d in decided if d.kind == k.HOLD}
        for d in decided:
            if d.kind == k.START:
                check_start(r, d)
            elif d.kind == k.VACATE:
                on = [n for n, _, _ in r.leases.get(d.job, ())]
                reserved = [held[n] for held in (before, self.reserved) for n in on if n in held]
                came_after = any(c == d.cause and since <= starts[d.job][-1] for c, since in reserved)
                check_vacate(r, d, kinds.get(d.cause), came_after)
            elif d.kind == k.SHRINK and not (r.is_borrowed[d.job] and r.alloc[d.job] >= r.ground.jobs[d.job]["min_gpus"]):
                raise IllegalDecisionError(f"{d}: only borrowers give GPUs back, and no more than they can spare")


def check_start(r: Recount, d) -> None:
    """A start: an eligible pool, a size that was asked for, not before its time, and under an agreement in force."""
    ground, j = r.ground, d.job
    if d.pool not in ground.pools_of[j] or d.gpus not in ground.sizes(j) or r.now_ms < ground.jobs[j]["begin_ms"]:
        raise IllegalDecisionError(f"{d}: asked for {ground.jobs[j]}, may use pools {ground.pools_of[j]}")
    a = int(ground.terms.agreement[ground.member[j], d.pool]) if ground.is_shares and r.is_borrowed[j] else -1
    if a >= 0 and not ground.terms.agreements[a].start_ms <= r.now_ms < ground.terms.agreements[a].end_ms:
        raise IllegalDecisionError(f"{d}: {ground.terms.agreements[a]} is not in force at {r.now_ms}")


def check_vacate(r: Recount, d, hold_kind, came_after) -> None:
    """A stop: of whom the cause may send away, after the time that it was promised.

    For its own member's earlier job one of lower or equal class that writes checkpoints leaves; for a share, its power
    or a reservation who borrows; for a reservation also who came to a node that was reserved (`came_after`). Who writes
    checkpoints has the time to write one, others the whole notice.
    """
    ground, policy, v, c = r.ground, r.ground.policy, d.job, d.cause
    mine, theirs = ground.jobs[v], ground.jobs[c]
    is_rank = hold_kind == k.HOLD_RANK
    if is_rank:
        is_due = ground.member[v] == ground.member[c] and mine["checkpoint_ms"] > 0
        is_due &= mine["priority"] <= theirs["priority"] or not ground.is_shares
    else:
        is_due = bool(r.is_borrowed[v]) or came_after
    notice = notice_ms(r, v) if r.is_borrowed[v] and not is_rank else policy.save_ms
    if mine["checkpoint_ms"] > 0:
        notice = min(notice, policy.save_ms)
    if not is_due or d.at_ms != r.now_ms + notice:
        raise IllegalDecisionError(f"{d} at {r.now_ms}: {mine} for {theirs}, hold of kind {hold_kind}, notice {notice}")

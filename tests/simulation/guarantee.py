"""Rule 1's promise in time: who is within its member's guarantee and could be served, is served within one notice."""

from __future__ import annotations

from collections import defaultdict

from decisions import notice_ms
from recount import Ground, Recount

from dure.policy.kernels import layout as k


class LateError(AssertionError):
    """A member's job waited for its share longer than the notice."""


class GuaranteeWatch:
    """Watches every waiting job in every pool of its member's share, from moment to moment.

    A job *could be served* in a pool when its least size is still within the guarantee (claims of the member's other
    jobs counted), and the GPUs of the right shape, with CPU, memory and network, are free or in borrowed use on nodes
    that are in service and held for nobody else with an equal right, and the site has the power.
    From the moment on when this became true it may wait for the longest notice of those who borrow there then, and
    `save_ms`. The time starts anew when it is not true for a moment, and when a node of the pool fails: the promise
    falls with the node. Where nodes are being cleared for the job by rank (rule 6), it may take until the moment then
    promised.
    """

    def __init__(self, ground: Ground) -> None:
        self.ground, self.policy = ground, ground.policy
        #: By job and pool: since when it could be served, and the latest start promised.
        self.since: dict[tuple[int, int], tuple[int, int]] = {}
        #: Those sent away for a job since it began to wait: nobody is stopped twice for the same claim (rule 6).
        self.sent: dict[int, set[int]] = defaultdict(set)
        self.leaves_ms: dict[int, int] = {}

    def look(self, r: Recount, decided, failed_nodes) -> None:
        """Take in one moment: what was decided and which nodes failed; LateError where somebody is late."""
        for d in decided:
            if d.kind == k.VACATE:
                self.sent[d.cause].add(d.job)
                self.leaves_ms[d.job] = d.at_ms
            elif d.kind == k.START:
                self.sent.pop(d.job, None)
        lost = {self.ground.nodes[n]["pool"] for n in failed_nodes}
        if lost:
            self.sent.clear()
            self.since = {key: value for key, value in self.since.items() if key[1] not in lost}
        before, self.since = self.since, {}
        for key in self._servable(r):
            since, until = before.get(key) or (r.now_ms, r.now_ms + self._notice_ms(r, key[1]) + self.policy.save_ms)
            if r.hold[key[0]] >= 0 and (hold := self.ground.core.state.hold[r.hold[key[0]]])["kind"] == k.HOLD_RANK:
                until = max(until, int(hold["start_ms"]) + self.policy.save_ms)
            self.since[key] = since, until
            if r.now_ms > until:
                raise LateError(f"job {key[0]} could have been served in pool {key[1]} since {since}, latest at {until}, "
                                f"and waits at {r.now_ms}")  # fmt: skip

    def finish(self) -> None:
        """Nothing happens any more: whoever could be served would wait for ever."""
        if self.since:
            raise LateError(f"never served: {self.since}")

    def _servable(self, r: Recount):
        of = self.ground
        for j in r.waiting:
            for p in of.pools_of[j]:
                if of.guarantee_milli(of.member[j], p) > 0 and of.jobs[j]["num_gpus"] > 0 and self._could(r, j, p):
                    yield j, p

    def _could(self, r: Recount, j: int, p: int) -> bool:
        of = self.ground
        hold = of.core.state.hold[r.hold[j]] if r.hold[j] >= 0 else None
        claim = hold if hold is not None and hold["kind"] == k.HOLD_RECLAIM else None
        if claim is not None and claim["pool"] != p:
            return False  # it is being served elsewhere
        gpus = of.sizes(j)[-1] if claim is None else int(claim["rem"])
        milli = gpus * of.part_milli(j, p)
        if claim is None and not r.is_own(of.member[j], p, milli):
            return False
        nodes = [n for n in of.pool_nodes[p] if r.is_up[n] and (r.held_for[n] < 0 or r.held_for[n] == j)]

        def is_leaving(v: int) -> bool:
            return r.state[v] == k.REVOKING or (r.is_borrowed[v] and v not in self.sent[j])

        return r.fits(j, p, gpus, nodes, is_leaving) and r.has_power(j, p, gpus, False)

    def _notice_ms(self, r: Recount, p: int) -> int:
        """The longest notice of those who borrow in a pool, and of those who have been told already."""
        out = 0
        for v in r.running:
            if r.pool[v] == p and r.state[v] == k.REVOKING:
                out = max(out, self.leaves_ms[v] - r.now_ms)
            elif r.pool[v] == p and r.is_borrowed[v]:
                out = max(out, notice_ms(r, v))
        return out

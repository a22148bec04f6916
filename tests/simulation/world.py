"""A plain-Python world that drives the core one stimulus at a time, and a checker written from the rules.

The checker shares nothing with the kernels but the names of the columns: it recounts every account from the
leases alone.
"""

from __future__ import annotations

import heapq
from collections import defaultdict

import numpy as np
from recount import BESIDE, LEVEL, Ground, Recount

from dure.core.cells import cell_clusters
from dure.core.step import (
    Decision,
    DecisionKind,
    Ended,
    NodeClosed,
    NodeDown,
    NodeDrained,
    NodeUp,
    RankDue,
    ReservationDue,
    Submitted,
    TermsDue,
    Vacated,
)
from dure.policy.kernels import layout as k
from dure.twin.loop import LOOK_MS
from dure.twin.replay import given_up_after_ms


class Invariant(AssertionError):
    """A promise of docs/policy.md was broken."""


def check(ground: Ground) -> Recount:
    """Recount everything from the leases and compare with the rules."""
    core, fleet, trace = ground.core, ground.fleet, ground.trace
    s = core.state
    g = s.g[0]
    r = Recount(ground)
    for j in range(len(trace.jobs)):
        if r.state[j] not in (k.RUNNING, k.REVOKING) and (leases := core.leases(j)):
            raise Invariant(f"job {j} in state {r.state[j]} holds {leases}")
    for j, leases in r.leases.items():
        asked, num = ground.jobs[j], r.alloc[j]
        for n, mask, _ in leases:
            if s.node[n]["state"] not in (k.UP, k.UNKNOWN):
                raise Invariant(f"job {j} on node {n} in state {s.node[n]['state']}")
            if ground.nodes[n]["pool"] != r.pool[j]:
                raise Invariant(f"job {j} on node {n} of another pool")
            if mask >> ground.nodes[n]["num_gpus"]:
                raise Invariant(f"job {j} has GPUs {mask:b} of node {n}, which has fewer")
        total = sum(mask.bit_count() * min(milli, 1000) for _, mask, milli in leases)
        want = num * ground.part_milli(j, r.pool[j])
        if total != want:
            raise Invariant(f"gang {j} partly started: {total} of {want}")
        if asked["num_gpus"] and not asked["min_gpus"] <= num <= asked["max_gpus"]:
            raise Invariant(f"job {j} has {num} GPUs outside its range")
        level = {1: "node", **LEVEL}.get(asked["topology"])
        if level and len({n if level == "node" else ground.nodes[n][level] for n, _, _ in leases}) > 1:
            raise Invariant(f"job {j} is spread over more than one {level}")
    for n in r.on:
        if max(r.taken(n)) > 1000:
            raise Invariant(f"node {n}: a GPU is leased twice: {r.taken(n)}")
        for name in BESIDE:
            amount = sum(ground.wanted(j, name, mask.bit_count()) for j, mask, _ in r.on[n])
            if amount > ground.nodes[n][name] and (name != "net_mbps" or ground.nodes[n][name] > 0):
                raise Invariant(f"node {n}: {amount} of {name} taken, it has {ground.nodes[n][name]}")
    for m in range(len(s.member)):
        for p in range(len(s.pool)):
            cell, used = s.mp[m, p], r.use_milli[m, p] + r.claimed_milli[m, p]
            if used != cell["use_g"] or r.over_milli[m, p] != cell["use_b"]:
                raise Invariant(f"accounts of member {m} in pool {p} are off: {used} {r.over_milli[m, p]} {cell}")
            if used > ground.guarantee_milli(m, p):
                raise Invariant(f"member {m} uses more of pool {p} as guaranteed than it is guaranteed")
    for a, milli in r.out_milli.items():
        if milli != s.ag[a]["used"] or milli > ground.terms.agreements[a].limit_gpus * 1000:
            raise Invariant(f"agreement {a}: {milli} out, limit {ground.terms.agreements[a].limit_gpus}")
    used_total = sum(r.use_milli.values()) + sum(r.over_milli.values())
    if used_total != g["used_milli"]:
        raise Invariant(f"fleet: {used_total} used, counted {g['used_milli']}")
    if int(s.member["lent_milli"].sum()) != int(s.member["borrowed_milli"].sum()):
        raise Invariant("lent and borrowed differ")
    for i, site in enumerate(fleet.sites):
        if r.power_w[i] != s.site[i]["power_w"]:
            raise Invariant(f"site {i} draws {r.power_w[i]} W, counted {s.site[i]['power_w']}")
        if 0 < site.power_cap_w < r.power_w[i] and any(ground.site[r.pool[j]] == i for j in r.running):
            raise Invariant(f"site {i}: {r.power_w[i]} W over its cap of {site.power_cap_w} W")
    for j in r.running:
        m, p = ground.member[j], r.pool[j]
        if r.state[j] == k.RUNNING and r.is_borrowed[j] and r.is_own(m, p, r.alloc[j] * ground.part_milli(j, p)):
            raise Invariant(f"job {j} borrows what its member's guarantee has room for")
    for n in range(len(s.node)):
        node = s.node[n]
        free = r.taken(n).count(0)
        if free != node["free"] or int(node["free_mask"]).bit_count() != free:
            raise Invariant(f"node {n}: {free} GPUs free, counted {node['free']}")
    return r


class World:
    """Truth about run times, progress and faults; carries out what the core decides."""

    def __init__(self, ground: Ground, faults=(), words=None) -> None:
        self.ground = ground
        self.core, self.trace = ground.core, ground.trace
        fleet, core = ground.fleet, ground.core
        self.heap: list[tuple[int, int, int, int]] = []
        found = [(int(f["at_ms"]), int(f["node"]), int(f["kind"])) for f in faults]
        late = np.flatnonzero(fleet.nodes["online_ms"] > 0)
        self.faults = sorted(found + [(int(fleet.nodes["online_ms"][n]), int(n), 2) for n in late])
        ag = core.state.ag
        ends = {int(t) for t in (*ag["start_ms"], *ag["end_ms"])}
        self.wakes = sorted(t for t in ends if 0 < t < k.NEVER_MS)
        self.next_job = 0
        self.log: list[tuple] = []
        self.starts: dict[int, list[int]] = defaultdict(list)
        #: How often a job was stopped for one claim of another: (job, other, number of the other's claim).
        self.stops: dict[tuple[int, int, int], int] = defaultdict(int)
        #: Claims of each job that are over: it started, or a node that was held for it failed (rule 6).
        self.claims: dict[int, int] = defaultdict(int)
        #: Work that each job has done and kept, in ms at the reference speed; of those that run: (start, since, rate).
        self.done_ms: dict[int, int] = defaultdict(int)
        self.runs: dict[int, tuple[int, int, int]] = {}
        #: What was decided at the last moment, and which nodes failed then.
        self.decided: list[Decision] = []
        self.failed: list[int] = []
        #: Cell sites (rule 10): nodes that radio work has, the next look at them, when something else last came about.
        self.withheld: set[int] = set()
        first = int(self.trace.jobs["submit_ms"].min()) if len(self.trace.jobs) else 0
        self.look_at = first // LOOK_MS * LOOK_MS if cell_clusters(fleet) else None
        self.moved_at = first
        #: What radios say (`dure.twin.radio_words.Words`), and when one of them speaks or its last word is over.
        self.words, self.turn_at = words, first if words is not None and self.look_at is not None else None
        self.spoken: dict[int, tuple[int, int]] = {}
        durations = np.delete(self.trace.jobs["duration_ms"], list(core.never))
        self.patience_ms = given_up_after_ms(durations, fleet)

    def end_at(self, j: int) -> int:
        """When a running job ends if nothing changes."""
        _, since, rate = self.runs[j]
        left = max(self.ground.jobs[j]["duration_ms"] - self.done_ms[j], 0)
        return since + (left * 1000 + rate - 1) // rate

    def bank(self, t: int, j: int) -> None:
        """Count what a running job has done up to now."""
        start, since, rate = self.runs[j]
        self.done_ms[j] += (t - since) * rate // 1000
        self.runs[j] = start, t, rate

    def vacate(self, t: int, j: int) -> None:
        """A job has left: who writes checkpoints has written one, the others begin anew (rule 6)."""
        self.bank(t, j)
        if self.ground.jobs[j]["checkpoint_ms"] == 0:
            self.done_ms[j] = 0
        del self.runs[j]

    def fail(self, t: int, j: int) -> None:
        """A job has lost a node: it keeps what its last checkpoint in this run holds (rule 7)."""
        start, _, rate = self.runs[j]
        self.bank(t, j)
        every = self.ground.jobs[j]["checkpoint_ms"]
        lost = (t - start) % every * rate // 1000 if every > 0 else self.done_ms[j]
        self.done_ms[j] = max(self.done_ms[j] - lost, 0)
        del self.runs[j]

    def next_at(self) -> int | None:
        times = [t for t, *_ in self.heap[:1]]
        if self.next_job < len(self.trace.jobs):
            times.append(int(self.trace.jobs["submit_ms"][self.next_job]))
        if times or self.core.state.g[0]["queue_jobs"] > 0:
            times += [t for t, *_ in self.faults[:1]] + self.wakes[:1]
            if self.look_at is not None:
                at = min([*times, self.look_at, *([self.turn_at] if self.turn_at is not None else [])])
                return None if at - self.moved_at > self.patience_ms else at
        return min(times) if times else None

    def look(self, t: int) -> None:
        """Of the nodes of each cluster at a cell site that are delivered, the first so many are open in this hour."""
        nodes, state = self.ground.fleet.nodes, self.core.state
        for i, site in enumerate(self.ground.fleet.sites):
            for cluster in np.unique(nodes["cluster"][nodes["site"] == i]) if site.cells else ():
                mine = np.flatnonzero((nodes["site"] == i) & (nodes["cluster"] == cluster)).tolist()
                there = [n for n in mine if state.node[n]["state"] != k.OFFLINE]
                said, until = self.spoken.get(i, (0, 0))
                milli = said if t < until else site.cells.lent_milli[(t + site.cells.week_ms) // 3_600_000 % 168]
                last = len(there) * milli // 1000
                for n in mine:
                    is_open = sum(before < n for before in there) < last
                    if not is_open and n not in self.withheld:
                        self.withheld.add(n)
                        self._take(t, NodeClosed(n))
                        self._take(t, NodeDrained(n, site.cells.vacate_ms))
                    elif is_open and n in self.withheld:
                        self.withheld.discard(n)
                        if state.node[n]["state"] == k.UNKNOWN:
                            self._take(t, NodeUp(n))

    def hear(self, t: int) -> None:
        """What each radio has said last by now, of this round of words and the two before; and when that will be another."""
        words, period = self.words.words.tolist(), self.words.period_ms
        here = t // period
        rounds = [(at + r * period, site, milli, until + r * period)
                  for r in range(max(here - 2, 0), here + 2) for at, site, milli, until in words]  # fmt: skip
        first = int(self.trace.jobs["submit_ms"].min())
        rounds = [word for word in rounds if word[0] >= (first // period - 1) * period]
        self.spoken = {site: (milli, until) for at, site, milli, until in rounds if at <= t}
        ends = [until for _, until in self.spoken.values() if until > t]
        self.turn_at = min([at for at, *_ in rounds if at > t] + ends)

    def node_up(self, t: int, n: int, **more) -> None:
        """A node is back, unless radio work has it."""
        self._take(t, NodeUp(n, **more))
        if n in self.withheld:
            self._take(t, NodeClosed(n))

    def advance(self) -> bool:
        """One moment: everything that happens then, then one step. False when nothing is left."""
        t = self.next_at()
        if t is None:
            return False
        state = self.core.state
        self.failed = []
        is_look = t == self.look_at
        if t == self.turn_at:
            self.hear(t)
            is_look = True
        if t == self.look_at:
            self.look_at += LOOK_MS
        if is_look:
            self.look(t)
        while self.heap and self.heap[0][0] == t:
            _, kind, who, version = heapq.heappop(self.heap)
            if kind == 3:
                self.node_up(t, who, is_release=True)
                continue
            job = state.job[who]
            if job["version"] != version:
                continue
            if kind == 0 and job["state"] in (k.RUNNING, k.REVOKING):
                del self.runs[who]
                self._take(t, Ended(who))
                self.moved_at = t
            elif kind == 1 and job["state"] == k.REVOKING:
                self.vacate(t, who)
                self._take(t, Vacated(who))
            elif kind == 2 and job["state"] == k.RUNNING:
                self._take(t, RankDue(who))
                at = self.core.next_rank_ms(who)
                if at < k.NEVER_MS:
                    heapq.heappush(self.heap, (at, 2, who, int(version)))
            elif kind == 4 and job["state"] == k.RESERVED:
                self._take(t, ReservationDue(who))
                self._push_due(who)
        while self.faults and self.faults[0][0] == t:
            _, n, kind = self.faults.pop(0)
            if kind == 0:
                self.failed.append(n)
                for j in [j for j in self.runs if n in {node for node, _, _ in self.core.leases(j)}]:
                    self.fail(t, j)
                if (h := int(state.node[n]["hold"])) >= 0:
                    self.claims[int(state.hold[h]["job"])] += 1
                self._take(t, NodeDown(n))
            elif state.node[n]["state"] == k.DOWN or kind == 2:
                self.node_up(t, n)
            self.moved_at = t
        while self.wakes and self.wakes[0] == t:
            self.wakes.pop(0)
            self._take(t, TermsDue())
        while self.next_job < len(self.trace.jobs) and self.trace.jobs["submit_ms"][self.next_job] == t:
            if self.next_job not in self.core.never:
                self._take(t, Submitted(self.next_job))
                self._push_due(self.next_job)
            self.next_job += 1
            self.moved_at = t
        self.decided = self.core.step(t, [])
        for d in self.decided:
            self.log.append((t, *(getattr(d, f) for f in ("kind", "job", "pool", "node", "gpus", "at_ms"))))
            version = int(state.job[d.job]["version"]) if d.job >= 0 else 0
            if d.kind == DecisionKind.START:
                if t < self.trace.jobs["begin_ms"][d.job]:
                    raise Invariant(f"job {d.job} starts at {t}, before it is reserved for")
                self.starts[d.job].append(t)
                self.runs[d.job] = t, t, self.ground.rate_milli(d.job, d.pool, int(state.job[d.job]["alloc"]))
                self.claims[d.job] += 1
                heapq.heappush(self.heap, (self.end_at(d.job), 0, d.job, version))
                at = self.core.next_rank_ms(d.job)
                if at < k.NEVER_MS:
                    heapq.heappush(self.heap, (at, 2, d.job, version))
            elif d.kind == DecisionKind.VACATE:
                if d.cause >= 0:
                    self.stops[d.job, d.cause, self.claims[d.cause]] += 1
                heapq.heappush(self.heap, (d.at_ms, 1, d.job, version))
            elif d.kind in (DecisionKind.SHRINK, DecisionKind.GROW):
                self.bank(t, d.job)
                gpus = int(state.job[d.job]["alloc"])
                self.runs[d.job] = self.runs[d.job][0], t, self.ground.rate_milli(d.job, d.pool, gpus)
                heapq.heappush(self.heap, (self.end_at(d.job), 0, d.job, version))
            elif d.kind == DecisionKind.QUARANTINE:
                heapq.heappush(self.heap, (d.at_ms, 3, d.node, 0))
        for j in range(self.next_job):
            if state.job[j]["state"] == k.PENDING and state.job[j]["done_ms"] != self.done_ms[j]:
                raise Invariant(f"job {j} has done {self.done_ms[j]} ms, counted {state.job[j]['done_ms']}")
        return True

    def _push_due(self, j: int) -> None:
        at = self.core.next_due_ms(j)
        if at < k.NEVER_MS:
            heapq.heappush(self.heap, (at, 4, j, int(self.core.state.job[j]["version"])))

    def _take(self, t: int, stimulus) -> None:
        self.core.state.g[0]["now_ms"] = t
        self.core._take(stimulus)

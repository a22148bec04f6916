"""A plain-Python world that drives the core one stimulus at a time, and a checker written from the rules.

The checker shares nothing with the kernels but the names of the columns: it recounts every account from the
leases alone.
"""

from __future__ import annotations

import heapq
from collections import defaultdict

import numpy as np

from dure.core.step import (
    Core,
    DecisionKind,
    Ended,
    NodeDown,
    NodeUp,
    RankDue,
    ReservationDue,
    Submitted,
    TermsDue,
    Vacated,
)
from dure.model.jobs import TOPOLOGY_RACK
from dure.policy.kernels import layout as k


class Invariant(AssertionError):
    """A promise of docs/policy.md was broken."""


def part_on(fleet, pool: int, milli: int) -> int:
    """What a part of a GPU takes there: NVIDIA's profiles where the GPUs are cut into seven, as docs/policy.md has it."""
    kinds = {int(t) for t in fleet.nodes["gpu_type"][fleet.nodes["pool"] == pool]}
    slices = fleet.gpu_types[max(kinds)].mig_slices
    if milli == 1000 or slices == 1:
        return milli
    assert slices == 7
    return next(size for part, size in ((1, 126), (2, 252), (3, 480), (4, 520), (7, 1000)) if milli * 7 <= part * 1000)


def check(core: Core, fleet, terms, trace) -> None:
    """Recount everything from the leases and compare with the rules."""
    s = core.state
    g = s.g[0]
    taken: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(16, np.int64))
    use_g: dict[tuple[int, int], int] = defaultdict(int)
    use_b: dict[tuple[int, int], int] = defaultdict(int)
    out_under: dict[int, int] = defaultdict(int)
    beside: dict[tuple[str, int], int] = defaultdict(int)
    used_total = 0
    for j in range(int(g["num_jobs"])):
        job, cls = s.job[j], s.cls[s.job[j]["cls"]]
        leases = core.leases(j)
        if job["state"] not in (k.RUNNING, k.REVOKING):
            if leases:
                raise Invariant(f"job {j} in state {job['state']} holds {leases}")
            continue
        total = 0
        for n, mask, milli in leases:
            if s.node[n]["state"] != k.UP:
                raise Invariant(f"job {j} on node {n} in state {s.node[n]['state']}")
            if s.node[n]["pool"] != job["pool"]:
                raise Invariant(f"job {j} on node {n} of another pool")
            for i in range(16):
                if mask >> i & 1:
                    if i >= fleet.nodes["num_gpus"][n]:
                        raise Invariant(f"job {j} has GPU {i} of node {n}, which has fewer")
                    taken[n][i] += min(milli, 1000)
                    total += min(milli, 1000)
            asked = trace.jobs[j]
            for name in ("cpu_milli", "mem_mib", "net_mbps"):
                each = asked[name] // max(asked["num_gpus"], 1) * bin(mask).count("1")
                beside[name, n] += each if asked["num_gpus"] else asked[name]
        want = job["alloc"] * part_on(fleet, job["pool"], cls["gpu_milli"]) if cls["num_gpus"] else 0
        if total != want:
            raise Invariant(f"gang {j} partly started: {total} of {want}")
        if cls["num_gpus"] and not cls["min_gpus"] <= job["alloc"] <= cls["max_gpus"]:
            raise Invariant(f"job {j} has {job['alloc']} GPUs outside its range")
        if cls["topology"] == TOPOLOGY_RACK and len({int(s.node[n]["rack"]) for n, _, _ in leases}) > 1:
            raise Invariant(f"job {j} spread over racks")
        m, p = int(cls["member"]), int(job["pool"])
        (use_b if job["is_borrowed"] else use_g)[m, p] += total
        if job["is_borrowed"] and s.mp[m, p]["agreement"] >= 0:
            out_under[int(s.mp[m, p]["agreement"])] += total
        used_total += total
    for n, gpus in taken.items():
        if gpus.max() > 1000:
            raise Invariant(f"node {n}: a GPU is leased twice: {gpus}")
    for (name, n), amount in beside.items():
        if amount > fleet.nodes[name][n] and (name != "net_mbps" or fleet.nodes[name][n] > 0):
            raise Invariant(f"node {n}: {amount} of {name} taken, it has {fleet.nodes[name][n]}")
    claims: dict[tuple[int, int], int] = defaultdict(int)
    for h in s.hold:
        if h["job"] >= 0 and h["kind"] == k.HOLD_RECLAIM:
            m = int(s.cls[s.job[h["job"]]["cls"]]["member"])
            claims[m, int(h["pool"])] += int(h["rem"]) * 1000
    for m in range(len(s.member)):
        for p in range(len(s.pool)):
            cell = s.mp[m, p]
            if use_g[m, p] + claims[m, p] != cell["use_g"] or use_b[m, p] != cell["use_b"]:
                raise Invariant(f"accounts of member {m} in pool {p} are off: {use_g[m, p]} {claims[m, p]} {cell}")
            if cell["use_g"] > max(cell["guarantee"], 0):
                raise Invariant(f"member {m} uses more of pool {p} as guaranteed than it is guaranteed")
    for a, milli in out_under.items():
        if milli != s.ag[a]["used"] or milli > s.ag[a]["limit"]:
            raise Invariant(f"agreement {a}: {milli} out, limit {s.ag[a]['limit']}")
    if used_total != g["used_milli"]:
        raise Invariant(f"fleet: {used_total} used, counted {g['used_milli']}")
    if int(s.member["lent_milli"].sum()) != int(s.member["borrowed_milli"].sum()):
        raise Invariant("lent and borrowed differ")
    for i, site in enumerate(s.site):
        if site["cap_w"] > 0 and site["power_w"] > site["cap_w"] and used_total > 0:
            busy = sum(1 for n in taken if s.pool[s.node[n]["pool"]]["site"] == i)
            if busy:
                raise Invariant(f"site {i}: {site['power_w']} W over its cap of {site['cap_w']} W")
    for n in range(len(s.node)):
        node = s.node[n]
        free = sum(1 for i in range(int(node["num"])) if taken[n][i] == 0)
        if free != node["free"] or bin(int(node["free_mask"])).count("1") != free:
            raise Invariant(f"node {n}: {free} GPUs free, counted {node['free']}")


class World:
    """Truth about run times and faults; carries out what the core decides."""

    def __init__(self, core: Core, fleet, trace, faults=()) -> None:
        self.core, self.trace = core, trace
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
        self.stops: dict[tuple[int, int, int], int] = defaultdict(int)

    def end_at(self, j: int) -> int:
        job = self.core.state.job[j]
        left = max(int(self.trace.jobs["duration_ms"][j]) - int(job["done_ms"]), 0)
        rate = int(job["rate_milli"])
        return int(job["since_ms"]) + (left * 1000 + rate - 1) // rate

    def next_at(self) -> int | None:
        times = [t for t, *_ in self.heap[:1]]
        if self.next_job < len(self.trace.jobs):
            times.append(int(self.trace.jobs["submit_ms"][self.next_job]))
        if times or self.core.state.g[0]["queue_jobs"] > 0:
            times += [t for t, *_ in self.faults[:1]] + self.wakes[:1]
        return min(times) if times else None

    def advance(self) -> bool:
        """One moment: everything that happens then, then one step. False when nothing is left."""
        t = self.next_at()
        if t is None:
            return False
        state = self.core.state
        while self.heap and self.heap[0][0] == t:
            _, kind, who, version = heapq.heappop(self.heap)
            if kind == 3:
                self._take(t, NodeUp(who, is_release=True))
                continue
            job = state.job[who]
            if job["version"] != version:
                continue
            if kind == 0 and job["state"] in (k.RUNNING, k.REVOKING):
                self._take(t, Ended(who))
            elif kind == 1 and job["state"] == k.REVOKING:
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
                self._take(t, NodeDown(n))
            elif state.node[n]["state"] == k.DOWN or kind == 2:
                self._take(t, NodeUp(n))
        while self.wakes and self.wakes[0] == t:
            self.wakes.pop(0)
            self._take(t, TermsDue())
        while self.next_job < len(self.trace.jobs) and self.trace.jobs["submit_ms"][self.next_job] == t:
            if self.next_job not in self.core.never:
                self._take(t, Submitted(self.next_job))
                self._push_due(self.next_job)
            self.next_job += 1
        for d in self.core.step(t, []):
            self.log.append((t, *(getattr(d, f) for f in ("kind", "job", "pool", "node", "gpus", "at_ms"))))
            version = int(state.job[d.job]["version"]) if d.job >= 0 else 0
            if d.kind == DecisionKind.START:
                if t < self.trace.jobs["begin_ms"][d.job]:
                    raise Invariant(f"job {d.job} starts at {t}, before it is reserved for")
                self.starts[d.job].append(t)
                heapq.heappush(self.heap, (self.end_at(d.job), 0, d.job, version))
                at = self.core.next_rank_ms(d.job)
                if at < k.NEVER_MS:
                    heapq.heappush(self.heap, (at, 2, d.job, version))
            elif d.kind == DecisionKind.VACATE:
                self.stops[d.job, d.cause, int(state.job[d.cause]["attempt"])] += 1
                heapq.heappush(self.heap, (d.at_ms, 1, d.job, version))
            elif d.kind in (DecisionKind.SHRINK, DecisionKind.GROW):
                heapq.heappush(self.heap, (self.end_at(d.job), 0, d.job, version))
            elif d.kind == DecisionKind.QUARANTINE:
                heapq.heappush(self.heap, (d.at_ms, 3, d.node, 0))
        return True

    def _push_due(self, j: int) -> None:
        at = self.core.next_due_ms(j)
        if at < k.NEVER_MS:
            heapq.heappush(self.heap, (at, 4, j, int(self.core.state.job[j]["version"])))

    def _take(self, t: int, stimulus) -> None:
        self.core.state.g[0]["now_ms"] = t
        self.core._take(stimulus)

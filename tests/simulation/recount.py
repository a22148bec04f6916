"""What is free, in use, lent and drawn at one moment of rest, from leases, terms and fleet alone; no kernel is asked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from dure.core.step import Core
from dure.model.fleet import Fleet
from dure.model.jobs import Trace
from dure.model.terms import Terms
from dure.policy.config import Policy
from dure.policy.kernels import layout as k

BESIDE = ("cpu_milli", "mem_mib", "net_mbps")
#: A job's `topology`: the level of the fleet that its gang may not leave; 1 is the node, 0 and 4 the pool.
LEVEL = {2: "rack", 3: "block"}
#: Parts of a GPU of seven slices: most slices, milli that they take (docs/policy.md, rule 4).
PROFILES = ((1, 126), (2, 252), (3, 480), (4, 520), (7, 1000))


def nobody(_job: int) -> bool:
    """Of the jobs that run, none leaves."""
    return False


class Ground:
    """A scene with the core that decides in it, and what does not change while it runs: nodes, terms, what jobs ask for."""

    def __init__(self, fleet: Fleet, terms: Terms, trace: Trace, policy: Policy) -> None:
        self.fleet, self.terms, self.trace, self.policy = fleet, terms, trace, policy
        core = self.core = Core(fleet, terms, trace, policy)
        self.is_shares, self.is_sleep = (bool(core.state.g[0][name]) for name in ("is_shares", "is_sleep"))
        self.jobs = [dict(zip(trace.jobs.dtype.names, row.tolist(), strict=True)) for row in trace.jobs]
        self.nodes = [dict(zip(fleet.nodes.dtype.names, row.tolist(), strict=True)) for row in fleet.nodes]
        self.member = core.built.member_of[trace.jobs["member"]].tolist()
        num_pools = len(terms.pools)
        self.pool_nodes = [[n for n, node in enumerate(self.nodes) if node["pool"] == p] for p in range(num_pools)]
        self.node_size = [max(self.nodes[n]["num_gpus"] for n in nodes) for nodes in self.pool_nodes]
        self.kind = [fleet.gpu_types[self.nodes[nodes[0]]["gpu_type"]] for nodes in self.pool_nodes]
        self.site = [self.nodes[nodes[0]]["site"] for nodes in self.pool_nodes]
        cls = core.state.cls
        self.cls = core.state.job["cls"][: len(trace.jobs)].tolist()
        #: The pools that each job may ever use (rule 9), in its order of preference.
        self.pools_of = [
            core.state.cls_pool[int(cls[c]["pool0"]) : int(cls[c]["pool0"] + cls[c]["num_pools"])].tolist()
            for c in self.cls
        ]

    def guarantee_milli(self, m: int, p: int) -> int:
        """What a member is guaranteed of a pool."""
        return int(self.terms.guarantee_gpus[m, p]) * 1000 if self.is_shares else 0

    def part_milli(self, j: int, p: int) -> int:
        """What each GPU of a job takes in a pool: NVIDIA's profiles where GPUs are cut into seven."""
        milli, slices = self.jobs[j]["gpu_milli"], self.kind[p].mig_slices
        if milli == 1000 or slices == 1:
            return milli
        assert slices == 7
        return next(size for part, size in PROFILES if milli * 7 <= part * 1000)

    def rate_milli(self, j: int, p: int, gpus: int) -> int:
        """How fast a job runs on so many GPUs of a pool, in 1/1000 of the speed that its run time is given for."""
        asked, kind, profile = self.jobs[j], self.kind[p], self.jobs[j]["profile"]
        if asked["num_gpus"] == 0:
            return 1000
        speed = kind.speed_milli
        if profile >= 0:
            speed = self.trace.profiles[profile].speed_milli.get(kind.name, speed)
        elif not self.is_shares and len(self.fleet.gpu_types) == 1 and not self.trace.profiles:
            speed = 1000
        scaling = self.trace.profiles[profile].scaling if profile >= 0 else 1.0
        if gpus == asked["num_gpus"] or scaling == 1.0:
            return speed * gpus // asked["num_gpus"]
        return max(int(speed * (gpus / asked["num_gpus"]) ** scaling), 1)

    def sizes(self, j: int) -> list[int]:
        """GPUs with which a job may start: its own number and its least."""
        asked = self.jobs[j]
        return sorted({asked["num_gpus"], asked["min_gpus"]}, reverse=True) if asked["num_gpus"] else [0]

    def shape(self, j: int, p: int, gpus: int) -> tuple[int, int, int]:
        """(nodes, GPUs of the job on each, GPUs on one more) of a gang; no nodes: it cannot stand in that pool.

        A gang stands on nodes with `gpus_per_node` GPUs of it each; not told, as many as the pool's nodes have.
        """
        per = min(self.jobs[j]["gpus_per_node"] or self.node_size[p], gpus)
        return (gpus // per, per, gpus % per) if 0 < per <= self.node_size[p] else (0, 0, 0)

    def wanted(self, j: int, name: str, count: int) -> int:
        """What a job wants beside so many of its GPUs; all of it where it has no GPU."""
        asked = self.jobs[j]
        return asked[name] // asked["num_gpus"] * count if asked["num_gpus"] else asked[name]


class Recount:
    """The books of one moment.

    Attributes
    ----------
    leases : dict of running job to list of (node, mask of its GPUs, milli of each)
    on : dict of node to list of (job, mask, milli)
    use_milli, over_milli : dict of (member, pool) to milli-GPUs, within the guarantee and borrowed
    out_milli : dict of agreement to milli-GPUs out under it
    claimed_milli : dict of (member, pool) to milli-GPUs of its guarantee for which nodes are being cleared
    held_for : list, by node, of the job that it is held for; -1: none
    power_w : list, by site
    """

    def __init__(self, ground: Ground) -> None:
        s = ground.core.state
        self.ground = ground
        self.now_ms = ground.core.now_ms
        num = len(ground.jobs)
        self.state, self.is_borrowed, self.pool, self.alloc, self.hold = (
            s.job[name][:num].tolist() for name in ("state", "is_borrowed", "pool", "alloc", "hold")
        )
        self.running = [j for j in range(num) if self.state[j] in (k.RUNNING, k.REVOKING)]
        self.waiting = [j for j in range(num) if self.state[j] == k.PENDING]
        self.leases = {j: ground.core.leases(j) for j in self.running}
        self.on: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        self.use_milli: dict[tuple[int, int], int] = defaultdict(int)
        self.over_milli: dict[tuple[int, int], int] = defaultdict(int)
        self.out_milli: dict[int, int] = defaultdict(int)
        for j in self.running:
            self._book(j)
        self.is_up = (s.node["state"] == k.UP).tolist()
        self.held_for = [int(s.hold[h]["job"]) if h >= 0 else -1 for h in s.node["hold"].tolist()]
        self.claimed_milli: dict[tuple[int, int], int] = defaultdict(int)
        for h in s.hold[(s.hold["job"] >= 0) & (s.hold["kind"] == k.HOLD_RECLAIM)]:
            j, p = int(h["job"]), int(h["pool"])
            self.claimed_milli[ground.member[j], p] += int(h["rem"]) * ground.part_milli(j, p)
        self.power_w = self._power()

    def _book(self, j: int) -> None:
        m, p = self.ground.member[j], self.pool[j]
        total = 0
        for n, mask, milli in self.leases[j]:
            self.on[n].append((j, mask, milli))
            total += mask.bit_count() * min(milli, 1000)
        if not self.is_borrowed[j]:
            self.use_milli[m, p] += total
            return
        self.over_milli[m, p] += total
        if self.ground.is_shares and self.ground.terms.agreement[m, p] >= 0:
            self.out_milli[int(self.ground.terms.agreement[m, p])] += total

    def is_own(self, m: int, p: int, milli: int) -> bool:
        """Whether so much more would still be within the member's guarantee, what is claimed for it counted (rule 1)."""
        used = self.use_milli[m, p] + self.claimed_milli[m, p]
        return 0 < self.ground.guarantee_milli(m, p) >= used + milli

    def may_borrow(self, m: int, p: int, milli: int) -> bool:
        """Whether the agreements lend so much more (rule 2)."""
        if not self.ground.is_shares:
            return True
        a = int(self.ground.terms.agreement[m, p])
        if a < 0:
            return self.ground.guarantee_milli(m, p) > 0
        of = self.ground.terms.agreements[a]
        return of.start_ms <= self.now_ms < of.end_ms and self.out_milli[a] + milli <= of.limit_gpus * 1000

    def open_nodes(self, p: int) -> list[int]:
        """Nodes of a pool in service and held for nobody."""
        return [n for n in self.ground.pool_nodes[p] if self.is_up[n] and self.held_for[n] < 0]

    def taken(self, n: int, is_leaving: Callable[[int], bool] = nobody) -> list[int]:
        """Milli of each GPU of a node that is in use, once those have left."""
        out = [0] * self.ground.nodes[n]["num_gpus"]
        for j, mask, milli in self.on[n]:
            if not is_leaving(j):
                for i in range(k.GPUS_MAX):
                    if mask >> i & 1:
                        out[i] += min(milli, 1000)
        return out

    def has_beside(self, n: int, j: int, count: int, is_leaving: Callable[[int], bool] = nobody) -> bool:
        """Whether a node has what a job wants beside so many GPUs, once those have left."""
        of = self.ground
        for name in BESIDE:
            there = of.nodes[n][name]
            if name == "net_mbps" and there == 0:
                continue  # not given, never in the way
            used = sum(of.wanted(v, name, mask.bit_count()) for v, mask, _ in self.on[n] if not is_leaving(v))
            if there - used < of.wanted(j, name, count):
                return False
        return True

    def fits(
        self, j: int, p: int, gpus: int, nodes: Iterable[int], is_leaving: Callable[[int], bool] = nobody
    ) -> bool:
        """Whether so many GPUs of a job have room on these nodes of a pool, once those have left (rule 4).

        Tries every domain that its topology allows.
        """
        of = self.ground
        if gpus == 0:
            return any(self.has_beside(n, j, 0, is_leaving) for n in nodes)
        if of.jobs[j]["gpu_milli"] < 1000:
            rest = 1000 - of.part_milli(j, p)
            return any(min(self.taken(n, is_leaving)) <= rest and self.has_beside(n, j, 1, is_leaving) for n in nodes)
        parts, per, rest = of.shape(j, p, gpus)
        topology = of.jobs[j]["topology"]
        if parts == 0 or (topology == 1 and parts + (rest > 0) > 1):
            return False
        level = LEVEL.get(topology)
        groups: dict[int, list[int]] = defaultdict(list)
        for n in nodes:
            groups[of.nodes[n][level] if level else 0].append(n)

        def has_room(n: int, count: int) -> bool:
            return self.taken(n, is_leaving).count(0) >= count and self.has_beside(n, j, count, is_leaving)

        return any(
            sum(has_room(n, per) for n in group) >= parts and (rest == 0 or sum(has_room(n, rest) for n in group) > parts)
            for group in groups.values()
        )

    def _power(self) -> list[int]:
        """Power of each site: GPUs in use, GPUs idle beside them, and nodes on which none is used (asleep or idle)."""
        of = self.ground
        out = [0] * len(of.fleet.sites)
        for n, node in enumerate(of.nodes):
            kind = of.kind[node["pool"]]
            used = sum(mask.bit_count() * min(milli, 1000) for _, mask, milli in self.on[n])
            each = kind.sleep_w if used == 0 and of.is_sleep else kind.idle_w
            out[node["site"]] += each * node["num_gpus"] + (kind.busy_w - kind.idle_w) * used // 1000
        return out

    def has_power(self, j: int, p: int, gpus: int, is_borrower: bool) -> bool:
        """Whether the site has the power for a start even where it wakes every node that the job stands on (rule 8)."""
        of = self.ground
        cap_w, kind = of.fleet.sites[of.site[p]].power_cap_w, of.kind[p]
        parts, _, rest = of.shape(j, p, gpus) if gpus else (1, 0, 0)
        wake_w = (kind.idle_w - kind.sleep_w) * of.node_size[p] * (parts + (rest > 0)) if of.is_sleep else 0
        reserve_w = cap_w // 50 if is_borrower and of.is_shares else 0
        draw_w = (kind.busy_w - kind.idle_w) * gpus + wake_w
        return cap_w == 0 or self.power_w[of.site[p]] + draw_w + reserve_w <= cap_w

"""Why a job waits (rule 11): typed reasons that can be checked, and changes that would start it now.

Reads the state and changes nothing in it but the scratch arrays `pick` and `cost`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.core.build import Built
from dure.model.errors import DureError
from dure.policy.kernels import layout as k
from dure.policy.kernels.admit import is_power_claimed, power_wanted_w
from dure.policy.kernels.cycle import first_class
from dure.policy.kernels.nodes import cpu_for, gpu_milli_on, mem_for, net_for
from dure.policy.kernels.place import place, power_needed_w, shape_on
from dure.policy.kernels.quota import LOAN_NOT_IN_FORCE, LOAN_OPEN, has_share, loan_state

#: Members named as holders of a pool's GPUs.
HOLDERS_MAX = 5


class Reason(StrEnum):
    """What keeps a job waiting; the number of the rule is `RULE[reason]`."""

    NEVER = "never"
    RESERVED = "reserved"
    HELD = "held"
    BEHIND = "behind"
    SHARE_USED = "share_used"
    AGREEMENT_LIMIT = "agreement_limit"
    AGREEMENT_NOT_IN_FORCE = "agreement_not_in_force"
    GPUS_BUSY = "gpus_busy"
    FRAGMENTED = "fragmented"
    CPU_OR_MEMORY = "cpu_or_memory"
    CLOSED = "closed"
    RADIO = "radio"
    POWER_CAP = "power_cap"


#: Rule of docs/policy.md behind each reason.
RULE: dict[Reason, int] = {
    Reason.NEVER: 9, Reason.RESERVED: 5, Reason.HELD: 6, Reason.BEHIND: 3, Reason.SHARE_USED: 1, Reason.AGREEMENT_LIMIT: 2,
    Reason.AGREEMENT_NOT_IN_FORCE: 2, Reason.GPUS_BUSY: 1, Reason.FRAGMENTED: 4, Reason.CPU_OR_MEMORY: 4,
    Reason.CLOSED: 7, Reason.POWER_CAP: 8, Reason.RADIO: 10,
}  # fmt: skip

#: Rule behind each kind of hold.
HOLD_RULE = {k.HOLD_RECLAIM: 1, k.HOLD_BACKFILL: 5, k.HOLD_RESERVED: 5, k.HOLD_RANK: RULE[Reason.HELD]}

#: The nearer to a start, the earlier; the headline is the nearest of the pools' reasons.
NEARNESS = (
    Reason.RESERVED, Reason.HELD, Reason.POWER_CAP, Reason.CPU_OR_MEMORY, Reason.CLOSED, Reason.RADIO, Reason.FRAGMENTED, Reason.GPUS_BUSY,
    Reason.SHARE_USED, Reason.BEHIND, Reason.AGREEMENT_LIMIT, Reason.AGREEMENT_NOT_IN_FORCE, Reason.NEVER,
)  # fmt: skip


def _gpus(milli: int) -> str:
    return f"{milli / 1000:g} GPU{'' if milli == 1000 else 's'}"


class NotWaitingError(DureError):
    """An explanation was asked for a job that does not wait."""


@dataclass(frozen=True)
class PoolReason:
    """Why a job does not start in one pool.

    Attributes
    ----------
    facts : mapping of str to int, and to str where it names a job
        What the reason rests on. gpus_busy, fragmented: ``needed_milli``, ``free_milli``. share_used: the same, with
        ``used_milli`` of ``guarantee_milli``. agreement_limit: ``needed_milli``, ``used_milli`` of ``limit_milli``.
        agreement_not_in_force: ``start_ms``, ``end_ms``. power_cap: ``power_w`` drawn now, ``needed_w`` more for
        the job, ``reserve_w`` that it must leave alone, ``cap_w``; where power is being taken back, ``job`` for which.
        cpu_or_memory: ``cpu_milli``, ``mem_mib``, ``net_mbps`` wanted on each of ``nodes`` nodes. held:
        ``missing_nodes`` of ``nodes``, ``promised_ms``. closed, radio: ``needed_milli``, and on ``nodes`` that an operator
        has closed, or radio work has taken, ``free_milli``. reserved: ``begin_ms``. behind: ``job`` that stands first.
    holders : tuple of (member, milli-GPUs in use, of these borrowed)
        Who uses the pool's GPUs, most first.
    """

    pool: str
    reason: Reason
    message: str
    facts: Mapping[str, int | str] = field(default_factory=dict)
    holders: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True)
class Change:
    """Something that would let the job start now. Kinds: fewer_gpus (to), pool (name), grace (to, ms), topology (any), limit (by)."""

    kind: str
    pool: str
    amount: int
    message: str


@dataclass(frozen=True)
class Explanation:
    """Why one job waits.

    Attributes
    ----------
    promised_ms : int
        Moment from the run's start at which its held nodes are to be free; -1: none are held.
    pools : tuple of PoolReason
        One for each pool that the job may use, in its order of preference.
    nearest : PoolReason or None
        Of these, where it is nearest to a start.
    """

    job: int
    reason: Reason
    rule: int
    message: str
    promised_ms: int
    pools: tuple[PoolReason, ...]
    sooner: tuple[Change, ...]
    nearest: PoolReason | None = None


class Explainer:
    """Explanations of one unchanging state; jobs of one class share the work.

    Parameters
    ----------
    built : Built
        The state must be at rest: after a step, before the next.
    job_ids : sequence of str, optional
        What messages and facts call the jobs; without it, their indices.
    closed, withheld : collection of int
        Nodes that an operator has closed, and those of cell sites that radio work has.
    """

    def __init__(
        self, built: Built, job_ids: Sequence[str] | None = None, closed: Collection[int] = (), withheld: Collection[int] = ()
    ) -> None:  # fmt: skip
        self._built, self._state, self._job_ids = built, built.state, job_ids
        self._is_closed = np.zeros(len(built.state.node), np.bool_)
        self._is_closed[list(closed)] = True
        self._is_withheld = np.zeros(len(built.state.node), np.bool_)
        self._is_withheld[list(withheld)] = True
        self._pools_of_class: dict[int, tuple[PoolReason, ...]] = {}
        self._sooner_of_class: dict[int, tuple[Change, ...]] = {}
        self._holders_of: dict[int, tuple[tuple[str, int, int], ...]] = {}

    def explain(self, job: int) -> Explanation:
        """Why job `job` (index into the job table) waits.

        Raises
        ------
        NotWaitingError
            The job runs, has ended or was never submitted, unless it can never run at all.
        """
        s = self._state
        rec = s.job[job]
        c = int(rec["cls"])
        if s.cls[c]["num_pools"] == 0:
            message = "no pool has the GPU type, site, rights and size that it asks for"
            return Explanation(job, Reason.NEVER, RULE[Reason.NEVER], message, -1, (), ())
        if rec["state"] == k.RESERVED:
            return self._reserved(job)
        if rec["state"] != k.PENDING:
            raise NotWaitingError(f"job {job} does not wait")
        if rec["hold"] >= 0:
            return self._held(job, int(rec["hold"]))
        pools = self._reasons(c)
        if c not in self._sooner_of_class:
            self._sooner_of_class[c] = tuple(self._sooner(c))
        sooner = self._sooner_of_class[c]
        nearest = self._nearest(c)
        first = int(s.cls[c]["root"])
        if first != job:
            before = f"job {self._called(first)} of the same shape stands before it"
            message = f"{before}; that one waits because {nearest.message}"
            return Explanation(job, Reason.BEHIND, RULE[Reason.BEHIND], message, -1, pools, sooner, nearest)
        where = nearest.pool if len(pools) == 1 else f"{nearest.pool}, nearest of {len(pools)}"
        message = f"{nearest.message} (pool {where})"
        return Explanation(job, nearest.reason, RULE[nearest.reason], message, -1, pools, sooner, nearest)

    def reason(self, job: int) -> Reason:
        """The reason alone, which costs a part of what `explain` does.

        Raises
        ------
        NotWaitingError
            As of `explain`.
        """
        s = self._state
        rec = s.job[job]
        c = int(rec["cls"])
        if s.cls[c]["num_pools"] == 0 or rec["state"] != k.PENDING or rec["hold"] >= 0:
            return self.explain(job).reason
        if int(s.cls[c]["root"]) != job:
            return Reason.BEHIND
        return self._nearest(c).reason

    def _nearest(self, c: int) -> PoolReason:
        """Where jobs of a class are nearest to a start; a pool of which no node is up is farther than any other."""
        pools = zip(map(int, self._pools_of(c)), self._reasons(c), strict=True)
        return min(pools, key=lambda pair: (not self._is_online(pair[0]), NEARNESS.index(pair[1].reason)))[1]

    def _is_online(self, p: int) -> bool:
        pool = self._state.pool[p]
        return bool((self._state.node["state"][int(pool["node0"]) : int(pool["node1"])] == k.UP).any())

    def _reasons(self, c: int) -> tuple[PoolReason, ...]:
        """Of each pool that jobs of a class may use."""
        if c not in self._pools_of_class:
            self._pools_of_class[c] = tuple(self._in_pool(c, int(p)) for p in self._pools_of(c))
        return self._pools_of_class[c]

    def _called(self, job: int) -> int | str:
        return job if self._job_ids is None else self._job_ids[job]

    def _pools_of(self, c: int) -> Any:
        cls = self._state.cls[c]
        return self._state.cls_pool[int(cls["pool0"]) : int(cls["pool0"] + cls["num_pools"])]

    def _reserved(self, job: int) -> Explanation:
        s = self._state
        begin, h = int(s.job[job]["begin_ms"]), int(s.job[job]["hold"])
        message, facts = "it is reserved for a later moment", {"begin_ms": begin}
        if h >= 0:
            hold = s.hold[h]
            facts |= {"nodes": int(hold["num"]), "missing_nodes": int(hold["missing"])}
            message = f"{message}, nodes held for it: {facts['nodes']}"
        p = int(s.hold[h]["pool"]) if h >= 0 else int(self._pools_of(int(s.job[job]["cls"]))[0])
        pools = (PoolReason(self._built.terms.pools[p].name, Reason.RESERVED, message, facts),)
        return Explanation(job, Reason.RESERVED, RULE[Reason.RESERVED], message, begin, pools, (), pools[0])

    def _held(self, job: int, h: int) -> Explanation:
        s = self._state
        hold = s.hold[h]
        p = int(hold["pool"])
        name = self._built.terms.pools[p].name
        missing, num = int(hold["missing"]), int(hold["num"])
        facts = {"missing_nodes": missing, "nodes": num, "promised_ms": int(hold["start_ms"])}
        message = f"nodes held for it: {num}, of these still in use: {missing}"
        found = PoolReason(name, Reason.HELD, message, facts, self._holders(p))
        rule = HOLD_RULE[int(hold["kind"])]
        power = self._power(p, self._pick_held(hold), False) if missing == 0 else None
        if power:
            reason, message, drawn = power
            found = PoolReason(name, reason, f"the nodes held for it are free, but {message}", {**facts, **drawn})
            rule = RULE[reason]
        return Explanation(
            job, found.reason, rule, f"{found.message} (pool {name})", facts["promised_ms"], (found,), (), found
        )

    def _pick_held(self, hold: Any) -> int:
        """Pick the nodes of a hold; their number."""
        s, n, num = self._state, int(hold["head"]), 0
        while n >= 0:
            s.pick[num] = n, int(s.node[n]["hold_need"])
            n, num = int(s.node[n]["hold_next"]), num + 1
        return num

    def _holders(self, p: int) -> tuple[tuple[str, int, int], ...]:
        if p not in self._holders_of:
            s, names = self._state, self._built.terms.members
            borrowed = s.mp[:, p]["use_b"]
            used = s.mp[:, p]["use_g"] + borrowed
            h = int(s.pool[p]["hold"])
            while h >= 0:
                hold = s.hold[h]
                if hold["kind"] == k.HOLD_RECLAIM:
                    # A claim counts to the share, and nothing runs on it yet.
                    c = int(s.job[hold["job"]]["cls"])
                    used[s.cls[c]["member"]] -= hold["rem"] * gpu_milli_on(s, c, p)
                h = int(hold["next"])
            order = np.argsort(-used, kind="stable")[:HOLDERS_MAX]
            self._holders_of[p] = tuple(
                (names[m].name, int(used[m]), int(borrowed[m])) for m in order if used[m] > 0
            )
        return self._holders_of[p]

    def _refusal(self, c: int, p: int, milli: int) -> tuple[Reason, str, dict[str, int]] | None:
        """Why the member may not use so much of a pool to which it has a right, by share or agreement; None: it may."""
        s = self._state
        m = int(s.cls[c]["member"])
        cell = s.mp[m, p]
        if self._is_own(c, p, milli):
            return None
        state = int(loan_state(s, m, p, milli))
        if state == LOAN_OPEN:
            return None
        ag = s.ag[int(cell["agreement"])]
        name = self._built.terms.agreements[int(cell["agreement"])].name if s.g[0]["is_shares"] else "common"
        if state == LOAN_NOT_IN_FORCE:
            facts = {"start_ms": int(ag["start_ms"]), "end_ms": int(ag["end_ms"])}
            return Reason.AGREEMENT_NOT_IN_FORCE, f"agreement {name} is not in force", facts
        facts = {"used_milli": int(ag["used"]), "limit_milli": int(ag["limit"]), "needed_milli": milli}
        message = f"agreement {name} lends {_gpus(facts['limit_milli'])}, out: {facts['used_milli'] / 1000:g}"
        return Reason.AGREEMENT_LIMIT, message, facts

    def _is_own(self, c: int, p: int, milli: int) -> bool:
        """Whether so much of the pool would still count to the member's guarantee."""
        m = int(self._state.cls[c]["member"])
        return bool(self._state.mp[m, p]["guarantee"] > 0 and has_share(self._state, m, p, milli))

    def _power(self, p: int, num: int, is_borrowed: bool) -> tuple[Reason, str, dict[str, int | str]] | None:
        """The power cap, where it is in the way of the picked nodes; None: it is not."""
        s = self._state
        site_idx = int(s.pool[p]["site"])
        site = s.site[site_idx]
        cap, power = int(site["cap_w"]), int(site["power_w"])
        needed = int(power_needed_w(s, num))
        reserve = int(power_wanted_w(s, p, num, is_borrowed)) - needed
        is_claimed = bool(s.g[0]["is_shares"]) and is_borrowed and bool(is_power_claimed(s, site_idx))
        if is_claimed:
            # To an owner that takes power back borrowers leave all of it.
            reserve = max(reserve, cap - power)
        if cap <= 0 or (power + needed + reserve <= cap and not is_claimed):
            return None
        facts: dict[str, int | str] = {"power_w": power, "needed_w": needed, "reserve_w": reserve, "cap_w": cap}
        message = f"the site draws {power} W of {cap} W, it needs {needed} W more"
        if is_claimed:
            facts["job"] = self._called(int(site["claimant"]))
            message += f", and power is being taken back for job {facts['job']}"
        elif reserve > 0:
            message += f" and must leave {reserve} W alone"
        return Reason.POWER_CAP, message, facts

    def _in_pool(self, c: int, p: int) -> PoolReason:
        s = self._state
        cls, pool = s.cls[c], s.pool[p]
        name = self._built.terms.pools[p].name
        gpus = int(cls["min_gpus"])
        milli = gpus * int(gpu_milli_on(s, c, p))
        refusal = self._refusal(c, p, milli)
        if refusal:
            return PoolReason(name, *refusal)
        num = int(place(s, c, p, gpus))
        if num > 0:
            power = self._power(p, num, not self._is_own(c, p, milli))
            if power:
                return PoolReason(name, *power)
            first = self._called(int(s.cls[first_class(s, int(cls["member"]), p)]["root"]))
            return PoolReason(name, Reason.BEHIND, f"job {first} stands before it", {"job": first})
        shut = self._shut(c, p, milli)
        if shut:
            return shut
        facts = {"needed_milli": milli, "free_milli": int(pool["free_milli"])}
        if pool["free_milli"] < milli:
            message = f"it needs {_gpus(milli)}, free: {facts['free_milli'] / 1000:g}"
            cell = s.mp[int(cls["member"]), p]
            # A member alone has no share to speak of: what it has is all there is.
            is_shared = len(self._built.terms.members) > 1 and cell["guarantee"] > 0
            if is_shared and not self._is_own(c, p, milli):
                share = {"used_milli": int(cell["use_g"]), "guarantee_milli": int(cell["guarantee"])}
                message += f"; of its share of {_gpus(share['guarantee_milli'])} {share['used_milli'] / 1000:g} in use"
                return PoolReason(name, Reason.SHARE_USED, message, facts | share, self._holders(p))
            return PoolReason(name, Reason.GPUS_BUSY, message, facts, self._holders(p))
        parts, per_node = self._shape(c, p)
        cpu, mem, net = self._beside(c, per_node)
        has_gpus, has_rest = self._fitting(c, p, milli)
        in_service = s.node["is_indexed"][int(pool["node0"]) : int(pool["node1"])] == 1
        with_gpus, fitting = int((has_gpus & in_service).sum()), int((has_rest & in_service).sum())
        if with_gpus >= parts > fitting:
            facts = {"cpu_milli": cpu, "mem_mib": mem, "net_mbps": net, "nodes": parts, "nodes_with_gpus": with_gpus}
            message = (
                f"nodes have the GPUs free, and not the {cpu / 1000:g} cores, {mem} MiB and {net} Mbit/s beside them"
            )
            return PoolReason(name, Reason.CPU_OR_MEMORY, message, facts, self._holders(p))
        facts |= {"nodes": parts, "gpus_per_node": per_node, "nodes_that_fit": fitting}
        where = {1: "on one node", 2: "in one rack", 3: "in one block"}.get(int(cls["topology"]), "in the pool")
        message = f"{_gpus(facts['free_milli'])} free, but not {parts} × {per_node} of them {where}"
        return PoolReason(name, Reason.FRAGMENTED, message, facts, self._holders(p))

    def _shape(self, c: int, p: int) -> tuple[int, int]:
        """On how many nodes a job of a class stands in a pool, and with how many GPUs on each."""
        gpus = int(self._state.cls[c]["min_gpus"])
        if gpus == 0:
            return 1, 0
        parts, per_node, _ = shape_on(self._state, c, p, gpus)
        return int(parts), int(per_node)

    def _beside(self, c: int, per_node: int) -> tuple[int, ...]:
        """CPU, memory and network that a class wants on a node beside so many GPUs."""
        count = max(per_node, 1) if self._state.cls[c]["min_gpus"] else 0
        return tuple(int(wanted(self._state, c, count)) for wanted in (cpu_for, mem_for, net_for))

    def _fitting(self, c: int, p: int, milli: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Which of a pool's nodes, in service or not, have the GPUs free that a class wants on one; and all that it wants."""
        s, at = self._state, slice(int(self._state.pool[p]["node0"]), int(self._state.pool[p]["node1"]))
        nodes, (_, per_node) = s.node[at], self._shape(c, p)
        cpu, mem, net = self._beside(c, per_node)
        if s.cls[c]["gpu_milli"] < 1000:
            part = np.where(nodes["free_mask"][:, None] >> np.arange(k.GPUS_MAX) & 1, 1000, 0)
            has_gpus = np.maximum(part, s.gfree[at]).max(axis=1) >= milli
        else:
            has_gpus = nodes["free"] >= per_node
        return has_gpus, has_gpus & (nodes["cpu_free"] >= cpu) & (nodes["mem_free"] >= mem) & (nodes["net_free"] >= net)

    def _shut(self, c: int, p: int, milli: int) -> PoolReason | None:
        """Nodes that an operator has closed or radio work has, where there would be enough that fit with them; None: they change nothing."""
        s, pool = self._state, self._state.pool[p]
        at = slice(int(pool["node0"]), int(pool["node1"]))
        if not (self._is_closed[at].any() or self._is_withheld[at].any()):
            return None
        _, fits = self._fitting(c, p, milli)
        could_do = fits & (s.node["is_indexed"][at] == 1)
        # First what people have done; where that does not suffice, the radio.
        for is_shut, reason, words in (
            (self._is_closed[at], Reason.CLOSED, "an operator has closed"), (self._is_withheld[at], Reason.RADIO, "radio work has"),
        ):  # fmt: skip
            could_do |= fits & is_shut
            if (fits & is_shut).sum() == 0 or could_do.sum() < self._shape(c, p)[0]:
                continue
            nodes = s.node[at][is_shut]
            facts = {"needed_milli": milli, "nodes": len(nodes), "free_milli": int((nodes["num"] * 1000 - nodes["used_milli"]).sum())}
            message = f"it needs {_gpus(milli)}, and {words} {len(nodes)} node{'s' if len(nodes) > 1 else ''} with {_gpus(facts['free_milli'])} free"
            return PoolReason(self._built.terms.pools[p].name, reason, message, facts, self._holders(p))
        return None

    def _has_room(self, c: int, p: int, gpus: int) -> bool:
        """Whether so many GPUs of the class's kind are free in the pool, with their power, whoever may use them."""
        s = self._state
        num = int(place(s, c, p, gpus))
        return num > 0 and self._power(p, num, not self._is_own(c, p, gpus * int(gpu_milli_on(s, c, p)))) is None

    def _first_that_fits(self, c: int, pools: Any, gpus: int) -> int:
        """The first of the pools in which so many GPUs could start at once; -1: none."""
        for p in pools:
            milli = gpus * int(gpu_milli_on(self._state, c, int(p)))
            if not self._refusal(c, int(p), milli) and self._has_room(c, int(p), gpus):
                return int(p)
        return -1

    def _sooner(self, c: int) -> list[Change]:
        """Changes that were found, on this state, to let the head of the class start now; the nearest pools first."""
        s = self._state
        cls = s.cls[c]
        gpus = int(cls["min_gpus"])
        if s.g[0]["backfill"] == k.BACKFILL_NONE or gpus == 0 or cls["gpu_milli"] < 1000:
            return []
        out: list[Change] = []
        names = [pool.name for pool in self._built.terms.pools]
        mine = self._pools_of(c)
        fewer = gpus // 2 if cls["per_node"] == 0 else 0
        while fewer >= 1 and not out:
            p = self._first_that_fits(c, mine, fewer)
            if p >= 0:
                message = f"with {_gpus(fewer * 1000)} it would start now in {names[p]}"
                out.append(Change("fewer_gpus", names[p], fewer, message))
            fewer //= 2
        if cls["topology"] > 0:
            kept = int(cls["topology"])
            cls["topology"] = 0
            try:
                p = self._first_that_fits(c, mine, gpus)
            finally:
                cls["topology"] = kept
            if p >= 0:
                out.append(Change("topology", names[p], 0, f"without its topology it would start now in {names[p]}"))
        is_barred = (s.need[c] == k.NEED_NEVER) & (s.mp[int(cls["member"])]["right"] > 0)
        p = self._first_that_fits(c, np.flatnonzero(is_barred & (s.pool["per_node"] >= cls["per_node"])), gpus)
        if p >= 0:
            vacate_ms = self._built.register.vacate_ms(p)
            if self._built.register.grace_ms(c) > vacate_ms:
                message = f"were it gone within {vacate_ms} ms of being told to leave, it could start now in {names[p]}"
                out.append(Change("grace", names[p], vacate_ms, message))
            else:
                out.append(Change("pool", names[p], 0, f"were {names[p]} allowed to it, it would start there now"))
        for p in map(int, mine):
            refusal = self._refusal(c, p, gpus * 1000)
            if refusal and refusal[0] is Reason.AGREEMENT_LIMIT and self._has_room(c, p, gpus):
                by = refusal[2]["used_milli"] + gpus * 1000 - refusal[2]["limit_milli"]
                message = f"with {_gpus(by)} more under the agreement it would start now in {names[p]}"
                out.append(Change("limit", names[p], by, message))
                break
        return out

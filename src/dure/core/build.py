"""Build the policy's state from a fleet, its terms and the jobs that may come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.core.eligible import PoolFacts
from dure.core.register import Register
from dure.model.errors import InputError
from dure.model.fleet import Fleet
from dure.model.jobs import Trace
from dure.model.terms import NO_AGREEMENT, Terms, single_member_terms
from dure.policy.config import Policy
from dure.policy.kernels import layout as k
from dure.policy.kernels.arrays import aligned_zeros
from dure.policy.kernels.bits import make_bits
from dure.policy.kernels.compile import kernel
from dure.policy.kernels.layout import State
from dure.policy.kernels.nodes import count_clear, index, node_power_w
from dure.policy.kernels.placement import FULL_MILLI


@dataclass(frozen=True)
class Built:
    """A state and what its indexes mean.

    Attributes
    ----------
    register : Register
        Takes in further jobs.
    terms : Terms
        As the policy applies them: with one queue where it has no shares.
    member_of : ndarray of int32
        Queue of each of the trace's members.
    notes : list of str
        What was left out of consideration, for the report.
    """

    register: Register
    terms: Terms
    member_of: NDArray[Any]
    notes: list[str]

    @property
    def state(self) -> State:
        """The state as it is now; another object after the register has grown."""
        return self.register.state


def policy_terms(trace: Trace, fleet: Fleet, terms: Terms | None, policy: Policy) -> Terms:
    """The terms in force under a policy: the alliance's own, or one common queue.

    Raises
    ------
    InputError
        A member of the trace is not one of the terms' members.
    """
    if terms is None:
        sizes = np.bincount(fleet.nodes["pool"], weights=fleet.nodes["num_gpus"], minlength=1).astype(int)
        terms = single_member_terms(sizes.tolist(), trace.members)
    elif policy.is_shares or policy.order == k.FAIR:
        known = {m.name for m in terms.members}
        for name in trace.members:
            if name not in known:
                raise InputError(f"member {name!r} of the trace is not in the alliance", trace.source, field="member")
    return terms


def _speeds(trace: Trace, fleet: Fleet) -> NDArray[Any]:
    """Speed of each kind of work on each type, in 1/1000; row 0: of work of which nothing is known."""
    own = [max(t.speed_milli, 1) for t in fleet.gpu_types] or [1000]
    rows = [own]
    for profile in trace.profiles:
        known = {name.lower(): max(milli, 1) for name, milli in profile.speed_milli.items()}
        rows.append([known.get(t.name.lower(), milli) for t, milli in zip(fleet.gpu_types, own, strict=False)] or own)
    return np.array(rows, np.int64)


def _pool_table(fleet: Fleet, terms: Terms, policy: Policy, pool: NDArray[Any]) -> None:
    nodes = fleet.nodes
    for p in range(len(terms.pools)):
        at = np.flatnonzero(nodes["pool"] == p)
        if len(at) == 0:
            pool[p]["node0"] = pool[p]["node1"] = 0
            continue
        if at[-1] - at[0] + 1 != len(at):
            raise InputError(f"nodes of pool {terms.pools[p].name!r} are not in one range", field="pool")
        rec, mine = pool[p], nodes[at]
        rec["node0"], rec["node1"] = at[0], at[-1] + 1
        rec["rack0"], rec["rack1"] = mine["rack"].min(), mine["rack"].max() + 1
        rec["block0"], rec["block1"] = mine["block"].min(), mine["block"].max() + 1
        rec["rack_nodes"] = np.bincount(mine["rack"] - mine["rack"].min()).max()
        rec["block_nodes"] = np.bincount(mine["block"] - mine["block"].min()).max()
        rec["per_node"] = mine["num_gpus"].max()
        rec["is_plain"] = int((mine["num_gpus"] == rec["per_node"]).all())
        rec["site"] = mine["site"][0]
        kinds = np.unique(mine["gpu_type"])
        rec["gpu_type"] = kinds[-1]
        kind = fleet.gpu_types[max(int(kinds[-1]), 0)]
        rec["busy_w"], rec["idle_w"], rec["sleep_w"] = kind.busy_w, kind.idle_w, kind.sleep_w
        rec["slices"] = kind.mig_slices
        # Nodes that come and go by the hour are no spares.
        is_cell = fleet.sites[int(rec["site"])].cells is not None
        rec["spares_target"] = 0 if is_cell else len(at) * policy.spares_ppm // 1_000_000


def build_state(fleet: Fleet, terms: Terms | None, trace: Trace, policy: Policy) -> Built:
    """Make a state in which nothing runs yet and every job of the trace is known but not submitted.

    Raises
    ------
    InputError
        A job asks for more than the fleet can ever give, or the tables do not fit together.
    """
    notes: list[str] = []
    terms = policy_terms(trace, fleet, terms, policy)
    nodes = fleet.nodes
    num_nodes = len(nodes)
    num_members, num_pools = len(terms.members), len(terms.pools)

    g = np.zeros(1, k.G)
    policy.fill(g[0])
    g["next_rerank_ms"] = policy.rerank_ms
    # A claim is late only beyond the time that its victims need to write their checkpoints.
    g["breach_slack_ms"] = policy.save_ms
    g["free_seg"] = -1
    g["learn_at"] = k.NEVER_MS

    pool = np.zeros(num_pools, k.POOL)
    _pool_table(fleet, terms, policy, pool)
    pool["hold"] = pool["hold_last"] = pool["gain"] = -1
    pool["home"] = [p.home for p in terms.pools]

    guarantee = terms.guarantee_gpus * 1000 if policy.is_shares else np.zeros((num_members, num_pools), np.int64)
    mp = np.zeros((num_members, num_pools), k.MP)
    mp["guarantee"] = guarantee
    mp["over"] = mp["over_last"] = -1
    mp["short_milli"] = k.NEVER_MS
    mp["agreement"] = terms.agreement if policy.is_shares else NO_AGREEMENT
    if policy.is_shares:
        mp["right"] = (terms.agreement >= 0) | (guarantee > 0)
    else:
        # No shares: everyone may use everything, under one agreement without limit.
        mp["right"] = 1
        mp["agreement"] = 0
    own = (guarantee > 0) & (mp["agreement"] < 0)
    mp["right"] |= own
    guar = [np.flatnonzero(guarantee[:, p] > 0) for p in range(num_pools)]
    ends = np.cumsum([0] + [len(x) for x in guar])
    pool["guar0"], pool["guar1"] = ends[:-1], ends[1:]

    ag = np.zeros(max(len(terms.agreements), 1) if policy.is_shares else 1, k.AGREEMENT)
    if policy.is_shares:
        for i, a in enumerate(terms.agreements):
            ag[i] = (a.limit_gpus * 1000, 0, a.notice_ms, a.start_ms, a.end_ms, k.NEVER_MS, 0, 0, 0)
    else:
        ag[0] = (1 << 60, 0, policy.own_notice_ms, 0, k.NEVER_MS, k.NEVER_MS, 0, 0, 0)
    g["notice_max_ms"] = max(int(ag["notice_ms"].max()), policy.own_notice_ms)
    pools_of = [np.flatnonzero((mp["agreement"] == a).any(axis=0)) for a in range(len(ag))]
    ends = np.cumsum([0] + [len(x) for x in pools_of])
    ag["pool0"], ag["pool1"] = ends[:-1], ends[1:]

    member = np.zeros(num_members, k.MEMBER)
    member["head"] = -1
    member["weight_milli"] = [max(m.weight_milli, 1) for m in terms.members]
    member["share_milli"] = guarantee.sum(axis=1)

    node = aligned_zeros((num_nodes,), k.NODE)
    for name in ("pool", "rack", "block"):
        node[name] = nodes[name]
    node["num"] = node["free"] = nodes["num_gpus"]
    if num_nodes and nodes["num_gpus"].max() > k.GPUS_MAX:
        raise InputError(f"a node has more than {k.GPUS_MAX} GPUs", field="num_gpus")
    node["free_mask"] = (1 << nodes["num_gpus"].astype(np.int64)) - 1
    node["cpu_free"] = node["cpu_all"] = nodes["cpu_milli"]
    node["mem_free"] = node["mem_all"] = nodes["mem_mib"]
    node["net_free"] = node["net_all"] = np.where(nodes["net_mbps"] > 0, nodes["net_mbps"], 1 << 40)
    node["seg"] = node["hold"] = node["hold_next"] = node["reserved_for"] = -1
    node["state"] = np.where(nodes["online_ms"] > 0, k.OFFLINE, k.UP)

    rack = _domains(nodes, "rack", None)
    block = _domains(nodes, "block", "rack")

    even_cpu = np.full(num_pools, 1 << 62, np.int64)
    has = node["num"] > 0
    np.minimum.at(even_cpu, node["pool"][has], node["cpu_all"][has] // node["num"][has])
    pool["even_cpu"] = even_cpu
    speed = _speeds(trace, fleet)
    if not policy.is_shares and len(fleet.gpu_types) <= 1 and not trace.profiles:
        speed[:] = 1000
    hold = np.zeros(num_nodes + 2, k.HOLD_REC)
    hold["next"] = np.arange(1, len(hold) + 1)
    hold["next"][-1] = -1
    hold["job"] = -1

    site = np.zeros(len(fleet.sites), k.SITE)
    site["claimant"] = -1
    site["short_w"] = k.NEVER_MS
    site["cap_w"] = [s.power_cap_w for s in fleet.sites]
    arrays = {
        "g": g, "job": np.zeros(0, k.JOB), "cls": np.zeros(0, k.CLS), "cls_pool": np.zeros(0, np.int64),
        "need": np.zeros((0, num_pools), np.int8), "came": np.zeros(0, np.int64), "member": member,
        "order": np.arange(num_members, dtype=np.int64), "pool": pool,
        "guar": np.concatenate([*guar, np.zeros(1, np.int64)]).astype(np.int64), "mp": mp,
        "first_fit": np.full((num_members, num_pools, k.ROOM_CLASSES), -1, np.int64), "ag": ag,
        "ag_pool": np.concatenate([*pools_of, np.zeros(1, np.int64)]).astype(np.int64), "node": node,
        "gfree": np.zeros((num_nodes, k.GPUS_MAX), np.int16), "seg": np.zeros(0, k.SEG), "rack": rack, "block": block,
        "bits": make_bits(k.NUM_ROWS, num_nodes), "rack_bits": make_bits(k.RACK_ROWS, len(rack)),
        "block_bits": make_bits(k.BLOCK_ROWS, len(block)), "hold": hold,
        "dec": np.zeros(max(1 << 16, 2 * fleet.num_gpus + 2 * num_nodes), k.DECISION),
        "hist": np.zeros((1, k.NEWEST + 1), np.int32), "waits": np.zeros((num_members, k.NUM_WAITS), np.int32),
        "site": site, "project": np.zeros(0, k.PROJECT),
        "speed": speed, "scaling": np.array([1000, *(round(1000 * each.scaling) for each in trace.profiles)], np.int64),
        "pick": np.zeros((num_nodes + 2, 2), np.int64), "dirty": np.zeros(num_pools + 1, np.int64),
        "ready": np.zeros(num_nodes + 2, np.int64), "cost": np.zeros(num_nodes, np.int64),
        "lend": np.zeros((num_members, num_members, 3), np.int64), "shape": np.zeros(0, k.SHAPE),
        "score": np.zeros((0, num_nodes), k.SCORE), "target": np.zeros((k.TARGET_MAX, 5)),
        "outlook": np.zeros(FULL_MILLI + 2), "gpu_free": np.zeros((2, k.GPUS_MAX), np.int32),
    }  # fmt: skip
    for i in range(num_nodes):
        if node[i]["state"] == k.UP:
            p = int(node[i]["pool"])
            if pool[p]["spares"] < pool[p]["spares_target"] and i >= pool[p]["node1"] - pool[p]["spares_target"]:
                node[i]["state"] = k.SPARE
                pool[p]["spares"] += 1
            g["online_milli"] += int(node[i]["num"]) * 1000
    facts = PoolFacts(fleet, policy, mp, ag, pool, node, speed, notes)
    register = Register(arrays, facts, terms, policy)
    register.add(trace)
    index_all(register.state)
    return Built(register, terms, register.queue_of(trace), notes)


@kernel
def index_all(S: State) -> None:
    """Fill the free indexes and the sites' power of a state in which nothing runs."""
    for n in range(S.node.shape[0]):
        index(S, n)
        count_clear(S, n)
        S.site[S.pool[S.node[n].pool].site].power_w += node_power_w(S, n)


def _domains(nodes: NDArray[Any], level: str, child: str | None) -> NDArray[Any]:
    """Ranges of nodes (and of children) of each rack or block."""
    num = int(nodes[level].max()) + 1 if len(nodes) else 0
    out = np.zeros(num, k.DOMAIN)
    change = np.flatnonzero(np.diff(nodes[level]) != 0) + 1
    starts = np.concatenate([[0], change])
    stops = np.concatenate([change, [len(nodes)]])
    ids = nodes[level][starts]
    if len(np.unique(ids)) != len(ids):
        raise InputError(f"nodes are not sorted by {level}", field=level)
    out["node0"][ids], out["node1"][ids] = starts, stops
    out["pool"][ids] = nodes["pool"][starts]
    if child:
        out["child0"][ids] = nodes[child][starts]
        out["child1"][ids] = nodes[child][stops - 1] + 1
    return out


def too_large(built: Built, trace: Trace) -> NDArray[Any]:
    """Indexes of jobs that no pool could ever take (shape, right, type or site)."""
    none = built.state.cls["num_pools"] == 0
    return np.flatnonzero(none[built.state.job["cls"][: len(trace.jobs)]])

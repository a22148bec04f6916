"""Build the policy's state from a fleet, its terms and the jobs that may come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.model.errors import InputError
from dure.model.fleet import Fleet
from dure.model.jobs import Trace
from dure.model.terms import NO_AGREEMENT, Terms, single_member_terms
from dure.policy.config import CLAIRVOYANT, Policy
from dure.policy.kernels import layout as k
from dure.policy.kernels.bits import make_bits
from dure.policy.kernels.compile import kernel
from dure.policy.kernels.expected import SEEN_MIN
from dure.policy.kernels.layout import State
from dure.policy.kernels.nodes import count_clear, index, node_power_w
from dure.policy.kernels.place import least_part
from dure.policy.kernels.placement import FULL_MILLI

#: Scores that are kept at most, 16 bytes each; shapes beyond are placed by best fit.
SCORES_MAX = 1 << 23

_CLASS_KEYS = (
    "member", "project", "num_gpus", "min_gpus", "max_gpus", "gpus_per_node", "gpu_milli", "cpu_milli", "mem_mib",
    "net_mbps", "type_mask", "site_mask", "priority", "topology", "profile",
)  # fmt: skip


@dataclass(frozen=True)
class Built:
    """A state and what its indexes mean.

    Attributes
    ----------
    state : State
    terms : Terms
        As the policy applies them: with one queue where it has no shares.
    member_of : ndarray of int32
        Queue of each of the trace's members.
    notes : list of str
        What was left out of consideration, for the report.
    """

    state: State
    terms: Terms
    member_of: NDArray[Any]
    notes: list[str]


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


def _member_map(trace: Trace, terms: Terms, policy: Policy) -> NDArray[Any]:
    if not policy.is_shares and policy.order != k.FAIR:
        return np.zeros(len(trace.members), np.int32)
    where = {m.name: i for i, m in enumerate(terms.members)}
    return np.array([where[name] for name in trace.members], np.int32)


def _speeds(trace: Trace, fleet: Fleet) -> NDArray[Any]:
    """Speed of each kind of work on each type, in 1/1000; row 0: of work of which nothing is known."""
    own = [max(t.speed_milli, 1) for t in fleet.gpu_types] or [1000]
    rows = [own]
    for profile in trace.profiles:
        known = {name.lower(): max(milli, 1) for name, milli in profile.speed_milli.items()}
        rows.append([known.get(t.name.lower(), milli) for t, milli in zip(fleet.gpu_types, own, strict=False)] or own)
    return np.array(rows, np.int64)


def _type_mask(trace: Trace, fleet: Fleet, notes: list[str]) -> NDArray[Any]:
    """For each bit of the trace's type mask, the fleet's types of that name."""
    names = {t.name.lower(): i for i, t in enumerate(fleet.gpu_types)}
    out = np.full(max(len(trace.gpu_types), 1), -1, np.int64)
    for i, name in enumerate(trace.gpu_types):
        out[i] = names.get(name.lower(), -1)
    if trace.gpu_types and (out < 0).all():
        notes.append("The fleet has none of the trace's GPU types; type constraints are not applied.")
    return out


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
        rec["block_nodes"] = np.bincount(mine["block"] - mine["block"].min()).max()
        rec["per_node"] = mine["num_gpus"].max()
        rec["is_plain"] = int((mine["num_gpus"] == rec["per_node"]).all())
        rec["site"] = mine["site"][0]
        kinds = np.unique(mine["gpu_type"])
        rec["gpu_type"] = kinds[-1]
        kind = fleet.gpu_types[max(int(kinds[-1]), 0)]
        rec["busy_w"], rec["idle_w"], rec["sleep_w"] = kind.busy_w, kind.idle_w, kind.sleep_w
        rec["slices"] = kind.mig_slices
        rec["spares_target"] = len(at) * policy.spares_ppm // 1_000_000


def build_state(
    fleet: Fleet, terms: Terms | None, trace: Trace, policy: Policy, *, num_jobs_max: int | None = None
) -> Built:
    """Make a state in which nothing runs yet and every job of the trace is known but not submitted.

    Parameters
    ----------
    num_jobs_max : int, optional
        Room for jobs; default the trace's.

    Raises
    ------
    InputError
        A job asks for more than the fleet can ever give, or the tables do not fit together.
    """
    notes: list[str] = []
    terms = policy_terms(trace, fleet, terms, policy)
    member_of = _member_map(trace, terms, policy)
    jobs, nodes = trace.jobs, fleet.nodes
    num_jobs, num_nodes = num_jobs_max or len(jobs), len(nodes)
    num_members, num_pools = len(terms.members), len(terms.pools)

    g = np.zeros(1, k.G)
    policy.fill(g[0])
    # A claim is late only beyond the time that its victims need to write their checkpoints.
    g["breach_slack_ms"] = policy.save_ms
    g["num_jobs"] = len(jobs)

    pool = np.zeros(num_pools, k.POOL)
    _pool_table(fleet, terms, policy, pool)
    pool["hold"] = pool["gain"] = -1
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

    node = np.zeros(num_nodes, k.NODE)
    for name in ("pool", "rack", "block"):
        node[name] = nodes[name]
    node["num"] = node["free"] = nodes["num_gpus"]
    if num_nodes and nodes["num_gpus"].max() > k.GPUS_MAX:
        raise InputError(f"a node has more than {k.GPUS_MAX} GPUs", field="num_gpus")
    node["free_mask"] = (1 << nodes["num_gpus"].astype(np.int64)) - 1
    node["cpu_free"] = node["cpu_all"] = nodes["cpu_milli"]
    node["mem_free"] = node["mem_all"] = nodes["mem_mib"]
    node["net_free"] = node["net_all"] = np.where(nodes["net_mbps"] > 0, nodes["net_mbps"], 1 << 40)
    node["seg"] = node["hold"] = node["hold_next"] = -1
    node["state"] = np.where(nodes["online_ms"] > 0, k.OFFLINE, k.UP)

    rack = _domains(nodes, "rack", None)
    block = _domains(nodes, "block", "rack")

    cls_of, cls, uniq = _classes(trace, member_of, policy)
    speed = _speeds(trace, fleet)
    if not policy.is_shares and len(fleet.gpu_types) <= 1 and not trace.profiles:
        speed[:] = 1000
    cls_pool = _eligible(trace, fleet, terms, policy, cls, uniq, mp, ag, pool, node, speed, notes)

    job = np.zeros(num_jobs, k.JOB)
    n = len(jobs)
    job["submit_ms"][:n] = jobs["submit_ms"]
    job["ckpt_ms"][:n] = jobs["checkpoint_ms"]
    job["limit_ms"][:n] = jobs["limit_ms"]
    job["begin_ms"][:n] = jobs["begin_ms"]
    job["oracle_ms"][:n] = jobs["duration_ms"] if policy.order in CLAIRVOYANT else -1
    job["cls"][:n] = cls_of
    for name in ("first_start_ms", "claim_ms", "claim_from_ms", "end_ms", "promise_ms"):
        job[name] = -1
    for name in ("seg", "hold", "pool", "child", "sibling", "over_prev", "over_next", "cause"):
        job[name] = -1
    num_keys = _history_keys(trace, job, n)

    seg = np.zeros(_num_segments(jobs, fleet), k.SEG)
    seg["next"] = np.arange(1, len(seg) + 1)
    seg["next"][-1] = -1
    hold = np.zeros(num_nodes + 2, k.HOLD_REC)
    hold["next"] = np.arange(1, len(hold) + 1)
    hold["next"][-1] = -1
    hold["job"] = -1

    site = np.zeros(len(fleet.sites), k.SITE)
    site["claimant"] = -1
    site["short_w"] = k.NEVER_MS
    site["cap_w"] = [s.power_cap_w for s in fleet.sites]
    num_projects = max(len(trace.projects), 1)
    project = np.zeros(num_projects, k.PROJECT)
    project["weight_milli"] = 1000

    shape, num_rows = _shapes(cls, uniq, cls_pool, pool, node, _type_mask(trace, fleet, []))
    g["learn_at"] = SEEN_MIN if num_rows else k.NEVER_MS
    state = State(
        g=g, job=job, cls=cls, cls_pool=cls_pool,
        need=np.full((len(cls), num_pools), k.NEED_NEVER, np.int8), came=np.zeros(len(cls), np.int64), member=member,
        order=np.arange(num_members, dtype=np.int64), pool=pool,
        guar=np.concatenate([*guar, np.zeros(1, np.int64)]).astype(np.int64), mp=mp, ag=ag,
        ag_pool=np.concatenate([*pools_of, np.zeros(1, np.int64)]).astype(np.int64), node=node,
        gfree=np.zeros((num_nodes, k.GPUS_MAX), np.int16), seg=seg, rack=rack, block=block,
        bits=make_bits(k.NUM_ROWS, num_nodes), rack_bits=make_bits(k.RACK_ROWS, len(rack)), hold=hold,
        dec=np.zeros(max(1 << 16, 2 * fleet.num_gpus + 2 * num_nodes), k.DECISION),
        hist=np.zeros((num_keys, k.NUM_BUCKETS + 1), np.int32), site=site, project=project, speed=speed,
        pick=np.zeros((num_nodes + 2, 2), np.int64), dirty=np.zeros(num_pools + 1, np.int64),
        ready=np.zeros(num_nodes + 2, np.int64), cost=np.zeros(num_nodes, np.int64),
        lend=np.zeros((num_members, num_members, 3), np.int64), shape=shape,
        score=np.zeros((max(num_rows, 1), num_nodes), k.SCORE), target=np.zeros((k.TARGET_MAX, 5)),
        outlook=np.zeros(FULL_MILLI + 2), gpu_free=np.zeros((2, k.GPUS_MAX), np.int32),
    )  # fmt: skip
    for i in range(num_nodes):
        if node[i]["state"] == k.UP:
            p = int(node[i]["pool"])
            if pool[p]["spares"] < pool[p]["spares_target"] and i >= pool[p]["node1"] - pool[p]["spares_target"]:
                node[i]["state"] = k.SPARE
                pool[p]["spares"] += 1
            g["online_milli"] += int(node[i]["num"]) * 1000
    index_all(state)
    return Built(state, terms, member_of, notes)


@kernel
def index_all(S: State) -> None:
    """Fill the free indexes, the sites' power and the classes' needs of a state in which nothing runs."""
    for c in range(S.cls.shape[0]):
        for i in range(S.cls[c].pool0, S.cls[c].pool0 + S.cls[c].num_pools):
            S.need[c, S.cls_pool[i]] = least_part(S, c, S.cls_pool[i])
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


def _classes(trace: Trace, member_of: NDArray[Any], policy: Policy) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Shapes of jobs: class of each job, the class table, and the keys that make the classes."""
    jobs = trace.jobs
    table = np.zeros(len(jobs), [(name, np.int64) for name in _CLASS_KEYS])
    for name in _CLASS_KEYS:
        table[name] = jobs[name].view(np.int64) if jobs[name].dtype == np.uint64 else jobs[name]
    table["member"] = member_of[jobs["member"]] if len(jobs) else 0
    if not policy.is_shares:
        table["project"] = 0
        table["priority"] = 0
    uniq, cls_of = _unique_rows(table)
    cls = np.zeros(len(uniq), k.CLS)
    for name in ("member", "project", "num_gpus", "min_gpus", "max_gpus", "gpu_milli", "priority", "topology"):
        cls[name] = uniq[name]
    gpus = uniq["num_gpus"]
    for short, name in (("cpu", "cpu_milli"), ("mem", "mem_mib"), ("net", "net_mbps")):
        cls[f"{short}_base"] = np.where(gpus == 0, uniq[name], 0)
        cls[f"{short}_each"] = np.where(gpus > 0, uniq[name] // np.maximum(gpus, 1), 0)
    cls["speed"] = uniq["profile"] + 1
    cls["per_node"] = uniq["gpus_per_node"]
    cls["root"] = cls["prev"] = cls["next"] = -1
    return cls_of.astype(np.int32), cls, uniq


def _shapes(
    cls: NDArray[Any], uniq: NDArray[Any], cls_pool: NDArray[Any], pool: NDArray[Any], node: NDArray[Any],
    kinds: NDArray[Any],
) -> tuple[NDArray[Any], int]:  # fmt: skip
    """What the classes ask of one node, and for how many shapes scores are kept; marks the pools in which they are.

    Scored are the places of jobs that share GPUs or need none; and of all jobs where some want more CPU for each GPU
    than a node has. Elsewhere best fit by free GPUs loses nothing.
    """
    most = max(int(pool["per_node"].max(initial=0)), 1)
    table = np.zeros(len(cls), [(name, np.int64) for name in ("cpu", "gpus", "milli", "mask")])
    table["gpus"] = np.where(cls["per_node"] > 0, cls["per_node"], np.minimum(cls["num_gpus"], most))
    table["cpu"] = cls["cpu_base"] + cls["cpu_each"] * table["gpus"]
    table["milli"] = np.where(cls["num_gpus"] > 0, cls["gpu_milli"], 0)
    everything = (1 << 50) - 1  # exact as a float
    for c, asked in enumerate(uniq["type_mask"]):
        allowed = [int(kinds[b]) for b in range(len(kinds)) if asked >> b & 1 and kinds[b] >= 0]
        table["mask"][c] = sum(1 << t for t in allowed) if asked and (kinds >= 0).any() else everything
    rows, of = _unique_rows(table)
    shape = np.zeros(max(len(rows), 1), k.SHAPE)
    shape["row"] = -1
    for name in ("cpu", "gpus", "milli", "mask"):
        shape[name][: len(rows)] = rows[name]
    cls["shape"] = of
    even = np.full(len(pool), 1 << 62, np.int64)
    has = node["num"] > 0
    np.minimum.at(even, node["pool"][has], node["cpu_all"][has] // node["num"][has])
    num_rows, most_rows = 0, max(SCORES_MAX // max(len(node), 1), 1)
    for c in range(len(cls)):
        mine = cls_pool[int(cls[c]["pool0"]) : int(cls[c]["pool0"] + cls[c]["num_pools"])]
        is_sharing = cls[c]["num_gpus"] == 0 or cls[c]["gpu_milli"] < FULL_MILLI
        pool["scored"][mine] |= np.where(cls[c]["cpu_each"] > even[mine], k.SCORED_ALL, k.SCORED_SHARING * is_sharing)
    for c in range(len(cls)):
        mine = cls_pool[int(cls[c]["pool0"]) : int(cls[c]["pool0"] + cls[c]["num_pools"])]
        at = int(of[c])
        is_single = cls[c]["num_gpus"] == shape[at]["gpus"]
        is_sharing = cls[c]["num_gpus"] == 0 or cls[c]["gpu_milli"] < FULL_MILLI
        kind = k.SCORED_ALL | k.SCORED_SHARING * is_sharing
        if is_single and shape[at]["row"] < 0 and (pool["scored"][mine] & kind).any() and num_rows < most_rows:
            shape[at]["row"] = num_rows
            num_rows += 1
    return shape, num_rows


def _unique_rows(table: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Distinct rows in order of first appearance, and the row of each entry; by a 64-bit hash, checked."""
    mix = np.zeros(len(table), np.uint64)
    with np.errstate(over="ignore"):
        for name in table.dtype.names or ():
            mix = (mix ^ table[name].view(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
            mix ^= mix >> np.uint64(29)
    _, first, inverse = np.unique(mix, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    rows, of = table[first[order]], place[inverse]
    if not (rows[of] == table).all():
        rows, of = np.unique(table, return_inverse=True)
    return rows, of


def _eligible(
    trace: Trace, fleet: Fleet, terms: Terms, policy: Policy, cls: NDArray[Any], uniq: NDArray[Any],
    mp: NDArray[Any], ag: NDArray[Any], pool: NDArray[Any], node: NDArray[Any],
    speed: NDArray[Any], notes: list[str],
) -> NDArray[Any]:  # fmt: skip
    """The pools that each class may ever use, in order of preference: own share first, then speed, then id."""
    kinds = _type_mask(trace, fleet, notes)
    pool_type = pool["gpu_type"].astype(np.int64)
    pool_site_bit = np.uint64(1) << pool["site"].astype(np.uint64)
    size = np.zeros(len(pool), np.int64)
    np.add.at(size, fleet.nodes["pool"], fleet.nodes["num_gpus"].astype(np.int64))
    cpu, mem, net = (np.zeros(len(pool), np.int64) for _ in range(3))
    for most, name in ((cpu, "cpu_all"), (mem, "mem_all"), (net, "net_all")):
        np.maximum.at(most, fleet.nodes["pool"], node[name])
    node_gpus = pool["per_node"]
    rack_gpus, rack_nodes = _widest(fleet, pool, "rack")
    block_gpus, block_nodes = _widest(fleet, pool, "block")
    pool_nodes = pool["node1"] - pool["node0"] - pool["spares_target"]
    size = size - pool["spares_target"] * pool["per_node"]
    cap_w = np.array([fleet.sites[i].power_cap_w for i in pool["site"]], np.int64)
    standby = (pool["sleep_w"] if policy.is_sleep else pool["idle_w"]) * size
    base_w = np.bincount(pool["site"], weights=standby, minlength=len(fleet.sites))[pool["site"]].astype(np.int64)
    # Borrowers leave a fiftieth of the cap alone (kernels.admit.power_wanted_w).
    cap_w = cap_w - cap_w // 50
    wake_w = (pool["idle_w"] - pool["sleep_w"]) * (pool["per_node"] if policy.is_sleep else 0)
    lists: list[NDArray[Any]] = []
    ranks = [np.lexsort((np.arange(len(pool)), -row[np.maximum(pool_type, 0)])) for row in speed]
    total = 0
    for c in range(len(cls)):
        rec, m = cls[c], int(cls[c]["member"])
        ok = mp["right"][m] > 0
        types = int(uniq["type_mask"][c])
        if types and (kinds >= 0).any():
            allowed = [int(kinds[b]) for b in range(len(kinds)) if types >> b & 1]
            ok &= np.isin(pool_type, allowed)
        sites = uniq["site_mask"][c : c + 1].view(np.uint64)[0]
        if sites:
            ok &= (pool_site_bit & sites) != 0
        gpus, per = int(rec["num_gpus"]), int(rec["per_node"])
        least = min(int(rec["min_gpus"]), gpus)
        ok &= (size >= least) & (pool["per_node"] >= per)
        if gpus > 0:
            share = np.minimum(np.where(per > 0, per, least), pool["per_node"])
            ok &= (
                (share > 0)
                & (cpu >= rec["cpu_each"] * share)
                & (mem >= rec["mem_each"] * share)
                & (net >= rec["net_each"] * share)
            )
            widest = {1: node_gpus, 2: rack_gpus, 3: block_gpus}.get(int(rec["topology"]))
            if widest is not None:
                ok &= widest >= least
            if rec["topology"] == 1 and 0 < per < least:
                ok[:] = False
            count = {2: rack_nodes, 3: block_nodes}.get(int(rec["topology"]), pool_nodes)
            ok &= -(-least // np.maximum(share, 1)) <= count
            room = np.where(mp["agreement"][m] >= 0, ag["limit"][mp["agreement"][m]], size * 1000)
            ok &= np.maximum(room, mp["guarantee"][m]) >= least * int(rec["gpu_milli"])
            ok &= (cap_w == 0) | (base_w + least * (pool["busy_w"] - pool["idle_w"]) + wake_w * least <= cap_w)
        else:
            ok &= (cpu >= rec["cpu_base"]) & (mem >= rec["mem_base"]) & (net >= rec["net_base"])
        limit = np.where(mp["agreement"][m] >= 0, 1, 0)
        mine = [p for p in ranks[int(rec["speed"])] if ok[p]]
        mine.sort(key=lambda p: 0 if mp["guarantee"][m, p] > 0 else 1 + int(limit[p] == 0))
        rec["pool0"], rec["num_pools"] = total, len(mine)
        total += len(mine)
        lists.append(np.array(mine, np.int64))
    return np.concatenate([*lists, np.zeros(1, np.int64)])


def _widest(fleet: Fleet, pool: NDArray[Any], level: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Most GPUs and most nodes of a rack or block of each pool."""
    nodes = fleet.nodes
    gpus = np.bincount(nodes[level], weights=nodes["num_gpus"]).astype(np.int64)
    count = np.bincount(nodes[level]).astype(np.int64)
    out = np.zeros((2, len(pool)), np.int64)
    np.maximum.at(out[0], nodes["pool"], gpus[nodes[level]])
    np.maximum.at(out[1], nodes["pool"], count[nodes[level]])
    return out[0], out[1]


def _history_keys(trace: Trace, job: NDArray[Any], n: int) -> int:
    """Rows of the run-time history: 0 all jobs, then (member, size), then (user, size)."""
    jobs = trace.jobs
    size = np.ceil(np.log2(np.maximum(jobs["num_gpus"], 1))).astype(np.int64)
    member = jobs["member"].astype(np.int64) * 64 + size
    user = jobs["user"].astype(np.int64) * 64 + size
    _, by_member = np.unique(member, return_inverse=True)
    _, by_user = np.unique(user, return_inverse=True)
    num_member = int(by_member.max()) + 1 if n else 0
    num_user = int(by_user.max()) + 1 if n else 0
    job["key2"][:n] = 1 + by_member
    job["key1"][:n] = 1 + num_member + by_user if len(trace.users) > 1 else 1 + by_member
    return 1 + num_member + num_user


def _num_segments(jobs: NDArray[Any], fleet: Fleet) -> int:
    """Most segments at one time: one a GPU, and one for each job that takes less than a GPU or none."""
    small = int(((jobs["gpu_milli"] < 1000) | (jobs["num_gpus"] == 0)).sum())
    return int(fleet.num_gpus + small + 16)


def too_large(built: Built, trace: Trace) -> NDArray[Any]:
    """Indexes of jobs that no pool could ever take (shape, right, type or site)."""
    none = built.state.cls["num_pools"] == 0
    return np.flatnonzero(none[built.state.job["cls"][: len(trace.jobs)]])

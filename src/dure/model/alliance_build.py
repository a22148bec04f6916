"""From an alliance file to the columns that the policy reads: fleet and terms on a day."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.model.alliance import Alliance, ClusterSpec, GpuTypeSpec, ShareSpec, SiteSpec, covers, parties
from dure.model.errors import InputError
from dure.model.fleet import NODE_DTYPE, WEEK_HOURS, CellHours, Fleet, GpuType, Site
from dure.model.terms import NO_AGREEMENT, AgreementTerms, Member, Pool, Terms

_DAY_MS = 86_400_000
#: "For ever" in AgreementTerms.
_OPEN_END_MS = 1 << 60


@dataclass(frozen=True)
class _PoolPlan:
    """Nodes of one cluster that make a pool, and who is guaranteed how much of it."""

    name: str
    cluster_idx: int
    first_node: int  # within the cluster
    num_nodes: int
    home: str
    guarantees: tuple[tuple[str, int], ...]


def build_fleet(alliance: Alliance, at: date, until: date | None = None, *, is_utc: bool = False) -> tuple[Fleet, Terms]:
    """Fleet and terms of a run that starts on ``at``.

    Parameters
    ----------
    alliance : Alliance
        As loaded: its checks have passed.
    at : date
        First day of the run, time 0 of all ``*_ms`` values.
    until : date, optional
        First day after the run: nodes delivered on it or later are left out. Without it all nodes are in the
        fleet, those still to come with ``online_ms`` > 0.
    is_utc : bool
        Time 0 is midnight UTC, not that of each site.

    Returns
    -------
    fleet : Fleet
        Nodes sorted by (pool, cluster, block, rack); block and rack indices contiguous over the fleet, a
        block that two pools divide counted once in each. Sites and clusters stand in the file's order, also
        those without nodes. Power caps are those of ``at``, divided by the site's PUE: the part that the
        nodes may draw.
    terms : Terms
        A pool for each cluster, after one for each share set apart in it (blocks first: they lie aligned).
        Shares count in proportion to the part of the cluster that is in the fleet, rounded down; the owner is
        guaranteed the rest. A cell (member, pool) holds the first agreement, in the file's order, that lets
        the member borrow there, one in force on ``at`` before one that starts later; none where the member
        has a guarantee. An agreement of several lenders becomes one AgreementTerms for each, called
        ``name/lender``.

    Raises
    ------
    InputError
        ``until`` not after ``at``, or all deliveries come on it or later.
    """
    if until is not None and until <= at:
        raise InputError(f"until ({until}) must be after the first day ({at})", field="until")
    arrivals = [_arrivals(cluster, at, until) for _, cluster in alliance.clusters]
    plans = [
        plan
        for cluster_idx, (_, cluster) in enumerate(alliance.clusters)
        for plan in _pool_plans(alliance, cluster_idx, cluster, int(arrivals[cluster_idx].size), at)
    ]
    if not plans:
        raise InputError(f"no cluster has a GPU before {until}", field="deliveries")
    terms = _terms(alliance, plans, at, until)
    fleet = Fleet(
        _nodes(alliance, plans, arrivals, terms),
        [_gpu_type(gpu_type) for gpu_type in alliance.gpu_types],
        [
            Site(site.name, site.country, _power_cap_w(site, at), site.operator, _cell_hours(site, at, is_utc), tuple(sorted(site.reaches.items())))
            for site in alliance.sites
        ],
        [cluster.name for _, cluster in alliance.clusters],
        [],
    )
    return fleet, terms


def _arrivals(cluster: ClusterSpec, at: date, until: date | None) -> NDArray[np.int64]:
    """``online_ms`` of the cluster's nodes, in the order in which they arrive."""
    parts = [np.zeros(cluster.gpus // cluster.gpus_per_node, np.int64)]
    for delivery in cluster.deliveries:
        if until is None or delivery.date < until:
            online_ms = max(0, (delivery.date - at).days * _DAY_MS)
            parts.append(np.full(delivery.gpus // cluster.gpus_per_node, online_ms, np.int64))
    return np.concatenate(parts)


def _pool_plans(
    alliance: Alliance, cluster_idx: int, cluster: ClusterSpec, num_nodes: int, at: date
) -> list[_PoolPlan]:
    """Pools of one cluster with ``num_nodes`` in the fleet; the first racks to arrive are set apart."""
    in_force = {agreement.name for agreement in alliance.agreements if agreement.is_in_force(at)}
    in_force.add("")  # the owner's own shares stand under none
    shares = [s for s in alliance.shares if s.cluster == cluster.name and s.under in in_force]
    shares.sort(key=lambda share: ("block", "rack", "count").index(share.topology))
    complete_nodes = cluster.gpus_complete // cluster.gpus_per_node
    plans: list[_PoolPlan] = []
    counted: dict[str, int] = {}
    first_node = 0
    for share in shares:
        if share.topology == "count":
            counted[share.member] = counted.get(share.member, 0) + share.gpus * num_nodes // complete_nodes
            continue
        size = _set_apart_nodes(share, cluster, num_nodes, complete_nodes)
        if size:
            name, whole = f"{cluster.name}/{share.name or share.member}", size * cluster.gpus_per_node
            only = ((share.member, whole),)
            plans.append(_PoolPlan(name, cluster_idx, first_node, size, share.member, only))
            first_node += size
    rest = num_nodes - first_node
    if rest:
        owner_gpus = rest * cluster.gpus_per_node - sum(counted.values())
        counted[cluster.owner] = counted.get(cluster.owner, 0) + owner_gpus
        each = tuple(counted.items())
        plans.append(_PoolPlan(cluster.name, cluster_idx, first_node, rest, cluster.owner, each))
    return plans


def _set_apart_nodes(share: ShareSpec, cluster: ClusterSpec, num_nodes: int, complete_nodes: int) -> int:
    unit_nodes = cluster.nodes_per_rack * (cluster.racks_per_block if share.topology == "block" else 1)
    num_units = share.gpus // cluster.gpus_per_node // unit_nodes
    return num_units * num_nodes // complete_nodes * unit_nodes


def _nodes(alliance: Alliance, plans: list[_PoolPlan], arrivals: list[NDArray[np.int64]], terms: Terms) -> NDArray[Any]:
    """The node table, one pool after the other."""
    nodes = np.zeros(sum(plan.num_nodes for plan in plans), NODE_DTYPE)
    first, next_rack, next_block = 0, 0, 0
    for pool_idx, plan in enumerate(plans):
        site_idx, cluster = alliance.clusters[plan.cluster_idx]
        part = nodes[first : first + plan.num_nodes]
        rack = np.arange(plan.first_node, plan.first_node + plan.num_nodes) // cluster.nodes_per_rack
        block = rack // cluster.racks_per_block
        part["rack"] = next_rack + rack - rack[0]
        part["block"] = next_block + block - block[0]
        part["online_ms"] = arrivals[plan.cluster_idx][plan.first_node : plan.first_node + plan.num_nodes]
        part["cpu_milli"] = cluster.cpu_cores_per_node * 1000
        part["mem_mib"] = cluster.mem_gib_per_node * 1024
        part["net_mbps"] = cluster.network_gbps_per_node * 1000
        part["site"] = site_idx
        part["cluster"] = plan.cluster_idx
        part["pool"] = pool_idx
        part["owner"] = terms.pools[pool_idx].owner
        part["gpu_type"] = terms.pools[pool_idx].gpu_type
        part["num_gpus"] = cluster.gpus_per_node
        first += plan.num_nodes
        next_rack, next_block = int(part["rack"][-1]) + 1, int(part["block"][-1]) + 1
    return nodes


def _terms(alliance: Alliance, plans: list[_PoolPlan], at: date, until: date | None) -> Terms:
    member_idx = {member.name: idx for idx, member in enumerate(alliance.members)}
    type_idx = {gpu_type.name: idx for idx, gpu_type in enumerate(alliance.gpu_types)}
    pools: list[Pool] = []
    guarantee = np.zeros((len(member_idx), len(plans)), np.int64)
    for pool_idx, plan in enumerate(plans):
        _, cluster = alliance.clusters[plan.cluster_idx]
        owner, home = member_idx[cluster.owner], member_idx[plan.home]
        pools.append(Pool(plan.name, owner, home, plan.cluster_idx, type_idx[cluster.gpu_type]))
        for name, gpus in plan.guarantees:
            guarantee[member_idx[name], pool_idx] = gpus
    agreements, matrix = _agreements(alliance, pools, guarantee, at, until)
    members = [Member(m.name, m.kind, m.country, max(1, round(m.weight * 1000))) for m in alliance.members]
    return Terms(members, pools, guarantee, agreements, matrix, alliance.own_notice)


def _agreements(
    alliance: Alliance, pools: list[Pool], guarantee: NDArray[np.int64], at: date, until: date | None
) -> tuple[list[AgreementTerms], NDArray[np.int32]]:
    """Lending agreements that touch the run, and under which of them who may borrow where."""
    made: list[AgreementTerms] = []
    reach: list[tuple[NDArray[np.bool_], NDArray[np.bool_]]] = []  # borrowers, pools of each
    home = np.array([pool.home for pool in pools])
    for spec in alliance.agreements:
        ended = spec.end is not None and spec.end <= at
        if spec.kind == "RESERVE" or ended or (until is not None and spec.start >= until):
            continue
        lenders, borrowers = parties(alliance, spec)
        places = [alliance.clusters[pool.cluster] for pool in pools]
        covered = np.array([covers(spec, alliance.sites[idx], cluster) for idx, cluster in places], np.bool_)
        may_borrow = np.isin(np.arange(len(alliance.members)), borrowers)
        lending = [lender for lender in lenders if (covered & (home == lender)).any()]
        for lender in lending:
            name = spec.name if len(lenders) == 1 else f"{spec.name}/{alliance.members[lender].name}"
            start_ms = max(0, (spec.start - at).days * _DAY_MS)
            end_ms = _OPEN_END_MS if spec.end is None else (spec.end - at).days * _DAY_MS
            made.append(AgreementTerms(name, lender, spec.limit_gpus, spec.notice, start_ms, end_ms))
            takers = may_borrow.copy()
            takers[lender] = False
            reach.append((takers, covered & (home == lender)))
    matrix = np.full(guarantee.shape, NO_AGREEMENT, np.int32)
    for idx in sorted(range(len(made)), key=lambda idx: (made[idx].start_ms > 0, idx)):
        takers, lent = reach[idx]
        free = (matrix == NO_AGREEMENT) & (guarantee == 0)
        matrix[free & takers[:, None] & lent[None, :]] = idx
    return made, matrix


def _gpu_type(spec: GpuTypeSpec) -> GpuType:
    power = (spec.idle_w, spec.busy_w, spec.sleep_w)
    return GpuType(spec.name, spec.speed_milli, *power, spec.mig_slices, spec.mem_gib * 1024)


def _cell_hours(site: SiteSpec, at: date, is_utc: bool) -> CellHours | None:
    spec = site.cells
    if spec is None:
        return None
    released = 5 * spec.weekdays + 2 * (spec.weekends or spec.weekdays)
    assert len(released) == WEEK_HOURS
    week_ms = at.weekday() * _DAY_MS + (spec.utc_offset if is_utc else 0)
    return CellHours(spec.vacate, tuple(round(1000 * part) for part in released), week_ms)


def _power_cap_w(site: SiteSpec, at: date) -> int:
    """What the site's nodes may draw on ``at``; 0: no cap."""
    cap_mw = site.power_cap_mw
    for step in site.power_steps:
        if step.date <= at:
            cap_mw = step.mw
    return max(1, round(cap_mw * 1e6 / site.pue)) if cap_mw else 0

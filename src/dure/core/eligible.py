"""Which pools a class of jobs may ever use, and in which order it prefers them (rules 4, 8, 9)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.core.cells import open_most
from dure.model.fleet import Fleet
from dure.model.jobs import Trace
from dure.policy.config import Policy


class PoolFacts:
    """What the fleet and the terms say of each pool, once and for all.

    Parameters
    ----------
    mp, ag, pool, node, speed : ndarray
        The state's tables of that name.
    """

    def __init__(
        self, fleet: Fleet, policy: Policy, mp: NDArray[Any], ag: NDArray[Any], pool: NDArray[Any], node: NDArray[Any],
        speed: NDArray[Any], notes: list[str],
    ) -> None:  # fmt: skip
        self._fleet, self._mp, self._ag, self._pool, self._notes = fleet, mp, ag, pool, notes
        self.num_gpus = fleet.num_gpus
        self.node_gpus_max = max(int(pool["per_node"].max(initial=0)), 1)
        self._type = pool["gpu_type"].astype(np.int64)
        self._site_bit = np.uint64(1) << pool["site"].astype(np.uint64)
        size = np.zeros(len(pool), np.int64)
        np.add.at(size, fleet.nodes["pool"], fleet.nodes["num_gpus"].astype(np.int64))
        self._cpu, self._mem, self._net = (np.zeros(len(pool), np.int64) for _ in range(3))
        for most, name in ((self._cpu, "cpu_all"), (self._mem, "mem_all"), (self._net, "net_all")):
            np.maximum.at(most, fleet.nodes["pool"], node[name])
        # Of a cell site's nodes no more are ever open at a time.
        self._open_nodes, open_gpus = open_most(fleet, len(pool))
        size = np.minimum(size, open_gpus)
        never_ms = np.iinfo(np.int64).max
        self.vacate_ms = np.array([c.vacate_ms if (c := fleet.sites[i].cells) else never_ms for i in pool["site"]], np.int64)
        self._rack_gpus, self._rack_nodes = _widest(fleet, pool, "rack")
        self._block_gpus, self._block_nodes = _widest(fleet, pool, "block")
        self._num_nodes = np.minimum(pool["node1"] - pool["node0"], self._open_nodes) - pool["spares_target"]
        self._size = size - pool["spares_target"] * pool["per_node"]
        cap_w = np.array([fleet.sites[i].power_cap_w for i in pool["site"]], np.int64)
        standby = (pool["sleep_w"] if policy.is_sleep else pool["idle_w"]) * self._size
        base_w = np.bincount(pool["site"], weights=standby, minlength=len(fleet.sites))[pool["site"]]
        # Borrowers leave a fiftieth of the cap alone (kernels.admit.power_wanted_w).
        self._cap_w = cap_w - cap_w // 50
        self._base_w = base_w.astype(np.int64)
        self._wake_w = (pool["idle_w"] - pool["sleep_w"]) * (pool["per_node"] if policy.is_sleep else 0)
        self._ranks = [np.lexsort((np.arange(len(pool)), -row[np.maximum(self._type, 0)])) for row in speed]

    def types_of(self, trace: Trace) -> NDArray[Any]:
        """For each bit of a trace's type mask, the fleet's type of that name; -1: it has none."""
        names = {t.name.lower(): i for i, t in enumerate(self._fleet.gpu_types)}
        out = np.full(max(len(trace.gpu_types), 1), -1, np.int64)
        for i, name in enumerate(trace.gpu_types):
            out[i] = names.get(name.lower(), -1)
        if trace.gpu_types and (out < 0).all():
            note = "The fleet has none of the trace's GPU types; type constraints are not applied."
            if note not in self._notes:
                self._notes.append(note)
        return out

    def pools_for(self, cls: Any, type_mask: int, site_mask: int, grace_ms: int, kinds: NDArray[Any]) -> NDArray[Any]:
        """The pools that a class may ever use, in order of preference: own share first, then speed, then id.

        Parameters
        ----------
        cls : record of CLS
        type_mask, site_mask : int
            As 64 bits, of the trace's types and the fleet's sites; 0: any.
        grace_ms : int
            In which a job of it is gone when told to leave (rule 10).
        kinds : ndarray
            From `types_of`.
        """
        m, pool, mp = int(cls["member"]), self._pool, self._mp
        ok = mp["right"][m] > 0
        if type_mask and (kinds >= 0).any():
            ok &= np.isin(self._type, [int(kinds[b]) for b in range(len(kinds)) if type_mask >> b & 1])
        if site_mask:
            ok &= (self._site_bit & np.int64(site_mask).view(np.uint64)) != 0
        ok &= self.vacate_ms >= grace_ms
        gpus, per = int(cls["num_gpus"]), int(cls["per_node"])
        least = min(int(cls["min_gpus"]), gpus)
        ok &= (self._size >= least) & (pool["per_node"] >= per)
        if gpus > 0:
            ok &= self._has_room(cls, least, per)
        else:
            ok &= (self._cpu >= cls["cpu_base"]) & (self._mem >= cls["mem_base"]) & (self._net >= cls["net_base"])
        limit = np.where(mp["agreement"][m] >= 0, 1, 0)
        mine = [p for p in self._ranks[int(cls["speed"])] if ok[p]]
        mine.sort(key=lambda p: 0 if mp["guarantee"][m, p] > 0 else 1 + int(limit[p] == 0))
        return np.array(mine, np.int64)

    def _has_room(self, cls: Any, least: int, per: int) -> NDArray[Any]:
        """Whether the least of a gang fits into each pool when that is empty: nodes, domains, terms, power."""
        pool, mp, m = self._pool, self._mp, int(cls["member"])
        share = np.minimum(np.where(per > 0, per, least), pool["per_node"])
        ok = (
            (share > 0)
            & (self._cpu >= cls["cpu_each"] * share)
            & (self._mem >= cls["mem_each"] * share)
            & (self._net >= cls["net_each"] * share)
        )
        topology = int(cls["topology"])
        widest = {1: pool["per_node"], 2: self._rack_gpus, 3: self._block_gpus}.get(topology)
        if widest is not None:
            ok &= widest >= least
        if topology == 1 and 0 < per < least:
            ok[:] = False
        count = {2: self._rack_nodes, 3: self._block_nodes}.get(topology, self._num_nodes)
        ok &= -(-least // np.maximum(share, 1)) <= count
        room = np.where(mp["agreement"][m] >= 0, self._ag["limit"][mp["agreement"][m]], self._size * 1000)
        ok &= np.maximum(room, mp["guarantee"][m]) >= least * int(cls["gpu_milli"])
        needed_w = least * (pool["busy_w"] - pool["idle_w"]) + self._wake_w * least
        ok &= (self._cap_w == 0) | (self._base_w + needed_w <= self._cap_w)
        result: NDArray[Any] = ok
        return result


def _widest(fleet: Fleet, pool: NDArray[Any], level: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Most GPUs and most nodes of a rack or block of each pool."""
    nodes = fleet.nodes
    gpus = np.bincount(nodes[level], weights=nodes["num_gpus"]).astype(np.int64)
    count = np.bincount(nodes[level]).astype(np.int64)
    out = np.zeros((2, len(pool)), np.int64)
    np.maximum.at(out[0], nodes["pool"], gpus[nodes[level]])
    np.maximum.at(out[1], nodes["pool"], count[nodes[level]])
    return out[0], out[1]

"""Cell sites (rule 10): which of their nodes are open to AI work in which hour, for the twin and the live core."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dure.model.fleet import CellHours, Fleet

#: "No bound" as a number of GPUs or nodes.
_ALL = np.iinfo(np.int32).max


def num_open(num_nodes: int, lent_milli: int) -> int:
    """Of so many nodes of a cluster, how many are open; radio work is packed on the rest, never on part of one."""
    return num_nodes * lent_milli // 1000


def open_most(fleet: Fleet, num_pools: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Nodes and GPUs of each pool that are open in the site's best hour; beyond any number where it is no cell site."""
    nodes, gpus = np.full(num_pools, _ALL, np.int64), np.full(num_pools, _ALL, np.int64)
    for _, at, cells in cell_clusters(fleet):
        opened = at[: num_open(len(at), max(cells.lent_milli))]
        for p in np.unique(fleet.nodes["pool"][at]):
            mine = opened[fleet.nodes["pool"][opened] == p]
            nodes[p], gpus[p] = len(mine), fleet.nodes["num_gpus"][mine].sum()
    return nodes, gpus


def cell_clusters(fleet: Fleet) -> list[tuple[int, NDArray[Any], CellHours]]:
    """Of each cluster at a cell site: the site, the nodes in order, and what is released of them."""
    out = []
    for i, site in enumerate(fleet.sites):
        if site.cells is not None:
            of_site = fleet.nodes["site"] == i
            for cluster in np.unique(fleet.nodes["cluster"][of_site]):
                out.append((i, np.flatnonzero(of_site & (fleet.nodes["cluster"] == cluster)), site.cells))
    return out


def withheld(fleet: Fleet, at_ms: int, said_milli: Mapping[int, int] = MappingProxyType({})) -> frozenset[int]:
    """The nodes that radio work has at a moment of the run: in each cluster all but the first ones, which are open.

    ``said_milli``: by site, what counts in place of its hours.
    """
    out: list[int] = []
    for site, at, cells in cell_clusters(fleet):
        lent_milli = said_milli.get(site, cells.lent_milli[cells.hour(at_ms)])
        out.extend(at[num_open(len(at), lent_milli) :].tolist())
    return frozenset(out)


def next_hour_ms(fleet: Fleet, at_ms: int) -> int | None:
    """When some cell site's next hour begins; None: there is none."""
    return min((site.cells.next_hour_ms(at_ms) for site in fleet.sites if site.cells is not None), default=None)

"""The fleet as columns: nodes in order of site › cluster › block › rack, and what stands above them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Most GPUs that one node may have.
GPUS_PER_NODE_MAX = 16
HOUR_MS, WEEK_HOURS = 3_600_000, 168

NODE_DTYPE = np.dtype(
    [
        ("cpu_milli", np.int64),  # 1/1000 cores
        ("mem_mib", np.int64),
        ("net_mbps", np.int64),  # bandwidth into the fabric; 0: not given, never in the way
        ("online_ms", np.int64),  # from the start of the run; > 0: delivered later
        ("site", np.int32),  # index into Fleet.sites
        ("cluster", np.int32),  # fleet-wide index into Fleet.clusters
        ("block", np.int32),  # fleet-wide index, contiguous
        ("rack", np.int32),  # fleet-wide index, contiguous; an NVLink domain where gpu_type is rack scale
        ("pool", np.int32),  # index into Terms.pools
        ("owner", np.int32),  # index into Terms.members
        ("gpu_type", np.int16),  # index into Fleet.gpu_types; -1 on a CPU-only node
        ("num_gpus", np.int16),  # 0..GPUS_PER_NODE_MAX
    ],
    align=True,
)


@dataclass(frozen=True)
class GpuType:
    """A GPU model.

    Attributes
    ----------
    name : str
    speed_milli : int
        Training speed relative to the reference type, in 1/1000 (H200 = 1000 unless the alliance says else).
    idle_w, busy_w : int
        Electric power of one GPU with its part of the node, idle and fully used.
    sleep_w : int
        The same with the node asleep.
    mig_slices : int
        Hardware slices (MIG) that one GPU is cut into for jobs that ask for a part of it; 1: none, parts are as asked.
    mem_mib : int
        Device memory.
    """

    name: str
    speed_milli: int = 1000
    idle_w: int = 100
    busy_w: int = 1000
    sleep_w: int = 20
    mig_slices: int = 1
    mem_mib: int = 81920


@dataclass(frozen=True)
class CellHours:
    """What a cell site's lending guard releases (rule 10).

    Attributes
    ----------
    vacate_ms : int
        What runs there is gone so soon after radio work wants its GPUs.
    lent_milli : tuple of int, length WEEK_HOURS
        In each hour of the week from Monday 0:00, the site's time: the part of its GPUs that is released, in 1/1000.
    week_ms : int
        Of that week, at the run's time 0.
    """

    vacate_ms: int
    lent_milli: tuple[int, ...]
    week_ms: int

    def hour(self, at_ms: int) -> int:
        """Hour of the week at a moment of the run."""
        return (at_ms + self.week_ms) // HOUR_MS % WEEK_HOURS

    def next_hour_ms(self, at_ms: int) -> int:
        """When that hour is over."""
        return at_ms + HOUR_MS - (at_ms + self.week_ms) % HOUR_MS


@dataclass(frozen=True)
class Site:
    """A place with one power feed. ``power_cap_w`` 0: none; ``operator``: the member that runs it, empty: those who own what stands there.

    ``cells``: of a cell site, when its GPUs are released; None: always. ``reaches``: areas whose devices it serves, and the
    network's round trip between their radio and the site in ms.
    """

    name: str
    country: str = "KR"
    power_cap_w: int = 0
    operator: str = ""
    cells: CellHours | None = None
    reaches: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Fleet:
    """Nodes and their names.

    Attributes
    ----------
    nodes : ndarray of NODE_DTYPE, shape (num_nodes,)
        Sorted by (pool, cluster, block, rack): each pool, block and rack is a contiguous range.
    node_names : list of str
        One a node; may be empty for generated fleets, then node i is ``n{i}``.
    """

    nodes: NDArray[Any]
    gpu_types: list[GpuType]
    sites: list[Site]
    clusters: list[str]
    node_names: list[str]

    @property
    def num_gpus(self) -> int:
        """GPUs of all nodes, also those not yet delivered."""
        return int(self.nodes["num_gpus"].sum())


def uniform_fleet(
    num_gpus: int,
    gpus_per_node: int,
    nodes_per_rack: int = 4,
    racks_per_block: int = 16,
    gpu_type: GpuType | None = None,
) -> Fleet:
    """One site, one cluster, one pool of equal nodes; the last node holds the remainder.

    CPU and memory are not limiting (each node has 2**40 of both).
    """
    num_nodes = -(-num_gpus // gpus_per_node)
    nodes = np.zeros(num_nodes, NODE_DTYPE)
    nodes["num_gpus"] = gpus_per_node
    if num_gpus % gpus_per_node:
        nodes["num_gpus"][-1] = num_gpus % gpus_per_node
    nodes["cpu_milli"] = nodes["mem_mib"] = 1 << 40
    nodes["rack"] = np.arange(num_nodes) // nodes_per_rack
    nodes["block"] = nodes["rack"] // racks_per_block
    return Fleet(nodes, [gpu_type or GpuType("gpu")], [Site("site")], ["cluster"], [])

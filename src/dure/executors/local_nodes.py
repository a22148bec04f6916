"""The nodes that a local executor offers: this machine, or several stand-ins for nodes on it."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dure.executors.gpus import Gpu, Nvml, open_nvml
from dure.model.errors import InputError
from dure.ports.executor import NodeInfo


@dataclass(frozen=True)
class LocalNodes:
    """What there is to launch on. ``gpus``: the real ones of each node; ``nvml`` None: they are stand-ins."""

    infos: tuple[NodeInfo, ...]
    gpus: Mapping[str, tuple[Gpu, ...]]
    nvml: Nvml | None = None

    def energy_mj(self, node: str, idxs: Sequence[int]) -> dict[str, int]:
        """Energy counters of some GPUs of a node by UUID; empty where nothing counts."""
        if self.nvml is None:
            return {}
        return self.nvml.energy_mj([self.gpus[node][idx].uuid for idx in idxs if idx < len(self.gpus[node])])


def find_nodes(names: Sequence[str] = (), num_gpus: int | None = None, gpu_type: str = "") -> LocalNodes:
    """One node with the GPUs of this machine, or ``num_gpus`` slots on each of the named nodes.

    Parameters
    ----------
    names : sequence of str
        Default: the host's name.
    num_gpus : int or None
        Slots that stand for GPUs, on each node; None: the GPUs that NVML finds.
    gpu_type : str
        Default: that of the GPUs found, otherwise ``gpu``.

    Raises
    ------
    InputError
        Real GPUs for several nodes, or a name twice.
    """
    names = list(names) or [socket.gethostname()]
    if len(set(names)) != len(names):
        raise InputError("a node is named twice", field="--node-names")
    nvml = open_nvml() if num_gpus is None else None
    if nvml is not None and len(names) > 1:
        raise InputError("the GPUs found are one node's; stand-ins on one machine need --gpus", field="--node-names")
    found = tuple(nvml.gpus()) if nvml is not None else ()
    infos, gpus = [], {}
    for name in names:
        if found:
            infos.append(_info(name, gpu_type or found[0].gpu_type, tuple(gpu.uuid for gpu in found), 1))
        else:
            slots = tuple(f"SLOT-{name}-{idx}" for idx in range(num_gpus or 0))
            infos.append(_info(name, gpu_type or "gpu", slots, len(names)))
        gpus[name] = found
    return LocalNodes(tuple(infos), gpus, nvml)


def _info(name: str, gpu_type: str, uuids: tuple[str, ...], num_nodes: int) -> NodeInfo:
    cpu_milli = len(os.sched_getaffinity(0)) * 1000 // num_nodes
    return NodeInfo(name, len(uuids), gpu_type, uuids, cpu_milli, _memory_mib() // num_nodes)


def _memory_mib() -> int:
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
    return int(line.split()[1]) >> 10

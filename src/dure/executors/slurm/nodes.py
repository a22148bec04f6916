"""From the nodes of a cluster to what is offered to Dure, and from a launch to what is asked of Slurm (no I/O)."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from fractions import Fraction
from math import ceil
from typing import Any

from dure.executors.far import gpus_by_node
from dure.executors.slurm.engine import Cluster, Part, Shape, SlurmNode, SlurmPartition
from dure.model.errors import InputError
from dure.ports.executor import Launch, NodeInfo

#: States of nodes that are gone, and what ran there with them.
_GONE = {"DOWN", "FAIL", "FAILING", "ERROR", "FUTURE"}
#: States and flags of nodes that take nothing new while what runs there goes on. A controller that has just started does
#: not know its nodes until they have told it that they are there.
_CLOSED = {"UNKNOWN", "DRAIN", "DRAINED", "DRAINING", "MAINT", "RESERVED", "REBOOT", "REBOOT_REQUESTED", "REBOOT_ISSUED",
           "INVALID_REG", "NOT_RESPONDING", "NO_RESPOND", "*", "@", "^", "$"}  # fmt: skip
#: Slurm's own limit comes so long after Dure's, for an agent that is not there to keep it.
_BACKSTOP_MIN = 5


def partition_of(cluster: Cluster, name: str) -> SlurmPartition:
    """The partition of a name, or for none the default one.

    Raises
    ------
    InputError
        There is none.
    """
    for found in cluster.partitions:
        if found.name == name or (not name and found.is_default):
            return found
    names = ", ".join(sorted(part.name for part in cluster.partitions))
    raise InputError(f"no partition {name!r}; there are {names}" if name else f"no default partition; there are {names}",
                     field="--partition")  # fmt: skip


def nodes_of(cluster: Cluster, partition: SlurmPartition) -> dict[str, SlurmNode]:
    """The nodes of a partition that are there, by name."""
    return {
        node.name: node for node in sorted(cluster.nodes, key=lambda node: node.name)
        if partition.name in node.partitions and not node.states & _GONE and len(node.gpu_types) < 2
    }  # fmt: skip


def offer(nodes: Mapping[str, SlurmNode], ours: Mapping[str, int], shunned: Collection[str]) -> list[NodeInfo]:
    """What is offered to Dure.

    Parameters
    ----------
    ours : mapping
        Node → GPUs that Dure's own attempts may have there. Where more are in use, somebody else has some; since Slurm
        says how many are free and not which, such a node takes no new work.
    shunned : collection of str
        Nodes where an attempt has waited in vain.
    """
    return [
        NodeInfo(
            node.name, node.gpus, next(iter(node.gpu_types), "") or "gpu",
            tuple(f"SLURM-{node.name}-{idx}" for idx in range(node.gpus)), node.cpus * 1000, node.mem_mib,
            is_open=not node.states & _CLOSED and node.gpus_used <= ours.get(node.name, 0) and node.name not in shunned,
        )
        for node in nodes.values()
    ]  # fmt: skip


def shape_of(launch: Launch, nodes: Mapping[str, SlurmNode], partition: SlurmPartition) -> Shape:
    """What to ask of Slurm for a launch.

    Raises
    ------
    LaunchError
        It cannot run here: a node that is not there, or parts of GPUs.
    """
    gpus = gpus_by_node(launch, nodes, "Slurm")
    alike: dict[tuple[int, str], list[SlurmNode]] = {}
    for name, num in gpus.items():
        gpu_type = next(iter(nodes[name].gpu_types), "") if num else ""
        alike.setdefault((num, gpu_type), []).append(nodes[name])
    total = sum(gpus.values())
    parts = tuple(
        _part(launch, num, gpu_type, own, Fraction(num, total) if total else Fraction(1, len(gpus)))
        for (num, gpu_type), own in alike.items()
    )
    return Shape(partition.name, parts, _time_min(launch, partition))


def _part(launch: Launch, gpus: int, gpu_type: str, own: Sequence[SlurmNode], share: Fraction) -> Part:
    """What is asked of each of some nodes: of the launch's CPUs and memory the share that a node has of its GPUs."""
    cpus = ceil(launch.cpu_milli * share / 1000) or min(node.cpus * gpus // max(node.gpus, 1) for node in own)
    cpus = max(cpus, 1)
    mem_mib = ceil(launch.mem_mib * share) or min(_share_mib(node, gpus, cpus) for node in own)
    return Part(tuple(node.name for node in own), gpus, gpu_type, cpus, max(mem_mib, 1))


def _share_mib(node: SlurmNode, gpus: int, cpus: int) -> int:
    return node.mem_mib * gpus // node.gpus if gpus else node.mem_mib * cpus // max(node.cpus, 1)


def _time_min(launch: Launch, partition: SlurmPartition) -> int | None:
    if launch.limit_ms < 0:
        return partition.time_max_min
    wanted = -(-(launch.limit_ms + launch.grace_ms) // 60_000) + _BACKSTOP_MIN
    return wanted if partition.time_max_min is None else min(wanted, partition.time_max_min)


def cluster_to_json(cluster: Cluster) -> str:
    """For an agent that finds its cluster silent."""
    nodes = [{**asdict(node), "states": sorted(node.states), "partitions": sorted(node.partitions)} for node in cluster.nodes]
    return json.dumps({"nodes": nodes, "partitions": [asdict(part) for part in cluster.partitions]})


def cluster_from_json(text: str) -> Cluster:
    """The inverse of `cluster_to_json`."""
    data: dict[str, list[dict[str, Any]]] = json.loads(text)
    for node in data["nodes"]:
        for name in ("states", "partitions"):
            node[name] = frozenset(node[name])
        node["gpu_types"] = tuple(node["gpu_types"])
    return Cluster(
        tuple(SlurmNode(**node) for node in data["nodes"]), tuple(SlurmPartition(**part) for part in data["partitions"])
    )

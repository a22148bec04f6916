"""From what Ray says of its cluster to what is offered to Dure, and from a launch to what is asked of Ray (no I/O)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from dure.executors.far import gpus_by_node
from dure.ports.executor import Launch, NodeInfo

_TYPE_LABEL, _TYPE_RESOURCE = "ray.io/accelerator-type", "accelerator_type:"
#: Others may have so much of a node's CPUs or memory before it is closed: only GPUs are counted one by one.
_OTHERS_PART = 0.5
#: Ray takes no bundle of nothing.
_LEAST_CPU = 0.001
_EPSILON = 1e-6


@dataclass(frozen=True)
class RayNode:
    """A node. ``total``, ``available``: Ray's resources, memory in bytes; ``address``: where others reach it."""

    node_id: str
    name: str
    is_alive: bool
    address: str
    labels: Mapping[str, str]
    total: Mapping[str, float]
    available: Mapping[str, float]


@dataclass(frozen=True)
class RayGroup:
    """A placement group of ours. ``bundles``: (node id or None, resources) of each."""

    name: str
    state: str
    bundles: tuple[tuple[str | None, Mapping[str, float]], ...]


@dataclass(frozen=True)
class Survey:
    """A cluster at one moment: all nodes, and of groups and actors those whose names begin with ours."""

    nodes: tuple[RayNode, ...]
    groups: tuple[RayGroup, ...]
    actors: frozenset[str]


def survey_from(form: Mapping[str, Any]) -> Survey:
    """Of plain values."""
    return Survey(
        tuple(RayNode(**node) for node in form["nodes"]),
        tuple(
            RayGroup(group["name"], group["state"], tuple((node or None, wanted) for node, wanted in group["bundles"]))
            for group in form["groups"]
        ),
        frozenset(form["actors"]),
    )


def nodes_of(survey: Survey, name_label: str) -> dict[str, RayNode]:
    """The nodes that are there and have something to run jobs on, by the name that they have in Dure.

    Parameters
    ----------
    name_label : str
        The label that names them; empty: Ray's own name of a node. A name that several have is nobody's.
    """
    found = [
        (node.labels.get(name_label, "") if name_label else node.name, node)
        for node in survey.nodes if node.is_alive and (node.total.get("GPU", 0) >= 1 or node.total.get("CPU", 0) > 0)
    ]  # fmt: skip
    counts = Counter(name for name, _ in found)
    return {name: node for name, node in sorted(found, key=lambda pair: pair[0]) if name and counts[name] == 1}


def taken_elsewhere(survey: Survey) -> dict[str, dict[str, float]]:
    """Node id → resource → how much of it others have than the groups that are ours."""
    ours: defaultdict[tuple[str | None, str], float] = defaultdict(float)
    for group in survey.groups:
        for node_id, wanted in group.bundles:
            for name, amount in wanted.items():
                ours[node_id, name] += amount
    return {
        node.node_id: {
            name: node.total.get(name, 0) - node.available.get(name, 0) - ours[node.node_id, name]
            for name in ("GPU", "CPU", "memory")
        }
        for node in survey.nodes if node.is_alive
    }  # fmt: skip


def is_taken(node: RayNode, others: Mapping[str, float]) -> bool:
    """Whether others have so much of a node that it takes no new work of ours."""
    return others["GPU"] > _EPSILON or any(
        others[name] > _OTHERS_PART * node.total.get(name, 0) + _EPSILON for name in ("CPU", "memory")
    )


def offer(nodes: Mapping[str, RayNode], closed: Collection[str], gpu_type: str) -> list[NodeInfo]:
    """What is offered to Dure.

    Parameters
    ----------
    closed : collection of str
        Nodes that take no new work.
    gpu_type : str
        Of all GPUs; empty: as Ray has it.
    """
    return [
        NodeInfo(
            name, int(node.total.get("GPU", 0)), gpu_type or _type_of(node),
            tuple(f"RAY-{name}-{idx}" for idx in range(int(node.total.get("GPU", 0)))),
            round(node.total.get("CPU", 0) * 1000), int(node.total.get("memory", 0)) >> 20, is_open=name not in closed,
        )
        for name, node in nodes.items()
    ]  # fmt: skip


def _type_of(node: RayNode) -> str:
    named = [name.removeprefix(_TYPE_RESOURCE) for name in node.total if name.startswith(_TYPE_RESOURCE)]
    return node.labels.get(_TYPE_LABEL) or next(iter(named), "gpu")


@dataclass(frozen=True)
class Shape:
    """What an attempt asks of Ray: one bundle on each of these nodes, in the order of its placements."""

    nodes: tuple[str, ...]
    node_ids: tuple[str, ...]
    bundles: tuple[Mapping[str, float], ...]


def shape_of(launch: Launch, nodes: Mapping[str, RayNode]) -> Shape:
    """What to ask of Ray for a launch: its GPUs, and of CPUs and memory what the job names.

    Raises
    ------
    LaunchError
        It cannot run here: a node that is not there, or parts of GPUs.
    """
    gpus = gpus_by_node(launch, nodes, "Ray")
    return Shape(
        tuple(gpus), tuple(nodes[name].node_id for name in gpus),
        tuple(_bundle(launch, num_gpus, len(gpus)) for num_gpus in gpus.values()),
    )  # fmt: skip


def _bundle(launch: Launch, gpus: int, num_nodes: int) -> dict[str, float]:
    wanted = {
        "GPU": float(gpus),
        "CPU": launch.cpu_milli / 1000 / num_nodes,
        "memory": float(-(-(launch.mem_mib << 20) // num_nodes)),
    }
    return {name: amount for name, amount in wanted.items() if amount} or {"CPU": _LEAST_CPU}

"""The tasks of an attempt and the environment of each, as torchrun's children expect it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dure.ports.executor import Launch

#: Of the agent's own environment; anything else (tokens above all) is not for jobs.
_INHERITED = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_MPS_PIPE_DIRECTORY",
)  # fmt: skip


@dataclass(frozen=True)
class Rank:
    """A task: ``rank`` of the attempt, ``local_rank`` on its node, the ``node_rank``-th one."""

    rank: int
    local_rank: int
    local_world: int
    node_rank: int
    node: str


def ranks_of(launch: Launch) -> list[Rank]:
    """The tasks, node by node in order of placement; ``tasks_per_node`` 0: one a GPU."""
    gpus: dict[str, int] = {}
    for part in launch.placements:
        gpus[part.node] = gpus.get(part.node, 0) + len(part.gpus)
    found: list[Rank] = []
    for node_rank, (node, num_gpus) in enumerate(gpus.items()):
        local_world = launch.tasks_per_node or max(num_gpus, 1)
        for local_rank in range(local_world):
            found.append(Rank(len(found), local_rank, local_world, node_rank, node))
    return found


def inherited_env(own: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a job inherits of an environment (default: of this process)."""
    source = os.environ if own is None else own
    return {name: source[name] for name in _INHERITED if name in source}


def rank_env(launch: Launch, rank: Rank, world: int, visible: Sequence[str], master_port: int) -> dict[str, str]:
    """The whole environment of a task of this machine."""
    return node_env("127.0.0.1", master_port) | own_env(launch, rank, world) | {"CUDA_VISIBLE_DEVICES": ",".join(visible)}


def node_env(master_addr: str, master_port: int) -> dict[str, str]:
    """What a task has of its node's environment, and where all tasks meet; the user's variables override it."""
    return {**inherited_env(), "MASTER_ADDR": master_addr, "MASTER_PORT": str(master_port)}


def own_env(launch: Launch, rank: Rank, world: int) -> dict[str, str]:
    """What a task has of its own; the user's variables do not override Dure's."""
    return {
        **launch.env,
        "DURE_JOB_ID": launch.job_id,
        "DURE_ATTEMPT": str(launch.attempt),
        "DURE_LEASE_ID": launch.lease_id,
        "DURE_FENCE": str(launch.fence),
        "DURE_CHECKPOINT_DIR": launch.checkpoint_dir,
        "DURE_NODE": rank.node,
        "RANK": str(rank.rank),
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": str(rank.local_rank),
        "LOCAL_WORLD_SIZE": str(rank.local_world),
        "NODE_RANK": str(rank.node_rank),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }

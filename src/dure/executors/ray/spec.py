"""What an actor is told about the ranks that it starts on its node: plain values, which go through JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

from dure.executors.process import LEASE_MARK
from dure.executors.ranks import own_env, ranks_of
from dure.ports.executor import Launch

#: The cluster's actors of Dure are all in it.
NAMESPACE = "dure"
#: Ray does not know of a job's limit: the actor keeps it, so long behind the agent, for one that is away.
_BACKSTOP_S = 300.0


class RankSpec(TypedDict):
    """A rank: its number, and its own variables."""

    rank: int
    env: dict[str, str]


class NodeSpec(TypedDict):
    """One node's part of an attempt.

    ``first`` is the actor of the first node, where the ranks meet; ``nodes`` how many there are; ``limit_s`` after how long
    all is killed (-1: never); ``mark`` what its processes are known by on their machine; ``setup`` a script's path or empty.
    """

    folder: str
    node_rank: int
    nodes: int
    first: str
    mark: str
    argv: list[str]
    cwd: str
    setup: str
    log_dir: str
    log_max_bytes: int
    limit_s: float
    master_addr: str
    ranks: list[RankSpec]


def specs_of(launch: Launch, folder: Path, name: str, master_addr: str, log_max_bytes: int) -> list[NodeSpec]:
    """One for each node of a launch, in order of placement.

    Parameters
    ----------
    folder : Path
        The attempt's, on storage that all nodes share.
    name : str
        Of the attempt in the cluster.
    master_addr : str
        Where others reach the first node.
    """
    ranks = ranks_of(launch)
    num_nodes = ranks[-1].node_rank + 1
    found: list[NodeSpec] = []
    for node_rank in range(num_nodes):
        # Nodes of a test share one machine: the mark is the node's, not only the attempt's.
        mark = f"{folder}:{node_rank}"
        own = [
            RankSpec(rank=rank.rank, env=own_env(launch, rank, len(ranks)) | {LEASE_MARK: mark})
            for rank in ranks if rank.node_rank == node_rank
        ]  # fmt: skip
        found.append(
            NodeSpec(
                folder=str(folder), node_rank=node_rank, nodes=num_nodes, first=actor_name(name, 0), mark=mark,
                argv=list(launch.argv), cwd=launch.cwd or launch.log_dir,
                setup=str(folder / "setup.sh") if launch.setup else "", log_dir=launch.log_dir, log_max_bytes=log_max_bytes,
                limit_s=-1.0 if launch.limit_ms < 0 else (launch.limit_ms + launch.grace_ms) / 1000 + _BACKSTOP_S,
                master_addr=master_addr, ranks=own,
            )
        )  # fmt: skip
    return found


def actor_name(name: str, node_rank: int) -> str:
    """Of the actor on a node of an attempt."""
    return f"{name}.{node_rank}"

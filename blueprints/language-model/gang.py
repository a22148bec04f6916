"""The ranks that train together: who they are, and what they agree on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from dure.client import job

#: Ranks wait for one another at a checkpoint as long as the slowest disk takes; a dead rank is noticed by its closed connection.
SAVING_TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class Gang:
    """A rank's place among all.

    Attributes
    ----------
    saving : torch.distributed.ProcessGroup
        All ranks once more, for what a thread says while the main one trains.
    """

    rank: int
    size: int
    device: torch.device
    saving: dist.ProcessGroup

    def share(self, rows: Tensor) -> Tensor:
        """The rows of this rank, on its device: each row is exactly one rank's."""
        return rows[self.rank :: self.size].to(self.device)

    def total(self, value: Tensor) -> float:
        """The sum over all ranks."""
        dist.all_reduce(value)
        return float(value)

    def agree(self, *wishes: bool) -> list[bool]:
        """Of each wish, whether any rank has it: all ranks hear the same, so that they do the same after the same step."""
        said = torch.tensor(wishes, dtype=torch.uint8)
        dist.all_reduce(said, op=dist.ReduceOp.MAX)
        return [bool(wish) for wish in said]


def join_gang(device: str, timeout_s: float) -> Gang:
    """Meet the other ranks as the environment names them (RANK, WORLD_SIZE, …: Dure's or torchrun's); alone without them.

    Parameters
    ----------
    timeout_s : float
        A rank that says nothing for so long is given up, and the gang with it.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    alone = {"store": dist.HashStore(), "rank": 0, "world_size": 1} if size == 1 else {}
    place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if device == "cuda" else torch.device("cpu")
    if place.type == "cuda":
        torch.cuda.set_device(place)
    else:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    backend = "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s), **alone)
    saving = dist.new_group(backend=backend, timeout=SAVING_TIMEOUT)
    # Not earlier: a rank told to leave while it waits for one that is gone already would wait on; so it ends by the signal.
    job.watch_signals()
    return Gang(rank if size > 1 else 0, size, place, saving)

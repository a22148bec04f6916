"""What the executor asks of a Slurm cluster, whatever carries the words there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from dure.executors.far import SilentError
from dure.model.errors import DureError


class SlurmSilentError(SilentError):
    """Slurm has not answered."""


class SlurmRefusalError(DureError):
    """The cluster has said no, and nothing was done."""


class Phase(Enum):
    """Where a Slurm job is, of the states that Slurm has for it."""

    PENDING = "pending"
    STARTING = "starting"
    RUNNING = "running"
    ENDED = "ended"
    #: Ended by somebody or something else than the job: cancelled, preempted, a node that failed, put back in the queue.
    TAKEN = "taken"


_PHASES = {
    "PENDING": Phase.PENDING,
    "CONFIGURING": Phase.STARTING,
    "RUNNING": Phase.RUNNING,
    "SUSPENDED": Phase.RUNNING,
    "STOPPED": Phase.RUNNING,
    "COMPLETING": Phase.RUNNING,
    "SIGNALING": Phase.RUNNING,
    "STAGE_OUT": Phase.RUNNING,
    "RESIZING": Phase.RUNNING,
    "COMPLETED": Phase.ENDED,
    "FAILED": Phase.ENDED,
    "OUT_OF_MEMORY": Phase.ENDED,
}


@dataclass(frozen=True)
class SlurmJob:
    """A job, or one task of an array.

    Attributes
    ----------
    array_id, task : int
        Of an array's task; of another job, its id and -1.
    start_s, end_s : int
        Epoch seconds; -1: not yet. Of a job that waits or runs, what Slurm expects.
    status : int
        As ``wait`` gives it: exit code × 256, or the number of a signal; -1: not known.
    gpus : int
        That it has, or asks for.
    """

    job_id: int
    array_id: int
    task: int
    name: str
    state: str
    reason: str
    start_s: int
    end_s: int
    restarts: int
    status: int
    gpus: int

    @property
    def word(self) -> str:
        """What scancel calls it: the bare number of an array's task may be that of the whole array."""
        return f"{self.array_id}_{self.task}" if self.task >= 0 else str(self.job_id)

    @property
    def phase(self) -> Phase:
        """What its state means; a job that has begun twice was put back in the queue."""
        return Phase.TAKEN if self.restarts else _PHASES.get(self.state, Phase.TAKEN)

    @property
    def gpu_ms(self) -> int:
        """Of a job that has ended, GPU-milliseconds that it had; -1: not known."""
        if self.start_s < 0 or self.end_s < 0:
            return -1
        return self.gpus * max(self.end_s - self.start_s, 0) * 1000

    @property
    def exit_code(self) -> int | None:
        """Of a job that has ended, as a shell gives it; None: not known."""
        if self.status < 0:
            return None
        return self.status >> 8 if self.status & 127 == 0 else 128 + (self.status & 127)


@dataclass(frozen=True)
class SlurmNode:
    """A node.

    Attributes
    ----------
    states : frozenset of str
        The base state and its flags, also those of one character (``*``: does not respond).
    gpu_types : tuple of str
        An empty one: GPUs that have no type.
    gpus_used : int
        By whomever.
    cpus, mem_mib : int
        What jobs can have of them.
    address : str
        Where others reach it.
    """

    name: str
    states: frozenset[str]
    gpus: int
    gpu_types: tuple[str, ...]
    gpus_used: int
    cpus: int
    mem_mib: int
    address: str
    partitions: frozenset[str]


@dataclass(frozen=True)
class SlurmPartition:
    """A partition. ``time_max_min``: minutes that a job may have at most; None: as long as it likes."""

    name: str
    is_default: bool
    time_max_min: int | None


@dataclass(frozen=True)
class Cluster:
    """All nodes and partitions at one moment."""

    nodes: tuple[SlurmNode, ...]
    partitions: tuple[SlurmPartition, ...]


@dataclass(frozen=True)
class Part:
    """Nodes of which a job asks for the same of each."""

    nodes: tuple[str, ...]
    gpus: int
    gpu_type: str
    cpus: int
    mem_mib: int


@dataclass(frozen=True)
class Shape:
    """What a job asks for: exactly the nodes of its parts; several parts are a heterogeneous job."""

    partition: str
    parts: tuple[Part, ...]
    time_min: int | None

    @property
    def gpus_on(self) -> dict[str, int]:
        """Node → GPUs there."""
        return {node: part.gpus for part in self.parts for node in part.nodes}


class Engine(Protocol):
    """A Slurm cluster. Every call raises `SlurmSilentError` where no answer came, `SlurmRefusalError` where it was no."""

    async def cluster(self) -> Cluster:
        """Its nodes and partitions."""
        ...

    async def jobs(self) -> list[SlurmJob]:
        """Jobs of this user that wait, run, or have ended not long ago; arrays task by task."""
        ...

    async def submit(self, shape: Shape, text: str, *, name: str, comment: str, tasks: int) -> int:
        """Hand in a batch script, as an array where there are several tasks; the id of the job."""
        ...

    async def signal(self, jobs: Sequence[str], signal: str, *, is_gang: bool) -> None:
        """A signal to the tasks of some jobs, or the word (`script.STOP_WORD`) to give them the one that their folder names.

        Of a gang no other signal may come to the batch script: ``srun`` would end for it.
        """
        ...

    async def cancel(self, jobs: Sequence[str]) -> None:
        """End some jobs; those that are over already are passed over."""
        ...

    async def has_accounts(self) -> bool:
        """Whether it has a database of accounts in which GPUs are counted."""
        ...

    async def accounts(self, jobs: Sequence[str]) -> dict[str, int]:
        """GPU-milliseconds of some jobs by the database, where it has their ends."""
        ...

    async def close(self) -> None:
        """Let go of it."""
        ...

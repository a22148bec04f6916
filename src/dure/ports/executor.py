"""The executor: what an agent launches attempts with. One contract for local processes, Slurm and Ray."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

from dure.model.errors import DureError
from dure.model.events import Placement


class LaunchError(DureError):
    """An attempt could not be started, and nothing of it runs."""


@dataclass(frozen=True)
class NodeInfo:
    """A node as the executor finds it.

    Attributes
    ----------
    gpu_uuids : tuple of str
        One a GPU; of stand-ins, made up.
    is_open : bool
        Whether it takes new work; on one that does not, what runs goes on.
    """

    name: str
    gpus: int
    gpu_type: str
    gpu_uuids: tuple[str, ...]
    cpu_milli: int
    mem_mib: int
    is_open: bool = True


@dataclass(frozen=True)
class Launch:
    """All that an executor needs to start one attempt.

    Attributes
    ----------
    lease_id : str
        ``<job id>.<attempt>``: never launched twice.
    fence : int
        Larger than that of every lease given before it.
    argv : sequence of str
        The command; ``setup`` (a shell script) runs before it on each node.
    env : mapping
        The user's own variables; Dure's and torchrun's are added by the executor.
    cwd, log_dir, checkpoint_dir : str
        ``checkpoint_dir`` is the job's, the same for each of its attempts.
    placements : sequence of Placement
    nodes : int
        Tasks are one a node unless ``tasks_per_node`` says otherwise.
    stop_signal : str
        First word to a job that must leave: TERM or USR1; KILL follows after ``grace_ms``.
    limit_ms : int
        -1: none.
    """

    lease_id: str
    fence: int
    job_id: str
    attempt: int
    argv: Sequence[str]
    placements: Sequence[Placement]
    log_dir: str
    checkpoint_dir: str
    cwd: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    setup: str = ""
    stop_signal: str = "TERM"
    grace_ms: int = 30_000
    limit_ms: int = -1
    cpu_milli: int = 0
    mem_mib: int = 0
    tasks_per_node: int = 1


class RunState(StrEnum):
    """Where an attempt is, as its executor sees it."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    EXITED = "exited"
    LOST = "lost"


@dataclass(frozen=True)
class Run:
    """An attempt that the executor knows. ``exit_code`` is set once it has EXITED (128 + n: signal n).

    ``refused``: why it was not started at all, of one that is LOST; empty: it may have run. ``gpu_idxs``: the GPUs that
    it has on each node, where the engine chooses them; None: those of its lease, or not known yet. ``engine_gpu_ms``: of
    one that is over, its GPU time by the engine's own record, GPU-milliseconds; -1: the engine keeps none, or none yet.
    """

    lease_id: str
    fence: int
    state: RunState
    exit_code: int = -1
    started_ms: int = -1
    ended_ms: int = -1
    gpu_energy_mj: int = -1
    refused: str = ""
    gpu_idxs: Mapping[str, Sequence[int]] | None = None
    engine_gpu_ms: int = -1


@dataclass(frozen=True)
class Account:
    """What an engine's accounts say, after its end, that an attempt has used, GPU-milliseconds."""

    lease_id: str
    engine_gpu_ms: int


@runtime_checkable
class KeepsAccounts(Protocol):
    """An executor whose engine has accounts of its own, which come after the ends of attempts."""

    async def accounts(self) -> list[Account]:
        """Those that have come and were not settled yet."""
        ...

    async def settle(self, leases: Collection[str]) -> None:
        """The service has taken them in."""
        ...


class Executor(Protocol):
    """Launches, stops and reports attempts; what it has launched survives the death of its agent.

    Every call may be repeated: launching a lease that is known, stopping one that is gone, changes nothing.
    """

    async def open(self) -> None:
        """Take up what an earlier process of this agent has left running."""
        ...

    async def nodes(self) -> list[NodeInfo]:
        """The nodes that it can launch on now."""
        ...

    async def launch(self, launch: Launch) -> None:
        """Start an attempt, unless its lease was ever launched here.

        Raises
        ------
        LaunchError
            Nothing of it was started (a full disk, no process to be had), and it is not among `runs`. A command that
            does not exist or may not be run is no such error: it is EXITED with code 127 or 126.
        """
        ...

    async def stop(self, lease_id: str, *, signal: str, grace_ms: int) -> None:
        """Ask an attempt to leave: signal, after the grace SIGKILL, to every process of it."""
        ...

    async def runs(self) -> list[Run]:
        """Every attempt not yet forgotten."""
        ...

    async def changed(self) -> None:
        """Return once some attempt is in another state than when `runs` was last called."""
        ...

    async def forget(self, lease_id: str) -> None:
        """Drop an EXITED or LOST attempt whose end the service has taken in."""
        ...

    async def close(self) -> None:
        """Let go without stopping anything."""
        ...

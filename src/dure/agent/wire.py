"""What agent and service say to each other: the whole picture each time, so that lost, doubled or late words do no harm."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from dure.ports.executor import Account, NodeInfo, Run

#: What this agent speaks: the service takes this and the one before. 1 did not say.
PROTOCOL = 2
#: Progress in one report, of all attempts together, and of one at least, bytes of JSON: what is longer is left out.
PROGRESS_MAX, PROGRESS_OF_ONE = 4 << 20, 256


class _Message(BaseModel):
    # Keys that a newer service adds are passed over.
    model_config = ConfigDict(frozen=True, extra="ignore")


class InputFile(_Message):
    """A file that an earlier job of the pipeline has left in its outputs: found under ``name/path``."""

    job_id: str
    name: str
    path: str


class Role(_Message):
    """Unlike processes of a job: ``tasks`` of its last ranks."""

    name: str
    tasks: int
    command: tuple[str, ...]
    env: dict[str, str] = {}


class LaunchOrder(_Message):
    """What to start, and how."""

    argv: tuple[str, ...] = Field(min_length=1)
    env: dict[str, str] = {}
    setup: str = ""
    cwd: str = ""
    tasks_per_node: int = 1
    limit_ms: int = -1
    cpu_milli: int = 0
    mem_mib: int = 0
    array_index: int | None = None
    project: str = ""
    inputs: tuple[InputFile, ...] = ()
    outputs: tuple[str, ...] = ()
    cache: tuple[str, ...] = ()
    roles: tuple[Role, ...] = ()


class Part(_Message):
    """GPUs of one node."""

    node: str
    gpus: tuple[int, ...]
    gpu_milli: int = 1000


class LeaseOrder(_Message):
    """A lease that this agent should have. ``deadline_ms``: by the service's clock; -1: none. ``launch``: None of one that
    the report has named, and that goes on; nothing of it but who it is counts then.
    """

    lease_id: str = Field(min_length=1)
    fence: int
    job_id: str = Field(min_length=1)
    attempt: int
    action: Literal["run", "vacate", "stop"]
    deadline_ms: int = -1
    signal: str = "TERM"
    grace_ms: int = 30_000
    launch: LaunchOrder | None
    placements: tuple[Part, ...]


class Answer(_Message):
    """All leases that this agent should have now. ``seq``: of the report that it answers; ``now_ms``: service's clock."""

    now_ms: int
    ttl_ms: int = Field(gt=0)
    seq: int
    leases: tuple[LeaseOrder, ...]


def report(
    agent_id: str, boot: str, seq: int, nodes: Sequence[NodeInfo], runs: Iterable[Run], progress: Mapping[str, dict[str, Any]],
    log_bytes: Mapping[str, Sequence[int] | None], accounts: Sequence[Account],
) -> dict[str, Any]:  # fmt: skip
    """The body of a sync, to be answered at once.

    Parameters
    ----------
    progress : mapping
        Lease id → the last object that the attempt has reported.
    log_bytes : mapping
        Lease id of what is over → final size of the log of each rank; None: all of them have been sent before.
    """
    room = max(PROGRESS_MAX // max(len(progress), 1), PROGRESS_OF_ONE)
    progress = {lease: told for lease, told in progress.items() if len(json.dumps(told)) <= room}
    return {
        "protocol": PROTOCOL,
        "agent_id": agent_id,
        "boot": boot,
        "seq": seq,
        "nodes": [dict(vars(node)) for node in nodes],
        "runs": [_run(run, progress, log_bytes) for run in runs],
        "accounts": [dict(vars(account)) for account in accounts],
        "wait_s": 0.0,
    }


def _run(
    run: Run, progress: Mapping[str, dict[str, Any]], log_bytes: Mapping[str, Sequence[int] | None]
) -> dict[str, Any]:
    return {**vars(run), "progress": progress.get(run.lease_id), "log_bytes": log_bytes.get(run.lease_id)}

"""An attempt that runs on this machine: its tasks, and what is due to be done about it (no I/O)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dure.executors.cgroup import Cgroup
from dure.executors.ranks import Rank, ranks_of
from dure.model.events import Placement
from dure.ports.executor import Launch, Run, RunState

#: When one task has failed, the others have so long to end by themselves, and then so long from SIGTERM to SIGKILL.
PEER_WAIT_MS = 2_000
PEER_GRACE_MS = 5_000
_KILL_AGAIN_MS = 50


@dataclass(frozen=True)
class StopOrder:
    """It has been told to leave: ``signals`` were sent; SIGKILL at ``kill_at_boot_ms``."""

    signals: tuple[str, ...]
    kill_at_boot_ms: int


@dataclass
class Task:
    """One rank and its processes. ``pidfd`` is open while its shell runs; ``log_pid`` -1: no child of this process."""

    place: Rank
    rank_file: Path
    log_file: Path
    pid: int = -1
    pidfd: int = -1
    log_pid: int = -1
    is_child: bool = False
    is_ended: bool = False
    exit_code: int | None = None


@dataclass
class Attempt:
    """A lease that was launched here.

    Attributes
    ----------
    visible : mapping of str
        Node → what its tasks see of the GPUs.
    energy_start_mj : mapping of str
        GPU → its counter when the attempt started.
    started_boot_ms, started_ms : int
        The first decides, the second is told.
    """

    launch: Launch
    folder: Path
    visible: Mapping[str, tuple[str, ...]]
    master_port: int
    energy_start_mj: Mapping[str, int]
    boot: str
    started_boot_ms: int
    started_ms: int
    cgroup: Cgroup | None = None
    state: RunState = RunState.STARTING
    exit_code: int = -1
    ended_ms: int = -1
    gpu_energy_mj: int = -1
    stop: StopOrder | None = None
    failed_boot_ms: int | None = None
    first_failure: int = 0
    tasks: list[Task] = field(default_factory=list)
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        log_dir = Path(self.launch.log_dir)
        self.tasks = [
            Task(place, self.folder / f"{place.rank}.rank", log_dir / f"{place.rank}.log")
            for place in ranks_of(self.launch)
        ]

    @property
    def mark(self) -> str:
        """What tells its processes from all others of this machine (`process.LEASE_MARK`)."""
        return str(self.folder)

    @property
    def is_over(self) -> bool:
        """Whether it has been reported for good."""
        return self.state in (RunState.EXITED, RunState.LOST)

    @property
    def running(self) -> list[Task]:
        """The tasks that have not ended."""
        return [task for task in self.tasks if not task.is_ended]

    def run(self) -> Run:
        """What is reported of it."""
        return Run(
            self.launch.lease_id, self.launch.fence, self.state, self.exit_code, self.started_ms, self.ended_ms,
            self.gpu_energy_mj,
        )  # fmt: skip

    def end_task(self, task: Task, exit_code: int | None, now_ms: int) -> None:
        """A task has ended; None: without a trace."""
        task.is_ended, task.exit_code = True, exit_code
        if exit_code != 0 and self.failed_boot_ms is None:
            self.failed_boot_ms = now_ms
            self.first_failure = -1 if exit_code is None else exit_code

    def due_order(self, now_ms: int) -> tuple[str, int] | None:
        """(signal, grace) to send now: it has run over its limit, or one of its tasks has failed."""
        if self.stop is not None:
            return None
        if self._limit_at() is not None and now_ms >= (self._limit_at() or 0):
            return self.launch.stop_signal, self.launch.grace_ms
        if self.failed_boot_ms is not None and now_ms >= self.failed_boot_ms + PEER_WAIT_MS:
            return "TERM", PEER_GRACE_MS
        return None

    def is_kill_due(self, now_ms: int) -> bool:
        """Whether its time to leave is over."""
        return self.stop is not None and now_ms >= self.stop.kill_at_boot_ms

    def due_in_ms(self, now_ms: int) -> int | None:
        """When to look again; None: when something happens."""
        if self.stop is not None:
            return max(self.stop.kill_at_boot_ms - now_ms, _KILL_AGAIN_MS)
        dues = [self._limit_at(), None if self.failed_boot_ms is None else self.failed_boot_ms + PEER_WAIT_MS]
        return min((max(due - now_ms, 1) for due in dues if due is not None), default=None)

    def _limit_at(self) -> int | None:
        return None if self.launch.limit_ms < 0 else self.started_boot_ms + self.launch.limit_ms

    def outcome(self) -> tuple[RunState, int]:
        """State and exit code once no task runs: the first code that was not zero; LOST if a task left no trace."""
        if any(task.exit_code is None for task in self.tasks):
            return RunState.LOST, -1
        return RunState.EXITED, self.first_failure

    def intent(self) -> str:
        """All that a later process needs to take it up, as JSON."""
        return json.dumps(
            {
                "launch": launch_form(self.launch),
                "visible": dict(self.visible),
                "master_port": self.master_port,
                "energy_start_mj": dict(self.energy_start_mj),
                "boot": self.boot,
                "started_boot_ms": self.started_boot_ms,
                "started_ms": self.started_ms,
                "cgroup": "" if self.cgroup is None else str(self.cgroup.path),
            }
        )


def attempt_from(intent: str, stop: str | None, folder: Path) -> Attempt:
    """The inverse of `Attempt.intent`, with the stop order that was written since."""
    data: dict[str, Any] = json.loads(intent)
    launch = launch_from(data.pop("launch"))
    cgroup = data.pop("cgroup")
    visible = {node: tuple(devices) for node, devices in data.pop("visible").items()}
    return Attempt(
        **data, launch=launch, folder=folder, visible=visible,
        cgroup=Cgroup(Path(cgroup)) if cgroup else None, stop=None if stop is None else order_from_json(stop),
    )  # fmt: skip


def launch_form(launch: Launch) -> dict[str, Any]:
    """A launch as plain values, for JSON."""
    return {**asdict(launch), "placements": [asdict(part) for part in launch.placements]}


def launch_from(form: Mapping[str, Any]) -> Launch:
    """The inverse of `launch_form`."""
    placements = tuple(Placement(part["node"], tuple(part["gpus"]), part["gpu_milli"]) for part in form["placements"])
    return Launch(**{**form, "argv": tuple(form["argv"]), "placements": placements})


def order_to_json(order: StopOrder) -> str:
    """For the book."""
    return json.dumps(asdict(order))


def order_from_json(text: str) -> StopOrder:
    """The inverse of `order_to_json`."""
    data = json.loads(text)
    return StopOrder(tuple(data["signals"]), data["kill_at_boot_ms"])

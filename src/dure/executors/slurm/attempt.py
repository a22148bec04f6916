"""An attempt that is a Slurm job: what is known of it, and what is due to be done about it (no I/O)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dure.executors.attempt import PEER_GRACE_MS, PEER_WAIT_MS, launch_form, launch_from
from dure.executors.process import signal_number
from dure.executors.ranks import ranks_of
from dure.executors.slurm.engine import Shape
from dure.ports.executor import Launch, Run, RunState

_KILLED = 137
#: What does not end when it is killed is killed again after so long; a signal that has not come is sent again.
KILL_AGAIN_MS = 1_000
TELL_AGAIN_MS = 5_000


@dataclass(frozen=True)
class Now:
    """A moment by both clocks; ``boot`` names the boot that the first counts from."""

    boot_ms: int
    wall_ms: int
    boot: str


@dataclass(frozen=True)
class StopOrder:
    """It has been told to leave: ``signals`` in order; killed at ``kill_at_boot_ms``."""

    signals: tuple[str, ...]
    kill_at_boot_ms: int


@dataclass(frozen=True)
class RankEnd:
    """How a rank has ended, and when by the clock of the storage."""

    exit_code: int
    at_ns: int


@dataclass
class SlurmAttempt:
    """A lease that was launched here.

    Attributes
    ----------
    name, task : str, int
        The Slurm job's name, ours alone, and the index in its array.
    job : str
        What scancel calls it; empty: not known yet.
    is_handed_in : bool
        Slurm was asked to take it, and has answered or will not any more.
    told_boot_ms : dict of str
        Signal → when it was last sent.
    is_adopted : bool
        An earlier process has launched it.
    pending_boot_ms, started_boot_ms, failed_boot_ms, absent_boot_ms, ended_boot_ms, killed_boot_ms : int or None
        When it was first seen to wait, to run, to have a failed rank, to be unknown to Slurm, to have ended; last killed.
    """

    launch: Launch
    folder: Path
    shape: Shape
    name: str = ""
    task: int = 0
    job: str = ""
    is_handed_in: bool = False
    state: RunState = RunState.STARTING
    exit_code: int = -1
    started_ms: int = -1
    ended_ms: int = -1
    stop: StopOrder | None = None
    told_boot_ms: dict[str, int] = field(default_factory=dict)
    is_adopted: bool = False
    pending_boot_ms: int | None = None
    started_boot_ms: int | None = None
    failed_boot_ms: int | None = None
    absent_boot_ms: int | None = None
    ended_boot_ms: int | None = None
    killed_boot_ms: int | None = None

    @property
    def is_over(self) -> bool:
        """Whether it has been reported for good."""
        return self.state in (RunState.EXITED, RunState.LOST)

    @property
    def is_gang(self) -> bool:
        """Whether it has several nodes."""
        return len(self.shape.nodes) > 1

    @property
    def world(self) -> int:
        """Number of ranks."""
        return len(ranks_of(self.launch))

    def run(self) -> Run:
        """What is reported of it."""
        return Run(
            self.launch.lease_id, self.launch.fence, self.state, self.exit_code, self.started_ms, self.ended_ms
        )

    def order(self, signal: str, kill_at_boot_ms: int) -> bool:
        """Tell it to leave, no later than before; False: it was told as much."""
        known = self.stop
        if known is not None:
            if signal in known.signals and known.kill_at_boot_ms <= kill_at_boot_ms:
                return False
            kill_at_boot_ms = min(kill_at_boot_ms, known.kill_at_boot_ms)
        signals = known.signals if known is not None else ()
        self.stop = StopOrder(signals if signal in signals else (*signals, signal), kill_at_boot_ms)
        self.state = RunState.STOPPING
        return True

    def see_begun(self, started_ms: int, now: Now) -> None:
        """Its batch script has claimed it, at some moment by the clock of the storage."""
        self.started_ms = started_ms
        # Another machine's clock may be wrong: it is asked only for what an earlier process has started.
        ago_ms = max(now.wall_ms - started_ms, 0) if self.is_adopted else 0
        self.started_boot_ms = now.boot_ms - ago_ms
        if self.state is RunState.STARTING:
            self.state = RunState.RUNNING

    def see_ends(self, ends: Mapping[int, RankEnd], now: Now) -> None:
        """Some of its ranks have ended."""
        if self.failed_boot_ms is None and any(end.exit_code for end in ends.values()):
            self.failed_boot_ms = now.boot_ms

    def due_order(self, now_ms: int) -> tuple[str, int] | None:
        """(signal, grace) to send now: it has run over its limit, or one of its ranks has failed."""
        if self.stop is not None or self.is_over:
            return None
        limit_at = self._limit_at()
        if limit_at is not None and now_ms >= limit_at:
            return self.launch.stop_signal, self.launch.grace_ms
        if self.failed_boot_ms is not None and now_ms >= self.failed_boot_ms + PEER_WAIT_MS:
            return "TERM", PEER_GRACE_MS
        return None

    def is_kill_due(self, now_ms: int) -> bool:
        """Whether its time to leave is over."""
        return self.stop is not None and now_ms >= self.stop.kill_at_boot_ms

    def due_at(self) -> int | None:
        """When to act next, by the clock since boot; None: when something happens."""
        if self.is_over:
            return None
        if self.stop is not None:
            return self.stop.kill_at_boot_ms if self.killed_boot_ms is None else self.killed_boot_ms + KILL_AGAIN_MS
        dues = [self._limit_at(), None if self.failed_boot_ms is None else self.failed_boot_ms + PEER_WAIT_MS]
        return min((due for due in dues if due is not None), default=None)

    def _limit_at(self) -> int | None:
        if self.launch.limit_ms < 0 or self.started_boot_ms is None:
            return None
        return self.started_boot_ms + self.launch.limit_ms

    def code_of(self, ends: Mapping[int, RankEnd]) -> int | None:
        """Its exit code, of the ends of all ranks: the first that was not zero; None: some have left none."""
        if len(ends) < self.world:
            return None
        failures = sorted((end.at_ns, rank, end.exit_code) for rank, end in ends.items() if end.exit_code)
        return failures[0][2] if failures else 0

    def code_of_stop(self, now_ms: int) -> int:
        """Exit code of what was told to leave and has left no other."""
        assert self.stop is not None
        return _KILLED if self.is_kill_due(now_ms) else 128 + signal_number(self.stop.signals[-1])

    def intent(self) -> str:
        """All that a later process needs to take it up, as JSON."""
        return json.dumps(
            {"launch": launch_form(self.launch), "shape": asdict(self.shape), "name": self.name, "task": self.task}
        )


def attempt_from(intent: str, stop: str | None, folder: Path, now: Now) -> SlurmAttempt:
    """The inverse of `SlurmAttempt.intent`, with the stop order that was written since."""
    data: dict[str, Any] = json.loads(intent)
    shape = Shape(**{**data["shape"], "nodes": tuple(data["shape"]["nodes"])})
    found = SlurmAttempt(
        launch_from(data["launch"]), folder, shape, data["name"], data["task"], is_handed_in=True, is_adopted=True
    )
    if stop is not None:
        found.stop = order_from_json(stop, now)
        found.state = RunState.STOPPING
    return found


def order_to_json(order: StopOrder, now: Now) -> str:
    """For the book."""
    wall_ms = now.wall_ms + order.kill_at_boot_ms - now.boot_ms
    return json.dumps({**asdict(order), "boot": now.boot, "kill_at_ms": wall_ms})


def order_from_json(text: str, now: Now) -> StopOrder:
    """The inverse of `order_to_json`; jobs outlive a reboot of this machine, so that then the other clock decides."""
    data = json.loads(text)
    kill_at = data["kill_at_boot_ms"] if data["boot"] == now.boot else now.boot_ms + data["kill_at_ms"] - now.wall_ms
    return StopOrder(tuple(data["signals"]), kill_at)

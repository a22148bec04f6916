"""An attempt that runs on other machines: what is known of it by either clock, and what is due to be done about it (no I/O)."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from dure.executors.attempt import PEER_GRACE_MS, PEER_WAIT_MS, StopOrder
from dure.executors.process import signal_number
from dure.executors.ranks import ranks_of
from dure.model.errors import DureError
from dure.ports.executor import Launch, LaunchError, Run, RunState

#: Below an executor's root on shared storage: a folder for each attempt.
LEASES = "leases"
_KILLED = 137
#: What does not end when it is killed is killed again after so long; a signal that has not come is sent again.
KILL_AGAIN_MS = 1_000
TELL_AGAIN_MS = 5_000


class SilentError(DureError):
    """The cluster has not answered. ``is_sent`` False: it was not even asked, so that nothing was done."""

    def __init__(self, why: str, *, is_sent: bool = True) -> None:
        super().__init__(why)
        self.is_sent = is_sent


@dataclass(frozen=True)
class Now:
    """A moment by both clocks; ``boot`` names the boot that the first counts from."""

    boot_ms: int
    wall_ms: int
    boot: str


@dataclass(frozen=True)
class RankEnd:
    """How a rank has ended, and when by the clock of the storage."""

    exit_code: int
    at_ns: int


@dataclass
class FarAttempt:
    """A lease that was launched here, to run there.

    Attributes
    ----------
    folder : Path
        On storage that this machine and the others share.
    refused : str
        Why it was not started at all; empty: it may have run.
    told_boot_ms : dict of str
        Signal → when it was last sent.
    is_adopted : bool
        An earlier process has launched it.
    pending_boot_ms, started_boot_ms, failed_boot_ms, absent_boot_ms, killed_boot_ms : int or None
        When it was first seen to wait, to run, to have a failed rank, to be unknown to the engine; last killed.
    """

    launch: Launch
    folder: Path
    state: RunState = field(default=RunState.STARTING, kw_only=True)
    exit_code: int = field(default=-1, kw_only=True)
    started_ms: int = field(default=-1, kw_only=True)
    ended_ms: int = field(default=-1, kw_only=True)
    stop: StopOrder | None = field(default=None, kw_only=True)
    refused: str = field(default="", kw_only=True)
    told_boot_ms: dict[str, int] = field(default_factory=dict, kw_only=True)
    is_adopted: bool = field(default=False, kw_only=True)
    pending_boot_ms: int | None = field(default=None, kw_only=True)
    started_boot_ms: int | None = field(default=None, kw_only=True)
    failed_boot_ms: int | None = field(default=None, kw_only=True)
    absent_boot_ms: int | None = field(default=None, kw_only=True)
    killed_boot_ms: int | None = field(default=None, kw_only=True)

    @property
    def is_over(self) -> bool:
        """Whether it has been reported for good."""
        return self.state in (RunState.EXITED, RunState.LOST)

    @property
    def world(self) -> int:
        """Number of ranks."""
        return len(ranks_of(self.launch))

    def run(self) -> Run:
        """What is reported of it."""
        return Run(
            self.launch.lease_id, self.launch.fence, self.state, self.exit_code, self.started_ms, self.ended_ms,
            refused=self.refused,
        )  # fmt: skip

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


def gpus_by_node(launch: Launch, nodes: Container[str], engine: str) -> dict[str, int]:
    """Number of GPUs of a launch on each of its nodes, in the order of its placements.

    Raises
    ------
    LaunchError
        It cannot run here: a node that is not there, or parts of GPUs.
    """
    gpus: dict[str, int] = {}
    for part in launch.placements:
        if part.node not in nodes:
            raise LaunchError(f"{launch.lease_id}: there is no node {part.node!r} here")
        if part.gpus and part.gpu_milli != 1000:
            raise LaunchError(f"{launch.lease_id}: parts of GPUs are not for {engine} sites, which lend whole ones")
        gpus[part.node] = gpus.get(part.node, 0) + len(part.gpus)
    return gpus


def order_to_json(order: StopOrder, now: Now) -> str:
    """For the book."""
    wall_ms = now.wall_ms + order.kill_at_boot_ms - now.boot_ms
    return json.dumps({**asdict(order), "boot": now.boot, "kill_at_ms": wall_ms})


def order_from_json(text: str, now: Now) -> StopOrder:
    """The inverse of `order_to_json`; jobs outlive a reboot of this machine, so that then the other clock decides."""
    data = json.loads(text)
    kill_at = data["kill_at_boot_ms"] if data["boot"] == now.boot else now.boot_ms + data["kill_at_ms"] - now.wall_ms
    return StopOrder(tuple(data["signals"]), kill_at)

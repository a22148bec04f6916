"""What is alike in executors whose attempts run on other machines: a cluster that may be silent, and storage that is shared."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from abc import abstractmethod
from collections.abc import Awaitable, Coroutine
from pathlib import Path
from typing import Generic, TextIO, TypeVar
from urllib.parse import quote

import structlog

from dure.executors.booked import BookedExecutor
from dure.executors.clock import Clock
from dure.executors.far import LEASES, FarAttempt, Now, SilentError, order_to_json
from dure.executors.lease_book import BookUnwritableError
from dure.executors.process import boot_id, signal_number
from dure.model.errors import DureError
from dure.ports.executor import Launch, NodeInfo, RunState

_log = structlog.get_logger(__name__)
F = TypeVar("F", bound=FarAttempt)


class FarExecutor(BookedExecutor[F], Generic[F]):
    """Its state, its attempts, and what to do when they are told to leave or are over.

    Parameters
    ----------
    engine : str
        How the cluster is called in the log, and in the names of folders.
    state_dir : Path
        What must outlive the agent, on a disk of this machine; for one executor at a time.
    shared_dir : Path
        On storage that this machine and every node see under the same path.
    """

    _lock: TextIO

    def __init__(self, engine: str, state_dir: Path, shared_dir: Path, clock: Clock | None) -> None:
        super().__init__()
        self._engine_name = engine
        self._dir = state_dir.resolve()
        self._shared = shared_dir.resolve()
        self._clock = clock or Clock()
        self._boot = boot_id()
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._is_silent = False
        self._offered: list[NodeInfo] = []

    # --- state

    def _tag(self) -> str:
        """Sets what this state has in the cluster apart from that of every other."""
        path = self._dir / "tag"
        if not path.exists():
            path.with_suffix(".new").write_text(secrets.token_hex(4))
            path.with_suffix(".new").rename(path)
        return path.read_text()

    @property
    def _root(self) -> Path:
        return self._shared / f"{self._engine_name}-{self._tag()}"

    def _folder(self, lease_id: str) -> Path:
        return self._root / LEASES / quote(lease_id, safe="").replace(".", "%2E")

    def _now(self) -> Now:
        return Now(self._clock.boot_ms(), self._clock.wall_ms(), self._boot)

    def _living(self) -> dict[str, F]:
        return {lease_id: attempt for lease_id, attempt in self._attempts.items() if not attempt.is_over}

    async def _drop(self, attempt: F) -> None:
        self._attempts.pop(attempt.launch.lease_id, None)
        await asyncio.to_thread(self._remove, attempt.folder)

    @staticmethod
    @abstractmethod
    def _remove(folder: Path) -> None:
        """Take away all that an attempt has on shared storage; without it nobody can begin it."""

    def _remove_strays(self) -> None:
        """Folders of launches that were never written down: nothing has run there."""
        known = {self._folder(lease_id).name for lease_id in self._attempts}
        for folder in (self._root / LEASES).iterdir():
            if folder.name not in known:
                self._remove(folder)

    # --- nodes

    async def nodes(self) -> list[NodeInfo]:
        """The nodes that it can launch on."""
        return list(self._offered)

    def _offer_now(self, offered: list[NodeInfo]) -> None:
        if offered != self._offered:
            self._offered = offered
            self._changed.set()

    @abstractmethod
    async def _survey(self) -> None:
        """Look at the cluster's nodes."""

    @abstractmethod
    def _take_kept(self, text: str) -> None:
        """Take the nodes to be as `_keep_cluster` was told."""

    def _keep_cluster(self, text: str) -> None:
        """What the cluster is like, for when it is silent as the agent comes back."""
        path = self._dir / "cluster.json"
        with contextlib.suppress(OSError):
            path.with_suffix(".new").write_text(text)
            path.with_suffix(".new").rename(path)

    async def _survey_first(self) -> None:
        """The nodes; where the cluster is silent, as they were last: that it does not answer ends nothing."""
        path = self._dir / "cluster.json"
        try:
            await self._survey()
        except SilentError as error:
            if not path.exists():
                raise
            _log.warning(f"{self._engine_name} is silent", error=str(error))
            self._is_silent = True
            self._take_kept(path.read_text())

    # --- work beside

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("jobs are not looked after any more", engine=self._engine_name, exc_info=task.exception())

    async def _try(self, work: Awaitable[None]) -> None:
        """What the cluster does not answer is tried again, and nothing is concluded."""
        try:
            await work
        except (DureError, OSError) as error:
            if not self._is_silent:
                _log.warning(f"{self._engine_name} is silent", error=str(error))
            self._is_silent = True
        else:
            if self._is_silent:
                _log.info(f"{self._engine_name} answers")
            self._is_silent = False

    async def _pause(self, pause_ms: int) -> None:
        # Not `wait_for`, which forgets that it was cancelled when what it waits for comes at that moment.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_ms / 1000):
                await self._wake.wait()
        self._wake.clear()

    # --- stopping

    async def stop(self, lease_id: str, *, signal: str, grace_ms: int) -> None:
        """Ask an attempt to leave: signal, after the grace SIGKILL, to every process of it."""
        attempt = self._attempts.get(lease_id)
        if attempt is not None and not attempt.is_over:
            await self._order(attempt, signal, grace_ms)

    async def _order(self, attempt: F, signal: str, grace_ms: int) -> None:
        signal_number(signal)
        if not attempt.order(signal, self._clock.boot_ms() + grace_ms):
            return
        self._changed.set()
        self._wake.set()
        assert attempt.stop is not None
        try:
            await self._book.order_stop(attempt.launch.lease_id, order_to_json(attempt.stop, self._now()))
        except BookUnwritableError as error:
            _log.warning("a stop is not remembered", lease=attempt.launch.lease_id, error=str(error))

    # --- ends

    def _finish(self, attempt: F, state: RunState, code: int = -1) -> None:
        attempt.state, attempt.exit_code = state, code
        now_ms = self._clock.wall_ms()
        if state is RunState.EXITED and attempt.started_ms < 0:
            attempt.started_ms = now_ms
        attempt.ended_ms = max(attempt.ended_ms if attempt.ended_ms >= 0 else now_ms, attempt.started_ms)
        self._changed.set()

    def _finish_unbegun(self, attempt: F, why: str) -> None:
        """It has not begun, and never will."""
        if attempt.stop is not None:
            self._finish(attempt, RunState.EXITED, 128 + signal_number(attempt.stop.signals[-1]))
            return
        _log.warning("lost", lease=attempt.launch.lease_id, why=why)
        write_note(attempt.launch, why)
        self._finish(attempt, RunState.LOST)

    def _finish_traceless(self, attempt: F, why: str) -> None:
        """It has begun and left no end: killed by us, if its time was over."""
        now_ms = self._clock.boot_ms()
        if attempt.is_kill_due(now_ms):
            self._finish(attempt, RunState.EXITED, attempt.code_of_stop(now_ms))
            return
        _log.warning("lost", lease=attempt.launch.lease_id, why=why)
        self._finish(attempt, RunState.LOST)

    async def close(self) -> None:
        """Let go without stopping anything."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._book.close()
        self._lock.close()


def write_note(launch: Launch, why: str) -> None:
    """Tell the user, in the log of an attempt that did not start."""
    with contextlib.suppress(OSError), (Path(launch.log_dir) / "0.log").open("a") as file:
        file.write(f"dure: {why}\n")

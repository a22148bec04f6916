"""Tenants that `dure ran govern` starts for itself: leases of a local executor, each as greedy as a tenant can be."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from dure.executors.local import LocalExecutor
from dure.executors.local_nodes import find_nodes
from dure.model.events import Placement
from dure.ports.executor import Launch, RunState
from dure.ran.tenant_worker import rounds_done

_NODE = "node"


class OwnTenants:
    """So many leases in a folder, each with a process on every core.

    Parameters
    ----------
    folder : Path
        For the executor's state and what they have done.
    """

    def __init__(self, folder: Path, num: int, num_cores: int) -> None:
        self._folder, self._num, self._num_cores = folder, num, num_cores

    @property
    def state_dir(self) -> Path:
        """Of their executor."""
        return self._folder / "executor"

    def _executor(self) -> LocalExecutor:
        return LocalExecutor(self.state_dir, find_nodes((_NODE,), self._num, "slot"))

    def _counts(self, number: int) -> Path:
        return self._folder / f"{number}.rounds"

    def start(self) -> None:
        """Launch them and let go: they run on without their executor."""
        asyncio.run(self._start())

    async def _start(self) -> None:
        executor = self._executor()
        await executor.open()
        for number in range(self._num):
            argv = (sys.executable, "-P", "-m", "dure.ran.tenant_worker", str(self._counts(number)), str(self._num_cores))
            await executor.launch(
                Launch(
                    f"tenant-{number}.1", number + 1, f"tenant-{number}", 1, argv, (Placement(_NODE, (number,)),),
                    log_dir=str(self._folder / "logs" / str(number)), checkpoint_dir=str(self._folder / "checkpoints"),
                )
            )  # fmt: skip
        await executor.close()

    def rounds(self) -> int:
        """What all have done so far."""
        return sum(rounds_done(self._counts(number)) for number in range(self._num))

    def are_at_work(self) -> bool:
        """Whether each of them has begun."""
        return all(rounds_done(self._counts(number)) for number in range(self._num))

    def end(self) -> None:
        """End all, whether they run or stand; returns when none is left."""
        asyncio.run(self._end())

    async def _end(self) -> None:
        executor = self._executor()
        await executor.open()
        for run in await executor.runs():
            await executor.stop(run.lease_id, signal="KILL", grace_ms=0)
        while any(run.state not in (RunState.EXITED, RunState.LOST) for run in await executor.runs()):
            await executor.changed()
        for run in await executor.runs():
            await executor.forget(run.lease_id)
        await executor.close()

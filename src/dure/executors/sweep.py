"""Without cgroups: find and end every process of an attempt, one look at /proc for many attempts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection

from dure.executors.process import kill_members

#: Looking takes at most one part in so many of the time.
_REST = 4
_TRIES_MAX = 40


class Sweeper:
    """Attempts that are to be ended while one look is under way share the next."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[asyncio.Future[None], frozenset[int]]] = {}
        self._task: asyncio.Task[None] | None = None

    async def sweep(self, mark: str, shells: Collection[int] = ()) -> None:
        """Return when no process of an attempt is left but its shells (or none of them heeds SIGKILL)."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[mark] = done, frozenset(shells)
        if self._task is None:
            self._task = asyncio.create_task(self._sweep_all())
        await done

    async def _sweep_all(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, {}
            began = time.monotonic()
            shells = frozenset().union(*(shells for _, shells in batch.values()))
            for _ in range(_TRIES_MAX):
                if not await asyncio.to_thread(kill_members, frozenset(batch), shells, spared=shells):
                    break
                await asyncio.sleep(0.01)
            for done, _ in batch.values():
                if not done.done():
                    done.set_result(None)
            await asyncio.sleep((time.monotonic() - began) * _REST)
        self._task = None

    async def close(self) -> None:
        """Give up what is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

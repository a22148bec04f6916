"""Checkpoints brought to where an attempt begins, and copied away from where it has ended, beside the agent's loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

import structlog

from dure.agent.checkpoint_store import CheckpointStore, StoreError
from dure.agent.contact import Backoff
from dure.agent.folders import Folders
from dure.agent.reconcile import job_of
from dure.ports.executor import LaunchError
from dure.whole_file import whole_file

#: So long an end is held back for the copy of what the attempt has left, if the store does not take it.
KEEP_TRYING_S = 600.0
#: So long a start is, for a copy that the store does not give.
FETCH_TRYING_S = 60.0

_log = structlog.get_logger(__name__)


class Checkpoints:
    """An attempt begins with the newest copy there is, or with what the last attempt has left here if that is newer.

    Parameters
    ----------
    changed : callable
        Called when there is something new to ask for.
    """

    def __init__(self, store: CheckpointStore, folders: Folders, backoff: Callable[[], Backoff], changed: Callable[[], None]) -> None:
        self._store = store
        self._folders = folders
        self._backoff = backoff
        self._changed = changed
        self._fetching: dict[str, asyncio.Task[None]] = {}
        self._keeping: dict[str, asyncio.Task[None]] = {}
        #: Of the jobs of one remainder one at a time: what was given up may still be under way in its thread.
        self._locks = [threading.Lock() for _ in range(64)]

    def is_here(self, lease_id: str, fence: int) -> bool:
        """Whether an attempt may begin; if not, ask again after ``changed``.

        Raises
        ------
        LaunchError
            Its checkpoint cannot be had.
        """
        task = self._fetching.get(lease_id)
        if task is None:
            fetch = self._try(lambda: asyncio.to_thread(self._fetch, job_of(lease_id), fence), FETCH_TRYING_S)
            task = self._fetching[lease_id] = self._start(fetch, f"checkpoint for {lease_id}")
        if not task.done():
            return False
        del self._fetching[lease_id]
        error = task.exception()
        if error is not None:
            raise LaunchError(f"{lease_id}: {error}") from error
        return True

    def is_kept(self, lease_id: str, fence: int) -> bool:
        """Whether what an attempt has left is copied, or cannot be; if not, ask again after ``changed``."""
        task = self._keeping.get(lease_id)
        if task is None:
            keep = self._try(lambda: asyncio.to_thread(self._keep, job_of(lease_id), fence), KEEP_TRYING_S)
            task = self._keeping[lease_id] = self._start(keep, f"checkpoint of {lease_id}")
        if not task.done():
            return False
        error = task.exception()
        if error is not None:
            _log.error("a checkpoint is only here", lease=lease_id, error=str(error))
        return True

    def coming(self) -> list[str]:
        """Attempts whose checkpoints are on their way."""
        return [lease_id for lease_id, task in self._fetching.items() if not task.done()]

    def fetch_only_for(self, leases: Collection[str]) -> None:
        """All others need not begin any more."""
        for lease_id in set(self._fetching) - set(leases):
            self._fetching.pop(lease_id).cancel()

    def forget(self, leases: Collection[str]) -> None:
        """Attempts whose ends are known; a copy that is under way goes on."""
        for lease_id in leases:
            self._keeping.pop(lease_id, None)

    async def close(self) -> None:
        """Give up what is under way: the next agent begins it again."""
        tasks = [*self._fetching.values(), *self._keeping.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, work: Awaitable[None], name: str) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        task.set_name(name)
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            # Asked for here, or asyncio complains of one that nobody waits for any more.
            task.exception()
            self._changed()

    async def _try(self, work: Callable[[], Awaitable[None]], for_s: float) -> None:
        until = asyncio.get_running_loop().time() + for_s
        backoff = self._backoff()
        while True:
            try:
                return await work()
            except StoreError as error:
                pause_s = backoff.pause_s()
                if asyncio.get_running_loop().time() + pause_s > until:
                    raise
                _log.warning("the store of checkpoints", error=str(error), pause_s=round(pause_s, 2))
                await asyncio.sleep(pause_s)

    def _lock(self, job_id: str) -> threading.Lock:
        return self._locks[hash(job_id) % len(self._locks)]

    def _fetch(self, job_id: str, fence: int) -> None:
        """Make the folder the newest; and note, before anything is written to it, whose it is from now on."""
        folder, note = self._folders.checkpoint(job_id), self._folders.checkpoint_note(job_id)
        with self._lock(job_id):
            known = _read(note)
            if known > fence:
                raise StoreError(f"a later attempt of {job_id} has begun here")
            copy = self._store.newest(job_id, fence)
            if copy is not None and copy.fence > known:
                self._store.fetch(copy, folder)
                _log.info("checkpoint fetched", job=job_id, fence=copy.fence, bytes=copy.size)
            try:
                note.parent.mkdir(parents=True, exist_ok=True)
                with whole_file(note) as draft:
                    draft.write_text(str(fence))
            except OSError as error:
                raise StoreError(f"{note}: {error}") from error

    def _keep(self, job_id: str, fence: int) -> None:
        with self._lock(job_id):
            if _read(self._folders.checkpoint_note(job_id)) != fence:
                # The folder is not this attempt's: a later one has begun here.
                return
            copy = self._store.keep(job_id, fence, self._folders.checkpoint(job_id))
        if copy is not None:
            _log.info("checkpoint copied", job=job_id, fence=fence, bytes=copy.size)


def _read(note: Path) -> int:
    """The fence of the attempt that a folder was last given to; -1: none."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return int(note.read_text())
    return -1

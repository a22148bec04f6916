"""Logs on their way to the service: from files, by offset, each byte once, at a bounded pace."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from dure.agent.contact import Backoff
from dure.agent.folders import Folders
from dure.executors.clock import Clock

_CHUNK = 256 << 10
_AT_A_TIME = 8
_EVERY_S = 0.25
_FREE_MIN = 1 << 20

_log = structlog.get_logger(__name__)


class NotTakenError(Exception):
    """The service could not be reached, or could not take it now."""


class UnknownLogError(Exception):
    """The service does not want this log, now or ever."""


#: (lease id, rank, offset, bytes) → the offset that the service has then. NotTakenError, UnknownLogError.
Post = Callable[[str, int, int, bytes], Awaitable[int]]


@dataclass
class _Stream:
    rank: int
    #: None: what the service has is asked first.
    offset: int | None
    is_refused: bool = False


@dataclass
class _Logs:
    """All of an attempt; ``allowance``: bytes that it may send now."""

    lease_id: str
    is_fresh: bool
    allowance: float
    filled_boot_ms: int
    is_over: bool = False
    streams: dict[int, _Stream] = field(default_factory=dict)


class LogShipper:
    """Sends what the tasks write.

    Parameters
    ----------
    bytes_per_s : int
        Of each attempt, on average; what comes faster stays in its file until there is time.
    """

    def __init__(
        self, folders: Folders, post: Post, clock: Clock, backoff: Backoff, bytes_per_s: int = 2 << 20, burst: int = 8 << 20
    ) -> None:
        self._folders, self._post, self._clock, self._backoff = folders, post, clock, backoff
        self._bytes_per_s, self._burst = bytes_per_s, burst
        self._logs: dict[str, _Logs] = {}
        self._wake = asyncio.Event()
        self._slots = asyncio.Semaphore(_AT_A_TIME)
        self._is_disk_full = False
        self._num_taken = 0

    def follow(self, lease_id: str, *, is_fresh: bool) -> None:
        """Send the logs of an attempt from now on; fresh: the service has nothing of them yet."""
        if lease_id not in self._logs:
            self._logs[lease_id] = _Logs(lease_id, is_fresh, self._burst, self._clock.boot_ms())

    def end(self, lease_id: str) -> None:
        """Nothing more will be written."""
        logs = self._logs.get(lease_id)
        if logs is not None and not logs.is_over:
            logs.is_over = True
            self._wake.set()

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _EVERY_S)
            self._wake.clear()
            self._look_at_disk()
            error = await self._sweep()
            if error is None:
                self._backoff.reset()
            else:
                pause_s = self._backoff.pause_s()
                _log.info("logs wait", pause_s=round(pause_s, 2), error=str(error))
                await asyncio.sleep(pause_s)

    async def _sweep(self) -> NotTakenError | None:
        """A turn for every attempt; why none of it got through, if it was tried. One piece that is lost holds up no other."""
        self._num_taken, errors = 0, list[NotTakenError]()

        async def take_turn(logs: _Logs) -> None:
            try:
                await self._turn(logs)
            except NotTakenError as error:
                errors.append(error)
            finally:
                self._slots.release()

        async with asyncio.TaskGroup() as group:
            for logs in list(self._logs.values()):
                await self._slots.acquire()
                if len(errors) >= _AT_A_TIME and not self._num_taken:
                    self._slots.release()
                    break
                group.create_task(take_turn(logs))
        return errors[0] if errors and not self._num_taken else None

    def _look_at_disk(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            found = os.statvfs(self._folders.logs)
            is_full = found.f_bavail * found.f_frsize < _FREE_MIN
            if is_full and not self._is_disk_full:
                _log.error("disk full", folder=str(self._folders.logs), detail="logs are cut and nothing is launched; jobs go on")
            self._is_disk_full = is_full

    async def _turn(self, logs: _Logs) -> None:
        """Send some of what an attempt has written; drop its files when all of them is sent."""
        is_over = logs.is_over
        self._fill(logs)
        self._find_streams(logs)
        is_sent = True
        for stream in logs.streams.values():
            is_sent = await self._send(logs, stream) and is_sent
        if is_over and is_sent:
            del self._logs[logs.lease_id]
            shutil.rmtree(self._folders.log(logs.lease_id), ignore_errors=True)
        elif not is_sent and logs.allowance >= 1:
            self._wake.set()

    def _fill(self, logs: _Logs) -> None:
        now_ms = self._clock.boot_ms()
        added = (now_ms - logs.filled_boot_ms) * self._bytes_per_s / 1000
        logs.allowance, logs.filled_boot_ms = min(logs.allowance + added, self._burst), now_ms

    def _find_streams(self, logs: _Logs) -> None:
        try:
            with os.scandir(self._folders.log(logs.lease_id)) as entries:
                ranks = [int(entry.name[:-4]) for entry in entries if entry.name.endswith(".log")]
        except FileNotFoundError:
            return
        for rank in sorted(ranks):
            logs.streams.setdefault(rank, _Stream(rank, 0 if logs.is_fresh else None))

    async def _taken(self, lease_id: str, rank: int, offset: int, piece: bytes) -> int:
        found = await self._post(lease_id, rank, offset, piece)
        self._num_taken += 1
        return found

    async def _send(self, logs: _Logs, stream: _Stream) -> bool:
        """One piece of one log; whether the service has all of it."""
        if stream.is_refused:
            return True
        path = self._folders.log(logs.lease_id) / f"{stream.rank}.log"
        try:
            size = path.stat().st_size
            if stream.offset is None:
                stream.offset = await self._taken(logs.lease_id, stream.rank, size, b"")
            num = min(size - stream.offset, _CHUNK, int(logs.allowance))
            if num <= 0:
                return stream.offset >= size
            with path.open("rb") as file:
                file.seek(stream.offset)
                piece = file.read(num)
            stream.offset = await self._taken(logs.lease_id, stream.rank, stream.offset, piece)
            logs.allowance -= len(piece)
        except UnknownLogError as error:
            _log.warning("a log is not wanted", lease=logs.lease_id, rank=stream.rank, error=str(error))
            stream.is_refused = True
            return True
        except FileNotFoundError:
            return True
        return stream.offset >= size

"""An HTTP proxy that does to requests and answers what bad networks do: loses, delays, doubles, reorders, parts."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

#: Longest that anything may take that is not lost.
PATIENCE_S = 60.0


@dataclass
class Faults:
    """How bad it is.

    Attributes
    ----------
    loss : float
        Part of the requests, and again of the answers, that are lost: the connection breaks, late or at once.
    delay_s : float
        Longest that a request, and again an answer, is held back.
    doubled, late : float
        Part of the requests that come twice at one moment; that come once more after others have come.
    requests_pass, answers_pass : bool
        False: a partition in that direction.
    """

    loss: float = 0.0
    delay_s: float = 0.0
    doubled: float = 0.0
    late: float = 0.0
    late_s: float = 3.0
    requests_pass: bool = True
    answers_pass: bool = True
    counts: Counter = field(default_factory=Counter)


class FaultyProxy:
    """Between agents and the service at a port; `faults` may be changed at any time."""

    def __init__(self, port: int, faults: Faults, seed: int) -> None:
        self._target, self.faults, self._chance = port, faults, random.Random(seed)
        self._tasks: set[asyncio.Task] = set()

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        is_up = threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(self._run(is_up)))
        thread.start()
        assert is_up.wait(10)
        try:
            yield f"http://127.0.0.1:{self.port}"
        finally:
            self._loop.call_soon_threadsafe(self._done.set)
            thread.join()

    async def _run(self, is_up: threading.Event) -> None:
        self._loop, self._done = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        is_up.set()
        await self._done.wait()
        server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while (request := await _message(reader)) is not None:
                answer = await self._carry(request)
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _carry(self, request: bytes) -> bytes | None:
        """Take a request to the service and its answer back; None: the connection breaks."""
        chance, faults = self._chance, self.faults
        faults.counts["requests"] += 1
        await asyncio.sleep(chance.uniform(0, faults.delay_s))
        if not faults.requests_pass or chance.random() < faults.loss:
            return await self._lost("requests lost")
        if chance.random() < faults.late:
            self._apart(self._again(request, chance.uniform(0.2, faults.late_s)))
        if chance.random() < faults.doubled:
            faults.counts["doubled"] += 1
            self._apart(self._ask(request))
        answer = await self._ask(request)
        await asyncio.sleep(chance.uniform(0, faults.delay_s))
        if answer is None or not faults.answers_pass or chance.random() < faults.loss:
            return await self._lost("answers lost")
        return answer

    async def _lost(self, what: str) -> None:
        """Half of what is lost is noticed at once, half only when somebody's patience is over, or nearly so."""
        self.faults.counts[what] += 1
        if self._chance.random() < 0.5:
            await asyncio.sleep(self._chance.uniform(0, 2 * self.faults.delay_s))

    async def _again(self, request: bytes, pause_s: float) -> None:
        """The same request once more, when others have overtaken it."""
        await asyncio.sleep(pause_s)
        if self.faults.requests_pass:
            self.faults.counts["late"] += 1
            await self._ask(request)

    def _apart(self, work) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, request: bytes) -> bytes | None:
        writer = None
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._target)
            writer.write(request)
            return await asyncio.wait_for(_message(reader), PATIENCE_S)
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            return None
        finally:
            if writer is not None:
                writer.transport.abort()


async def _message(reader: asyncio.StreamReader) -> bytes | None:
    """A request or an answer, whole; None: there is no other."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
        assert name.lower() != b"transfer-encoding", "messages between agent and service say how long they are"
    return head + (await reader.readexactly(length) if length else b"")

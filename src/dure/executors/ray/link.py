"""The agent's end of the pipe to the process that speaks to Ray (`dure.executors.ray.driver`), which is started when it is needed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

from dure.executors.far import SilentError
from dure.executors.ranks import inherited_env
from dure.model.errors import DureError

_KNOCK_S, _CONNECT_S, _ANSWER_S = 5.0, 60.0, 20.0
#: A cluster that could not be reached is left alone for so long.
_PAUSE_S = 2.0
_LINE_MAX = 64 << 20


class RaySilentError(SilentError):
    """Ray has not answered."""


class RayRefusalError(DureError):
    """Ray has said no, and nothing was done."""


class RayLink:
    """Questions and answers; a process that does not answer is ended, and the next question starts another.

    Parameters
    ----------
    address : str
        HOST:PORT of a cluster that this machine belongs to.
    folder : Path
        Where the process runs and has its log.
    on_event : callable
        Gets what is told of an actor: its name, what it is (begun, ended, unavailable, failed or dead), and why.

    Attributes
    ----------
    generation : int
        Grows with each process: what an earlier one was to follow, a later one must be told anew.
    """

    def __init__(self, address: str, folder: Path, on_event: Callable[[str, str, str], None]) -> None:
        self._address = address
        self._folder = folder
        self._on_event = on_event
        self._numbers = count()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._reading: set[asyncio.Task[None]] = set()
        self._starting = asyncio.Lock()
        self._not_before_s = 0.0
        self._why_not = ""
        self.generation = 0

    async def ask(self, what: str, *, timeout_s: float = _ANSWER_S, **about: Any) -> Any:
        """The answer to a question.

        Raises
        ------
        RaySilentError
            There is none.
        RayRefusalError
            It is no.
        """
        async with self._starting:
            if self._process is None:
                await self._connect()
        process = self._process
        if process is None or process.stdin is None:
            raise RaySilentError("the process that speaks to Ray has ended", is_sent=False)
        number = next(self._numbers)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            process.stdin.write(json.dumps({"id": number, "do": what, **about}).encode() + b"\n")
            async with asyncio.timeout(timeout_s):
                await process.stdin.drain()
                return await answer
        except (TimeoutError, ConnectionError):
            self._give_up(process)
            raise RaySilentError(f"no answer from Ray at {self._address} within {timeout_s:.0f} s") from None
        finally:
            self._asked.pop(number, None)

    async def _connect(self) -> None:
        if time.monotonic() < self._not_before_s:
            raise RaySilentError(self._why_not, is_sent=False)
        await self._knock()
        env = inherited_env() | {
            name: value for name, value in os.environ.items() if name.startswith("RAY_") or name == "PYTHONPATH"
        }
        with (self._folder / "ray.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "dure.executors.ray.driver", self._address, cwd=self._folder, env=env,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log, limit=_LINE_MAX, start_new_session=True,
            )  # fmt: skip
        assert process.stdout is not None
        why = f"no answer from Ray at {self._address} within {_CONNECT_S:.0f} s"
        try:
            async with asyncio.timeout(_CONNECT_S):
                line = await process.stdout.readline()
                said = json.loads(line) if line else {"no": f"it has ended; see {self._folder / 'ray.log'}"}
                why = f"Ray at {self._address}: {said['no']}" if "no" in said else ""
        except TimeoutError:
            pass
        except BaseException:
            await _end(process)
            raise
        if why:
            await _end(process)
            self._refuse(why)
        self._process = process
        self.generation += 1
        reading = asyncio.create_task(self._read(process))
        self._reading.add(reading)
        reading.add_done_callback(self._reading.discard)

    async def _knock(self) -> None:
        """Ray itself takes a minute to see that nobody is there."""
        host, _, port = self._address.rpartition(":")
        try:
            async with asyncio.timeout(_KNOCK_S):
                _, writer = await asyncio.open_connection(host, int(port))
        except (OSError, ValueError, TimeoutError) as error:
            self._refuse(f"Ray at {self._address}: {error or 'no answer'}")
        writer.close()

    def _refuse(self, why: str) -> NoReturn:
        self._not_before_s, self._why_not = time.monotonic() + _PAUSE_S, why
        raise RaySilentError(why, is_sent=False)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            said = json.loads(line)
            if "actor" in said:
                self._on_event(said["actor"], said["is"], said.get("why", ""))
                continue
            answer = self._asked.get(said["id"])
            if answer is None or answer.done():
                continue
            if "refused" in said:
                answer.set_exception(RayRefusalError(said["refused"]))
            elif "silent" in said:
                answer.set_exception(RaySilentError(said["silent"]))
            else:
                answer.set_result(said["answer"])
        self._give_up(process)
        await _end(process)

    def _give_up(self, process: asyncio.subprocess.Process) -> None:
        """It is of no use any more; whoever waits for it has no answer."""
        _kill(process)
        if process is not self._process:
            return
        self._process = None
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(RaySilentError("the process that speaks to Ray has ended"))

    async def close(self) -> None:
        """End the process; what it has started runs on."""
        if self._process is not None:
            self._give_up(self._process)
        await asyncio.gather(*self._reading, return_exceptions=True)


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()


async def _end(process: asyncio.subprocess.Process) -> None:
    _kill(process)
    assert process.stdin is not None
    process.stdin.close()
    await process.wait()

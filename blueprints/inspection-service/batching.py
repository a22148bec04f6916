"""Requests that come one by one, answered together: a model takes little longer for a few images than for one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]


class FullError(Exception):
    """So many wait already that one more would be answered too late."""


@dataclass
class Batcher:
    """Puts waiting images together.

    Attributes
    ----------
    score : callable
        A score for each image of a batch; runs in a thread of its own, so that requests are taken meanwhile.
    max_wait_s : float
        For so long the first of a batch waits for others.
    max_waiting : int
        More than these are refused.
    """

    score: Callable[[Sequence[Image]], Sequence[float]]
    max_batch: int
    max_wait_s: float
    max_waiting: int
    in_flight: int = 0
    _queue: asyncio.Queue[tuple[Image, asyncio.Future[float]]] = field(default_factory=asyncio.Queue)
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    async def ask(self, image: Image) -> float:
        """The image's score.

        Raises
        ------
        FullError
            Too many wait.
        """
        if self.in_flight >= self.max_waiting:
            raise FullError
        answer: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self.in_flight += 1
        try:
            self._queue.put_nowait((image, answer))
            return await answer
        finally:
            self.in_flight -= 1

    async def work(self) -> None:
        """Answer until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._queue.get()]
            until = loop.time() + self.max_wait_s
            while len(batch) < self.max_batch:
                try:
                    batch.append(await asyncio.wait_for(self._queue.get(), max(0.0, until - loop.time())))
                except TimeoutError:
                    break
            try:
                scores = await loop.run_in_executor(self._thread, self.score, [image for image, _ in batch])
            except Exception as error:
                # One bad batch must not end the service; those who asked are told.
                for _, answer in batch:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            for (_, answer), value in zip(batch, scores, strict=True):
                if not answer.done():
                    answer.set_result(float(value))

"""What pages show, read at most once a second for all readers together, so that a thousand open pages ask no more than one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")

#: What nobody has asked for so long is forgotten.
FORGET_S = 60.0


class Feed:
    """Answers by their question.

    Parameters
    ----------
    max_age_s : float
        An answer no older than this is given again.
    """

    def __init__(self, max_age_s: float = 0.9, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._max_age_s, self._clock_s = max_age_s, clock_s
        self._kept: dict[Hashable, tuple[float, Any]] = {}
        self._reading: dict[Hashable, asyncio.Task[Any]] = {}

    async def ask(self, question: Hashable, read: Callable[[], T]) -> T:
        """The answer to a question, read in a thread if the one at hand is too old; who asks meanwhile waits along."""
        kept = self._kept.get(question)
        if kept is not None and self._clock_s() - kept[0] <= self._max_age_s:
            answer: T = kept[1]
            return answer
        task = self._reading.get(question)
        if task is None:
            task = asyncio.create_task(self._read(question, read))
            self._reading[question] = task
            task.add_done_callback(lambda _: self._reading.pop(question, None))
        found: T = await asyncio.shield(task)
        return found

    async def _read(self, question: Hashable, read: Callable[[], Any]) -> Any:
        answer = await asyncio.to_thread(read)
        now_s = self._clock_s()
        self._kept = {q: kept for q, kept in self._kept.items() if now_s - kept[0] < FORGET_S}
        self._kept[question] = (now_s, answer)
        return answer

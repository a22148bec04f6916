"""What is alike in all executors: attempts by lease, each written down before it starts and until it is forgotten."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Generic, Protocol, TypeVar

import structlog

from dure.executors.lease_book import BookUnwritableError, LeaseBook
from dure.ports.executor import Launch, Run

_log = structlog.get_logger(__name__)


class Known(Protocol):
    """An attempt, whatever it runs on."""

    launch: Launch

    @property
    def is_over(self) -> bool:
        """Whether it has been reported for good."""
        ...

    def run(self) -> Run:
        """What is reported of it."""
        ...


A = TypeVar("A", bound=Known)


class BookedExecutor(ABC, Generic[A]):
    """The part of `dure.ports.executor.Executor` that only the book decides; `_book` is there once it is open."""

    _book: LeaseBook

    def __init__(self) -> None:
        self._attempts: dict[str, A] = {}
        self._changed = asyncio.Event()

    @abstractmethod
    async def _drop(self, attempt: A) -> None:
        """Keep nothing of an attempt that was not started, or is over."""

    async def runs(self) -> list[Run]:
        """Every attempt not yet forgotten."""
        self._changed.clear()
        return [attempt.run() for attempt in self._attempts.values()]

    async def changed(self) -> None:
        """Return once some attempt is in another state than when `runs` was last called, or the nodes are others."""
        await self._changed.wait()

    async def forget(self, lease_id: str) -> None:
        """Drop an attempt that is over; its name stays, so that it is not launched again."""
        attempt = self._attempts.get(lease_id)
        if attempt is None or not attempt.is_over:
            return
        try:
            await self._book.forget(lease_id)
        except BookUnwritableError as error:
            _log.warning("not forgotten yet", lease=lease_id, error=str(error))
            return
        await self._drop(attempt)

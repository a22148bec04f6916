"""The event log: the one source of the live state, append-only and sealed by a hash chain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from dure.model.errors import DureError
from dure.model.events import Step


class LogConflictError(DureError):
    """Another writer has appended: this one leads no longer."""


class LogUnwritableError(DureError):
    """The entry could not be written (a full disk, a lost database); nothing of it is kept."""


class EventLog(Protocol):
    """Steps in order of ``seq``; an appended step is durable when `append` returns."""

    def last(self) -> tuple[int, str, int]:
        """(seq, hash, at_ms) of the last step; (0, "", 0) of an empty log."""
        ...

    def append(self, step: Step) -> None:
        """Write a sealed step whose ``seq`` and ``prev_hash`` follow the last one, or nothing at all.

        Raises
        ------
        LogConflictError
            The step does not follow the last one.
        LogUnwritableError
            It could not be written.
        """
        ...

    def read(self, after_seq: int = 0) -> Iterator[Step]:
        """The steps after one, in order."""
        ...

    def document(self) -> dict[str, Any] | None:
        """What the log began with: alliance, policy and the moment; None: nothing was begun."""
        ...

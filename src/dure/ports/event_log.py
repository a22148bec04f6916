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

    def begin(self, document: dict[str, Any]) -> None:
        """Write what the log begins with, once.

        Raises
        ------
        LogConflictError
            It has begun.
        """
        ...

    def document(self) -> dict[str, Any] | None:
        """What the log began with: alliance, policy and the moment; None: nothing was begun."""
        ...

    def lead(self) -> bool:
        """Try to become the one writer; True: this one is. The lead ends with `resign`, or with the process."""
        ...

    def resign(self) -> None:
        """Give the lead back."""
        ...

    def last(self) -> tuple[int, str, int]:
        """(seq, hash, at_ms) of the last step; of an empty log 0, the hash of its document, and 0."""
        ...

    def append(self, step: Step) -> None:
        """Write a sealed step whose ``seq`` and ``prev_hash`` follow the last one, or nothing at all.

        Raises
        ------
        LogConflictError
            This one does not lead, or the step does not follow the last one.
        LogUnwritableError
            It could not be written.
        """
        ...

    def has(self, step: Step) -> bool:
        """Whether the log has that very step."""
        ...

    def read(self, after_seq: int = 0) -> Iterator[Step]:
        """The steps after one, in order."""
        ...

"""One process at a time on an executor's state."""

from __future__ import annotations

import asyncio
import fcntl
import time
from pathlib import Path
from typing import TextIO

from dure.model.errors import DureError

#: How long a killed agent's lock may outlive it, in a child that it was about to start.
_WAIT_S = 2.0


class StateInUseError(DureError):
    """Another process has this executor's state."""


async def take_lock(path: Path) -> TextIO:
    """The lock of a folder of state; it is held until the file is closed.

    Raises
    ------
    StateInUseError
        Another process has it.
    """
    lock = path.open("w")
    until = time.monotonic() + _WAIT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                lock.close()
                raise StateInUseError(f"another agent runs on {path.parent}") from None
            await asyncio.sleep(0.02)
        else:
            return lock

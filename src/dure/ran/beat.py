"""What governor, watchdog and radio tell each other: a few numbers in a file in memory that all of them have mapped."""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Callable
from pathlib import Path

from dure.executors.local import cgroup_name

#: For how long the tenants may run on the governor's last word, and when that was; the watchdog's last (CLOCK_MONOTONIC, ns); whether the
#: node is handed back; the slot that the governor has decided last, and the radio's cores in it; the last slot that was late, and the last done.
LEASE_NS, BEAT_NS, WATCH_NS, IS_HANDED_BACK, SLOT, HAND_CORES, LATE_SLOT, DONE_SLOT = range(8)
_SIZE = 8 * 8


def beat_path(state_dir: Path) -> Path:
    """The file for the executor with this state: in memory, so that no disk can hold up who writes to it."""
    return Path("/dev/shm") / f"{cgroup_name(state_dir)}.beat"


class Beat:
    """The numbers, int64, each written by one side only; those of a new file are 0."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._fd, _SIZE)
        self._values = memoryview(mmap.mmap(self._fd, _SIZE)).cast("q")

    def __getitem__(self, at: int) -> int:
        return self._values[at]

    def __setitem__(self, at: int, value: int) -> None:
        self._values[at] = value

    def claim_watch(self) -> bool:
        """Be the watchdog until this process ends; False: there is one."""
        return self._claims(fcntl.flock)

    def claim_governing(self) -> bool:
        """Be the governor until this process ends; False: there is another."""
        # Of another kind than the watchdog's, and so apart from it.
        return self._claims(fcntl.lockf)

    def _claims(self, lock: Callable[[int, int], None]) -> bool:
        try:
            lock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def close(self) -> None:
        """Give up the claims; nothing may be read or written any more."""
        self._values.release()
        os.close(self._fd)

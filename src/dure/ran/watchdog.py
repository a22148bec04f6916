"""The tenants' side of rule G4, in a process of its own: ``python -m dure.ran.watchdog STATE_DIR``.

When the governor has been silent for as long as its lease, every tenant is stopped, and each that comes, until it speaks again or the
node is handed back (its word, or SIGTERM to this process): then all go on. It outlives the governor; a later one finds it at work.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from dure.executors.tenants import Tenants
from dure.ran.beat import BEAT_NS, IS_HANDED_BACK, LEASE_NS, WATCH_NS, Beat, beat_path
from dure.ran.priority import ABOVE_RADIO, prioritise

#: It looks so often within a lease.
_LOOKS = 8


def watch(state_dir: Path) -> None:
    """Until the node is handed back; not at all where there is a watchdog."""
    beat = Beat(beat_path(state_dir))
    if not beat.claim_watch():
        return
    prioritise("fifo", ABOVE_RADIO)
    tenants = Tenants(state_dir)
    signal.signal(signal.SIGTERM, lambda *_: beat.__setitem__(IS_HANDED_BACK, 1))
    while not beat[IS_HANDED_BACK]:
        if time.monotonic_ns() - beat[BEAT_NS] > beat[LEASE_NS]:
            for tenant in tenants.look():
                if not tenant.is_standing():
                    tenant.stop()
        beat[WATCH_NS] = time.monotonic_ns()
        time.sleep(beat[LEASE_NS] / _LOOKS / 1e9)
    for tenant in tenants.look():
        tenant.pin(range(os.cpu_count() or 1))
        tenant.resume()


class Watched:
    """The watchdog's process: started where there is none, and again where it falls silent."""

    def __init__(self, state_dir: Path, beat: Beat) -> None:
        self._dir, self._beat = state_dir, beat
        self._started: subprocess.Popen[bytes] | None = None

    def is_watched(self) -> bool:
        """Whether it has looked within the lease; if not, another is on its way."""
        if time.monotonic_ns() - self._beat[WATCH_NS] <= self._beat[LEASE_NS]:
            return True
        if self._started is None or self._started.poll() is not None:
            # In a session of its own: what ends the governor's group does not end it.
            self._started = subprocess.Popen(
                [sys.executable, "-P", "-m", "dure.ran.watchdog", str(self._dir)], start_new_session=True, stdin=subprocess.DEVNULL
            )
        return False

    def wait(self) -> None:
        """Until it is at work."""
        while not self.is_watched():
            self._beat[BEAT_NS] = time.monotonic_ns()
            time.sleep(0.01)

    def end(self) -> None:
        """Wait until it has let all go on and ended, where it is this process's."""
        if self._started is not None:
            self._started.wait()


if __name__ == "__main__":
    watch(Path(sys.argv[1]))

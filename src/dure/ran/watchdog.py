"""The tenants' side of rule G4, in a process of its own: ``python -m dure.ran.watchdog STATE_DIR``.

When the governor has been silent for as long as its lease, every tenant is stopped, and each that comes, until it speaks again or the
node is handed back (its word, or SIGTERM to this process): then all go on. It outlives the governor; a later one finds it at work.
"""

from __future__ import annotations

import os
import signal
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


if __name__ == "__main__":
    watch(Path(sys.argv[1]))

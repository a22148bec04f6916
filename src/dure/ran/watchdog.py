"""The tenants' side of rule G4, in a process of its own: ``python -m dure.ran.watchdog STATE_DIR``.

Where the governor has been silent for `LEASE_SLOTS` slots, every tenant is stopped, and each that comes, until it speaks again or the node is handed
back (its word, or SIGTERM to this process): then all go on. It outlives the governor, and a later governor finds it at work.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from dure.executors.tenants import Tenants
from dure.ran.beat import BEAT_NS, IS_HANDED_BACK, SLOT_NS, WATCH_NS, Beat, beat_path
from dure.ran.guard import LEASE_SLOTS
from dure.ran.priority import ABOVE_RADIO, prioritise


def watch(state_dir: Path) -> None:
    """Until the node is handed back; at once where there is a watchdog."""
    beat = Beat(beat_path(state_dir))
    if not beat.claim():
        return
    prioritise("fifo", ABOVE_RADIO)
    tenants = Tenants(state_dir)
    signal.signal(signal.SIGTERM, lambda *_: beat.__setitem__(IS_HANDED_BACK, 1))
    while not beat[IS_HANDED_BACK]:
        now_ns = time.monotonic_ns()
        if now_ns - beat[BEAT_NS] > LEASE_SLOTS * beat[SLOT_NS]:
            for tenant in tenants.look():
                if not tenant.is_standing():
                    tenant.stop()
        beat[WATCH_NS] = time.monotonic_ns()
        time.sleep(beat[SLOT_NS] / 2e9)
    for tenant in tenants.look():
        tenant.pin(range(os.cpu_count() or 1))
        tenant.resume()


if __name__ == "__main__":
    watch(Path(sys.argv[1]))

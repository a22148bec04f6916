"""What this machine is like for a site in real time: how late a sleeper wakes, how long a look at tenants takes, how soon one stands, how much they slow the radio."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dure.executors.tenants import Tenant, Tenants
from dure.ran.priority import ABOVE_RADIO, prioritise
from dure.ran.radio import rounds_per_ns, spin
from dure.ran.site import SLOT_MS

#: Lengths to choose from, as multiples of a real slot's: 1, 2, 5, 10 ….
_STEPS: tuple[int, ...] = tuple(step * 10**power for power in range(5) for step in (1, 2, 5))
#: A late start, a decision (which keeps the radio from a core) and a tenant's stop take at most these parts of a slot, in 99 of 100 cases.
_WAKE_PART, _DECIDE_PART, _STOP_PART = 0.1, 0.05, 0.5
_TRIES = 100
_PATIENCE_S, _LOOK_S = 0.5, 0.0002


def as_governor(measure: Callable[..., float], *args: Any) -> float:
    """What is measured by a thread that goes before others as the governor does."""
    found: list[float] = []

    def run() -> None:
        prioritise("fifo", ABOVE_RADIO)
        found.append(measure(*args))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


def wake_late_ms() -> float:
    """How late a sleeper wakes, in 99 of 100 cases, ms."""
    late = []
    for _ in range(_TRIES):
        due = time.monotonic() + 0.002
        time.sleep(0.002)
        late.append(time.monotonic() - due)
    return float(np.quantile(late, 0.99) * 1e3)


def stop_ms(tenants: Sequence[Tenant]) -> float:
    """How long tenants take to stop, in 99 of 100 cases, ms; they run again afterwards. 0 where there are none."""
    took = []
    for _ in range(_TRIES if tenants else 0):
        for tenant in tenants:
            began = time.monotonic()
            tenant.stop()
            while not tenant.is_standing() and time.monotonic() < began + _PATIENCE_S:
                # A tenant stops on a core: this thread, which goes before it, must leave it one.
                time.sleep(_LOOK_S)
                tenant.stop()
            took.append(time.monotonic() - began)
            tenant.resume()
        time.sleep(0.002)
    return float(np.quantile(took, 0.99) * 1e3) if took else 0.0


def decide_ms(tenants: Tenants, cores: Sequence[int]) -> float:
    """How long the governor is busy with tenants in a slot in which it lends to all, in 99 of 100 cases, ms."""
    took = []
    for _ in range(_TRIES):
        began = time.monotonic()
        for tenant in tenants.look():
            tenant.pin(cores)
            tenant.is_standing()
        took.append(time.monotonic() - began)
        time.sleep(0.002)
    return float(np.quantile(took, 0.99) * 1e3)


def interference(tenants: Sequence[Tenant], cores: Sequence[int]) -> float:
    """By how much of itself the radio's work takes longer on a core while tenants are busy on the others, in 9 of 10 cases; at least 0.

    Cores may be threads of one, and share their caches and memory; tenants run everywhere again afterwards.
    """
    if len(cores) < 2 or not tenants:
        return 0.0
    found: list[float] = []

    def time_it() -> None:
        # In a thread of its own: it alone is held to the core.
        os.sched_setaffinity(0, {cores[0]})
        for tenant in tenants:
            tenant.stop()
        num = int(rounds_per_ns() * 1e6)
        alone = np.median([_took_s(num) for _ in range(2 * _TRIES)])
        for tenant in tenants:
            tenant.pin(cores[1:])
            tenant.resume()
        beside = np.quantile([_took_s(num) for _ in range(2 * _TRIES)], 0.9)
        found.append(max(0.0, float(beside / alone) - 1))
        for tenant in tenants:
            tenant.pin(cores)

    timer = threading.Thread(target=time_it)
    timer.start()
    timer.join()
    return found[0]


def _took_s(num: int) -> float:
    # Of the thread's own time: what others take of the core's is another matter.
    began = time.thread_time()
    spin(num)
    return time.thread_time() - began


def choose_slot_ms(wake_ms: float, decided_ms: float, stopped_ms: float) -> float:
    """The shortest slot, in steps, that leaves room for all three."""
    least = max(wake_ms / _WAKE_PART, decided_ms / _DECIDE_PART, stopped_ms / _STOP_PART, SLOT_MS) / SLOT_MS
    return SLOT_MS * float(next((step for step in _STEPS if step >= least), _STEPS[-1]))
